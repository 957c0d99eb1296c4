"""Gradients of control flow: ``scan`` and ``if_``.

A scan's gradient is a scan in the other direction over the gradient of its
body. What that reads of the forward computation is saved step by step: the
forward scan is exchanged for one that stacks these values too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlc.ir.builder import Builder
from dlc.ir.contraction import ContractSpec, Group, parse_spec
from dlc.ir.graph import Graph, Node, Value, region_signature
from dlc.ir.opdef import Trait
from dlc.passes.autodiff.activity import active_values

Gradients = Sequence[Value | None]
Sweep = Callable[[Builder, int, int, dict[Value, Value], Sequence[Value]], dict[Value, Value]]
"""Reverse sweep over ``builder.nodes[first:last]``: (builder, first, last, seeds, wrt) -> cotangents."""


def _region(name: str, inputs: Sequence[Value], nodes: Sequence[Node], outputs: Sequence[Value]) -> Graph:
    return Graph(name, tuple(inputs), tuple(nodes), tuple(outputs), region_signature(len(inputs), len(outputs)))


# -- scan ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Body:
    """A scan's body on fresh values, and the reverse sweep over it.

    ``inputs`` are carries, then slices of sequences, then constants; ``outputs`` are new carries, then steps' results.
    ``carry_seeds`` and ``step_seeds`` map positions of outputs to their cotangents, inputs of the sweep.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    forward: tuple[Node, ...]
    back: tuple[Node, ...]
    carry_seeds: dict[int, Value]
    step_seeds: dict[int, Value]
    gradients: dict[Value, Value]


def scan_gradient(
    builder: Builder, position: int, cotangents: Gradients, active: set[Value], sweep: Sweep
) -> Gradients:
    """Differentiate a scan: carries' cotangents run backwards, constants' gradients add up, sequences' are stacked."""
    node = builder.nodes[position]
    carries, sequences = node.attributes["carries"], node.attributes["sequences"]
    flags = _active_inputs(node, active)
    given = [k for k in range(carries, len(node.outputs)) if cotangents[k] is not None]
    inner = Builder(f"{node.attributes['body'].name}:gradient")
    body = _differentiate_body(inner, node, flags, given, sweep)

    reached = [k for k, v in enumerate(body.inputs) if flags[k] and v in body.gradients]
    xs = [k for k in reached if carries <= k < carries + sequences]
    consts = [k for k in reached if k >= carries + sequences]
    first = len(inner.nodes)
    terms = {k: _late_terms(body, body.gradients[body.inputs[k]], carries + sequences) for k in consts}
    late = {k: found for k, found in terms.items() if found is not None}
    summed = [k for k in consts if k not in late]
    late_values = list(dict.fromkeys(v for found in late.values() for term in found for v in term.base.inputs))

    new_carries = [_or_zeros(inner, body.gradients.get(body.inputs[k]), body.inputs[k]) for k in body.carry_seeds]
    accumulators = [inner.input(f"sum{k}", body.inputs[k].type) for k in summed]
    totals = [inner.add(a, body.gradients[body.inputs[k]]) for a, k in zip(accumulators, summed, strict=True)]
    steps = [body.gradients[body.inputs[k]] for k in xs]
    forward_values = {*body.inputs, *(v for n in body.forward for v in n.outputs)}
    fresh = [v for v in late_values if v not in forward_values]

    outputs = [*new_carries, *totals, *steps, *fresh]
    nodes, needed = _needed_nodes(body, [*body.back, *inner.nodes[first:]], outputs)
    slices = [
        k for k in range(carries, carries + sequences) if body.inputs[k] in needed or body.inputs[k] in late_values
    ]
    recomputed = {v for n in nodes for v in n.outputs}
    savable = [*body.inputs[:carries], *(v for n in body.forward for v in n.outputs)]
    saved = [v for v in savable if (v in needed and v not in recomputed) or v in late_values]
    stacked = dict(zip(saved, _save(builder, position, body, saved), strict=True))
    stacked.update((body.inputs[k], node.inputs[k]) for k in slices)

    read_consts = [k for k in range(carries + sequences, len(body.inputs)) if body.inputs[k] in needed]
    read_steps = [v for v in (*(body.inputs[k] for k in slices), *saved) if v in needed]
    inputs = [*body.carry_seeds.values(), *accumulators, *body.step_seeds.values(), *read_steps]
    inputs += [body.inputs[k] for k in read_consts]
    begin = [_or_zeros(builder, cotangents[k], node.outputs[k]) for k in body.carry_seeds]
    begin += [builder.zeros_like(node.inputs[k]) for k in summed]
    operands = [*begin, *(cotangents[k] for k in given), *(stacked[v] for v in read_steps)]
    operands += [node.inputs[k] for k in read_consts]
    attributes = {
        "body": _region(inner.name, inputs, nodes, outputs),
        "carries": len(begin),
        "sequences": len(given) + len(read_steps),
        "length": node.attributes["length"],
        "reverse": not node.attributes["reverse"],
    }
    results = builder.emit(node.op, [v for v in operands if v is not None], attributes) if outputs else ()

    gradients: list[Value | None] = [None] * len(node.inputs)
    for k, value in zip((*body.carry_seeds, *summed, *xs), results, strict=False):
        gradients[k] = value
    stacked.update(zip(fresh, results[len(results) - len(fresh) :], strict=True))
    for k, found in late.items():
        gradients[k] = _emit_late(builder, found, stacked)
    return gradients


