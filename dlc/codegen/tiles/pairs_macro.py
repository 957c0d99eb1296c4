"""Contractions of bfloat16 operands on AMX: one tile product where float32 takes six.

Packed panels of words are tiles as they are. Rows are read where they lie, at an even distance: tiles may run through
what is between the lines of an image, and those results are not stored. Other rows are copied next to each other.
Sums stay in tiles over the whole depth. It must not know other paths but the loops that it shares with float32's.
"""

from __future__ import annotations

from dlc.codegen.contract.analysis import Problem, merge
from dlc.codegen.contract.blocking import LOCAL
from dlc.codegen.contract.index import ZERO, least, scaled, total
from dlc.codegen.contract.pack import packed_panels
from dlc.codegen.tiles.block_epilogue import epilogue_block_kernel
from dlc.codegen.tiles.kernel import TileKernel
from dlc.codegen.tiles.pair_products import copy_row_kernel, pair_tiles_kernel
from dlc.codegen.tiles.pair_runs import PAIRS, by_columns, pack_runs
from dlc.codegen.tiles.pairs_blocking import Lines, PairsBlocking
from dlc.codegen.tiles.sizes import BLOCK, LINE, STEP, TILE, TILE_ELEMENTS
from dlc.ir.expr import Expr, Var, apply, const, select
from dlc.ir.kernel import (
    Alloc,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Space,
    Stmt,
    TileConfigure,
    TileRelease,
    Window,
)
from dlc.ir.types import float32, uint16, uint32


