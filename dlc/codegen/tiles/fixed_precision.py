"""Chooses with how many digits tiles of fixed-point numbers are multiplied, from the facts of rows and columns.

It must not know how tiles are scheduled.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.contract.index import scaled, total
from dlc.codegen.tiles.fixed_point import FACTS, LANES, LOST, ZEROS
from dlc.codegen.tiles.fixed_products import LONG, PRECISIONS
from dlc.codegen.tiles.fixed_refusals import LAST_DIGIT, MOST_LOSS
from dlc.codegen.tiles.fixed_row_tiles import fact_place
from dlc.ir.expr import Expr, Load, Var, apply, const, select
from dlc.ir.kernel import If, Let, Stmt
from dlc.ir.types import float32


def choose_precision(column_tile: Expr, row_tile: Expr) -> Stmt:
    """Bind ``verdict`` to the precision of a pair of tiles: the shortest that is expected to lose less than a chain."""
    at = total(scaled(column_tile, FACTS * LANES), const(LANES))
    zeros, lost = (Load("facts", total(at, const(fact)), float32) for fact in (ZEROS, LOST))
    loss, few = (Load("row_facts", fact_place(row_tile, name), float32) for name in ("loss", "few"))
    rows, columns = apply("mul", zeros, loss), apply("mul", lost, few)
    losses = [apply("add", rows, columns), apply("add", apply("mul", rows, const(LAST_DIGIT, float32)), columns)]
    verdict: Expr = const(LONG)
    for precision, amount in reversed(list(enumerate(losses))):
        verdict = select(apply("less_equal", amount, const(MOST_LOSS, float32)), const(precision), verdict)
    return Let(Var("verdict"), verdict)


def by_precision(ways: Sequence[tuple[Stmt, ...]]) -> Stmt:
    """Return the statement that does what is given for ``verdict``, one of ``PRECISIONS``."""
    otherwise: tuple[Stmt, ...] = ()
    for precision, way in reversed(list(zip(PRECISIONS, ways, strict=True))):
        otherwise = (If(apply("equal", Var("verdict"), const(precision)), way, otherwise),)
    return otherwise[0]