def _or_zeros(builder: Builder, value: Value | None, like: Value) -> Value:
    return builder.zeros_like(like) if value is None else value


def _active_inputs(node: Node, active: set[Value]) -> list[bool]:
    """Tell which inputs of the body carry gradients: a carry does if its beginning or any step makes it so."""
    body, carries = node.attributes["body"], node.attributes["carries"]
    flags = [v in active for v in node.inputs]
    while True:
        reached = active_values(body.nodes, [v for v, flag in zip(body.inputs, flags, strict=True) if flag])
        fresh = [k for k in range(carries) if not flags[k] and body.outputs[k] in reached]
        if not fresh:
            return flags
        for k in fresh:
            flags[k] = True


def _differentiate_body(inner: Builder, node: Node, flags: Sequence[bool], given: Sequence[int], sweep: Sweep) -> _Body:
    """Inline the body into ``inner`` and sweep back over it."""
    body, carries = node.attributes["body"], node.attributes["carries"]
    inputs = tuple(inner.input(f"i{k}", v.type) for k, v in enumerate(body.inputs))
    outputs = inner.inline(body, inputs)
    count = len(inner.nodes)
    carry_seeds = {k: inner.input(f"d{k}", outputs[k].type) for k in range(carries) if flags[k]}
    step_seeds = {k: inner.input(f"d{k}", outputs[k].type) for k in given}
    seeds: dict[Value, Value] = {}
    for k, seed in (carry_seeds | step_seeds).items():
        seeds[outputs[k]] = inner.add(seeds[outputs[k]], seed) if outputs[k] in seeds else seed
    wanted = [v for v, flag in zip(inputs, flags, strict=True) if flag]
    gradients = sweep(inner, 0, count, seeds, wanted)
    forward, back = tuple(inner.nodes[:count]), tuple(inner.nodes[count:])
    return _Body(inputs, outputs, forward, back, carry_seeds, step_seeds, gradients)


def _needed_nodes(body: _Body, back: Sequence[Node], outputs: Sequence[Value]) -> tuple[list[Node], set[Value]]:
    """Return the nodes of the gradient's body and all values it reads.

    Forward nodes that only move elements or read nothing are computed again, not saved.
    """
    needed = set(outputs)
    forward = set(body.forward)
    nodes: list[Node] = []
    for node in reversed((*body.forward, *back)):
        if not any(v in needed for v in node.outputs):
            continue
        if node in forward and node.inputs and not node.op.has(Trait.MOVEMENT):
            continue
        needed.update(node.inputs)
        nodes.append(node)
    return nodes[::-1], needed


def _save(builder: Builder, position: int, body: _Body, saved: Sequence[Value]) -> tuple[Value, ...]:
    """Exchange the scan at ``position`` for one that also stacks ``saved``; return the stacked values."""
    node = builder.nodes[position]
    if not saved:
        return ()
    region = _region(node.attributes["body"].name, body.inputs, body.forward, (*body.outputs, *saved))
    attributes = node.attributes.updated(body=region)
    types = node.op.infer(node.input_types, attributes)
    stacked = tuple(Value(t) for t in types[len(node.outputs) :])
    builder.nodes[position] = Node(node.op, node.inputs, attributes, (*node.outputs, *stacked), node.origins)
    return stacked


