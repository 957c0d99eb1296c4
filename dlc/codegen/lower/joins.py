"""Finds outputs that inputs are parts of: concatenations, padded images, whatever only puts tensors side by side.

Goes by index expressions alone: where an input is what the output holds at a box of its elements, it may as well be
written there, and nothing is left to be copied. It must not know where tensors lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlc.codegen.attention.parts import is_contraction
from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.places import static_shape
from dlc.ir.compute import Compute
from dlc.ir.expr import Apply, Expr, Read, Var, apply, const, substitute
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.simplify import Simplifier


@dataclass(frozen=True)
class Part:
    """Input number ``input`` is what output number ``output`` holds from the index ``start`` on."""

    input: int
    output: int
    start: tuple[int, ...]


def body_of(node: Node) -> tuple[Sequence[Node], Sequence[Value], Sequence[Value]] | None:
    """Return the nodes that a node stands for, their operands and results; None if it has no index form."""
    if node.op.compute is not None:
        return (node,), node.inputs, node.outputs
    body = node.attributes.get("body")
    if node.op.name != "fused" or not isinstance(body, Graph):
        return None
    return body.nodes, body.inputs, body.outputs


def reads_anywhere(node: Node) -> bool:
    """Tell whether a node reads its operands, and writes its results, wherever they lie: no contraction does."""
    found = body_of(node)
    return found is not None and not any(is_contraction(n) for n in found[0])


def find_parts(node: Node) -> tuple[Part, ...]:
    """Return the inputs that are parts of outputs of a node with static shapes, in order, each of one output."""
    found = body_of(node)
    if found is None or not reads_anywhere(node):
        return ()
    nodes, operands, results = found
    if not all(v.type.is_static for n in nodes for v in (*n.inputs, *n.outputs)):
        return ()
    made = {n.outputs[0]: n for n in nodes if len(n.outputs) == 1}
    chosen = [k for k, v in enumerate(results) if v in made and v.type.size and _selects(made[v])]
    if not chosen:
        return ()
    distinct = tuple(dict.fromkeys(operands))
    computes = ComputeGroup(distinct, nodes).inline((), [results[k] for k in chosen])
    parts: dict[int, Part] = {}
    for k in chosen:
        for source, start in _boxes(computes[results[k]], distinct):
            number = operands.index(distinct[source])
            parts.setdefault(number, Part(number, k, start))
    return tuple(parts.values())


def _selects(node: Node) -> bool:
    assert node.op.compute is not None
    body = node.op.compute(node.input_types, node.output_types, node.attributes).body
    return isinstance(body, Apply) and body.op == "select"


def _boxes(compute: Compute, sources: Sequence[Value]) -> list[tuple[int, tuple[int, ...]]]:
    """Return the sources that make up a box of the output each, with the index at which it begins."""
    if compute.combiner is not None:
        return []
    simplify = Simplifier({a.var: (0, max(a.extent - 1, 0)) for a in compute.axes})
    found: dict[int, tuple[int, ...]] = {}
    reads = _chosen(simplify(compute.body))
    shapes = {r.input: static_shape(sources[r.input].type) for r in reads if r.input < len(sources)}
    for read in reads:
        if read.input not in shapes or read.input in found or read.dtype is not compute.dtype:
            continue
        start = _start(read, compute, shapes[read.input], simplify)
        if start is not None and _fills(read.input, start, compute, shapes[read.input]):
            found[read.input] = start
    return list(found.items())


def _chosen(body: Expr) -> list[Read]:
    """Return the reads that selections at the top of ``body`` choose among, in order."""
    reads: dict[Read, None] = {}
    pending = [body]
    while pending:
        current = pending.pop()
        if isinstance(current, Read):
            reads[current] = None
        elif isinstance(current, Apply) and current.op == "select":
            pending += [current.args[2], current.args[1]]
    return list(reads)


def _start(read: Read, compute: Compute, shape: tuple[int, ...], simplify: Simplifier) -> tuple[int, ...] | None:
    """Return where the box of a read begins: its indices are the output's, each less a literal."""
    if len(shape) != len(compute.axes):
        return None
    start = []
    for index, axis, extent in zip(read.indices, compute.axes, shape, strict=True):
        moved = simplify.affine(apply("sub", axis.var, index))
        if moved.terms or not 0 <= moved.constant <= axis.extent - extent:
            return None
        start.append(moved.constant)
    return tuple(start)


def _fills(source: int, start: tuple[int, ...], compute: Compute, shape: tuple[int, ...]) -> bool:
    """Tell whether the output is the source, element by element, in the whole box from ``start`` on."""
    inside = [Var(f"p{k}") for k in range(len(shape))]
    simplify = Simplifier({v: (0, max(extent - 1, 0)) for v, extent in zip(inside, shape, strict=True)})
    here: dict[Expr, Expr] = {
        a.var: apply("add", v, const(first)) for a, v, first in zip(compute.axes, inside, start, strict=True)
    }
    body = simplify(substitute(compute.body, here))
    return body == Read(source, tuple(simplify(v) for v in inside), compute.dtype)
