"""Loop building blocks of the CPU schedules: vector loops with tails, serial nests, task splitting.

It must not know what the bodies compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.expr import Expr, Var, apply, const
from dlc.ir.kernel import For, If, Let, LoopKind, Stmt

TASK_WORK = 1 << 15
"""Least work of a task, in simple operations on elements: well above the cost of waking a thread."""
TASKS_PER_THREAD = 4

LANE = Var("lane")
_ZERO = const(0)
Body = Sequence[Stmt] | Callable[[Expr], Sequence[Stmt]]
"""What a vector computes; as a function it is told which of the unrolled vectors it is."""


def vector_axis(
    axis: Var,
    start: Expr,
    extent: int,
    lanes: int,
    unroll: int,
    body: Body,
    prefix: str = "",
    wanted: Expr | None = None,
) -> list[Stmt]:
    """Run ``body`` with ``axis`` = start .. start + extent - 1 in vectors of ``lanes``; a masked vector ends it.

    Only the first ``wanted`` iterations matter, if given: whole blocks of vectors after them are left out.
    """
    statements: list[Stmt] = []
    block = lanes * unroll
    blocks, rest = divmod(extent, block)
    if blocks == 1 and not rest and unroll == 1:
        return [_vector(axis, start, lanes, body)]
    if blocks:
        count: Expr = const(blocks)
        if wanted is not None and blocks > 1:
            begun = apply("floor_div", apply("add", wanted, const(block - 1)), const(block))
            count = apply("minimum", begun, count)
        statements.append(_blocks(axis, start, count, lanes, unroll, body, prefix))
    vectors, tail = divmod(rest, lanes)
    done = blocks * block
    if vectors:
        place = apply("add", start, const(done)) if done else start
        statements.append(_blocks(axis, place, const(vectors), lanes, 1, body, f"{prefix}r"))
        done += vectors * lanes
    if tail:
        place = apply("add", start, const(done)) if done else start
        statements.append(tail_vector(axis, place, tail, lanes, body))
    return statements


def _offset(start: Expr, number: Expr, factor: int) -> Expr:
    return apply("add", start, apply("mul", number, const(factor)))


def _statements(body: Body, part: Expr) -> Sequence[Stmt]:
    return body(part) if callable(body) else body


def _vector(axis: Var, start: Expr, lanes: int, body: Body, part: Expr = _ZERO) -> Stmt:
    let = Let(axis, apply("add", start, LANE))
    return For(LANE, const(lanes), LoopKind.VECTOR, (let, *_statements(body, part)))


def _blocks(axis: Var, start: Expr, count: Expr, lanes: int, unroll: int, body: Body, prefix: str) -> Stmt:
    step, part = Var(f"{prefix}{axis.name}_v"), Var(f"{prefix}{axis.name}_u")
    place = _offset(start, step, lanes * unroll)
    if unroll == 1:
        return For(step, count, LoopKind.SERIAL, (_vector(axis, place, lanes, body),))
    inner = For(part, const(unroll), LoopKind.UNROLL, (_vector(axis, _offset(place, part, lanes), lanes, body, part),))
    return For(step, count, LoopKind.SERIAL, (inner,))


def tail_vector(axis: Var, start: Expr, count: int, lanes: int, body: Body) -> Stmt:
    """Run ``body`` for the first ``count`` lanes from ``start`` on."""
    if count == 1:
        return For(
            Var("one"), const(1), LoopKind.SERIAL, (Let(LANE, _ZERO), Let(axis, start), *_statements(body, _ZERO))
        )
    width = lanes
    while width // 2 >= count:
        width //= 2
    inside = None if width == count else apply("less", LANE, const(count))
    let = Let(axis, apply("add", start, LANE))
    return For(LANE, const(width), LoopKind.VECTOR, (let, *_statements(body, _ZERO)), active=inside)


def vector_chunk(
    axis: Var, task: Var, chunk: int, tasks: int, extent: int, lanes: int, unroll: int, body: Body
) -> list[Stmt]:
    """Run the part of a vector axis that belongs to ``task``; ``chunk`` is a multiple of lanes * unroll."""
    start = apply("mul", task, const(chunk))
    if chunk * tasks == extent:
        return vector_axis(axis, start, chunk, lanes, unroll, body)
    block = lanes * unroll
    per_task, total = chunk // block, extent // block
    left = apply("sub", const(total), apply("mul", task, const(per_task)))
    count = apply("minimum", const(per_task), left)
    statements: list[Stmt] = []
    if total:
        statements.append(_blocks(axis, start, count, lanes, unroll, body, ""))
    if rest := extent - total * block:
        ending = vector_axis(axis, const(total * block), rest, lanes, 1, body, "e")
        statements.append(If(apply("equal", task, const(tasks - 1)), tuple(ending)))
    return statements


def serial(axis: Axis, body: Sequence[Stmt], kind: LoopKind = LoopKind.SERIAL) -> Stmt:
    """Return the loop over ``axis``."""
    return For(axis.var, const(axis.extent), kind, tuple(body))


def serial_nest(axes: Sequence[Axis], inner: Sequence[Stmt], lets: Sequence[Sequence[Stmt]] = ()) -> list[Stmt]:
    """Wrap ``inner`` in serial loops; ``lets[k]`` stands at the start of loop ``k``'s body."""
    body = list(inner)
    for number in reversed(range(len(axes))):
        prefix = list(lets[number]) if number < len(lets) else []
        body = [For(axes[number].var, const(axes[number].extent), LoopKind.SERIAL, (*prefix, *body))]
    return body


