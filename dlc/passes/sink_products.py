"""Moves contractions over whole sequences into the loops that read their results step by step.

What every step multiplies then stays in cache until it is read, in place of a tensor of all steps that goes through
memory. Whether that pays depends on what the loop's body becomes, which the caller is asked. It must not know targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dlc.ir.builder import Builder
from dlc.ir.compute import is_lanewise_product
from dlc.ir.contraction import ContractSpec, DimIndex, Group, parse_spec
from dlc.ir.graph import Graph, Node, Value, producers
from dlc.ir.opdef import Trait
from dlc.ir.types import TensorType, float32
from dlc.passes.cleanup import remove_dead
from dlc.passes.regions import in_regions

MOST_NODES = 8
"""Nodes between a contraction and the loop that move with it."""


@dataclass(frozen=True)
class SinkOptions:
    """``pays(before, after, changing)`` says whether the loop's body ``after`` is better than ``before``.

    The first ``changing`` inputs of ``after`` differ from step to step, the others do not.
    """

    pays: Callable[[Graph, Graph, int], bool] | None = None


def sink_products(graph: Graph, options: SinkOptions | None = None) -> Graph:
    """Return ``graph`` with float32 contractions that only a scan's sequence reads in its body, where that pays."""
    pays = options.pays if options is not None else None
    if pays is None:
        return graph
    graph = in_regions(graph, lambda region: sink_products(region, options))
    if not any(node.op.name == "scan" for node in graph.nodes):
        return graph
    maker = producers(graph)
    uses = Counter(v for node in graph.nodes for v in node.inputs) + Counter(graph.outputs)
    order = {node: k for k, node in enumerate(graph.nodes)}
    builder = Builder(graph.name)
    for node in graph.nodes:
        changed = _sunk(node, builder, maker, uses, order, pays) if node.op.name == "scan" else None
        builder.append(changed or node)
    if len(builder.nodes) == len(graph.nodes) and all(a is b for a, b in zip(builder.nodes, graph.nodes, strict=True)):
        return graph
    return remove_dead(replace(graph, nodes=tuple(builder.nodes)))


@dataclass
class _Plan:
    """What moves into the body for one sequence: nodes in order; what they read then are sequences or constants."""

    nodes: list[Node] = field(default_factory=list)
    sequences: list[tuple[Value, int]] = field(default_factory=list)
    """Operands of contractions, and the dimension along which steps follow each other."""
    constants: list[Value] = field(default_factory=list)


def _sunk(
    node: Node,
    builder: Builder,
    maker: dict[Value, Node],
    uses: Counter[Value],
    order: dict[Node, int],
    pays: Callable[[Graph, Graph, int], bool],
) -> Node | None:
    """Return the scan with products in its body; ``builder`` gets what brings their operands into order."""
    a = node.attributes
    carries, sequences = a["carries"], a["sequences"]
    if not isinstance(a["length"], int) or a["length"] < 2:
        return None
    plans: dict[int, _Plan] = {}
    for number in range(carries, carries + sequences):
        plan = _plan(node.inputs[number], maker, uses, order)
        if plan is not None:
            plans[number] = plan
    if not plans:
        return None
    body, leaves, fixed = _body(node, plans)
    if not pays(a["body"], body, len(body.inputs) - len(node.inputs[carries + sequences :]) - len(fixed)):
        return None
    moved: list[Value] = []
    with builder.origin(*node.origins):
        for value, dim in leaves:
            permutation = (dim, *(k for k in range(value.type.rank) if k != dim))
            moved.append(builder.transpose_to(value, permutation))
    kept = [v for k, v in enumerate(node.inputs[: carries + sequences]) if k not in plans]
    inputs = (*kept, *moved, *node.inputs[carries + sequences :], *fixed)
    attributes = a.updated(body=body, sequences=sequences - len(plans) + len(moved))
    return Node(node.op, inputs, attributes, node.outputs, node.origins)


def _plan(value: Value, maker: dict[Value, Node], uses: Counter[Value], order: dict[Node, int]) -> _Plan | None:
    """Return what moves in for a sequence; None unless that is contractions and what is added to them step by step."""
    found = _Plan()
    pending = [value]
    while pending:
        current = pending.pop()
        node = maker.get(current)
        if node is None or uses[current] != 1 or len(node.outputs) != 1 or len(found.nodes) == MOST_NODES:
            return None
        found.nodes.append(node)
        if node.op.has(Trait.ELEMENTWISE):
            pending += node.inputs
        elif node.op.name == "broadcast" and 0 not in node.attributes["dims"]:
            found.constants.append(node.inputs[0])
        else:
            place = _steps_through(node)
            if place is None:
                return None
            side, dim = place
            found.sequences.append((node.inputs[side], dim))
            found.constants.append(node.inputs[1 - side])
    found.nodes.sort(key=order.__getitem__)
    found.constants = list(dict.fromkeys(found.constants))
    found.sequences = list(dict.fromkeys(found.sequences))
    return found if found.sequences else None


