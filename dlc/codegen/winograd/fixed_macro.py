"""Winograd's products in fixed point on AMX: transformed tiles are rows, point by point.

A block is transformed, its tiles are split by 16, and every point is a product of tiles of bytes; what a point's
scales would lose too much of sends the block around. It must not choose anything.
"""

from __future__ import annotations

from dlc.codegen.contract.index import ZERO, decode, least, scaled, total
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.block_epilogue import BlockEpilogue
from dlc.codegen.tiles.fixed_point import COLUMN_STEP_WORDS, FACTS, LANES, ROW_STEP_WORDS, TILE_WORDS
from dlc.codegen.tiles.fixed_precision import by_precision, choose_precision
from dlc.codegen.tiles.fixed_products import (
    PRECISIONS,
    SUMS,
    fixed_epilogue_kernel,
    fixed_tiles_and_epilogue_kernel,
)
from dlc.codegen.tiles.fixed_refusals import COLUMN_FACTS, NONE, fit
from dlc.codegen.tiles.fixed_row_tiles import ROW_BUFFERS, row_facts, row_sizes, split_scratch, split_tile
from dlc.codegen.tiles.sizes import LINE
from dlc.codegen.winograd.blocking import Part, WinogradBlocking
from dlc.codegen.winograd.fixed_pack import HALVES, WORST_SIZE, digit_buffers, worst_place
from dlc.codegen.winograd.macro import WinogradKernel
from dlc.codegen.winograd.problem import POINTS, WinogradProblem
from dlc.codegen.winograd.watch import failed
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Load, Var, apply, const, select
from dlc.ir.kernel import (
    Buffer,
    Call,
    For,
    If,
    Let,
    LoopKind,
    Space,
    Stmt,
    Store,
    TileConfigure,
    TileRelease,
    Window,
)
from dlc.ir.types import float32, int32

_PLAIN = BlockEpilogue(Var(ACCUMULATOR, float32), float32, (), ragged=False)
_REFUSED = const(1, int32)


