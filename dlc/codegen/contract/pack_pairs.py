"""Packs 16-bit elements of a panel as words: two neighbours along the depth for every column.

It must not know how the packed panels are used.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract.depth_levels import level_scalars, nested_levels
from dlc.codegen.contract.index import scaled, total
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select
from dlc.ir.kernel import Buffer, For, Kernel, Let, LoopKind, Stmt, Store
from dlc.ir.types import uint16, uint32


@lru_cache(maxsize=256)
def paired_panel_kernel(lanes: int, vectors: int, unit: bool, ragged: bool, odd: bool, levels: int) -> Kernel:
    """Return the kernel (source, packed) that packs one panel; columns from ``columns`` on become zero.

    Scalars: extent (the innermost in pairs) and stride (there that of a pair) of each depth level; the column stride
    unless columns are contiguous (``unit``); ``columns`` if ragged. With ``odd`` the last pair has one element.
    """
    deepest = levels - 1
    extent = Var(f"n{deepest}")
    lets = (
        Let(Var("at"), apply("add", Var(f"at{deepest}"), apply("mul", Var("k"), Var(f"s{deepest}")))),
        Let(Var("step"), apply("add", Var("first"), Var("k"))),
    )
    whole = apply("sub", extent, const(1)) if odd else extent
    loops: list[Stmt] = [
        Let(Var("first"), apply("mul", Var(f"step{deepest}"), extent)),
        Let(Var("apart"), apply("floor_div", Var(f"s{deepest}"), const(2))),
        For(Var("k"), whole, LoopKind.SERIAL, (*lets, *_step(lanes, vectors, unit, ragged, False))),
    ]
    if odd:
        body = (Let(Var("k"), whole), *lets, *_step(lanes, vectors, unit, ragged, True))
        loops.append(For(Var("half"), const(1), LoopKind.SERIAL, body))
    body = tuple(nested_levels(loops, deepest))
    names = [scalar.name for scalar in level_scalars(levels)]
    names += [] if unit else ["stride"]
    names += ["columns"] if ragged else []
    buffers = (Buffer("source", uint16, None), Buffer("packed", uint32, None, writable=True))
    words = [
        "paired_panel",
        f"{vectors}x{lanes}",
        f"d{levels}",
        *(["ragged"] if ragged else []),
        *(["odd"] if odd else []),
    ]
    return Kernel("_".join(words), buffers, tuple(Var(name) for name in names), body)


def _step(lanes: int, vectors: int, unit: bool, ragged: bool, half: bool) -> list[Stmt]:
    """Make the words of one pair of depth steps, from ``at`` in the source to row ``step`` of the panel."""
    statements: list[Stmt] = []
    for vector in range(vectors):
        column = total(Var("lane"), const(vector * lanes))
        place = apply("add", Var("at"), column if unit else apply("mul", column, Var("stride")))
        word: Expr = cast(Load("source", place, uint16), uint32)
        if not half:
            second = cast(Load("source", apply("add", place, Var("apart")), uint16), uint32)
            word = apply("bit_or", word, apply("shift_left", second, const(16, uint32)))
        if ragged:
            word = select(apply("less", column, Var("columns")), word, const(0, uint32))
        store = Store("packed", total(scaled(Var("step"), vectors * lanes), column), word)
        statements.append(For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,)))
    return statements
