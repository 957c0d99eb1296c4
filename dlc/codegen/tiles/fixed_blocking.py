"""Decides whether a contraction runs in fixed point on AMX, and how it is cut for it.

Pure decisions from shapes, target and thread count. It must not build kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from dlc.codegen.contract.analysis import OUT, LoopAxis, Problem, extent_of, merge
from dlc.codegen.contract.blocking import LOCAL, PACKED, Blocking, RegisterTile, Split, can_block, choose_blocking
from dlc.codegen.contract.cost import fma_cycles
from dlc.codegen.contract.split import cut_depth
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.fixed_point import COLUMN_STEP_WORDS, LANES, ROW_STEP_WORDS, STEP
from dlc.codegen.tiles.sizes import BLOCK
from dlc.ir.types import float32

SHALLOWEST, DEEPEST = 96, 16384
"""Fewer elements of a vector seldom lose as little as a chain; sums of more might leave int32 from 43690 on, and
would not fit the cache."""
DEEPEST_TURNED, DEEPEST_PART = 4096, 2048
"""Rows that are turned lie in the cache a second time; partial sums are taken of parts that leave room there."""
FEWEST_ROWS = 8
"""A tile takes as long for fewer rows."""
MOST_LOCAL_DEPTH = 4096
STEP_CYCLES = 300
"""Cycles of a step of one tile: eight products of 16, slowed by memory and, by half or twice that, by what shares the
core: tile operations suffer from that more than multiply-adds do."""
SHORT_DEPTH, LONG_FACTOR = 256, 1.35
"""Fewer elements often want a fourth digit, which takes so much longer."""
STORE_CYCLES = 100
"""Cycles to store a tile through the epilogue, most of it while another is multiplied."""
GAIN = 0.8
"""Fixed point is used where its estimate is at most this part of the other's."""
ROW_CYCLES, TURN_CYCLES = 0.7, 0.8
"""Cycles to split an element of the rows, and to turn it before where the depth is not contiguous."""
AHEAD_CYCLES, AHEAD_TILE_CYCLES, AHEAD_START_CYCLES = 0.3, 1000, 8000
"""Cycles to fetch and to write an element more where rows are split by a kernel of their own, what a tile of it costs
besides, and what each thread takes to begin it and to meet the others."""
COLUMN_CYCLES = 1.8
"""Cycles to split an element of columns in every run."""
SUM_CYCLES = 2.0
"""Cycles to store an element of a partial sum and to load it again."""
PAGE_BYTES, MOST_PAGES, LINE_CYCLES = 4096, 64, 20
"""Tiles of rows in more pages than the first-level table of translations holds cost so many cycles a line."""
WORD_CYCLES, NEAR_WORD_CYCLES = 0.6, 0.2
"""Cycles to fetch a word of columns, most of them while tiles are multiplied; one that the cache holds."""
TASK_CYCLES = 8000
IDLE = 0.1
"""What a thread waits for others at the end, in parts of a task: cores differ in speed, most of all with tiles."""


