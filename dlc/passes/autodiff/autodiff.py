"""Reverse-mode differentiation: gradients as ordinary nodes, so that they can be differentiated again.

The rules of single ops live with the ops; those of control flow are in ``regions``.
A value that does not influence the result has a zero gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.errors import GraphError, NotDifferentiableError
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Origin, Phase, Value
from dlc.ir.opdef import Mode, NotDifferentiable, Trait
from dlc.passes.autodiff.activity import active_values
from dlc.passes.autodiff.regions import REGION_GRADIENTS, Gradients
from dlc.passes.expand import ExpandOptions, expand, expand_node


def grad(graph: Graph, of: str, wrt: Sequence[str], mode: Mode = Mode.TRAINING) -> Graph:
    """Return ``graph`` with one more output ``grad_<name>`` (if taken, ``grad_<of>_<name>``) for each name of ``wrt``.

    ``of`` names a rank-0 float output; ``wrt`` names float inputs (or outputs computed on the way to it).
    Mode-dependent composites take the form of ``mode``. Raises NotDifferentiableError naming the node where a
    float path has no derivative, GraphError for unknown names or an ``of`` of another type.
    """
    graph = expand(graph, ExpandOptions(mode, keep=has_own_vjp))
    names = dict(zip(graph.signature.outputs, graph.outputs, strict=True))
    names.update(zip((s.name for s in graph.signature.inputs), graph.inputs, strict=True))
    for name in (of, *wrt):
        if name not in names:
            raise GraphError(f"graph {graph.name!r} has no input or output {name!r}; it has {', '.join(sorted(names))}")
    builder = Builder.reopen(graph)
    target = graph.output(of)
    wanted = [names[name] for name in wrt]
    for name, value, gradient in zip(wrt, wanted, gradients(builder, target, wanted, mode=mode), strict=True):
        output = f"grad_{name}" if f"grad_{name}" not in names else f"grad_{of}_{name}"
        builder.output(output, gradient if gradient is not None else builder.zeros_like(value))
    return builder.finish()


def has_own_vjp(node: Node) -> bool:
    """Tell whether a composite is better differentiated as it is than by its expansion."""
    return node.op.vjp is not None and not node.op.has(Trait.MODAL)


def gradients(
    builder: Builder,
    of: Value,
    wrt: Sequence[Value],
    cotangent: Value | None = None,
    mode: Mode = Mode.TRAINING,
) -> list[Value | None]:
    """Emit the gradient of ``of`` with respect to each of ``wrt``; None where ``of`` does not depend on it.

    ``of`` is a rank-0 float unless a ``cotangent`` of its type is given.
    """
    if cotangent is None:
        if not of.type.dtype.is_float or of.type.shape != ():
            raise NotDifferentiableError(f"a gradient is taken of a rank-0 float, not of {of.type}; reduce it first")
        with builder.origin(Origin("gradient", Phase.BACKWARD)):
            cotangent = builder.constant(1, of.type.dtype)
    for value in wrt:
        if not value.type.dtype.is_float:
            raise NotDifferentiableError(f"{value!r} is {value.type.dtype}; gradients exist for floats only")
    found = backward(builder, 0, len(builder.nodes), {of: cotangent}, wrt, mode)
    return [found.get(value) for value in wrt]


def backward(
    builder: Builder, first: int, last: int, seeds: dict[Value, Value], wrt: Sequence[Value], mode: Mode
) -> dict[Value, Value]:
    """Emit the reverse sweep over ``builder.nodes[first:last]``; return the cotangents of all values met.

    ``seeds`` maps values to their cotangents from outside. Only paths from ``wrt`` are followed. A region node may
    be exchanged in place for one with more results.
    """
    active = active_values(builder.nodes[first:last], wrt)
    cotangents = {value: seed for value, seed in seeds.items() if value in active}
    for position in range(last - 1, first - 1, -1):
        node = builder.nodes[position]
        arriving = tuple(cotangents.get(v) for v in node.outputs)
        if all(c is None for c in arriving) or not any(v in active for v in node.inputs):
            continue
        with builder.origin(*(Origin(o.name, Phase.BACKWARD) for o in node.origins)):
            for operand, gradient in zip(node.inputs, node_gradients(builder, position, arriving, active, mode)):
                if gradient is None or operand not in active:
                    continue
                if gradient.type != operand.type:
                    raise GraphError(f"gradient of {node!r} gives {gradient.type} for an operand {operand.type}")
                before = cotangents.get(operand)
                cotangents[operand] = gradient if before is None else builder.add(before, gradient)
    return cotangents


def node_gradients(builder: Builder, position: int, cotangents: Gradients, active: set[Value], mode: Mode) -> Gradients:
    """Emit the gradients of one node's operands by its rule, its region rule, or its expansion."""
    node = builder.nodes[position]
    if node.op.region and node.op.name in REGION_GRADIENTS:

        def sweep(inner: Builder, first: int, last: int, seeds: dict[Value, Value], wrt: Sequence[Value]) -> dict:
            return backward(inner, first, last, seeds, wrt, mode)

        return REGION_GRADIENTS[node.op.name](builder, position, cotangents, active, sweep)
    if isinstance(node.op.vjp, NotDifferentiable) or node.op.region:
        reached = ", ".join(str(v.type) for v in node.inputs if v in active)
        raise NotDifferentiableError(
            f"{node!r} has no derivative, but a gradient is wanted through its float operands {reached}; "
            "keep them out of what is differentiated"
        )
    if node.op.vjp is not None and not node.op.has(Trait.MODAL):
        return node.op.vjp(builder, node, tuple(cotangents))
    first = len(builder.nodes)
    values = expand_node(builder, node, mode)
    last = len(builder.nodes)
    seeds: dict[Value, Value] = {}
    for value, cotangent in zip(values, cotangents, strict=True):
        if cotangent is not None:
            seeds[value] = cotangent if value not in seeds else builder.add(seeds[value], cotangent)
    wanted = [v for v in dict.fromkeys(node.inputs) if v in active]
    found = backward(builder, first, last, seeds, wanted, mode)
    return _once_each(node.inputs, found)


def _once_each(operands: Sequence[Value], found: dict[Value, Value]) -> Gradients:
    """Give an operand that occurs twice its whole gradient at the first place only."""
    seen: set[Value] = set()
    result: list[Value | None] = []
    for value in operands:
        result.append(None if value in seen else found.get(value))
        seen.add(value)
    return result
