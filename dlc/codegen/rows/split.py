"""Reductions of few rows in two steps: partial results by tasks, then their combination, in a fixed order.

The first reduced axis is cut into equal parts and a rest. It must not know ops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from dlc.codegen.loops.blocks import TASK_WORK, wanted_tasks
from dlc.codegen.loops.combiners import POSITIONS, accumulation_dtype
from dlc.codegen.rows.problem import Reduction, RowProblem, Stage, Write
from dlc.codegen.rows.schedule import lane_axes, row_body, rows_of, work_of
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, substitute
from dlc.ir.kernel import For, If, LoopKind, Stmt
from dlc.ir.simplify import linear_index
from dlc.ir.types import TensorType

PART = Var("part_of_rows")
_GRAIN = 64
"""Parts of an axis along which memory is contiguous are multiples of this many elements."""


def wants_split(problem: RowProblem, target: CpuTarget, threads: int) -> int:
    """Return into how many parts to cut the reduced axes, 1 where rows alone keep all threads busy."""
    if threads <= 1 or len(problem.stages) != 1 or not problem.reduced:
        return 1
    stage = problem.stages[0]
    if not stage.reductions or any(r.combiner in POSITIONS for r in stage.reductions):
        return 1
    work = work_of(problem)
    rows = rows_of(problem, target)
    if rows >= 2 * threads or work < 2 * TASK_WORK:
        return 1
    return wanted_tasks(work, threads) if rows < threads else max(1, wanted_tasks(work, threads) // rows)


def split_rows(
    problem: RowProblem, parts: int, temporary: Callable[[TensorType], str], target: CpuTarget
) -> tuple[tuple[Stmt, ...], RowProblem] | None:
    """Return the body of the kernel of partial results and the problem that combines them.

    ``temporary`` makes the buffers between the two. None where no axis is long enough.
    """
    axis = max(problem.reduced, key=lambda a: a.extent)
    if problem.reduced[0].extent >= parts:
        axis = problem.reduced[0]
    along, _ = lane_axes(problem)
    grain = _GRAIN if axis == along else 1
    chunk = axis.extent // parts // grain * grain
    if not chunk:
        return None
    count = axis.extent // chunk
    rest = axis.extent - count * chunk
    total = count + (1 if rest else 0)
    kept_shape = tuple(a.extent for a in problem.kept)
    place = linear_index(tuple(a.var for a in problem.kept), kept_shape, lambda e: e)
    size = prod(kept_shape)
    partial_writes, combined = [], []
    for number, reduction in enumerate(problem.stages[0].reductions):
        dtype = accumulation_dtype(reduction.combiner, reduction.value.dtype)
        buffer = temporary(TensorType(dtype, (total, size)))
        part = Var(f"p{number}", dtype)
        index = apply("add", apply("mul", PART, const(size)), place)
        partial_writes.append(
            (Reduction(part, reduction.combiner, cast(reduction.value, dtype)), Write(buffer, index, part))
        )
        combined.append(Reduction(reduction.result, reduction.combiner, Load(buffer, index, dtype)))
    stage = Stage(tuple(r for r, _ in partial_writes), problem.stages[0].writes, problem.stages[0].keeps)
    first = replace(problem, stages=(stage,), row_writes=tuple(w for _, w in partial_writes))
    body = list(_part(first, axis, apply("mul", PART, const(chunk)), chunk, total, target))
    if rest:
        ending = _part(first, axis, const(count * chunk), rest, total, target)
        body = [If(apply("less", PART, const(count)), tuple(body), tuple(ending))]
    kernel_body = (For(PART, const(total), LoopKind.PARALLEL, tuple(body)),)
    second = RowProblem(problem.kept, (Axis(PART, total),), (Stage(tuple(combined)),), problem.row_writes)
    return kernel_body, second


def _part(problem: RowProblem, axis: Axis, start: Expr, extent: int, total: int, target: CpuTarget) -> tuple[Stmt, ...]:
    """Return the rows of one part: ``axis`` from ``start`` on."""
    shifted = apply("add", start, axis.var)
    moved = problem.map(lambda e: substitute(e, {axis.var: shifted}))
    reduced = tuple(Axis(a.var, extent) if a == axis else a for a in problem.reduced)
    inner = replace(moved, reduced=reduced, outer={PART: (0, total - 1)})
    return row_body(inner.normalized(), target, 1)