@dataclass(frozen=True)
class FixedBlocking:
    """How a contraction is cut: ``fallback`` has the tasks, ``levels`` the depth as rows have it.

    ``group_tiles`` tiles of 16 rows stay split in the second-level cache while panels pass. ``turned`` rows are
    first copied so that their depth is contiguous, as one run. With ``ahead`` a kernel of its own splits all rows once.
    """

    fallback: Blocking
    levels: tuple[LoopAxis, ...]
    chunk_rows: int
    group_tiles: int
    turned: bool
    ahead: bool = False

    @property
    def runs(self) -> int:
        """Runs of contiguous depth."""
        return extent_of(self.levels[:-1])

    @property
    def steps(self) -> int:
        """Tile products along the depth."""
        return self.runs * -(-self.levels[-1].extent // STEP)


def fits_fixed(problem: Problem, target: CpuTarget) -> bool:
    """Whether the contraction can be multiplied in fixed point: rows must be contiguous, or their depth."""
    return (
        target.has("amx-tile")
        and target.has("amx-int8")
        and target.has_masks
        and problem.dtype is float32
        and not problem.pairs
        and not problem.spread
        and SHALLOWEST <= problem.depth_count <= DEEPEST
        and (can_block(problem) or problem.depth_count <= MOST_LOCAL_DEPTH)
        and bool(problem.rows and problem.columns)
        and (not turns_rows(problem) or (rows_run(problem) and problem.depth_count <= DEEPEST_TURNED))
        and problem.columns[-1].extent >= LANES
        and problem.row_count >= FEWEST_ROWS
    )


def turns_rows(problem: Problem) -> bool:
    """Whether rows do not have their depth contiguous."""
    return problem.depth[-1].strides[problem.row_operand] != 1


def rows_run(problem: Problem) -> bool:
    """Whether the rows of every tile lie next to each other at each step of the depth."""
    axes = merge(problem.rows, [problem.row_operand])
    whole = axes[-1].extent % LANES == 0 or (len(axes) == 1 and axes[-1].extent >= LANES)
    return whole and axes[-1].strides[problem.row_operand] == 1


def fixed_form(problem: Problem, target: CpuTarget) -> Problem | None:
    """Return the problem as fixed point can multiply it: whole, as partial sums over the depth, or not at all."""
    if fits_fixed(problem, target):
        return problem
    partial = cut_depth(problem, DEEPEST_PART) if problem.depth_count > DEEPEST_TURNED else None
    return partial if partial is not None and fits_fixed(partial, target) else None


def choose_fixed(problem: Problem, target: CpuTarget, threads: int, constants: frozenset[int]) -> Problem | None:
    """Return the form in which fixed point is expected to be faster than fused multiply-adds, by estimated cycles."""
    form = fixed_form(problem, target)
    if form is None:
        return None
    cycles = fixed_cycles(form, target, threads, constants)
    if form is not problem:
        cycles += problem.row_count * problem.columns[-1].extent * SUM_CYCLES
    return form if cycles < GAIN * fma_cycles(form, target, threads, PACKED) else None


def fixed_cycles(problem: Problem, target: CpuTarget, threads: int, constants: frozenset[int]) -> float:
    """Estimate the cycles of all threads together, those to split columns that are no constants among them."""
    found = choose_fixed_blocking(problem, target, threads)
    groups = problem.batch_count * extent_of(problem.columns[:-1])
    tasks = found.fallback.row_chunks * found.fallback.column_chunks
    busy = _task_cycles(problem, target, found, found.fallback.row_chunks, found.fallback.column_chunks)
    once = problem.panel_operand in constants
    columns = 0.0 if once else problem.columns[-1].extent * problem.depth_count * COLUMN_CYCLES
    ahead = _ahead_cycles(problem, found, threads)
    return busy * -(-groups * tasks // threads) * threads / max(1, groups) + columns + ahead


def _ahead_cycles(problem: Problem, found: FixedBlocking, threads: int) -> float:
    """Estimate the cycles of all threads together to split the rows before the tasks, if that is so."""
    if not found.ahead:
        return 0.0
    tiles = problem.batch_count * extent_of(problem.columns[:-1]) * -(-problem.row_count // LANES)
    split = LANES * found.steps * STEP * (ROW_CYCLES + AHEAD_CYCLES)
    return tiles * (split + AHEAD_TILE_CYCLES) + threads * AHEAD_START_CYCLES


def _splits_ahead(problem: Problem) -> bool:
    """Whether rows can be split by a kernel of their own: windows would make far more of them than the operand has."""
    elements = problem.batch_count * problem.row_count * problem.depth_count
    return not turns_rows(problem) and elements <= problem.sizes[problem.row_operand]


def _task_cycles(problem: Problem, target: CpuTarget, found: FixedBlocking, row_parts: int, column_parts: int) -> float:
    tiles = -(-problem.row_count // LANES)
    rows = -(-tiles // row_parts)
    panels = -(-found.fallback.panels // column_parts)
    columns = 2 * panels if panels > 1 else -(-min(BLOCK, problem.columns[-1].extent) // LANES)
    step = step_cycles(problem.depth_count)
    groups = -(-rows // found.group_tiles)
    work = rows * columns * (found.steps * step + STORE_CYCLES)
    split = 0 if found.ahead else rows * LANES * found.steps * STEP * (ROW_CYCLES + TURN_CYCLES * found.turned)
    pages = _tile_pages(problem)
    lines = rows * columns * LANES * len(pages) * LINE_CYCLES * (found.group_tiles * sum(pages) > MOST_PAGES)
    words = columns * found.steps * COLUMN_STEP_WORDS
    return work + split + lines + groups * words * word_cycles(words, target) + TASK_CYCLES


def step_cycles(depth: int) -> float:
    """Estimate the cycles of a step of one tile."""
    return STEP_CYCLES * (LONG_FACTOR if depth < SHORT_DEPTH else 1.0)


def word_cycles(words: int, target: CpuTarget) -> float:
    """Estimate the cycles to fetch one of so many words of columns that pass again and again."""
    return NEAR_WORD_CYCLES if words * 4 <= target.l2_bytes // 2 else WORD_CYCLES


def _tile_pages(problem: Problem) -> list[float]:
    """Return in how many pages the rows of a tile lie, for each tensor that the epilogue touches row by row."""
    strides = problem.rows[-1].strides[OUT:]
    sizes = (problem.out_dtype.itemsize, *(read.dtype.itemsize for read in problem.reads))
    apart = [stride * size for stride, size in zip(strides, sizes, strict=True) if stride]
    return [LANES * min(1.0, nbytes / PAGE_BYTES) for nbytes in apart]


def _group_sizes(chunk: int, fitting: int) -> list[int]:
    """Return the sizes of groups of tiles to choose from: whole parts of a chunk, doubling up to what fits."""
    wanted = [1 << n for n in range(fitting.bit_length())] + [fitting]
    return sorted({-(-chunk // -(-chunk // size)) for size in wanted})


@lru_cache(maxsize=256)
def choose_fixed_blocking(problem: Problem, target: CpuTarget, threads: int) -> FixedBlocking:
    """Choose tasks and row groups."""
    rows = problem.row_count
    base = choose_blocking(problem, target, threads, LOCAL)
    parts = -(-rows // 8)
    split = Split(rows, parts)
    levels, turned = merge(problem.depth, [problem.row_operand]), turns_rows(problem)
    if turned:
        levels = (LoopAxis(problem.depth_count, (1,) * len(levels[-1].strides)),)
    whole = replace(
        base,
        tile=RegisterTile(8, BLOCK // base.tile.lanes, base.tile.lanes),
        panels=-(-problem.columns[-1].extent // BLOCK),
        flat=len(problem.rows) > 1,
        tiles=split,
        tile_count=parts,
        row_chunks=1,
        column_chunks=1,
        staged=base.staged and len(problem.rows) == 1,
        ahead=False,
        joint=1,
        overwritten=frozenset(),  # on the way back inputs are read again after the output has been written
    )
    steps = FixedBlocking(whole, levels, rows, 1, turned).steps
    fitting = max(2, target.l2_bytes * 3 // 8 // (steps * ROW_STEP_WORDS * 4))
    tiles = -(-rows // LANES)
    once = _splits_ahead(problem)
    best: tuple[float, FixedBlocking] | None = None
    for row_parts in range(1, min(tiles, 8 * threads) + 1):
        chunk = -(-tiles // row_parts)
        chunk_tiles = 2 * chunk  # of eight rows
        row_chunks = -(-parts // chunk_tiles)
        if row_chunks != row_parts:
            continue
        sizes = _group_sizes(chunk, fitting)
        for wanted in range(1, min(whole.panels, 8 * threads) + 1):
            panels = -(-whole.panels // wanted)
            column_chunks = -(-whole.panels // panels)
            tasks = row_chunks * column_chunks
            if column_chunks != wanted or (tasks > 8 * threads and tasks > 1) or (threads == 1 and tasks > 1):
                continue
            fallback = replace(
                whole,
                row_chunks=row_chunks,
                column_chunks=column_chunks,
                block_panels=min(whole.block_panels, panels),
            )
            chunk_rows = min(rows, chunk_tiles * (split.size + (1 if split.extra else 0)))
            groups = problem.batch_count * extent_of(problem.columns[:-1])
            rounds = -(-groups * tasks // threads)
            for size, ahead in product(sizes, (False, True) if column_chunks > 1 and once else (False,)):
                found = FixedBlocking(fallback, levels, chunk_rows, size, turned, ahead)
                cost = rounds * _task_cycles(problem, target, found, row_chunks, column_chunks)
                cost *= 1 + IDLE * threads / (groups * tasks)
                cost += _ahead_cycles(problem, found, threads) / threads
                if best is None or cost < best[0]:
                    best = (cost, found)
    assert best is not None
    return best[1]
