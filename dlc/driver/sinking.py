"""Tells whether products over whole sequences are better done step by step, in the loop that reads them.

They are where tasks that multiply there anyway take them along, so that no step is added, and where the weights of all
steps come from cache as fast as they are multiplied. It must not know how kernels are built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlc.codegen.lower.node import lower
from dlc.codegen.target import CpuTarget
from dlc.driver.homes import WITHOUT_STEPS
from dlc.errors import CompileError
from dlc.ir.graph import Graph, Node
from dlc.ir.lowering import KernelCall, Operand, OperandKind
from dlc.ir.opdef import Trait
from dlc.ir.placement import CONTIGUOUS
from dlc.passes.fusion.fuse import fuse

STREAM_BYTES_PER_CYCLE = 8
"""What a core reads of weights beyond its second-level cache without waiting, each being multiplied soon after."""


def sinking_pays(target: CpuTarget, threads: int) -> Callable[[Graph, Graph, int], bool]:
    """Return what tells of a loop's body, before and after, with how many inputs that change, whether to move."""

    def pays(before: Graph, after: Graph, changing: int) -> bool:
        if target.has("amx-int8"):  # a product of all steps at once is many times as fast there
            return False
        products = [node for node in after.nodes if node.op.has(Trait.CONTRACTION)]
        weights = {v for node in products for v in node.inputs} & set(after.inputs[changing:])
        if sum(int(v.type.nbytes) for v in weights) > target.l3_bytes:  # type: ignore[call-overload]
            return False
        fused = fuse(after)
        steps = [node for node in fused.nodes if node.op.name not in WITHOUT_STEPS]
        if len(steps) != 1 or len([n for n in fuse(before).nodes if n.op.name not in WITHOUT_STEPS]) != 1:
            return False
        (node,) = steps
        unchanged = set(fused.inputs[changing:])
        fixed = frozenset(k for k, v in enumerate(node.inputs) if v in unchanged)
        try:
            calls = lower(node, target, threads, fixed, True, CONTIGUOUS).calls
        except CompileError:
            return False
        inside = _every_step(calls, fixed)
        if len(inside) != 1:
            return False
        rows = min(_rows(n) for n in products)
        if inside[0].split:
            rows //= inside[0].kernel.tasks
        return rows * STREAM_BYTES_PER_CYCLE >= target.vector_bytes * (1 if target.double_pumped else 2)

    return pays


def _every_step(calls: Sequence[KernelCall], fixed: frozenset[int]) -> list[KernelCall]:
    """Return the calls that depend on more than ``fixed`` inputs."""
    known = {Operand(OperandKind.INPUT, k) for k in fixed}
    found = []
    for call in calls:
        written = {o for o, b in zip(call.operands, call.kernel.buffers, strict=True) if b.writable}
        if {*call.operands} - written <= known:
            known |= written
        else:
            found.append(call)
    return found


def _rows(node: Node) -> int:
    shape = node.outputs[0].type.shape
    size = int(node.outputs[0].type.size)  # type: ignore[call-overload]
    return size // max(1, int(shape[-1])) if shape else 1  # type: ignore[call-overload]