@dataclass(frozen=True)
class TaskSplit:
    """The first ``full`` axes are task loops; axis ``full`` is cut into ``tasks`` chunks (1: it is not cut)."""

    full: int
    tasks: int = 1
    chunk: int = 0

    def total(self, extents: Sequence[int]) -> int:
        """Return the number of tasks."""
        count = self.tasks
        for extent in extents[: self.full]:
            count *= extent
        return count


def wanted_tasks(work: float, threads: int) -> int:
    """Return how many tasks ``work`` should be cut into."""
    if threads <= 1:
        return 1
    return max(1, min(int(work // TASK_WORK), TASKS_PER_THREAD * threads))


def split_tasks(extents: Sequence[int], multiples: Sequence[int], wanted: int, threads: int) -> TaskSplit:
    """Choose task loops over the outermost axes; chunks of axis k are multiples of ``multiples[k]``."""
    full = 0
    for extent, multiple in zip(extents, multiples, strict=True):
        if wanted <= 1:
            return TaskSplit(full)
        if extent <= wanted * 1.5 and multiple == 1:
            full += 1
            wanted = -(-wanted // max(extent, 1)) if extent else 1
            continue
        units = -(-extent // multiple)
        tasks = _even_count(units, min(wanted, units), threads)
        if tasks <= 1:
            return TaskSplit(full)
        per_task = -(-units // tasks)
        return TaskSplit(full, -(-units // per_task), per_task * multiple)
    return TaskSplit(full)


def _even_count(units: int, wanted: int, threads: int) -> int:
    """Return a task count near ``wanted`` that divides ``units``, or a multiple of the threads."""
    for count in range(wanted, wanted // 2, -1):
        if units % count == 0 and count % threads == 0:
            return count
    return wanted if wanted < threads else wanted // threads * threads


def chunk_loop(axis: Axis, task: Var, split: TaskSplit, body: Sequence[Stmt]) -> list[Stmt]:
    """Run ``body`` for the indices of ``axis`` that belong to ``task``."""
    start = apply("mul", task, const(split.chunk))
    size: Expr = const(split.chunk)
    if split.chunk * split.tasks != axis.extent:
        size = apply("minimum", size, apply("sub", const(axis.extent), start))
    step = Var(f"{axis.var.name}_j")
    return [For(step, size, LoopKind.SERIAL, (Let(axis.var, apply("add", start, step)), *body))]


def parallel(axes: Sequence[Axis], split: TaskSplit, task: Var, inner: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Wrap ``inner`` in the task loops of ``split``."""
    body = tuple(inner)
    if split.tasks > 1:
        body = (For(task, const(split.tasks), LoopKind.PARALLEL, body),)
    for axis in reversed(axes[: split.full]):
        body = (For(axis.var, const(axis.extent), LoopKind.PARALLEL, body),)
    return body


def vector_lanes(target: CpuTarget, itemsizes: Sequence[int], extent: int) -> int:
    """Return the lanes for an axis: full registers of the widest common element, fewer for a short axis."""
    lanes = target.lanes(max(min(max(itemsizes, default=4), 8), 1))
    while lanes > 1 and lanes // 2 >= extent:
        lanes //= 2
    return max(lanes, 1)
