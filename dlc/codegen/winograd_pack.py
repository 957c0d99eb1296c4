"""Transforms weights for Winograd's products and packs them: [panel][point][channel][width].

A kernel of its own that reads the weights only, so that constants are transformed once. It must not know how
the packed weights are used.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.contract_blocking import RegisterTile
from dlc.codegen.contract_index import least, scaled, total
from dlc.codegen.winograd_problem import POINTS, REACH, WINDOW, WinogradProblem
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select
from dlc.ir.kernel import Buffer, For, Kernel, Let, LoopKind, Stmt, Store
from dlc.ir.types import float32, float64

CHANNELS_PER_TASK = 32
_HALF = const(0.5, float64)


def packed_size(found: WinogradProblem, tile: RegisterTile) -> int:
    """Return the number of elements of the packed weights."""
    panels = -(-found.column.extent // tile.width)
    return panels * POINTS * found.channels.extent * tile.width


def transform_weights_kernel(found: WinogradProblem, tile: RegisterTile, name: str) -> Kernel:
    """Return the entry kernel (weights, packed): G g G' of every filter, rounded once; columns filled up with zeros."""
    tensor = found.problem.panel_operand
    column, channels = found.column, found.channels
    panel, lane = Var("panel"), Var("lane")
    block, channel = scaled(Var("block"), CHANNELS_PER_TASK), Var("channel")
    point_size = channels.extent * tile.width
    body: list[Stmt] = []
    for vector in range(tile.vectors):
        lets: list[Stmt] = []

        def bind(value: Expr, lets: list[Stmt] = lets) -> Expr:
            variable = Var(f"v{len(lets)}", value.dtype)
            lets.append(Let(variable, value))
            return variable

        filter_ = total(scaled(panel, tile.width), const(vector * tile.lanes), lane)
        there = apply("less", filter_, const(column.extent))
        first = total(scaled(channel, channels.strides[tensor]), scaled(filter_, column.strides[tensor]))
        taps = []
        for r in range(WINDOW):
            line = []
            for s in range(WINDOW):
                place = total(first, const(r * found.taps[0].strides[tensor] + s * found.taps[1].strides[tensor]))
                value = select(there, Load("weights", place, float32), const(0, float32))
                line.append(bind(cast(value, float64)))
            taps.append([bind(e) for e in _weight_points(line)])
        stores: list[Stmt] = []
        for j in range(REACH):
            for i, value in enumerate(_weight_points([line[j] for line in taps])):
                place = total(
                    scaled(panel, POINTS * point_size),
                    const((i * REACH + j) * point_size + vector * tile.lanes),
                    scaled(channel, tile.width),
                    lane,
                )
                stores.append(Store("packed", place, cast(value, float32)))
        body.append(For(lane, const(tile.lanes), LoopKind.VECTOR, (*lets, *stores)))
    count: Expr = const(CHANNELS_PER_TASK)
    if channels.extent % CHANNELS_PER_TASK:
        count = least(count, apply("sub", const(channels.extent), block))
    bound = Let(channel, total(block, Var("c")))
    loop: Stmt = For(Var("c"), count, LoopKind.SERIAL, (bound, *body))
    panels, blocks = -(-column.extent // tile.width), -(-channels.extent // CHANNELS_PER_TASK)
    for variable, extent in ((Var("block"), blocks), (panel, panels)):
        loop = For(variable, const(extent), LoopKind.PARALLEL, (loop,))
    buffers = (
        Buffer("weights", float32, found.problem.sizes[tensor]),
        Buffer("packed", float32, packed_size(found, tile), writable=True),
    )
    return Kernel(name, buffers, (), (loop,))


def _weight_points(g: Sequence[Expr]) -> list[Expr]:
    """Return G g: three taps along an axis at the points 0, 1, -1 and infinity."""
    outer = apply("add", g[0], g[2])
    sums = [apply(op, outer, g[1]) for op in ("add", "sub")]
    return [g[0], *(apply("mul", each, _HALF) for each in sums), g[2]]
