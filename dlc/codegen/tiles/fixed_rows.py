"""Turns rows whose depth is not contiguous, for fixed point: squares of sixteen rows and steps of the depth.

It must not know tiles or digits.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract.depth_levels import level_scalars, nested_levels
from dlc.codegen.contract.index import ZERO, scaled, total
from dlc.codegen.tiles.fixed_point import LANES
from dlc.ir.expr import Expr, Var, apply, const
from dlc.ir.kernel import Buffer, For, If, Kernel, Let, LoopKind, Stmt, Transpose, Window
from dlc.ir.types import float32


def turned_pitch(depth: int) -> int:
    """Return the elements from one turned row to the next: room for the last square, and no whole pages."""
    return -(-depth // LANES) * LANES + LANES


@lru_cache(maxsize=32)
def turn_rows_kernel(levels: int) -> Kernel:
    """Return the kernel (source, turned) that copies a tile of rows, contiguous at each step of the depth.

    Scalars: extent and stride of each depth level in the source, then the pitch of turned rows.
    """
    last = levels - 1
    extent, stride = Var(f"n{last}"), Var(f"s{last}")

    def square(number: Expr, rows: Expr | None) -> Transpose:
        k = scaled(number, LANES)
        source = Window("source", total(Var(f"at{last}"), apply("mul", k, stride)))
        return Transpose(Window("turned", total(Var("first"), k)), Var("pitch"), source, stride, LANES, rows)

    whole, rest = apply("floor_div", extent, const(LANES)), apply("floor_mod", extent, const(LANES))
    body: list[Stmt] = [
        Let(Var("first"), apply("mul", Var(f"step{last}"), extent)),
        For(Var("c"), whole, LoopKind.SERIAL, (square(Var("c"), None),)),
        If(apply("greater", rest, ZERO), (square(whole, rest),)),
    ]
    scalars = (*level_scalars(levels), Var("pitch"))
    buffers = (Buffer("source", float32, None), Buffer("turned", float32, None, writable=True))
    return Kernel(f"turn_rows_d{levels}", buffers, scalars, tuple(nested_levels(body, last)))
