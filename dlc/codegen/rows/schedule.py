"""Schedules row problems: chooses lanes along the reduced or along the kept axes, and the tasks.

The ways of using lanes are built in ``rows_along`` (lanes share a row and are
combined at its end), ``rows_across`` (every lane has a row of its own) and, for
windows, ``window_tiles``. It must not know ops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from dlc.codegen.loops.blocks import (
    TaskSplit,
    chunk_loop,
    parallel,
    serial,
    split_tasks,
    vector_lanes,
    wanted_tasks,
)
from dlc.codegen.loops.nest import axis_simplifier
from dlc.codegen.rows.across import AcrossRows
from dlc.codegen.rows.along import AlongRows
from dlc.codegen.rows.interior import interior
from dlc.codegen.rows.problem import RowProblem
from dlc.codegen.rows.window_tiles import WindowTiles
from dlc.codegen.rows.windows import Windows, find_windows
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.cost import cost, distinct
from dlc.ir.expr import Expr, Load, Var, apply, const
from dlc.ir.kernel import For, If, LoopKind, Stmt

_ACCUMULATORS = 4
_LONG_COLUMN = 64
_MOST_UNROLLED_WORK = 96
"""So much work on all vectors of a block is one loop body; what it leaves of a line is read by another sweep."""
TASK = Var("task")


def row_body(problem: RowProblem, target: CpuTarget, threads: int) -> tuple[Stmt, ...]:
    """Return the kernel body of a normalised ``problem``; empty where there is no row."""
    if not prod(a.extent for a in problem.kept):
        return ()
    along, across = lane_axes(problem)
    if across is not None:
        return _across(_last(problem, across, kept=True), target, threads)
    return _along(_last(problem, along, kept=False) if along is not None else problem, target, threads)


def work_of(problem: RowProblem) -> int:
    """Estimate the work of the whole problem."""
    points = prod(a.extent for a in (*problem.kept, *problem.reduced))
    per_point = 0
    for stage in problem.stages:
        per_point += cost([*(k.value for k in stage.keeps), *(r.value for r in stage.reductions)])
        per_point += cost([w.value for w in stage.writes]) + len(stage.reductions)
    return points * max(per_point, 1)


def rows_of(problem: RowProblem, target: CpuTarget) -> int:
    """Return how many independent pieces of work the kept axes give."""
    rows = prod(a.extent for a in problem.kept)
    _, across = lane_axes(problem)
    if across is not None:
        rows = rows // max(across.extent, 1) * -(-across.extent // (_vectors_across(problem, target) * target.lanes(4)))
    return rows


def lane_axes(problem: RowProblem) -> tuple[Axis | None, Axis | None]:
    """Return (reduced axis, None) or (None, kept axis): the one along which memory is contiguous."""
    votes: dict[Axis, int] = {}
    simplify = axis_simplifier((*problem.kept, *problem.reduced))
    for load in (e for e in distinct(problem.exprs()) if isinstance(e, Load)):
        terms = dict(simplify.affine(load.index).terms)
        for axis in (*problem.kept, *problem.reduced):
            if terms.get(axis.var) == 1:
                votes[axis] = votes.get(axis, 0) + max(len(terms), 1)
    reduced = [(votes.get(a, 0) * min(a.extent, 16), n, a) for n, a in enumerate(problem.reduced)]
    kept = [(votes.get(a, 0) * min(a.extent, 16), n, a) for n, a in enumerate(problem.kept)]
    best_reduced = max(reduced, default=(0, 0, None), key=lambda t: t[:2])
    best_kept = max(kept, default=(0, 0, None), key=lambda t: t[:2])
    if best_kept[0] > best_reduced[0] and best_kept[2] is not None:
        return None, best_kept[2]
    return best_reduced[2], None


def _last(problem: RowProblem, axis: Axis, kept: bool) -> RowProblem:
    axes = problem.kept if kept else problem.reduced
    if any(r.position is not None for s in problem.stages for r in s.reductions) and not kept:
        return problem  # the first of equal elements must be met first
    ordered = (*(a for a in axes if a != axis), axis)
    return replace(problem, kept=ordered) if kept else replace(problem, reduced=ordered)


def itemsizes(exprs: Sequence[Expr]) -> list[int]:
    """Return the sizes of the elements that decide how many lanes a vector has."""
    sizes = [e.dtype.itemsize for e in distinct(exprs) if isinstance(e, Load)] + [e.dtype.itemsize for e in exprs]
    wide = [s for s in sizes if s >= 4] or sizes
    return [min(wide, default=4)]


def _values(problem: RowProblem) -> list[Expr]:
    values = [r.value for s in problem.stages for r in s.reductions] + [
        k.value for s in problem.stages for k in s.keeps
    ]
    return values + [w.value for s in problem.stages for w in s.writes]


def _along(problem: RowProblem, target: CpuTarget, threads: int) -> tuple[Stmt, ...]:
    extent = problem.reduced[-1].extent if problem.reduced else 1
    lanes = vector_lanes(target, itemsizes(_values(problem)), extent)
    unroll = max(1, min(_ACCUMULATORS, extent // max(lanes, 1)))
    rows = _inside_first(problem, None, lambda p: AlongRows(p, lanes, unroll).statements())
    kept = problem.kept
    split = split_tasks([a.extent for a in kept], [1] * len(kept), wanted_tasks(work_of(problem), threads), threads)
    return _tasks(kept, split, rows)


def _inside_first(problem: RowProblem, lanes: Axis | None, build: Callable[[RowProblem], list[Stmt]]) -> list[Stmt]:
    """Return the rows as ``build`` makes them, with a form of their own for rows where nothing needs a test."""
    found = interior(problem, lanes)
    if found is None:
        return build(problem)
    condition, inside = found
    return [If(condition, tuple(build(inside)), tuple(build(problem)))]


def _tasks(axes: Sequence[Axis], split: TaskSplit, rows: list[Stmt]) -> tuple[Stmt, ...]:
    from_loop = split.full + (1 if split.tasks > 1 else 0)
    body = rows
    for axis in reversed(axes[from_loop:]):
        body = [serial(axis, body)]
    if split.tasks > 1:
        body = chunk_loop(axes[split.full], TASK, split, body)
    return parallel(axes, split, TASK, body)


def _vectors_across(problem: RowProblem, target: CpuTarget) -> int:
    """Return how many vectors of rows run side by side at most: many where long columns are read in pieces of rows."""
    accumulators = max([len(s.reductions) for s in problem.stages], default=1) or 1
    if prod(a.extent for a in problem.reduced) < _LONG_COLUMN or len(problem.stages) > 1:
        return _ACCUMULATORS if accumulators <= 2 else 2
    work = max(cost(_values(problem)), 1)
    registers = target.vector_registers * 3 // 4 // accumulators
    return max(2, min(registers, _MOST_UNROLLED_WORK // work))


def _across(problem: RowProblem, target: CpuTarget, threads: int) -> tuple[Stmt, ...]:
    outer, inner = problem.kept[:-1], problem.kept[-1]
    lanes = vector_lanes(target, itemsizes(_values(problem)), inner.extent)
    vectors = max(1, inner.extent // max(lanes, 1))
    unroll = -(-vectors // -(-vectors // _vectors_across(problem, target)))  # blocks of nearly equal width
    block = lanes * unroll
    wanted = wanted_tasks(work_of(problem), threads)
    windows = find_windows(problem)
    if windows is not None:
        tiled = _windows(windows, WindowTiles(windows, lanes, target), wanted, threads)
        if tiled is not None:
            return tiled
    multiples = [1] * len(outer) + [block]
    split = split_tasks([a.extent for a in problem.kept], multiples, wanted, threads)
    if split.tasks > 1 and split.full == len(outer):
        body = _inside_first(problem, inner, lambda p: AcrossRows(p, lanes, unroll).chunk(TASK, split))
        return parallel(problem.kept, split, TASK, body)
    if split.full == len(problem.kept):
        split = TaskSplit(len(outer))
    rows = _inside_first(problem, inner, lambda p: AcrossRows(p, lanes, unroll).statements())
    return _tasks(outer, split, rows)


def _windows(windows: Windows, tiles: WindowTiles, wanted: int, threads: int) -> tuple[Stmt, ...] | None:
    """Return the kernel body with tasks over lines and parts of the inner axis; None if these are too few."""
    outer = windows.problem.kept[:-2]
    extents = [a.extent for a in outer]
    split = split_tasks(extents, [1] * len(outer), wanted, threads)
    tasks = split.total(extents)
    blocks = max(windows.inner.extent // tiles.block, 1)
    per_chunk = -(-blocks // min(blocks, -(-wanted // tasks)))
    chunks = -(-blocks // per_chunk)
    if tasks * chunks < min(wanted, threads):
        return None
    chunk = Var("chunk")
    first = apply("mul", chunk, const(per_chunk)) if chunks > 1 else const(0)
    count: Expr = const(per_chunk)
    if per_chunk * chunks != blocks:
        count = apply("minimum", count, apply("sub", const(blocks), first))
    last = apply("equal", chunk, const(chunks - 1)) if chunks > 1 else None
    body = tiles.statements(first, count, last)
    for axis in reversed(outer[split.full + (1 if split.tasks > 1 else 0) :]):
        body = [serial(axis, body)]
    if split.tasks > 1:
        body = chunk_loop(outer[split.full], TASK, split, body)
    if chunks > 1:
        body = [For(chunk, const(chunks), LoopKind.PARALLEL, tuple(body))]
    return parallel(outer, split, TASK, body)
