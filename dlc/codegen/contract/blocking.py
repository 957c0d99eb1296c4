"""Chooses register tiles, cache blocks and task chunks for a contraction.

Pure decisions from shapes, target and thread count. It must not build kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlc.codegen.contract.analysis import FIRST_READ, OUT, LoopAxis, Problem, extent_of, merge
from dlc.codegen.target import CpuTarget

PACKED, LOCAL, DIRECT = "packed", "local", "direct"
"""Where panels come from: packed by a kernel of its own, packed by each task into its scratch, or read in place."""
CACHE_WAY_BYTES = 4096
"""Addresses so far apart share a set of the first-level cache, whose index lies within a page on most processors."""
MOST_CONFLICTS = 7
"""So many lines of one set stay in the first-level cache beside the panel's."""
PACKING_ROWS = 16
"""Packing a panel costs about as much as multiplying it with so many rows."""
STAGING_COLUMNS = 16
"""Copying a row tile costs about as much as multiplying it with so many columns, more if its lines lie pages apart."""
FETCHING_ROWS = 2
"""Fetching a packed panel from far memory costs, in spite of prefetches, about as much as so many rows."""
WIDE_TILES = (16, 8, 6, 4, 3)
"""Vectors of tiles of few rows."""
LONG_TILE_ROWS = 3, 4
"""With 16 registers, tiles of so many rows take three vectors: two leave too few sums to hide the latency of one."""
LONG_RUNS = (4, 3)
"""Vectors of tiles for a short depth: the result is most of what is moved, and better written in long runs. Lines of
many rows often share sets of the first-level cache, too."""
MOST_HALF_VECTORS = 5
"""So many vectors of half the lanes leave rows enough in a tile."""
SHORT_DEPTH = 48
"""A tile of so few depth steps is done before its output's lines arrive."""
LONGER_SHORT_DEPTH = 96
"""The same where vectors pass in two halves: a store then takes two of the places of stores that wait to be written."""
MOST_STORES = 20
"""So many results of a tile find places there, and the next tile is multiplied meanwhile."""
FEW_TILES = 16
"""With so few row tiles per panel, fetching panels from far memory shows, and the next panel is fetched meanwhile."""
SMALL_FLOPS = 1 << 18
"""Below this a contraction is one task: waking other threads costs more than it saves."""


