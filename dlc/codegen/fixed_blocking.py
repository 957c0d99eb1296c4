"""Decides whether a contraction runs in fixed point on AMX, and how it is cut for it.

Pure decisions from shapes, target and thread count. It must not build kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlc.codegen.amx_micro import BLOCK
from dlc.codegen.contract_analysis import LoopAxis, Problem, extent_of, merge
from dlc.codegen.contract_blocking import LOCAL, PACKED, Blocking, RegisterTile, Split, can_block, choose_blocking
from dlc.codegen.contract_cost import fma_cycles
from dlc.codegen.fixed_point import COLUMN_STEP_WORDS, LANES, ROW_STEP_WORDS, STEP
from dlc.codegen.target import CpuTarget
from dlc.ir.types import float32

SHALLOWEST, DEEPEST = 96, 16384
"""Fewer elements of a vector seldom lose as little as a chain; sums of more might leave int32 from 43690 on, and
would not fit the cache."""
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
ROW_CYCLES = 1.0
"""Cycles to split an element of the rows."""
WORD_CYCLES = 0.1
"""Cycles to fetch a word of weights, most of them while tiles are multiplied."""
TASK_CYCLES = 8000


@dataclass(frozen=True)
class FixedBlocking:
    """How a contraction is cut: ``fallback`` has the tasks, ``levels`` the depth as rows have it.

    ``group_tiles`` tiles of 16 rows stay split in the second-level cache while panels pass.
    """

    fallback: Blocking
    levels: tuple[LoopAxis, ...]
    chunk_rows: int
    group_tiles: int

    @property
    def runs(self) -> int:
        """Runs of contiguous depth."""
        return extent_of(self.levels[:-1])

    @property
    def steps(self) -> int:
        """Tile products along the depth."""
        return self.runs * -(-self.levels[-1].extent // STEP)


def fits_fixed(problem: Problem, target: CpuTarget, constants: frozenset[int]) -> bool:
    """Whether the contraction can be multiplied in fixed point: weights, and rows whose depth is contiguous."""
    return (
        target.has("amx-tile")
        and target.has("amx-int8")
        and target.has_masks
        and problem.dtype is float32
        and problem.panel_operand in constants
        and not problem.pairs
        and not problem.spread
        and SHALLOWEST <= problem.depth_count <= DEEPEST
        and (can_block(problem) or problem.depth_count <= MOST_LOCAL_DEPTH)
        and bool(problem.rows and problem.columns)
        and problem.depth[-1].strides[problem.row_operand] == 1
        and problem.columns[-1].extent >= LANES
        and problem.row_count >= FEWEST_ROWS
    )


def fixed_pays(problem: Problem, target: CpuTarget, threads: int, constants: frozenset[int]) -> bool:
    """Whether fixed point is expected to be faster than fused multiply-adds, by estimated cycles."""
    if not fits_fixed(problem, target, constants):
        return False
    return fixed_cycles(problem, target, threads) < GAIN * fma_cycles(problem, target, threads, PACKED)


def fixed_cycles(problem: Problem, target: CpuTarget, threads: int) -> float:
    """Estimate the cycles of all threads together."""
    found = choose_fixed_blocking(problem, target, threads)
    groups = problem.batch_count * extent_of(problem.columns[:-1])
    tasks = found.fallback.row_chunks * found.fallback.column_chunks
    busy = _task_cycles(problem, found, found.fallback.row_chunks, found.fallback.column_chunks)
    return busy * -(-groups * tasks // threads) * threads / max(1, groups)


def _task_cycles(problem: Problem, found: FixedBlocking, row_parts: int, column_parts: int) -> float:
    tiles = -(-problem.row_count // LANES)
    rows = -(-tiles // row_parts)
    panels = -(-found.fallback.panels // column_parts)
    columns = 2 * panels if panels > 1 else -(-min(BLOCK, problem.columns[-1].extent) // LANES)
    groups = -(-rows // found.group_tiles)
    step = STEP_CYCLES * (LONG_FACTOR if problem.depth_count < SHORT_DEPTH else 1.0)
    work = rows * columns * (found.steps * step + STORE_CYCLES)
    split = rows * LANES * found.steps * STEP * ROW_CYCLES
    return work + split + groups * columns * found.steps * COLUMN_STEP_WORDS * WORD_CYCLES + TASK_CYCLES


def choose_fixed_blocking(problem: Problem, target: CpuTarget, threads: int) -> FixedBlocking:
    """Choose tasks and row groups."""
    rows = problem.row_count
    base = choose_blocking(problem, target, threads, LOCAL)
    parts = -(-rows // 8)
    split = Split(rows, parts)
    levels = merge(problem.depth, [problem.row_operand])
    whole = replace(
        base,
        tile=RegisterTile(8, BLOCK // base.tile.lanes, base.tile.lanes),
        panels=-(-problem.columns[-1].extent // BLOCK),
        flat=True,
        tiles=split,
        tile_count=parts,
        row_chunks=1,
        column_chunks=1,
        staged=False,
        ahead=False,
        overwritten=frozenset(),  # on the way back inputs are read again after the output has been written
    )
    steps = FixedBlocking(whole, levels, rows, 1).steps
    fitting = max(2, target.l2_bytes * 5 // 8 // (steps * ROW_STEP_WORDS * 4))
    tiles = -(-rows // LANES)
    best: tuple[float, FixedBlocking] | None = None
    for row_parts in range(1, min(tiles, 8 * threads) + 1):
        chunk = -(-tiles // row_parts)
        chunk_tiles = 2 * chunk  # of eight rows
        row_chunks = -(-parts // chunk_tiles)
        if row_chunks != row_parts:
            continue
        group = -(-chunk // -(-chunk // fitting))
        for wanted in range(1, min(whole.panels, 8 * threads) + 1):
            panels = -(-whole.panels // wanted)
            column_chunks = -(-whole.panels // panels)
            tasks = row_chunks * column_chunks
            if column_chunks != wanted or (tasks > 4 * threads and tasks > 1) or (threads == 1 and tasks > 1):
                continue
            fallback = replace(
                whole,
                row_chunks=row_chunks,
                column_chunks=column_chunks,
                block_panels=min(whole.block_panels, panels),
            )
            chunk_rows = min(rows, chunk_tiles * (split.size + (1 if split.extra else 0)))
            found = FixedBlocking(fallback, levels, chunk_rows, group)
            groups = problem.batch_count * extent_of(problem.columns[:-1])
            rounds = -(-groups * tasks // threads)
            cost = rounds * _task_cycles(problem, found, row_chunks, column_chunks)
            if best is None or cost < best[0]:
                best = (cost, found)
    assert best is not None
    return best[1]
