"""Float32 contractions on AMX in fixed point: products of bytes. Columns are split ahead, rows ahead or by each task.

A task first learns how much the scales of its columns and of its rows would lose; what it refuses is multiplied by
fused multiply-adds in the end. It must not know other paths but the loops that it shares with them.
"""

from __future__ import annotations

from dataclasses import replace

from dlc.codegen.contract.analysis import Problem, extent_of, merge
from dlc.codegen.contract.index import ZERO, least, scaled, total
from dlc.codegen.tiles.block_epilogue import BlockEpilogue
from dlc.codegen.tiles.fixed_blocking import FixedBlocking
from dlc.codegen.tiles.fixed_point import COLUMN_STEP_WORDS, FACTS, LANES, TILE_WORDS
from dlc.codegen.tiles.fixed_precision import by_precision, choose_precision
from dlc.codegen.tiles.fixed_products import (
    PRECISIONS,
    SUMS,
    fixed_epilogue_kernel,
    fixed_tiles_and_epilogue_kernel,
    fixed_tiles_kernel,
)
from dlc.codegen.tiles.fixed_refusals import (
    COLUMN_FACTS,
    GROUP,
    NONE,
    PANELS,
    TASK,
    USUAL_TERMS,
    WayBack,
    count_of,
    fit,
    refuse,
)
from dlc.codegen.tiles.fixed_row_tiles import ROW_BUFFERS, RowTiles, row_facts
from dlc.codegen.tiles.sizes import LINE
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select
from dlc.ir.kernel import (
    Alloc,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Prefetch,
    Space,
    Stmt,
    Store,
    TileConfigure,
    TileRelease,
    Window,
)
from dlc.ir.types import float32, int32, uint32


