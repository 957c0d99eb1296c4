"""Lowering: one node of an optimised graph becomes kernel calls.

Nodes with a kernel of their own are called as they are, contractions go to
their schedules with what was fused to them, two in a row to attention, everything
else is inlined into pointwise nests and row problems. It must not know how kernels are emitted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dlc.codegen.attention.parts import is_contraction
from dlc.codegen.lower.attention import lower_attention
from dlc.codegen.lower.contract_group import lower_contract_group, renumber
from dlc.codegen.lower.group import lower_group
from dlc.codegen.lower.joins import body_of
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.lowering import KernelCall, Lowered, inputs, outputs
from dlc.ir.opdef import Trait
from dlc.ir.placement import CONTIGUOUS, Placement

_MOST_KNOWN = 2048
_known: dict[tuple, Lowered] = {}
"""What equal nodes were lowered to: deep models repeat their layers."""


def lower(
    node: Node,
    target: CpuTarget,
    threads: int,
    constants: Collection[int] = (),
    alone: bool = False,
    placement: Placement = CONTIGUOUS,
) -> Lowered:
    """Return the kernel calls of a primitive or fused node with static shapes.

    ``constants`` numbers the operands known to be the same in every run; a node ``alone`` in a loop is all that the
    loop does, and its tasks are made chains through the iterations where that pays. ``placement`` says where tensors
    lie that are not whole; inputs may only where the node ``reads_anywhere``.

    Raises:
        CompileError: the node is no primitive, runs on the host only, or has symbolic dimensions.
    """
    if not all(t.is_static for t in (*node.input_types, *node.output_types)):
        raise CompileError(f"{node!r} has symbolic dimensions; bind them before code generation")
    key = (structure(node), target, threads, frozenset(constants), alone, placement)
    known = _known.get(key)
    if known is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        known = _known[key] = _lower(node, target, threads, constants, alone, placement)
    return known


def structure(node: Node) -> tuple:
    """Return a key that is equal for nodes that compute the same function, whatever their origins."""
    body = node.attributes.get("body") if node.op.region else None
    if not isinstance(body, Graph):
        number = {v: k for k, v in enumerate(dict.fromkeys(node.inputs))}
        return (node.op, node.attributes, tuple(number[v] for v in node.inputs), node.input_types, node.output_types)
    number = {v: k for k, v in enumerate(body.inputs)}
    parts: list[tuple] = []
    for inner in body.nodes:
        parts.append((inner.op, inner.attributes, tuple(number[v] for v in inner.inputs), inner.output_types))
        for value in inner.outputs:
            number[value] = len(number)
    return (node.op, tuple(parts), node.input_types, tuple(number[v] for v in body.outputs))


def _lower(
    node: Node, target: CpuTarget, threads: int, constants: Collection[int], alone: bool, placement: Placement
) -> Lowered:
    if node.op.kernel is not None:
        kernel = node.op.kernel(node.input_types, node.output_types, node.attributes)
        return Lowered((KernelCall(kernel, inputs(len(node.inputs)) + outputs(len(node.outputs))),))
    found = body_of(node)
    if found is None:
        reason = "runs in the interpreter only" if node.op.has(Trait.HOST) else "is no primitive; expand it first"
        raise CompileError(f"{node!r} cannot be lowered: {node.op.name} {reason}")
    return _lower_body(*found, target, threads, constants, alone, placement)


def _lower_body(
    nodes: Sequence[Node],
    operands: Sequence[Value],
    results: Sequence[Value],
    target: CpuTarget,
    threads: int,
    constants: Collection[int],
    alone: bool,
    placement: Placement,
) -> Lowered:
    distinct = tuple(dict.fromkeys(operands))  # a node may read one value twice
    contractions = [n for n in nodes if is_contraction(n)] if results[0].type.size != 0 else []
    first = [operands.index(v) for v in distinct]
    if len(contractions) > 1 and any(v not in distinct for n in contractions for v in n.inputs):
        lowered = lower_attention(nodes, distinct, results[0], target, threads)
    elif contractions:
        fixed = {k for k, position in enumerate(first) if position in constants}
        lowered = lower_contract_group(nodes, distinct, results, target, threads, fixed, alone, placement.outputs)
    else:
        lowered = lower_group(nodes, distinct, results, target, threads, placement.of_inputs(first))
    if len(distinct) == len(operands):
        return lowered
    return renumber(lowered, first)
