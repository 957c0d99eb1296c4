"""Decides whether a weight gradient runs by Winograd's F(3x3, 2x2), and how it is cut for it.

Pure decisions from shapes, target and thread count, in estimated cycles. It must not build kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from dlc.codegen.contract.blocking import PACKED, RegisterTile, register_tile
from dlc.codegen.contract.cost import fma_cycles
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.fixed_blocking import choose_fixed, fixed_cycles
from dlc.codegen.winograd.blocking import AGAIN_CYCLES, FMA_EFFICIENCY, GAIN, INPUT_CYCLES, TASK_CYCLES
from dlc.codegen.winograd.problem import POINTS, REACH, STEP
from dlc.codegen.winograd.taps_problem import TapsProblem

BLOCK_TILES = 64, 32
"""Tiles whose products are added up before their sum is added to that of the tiles before: shorter chains round less,
longer ones store less."""
MOST_LINE_TILES = 128
"""Longer lines of tiles make chains too long."""
FEWEST_POSITIONS = 1000
"""With fewer, too few terms count in a tap of ordinary data (activations and gradients half of which are zero), so
that channels would be found out and go the direct way."""
SMALLEST_IMAGE = 4
"""In smaller images taps at the corners see few of the positions that pairs of channels are judged by."""
MOST_REGIONS = 32
"""Parts of the images whose magnitudes are tallied apart."""
VALUE_CYCLES, TALLY_CYCLES = 20.0, 2.0
"""Cycles to transform one vector of a tile's values, and to add up the magnitudes of one vector of a pixel."""
TAP_CYCLES = 60.0
"""Cycles to turn a vector of the products' sums into taps, and to clear it before."""
SCRATCH_SHARE = 0.9
"""Of the second-level cache, for what a task keeps there."""


@dataclass(frozen=True)
class TapsBlocking:
    """How a weight gradient is cut: tasks are parts of ``channels`` x ``columns``, each over all tiles.

    ``lines`` lines of tiles are multiplied at a time, ``region_blocks`` times as many are watched together.
    """

    tile: RegisterTile
    channels: int
    columns: int
    lines: int
    block_tiles: int
    region_blocks: int

    @property
    def channel_pitch(self) -> int:
        """Elements from one transformed tile's channels to the next one's, off powers of two for the caches."""
        return self.channels + self.tile.lanes

    @property
    def column_pitch(self) -> int:
        return self.columns + self.tile.lanes

    @property
    def input_plane(self) -> int:
        """Elements from one point of the transformed inputs to the next."""
        return self.block_tiles * self.channel_pitch + self.tile.lanes

    @property
    def value_plane(self) -> int:
        return self.block_tiles * self.column_pitch + self.tile.lanes

    @property
    def sum_plane(self) -> int:
        return self.channels * self.columns + self.tile.lanes

    @property
    def scratch_bytes(self) -> int:
        """Bytes of transformed inputs and values and of the products' sums."""
        return 4 * POINTS * (self.input_plane + self.value_plane + self.sum_plane)

    def regions(self, found: TapsProblem) -> int:
        return -(-found.all_lines // (self.lines * self.region_blocks))


def choose_taps(found: TapsProblem, target: CpuTarget, threads: int, panels_from: str) -> TapsBlocking | None:
    """Return how to cut the weight gradient, None where another path is expected to be about as fast or faster.

    That is always so where the panel operand is a constant, which the direct way would have packed ahead.
    """
    if found.problem.depth_count < FEWEST_POSITIONS or panels_from == PACKED:
        return None
    if min(found.height.extent, found.width.extent) < SMALLEST_IMAGE:
        return None
    best = best_taps_blocking(found, target, threads)
    if best is None:
        return None
    cycles, blocking = best
    fixed = choose_fixed(found.problem, target, threads, frozenset())
    if fixed is not None:
        other = fixed_cycles(fixed, target, threads, frozenset())
    else:
        other = fma_cycles(found.problem, target, threads, panels_from)
    return blocking if cycles < GAIN * other / threads else None


def best_taps_blocking(found: TapsProblem, target: CpuTarget, threads: int) -> tuple[float, TapsBlocking] | None:
    """Return the cut of the fewest estimated cycles and these, None where channels do not come in whole vectors."""
    costs = ((taps_cycles(found, b, threads), b) for b in _candidates(found, target))
    return min(costs, key=lambda pair: pair[0], default=None)


def _candidates(found: TapsProblem, target: CpuTarget) -> Iterator[TapsBlocking]:
    tile = register_tile(target, 4, found.column.extent)
    if found.line_tiles > MOST_LINE_TILES:
        return
    channels, columns = (_parts(axis.extent, tile.lanes) for axis in (found.channels, found.column))
    for part, other, tiles in product(channels, columns, BLOCK_TILES):
        lines = min(found.all_lines, max(1, tiles // found.line_tiles))
        region_blocks = -(-found.all_lines // (lines * MOST_REGIONS))
        blocking = TapsBlocking(tile, part, other, lines, lines * found.line_tiles, region_blocks)
        if blocking.scratch_bytes <= SCRATCH_SHARE * target.l2_bytes:
            yield blocking


def _parts(extent: int, lanes: int) -> list[int]:
    """Return the sizes of equal parts that are whole vectors."""
    return [part for part in range(lanes, extent + 1, lanes) if extent % part == 0]


def taps_cycles(found: TapsProblem, blocking: TapsBlocking, threads: int) -> float:
    """Estimate the cycles until the last thread is done."""
    tile, lanes = blocking.tile, blocking.tile.lanes
    tasks = found.channels.extent // blocking.channels * (found.column.extent // blocking.columns)
    inputs, values = blocking.channels // lanes, blocking.columns // lanes
    row_tiles, panels = -(-blocking.channels // tile.rows), -(-blocking.columns // tile.width)
    products = POINTS * (blocking.channels * values / 2 + row_tiles * panels) / FMA_EFFICIENCY
    moves = inputs * INPUT_CYCLES + values * VALUE_CYCLES + STEP * (REACH * inputs + STEP * values) * TALLY_CYCLES
    tiles = found.all_lines * found.line_tiles
    blocks = -(-found.all_lines // blocking.lines)
    again = blocks * POINTS * blocking.channels * values * AGAIN_CYCLES
    cycles = tiles * (products + moves) + again + blocking.channels * values * TAP_CYCLES + TASK_CYCLES
    return -(-tasks // threads) * cycles
