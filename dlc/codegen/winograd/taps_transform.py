"""The kernels around Winograd's products where taps are the results: F(3x3, 2x2).

With d the 4 x 4 inputs of a tile and g the 2 x 2 values that weigh its windows (the gradient of the outputs there), a
tile adds A' [(G g G') * (B' d B)] A to the 3 x 3 taps: F(2x2, 3x3) with the parts of outputs and weights exchanged.
Inputs are transformed as there, A' is applied once to the products' sums. It must not know how tiles are scheduled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dlc.codegen.contract.index import scaled, total
from dlc.codegen.winograd.problem import REACH, STEP, WINDOW
from dlc.codegen.winograd.vectors import LANE, Names, add, sub, vector_loop
from dlc.ir.expr import Expr, Load, Var, apply, const
from dlc.ir.kernel import Buffer, For, Kernel, Let, LoopKind, Stmt, Store
from dlc.ir.types import float32


def _value_points(g: Sequence[Expr], name: Names) -> list[Expr]:
    """Return G g: one or two values along an axis, the second zero if missing, at the points 0, 1, -1 and infinity."""
    half = const(0.5, float32)
    if len(g) == 1:
        middle = name(apply("mul", g[0], half))
        return [g[0], middle, middle, const(0.0, float32)]
    sums = [name(apply("mul", combine(g[0], g[1]), half)) for combine in (add, sub)]
    return [g[0], *sums, g[1]]


def _taps(m: Sequence[Expr], name: Names) -> list[Expr]:
    """Return A' m: three taps along an axis from the sums at four points."""
    both = name(add(m[1], m[2]))
    return [name(add(m[0], both)), name(sub(m[1], m[2])), name(sub(both, m[3]))]


@lru_cache(maxsize=16)
def value_kernel(lanes: int, lines: int, half: bool) -> Kernel:
    """Return the kernel (source, target) that transforms the values of a line of tiles, channels side by side.

    Of a tile ``lines`` lines exist, the others are zero; with ``half`` one more tile follows of which the first pixel
    alone exists. Scalars: ``line`` and ``step`` between lines and pixels; ``tiles``; ``vectors`` of channels;
    ``pitch`` between tiles and ``plane`` between points.
    """

    def tile(pixels: int) -> list[Stmt]:
        name = Names()
        channel = scaled(Var("c"), lanes)
        first = apply("mul", Var("t"), scaled(Var("step"), STEP))
        values = [
            [
                name(
                    Load(
                        "source",
                        total(first, scaled(Var("line"), r), scaled(Var("step"), s), channel, LANE),
                        float32,
                    )
                )
                for s in range(pixels)
            ]
            for r in range(lines)
        ]
        along = [_value_points(line, name) for line in values]
        stores: list[Stmt] = []
        for j in range(REACH):
            for i, value in enumerate(_value_points([line[j] for line in along], name)):
                place = total(scaled(Var("plane"), i * REACH + j), apply("mul", Var("t"), Var("pitch")), channel, LANE)
                stores.append(Store("target", place, value))
        body = vector_loop(lanes, *name.lets, *stores)
        return [For(Var("c"), Var("vectors"), LoopKind.SERIAL, (body,))]

    statements: list[Stmt] = [For(Var("t"), Var("tiles"), LoopKind.SERIAL, tuple(tile(STEP)))]
    if half:
        statements += [Let(Var("t"), Var("tiles")), *tile(1)]
    buffers = (Buffer("source", float32, None), Buffer("target", float32, None, writable=True))
    names = ("line", "step", "tiles", "vectors", "pitch", "plane")
    text = f"winograd_values_{lanes}_{lines}" + ("_half" if half else "")
    return Kernel(text, buffers, tuple(Var(n) for n in names), tuple(statements))


@lru_cache(maxsize=4)
def taps_kernel(lanes: int) -> Kernel:
    """Return the kernel (sums, out) that turns the products' sums of some channels into their taps.

    Scalars: ``channels``; ``vectors`` of columns; in sums, ``pitch`` between channels and ``plane`` between points; in
    the output, ``channel`` between channels, ``tap0`` and ``tap1`` between taps.
    """
    name = Names()
    channel, column = Var("c"), total(scaled(Var("v"), lanes), LANE)
    place = total(apply("mul", channel, Var("pitch")), column)
    sums = [
        [name(Load("sums", total(scaled(Var("plane"), i * REACH + j), place), float32)) for i in range(REACH)]
        for j in range(REACH)
    ]
    down = [_taps(points, name) for points in sums]
    stores: list[Stmt] = []
    for r in range(WINDOW):
        for s, value in enumerate(_taps([points[r] for points in down], name)):
            where = total(scaled(Var("tap0"), r), scaled(Var("tap1"), s), apply("mul", channel, Var("channel")), column)
            stores.append(Store("out", where, value))
    body: Stmt = vector_loop(lanes, *name.lets, *stores)
    for variable, extent in (("v", "vectors"), ("c", "channels")):
        body = For(Var(variable), Var(extent), LoopKind.SERIAL, (body,))
    buffers = (Buffer("sums", float32, None), Buffer("out", float32, None, writable=True))
    names = ("channels", "vectors", "pitch", "plane", "channel", "tap0", "tap1")
    return Kernel(f"winograd_taps_{lanes}", buffers, tuple(Var(n) for n in names), (body,))


@lru_cache(maxsize=4)
def clear_kernel(lanes: int) -> Kernel:
    """Return the kernel (target) that writes zeros to so many ``vectors``."""
    store = Store("target", total(scaled(Var("v"), lanes), LANE), const(0.0, float32))
    loop = For(Var("v"), Var("vectors"), LoopKind.SERIAL, (vector_loop(lanes, store),))
    return Kernel(
        f"winograd_clear_{lanes}", (Buffer("target", float32, None, writable=True),), (Var("vectors"),), (loop,)
    )
