"""Decides whether a contraction runs on AMX, and how it is cut for it.

Pure decisions from shapes, target and thread count. It must not build kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlc.codegen.amx_micro import BLOCK, STEP, TILE
from dlc.codegen.contract_analysis import LoopAxis, Problem, extent_of
from dlc.codegen.contract_blocking import (
    LOCAL,
    PACKED,
    Blocking,
    RegisterTile,
    Split,
    choose_blocking,
    register_tile,
)
from dlc.codegen.target import CpuTarget
from dlc.ir.types import float32

SHORTEST_DEPTH = 64
"""Below this, splitting loses precision against a chain of fused multiply-adds, and costs too much."""
MOST_GROUP_TILES = 32
LONGEST_PASS = 32
"""Depth steps of a pass at most."""
TILE_STEP_CYCLES = 12 * 16 * 1.4
"""Cycles of a depth step of one row tile and one panel: twelve tile products, slowed by memory and power."""
SPLIT_ROW_CYCLES, SPLIT_PANEL_CYCLES, PACK_CYCLES = 0.7, 0.5, 0.5
"""Cycles to split one element of rows, one of a panel, which comes from farther away, and to pack one."""
SPLIT_CROSSED_ROW_CYCLES = ((4096, 12.0), (512, 6.0), (1, 3.0))
"""Bytes that divide the distance of depth steps -> cycles to split one element of rows that are gathered: steps far
and evenly apart share few cache sets."""
FAR_PANEL_CYCLES = 1.2
"""Cycles to split one element of panels that no cache holds."""
FMA_FLOPS_PER_CYCLE = 57
"""What the other path reaches of 64, with vectors of 16 lanes."""


@dataclass(frozen=True)
class AmxBlocking:
    """How a contraction is cut for AMX.

    ``blocking`` holds tasks, panels and the cut of the depth. ``fallback`` has the same tasks, for operands that
    cannot be split. ``group_tiles`` row tiles of a task stay split in cache while panels pass; ``pass_steps`` is
    the most depth steps of a pass.
    """

    blocking: Blocking
    fallback: Blocking
    chunk_rows: int
    group_tiles: int
    pass_steps: int


def fits_amx(problem: Problem, target: CpuTarget, panels_from: str) -> bool:
    """Whether the contraction can run on AMX."""
    return (
        target.has("amx-tile")
        and target.has("amx-bf16")
        and target.has_masks
        and problem.dtype is float32
        and not problem.pairs
        and not problem.spread
        and panels_from in (PACKED, LOCAL)
        and problem.depth_count >= SHORTEST_DEPTH
        and problem.columns[-1].extent > TILE
        and bool(problem.rows)
    )


def amx_pays(problem: Problem, target: CpuTarget, threads: int, panels_from: str) -> bool:
    """Whether AMX is expected to be faster than fused multiply-adds, by estimated cycles."""
    if not fits_amx(problem, target, panels_from):
        return False
    fma = fma_cycles(problem, target, threads, panels_from)
    return amx_cycles(problem, target, threads, panels_from) < fma * 0.9


def amx_cycles(problem: Problem, target: CpuTarget, threads: int, panels_from: str) -> float:
    """Estimate the cycles of all threads together on AMX."""
    found = choose_amx_blocking(problem, target, threads, panels_from)
    rows, depth, panels = problem.row_count, problem.depth_count, found.blocking.panels
    levels, passes = found.blocking.levels, found.blocking.passes
    steps = extent_of(levels[:-1]) * -(-levels[-1].extent // STEP)
    tiles = -(-rows // TILE)
    visits = found.blocking.column_chunks
    if passes > 1:
        visits *= -(-panels // (found.blocking.column_chunks * found.blocking.block_panels))
    row_groups = max(-(-rows // (found.group_tiles * TILE)), found.blocking.row_chunks)
    amx = tiles * panels * steps * TILE_STEP_CYCLES
    amx += rows * depth * visits * _split_row_cycles(problem)
    weights = panels * BLOCK * depth
    fetch = FAR_PANEL_CYCLES if weights * problem.dtype.itemsize > target.l3_bytes else SPLIT_PANEL_CYCLES
    amx += weights * row_groups * (fetch + PACK_CYCLES * (panels_from == LOCAL))
    return amx + -(-tiles // 2) * panels * (350 + 250 * (passes - 1))


def fma_cycles(problem: Problem, target: CpuTarget, threads: int, panels_from: str) -> float:
    """Estimate the cycles of all threads together by fused multiply-adds."""
    itemsize, columns = problem.dtype.itemsize, problem.columns[-1].extent
    width = register_tile(target, itemsize, columns).width
    weights = -(-columns // width) * width * problem.depth_count
    fma = 2.0 * (-(-problem.row_count // 14) * 14) * weights / (FMA_FLOPS_PER_CYCLE * target.lanes(itemsize) / 16)
    if panels_from == LOCAL:
        fma += weights * choose_amx_blocking(problem, target, threads, LOCAL).blocking.row_chunks * PACK_CYCLES
    return fma


def _split_row_cycles(problem: Problem) -> float:
    """Estimate the cycles to split one element of the rows."""
    stride = problem.depth[-1].strides[problem.row_operand] if problem.depth else 1
    if stride == 1:
        return SPLIT_ROW_CYCLES
    apart = stride * problem.dtype.itemsize
    return next(cycles for divisor, cycles in SPLIT_CROSSED_ROW_CYCLES if apart % divisor == 0)


def choose_amx_blocking(problem: Problem, target: CpuTarget, threads: int, panels_from: str) -> AmxBlocking:
    """Choose tasks, row groups, panel blocks and depth passes."""
    rows = problem.row_count
    base = choose_blocking(problem, target, threads, panels_from)
    parts = -(-rows // 8)
    row_chunks, column_chunks = _chunks(problem, base, threads)
    tile_chunk = -(-parts // row_chunks)
    split = Split(rows, parts)
    fallback = replace(
        base,
        tile=RegisterTile(8, base.tile.vectors, base.tile.lanes),
        flat=True,
        tiles=split,
        tile_count=parts,
        row_chunks=row_chunks,
        column_chunks=column_chunks,
        staged=False,
        ahead=False,
        overwritten=frozenset(),  # on the way back inputs are read again after the output has been written
        block_panels=min(base.block_panels, -(-base.panels // column_chunks)),
    )
    chunk_rows = min(rows, tile_chunk * (split.size + (1 if split.extra else 0)))
    row_tiles = -(-chunk_rows // TILE)
    row_groups = -(-row_tiles // MOST_GROUP_TILES)
    group_tiles = -(-row_tiles // row_groups)
    group_tiles += group_tiles % 2
    # Split rows fill about a third of the second-level cache.
    budget = max(4, target.l2_bytes * 2 // 5 // (group_tiles * TILE * 6 * STEP))
    level, block = _cut(base.levels, min(budget, LONGEST_PASS) * STEP)
    blocking = replace(fallback, depth_level=level, depth_block=block)
    chunk_panels = -(-base.panels // column_chunks)
    if blocking.passes > 1:
        sums = max(1, target.l2_bytes // (group_tiles // 2 * BLOCK * BLOCK * 4))
        block_panels = -(-chunk_panels // -(-chunk_panels // sums))
    else:
        block_panels = chunk_panels
    blocking = replace(blocking, block_panels=block_panels)
    inner = base.levels[level + 1 :]
    if inner:
        steps = block * extent_of(inner[:-1]) * -(-inner[-1].extent // STEP)
    else:
        steps = -(-block // STEP)
    return AmxBlocking(blocking, fallback, chunk_rows, group_tiles, steps)


def _cut(levels: tuple[LoopAxis, ...], fitting: int) -> tuple[int, int]:
    """Choose the level and step at which the depth is cut into passes of about ``fitting`` iterations."""
    inner = extent_of(levels)
    if inner <= fitting * 5 // 4:
        return 0, levels[0].extent
    for number, level in enumerate(levels):
        inner //= level.extent
        if inner <= fitting:
            parts = -(-level.extent // max(1, fitting // inner))
            block = -(-level.extent // parts)
            if number == len(levels) - 1:
                block = -(-block // STEP) * STEP
            return number, block
    return len(levels) - 1, -(-fitting // STEP) * STEP


def _chunks(problem: Problem, base: Blocking, threads: int) -> tuple[int, int]:
    """Cut each group into row chunks x column chunks: equal work, little split twice."""
    if threads == 1:
        return 1, 1
    groups = problem.batch_count * extent_of(problem.columns[:-1])
    rows, panels = problem.row_count, base.panels
    best: tuple[float, int, int] | None = None
    for row_parts in range(1, min(-(-rows // BLOCK), 8 * threads) + 1):
        for column_parts in range(1, min(panels, 8 * threads) + 1):
            tasks = groups * row_parts * column_parts
            if tasks > 8 * threads and row_parts * column_parts > 1:
                break
            blocks, widest = -(-rows // row_parts / BLOCK) // 1, -(-panels // column_parts)
            rounds = -(-tasks // threads)
            work = rounds * blocks * widest * threads / (groups * rows / BLOCK * panels)
            split = 85 * (
                SPLIT_ROW_CYCLES * column_parts / (panels * BLOCK)
                + SPLIT_PANEL_CYCLES * max(row_parts, rows / 512) / rows
            )
            cost = work * (1 + split) + 0.02 * threads / tasks
            if best is None or cost < best[0]:
                best = (cost, row_parts, column_parts)
    assert best is not None
    row_parts, column_parts = best[1:]
    return row_parts, -(-panels // -(-panels // column_parts))
