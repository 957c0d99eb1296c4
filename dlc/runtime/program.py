"""A plan as the flat table that the native dispatcher walks.

Owns the table's layout (stated once more in codegen/llvm/dispatch.py) and where
barriers go. It must not know buffers, threads or how the functions were made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dlc.errors import DlcError
from dlc.ir.plan import KernelStep, LoopBegin, LoopEnd, Plan, Step

MAX_DEPTH = 4

_END, _KERNEL, _LOOP, _LOOP_END, _MEET = 0, 1, 2, 3, 4
_BARRIER, _COMMIT, _SINGLE, _OWN = 1 << 8, 2 << 8, 4 << 8, 8 << 8

# A worker's share of a step is cut into at least this many chunks, so that others can take over what a late
# worker has not begun, and into more where a chunk would run so long that an interruption waits for it.
_CHUNKS = 4
_CHUNK_FLOPS = 1_000_000_000
_CHUNK_BYTES = 200_000_000
_MOST_CHUNKS = 1 << 20

# Below this estimate of one thread's time a run is not worth waking another thread for: what it could save is little,
# and where another process holds the processor, waiting for the second thread costs milliseconds.
_SERIAL_NANOSECONDS = 20_000
_FLOPS_PER_NANOSECOND = 60
_BYTES_PER_NANOSECOND = 15


@dataclass(frozen=True, eq=False)
class Program:
    """A native program: ``address`` of its header; ``parallel`` if it uses more than one thread."""

    address: int
    header: np.ndarray
    records: np.ndarray
    parallel: bool
    commits: bool
    scratch_bytes: int


def build_program(
    plan: Plan,
    address_of: Callable[[str], int],
    *,
    threads: int,
    scratch_bytes: int = 0,
    timing: np.ndarray | None = None,
) -> Program:
    """Build the table of ``plan``; ``timing`` (int64, steps x 3) makes the run record nanoseconds, calls and start.

    Raises DlcError for loops nested deeper than four or left open.
    """
    steps = _nonempty(plan.steps)
    parallel = threads > 1 and _worth_waking(steps)
    single_loops = _single_loops(steps)
    chained = _chained(steps)
    barriers = _barriers(steps, single_loops, chained, last=timing is not None)
    addresses: dict[str, int] = {}
    words: list[int] = []
    begins: list[int] = []
    most = 1
    for index, (number, step) in enumerate(steps):
        match step:
            case KernelStep():
                if step.symbol not in addresses:
                    addresses[step.symbol] = address_of(step.symbol)
                flags = (_BARRIER if barriers[index] else 0) | (_OWN if index in chained else 0)
                words += _kernel_words(step, number, addresses[step.symbol], len(begins), threads, flags)
                most = max(most, len(step.arguments))
            case LoopBegin(count=count):
                begins.append(len(words))
                words += [_LOOP | (_SINGLE if index in single_loops else 0), 4, count, 0]
            case LoopEnd():
                begin = begins.pop()
                words += [_LOOP_END, 2]
                words[begin + 3] = len(words) - begin
                words += [_MEET, 2] if barriers[index] else []
    records = np.array([*words, _END, 2], np.int64)
    times = 0 if timing is None else timing.ctypes.data
    header = np.array([records.ctypes.data, int(parallel), most, times], np.int64)
    commits = any(isinstance(step, KernelStep) and step.commits for _, step in steps)
    return Program(header.ctypes.data, header, records, parallel, commits, scratch_bytes)


def _kernel_words(step: KernelStep, number: int, address: int, depth: int, threads: int, flags: int) -> list[int]:
    flags |= (_COMMIT if step.commits else 0) | (_SINGLE if step.tasks == 1 else 0)
    most = max((len(argument.strides) for argument in step.arguments), default=0)
    if most > depth:
        raise DlcError(f"step {step.label or step.symbol} has strides for {most} loops and stands in {depth}")
    words = [
        _KERNEL | flags,
        8 + len(step.arguments) * (2 + most),
        address,
        step.tasks,
        _chunks(step, threads),
        len(step.arguments),
        most,
        number,
    ]
    for argument in step.arguments:
        words += [argument.slot, argument.offset, *argument.strides, *[0] * (most - len(argument.strides))]
    return words


def _chunks(step: KernelStep, threads: int) -> int:
    shares = max(step.flops // _CHUNK_FLOPS, step.nbytes // _CHUNK_BYTES) // threads
    return min(max(_CHUNKS, shares), _MOST_CHUNKS)


def _worth_waking(steps: Sequence[tuple[int, Step]]) -> bool:
    """Return whether any step has several tasks, unless all the work is known and tiny."""
    kernels = [step for _, step in steps if isinstance(step, KernelStep)]
    if all(step.tasks == 1 for step in kernels):
        return False
    if len(kernels) != len(steps) or any(step.nbytes == 0 for step in kernels):
        return True  # loops, or no estimate
    work = sum(step.flops / _FLOPS_PER_NANOSECOND + step.nbytes / _BYTES_PER_NANOSECOND for step in kernels)
    return work > _SERIAL_NANOSECONDS


def _nonempty(steps: Sequence[Step]) -> list[tuple[int, Step]]:
    """Number the steps, check the loops and drop kernels without tasks and loops that do nothing."""
    kept: list[tuple[int, Step]] = []
    begins: list[int] = []
    for number, step in enumerate(steps):
        match step:
            case KernelStep(tasks=tasks):
                if tasks > 0:
                    kept.append((number, step))
            case LoopBegin():
                begins.append(len(kept))
                kept.append((number, step))
                if len(begins) > MAX_DEPTH:
                    raise DlcError(f"step {number} opens a loop within {MAX_DEPTH} others, which is the limit")
            case LoopEnd():
                if not begins:
                    raise DlcError(f"step {number} ends a loop that no step began")
                begin = begins.pop()
                opening = kept[begin][1]
                if begin == len(kept) - 1 or (isinstance(opening, LoopBegin) and opening.count <= 0):
                    del kept[begin:]
                else:
                    kept.append((number, step))
    if begins:
        raise DlcError(f"the plan leaves {len(begins)} loops open")
    return kept


def _single_loops(steps: Sequence[tuple[int, Step]]) -> dict[int, int]:
    """Map the beginnings of loops in which no step has several tasks to their ends; the other workers skip them."""
    single: dict[int, int] = {}
    open_loops: list[tuple[int, bool]] = []  # where it begins, whether a parallel step was seen
    for index, (_, step) in enumerate(steps):
        parallel = False
        match step:
            case LoopBegin():
                open_loops.append((index, False))
                continue
            case LoopEnd():
                begin, parallel = open_loops.pop()
                if not parallel:
                    single[begin] = index
            case KernelStep(tasks=tasks):
                parallel = tasks > 1
        if parallel and open_loops:
            open_loops[-1] = (open_loops[-1][0], True)
    return single


def _chained(steps: Sequence[tuple[int, Step]]) -> set[int]:
    """Return the positions of kernels, and of ends of loops, whose loop's tasks are chains that need not meet."""
    found: set[int] = set()
    loops: list[bool] = []
    for index, (_, step) in enumerate(steps):
        if isinstance(step, LoopBegin):
            loops.append(step.chains)
            continue
        if loops and loops[-1]:
            found.add(index)
        if isinstance(step, LoopEnd):
            loops.pop()
    return found


