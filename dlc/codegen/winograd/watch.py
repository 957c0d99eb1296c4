"""Watches what Winograd multiplies: where a tensor's sums hang on few terms, transforms lose digits.

A transform adds neighbours, so what it rounds is measured by the largest of them, whereas a result may be made
of the small ones alone. That does not show where sums have many terms of their size. The number of terms that
count, (sum |x|)^2 / sum x^2, is watched of every tile and every filter; the kernels here compute and judge it.
They must not know how tiles are scheduled.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract.index import ZERO, scaled, total
from dlc.codegen.winograd.problem import POINTS, REACH, STEP, WinogradProblem
from dlc.codegen.winograd.vectors import LANE, vector_loop
from dlc.ir.expr import Expr, Horizontal, Load, Var, apply, const, select
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, If, Kernel, Let, LoopKind, Space, Stmt, Store
from dlc.ir.types import float32, uint32

FEW_TERMS, FEWEST_TERMS = 60, 24
"""Terms that count of a result, as far as tiles and filters tell apart from one another: from the first number on its
error is below that of a chain of multiply-adds, from the second on the largest errors are, if not their mean square."""
SOME = 4
"""One of so many tiles of a block may have few terms: those at corners of an image have, which is padded with zeros."""
_FAILURE = 1 << 16
GREATEST, LEAST = 2.0**60, 2.0**-80
"""Bounds of sums of squares: products of what is within are far from infinity and from the smallest numbers."""
UNLIMITED, REFUSED = 2.0**60, -1.0


def in_range(squares: Expr, magnitudes: Expr) -> Expr:
    """Whether a sum of squares is within bounds, or of nothing but zeros; not so of NaN."""
    small = apply("greater_equal", squares, const(LEAST, float32))
    zero = apply("equal", magnitudes, const(0.0, float32))
    great = apply("less_equal", squares, const(GREATEST, float32))
    return apply("bit_and", apply("bit_or", small, zero), great)


def limit_size(found: WinogradProblem, lanes: int) -> int:
    """Return the number of elements of the limits: one for every filter, in whole vectors."""
    return -(-found.column.extent // lanes) * lanes


def limit_kernel(found: WinogradProblem, lanes: int, name: str) -> Kernel:
    """Return the entry kernel (weights, limits) that finds what tiles must keep to.

    A tile has FEW_TERMS at least where sum x^2 <= limit * (sum |x|)^2. Every filter leaves tiles the more room the
    more of its weights count; the least limit holds. It is REFUSED where weights of a filter are out of range.
    """
    tensor = found.problem.panel_operand
    column = found.column
    axes = (*found.taps, found.channels)
    variables = [Var("r"), Var("s"), Var("c")]
    place = total(*(scaled(v, axis.strides[tensor]) for v, axis in zip(variables, axes, strict=True)))
    filter_ = total(scaled(Var("v"), lanes), LANE)
    active = apply("less", filter_, const(column.extent))
    weight = Var("weight", float32)
    step = vector_loop(
        lanes,
        Let(weight, Load("weights", total(place, scaled(filter_, column.strides[tensor])), float32)),
        Accumulate("magnitudes", LANE, "add", apply("abs", weight)),
        Accumulate("squares", LANE, "add", apply("mul", weight, weight)),
        active=active,
    )
    loops: Stmt = step
    for variable, axis in reversed(list(zip(variables, axes, strict=True))):
        loops = For(variable, const(axis.extent), LoopKind.SERIAL, (loops,))
    magnitudes, squares = Load("magnitudes", LANE, float32), Load("squares", LANE, float32)
    share = 1.0 / (POINTS * FEW_TERMS * found.channels.extent)
    allowed = apply("mul", apply("div", apply("mul", magnitudes, magnitudes), squares), const(share, float32))
    room = select(apply("greater", magnitudes, const(0.0, float32)), allowed, const(UNLIMITED, float32))
    judged = select(in_range(squares, magnitudes), room, const(REFUSED, float32))
    body: tuple[Stmt, ...] = (
        Alloc(Buffer("magnitudes", float32, lanes, Space.LOCAL)),
        Alloc(Buffer("squares", float32, lanes, Space.LOCAL)),
        vector_loop(lanes, Store("magnitudes", LANE, const(0.0, float32))),
        vector_loop(lanes, Store("squares", LANE, const(0.0, float32))),
        loops,
        vector_loop(lanes, Store("limits", filter_, judged)),
    )
    buffers = (
        Buffer("weights", float32, found.problem.sizes[tensor]),
        Buffer("limits", float32, limit_size(found, lanes), writable=True),
    )
    vectors = const(-(-column.extent // lanes))
    return Kernel(name, buffers, (), (For(Var("v"), vectors, LoopKind.PARALLEL, body),))


@lru_cache(maxsize=4)
def least_limit_kernel(lanes: int) -> Kernel:
    """Return the kernel (limits, limit) that finds the least of ``vectors`` of limits."""
    body = (
        Alloc(Buffer("least", float32, lanes, Space.LOCAL)),
        vector_loop(lanes, Store("least", LANE, const(UNLIMITED, float32))),
        For(
            Var("v"),
            Var("vectors"),
            LoopKind.SERIAL,
            (
                vector_loop(
                    lanes,
                    Accumulate("least", LANE, "minimum", Load("limits", total(scaled(Var("v"), lanes), LANE), float32)),
                ),
            ),
        ),
        Store("limit", ZERO, Horizontal("minimum", "least", ZERO, lanes, float32)),
    )
    buffers = (Buffer("limits", float32, None), Buffer("limit", float32, None, writable=True))
    return Kernel(f"winograd_least_limit_{lanes}", buffers, (Var("vectors"),), body)


@lru_cache(maxsize=16)
def magnitudes_kernel(lanes: int, ragged: bool) -> Kernel:
    """Return the kernel (source, sums) that adds up |x| and x^2 over the channels of the pixels of a line.

    Scalars: ``pixels``; ``last``, the last one that exists, which stands for those after it; ``step`` between
    pixels; ``vectors`` of channels, after which come ``active`` more if ragged; ``plane`` from sums to squares.
    """
    place = Var("place")

    def add(channel: Expr, active: Expr | None) -> Stmt:
        x = Var("x", float32)
        return vector_loop(
            lanes,
            Let(x, Load("source", total(place, channel, LANE), float32)),
            Accumulate("magnitudes", LANE, "add", apply("abs", x)),
            Accumulate("squares", LANE, "fma", apply("mul", x, x)),
            active=active,
        )

    body: list[Stmt] = [
        Let(place, apply("mul", apply("minimum", Var("pixel"), Var("last")), Var("step"))),
        Alloc(Buffer("magnitudes", float32, lanes, Space.LOCAL)),
        Alloc(Buffer("squares", float32, lanes, Space.LOCAL)),
        vector_loop(lanes, Store("magnitudes", LANE, const(0.0, float32))),
        vector_loop(lanes, Store("squares", LANE, const(0.0, float32))),
        For(Var("c"), Var("vectors"), LoopKind.SERIAL, (add(scaled(Var("c"), lanes), None),)),
    ]
    if ragged:
        body.append(add(scaled(Var("vectors"), lanes), apply("less", LANE, Var("active"))))
    body += [
        Store("sums", Var("pixel"), Horizontal("add", "magnitudes", ZERO, lanes, float32)),
        Store("sums", total(Var("plane"), Var("pixel")), Horizontal("add", "squares", ZERO, lanes, float32)),
    ]
    names = ["pixels", "last", "step", "vectors", *(["active"] if ragged else []), "plane"]
    buffers = (Buffer("source", float32, None), Buffer("sums", float32, None, writable=True))
    loop = For(Var("pixel"), Var("pixels"), LoopKind.SERIAL, tuple(body))
    text = f"winograd_magnitudes_{lanes}" + ("_ragged" if ragged else "")
    return Kernel(text, buffers, tuple(Var(n) for n in names), (loop,))


def failed(tiles: int, lanes: int) -> Expr:
    """Whether ``verdict``, which judge kernels added to, forbids to transform a block of so many tiles."""
    found = Horizontal("add", "verdict", ZERO, lanes, uint32)
    return apply("greater", found, const(tiles // SOME, uint32))


@lru_cache(maxsize=4)
def judge_kernel(lanes: int) -> Kernel:
    """Return the kernel (sums, limit, columns, verdict) that judges a line of tiles.

    It adds to ``verdict``, by lanes, 1 for a tile of few terms, far more for one of too few or out of range.
    Scalars: ``row1`` .. ``row3``, where the sums of the lines below the tiles' first begin; ``tiles``; ``chunks`` of
    pixels of a line; ``plane`` from sums to squares. ``columns`` is room for the sums of one line.
    """
    rows: list[Expr] = [ZERO, *(Var(f"row{k}") for k in range(1, REACH))]
    statements: list[Stmt] = []
    totals = []
    for number, name in enumerate(("magnitudes", "squares")):
        x = total(scaled(Var("x"), lanes), LANE)
        plane: Expr = Var("plane") if number else ZERO
        line = [Load("sums", total(plane, row, x), float32) for row in rows]
        down = apply("add", apply("add", line[0], line[1]), apply("add", line[2], line[3]))
        here = apply("mul", const(number * lanes), Var("chunks"))
        store = Store("columns", total(here, x) if number else x, down)
        statements.append(For(Var("x"), Var("chunks"), LoopKind.SERIAL, (vector_loop(lanes, store),)))
        first = scaled(total(scaled(Var("t"), lanes), LANE), STEP)
        across = [
            Load("columns", total(here, first, const(k)) if number else total(first, const(k)), float32)
            for k in range(REACH)
        ]
        summed = apply("add", apply("add", across[0], across[1]), apply("add", across[2], across[3]))
        totals.append(Let(Var(name, float32), summed))
    magnitudes, squares = Var("magnitudes", float32), Var("squares", float32)
    limit = Var("limit_", float32)
    room = apply("mul", apply("mul", magnitudes, magnitudes), limit)
    enough = apply("less_equal", squares, room)
    most = apply("mul", room, const(FEW_TERMS / FEWEST_TERMS, float32))
    fits = apply("bit_and", apply("less_equal", squares, most), in_range(squares, magnitudes))
    judged = select(enough, const(0, uint32), const(1, uint32))
    verdict = select(fits, judged, const(_FAILURE, uint32))
    tile = total(scaled(Var("t"), lanes), LANE)
    judge = vector_loop(
        lanes,
        *totals,
        Accumulate("verdict", LANE, "add", verdict),
        active=apply("less", tile, Var("tiles")),
    )
    count = apply("floor_div", total(Var("tiles"), const(lanes - 1)), const(lanes))
    statements += [
        Let(limit, Load("limit", ZERO, float32)),
        If(
            apply("greater", limit, const(0.0, float32)),
            (For(Var("t"), count, LoopKind.SERIAL, (judge,)),),
            (vector_loop(lanes, Store("verdict", LANE, const(_FAILURE, uint32))),),
        ),
    ]
    buffers = (
        Buffer("sums", float32, None),
        Buffer("limit", float32, None),
        Buffer("columns", float32, None, writable=True),
        Buffer("verdict", uint32, None, writable=True),
    )
    names = ("row1", "row2", "row3", "tiles", "chunks", "plane")
    return Kernel(f"winograd_judge_{lanes}", buffers, tuple(Var(n) for n in names), tuple(statements))
