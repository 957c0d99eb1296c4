"""Decides whether a contraction runs by Winograd's F(2x2, 3x3), and how it is cut for it.

Pure decisions from shapes, target and thread count, in estimated cycles. It must not build kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from dlc.codegen.contract.blocking import LOCAL, PACKED, RegisterTile, register_tile
from dlc.codegen.contract.cost import fma_cycles
from dlc.codegen.target import L3_BYTES_PER_CYCLE, MEMORY_BYTES_PER_CYCLE, CpuTarget
from dlc.codegen.tiles.fixed_blocking import (
    DEEPEST,
    ROW_CYCLES,
    STORE_CYCLES,
    choose_fixed,
    fixed_cycles,
    step_cycles,
    word_cycles,
)
from dlc.codegen.tiles.fixed_point import COLUMN_STEP_WORDS
from dlc.codegen.tiles.fixed_point import STEP as FIXED_STEP
from dlc.codegen.tiles.sizes import BLOCK, TILE
from dlc.codegen.winograd.problem import POINTS, REACH, STEP, WinogradProblem

LONGEST_CHAIN = 64
"""Channels that are added up before their sum is added to that of the channels before: shorter chains round less, and
so outweigh what the transforms round. Few channels make two chains."""
FEWEST_TILES = 8
"""Fewer tiles of an image do not keep the micro-kernel busy."""
FEWEST_TILE_CHANNELS = 64
"""With fewer channels, steps of tiles of bytes would be partly empty."""
FEWEST_CHANNELS = 40
"""With fewer channels too few terms count in a result of ordinary data (activations half of which are zero, random
weights), so that blocks would be found out and go the direct way."""
FMA_EFFICIENCY = 0.9
INPUT_CYCLES, OUTPUT_CYCLES = 28.0, 30.0
"""Cycles to transform one vector of a tile's inputs, and of its outputs, epilogue included."""
WATCH_CYCLES, WATCH_PIXEL_CYCLES = 1.5, 25.0
"""Cycles to add up the magnitudes of one vector of channels of a pixel, and to finish a pixel."""
WEIGHT_CYCLES = 130.0
"""Cycles to transform and to watch one vector of filters of a channel."""
AGAIN_CYCLES = 1.5
"""Cycles to add a vector of a chain's sums to those before."""
TASK_CYCLES = 2000.0
GAIN = 0.9
"""Winograd is used where its estimate is at most this part of the other's."""
KIND_COST = 0.03
"""What another kind of block, and code of its own for it, is held against a cut."""
_LEAST_BLOCK_TILES, _MOST_BLOCK_TILES = 8, 256


@dataclass(frozen=True)
class Part:
    """A block along one axis: its tiles, and its outputs, one fewer than twice the tiles where the extent is odd."""

    tiles: int
    outputs: int


