"""Decides whether a contraction by pairs runs on AMX, and how it is cut for it.

Pure decisions from shapes, target and thread count. It must not build kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlc.codegen.contract.analysis import Problem, extent_of, merge
from dlc.codegen.contract.blocking import LOCAL, PACKED, Blocking, choose_blocking
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.pair_runs import PairRuns, pair_runs
from dlc.codegen.tiles.sizes import STEP, TILE, TILE_ELEMENTS

FEWEST_ROWS = 8
"""A tile product takes as long for fewer rows: vectors of pairs do those as fast."""
LEAST_FILLED = 1 / 8
"""Part of a panel and of a run's tiles that should be numbers and not filling."""
PRODUCT_CYCLES = 34
"""Cycles of a tile product with its load, slowed by what shares the core."""
STORE_CYCLES = 150
"""Cycles to store a tile through the epilogue."""
COPY_CYCLES, RUN_CYCLES = 5, 8
"""Cycles to copy a step of a row, and to begin a run."""
FETCH_CYCLES, FIRST_FETCH_CYCLES = 10, 100
"""Cycles to fetch a tile of weights that no near cache holds: asked for before, or of a task's first panel."""
PACK_CYCLES = 0.5
TASK_CYCLES = 4000
MOST_TASKS = 8
"""Tasks of a thread at most."""
UNFAIRNESS = 0.06
"""Part of the time that is lost where every thread has one task: cores are not equally fast."""


@dataclass(frozen=True)
class Lines:
    """Rows as they lie in their operand: ``count`` lines of ``width`` rows that are ``stride`` elements apart.

    ``pitch`` such strides lie between lines, so that tiles may run through lines and what is between them.
    """

    count: int
    width: int
    pitch: int
    stride: int

    @property
    def rows(self) -> int:
        """Rows from the first to the last, with those between lines."""
        return (self.count - 1) * self.pitch + self.width


@dataclass(frozen=True)
class PairsBlocking:
    """How a contraction is cut: ``blocking`` has the tasks, each of ``chunk_tiles`` row tiles.

    Rows are multiplied as they lie in ``lines``, or copied, ``group_tiles`` row tiles at a time.
    """

    blocking: Blocking
    runs: PairRuns
    lines: Lines | None
    rows: int
    chunk_tiles: int
    group_tiles: int

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.blocking.tile.width


def amx_takes_pairs(problem: Problem, target: CpuTarget, panels_from: str) -> bool:
    """Whether the contraction runs on AMX: tiles of enough rows, columns and depth."""
    if not (
        target.has("amx-tile")
        and target.has("amx-bf16")
        and target.has_masks
        and problem.pairs
        and panels_from in (PACKED, LOCAL)
        and problem.row_count >= FEWEST_ROWS
    ):
        return False
    columns, runs = problem.columns[-1].extent, pair_runs(problem)
    filled = runs.elements / (runs.run_steps * STEP) * min(1.0, columns / TILE)
    return filled >= LEAST_FILLED


def even_lines(problem: Problem) -> Lines | None:
    """Return how rows lie in their operand, None where tiles cannot run through them."""
    axes = merge(problem.rows, [problem.row_operand])
    inner = axes[-1]
    stride = inner.strides[problem.row_operand]
    if stride <= 0 or (inner.extent != problem.rows[-1].extent and len(axes) > 1):
        return None
    if len(axes) == 1:
        return Lines(1, inner.extent, inner.extent, stride)
    apart = axes[0].strides[problem.row_operand]
    if len(axes) > 2 or apart % stride or apart // stride < inner.extent:
        return None
    return Lines(axes[0].extent, inner.extent, apart // stride, stride)


def choose_pairs_blocking(problem: Problem, target: CpuTarget, threads: int, panels_from: str) -> PairsBlocking:
    """Choose tasks, row groups, and whether rows are copied: what is expected to take the fewest cycles."""
    runs = pair_runs(problem)
    base = replace(choose_blocking(problem, target, threads, panels_from), staged=False, ahead=False, joint=1)
    lines = even_lines(problem) if runs.whole else None
    choices: list[tuple[Lines | None, int, int]] = [(None, problem.row_count, runs.steps * TILE_ELEMENTS * 2)]
    if lines is not None and lines.rows >= TILE:
        choices.append((lines, lines.rows, TILE * lines.stride * 2))
    best: tuple[float, PairsBlocking] | None = None
    for where, rows, tile_bytes in choices:
        fitting = max(2, target.l2_bytes * 2 // 5 // tile_bytes)
        tiles = -(-rows // TILE)
        for parts in range(1, min(tiles, MOST_TASKS * threads) + 1):
            chunk = -(-tiles // parts)
            if parts > 1:
                chunk += chunk % 2
            if -(-tiles // chunk) != parts:
                continue
            for wanted in range(1, min(base.panels, MOST_TASKS * threads) + 1):
                panels = -(-base.panels // wanted)
                tasks = extent_of(problem.batch) * extent_of(problem.columns[:-1]) * parts * wanted
                if -(-base.panels // panels) != wanted or (parts * wanted > 1 and tasks > MOST_TASKS * threads):
                    continue
                group = -(-chunk // -(-chunk // fitting))
                blocking = replace(base, row_chunks=parts, column_chunks=wanted, block_panels=panels)
                found = PairsBlocking(blocking, runs, where, rows, chunk, group + group % 2)
                cost = -(-tasks // threads) * _task_cycles(problem, found) * (1 + UNFAIRNESS * threads / tasks)
                if best is None or cost < best[0]:
                    best = (cost, found)
    assert best is not None
    return best[1]


def _task_cycles(problem: Problem, found: PairsBlocking) -> float:
    """Estimate the cycles of a task."""
    runs, panels = found.runs, found.blocking.block_panels
    tiles = panels * -(-min(found.width, problem.columns[-1].extent) // TILE)
    cycles: float = found.chunk_tiles * tiles * (runs.steps * PRODUCT_CYCLES + STORE_CYCLES)
    if found.lines is None:
        cycles += found.chunk_tiles * TILE * runs.count * (runs.run_steps * COPY_CYCLES + RUN_CYCLES)
    groups = -(-found.chunk_tiles // found.group_tiles)
    cycles += runs.steps * (groups * tiles * FETCH_CYCLES + found.width // TILE * FIRST_FETCH_CYCLES)
    if found.blocking.panels_from == LOCAL:
        cycles += groups * panels * found.width * runs.depth * PACK_CYCLES
    return cycles + TASK_CYCLES