class AmxFixedKernel(RowTiles):
    """Builds the entry kernel.

    Its buffers are the row operand; if rows are split ahead, ``ROW_BUFFERS``; words, last digits and facts of weights;
    the weights themselves; the output and the epilogue's inputs.
    """

    def __init__(self, problem: Problem, found: FixedBlocking) -> None:
        super().__init__(problem, found)
        self.column_words = found.steps * COLUMN_STEP_WORDS
        """Words of a tile of columns but for their last digits."""
        self.tiles = -(-self.column.extent // LANES)
        """Tiles of columns of a group."""

    def build(self, name: str, panel_size: int) -> Kernel:
        """Return the kernel; ``panel_size`` is the number of elements of the weights."""
        kernel = super().build(name, panel_size)
        rows, *others = kernel.buffers
        groups = extent_of(self.groups)
        split = (
            Buffer("words", uint32, groups * self.tiles * self.column_words),
            Buffer("last", uint32, groups * self.tiles * self.found.steps * TILE_WORDS),
            Buffer("facts", float32, groups * self.tiles * FACTS * LANES),
        )
        ahead = self.all_rows() if self.found.ahead else []
        return replace(kernel, buffers=(rows, *ahead, *split, *others))

    def task(self) -> list[Stmt]:
        blocking, found = self.blocking, self.found
        panels = -(-blocking.panels // blocking.column_chunks)
        group_rows = found.group_tiles * LANES
        first_tile = scaled(Var("cc"), 2 * panels)
        group: tuple[Stmt, ...] = (
            Let(Var("row_first"), total(Var("chunk_first"), scaled(Var("rg"), group_rows))),
            If(
                apply("bit_and", apply("less", Var("row_first"), Var("chunk_end")), self._some_panel()),
                (
                    Let(Var("row_end"), least(total(Var("row_first"), const(group_rows)), Var("chunk_end"))),
                    Let(Var("row_tiles"), self._tiles_of(apply("sub", Var("row_end"), Var("row_first")))),
                    Store("refusals", GROUP, NONE),
                    *self._split_rows(),
                    If(apply("less", count_of(GROUP), Var("row_tiles")), tuple(self._multiply())),
                ),
            ),
        )
        statements: list[Stmt] = [
            *([] if found.ahead else self._own_rows()),
            Alloc(Buffer("worst", float32, len(COLUMN_FACTS), Space.LOCAL)),
            Alloc(Buffer("refused_rows", int32, self.chunk_tiles, Space.LOCAL)),
            Alloc(Buffer("refused_panels", int32, panels, Space.LOCAL)),
            Alloc(Buffer("refusals", int32, 3, Space.LOCAL)),
            Alloc(Buffer("sums", int32, 2 * SUMS, Space.LOCAL)),
            Alloc(Buffer("pending", int32, 1, Space.LOCAL)),
            *self._chunk(),
            Let(Var("first_tile"), first_tile),
            Let(Var("tile_end"), least(total(first_tile, const(2 * panels)), self.tiles)),
            *self._judge_columns(panels),
            TileConfigure(),
            For(Var("rg"), const(-(-found.chunk_rows // group_rows)), LoopKind.SERIAL, group),
            TileRelease(),
        ]
        some = apply("greater", total(count_of(TASK), count_of(PANELS)), ZERO)
        return [*statements, If(some, tuple(WayBack(self.problem, found.fallback).task()))]

    def _some_panel(self) -> Expr:
        """Whether a panel of the task is accepted."""
        tiles = apply("sub", Var("tile_end"), Var("first_tile"))
        return apply("less", scaled(count_of(PANELS), 2), tiles)

    def _own_rows(self) -> list[Stmt]:
        """Allocate what holds the rows of a group, and what splitting them needs."""
        sizes = zip(ROW_BUFFERS.items(), self.row_sizes(self.found.group_tiles), strict=True)
        return [*self._scratch(), *(Alloc(Buffer(name, dtype, size, Space.LOCAL)) for (name, dtype), size in sizes)]

    def _number(self, tile: Expr) -> Expr:
        """Number a tile of the group's rows among those of the task."""
        return total(scaled(Var("rg"), self.found.group_tiles), tile)

    def _row_tile(self, tile: Expr) -> Expr:
        """Return where tile ``tile`` of the group's rows lies among those that are split."""
        return total(self._first_tile(), self._number(tile)) if self.found.ahead else tile

    @staticmethod
    def _tiles_of(rows: Expr) -> Expr:
        return apply("floor_div", total(rows, const(LANES - 1)), const(LANES))

    # -- what scales lose --------------------------------------------------------------------------

    def _judge_columns(self, panels: int) -> list[Stmt]:
        """Refuse panels that would lose too much with most rows; find the worst facts of the other columns."""
        at = total(scaled(self._column_tile(total(Var("first_tile"), Var("t"))), FACTS * LANES), const(LANES))
        new = [Load("facts", total(at, const(fact)), float32) for fact in COLUMN_FACTS]
        known = [Load("worst", const(fact), float32) for fact in COLUMN_FACTS]
        usual = const(USUAL_TERMS / self.problem.depth_count, float32)
        fits = fit(new, [const(0.0, float32), usual, usual])
        keep = tuple(
            Store("worst", const(fact), apply("maximum", old, value))
            for fact, old, value in zip(COLUMN_FACTS, known, new, strict=True)
        )
        panel = apply("floor_div", Var("t"), const(2))
        again = apply("equal", Load("refused_panels", panel, int32), NONE)
        spoilt = If(again, refuse("refused_panels", panel, PANELS))
        count = apply("sub", Var("tile_end"), Var("first_tile"))
        return [
            *(Store("worst", const(fact), const(0.0, float32)) for fact in COLUMN_FACTS),
            *(Store("refusals", of, NONE) for of in (TASK, PANELS)),
            For(Var("p"), const(panels), LoopKind.SERIAL, (Store("refused_panels", Var("p"), NONE),)),
            For(Var("t"), const(self.chunk_tiles), LoopKind.SERIAL, (Store("refused_rows", Var("t"), NONE),)),
            For(Var("t"), count, LoopKind.SERIAL, (If(fits, keep, (spoilt,)),)),
        ]

    def _judge_rows(self) -> list[Stmt]:
        """Refuse the tile if it would lose too much with one of the columns that are not refused."""
        columns = [Load("worst", const(fact), float32) for fact in COLUMN_FACTS]
        tile, number = self._row_tile(Var("t")), self._number(Var("t"))
        rows = row_facts(tile)
        accept = (Store("refused_rows", number, NONE),)
        return [If(fit(columns, rows), accept, refuse("refused_rows", number, GROUP, TASK))]

    def _judge(self) -> Stmt:
        """Choose the precision of a pair of tiles."""
        return choose_precision(self._column_tile(Var("column_tile")), self._row_tile(Var("b")))

    def _split_rows(self) -> list[Stmt]:
        """Judge the group's rows, and split them if no kernel did so before."""
        work = self._judge_rows()
        if not self.found.ahead:
            first = total(Var("row_first"), scaled(Var("t"), LANES))
            go_on = apply("equal", Load("refused_rows", self._number(Var("t")), int32), NONE)
            work = self._split_tile(first, Var("row_end"), Var("t"), work, go_on)
        return [For(Var("t"), Var("row_tiles"), LoopKind.SERIAL, tuple(work))]

    # -- products ----------------------------------------------------------------------------------

    def _multiply(self) -> list[Stmt]:
        """Tile by tile of columns, all tiles of rows; meanwhile the next columns come nearer.

        Where rows have one stride in every tensor, the results of a tile are stored while the next is multiplied.
        """
        lines = self.column_words // LINE
        asks = scaled(Var("row_tiles"), self.found.steps)
        overlaps = all(len(merge(self.problem.rows, [tensor])) == 1 for tensor in self.tensors[1:])
        block = self._overlapped() if overlaps else self._separate()
        columns: tuple[Stmt, ...] = (
            Let(Var("column_tile"), total(Var("first_tile"), Var("c"))),
            For(Var("b"), Var("row_tiles"), LoopKind.SERIAL, tuple(block)),
        )
        statements: list[Stmt] = [
            Let(Var("lines"), apply("floor_div", total(asks, const(lines - 1)), asks)),
            Store("pending", ZERO, const(0, int32)),
            For(Var("c"), apply("sub", Var("tile_end"), Var("first_tile")), LoopKind.SERIAL, columns),
        ]
        if overlaps:
            last = total(Var("tile_end"), const(-1)), total(Var("row_tiles"), const(-1))
            statements += self._stored(*last, self._turn(const(-1), Var("tile_end"), ZERO), self._pending())
        return statements

    def _separate(self) -> list[Stmt]:
        """Multiply a tile and store its results, row by row."""
        store = self._stored(Var("column_tile"), Var("b"), ZERO, const(1), Var("r"))
        rows = For(Var("r"), self._block_rows(), LoopKind.SERIAL, tuple(store))
        return [self._judge(), self._tiles(ZERO, None, rows)]

    def _overlapped(self) -> list[Stmt]:
        """Multiply a tile, and store the results of the one before, of which ``pending`` rows wait."""
        first = apply("equal", Var("b"), ZERO)
        before = select(first, total(Var("row_tiles"), const(-1)), total(Var("b"), const(-1)))
        tile = apply("maximum", total(Var("column_tile"), const(-1)), Var("first_tile"))
        waiting = (Var("previous_tile"), Var("previous"), apply("sub", const(1), Var("turn")), self._pending())
        return [
            self._judge(),
            *self._asked(),
            Let(Var("previous"), before),
            Let(Var("previous_tile"), select(first, tile, Var("column_tile"))),
            Let(Var("turn"), self._turn(Var("b"), Var("column_tile"), Var("first_tile"))),
            self._tiles(Var("turn"), waiting, Store("pending", ZERO, cast(self._block_rows(), int32))),
        ]

    def _asked(self) -> list[Stmt]:
        """Ask for the lines that the epilogue of this tile will touch after the next one's products."""
        row, column = total(Var("row_first"), scaled(Var("b"), LANES), Var("r")), scaled(Var("column_tile"), LANES)
        asks = []
        for tensor in self.tensors[1:]:
            if self.column.strides[tensor] == 1 and any(axis.strides[tensor] for axis in self.problem.rows):
                name, constant = self._place(tensor)
                where = total(self._group_offset(tensor), self._row_offset(row, tensor), column, constant)
                asks.append(Prefetch(name, where))
        return [For(Var("r"), self._block_rows(), LoopKind.SERIAL, tuple(asks))] if asks else []

    def _turn(self, tile: Expr, column: Expr, first: Expr) -> Expr:
        """Return which of the two places of sums a tile takes."""
        number = total(apply("mul", apply("sub", column, first), Var("row_tiles")), tile)
        return apply("floor_mod", number, const(2))

    def _block_rows(self) -> Expr:
        rows = apply("sub", Var("row_end"), Var("row_first"))
        return least(apply("sub", rows, scaled(Var("b"), LANES)), LANES)

    @staticmethod
    def _pending() -> Expr:
        return cast(Load("pending", ZERO, int32), ZERO.dtype)

    def _tiles(self, place: Expr, waiting: tuple[Expr, Expr, Expr, Expr] | None, after: Stmt) -> Stmt:
        """Multiply tile ``b`` of rows with the tile of columns, store what waits, and do what comes after."""
        steps = self.found.steps
        tile = self._column_tile(Var("column_tile"))
        windows: tuple[Window, ...] = (
            Window("row_words", scaled(self._row_tile(Var("b")), self.row_words)),
            Window("words", scaled(tile, self.column_words)),
            Window("last", scaled(tile, steps * TILE_WORDS)),
            Window("sums", scaled(place, SUMS)),
        )
        ahead = total(apply("mul", Var("b"), scaled(Var("lines"), LINE * steps)), const(self.column_words))
        scalars: tuple[Expr, ...] = (const(steps), ahead, Var("lines"))
        if waiting is None:
            calls = [Call(fixed_tiles_kernel(precision), windows, scalars) for precision in PRECISIONS]
        else:
            spec, others, more = self._results(*waiting)
            windows, scalars = (*windows, *others), (*scalars, *more, const(-(-LANES // steps)))
            calls = [
                Call(fixed_tiles_and_epilogue_kernel(precision, spec), windows, scalars) for precision in PRECISIONS
            ]
        return by_precision([(call, after) for call in calls])

    def _stored(self, tile: Expr, block: Expr, place: Expr, rows: Expr, first: Expr = ZERO) -> list[Stmt]:
        """Store results of a tile."""
        spec, windows, scalars = self._results(tile, block, place, rows, first)
        return [Call(fixed_epilogue_kernel(spec), windows, scalars)]

    def _results(
        self, tile: Expr, block: Expr, place: Expr, rows: Expr, first: Expr = ZERO
    ) -> tuple[BlockEpilogue, tuple[Window, ...], tuple[Expr, ...]]:
        """Return the epilogue, windows and scalars for ``rows`` rows from ``first`` on of tile ``block`` of rows."""
        local = total(scaled(block, LANES), first)
        column = scaled(tile, LANES)
        axes = {tensor: merge(self.problem.rows, [tensor]) for tensor in self.tensors[1:]}
        strides = {tensor: found[0].strides[tensor] if len(found) == 1 else 0 for tensor, found in axes.items()}
        ragged = self.column.extent % LANES > 0
        columns = least(apply("sub", const(self.column.extent), column), LANES) if ragged else None
        spec, tensors, scalars = self._epilogue_of(total(Var("row_first"), local), column, strides, columns)
        windows = (
            Window("sums", total(scaled(place, SUMS), scaled(first, LANES))),
            Window("row_scales", total(scaled(self._row_tile(block), LANES), first)),
            Window("facts", scaled(self._column_tile(tile), FACTS * LANES)),
        )
        return spec, (*windows, *tensors), (rows, *scalars)

    def _column_tile(self, tile: Expr) -> Expr:
        """Number a group's tile of columns among all."""
        return total(scaled(Var("group"), self.tiles), tile) if extent_of(self.groups) > 1 else tile