# -- gradients of constants, taken after the loop -----------------------------------------


@dataclass(frozen=True)
class _LateTerm:
    """One addend of a constant's gradient: a contraction or sum of step values, then movements of its result."""

    base: Node
    movements: tuple[Node, ...]


def _late_terms(body: _Body, gradient: Value, first_const: int) -> list[_LateTerm] | None:
    """Split a constant's gradient per step into terms that one contraction over all steps can compute, or None.

    A weight used in every step then costs one large contraction instead of a small one and a sum per step.
    """
    makers = {v: n for n in body.back for v in n.outputs}
    consts = set(body.inputs[first_const:])
    terms: list[_LateTerm] = []
    pending: list[tuple[Value, tuple[Node, ...]]] = [(gradient, ())]
    while pending:
        value, movements = pending.pop()
        node = makers.get(value)
        if node is None:
            return None
        if node.op.name == "add" and not movements:
            pending += [(v, ()) for v in node.inputs]
        elif node.op.name in ("transpose", "reshape"):
            pending.append((node.inputs[0], (node, *movements)))
        elif node.op.name in ("contract", "reduce_sum") and not any(v in consts for v in node.inputs):
            terms.append(_LateTerm(node, movements))
        else:
            return None
    return terms


def _emit_late(builder: Builder, terms: Sequence[_LateTerm], stacked: dict[Value, Value]) -> Value:
    """Emit the sum of ``terms`` over all steps at once."""
    total: Value | None = None
    for term in terms:
        operands = [stacked[v] for v in term.base.inputs]
        if term.base.op.name == "contract":
            spec = parse_spec(term.base.attributes["spec"])
            name = "steps"
            while name in spec.axes:  # the body of a scan over such a contraction
                name += "_"
            time = Group((name,))
            over_time = ContractSpec((time, *spec.lhs), (time, *spec.rhs), spec.output)
            attributes = {**term.base.attributes, "spec": str(over_time)}
            value = builder.emit(term.base.op, operands, attributes)[0]
        else:
            value = builder.reduce_sum(operands[0], axes=(0,))
            value = builder.emit(term.base.op, (value,), term.base.attributes)[0]
        for node in term.movements:
            value = builder.emit(node.op, (value,), node.attributes)[0]
        total = value if total is None else builder.add(total, value)
    assert total is not None
    return total


# -- if_ ---------------------------------------------------------------------------------


def if_gradient(builder: Builder, position: int, cotangents: Gradients, active: set[Value], sweep: Sweep) -> Gradients:
    """Differentiate both branches; each computes its forward values again."""
    node = builder.nodes[position]
    captures = node.inputs[1:]
    flags = [v in active for v in captures]
    given = [k for k, c in enumerate(cotangents) if c is not None]
    branches = {
        name: _branch_gradient(node.attributes[name], flags, given, sweep) for name in ("then_graph", "else_graph")
    }
    operands = [*node.inputs, *(c for c in cotangents if c is not None)]
    results = iter(builder.emit(node.op, operands, branches))
    return [None, *(next(results) if flag else None for flag in flags)]


def _branch_gradient(branch: Graph, flags: Sequence[bool], given: Sequence[int], sweep: Sweep) -> Graph:
    """Return the graph from captures and cotangents to the gradients of the active captures."""
    inner = Builder(f"{branch.name}:gradient")
    inputs = [inner.input(f"i{k}", v.type) for k, v in enumerate(branch.inputs)]
    outputs = inner.inline(branch, inputs)
    count = len(inner.nodes)
    seeds: dict[Value, Value] = {}
    arriving = [inner.input(f"d{k}", outputs[k].type) for k in given]
    for k, seed in zip(given, arriving, strict=True):
        seeds[outputs[k]] = inner.add(seeds[outputs[k]], seed) if outputs[k] in seeds else seed
    wanted = [v for v, flag in zip(inputs, flags, strict=True) if flag]
    found = sweep(inner, 0, count, seeds, wanted)
    results = [_or_zeros(inner, found.get(v), v) for v in wanted]
    return _region(inner.name, [*inputs, *arriving], inner.nodes, results)


REGION_GRADIENTS = {"scan": scan_gradient, "if_": if_gradient}