class FixedWinogradKernel(WinogradKernel):
    """Builds the entry kernel of one contraction.

    Buffers are those of ``WinogradKernel``, but for the weights: words, last digits and facts of their columns, and the
    worst facts among the columns of each point.
    """

    def __init__(self, found: WinogradProblem, blocking: WinogradBlocking, target: CpuTarget, panels_from: str) -> None:
        super().__init__(found, blocking, target, panels_from)
        self.steps = blocking.steps
        self.row_words, self.column_words = self.steps * ROW_STEP_WORDS, self.steps * COLUMN_STEP_WORDS
        """Words of a tile of rows, and of one of columns but for its last digits."""

    def _weights(self) -> list[Buffer]:
        return [*digit_buffers(self.blocking), Buffer("worst", float32, WORST_SIZE)]

    def _scratch(self) -> list[Buffer]:
        tiles = POINTS * self.blocking.row_tiles
        buffers = zip(ROW_BUFFERS.items(), row_sizes(tiles, self.row_words), strict=True)
        rows = (Buffer(name, dtype, size, Space.LOCAL) for (name, dtype), size in buffers)
        return [
            *super()._scratch(),
            *rows,
            Buffer("refused", int32, 1, Space.LOCAL),
            Buffer("done", int32, 2 * SUMS, Space.LOCAL),
        ]

    def _task(self) -> list[Stmt]:
        return [*split_scratch(), *super()._task()]

    def _block(self, rows: Part, columns: Part) -> list[Stmt]:
        """One block: around if its inputs, or the scales of what they become, ask for it; else on tiles."""
        fails = failed(rows.tiles * columns.tiles, self.blocking.tile.lanes)
        through = (TileConfigure(), self._panels(rows, columns), TileRelease())
        return [
            *self._watch(rows, columns),
            Store("refused", ZERO, select(fails, _REFUSED, NONE)),
            If(self._accepted(), (*self._transform(rows, columns), self._split(rows, columns))),
            If(self._accepted(), through, self._go_around(rows, columns)),
        ]

    @staticmethod
    def _accepted() -> Expr:
        return apply("equal", Load("refused", ZERO, int32), NONE)

    def _row_tile(self, point: Expr, tile: Expr) -> Expr:
        return total(scaled(point, self.blocking.row_tiles), tile)

    def _split(self, rows: Part, columns: Part) -> Stmt:
        """Split the transformed tiles of all points, 16 at a time, as long as none is refused."""
        blocking, tiles = self.blocking, rows.tiles * columns.tiles
        point = Var("point")
        place = self._row_tile(point, Var("b"))
        worst = [Load("worst", worst_place(point, number), float32) for number in range(len(COLUMN_FACTS))]
        judged = [If(fit(worst, row_facts(place)), (), (Store("refused", ZERO, _REFUSED),))]
        source = Window("inputs", total(scaled(point, blocking.input_plane), scaled(Var("row"), blocking.pitch)))
        levels = (const(self.found.channels.extent), const(1))
        split = split_tile(source, levels, self.row_words, const(tiles), place, judged, self._accepted())
        body = (Let(Var("tile_first"), scaled(Var("b"), LANES)), *split)
        every = For(Var("b"), const(-(-tiles // LANES)), LoopKind.SERIAL, body)
        return For(point, const(POINTS), LoopKind.SERIAL, (every,))

    def _multiply(self, rows: Part, columns: Part, vectors: int) -> list[Stmt]:
        """Multiply the tiles of all points with a panel; a tile's products are stored while the next is multiplied."""
        tiles = rows.tiles * columns.tiles
        count = -(-tiles // LANES)
        extents = (POINTS, vectors, count)
        number, last = Var("number"), POINTS * vectors * count - 1
        before = apply("maximum", total(number, const(-1)), ZERO)
        waiting = select(apply("equal", number, ZERO), ZERO, _rows_of(before, extents, tiles))
        turn = apply("floor_mod", number, const(2))
        point, half, tile = decode(number, extents)
        row_tile, column_tile = self._row_tile(point, tile), self._column_tile(point, half)
        lines = -(-self.column_words // LINE // (count * self.steps))
        following = const(HALVES // vectors * self.column_words)  # from a tile of columns to the next
        ahead = total(scaled(tile, lines * LINE * self.steps), following)
        windows = (
            Window("row_words", scaled(row_tile, self.row_words)),
            Window("words", scaled(column_tile, self.column_words)),
            Window("last", scaled(column_tile, self.steps * TILE_WORDS)),
            Window("done", scaled(turn, SUMS)),
            *self._results(before, extents, apply("sub", const(1), turn)),
        )
        width, each = const(self.blocking.tile.width), const(-(-LANES // self.steps))
        scalars = (const(self.steps), ahead, const(lines), waiting, width, each)
        ways = [(Call(fixed_tiles_and_epilogue_kernel(way, _PLAIN), windows, scalars),) for way in PRECISIONS]
        body = (choose_precision(column_tile, row_tile), by_precision(ways))
        ending = (_rows_of(const(last), extents, tiles), width)
        return [
            For(number, const(last + 1), LoopKind.SERIAL, body),
            Call(fixed_epilogue_kernel(_PLAIN), self._results(const(last), extents, const(last % 2)), ending),
        ]

    def _column_tile(self, point: Expr, half: Expr) -> Expr:
        return total(scaled(total(scaled(Var("panel"), POINTS), point), HALVES), half)

    def _results(self, number: Expr, extents: tuple[int, int, int], turn: Expr) -> tuple[Window, ...]:
        """Return the windows of a tile's sums, scales and units, and of its products."""
        blocking = self.blocking
        point, half, tile = decode(number, extents)
        first = total(scaled(tile, LANES * blocking.tile.width), scaled(half, LANES))
        return (
            Window("done", scaled(turn, SUMS)),
            Window("row_scales", scaled(self._row_tile(point, tile), LANES)),
            Window("facts", scaled(self._column_tile(point, half), FACTS * LANES)),
            Window("products", total(scaled(point, blocking.product_plane), first)),
        )


def _rows_of(number: Expr, extents: tuple[int, int, int], tiles: int) -> Expr:
    """Return how many of the 16 rows of a tile are transformed tiles."""
    _, _, tile = decode(number, extents)
    return least(apply("sub", const(tiles), scaled(tile, LANES)), LANES)
