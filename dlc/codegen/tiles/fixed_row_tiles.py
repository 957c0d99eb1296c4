"""Splits rows for fixed point, tile by tile: each task its own, or a kernel before the tasks for all of them.

A task that takes a part of the columns would split rows that others split, too. It must not know columns or products.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.contract.analysis import Problem, extent_of, merge
from dlc.codegen.contract.index import ZERO, least, scaled, total
from dlc.codegen.tiles.fixed_blocking import FixedBlocking
from dlc.codegen.tiles.fixed_point import (
    LANES,
    MEASURES,
    ROW_STEP_WORDS,
    digit_row_kernel,
    judge_rows_kernel,
    measure_row_kernel,
)
from dlc.codegen.tiles.fixed_rows import turn_rows_kernel, turned_pitch
from dlc.codegen.tiles.kernel import TileKernel
from dlc.ir.expr import Expr, Horizontal, Load, Var, apply, const
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, Let, LoopKind, Space, Stmt, Store, Window
from dlc.ir.types import DType, float32, uint32

ROW_FACTS = ("loss", "few", "thin")
"""Facts of a tile of rows, side by side; see ``judge_rows_kernel``."""
ROW_BUFFERS: dict[str, DType] = {"row_words": uint32, "row_scales": float32, "row_facts": float32}


class RowTiles(TileKernel):
    """A contraction in fixed point, as far as its rows are concerned.

    Tiles of 16 rows are those of a chunk of rows, from its first row on; the last one repeats the chunk's last row.
    """

    def __init__(self, problem: Problem, found: FixedBlocking) -> None:
        super().__init__(problem, found.fallback)
        self.found = found
        self.row_words = found.steps * ROW_STEP_WORDS
        """Words of a tile of rows."""
        self.chunk_tiles = -(-found.chunk_rows // LANES)
        """The most tiles of a chunk of rows."""

    @property
    def chunks(self) -> int:
        """Chunks of rows of all groups."""
        return extent_of(self.groups) * self.blocking.row_chunks

    def row_sizes(self, tiles: int) -> tuple[int, ...]:
        """Return the elements of ``ROW_BUFFERS`` for so many tiles."""
        return row_sizes(tiles, self.row_words)

    def all_rows(self, writable: bool = False) -> list[Buffer]:
        """Return the buffers of the rows of all chunks."""
        sizes = zip(ROW_BUFFERS.items(), self.row_sizes(self.chunks * self.chunk_tiles), strict=True)
        return [Buffer(name, dtype, size, writable=writable) for (name, dtype), size in sizes]

    def _first_tile(self) -> Expr:
        """Return the number of the first tile of the chunk among those of all chunks."""
        group = scaled(Var("group"), self.blocking.row_chunks) if extent_of(self.groups) > 1 else ZERO
        return scaled(total(group, Var("rc") if self.blocking.row_chunks > 1 else ZERO), self.chunk_tiles)

    def _chunk(self) -> list[Stmt]:
        """Bind the first row of the chunk and the one after its last."""
        blocking = self.blocking
        tiles = -(-blocking.tile_count // blocking.row_chunks)
        first = scaled(Var("rc"), tiles)
        return [
            Let(Var("chunk_first"), self._start(first)),
            Let(Var("chunk_end"), self._start(least(total(first, const(tiles)), blocking.tile_count))),
        ]

    def _start(self, tile: Expr) -> Expr:
        """Return the first row of a tile of the fallback, by which tasks are cut."""
        split = self.blocking.tiles
        first = scaled(tile, split.size)
        return total(first, least(tile, split.extra)) if split.extra else first

    def _scratch(self) -> list[Stmt]:
        """Allocate what splitting a tile needs."""
        if not self.found.turned:
            return split_scratch()
        size = LANES * turned_pitch(self.problem.depth_count)
        return [*split_scratch(), Alloc(Buffer("turned", float32, size, Space.LOCAL))]

    def _split_tile(self, first: Expr, end: Expr, tile: Expr, judged: Sequence[Stmt], go_on: Expr | None) -> list[Stmt]:
        """Split the rows from ``first`` on to place ``tile``, see ``split_tile``."""
        tensor = self.problem.row_operand
        turning, source = self._turned() if self.found.turned else ([], self._row_where(Var("row")))
        levels = tuple(const(v) for level in self.found.levels for v in (level.extent, level.strides[tensor]))
        splitting = split_tile(source, levels, self.row_words, end, tile, judged, go_on)
        return [Let(Var("tile_first"), first), *turning, *splitting]

    def _turned(self) -> tuple[list[Stmt], Window]:
        """Turn a tile of rows; return where among them ``row`` lies. The last tile may begin before its first row."""
        tensor, pitch = self.problem.row_operand, turned_pitch(self.problem.depth_count)
        first = least(Var("tile_first"), self.problem.row_count - LANES)
        levels = merge(self.problem.depth, [tensor])
        scalars = (*(const(v) for level in levels for v in (level.extent, level.strides[tensor])), const(pitch))
        windows = (self._row_where(Var("turned_first")), Window("turned", ZERO))
        place = scaled(apply("sub", Var("row"), Var("turned_first")), pitch)
        turning: list[Stmt] = [Let(Var("turned_first"), first), Call(turn_rows_kernel(len(levels)), windows, scalars)]
        return turning, Window("turned", place)

    def _row_where(self, row: Expr) -> Window:
        tensor = self.problem.row_operand
        return Window("rows", total(self._group_offset(tensor), self._row_offset(row, tensor)))


def row_sizes(tiles: int, words: int) -> tuple[int, ...]:
    """Return the elements of ``ROW_BUFFERS`` for so many tiles of ``words`` words."""
    return tiles * words, tiles * LANES, tiles * len(ROW_FACTS)


def split_scratch() -> list[Stmt]:
    """Allocate what ``split_tile`` needs beside ``ROW_BUFFERS``."""
    names = ("multipliers", *(f"lane_{name}" for name in ROW_FACTS), *(f"row_{name}" for name in MEASURES))
    return [Alloc(Buffer(name, float32, LANES, Space.LOCAL)) for name in names]


def split_tile(
    source: Window,
    levels: tuple[Expr, ...],
    words: int,
    end: Expr,
    tile: Expr,
    judged: Sequence[Stmt],
    go_on: Expr | None,
) -> list[Stmt]:
    """Return the statements that split 16 rows to place ``tile`` of ``ROW_BUFFERS``, ``words`` from tile to tile.

    Row ``row``, of those from ``tile_first`` on, is found at ``source``, its depth by the scalars ``levels``; the one
    before ``end`` stands for those after it. Rows are measured and ``judged`` first, and split only if they are to
    ``go_on``.
    """
    row = least(total(Var("tile_first"), Var("i")), apply("sub", end, const(1)))
    count, place = len(levels) // 2, total(scaled(tile, words), scaled(Var("i"), LANES))
    measures = [f"row_{name}" for name in MEASURES]
    results = [Window("row_scales", scaled(tile, LANES))]
    results += [Window(name, ZERO) for name in ("multipliers", *(f"lane_{name}" for name in ROW_FACTS))]
    measuring = Call(measure_row_kernel(count), (source, *(Window(name, Var("i")) for name in measures)), levels)
    splitting = Call(
        digit_row_kernel(count), (source, Window("multipliers", Var("i")), Window("row_words", place)), levels
    )

    def each(call: Call) -> Stmt:
        return For(Var("i"), const(LANES), LoopKind.SERIAL, (Let(Var("row"), row), call))

    return [
        each(measuring),
        Call(judge_rows_kernel(), (*(Window(name, ZERO) for name in measures), *results), ()),
        *(
            Store("row_facts", fact_place(tile, name), Horizontal("maximum", f"lane_{name}", ZERO, LANES, float32))
            for name in ROW_FACTS
        ),
        *judged,
        each(splitting) if go_on is None else If(go_on, (each(splitting),)),
    ]


def fact_place(tile: Expr, name: str) -> Expr:
    """Return where a fact of a tile of rows lies."""
    return total(scaled(tile, len(ROW_FACTS)), const(ROW_FACTS.index(name)))


def row_facts(tile: Expr) -> list[Expr]:
    """Return the facts of a tile of rows."""
    return [Load("row_facts", fact_place(tile, name), float32) for name in ROW_FACTS]


class SplitRowsKernel(RowTiles):
    """Builds the entry kernel that splits all rows once: buffers row operand, then ``ROW_BUFFERS``."""

    def build_split(self, name: str) -> Kernel:
        """Return the kernel; its tasks are tiles."""
        first = total(Var("chunk_first"), scaled(Var("t"), LANES))
        tile = total(self._first_tile(), Var("t"))
        split = (*self._scratch(), *self._split_tile(first, Var("chunk_end"), tile, (), None))
        body: tuple[Stmt, ...] = (*self._chunk(), If(apply("less", first, Var("chunk_end")), split))
        extents = {"t": self.chunk_tiles, "rc": self.blocking.row_chunks, "group": extent_of(self.groups)}
        for variable, extent in extents.items():
            body = (For(Var(variable), const(extent), LoopKind.PARALLEL, body),)
        rows = Buffer("rows", float32, self.problem.sizes[self.problem.row_operand])
        return Kernel(name, (rows, *self.all_rows(writable=True)), (), body)