def _barriers(
    steps: Sequence[tuple[int, Step]], single_loops: dict[int, int], chained: set[int], last: bool
) -> list[bool]:
    """Say after which steps (kernels, ends of loops) the threads must meet: around every step with several tasks.

    Between steps with one task no barrier is needed, worker 0 runs them all; nor within a loop of such steps, which
    counts as one, nor within a loop of chains, after which they meet. The barrier at the program's end serves a last
    parallel step, unless ``last`` asks for its own so that the step's time is complete.
    """
    count = len(steps)
    first_parallel = [False] * (count + 1)  # whether the first kernel at or after a position has several tasks
    for index in range(count - 1, -1, -1):
        step = steps[index][1]
        first_parallel[index] = step.tasks > 1 if isinstance(step, KernelStep) else first_parallel[index + 1]
    opening: dict[int, int] = {}
    open_loops: list[int] = []
    for index, (_, step) in enumerate(steps):
        if isinstance(step, LoopBegin):
            open_loops.append(index)
        elif isinstance(step, LoopEnd):
            opening[index] = open_loops.pop()
    barriers = [False] * count
    index = 0
    while index < count:
        step = steps[index][1]
        if index in chained or (isinstance(step, KernelStep) and step.tasks > 1):
            inside = index in chained and isinstance(step, KernelStep)
            barriers[index] = not inside and (index + 1 < count or last)
        elif isinstance(step, KernelStep) or index in single_loops:
            index = single_loops.get(index, index)
            following = index + 1
            while following < count and following in opening:
                barriers[index] |= first_parallel[opening[following]]
                following += 1
            barriers[index] |= following < count and first_parallel[following]
        index += 1
    return barriers
