"""What rematerialisation must know of a training graph: its parts, what nodes cost, where it can be cut.

The forward part is what results depend on; everything that gradients and updates
add reads from it. It must not know how the choice is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from dlc.ir.graph import Graph, Node, Phase, Value, producers
from dlc.ir.opdef import Trait, find_op
from dlc.passes.node_facts import NodeFacts, NodeKind, facts_of

KERNEL_COST = 16
"""Work per element, operands included, of a node that is a kernel of its own."""


@dataclass(frozen=True)
class Work:
    """``cost`` of computing a node once, in scalar steps; ``heavy`` for contractions and control flow."""

    cost: int
    heavy: bool


@dataclass(frozen=True)
class Parts:
    """A training graph, seen as what is computed first and what reads from that later.

    ``forward`` has the nodes that results depend on, ``later`` those that gradients and updates add, both in order.
    What belongs to neither (updates of running statistics) reads what it wants in passing. ``wanted`` are the
    forward values that later nodes read.
    """

    forward: tuple[Node, ...]
    later: tuple[Node, ...]
    wanted: tuple[Value, ...]
    made_by: dict[Value, Node]


def parts_of(graph: Graph) -> Parts:
    """Divide ``graph``."""
    made_by = producers(graph)
    results = [v for n, v in zip(graph.signature.outputs, graph.outputs, strict=True) if n in graph.signature.results]
    needed = _ancestors(results, made_by)
    forward = tuple(n for n in graph.nodes if n in needed)
    later = tuple(n for n in graph.nodes if n not in needed and not _is_forward_by_origin(n))
    read = dict.fromkeys(v for n in later for v in n.inputs if made_by.get(v) in needed)
    return Parts(forward, later, tuple(read), made_by)


def is_update(node: Node) -> bool:
    """Tell whether ``node`` belongs to clipping or to the optimizer."""
    return any(o.phase is Phase.UPDATE for o in node.origins)


def gradients_to_store(parts: Parts) -> set[Value]:
    """Return the gradients that updates read and that take fewer bytes than what they are made of.

    Updates come last in a step. A gradient that is fused to its update is computed there too, and what it is made of
    stays in memory until then.
    """
    later = set(parts.later)
    read = {v for n in parts.later if is_update(n) for v in n.inputs if parts.made_by.get(v) in later}
    found: set[Value] = set()
    for value in read:
        maker = parts.made_by[value]
        while maker.op.has(Trait.MOVEMENT) and len(maker.inputs) == 1 and parts.made_by.get(maker.inputs[0]) in later:
            maker = parts.made_by[maker.inputs[0]]
        if not is_update(maker) and sum(v.type.nbytes for v in dict.fromkeys(maker.inputs)) > value.type.nbytes:
            found.add(value)
    return found


def compared_pairs(parts: Parts, costs: Costs) -> set[tuple[Node, Node]]:
    """Return pairs of a node and a later one, such as a maximum, made of it, if what they make is compared later.

    The gradient of a maximum looks for the element that equals it. Pointwise work gives the same bits when it is done
    again. Reductions and contractions need not: other kernels do them, in another order.
    """
    equal = find_op("equal")
    compared = dict.fromkeys(n.inputs for n in parts.later if n.op is equal and n.inputs[0].type.dtype.is_float)
    found: set[tuple[Node, Node]] = set()
    for operands in compared:
        made = _makers(operands, parts, costs)
        found.update((source, node) for node in made for source in _makers(node.inputs, parts, costs) & made)
    return found


def _makers(values: Iterable[Value], parts: Parts, costs: Costs) -> set[Node]:
    """Return the nodes that make ``values``, behind pointwise work and what costs nothing."""
    pending, seen, found = list(values), set[Node](), set[Node]()
    while pending:
        maker = parts.made_by.get(pending.pop())
        if maker is None or maker in seen:
            continue
        seen.add(maker)
        if costs.kind(maker) in (NodeKind.FREE, NodeKind.POINTWISE):
            pending += maker.inputs
        else:
            found.add(maker)
    return found


def _is_forward_by_origin(node: Node) -> bool:
    return bool(node.origins) and all(o.phase is Phase.FORWARD for o in node.origins)


def _ancestors(values: Iterable[Value], made_by: dict[Value, Node]) -> set[Node]:
    found: set[Node] = set()
    pending = list(values)
    while pending:
        node = made_by.get(pending.pop())
        if node is not None and node not in found:
            found.add(node)
            pending += node.inputs
    return found


class Costs:
    """What nodes cost, by their kind and index form; equal nodes are looked at once."""

    def __init__(self) -> None:
        self._facts: dict[tuple, NodeFacts] = {}
        self._work: dict[Node, Work] = {}

    def kind(self, node: Node) -> NodeKind:
        """Return how fusion sees ``node``."""
        if node.op.region:
            return NodeKind.OPAQUE
        key = (node.op, node.attributes, node.input_types, node.output_types)
        if key not in self._facts:
            self._facts[key] = facts_of(node)
        return self._facts[key].kind

    def of(self, node: Node) -> Work:
        """Return the work of ``node``."""
        if node not in self._work:
            self._work[node] = self._count(node)
        return self._work[node]

    def _count(self, node: Node) -> Work:
        if node.op.region:
            return Work(self._region_cost(node), heavy=True)
        kind = self.kind(node)
        elements = sum(int(v.type.size) for v in node.outputs)  # type: ignore[call-overload]
        if kind is NodeKind.FREE:
            return Work(0, heavy=False)
        if kind is NodeKind.OPAQUE or node.op.compute is None:
            read = sum(int(v.type.size) for v in node.inputs)  # type: ignore[call-overload]
            return Work(KERNEL_COST * (elements + read), heavy=False)
        if kind is NodeKind.POINTWISE:
            key = (node.op, node.attributes, node.input_types, node.output_types)
            return Work(elements * max(self._facts[key].weight, 1), heavy=False)
        compute = node.op.compute(node.input_types, node.output_types, node.attributes)
        steps = prod(a.extent for a in (*compute.axes, *compute.reduce_axes))
        return Work(steps, heavy=kind is NodeKind.CONTRACTION)

    def _region_cost(self, node: Node) -> int:
        bodies: list[Graph] = []
        for value in node.attributes.values():
            bodies += [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Graph)]
        length = node.attributes.get("length")
        times = length if isinstance(length, int) else 1
        return times * sum(self.of(inner).cost for body in bodies for inner in body.nodes)


def work_of(graph: Graph) -> int:
    """Return the work of one run of ``graph``, in scalar steps."""
    costs = Costs()
    return sum(costs.of(node).cost for node in graph.nodes)


def frontiers(parts: Parts, costs: Costs, segments: int) -> list[tuple[int, frozenset[Value]]]:
    """Cut the forward part into ``segments`` of about equally many wanted bytes, where few bytes are alive.

    Returns, per cut, the position in ``parts.forward`` that begins the next segment and the values that cross it.
    What costs nothing to compute does not cross: what it is made of does.
    """
    if segments < 2 or len(parts.forward) < 2:
        return []
    crossing = _crossing_bytes(parts, costs)
    wanted = set(parts.wanted)
    before = [0]
    for node in parts.forward:
        before.append(before[-1] + sum(_bytes(v) for v in node.outputs if v in wanted))
    total = max(before[-1], 1)
    cuts: list[int] = []
    for number in range(1, segments):
        low, middle, high = ((number + shift) * total / segments for shift in (-0.5, 0.0, 0.5))
        near = [p for p in range(1, len(parts.forward)) if low <= before[p] < high]
        if near:
            cuts.append(min(near, key=lambda p: (crossing[p], abs(before[p] - middle), p)))
    return [(position, _crossing(parts, costs, position)) for position in sorted(set(cuts))]


def _bytes(value: Value) -> int:
    return int(value.type.nbytes)  # type: ignore[call-overload]


def _real_inputs(node: Node, parts: Parts, costs: Costs) -> list[Value]:
    """Return the made values that ``node`` reads, through nodes that cost nothing."""
    found: dict[Value, None] = {}
    pending = list(node.inputs)
    while pending:
        value = pending.pop()
        maker = parts.made_by.get(value)
        if maker is None:
            continue
        if costs.of(maker).cost == 0:
            pending += maker.inputs
        else:
            found[value] = None
    return list(found)


def _last_reads(parts: Parts, costs: Costs) -> dict[Value, int]:
    last: dict[Value, int] = {}
    for position, node in enumerate(parts.forward):
        if costs.of(node).cost:
            last.update((v, position) for v in _real_inputs(node, parts, costs))
    return last


def _crossing_bytes(parts: Parts, costs: Costs) -> list[int]:
    """Return, per position, the bytes made before it and read at or after it by the forward part."""
    last = _last_reads(parts, costs)
    change = [0] * (len(parts.forward) + 2)
    for position, node in enumerate(parts.forward):
        for value in node.outputs:
            if last.get(value, -1) > position:
                change[position + 1] += _bytes(value)
                change[last[value] + 1] -= _bytes(value)
    total, result = 0, []
    for step in change:
        total += step
        result.append(total)
    return result


def _crossing(parts: Parts, costs: Costs, position: int) -> frozenset[Value]:
    last = _last_reads(parts, costs)
    made: Sequence[Node] = parts.forward[:position]
    return frozenset(v for n in made for v in n.outputs if last.get(v, -1) >= position)