def _steps_through(node: Node) -> tuple[int, int] | None:
    """Return which operand a contraction's first dimension runs through, and that operand's dimension."""
    if not node.op.has(Trait.CONTRACTION) or node.op.compute is None or node.outputs[0].type.rank < 2:
        return None
    if any(t.dtype is not float32 or not t.is_static for t in (*node.input_types, *node.output_types)):
        return None
    if is_lanewise_product(node.op.compute(node.input_types, node.output_types, node.attributes)):
        return None
    spec = parse_spec(node.attributes["spec"])
    first = spec.output[0]
    if not isinstance(first, Group) or len(first.axes) != 1:
        return None
    sides = (spec.lhs, spec.rhs)
    places = [(s, d) for s, side in enumerate(sides) for d, index in enumerate(side) if first.axes[0] in index.axes]
    if len(places) != 1 or sides[places[0][0]][places[0][1]] != first:
        return None
    return places[0]


def _body(node: Node, plans: dict[int, _Plan]) -> tuple[Graph, list[tuple[Value, int]], list[Value]]:
    """Return the scan's body with the products in it, what became sequences, and what became constants."""
    a, body = node.attributes, node.attributes["body"]
    changing = a["carries"] + a["sequences"]
    builder = Builder(body.name)
    inner: dict[int, Value] = {}
    leaves = list(dict.fromkeys(leaf for plan in plans.values() for leaf in plan.sequences))
    fixed = list(dict.fromkeys(v for plan in plans.values() for v in plan.constants))

    def entered(type_: TensorType) -> Value:
        return builder.input(f"i{len(builder.inputs)}", type_)

    for number, value in enumerate(body.inputs[:changing]):
        if number not in plans:
            inner[number] = entered(value.type)
    steps = {(value, dim): entered(_without(value.type, dim)) for value, dim in leaves}
    for number in range(changing, len(body.inputs)):
        inner[number] = entered(body.inputs[number].type)
    constants = {value: entered(value.type) for value in fixed}
    for number, plan in plans.items():
        made: dict[Value, Value] = {}
        for moved in plan.nodes:
            with builder.origin(*moved.origins):
                made[moved.outputs[0]] = _step(moved, builder, made, steps, constants)
        inner[number] = made[node.inputs[number]]
    results = builder.inline(body, [inner[number] for number in range(len(body.inputs))])
    for name, value in zip(body.signature.outputs, results, strict=True):
        builder.output(name, value)
    return builder.finish(), leaves, fixed


def _step(
    node: Node,
    builder: Builder,
    made: dict[Value, Value],
    steps: dict[tuple[Value, int], Value],
    constants: dict[Value, Value],
) -> Value:
    """Emit what ``node`` does in one step."""
    a = node.attributes
    if node.op.has(Trait.ELEMENTWISE):
        return builder.emit(node.op.name, [made[v] for v in node.inputs], a)[0]
    if node.op.name == "broadcast":
        shape, dims = node.outputs[0].type.shape[1:], tuple(d - 1 for d in a["dims"])
        return builder.emit("broadcast", [constants[node.inputs[0]]], a.updated(shape=shape, dims=dims))[0]
    place = _steps_through(node)
    assert place is not None
    side, dim = place
    spec = parse_spec(a["spec"])
    sides = [spec.lhs, spec.rhs]
    sides[side] = _dropped(sides[side], dim)
    step, other = steps[node.inputs[side], dim], constants[node.inputs[1 - side]]
    operands = (step, other) if side == 0 else (other, step)
    inner = ContractSpec(sides[0], sides[1], spec.output[1:])
    sizes = tuple((name, size) for name, size in a["sizes"] if name in inner.axes)
    return builder.emit(node.op.name, operands, a.updated(spec=str(inner), sizes=sizes))[0]


def _dropped(side: tuple[DimIndex, ...], dim: int) -> tuple[DimIndex, ...]:
    return (*side[:dim], *side[dim + 1 :])


def _without(type_: TensorType, dim: int) -> TensorType:
    return TensorType(type_.dtype, (*type_.shape[:dim], *type_.shape[dim + 1 :]))