class AmxPairsKernel(TileKernel):
    """Builds the entry kernel of one contraction: buffers row operand, panels, output, epilogue inputs."""

    def __init__(self, problem: Problem, found: PairsBlocking) -> None:
        super().__init__(problem, found.blocking)
        self.found = found
        self.tile_size = found.runs.steps * TILE_ELEMENTS
        """Elements of a copied row tile."""
        self.panel_size = found.runs.depth * found.width
        self.halves = found.width // TILE

    def task(self) -> list[Stmt]:
        blocking, found = self.blocking, self.found
        chunk_rows, group_rows = found.chunk_tiles * TILE, found.group_tiles * TILE
        first_panel = scaled(Var("cc"), blocking.block_panels)
        group: tuple[Stmt, ...] = (
            Let(Var("row_first"), total(Var("chunk_first"), scaled(Var("rg"), group_rows))),
            If(
                apply("less", Var("row_first"), Var("chunk_end")),
                (
                    Let(Var("row_end"), least(total(Var("row_first"), const(group_rows)), Var("chunk_end"))),
                    *self._group(),
                ),
            ),
        )
        statements: list[Stmt] = [Alloc(Buffer("sums", float32, BLOCK * BLOCK, Space.LOCAL))]
        if found.lines is None:
            size = found.group_tiles * self.tile_size
            statements.append(Alloc(Buffer("copies", uint16, size, Space.LOCAL)))
        if blocking.panels_from == LOCAL:
            statements.append(Alloc(Buffer("packed", uint32, self.panel_size, Space.LOCAL)))
        return [
            *statements,
            Let(Var("chunk_first"), scaled(Var("rc"), chunk_rows)),
            Let(Var("chunk_end"), least(total(Var("chunk_first"), const(chunk_rows)), found.rows)),
            Let(Var("panel0"), first_panel),
            Let(Var("panel1"), least(total(first_panel, const(blocking.block_panels)), blocking.panels)),
            TileConfigure(),
            For(Var("rg"), const(-(-chunk_rows // group_rows)), LoopKind.SERIAL, group),
            TileRelease(),
        ]

    def _group(self) -> list[Stmt]:
        """Panel by panel, all blocks of the group's rows."""
        rows = apply("sub", Var("row_end"), Var("row_first"))
        lets: list[Stmt] = [
            Let(Var("row_tiles"), apply("floor_div", total(rows, const(TILE - 1)), const(TILE))),
            Let(Var("row_blocks"), apply("floor_div", total(Var("row_tiles"), const(1)), const(2))),
            Let(Var("lines"), self._lines_ahead()),
        ]
        panel: list[Stmt] = [Let(Var("panel"), total(Var("panel0"), Var("p")))]
        if self.blocking.panels_from == LOCAL:
            panel += self._pack()
        panel.append(For(Var("b"), Var("row_blocks"), LoopKind.SERIAL, tuple(self._block())))
        count = apply("sub", Var("panel1"), Var("panel0"))
        return [*lets, *self._copy_rows(), For(Var("p"), count, LoopKind.SERIAL, tuple(panel))]

    def _lines_ahead(self) -> Expr:
        """Return how many lines of the next panel each step of a block asks for."""
        if self.blocking.panels_from == LOCAL or self.blocking.block_panels == 1:
            return ZERO
        lines, asks = self.panel_size // LINE, scaled(Var("row_blocks"), self.found.runs.steps)
        return apply("floor_div", total(asks, const(lines - 1)), asks)

    def _copy_rows(self) -> list[Stmt]:
        """Copy the group's rows; those that fill up the last tile repeat the last row."""
        if self.found.lines is not None:
            return []
        runs, tensor = self.found.runs, self.problem.row_operand
        levels = merge(runs.outer, [tensor])
        row = least(total(Var("row_first"), scaled(Var("t"), TILE), Var("i")), apply("sub", Var("row_end"), const(1)))
        source = total(self._group_offset(tensor), self._row_offset(Var("row"), tensor))
        target = total(scaled(Var("t"), self.tile_size), scaled(Var("i"), STEP))
        call = Call(
            copy_row_kernel(len(levels), not runs.whole),
            (Window("rows", source), Window("copies", target)),
            (*(const(v) for axis in levels for v in (axis.extent, axis.strides[tensor])), const(runs.elements)),
        )
        loop = For(Var("i"), const(TILE), LoopKind.SERIAL, (Let(Var("row"), row), call))
        return [For(Var("t"), Var("row_tiles"), LoopKind.SERIAL, (loop,))]

    def _pack(self) -> list[Stmt]:
        """Pack one panel from the operand into scratch memory."""
        packed = packed_panels(self.problem, self.found.width, PAIRS)
        windows = (Window("panel", self._source_offset(Var("panel"))), Window("packed", ZERO))

        def pack(columns: int) -> list[Stmt]:
            return pack_runs(packed, self.found.runs, windows, columns)

        return list(by_columns(Var("panel"), self.column.extent, self.found.width, pack))

    # -- products ----------------------------------------------------------------------------------

    def _block(self) -> list[Stmt]:
        """Multiply a block of rows with a panel and store it.

        Rows that are read in place fill the last tile by repeating rows before them.
        """
        first = total(Var("row_first"), scaled(Var("b"), BLOCK))
        rest = apply("sub", Var("row_end"), Var("block_first"))
        lets: list[Stmt] = [
            Let(Var("block_first"), first),
            Let(Var("block_rows"), least(rest, BLOCK)),
        ]
        two = apply("greater", Var("block_rows"), const(TILE))
        if self.found.lines is not None:
            before = least(Var("block_first"), apply("sub", Var("row_end"), const(TILE)))
            lets.append(Let(Var("tile_first"), select(two, Var("block_first"), before)))
            lets.append(Let(Var("second"), apply("sub", Var("block_rows"), const(TILE))))
        both, one = (self._tiles(count) for count in (2, 1))
        stored = by_columns(Var("panel"), self.column.extent, BLOCK, self._store)
        return [*lets, If(two, (both,), (one,)), *stored]

    def _tiles(self, row_tiles: int) -> Stmt:
        second: Expr = const(TILE)
        runs, tensor, lines = self.found.runs, self.problem.row_operand, self.found.lines
        if lines is None:
            levels: tuple[Expr, ...] = ()
            rows = Window("copies", scaled(Var("b"), 2 * self.tile_size))
            apart: Expr = const(self.tile_size)
            steps, stride, row_stride = runs.steps, TILE_ELEMENTS, STEP
        else:
            outer = merge(runs.outer, [tensor])
            levels = tuple(const(v) for axis in outer for v in (axis.extent, axis.strides[tensor]))
            place = scaled(Var("tile_first"), lines.stride)
            second = Var("second")
            rows = Window("rows", total(self._group_offset(tensor), place))
            apart = scaled(second, lines.stride)
            steps, stride, row_stride = runs.run_steps, STEP, lines.stride
        local = self.blocking.panels_from == LOCAL
        index = total(
            scaled(Var("group"), self.blocking.panels * self.panel_size), scaled(Var("panel"), self.panel_size)
        )
        panel = Window("packed", ZERO) if local else Window("panel", index)
        asked = apply("mul", Var("b"), scaled(Var("lines"), LINE * runs.steps))
        scalars = (const(steps), const(stride), const(row_stride), apart, scaled(second, BLOCK))
        return Call(
            pair_tiles_kernel(row_tiles, self.halves, len(levels) // 2),
            (rows, panel, Window("sums", ZERO)),
            (*levels, *scalars, total(asked, const(self.panel_size)), Var("lines"), *self._rows_ahead()),
        )

    def _rows_ahead(self) -> tuple[Expr, Expr]:
        """Return where the next block's rows begin that none has read yet, and how many lines each step asks for.

        The first panel asks; for the others they are near.
        """
        lines, outer, tensor = self.found.lines, self.found.runs.outer, self.problem.row_operand
        if lines is None:
            return ZERO, ZERO
        last = sum((axis.extent - 1) * axis.strides[tensor] for axis in outer)
        count = -(-BLOCK * lines.stride // (2 * LINE * self.found.runs.steps))
        first = apply("equal", Var("p"), ZERO)
        return const(BLOCK * lines.stride + last), select(first, const(count), ZERO)

    # -- the epilogue ------------------------------------------------------------------------------

    def _store(self, columns: int) -> list[Stmt]:
        """Apply the epilogue to a block: to its parts of lines, else at once or row by row."""
        lines = self.found.lines
        if lines is not None and lines.count > 1:
            return self._store_lines(lines, columns)
        merged = {tensor: merge(self.problem.rows, [tensor]) for tensor in self.tensors[1:]}
        if all(len(axes) == 1 for axes in merged.values()):
            strides = {tensor: axes[0].strides[tensor] for tensor, axes in merged.items()}
            return [self._epilogue(columns, Var("block_first"), Var("block_first"), Var("block_rows"), strides)]
        row = total(Var("block_first"), Var("r"))
        call = self._epilogue(columns, row, row, const(1), dict.fromkeys(merged, 0))
        return [For(Var("r"), Var("block_rows"), LoopKind.SERIAL, (call,))]

    def _store_lines(self, lines: Lines, columns: int) -> list[Stmt]:
        """Store the parts of lines that a block consists of, without what is between lines."""
        end = total(Var("block_first"), Var("block_rows"))
        line0, line1 = (
            apply("floor_div", place, const(lines.pitch)) for place in (Var("block_first"), apply("sub", end, const(1)))
        )
        start = scaled(Var("line"), lines.pitch)
        row = total(scaled(Var("line"), lines.width - lines.pitch), Var("begin"))
        strides = {tensor: self.problem.rows[-1].strides[tensor] for tensor in self.tensors[1:]}
        count = apply("sub", Var("end"), Var("begin"))
        part: tuple[Stmt, ...] = (
            Let(Var("line"), total(Var("line0"), Var("l"))),
            Let(Var("begin"), apply("maximum", Var("block_first"), start)),
            Let(Var("end"), least(end, total(start, const(lines.width)))),
            If(apply("greater", count, ZERO), (self._epilogue(columns, Var("begin"), row, count, strides),)),
        )
        spans = total(apply("sub", line1, Var("line0")), const(1))
        return [Let(Var("line0"), line0), For(Var("l"), spans, LoopKind.SERIAL, part)]

    def _epilogue(self, columns: int, place: Expr, row: Expr, rows: Expr, strides: dict[int, int]) -> Stmt:
        """Return the call for ``rows`` rows from ``row`` on; the first is multiplied as number ``place``."""
        first = Var("block_first") if self.found.lines is None else Var("tile_first")
        sums = Window("sums", apply("mul", apply("sub", place, first), const(BLOCK)))
        left = const(columns) if columns < BLOCK else None
        spec, windows, scalars = self._epilogue_of(row, scaled(Var("panel"), BLOCK), strides, left)
        return Call(epilogue_block_kernel(spec), (sums, *windows), (rows, *scalars))


def amx_pairs_kernel(problem: Problem, found: PairsBlocking, name: str, panel_size: int) -> Kernel:
    """Return the entry kernel (row operand, panels, output, epilogue inputs)."""
    return AmxPairsKernel(problem, found).build(name, panel_size)
