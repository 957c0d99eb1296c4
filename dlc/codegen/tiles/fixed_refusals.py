"""What of a task fixed point refuses: tiles of rows and panels of columns, which go the way back to multiply-adds.

A few outlier rows or dead filters must not take the tile unit from all others. It must not know how tiles are
multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.contract.index import ZERO, scaled, total
from dlc.codegen.contract.macro import MacroKernel, RowMap
from dlc.codegen.tiles.fixed_point import LANES, LOST, SCARCE, ZEROS
from dlc.ir.expr import Expr, Load, Var, apply, cast, const
from dlc.ir.kernel import If, Let, Stmt, Store
from dlc.ir.types import float32, int32

MOST_LOSS = 0.25
"""Bound of the losses of rows and columns together (see ``fixed_point``): just below what a chain loses."""
LAST_DIGIT = 2.0**-16
"""What a fourth digit leaves of a loss of three."""
FEWEST_TERMS = 4
"""Of fewer terms that count all may be small beside their scales."""
COLUMN_FACTS = (ZEROS, LOST, SCARCE)
USUAL_TERMS = 4
"""Columns are refused for all rows if they would be for rows of which one element in so many counts."""
GROUP, TASK, PANELS = const(0), const(1), const(2)
"""Where it is counted how many tiles of rows of a group, and of a task, and how many panels are refused."""
NONE = const(0, int32)


def count_of(of: Expr) -> Expr:
    """Return how many are refused."""
    return cast(Load("refusals", of, int32), ZERO.dtype)


def refuse(buffer: str, number: Expr, *counts: Expr) -> tuple[Stmt, ...]:
    """Refuse a tile of rows or a panel."""
    one = const(1, int32)
    more = (Store("refusals", of, apply("add", Load("refusals", of, int32), one)) for of in counts)
    return (Store(buffer, number, one), *more)


def fit(columns: Sequence[Expr], rows: Sequence[Expr]) -> Expr:
    """Whether columns and rows of such facts, in order, lose less than a chain with four digits."""
    (zeros, lost, scarce), (loss, few, thin) = columns, rows
    both = apply("add", apply("mul", zeros, loss), apply("mul", lost, few))
    enough = apply("less_equal", both, const(MOST_LOSS / LAST_DIGIT, float32))
    several = apply("less_equal", apply("mul", scarce, thin), const(1 / FEWEST_TERMS, float32))
    return apply("bit_and", enough, several)


class WayBack(MacroKernel):
    """Multiply-adds for the rows and the columns of a task that are refused.

    ``refused_rows`` says it of tiles of 16 rows, ``refused_panels`` of panels of columns.
    """

    def task(self) -> list[Stmt]:
        panels = -(-self.blocking.panels // self.blocking.column_chunks)
        return [Let(Var("first_panel"), scaled(Var("cc"), panels)), *super().task()]

    def _tile(self, tile: Expr) -> list[Stmt]:
        """Learn whether one of the tiles of 16 rows that a tile reaches into is refused."""
        inner = self._inner(tile)
        last = apply("sub", self._first_row(total(inner, const(1))), const(1))
        places = (apply("sub", row, Var("chunk_first")) for row in (self._first_row(inner), last))
        ends = (Load("refused_rows", apply("floor_div", place, const(LANES)), int32) for place in places)
        return [Let(Var("refused", int32), apply("maximum", *ends)), *super()._tile(tile)]

    def _call(self, rows: int, vectors: int, ragged: int, panel: Expr, maps: dict[int, RowMap], joint: int = 1) -> Stmt:
        wanted = apply("maximum", Var("refused", int32), self._refused_panel(panel))
        call = super()._call(rows, vectors, ragged, panel, maps, joint)
        return If(apply("not_equal", wanted, NONE), (call,))

    def _packs_all(self) -> bool:
        return False

    def _if_wanted(self, panel: Expr, packing: Stmt) -> Stmt:
        wanted = apply("maximum", Load("refusals", TASK, int32), self._refused_panel(panel))
        return If(apply("not_equal", wanted, NONE), (packing,))

    @staticmethod
    def _refused_panel(panel: Expr) -> Expr:
        return Load("refused_panels", apply("sub", panel, Var("first_panel")), int32)
