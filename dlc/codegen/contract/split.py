"""Splits the depth of a contraction into parts for several threads, where the output alone gives them too little.

Each part sums into an output of its own; a further kernel adds the parts in order. It must not know kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlc.codegen.contract.analysis import OUT, LoopAxis, Problem, extent_of
from dlc.codegen.contract.blocking import SMALL_FLOPS
from dlc.ir.epilogue import no_epilogue

SHORTEST_PART = 128
"""Depth steps that repay writing a sum of their own and reading it again."""
BALANCED = 0.9
"""With this part of all threads at work the split is good enough; more parts would cost more."""
LEAST_GAIN = 1.3
"""The split must keep so many times as many threads at work."""


def split_depth(problem: Problem, units: int, threads: int) -> Problem | None:
    """Return the problem of partial sums, its parts along the first batch axis, or None where that does not pay.

    ``units`` is the number of register tiles (or groups of dot products) that threads can share without it. Parts
    are of equal size, so that their number divides an axis of the depth.
    """
    whole = _busy(units, threads)
    most = min(4 * threads, problem.depth_count // SHORTEST_PART, 2 * problem.flops // SMALL_FLOPS)
    best: tuple[float, int, int] | None = None
    for parts in range(2, most + 1):
        number = next((n for n, axis in enumerate(problem.depth) if axis.extent % parts == 0), None)
        if number is None:
            continue
        busy = _busy(units * parts, threads)
        if best is None or busy > best[0]:
            best = (busy, parts, number)
        if busy >= BALANCED:
            break
    if best is None or best[0] < LEAST_GAIN * whole:
        return None
    return _partial_sums(problem, *best[1:])


def cut_depth(problem: Problem, longest: int) -> Problem | None:
    """Return the problem of the fewest partial sums that are ``longest`` deep at most, None where no axis divides."""
    depth = problem.depth_count
    for parts in range(-(-depth // longest), depth // SHORTEST_PART + 1):
        number = next((n for n, axis in enumerate(problem.depth) if axis.extent % parts == 0), None)
        if number is not None:
            return _partial_sums(problem, parts, number)
    return None


def _busy(units: int, threads: int) -> float:
    """Return the part of the threads' time that is work."""
    return units / (-(-units // threads) * threads)


def _partial_sums(problem: Problem, parts: int, number: int) -> Problem:
    outputs = [*problem.batch, *problem.rows, *problem.columns]
    size = extent_of(outputs)
    dense = _dense(outputs)
    split = problem.depth[number]
    block = split.extent // parts
    strides = [stride * block for stride in split.strides]
    strides[OUT] = size
    rest = LoopAxis(block, split.strides)
    depth = (*problem.depth[:number], *([rest] if block > 1 else []), *problem.depth[number + 1 :])
    return replace(
        problem,
        batch=_bare((LoopAxis(parts, tuple(strides)), *(dense[axis] for axis in problem.batch))),
        rows=_bare(tuple(dense[axis] for axis in problem.rows)),
        columns=_bare(tuple(dense[axis] for axis in problem.columns)),
        depth=_bare(depth),
        sizes=(*problem.sizes[:OUT], parts * size),
        body=no_epilogue(problem.dtype).body,
        out_dtype=problem.dtype,
        reads=(),
    )


def _dense(axes: Sequence[LoopAxis]) -> dict[LoopAxis, LoopAxis]:
    """Return axes of the output with the strides that they have where it is contiguous, wherever it lies."""
    found: dict[LoopAxis, LoopAxis] = {}
    step = 1
    for axis in sorted(axes, key=lambda a: a.strides[OUT]):
        found[axis] = LoopAxis(axis.extent, (*axis.strides[:OUT], step, *axis.strides[OUT + 1 :]))
        step *= axis.extent
    return found


def _bare(axes: tuple[LoopAxis, ...]) -> tuple[LoopAxis, ...]:
    """Leave out the strides of the epilogue's reads."""
    return tuple(LoopAxis(axis.extent, axis.strides[: OUT + 1]) for axis in axes)