@dataclass(frozen=True)
class Cut:
    """An axis of ``outputs`` cut into blocks of ``size`` tiles; the last block takes what is left."""

    outputs: int
    size: int

    @property
    def blocks(self) -> int:
        return -(-self.outputs // (STEP * self.size))

    @property
    def parts(self) -> tuple[tuple[Part, int], ...]:
        """The different blocks, with how many there are: the whole ones, then the last if it differs."""
        whole = Part(self.size, STEP * self.size)
        rest = self.outputs - (self.blocks - 1) * whole.outputs
        last = Part(-(-rest // STEP), rest)
        if last == whole:
            return ((whole, self.blocks),)
        return ((whole, self.blocks - 1), (last, 1)) if self.blocks > 1 else ((last, 1),)


@dataclass(frozen=True)
class WinogradBlocking:
    """How a contraction is cut: tasks are images x column chunks x blocks of ``rows`` by ``columns`` tiles.

    ``chain`` channels are added up at a time. A transformed tile's channels are ``pitch`` elements apart from the
    next tile's; points of the transforms lie ``input_plane`` and ``product_plane`` elements apart. In fixed point, on
    AMX, the channels are multiplied in ``steps``, of which there are none otherwise.
    """

    tile: RegisterTile
    rows: Cut
    columns: Cut
    panels: int
    column_chunks: int
    chain: int
    pitch: int
    steps: int = 0

    @property
    def fixed(self) -> bool:
        """Whether products are multiplied in fixed point."""
        return self.steps > 0

    @property
    def chunk_panels(self) -> int:
        return -(-self.panels // self.column_chunks)

    @property
    def block_tiles(self) -> int:
        """The most tiles of a block."""
        return self.rows.parts[0][0].tiles * self.columns.parts[0][0].tiles

    @property
    def kinds(self) -> int:
        """Blocks of different size."""
        return len(self.rows.parts) * len(self.columns.parts)

    @property
    def input_plane(self) -> int:
        # One line more than needed, lest the sixteen points of a tile fall into one set of the cache.
        return self.block_tiles * self.pitch + self.tile.lanes

    @property
    def product_plane(self) -> int:
        return self.block_tiles * self.tile.width + self.tile.lanes

    @property
    def row_tiles(self) -> int:
        """The most tiles of rows of a point in fixed point: a row is a transformed tile of the block."""
        return -(-self.block_tiles // TILE)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of transformed inputs, of their digits in fixed point, and of products."""
        digits = self.row_tiles * TILE * self.steps * FIXED_STEP
        return 4 * POINTS * (self.input_plane + digits + self.product_plane)


def choose_winograd(found: WinogradProblem, target: CpuTarget, threads: int, constant: bool) -> WinogradBlocking | None:
    """Return how to cut the contraction, None where another path is expected to be about as fast or faster.

    ``constant`` says that the weights are transformed ahead, not in every run.
    """
    if prod(found.tiles) < FEWEST_TILES or found.channels.extent < FEWEST_CHANNELS:
        return None
    cycles, blocking = best_blocking(found, target, threads)
    if constant and fits_tiles(found, target):
        on_tiles = best_blocking(found, target, threads, fixed=True)
        if on_tiles[0] < GAIN * cycles:
            cycles, blocking = on_tiles
    cycles += 0.0 if constant else _preparation_cycles(found, blocking.tile, target, threads)
    problem = found.problem
    source = PACKED if constant else LOCAL
    fma = fma_cycles(problem, target, threads, source) + _fetch(problem.sizes[problem.panel_operand], target)
    constants = frozenset({problem.panel_operand}) if constant else frozenset()
    fixed = choose_fixed(problem, target, threads, constants)
    other = fixed_cycles(fixed, target, threads, constants) if fixed is not None else fma
    return blocking if cycles < GAIN * other / threads else None


def _preparation_cycles(found: WinogradProblem, tile: RegisterTile, target: CpuTarget, threads: int) -> float:
    """Estimate what transforming and watching weights takes that change from run to run."""
    size = found.problem.sizes[found.problem.panel_operand]
    filters = found.channels.extent * -(-found.column.extent // tile.lanes)
    transformed = POINTS * found.channels.extent * found.column.extent
    shared = filters * WEIGHT_CYCLES + 2 * _fetch(size, target) + 2 * _fetch(transformed, target)
    return shared / threads


def fits_tiles(found: WinogradProblem, target: CpuTarget) -> bool:
    """Whether products can be multiplied in fixed point on AMX: panels must be two tiles wide."""
    tiles = target.has("amx-tile") and target.has("amx-int8") and target.has_masks
    wide = register_tile(target, 4, found.column.extent).width == BLOCK
    return tiles and wide and FEWEST_TILE_CHANNELS <= found.channels.extent <= DEEPEST


def best_blocking(
    found: WinogradProblem, target: CpuTarget, threads: int, fixed: bool = False
) -> tuple[float, WinogradBlocking]:
    """Return the cut of the fewest estimated cycles, with few kinds of blocks, and its cycles."""
    costs = ((winograd_cycles(found, b, target, threads), b) for b in _candidates(found, target, threads, fixed))
    return min(costs, key=lambda pair: pair[0] * (1 + KIND_COST * pair[1].kinds))


def _candidates(found: WinogradProblem, target: CpuTarget, threads: int, fixed: bool) -> Iterator[WinogradBlocking]:
    tile = register_tile(target, 4, found.column.extent)
    panels = -(-found.column.extent // tile.width)
    channels = found.channels.extent
    steps = -(-channels // FIXED_STEP) if fixed else 0
    chain = -(-channels // max(2, -(-channels // LONGEST_CHAIN)))
    # Rows half a page apart share few sets of the first-level cache.
    pitch = channels + (tile.lanes if channels * 4 % 2048 == 0 else 0)
    high, wide = found.tiles
    least = min(_LEAST_BLOCK_TILES, high * wide)
    chunks = sorted({-(-panels // -(-panels // parts)) for parts in range(1, min(panels, 2 * threads) + 1)})
    for columns in _sizes(wide):
        for rows in _sizes(high):
            if not least <= rows * columns <= _MOST_BLOCK_TILES:
                continue
            cuts = Cut(found.height.extent, rows), Cut(found.width.extent, columns)
            for column_chunks in chunks:
                blocking = WinogradBlocking(tile, *cuts, panels, column_chunks, chain, pitch, steps)
                if rows * columns <= 2 * least or blocking.scratch_bytes <= target.l2_bytes:
                    yield blocking


def _sizes(tiles: int) -> list[int]:
    """Return the sizes of equal parts of so many tiles, larger ones first: lines of pixels then are long."""
    return sorted({-(-tiles // parts) for parts in range(1, tiles + 1)}, reverse=True)


def winograd_cycles(found: WinogradProblem, blocking: WinogradBlocking, target: CpuTarget, threads: int) -> float:
    """Estimate the cycles until the last thread is done."""
    images = prod(axis.extent for axis in found.images)
    sizes = [
        (rows.tiles * columns.tiles, count * many * images * blocking.column_chunks)
        for rows, count in blocking.rows.parts
        for columns, many in blocking.columns.parts
    ]
    costs = [(_task_cycles(found, blocking, target, tiles), count) for tiles, count in sizes]
    whole = sum(cost * count for cost, count in costs)
    largest = max(cost for cost, _ in costs)
    tasks = sum(count for _, count in costs)
    if tasks <= 2 * threads:
        return -(-tasks // threads) * largest
    return whole / threads + largest * (threads - 1) / (2 * threads)


def _task_cycles(found: WinogradProblem, blocking: WinogradBlocking, target: CpuTarget, tiles: int) -> float:
    """Estimate the cycles of one task of so many tiles."""
    vectors = -(-found.channels.extent // blocking.tile.lanes)
    products = blocking.chunk_panels * blocking.tile.vectors * tiles
    cycles = (_fixed_cycles if blocking.fixed else _fma_cycles)(found, blocking, target, tiles)
    cycles += tiles * vectors * INPUT_CYCLES + products * OUTPUT_CYCLES
    pixels = REACH * REACH if tiles == 1 else STEP * STEP * tiles * 1.25
    return cycles + pixels * (vectors * WATCH_CYCLES + WATCH_PIXEL_CYCLES) + TASK_CYCLES


def _fma_cycles(found: WinogradProblem, blocking: WinogradBlocking, target: CpuTarget, tiles: int) -> float:
    """Estimate the cycles of a task's products by multiply-adds."""
    tile, panels, channels = blocking.tile, blocking.chunk_panels, found.channels.extent
    products = panels * tile.vectors * tiles
    cycles = POINTS * channels * (products / 2 + panels * -(-tiles // tile.rows)) / FMA_EFFICIENCY
    cycles += POINTS * (-(-channels // blocking.chain) - 1) * products * AGAIN_CYCLES
    weights = POINTS * channels * panels * tile.width
    if weights * 4 + blocking.scratch_bytes > target.l2_bytes:
        cycles += _fetch(weights * blocking.column_chunks, target) / blocking.column_chunks
    return cycles


def _fixed_cycles(found: WinogradProblem, blocking: WinogradBlocking, target: CpuTarget, tiles: int) -> float:
    """Estimate the cycles of a task's products in fixed point, tiles split before."""
    row_tiles, channels = -(-tiles // TILE), found.channels.extent
    steps = blocking.steps
    column_tiles = POINTS * blocking.chunk_panels * blocking.tile.vectors
    cycles = column_tiles * row_tiles * (steps * step_cycles(channels) + STORE_CYCLES)
    cycles += POINTS * row_tiles * TILE * steps * FIXED_STEP * ROW_CYCLES
    words = column_tiles * steps * COLUMN_STEP_WORDS
    return cycles + words * word_cycles(words + blocking.scratch_bytes // 4, target)


def _fetch(elements: int, target: CpuTarget) -> float:
    """Estimate what it costs to have so many elements of weights fetched from beyond the second-level cache."""
    nbytes = 4 * elements
    rate = MEMORY_BYTES_PER_CYCLE if nbytes > target.l3_bytes else L3_BYTES_PER_CYCLE
    return 0.5 * nbytes / rate
