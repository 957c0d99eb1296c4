"""Watches what Winograd sums over positions: a tap whose sum hangs on few of them loses digits in the transforms.

A transform adds neighbours, so every tap of a pair of channels gets roundings of all products of their tiles. That
does not show where a tap has many terms of its own. The number of terms that count is estimated for every pair, on
the average of its taps: S^2 / N with S = sum |x| |y| and N = sum x^2 y^2, from tallies of either channel over regions
of the images, within which the two are taken to be independent. It must not know how tiles are scheduled.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract.index import scaled, total
from dlc.codegen.winograd.vectors import LANE, vector_loop
from dlc.codegen.winograd.watch import in_range
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, Kernel, Let, LoopKind, Space, Stmt, Store
from dlc.ir.types import float32, float64, uint32

FEW_TERMS = 64
"""Terms that count: from this number on the errors of a pair's taps are below those of a chain of multiply-adds."""


@lru_cache(maxsize=4)
def tally_kernel(lanes: int) -> Kernel:
    """Return the kernel (source, tallies) that adds |x| and x^2 of the pixels of some lines, for every channel.

    Scalars: ``lines``, ``line`` between them; ``pixels``, ``step`` between them; ``vectors`` of channels; ``plane``
    from the sums of |x| to those of x^2.
    """
    channel = total(scaled(Var("c"), lanes), LANE)
    x = Var("x", float32)
    place = total(apply("mul", Var("l"), Var("line")), apply("mul", Var("p"), Var("step")), channel)
    pixel = vector_loop(
        lanes,
        Let(x, Load("source", place, float32)),
        Accumulate("magnitudes", LANE, "add", apply("abs", x)),
        Accumulate("squares", LANE, "fma", apply("mul", x, x)),
    )
    zeros = [Store(name, LANE, const(0.0, float32)) for name in ("magnitudes", "squares")]
    finish = [
        Accumulate("tallies", total(plane, channel), "add", Load(name, LANE, float32))
        for name, plane in (("magnitudes", const(0)), ("squares", Var("plane")))
    ]
    body: list[Stmt] = [Alloc(Buffer(name, float32, lanes, Space.LOCAL)) for name in ("magnitudes", "squares")]
    body += [
        vector_loop(lanes, *zeros),
        For(Var("p"), Var("pixels"), LoopKind.SERIAL, (pixel,)),
        vector_loop(lanes, *finish),
    ]
    loop: Stmt = For(Var("c"), Var("vectors"), LoopKind.SERIAL, tuple(body))
    loop = For(Var("l"), Var("lines"), LoopKind.SERIAL, (loop,))
    buffers = (Buffer("source", float32, None), Buffer("tallies", float32, None, writable=True))
    names = ("lines", "line", "pixels", "step", "vectors", "plane")
    return Kernel(f"winograd_tally_{lanes}", buffers, tuple(Var(n) for n in names), (loop,))


@lru_cache(maxsize=4)
def range_kernel(lanes: int) -> Kernel:
    """Return the kernel (tallies, verdict) that counts, by lanes, channels whose sum of squares is out of range.

    Scalars: ``regions``, ``region`` from the tallies of one to those of the next; ``vectors`` of channels; ``plane``.
    """
    place = total(apply("mul", Var("r"), Var("region")), scaled(Var("c"), lanes), LANE)
    sums = [
        Accumulate(name, LANE, "add", Load("tallies", total(plane, place), float32))
        for name, plane in (("magnitudes", const(0)), ("squares", Var("plane")))
    ]
    fits = in_range(Load("squares", LANE, float32), Load("magnitudes", LANE, float32))
    judged = select(fits, const(0, uint32), const(1, uint32))
    zeros = [Store(name, LANE, const(0.0, float32)) for name in ("magnitudes", "squares")]
    body: list[Stmt] = [Alloc(Buffer(name, float32, lanes, Space.LOCAL)) for name in ("magnitudes", "squares")]
    body += [
        vector_loop(lanes, *zeros),
        For(Var("r"), Var("regions"), LoopKind.SERIAL, (vector_loop(lanes, *sums),)),
        vector_loop(lanes, Accumulate("verdict", LANE, "add", judged)),
    ]
    loop = For(Var("c"), Var("vectors"), LoopKind.SERIAL, tuple(body))
    buffers = (Buffer("tallies", float32, None), Buffer("verdict", uint32, None, writable=True))
    names = ("regions", "region", "vectors", "plane")
    return Kernel(f"winograd_range_{lanes}", buffers, tuple(Var(n) for n in names), (loop,))


@lru_cache(maxsize=4)
def pairs_kernel(lanes: int) -> Kernel:
    """Return the kernel (x, y, verdict) that counts, by lanes, pairs of channels with few terms.

    Scalars: ``pixels`` of a region that are tallied in x, so that its sums become means; ``regions``; for either tensor
    ``channels`` or ``vectors`` of them, the elements from region to region and from the sums of magnitudes to those of
    squares.
    """
    column = total(scaled(Var("v"), lanes), LANE)

    def read(tensor: str, channel: Expr, plane: Expr) -> Expr:
        place = total(apply("mul", Var("r"), Var(f"{tensor}_region")), plane, channel)
        return cast(Load(tensor, place, float32), float64)

    sums = [
        Accumulate(
            name,
            LANE,
            "fma",
            apply(
                "mul",
                read("x", Var("c"), const(0) if name == "sizes" else Var("x_plane")),
                read("y", column, const(0) if name == "sizes" else Var("y_plane")),
            ),
        )
        for name in ("sizes", "squares")
    ]
    size = Var("size", float64)
    room = Var("room", float64)
    enough = apply("greater_equal", size, apply("mul", room, const(float(FEW_TERMS), float64)))
    judged = select(enough, const(0, uint32), const(1, uint32))
    zeros = [Store(name, LANE, const(0.0, float64)) for name in ("sizes", "squares")]
    total_size = Load("sizes", LANE, float64)
    pixels = cast(Var("pixels"), float64)
    body: list[Stmt] = [Alloc(Buffer(name, float64, lanes, Space.LOCAL)) for name in ("sizes", "squares")]
    body += [
        vector_loop(lanes, *zeros),
        For(Var("r"), Var("regions"), LoopKind.SERIAL, (vector_loop(lanes, *sums),)),
        vector_loop(
            lanes,
            Let(size, apply("mul", total_size, total_size)),
            Let(room, apply("mul", Load("squares", LANE, float64), pixels)),
            Accumulate("verdict", LANE, "add", judged),
        ),
    ]
    loop: Stmt = For(Var("v"), Var("vectors"), LoopKind.SERIAL, tuple(body))
    loop = For(Var("c"), Var("channels"), LoopKind.SERIAL, (loop,))
    buffers = (
        Buffer("x", float32, None),
        Buffer("y", float32, None),
        Buffer("verdict", uint32, None, writable=True),
    )
    names = ("pixels", "regions", "channels", "x_region", "x_plane", "vectors", "y_region", "y_plane")
    return Kernel(f"winograd_pairs_{lanes}", buffers, tuple(Var(n) for n in names), (loop,))
