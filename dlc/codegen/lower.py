"""Lowering: one node of an optimised graph becomes kernel calls.

Nodes with a kernel of their own are called as they are, contractions go to
their schedules with what was fused to them, everything else is inlined into
pointwise nests and row problems. It must not know how kernels are emitted.
"""

from __future__ import annotations

from dlc.codegen.lower_group import lower_group
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.graph import Graph, Node
from dlc.ir.lowering import KernelCall, Lowered, inputs, outputs
from dlc.ir.opdef import Trait


def lower(node: Node, target: CpuTarget, threads: int) -> Lowered:
    """Return the kernel calls of a primitive or fused node with static shapes.

    Raises:
        CompileError: the node is no primitive, runs on the host only, or has symbolic dimensions.
    """
    if not all(t.is_static for t in (*node.input_types, *node.output_types)):
        raise CompileError(f"{node!r} has symbolic dimensions; bind them before code generation")
    if node.op.kernel is not None:
        kernel = node.op.kernel(node.input_types, node.output_types, node.attributes)
        return Lowered((KernelCall(kernel, inputs(len(node.inputs)) + outputs(len(node.outputs))),))
    if node.op.compute is not None:
        return lower_group((node,), node.inputs, node.outputs, target, threads)
    body = node.attributes.get("body")
    if node.op.name != "fused" or not isinstance(body, Graph):
        reason = "runs in the interpreter only" if node.op.has(Trait.HOST) else "is no primitive; expand it first"
        raise CompileError(f"{node!r} cannot be lowered: {node.op.name} {reason}")
    return lower_group(body.nodes, body.inputs, body.outputs, target, threads)