@dataclass(frozen=True)
class RegisterTile:
    """The largest micro-kernel: rows and vectors of accumulators, lanes per vector."""

    rows: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def pitch(self) -> int:
        """Elements per depth step of a staged row tile."""
        return -(-self.rows // self.lanes) * self.lanes


@dataclass(frozen=True)
class Split:
    """``total`` things in ``parts`` contiguous parts: the first ``extra`` have ``size`` + 1, the others ``size``."""

    total: int
    parts: int

    @property
    def size(self) -> int:
        return self.total // self.parts

    @property
    def extra(self) -> int:
        return self.total % self.parts


@dataclass(frozen=True)
class Blocking:
    """How a contraction is cut.

    ``flat``: row tiles run over all row axes as one (offsets per row), else over the innermost row axis only.
    ``tiles``: the rows that tiles run over, cut into tiles; ``tile_count`` counts tiles over all rows.
    ``row_chunks`` and ``column_chunks`` are tasks per group; ``block_panels`` panels stay in cache while row
    tiles pass; with ``ahead`` the next ones are fetched meanwhile. Depth level ``depth_level`` advances by
    ``depth_block`` iterations per pass. ``staged``: row tiles are first copied to scratch memory, some together.
    ``overwritten`` numbers the epilogue's reads that may be the output's own memory. ``joint`` packed panels are
    multiplied by one call where a tile has few rows.
    """

    tile: RegisterTile
    panels_from: str
    flat: bool
    tiles: Split
    tile_count: int
    panels: int
    row_chunks: int
    column_chunks: int
    block_panels: int
    levels: tuple[LoopAxis, ...]
    depth_level: int
    depth_block: int
    ahead: bool
    staged: bool
    overwritten: frozenset[int]
    joint: int

    @property
    def depth_blocks(self) -> int:
        """Blocks along ``depth_level``."""
        return -(-self.levels[self.depth_level].extent // self.depth_block)

    @property
    def pass_depth(self) -> int:
        """The most depth steps of one pass."""
        return extent_of(self.levels[self.depth_level + 1 :]) * self.depth_block

    @property
    def passes(self) -> int:
        """Times that the output is visited."""
        return extent_of(self.levels[: self.depth_level]) * self.depth_blocks


def register_tile(target: CpuTarget, itemsize: int, columns: int, row_count: int | None = None) -> RegisterTile:
    """Return the tile that keeps every accumulator, a panel row and one operand in registers.

    It may be wider for few rows, where their number is given.
    """
    lanes = target.lanes(itemsize)
    if target.vector_registers >= 32:
        rows, vectors = 14, 2
    elif target.has_fma:
        rows, vectors = 6, 2
        if row_count and -(-row_count // -(-row_count // rows)) in LONG_TILE_ROWS and columns >= 3 * lanes:
            rows, vectors = 4, 3
    else:  # products and broadcasts need registers of their own
        rows, vectors = 3, 3
    if columns <= lanes:
        rows, vectors = (14, 1) if target.vector_registers >= 32 else (8, 1)
    return RegisterTile(rows, vectors, lanes)


def _wide_tile(target: CpuTarget, tile: RegisterTile, rows: int, columns: int) -> RegisterTile:
    """Return a wider tile for few rows: panels read in place then come in longer runs."""
    for vectors in WIDE_TILES:
        if _fits_registers(target, rows, vectors) and vectors > tile.vectors and columns >= vectors * tile.lanes:
            return RegisterTile(rows, vectors, tile.lanes)
    return tile


def _long_run_tile(target: CpuTarget, tile: RegisterTile, columns: int) -> RegisterTile:
    """Return a wider tile of fewer rows for a short depth, if it keeps registers busy and panels full."""
    fullest = max(5 * columns // 4, -(-columns // tile.width) * tile.width)
    for vectors in LONG_RUNS:
        rows = next((n for n in range(tile.rows, 0, -1) if _fits_registers(target, n, vectors)), 0)
        wide = RegisterTile(rows, vectors, tile.lanes)
        busy = 4 * rows * vectors >= 3 * target.vector_registers
        if (
            busy
            and vectors > tile.vectors
            and wide.width <= columns
            and -(-columns // wide.width) * wide.width <= fullest
        ):
            return wide
    return tile


def _half_vector_tile(target: CpuTarget, tile: RegisterTile, columns: int) -> RegisterTile:
    """Return a tile of vectors of half the lanes if an odd number of them takes all columns: half a vector is saved."""
    lanes = tile.lanes // 2
    vectors = -(-columns // lanes)
    if vectors % 2 == 0 or vectors > MOST_HALF_VECTORS:
        return tile
    rows = next(n for n in range(tile.rows, 0, -1) if _fits_registers(target, n, vectors))
    return RegisterTile(rows, vectors, lanes)


def _fits_registers(target: CpuTarget, rows: int, vectors: int) -> bool:
    """Whether accumulators, one depth step of the panel (from memory, if one row reads it) and an operand do."""
    others = (vectors if rows > 1 else 0) + (1 if target.has_fma else 3)
    return rows * vectors + others <= target.vector_registers


def _best_tile(problem: Problem, target: CpuTarget, panels_from: str) -> RegisterTile:
    column = problem.columns[-1]
    tile = register_tile(target, problem.dtype.itemsize, column.extent, problem.row_count)
    if problem.spread:
        return tile
    if panels_from == DIRECT:
        tile = _wide_tile(target, tile, problem.row_count, column.extent)
    if _is_short(problem, target):
        tile = _long_run_tile(target, tile, column.extent)
    if target.double_pumped and not problem.pairs:
        tile = _half_vector_tile(target, tile, column.extent)
    return tile


def choose_blocking(
    problem: Problem, target: CpuTarget, threads: int, panels_from: str, tile: RegisterTile | None = None
) -> Blocking:
    """Choose tile, blocks and chunks; ``tile`` is given where panels are packed for it whatever is chosen here."""
    itemsize = problem.dtype.itemsize
    column = problem.columns[-1]
    tile = tile or _best_tile(problem, target, panels_from)
    most = tile.rows
    tile = replace(tile, rows=_most_rows(problem, target, tile))
    few = FEW_TILES * most // tile.rows
    panels = -(-column.extent // tile.width)
    merged = panels_from == PACKED and not problem.odd
    levels = merge(problem.depth, [problem.row_operand]) if merged else problem.depth
    if not levels:
        levels = (LoopAxis(1, (0,) * (OUT + 1 + len(problem.reads))),)
    flat, tiles, tile_count = _row_tiles(problem, tile)
    groups = problem.batch_count * extent_of(problem.columns[:-1])
    copied = _stages(problem, flat, panels, itemsize)
    row_chunks, column_chunks = _chunks(problem, groups, tile_count, panels, threads, panels_from, copied)
    chunk_panels = -(-panels // column_chunks)
    staged = _stages(problem, flat, chunk_panels, itemsize)
    level, block = _depth_blocking(problem, levels, staged, panels_from, target)
    depth = extent_of(levels[level + 1 :]) * block
    block_panels = max(1, target.l2_bytes // 2 // max(1, depth * tile.width * itemsize))
    chunk_tiles = -(-tile_count // row_chunks)
    far = tile_count <= few or chunk_panels * tile.width * extent_of(levels) * itemsize > target.l2_bytes // 2
    ahead = panels_from == PACKED and 1 < chunk_tiles <= few and far
    if tile_count == 1 and panels_from == PACKED:
        block_panels = panels  # each panel is used once
    return Blocking(
        tile=tile,
        panels_from=panels_from,
        flat=flat,
        tiles=tiles,
        tile_count=tile_count,
        panels=panels,
        row_chunks=row_chunks,
        column_chunks=column_chunks,
        block_panels=1 if ahead else min(block_panels, chunk_panels),
        levels=levels,
        depth_level=level,
        depth_block=block,
        ahead=ahead,
        staged=staged,
        joint=1 if panels_from == DIRECT or ahead else _joint(target, tile, -(-tiles.total // tiles.parts)),
        overwritten=_overwritten(problem, whole=extent_of(levels[:level]) * -(-levels[level].extent // block) == 1),
    )


def _joint(target: CpuTarget, tile: RegisterTile, rows: int) -> int:
    """Return how many packed panels a tile of ``rows`` rows multiplies at once, to hide the latency of one."""
    return 2 if _fits_registers(target, rows, 2 * tile.vectors) else 1


def _overwritten(problem: Problem, whole: bool) -> frozenset[int]:
    """Return the reads that touch each element just before the same element is stored, in one pass over the depth."""
    found = set()
    axes = (*problem.batch, *problem.rows, *problem.columns)
    for number, read in enumerate(problem.reads):
        tensor = FIRST_READ + number
        same = all(axis.strides[tensor] == axis.strides[OUT] for axis in axes)
        alike = read.dtype is problem.out_dtype and problem.sizes[tensor] == problem.sizes[OUT] and read.offset == 0
        if whole and same and alike:
            found.add(number)
    return frozenset(found)


def _is_short(problem: Problem, target: CpuTarget) -> bool:
    """Whether writing its results is much of what a tile does."""
    return problem.depth_count <= (LONGER_SHORT_DEPTH if target.double_pumped else SHORT_DEPTH) and not problem.pairs


def _most_rows(problem: Problem, target: CpuTarget, tile: RegisterTile) -> int:
    """Return how many rows of ``tile`` to use at most: what they read should stay in cache, what they write in flight.

    Where one tile takes all rows, every panel is read once, which more tiles would not.
    """
    rows = tile.rows
    if _rows_conflict(problem):
        rows = min(rows, MOST_CONFLICTS)
    wide = tile.vectors >= min(LONG_RUNS) and not problem.spread and problem.row_count > tile.rows
    if target.double_pumped and wide and _is_short(problem, target):
        rows = min(rows, MOST_STORES // tile.vectors)
    return rows


def _rows_conflict(problem: Problem) -> bool:
    """Whether the rows of a tile are so far apart that their lines share a set of the first-level cache."""
    if problem.spread or not problem.rows or not problem.depth:
        return False
    between_rows = problem.rows[-1].strides[problem.row_operand] * problem.row_dtype.itemsize
    contiguous = problem.depth[-1].strides[problem.row_operand] == problem.step_elements
    return contiguous and between_rows > 0 and between_rows % CACHE_WAY_BYTES == 0


def _stages(problem: Problem, flat: bool, panels: int, itemsize: int) -> bool:
    """Whether to copy row tiles: they are contiguous at each depth step, which lie far apart, and used often."""
    row = problem.row_operand
    if flat or problem.spread or problem.pairs or not problem.rows or not problem.depth:
        return False
    if problem.rows[-1].strides[row] != 1:
        return False
    apart = problem.depth[-1].strides[row] * itemsize
    return (panels >= 2 and apart >= 1024) or (panels >= 4 and apart >= 512)


def _row_tiles(problem: Problem, tile: RegisterTile) -> tuple[bool, Split, int]:
    """Cut rows into tiles of nearly equal size: along the innermost row axis where that wastes little."""
    rows = problem.row_count
    inner = problem.rows[-1].extent if problem.rows else 1
    inner_parts = -(-inner // tile.rows)
    outer = rows // inner
    flat_parts = -(-rows // tile.rows)
    if len(problem.rows) <= 1 or inner_parts * outer <= flat_parts * 1.04:
        return False, Split(inner, inner_parts), inner_parts * outer
    return True, Split(rows, flat_parts), flat_parts


def can_block(problem: Problem) -> bool:
    """Whether the depth may be cut: partial sums are kept in the output, which few rows do not repay."""
    return problem.out_dtype is problem.dtype and problem.row_count > 32 and not problem.odd


def _depth_blocking(
    problem: Problem, levels: tuple[LoopAxis, ...], staged: bool, panels_from: str, target: CpuTarget
) -> tuple[int, int]:
    """Choose the level and step at which the depth is cut so that the operands' blocks fit the caches."""
    depth = extent_of(levels)
    width = min(problem.column_count, 256) + min(problem.row_count, 256)
    fitting = max(256, target.l2_bytes // (width * problem.dtype.itemsize))
    longest = 2 * max(1024, fitting)
    if staged:
        fitting = longest = 256
    elif panels_from == LOCAL:
        fitting = min(fitting, 1024)
        longest = 2 * fitting
    if depth <= longest or not can_block(problem):
        return 0, levels[0].extent
    inner = depth
    for number, level in enumerate(levels):
        inner //= level.extent
        if inner <= fitting:
            parts = -(-level.extent // max(1, fitting // inner))
            return number, -(-level.extent // parts)
    return len(levels) - 1, levels[-1].extent


def _chunks(
    problem: Problem, groups: int, tiles: int, panels: int, threads: int, panels_from: str, copied: bool
) -> tuple[int, int]:
    """Cut each group into row chunks x column chunks so that threads get equal work and read little twice.

    Every column chunk copies row tiles anew if they are ``copied``.
    """
    if threads == 1 or problem.flops < SMALL_FLOPS:
        return 1, 1
    row_bytes = problem.row_count * problem.depth_count
    panel_bytes = problem.column_count * problem.depth_count
    best: tuple[float, int, int] | None = None
    for row_parts in range(1, min(tiles, 8 * threads) + 1):
        for column_parts in range(1, min(panels, 8 * threads) + 1):
            tasks = groups * row_parts * column_parts
            if tasks > 8 * threads and row_parts * column_parts > 1:
                break
            largest = -(-tiles // row_parts) * -(-panels // column_parts)
            rounds = -(-tasks // threads)
            work = rounds * largest * threads / (groups * tiles * panels)
            traffic = (row_bytes * column_parts + panel_bytes * row_parts) / (row_bytes + panel_bytes)
            fairness = 0.02 * threads / tasks
            packing = PACKING_ROWS * row_parts / problem.row_count if panels_from == LOCAL else 0.0
            fetching = FETCHING_ROWS * row_parts / problem.row_count if panels_from == PACKED else 0.0
            staging = STAGING_COLUMNS * column_parts / problem.columns[-1].extent if copied else 0.0
            cost = work + 0.01 * traffic + fairness + packing + fetching + staging
            if best is None or cost < best[0]:
                best = (cost, row_parts, column_parts)
    assert best is not None
    # Parts are of equal size but for the last: leave out those that would be empty.
    row_parts, column_parts = best[1:]
    return -(-tiles // -(-tiles // row_parts)), -(-panels // -(-panels // column_parts))
