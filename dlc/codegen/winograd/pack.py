"""Transforms weights for Winograd's products and packs them: [panel][point][channel][width].

A kernel of its own that reads the weights only, so that constants are transformed once. It must not know how
the packed weights are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dlc.codegen.contract.blocking import RegisterTile
from dlc.codegen.contract.index import least, scaled, total
from dlc.codegen.winograd.problem import POINTS, REACH, WINDOW, WinogradProblem
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select
from dlc.ir.kernel import Buffer, Call, For, Kernel, Let, LoopKind, Stmt, Store, Window
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
    steps = {
        "channel_step": channels.strides[tensor],
        "filter_step": column.strides[tensor],
        "line_step": found.taps[0].strides[tensor],
        "tap_step": found.taps[1].strides[tensor],
        "point": channels.extent * tile.width,
        "width": tile.width,
    }
    panel, vector, block = Var("panel"), Var("vector"), scaled(Var("block"), CHANNELS_PER_TASK)
    first = total(scaled(panel, tile.width), scaled(vector, tile.lanes))
    there = least(first, column.extent - 1)  # a vector of which no filter exists reads none
    source = total(scaled(block, steps["channel_step"]), scaled(there, steps["filter_step"]))
    target = total(scaled(panel, POINTS * steps["point"]), scaled(block, tile.width), scaled(vector, tile.lanes))
    count: Expr = const(CHANNELS_PER_TASK)
    if channels.extent % CHANNELS_PER_TASK:
        count = least(count, apply("sub", const(channels.extent), block))
    kernel = filters_kernel(tile.lanes, steps["filter_step"] == 1)
    given = {"channels": count, "filters": apply("sub", const(column.extent), first)}
    given |= {step: const(value) for step, value in steps.items()}
    windows = (Window("weights", source), Window("packed", target))
    call = Call(kernel, windows, tuple(given[scalar.name] for scalar in kernel.scalars))
    loop: Stmt = For(vector, const(tile.vectors), LoopKind.SERIAL, (call,))
    panels, blocks = -(-column.extent // tile.width), -(-channels.extent // CHANNELS_PER_TASK)
    for variable, extent in ((Var("block"), blocks), (panel, panels)):
        loop = For(variable, const(extent), LoopKind.PARALLEL, (loop,))
    buffers = (
        Buffer("weights", float32, found.problem.sizes[tensor]),
        Buffer("packed", float32, packed_size(found, tile), writable=True),
    )
    return Kernel(name, buffers, (), (loop,))


@lru_cache(maxsize=16)
def filters_kernel(lanes: int, unit: bool) -> Kernel:
    """Return the kernel (weights, packed) that transforms a vector of filters, channel by channel.

    Scalars: ``channels``; ``filters`` that exist, zeros stand for others; in the weights the elements from channel to
    channel, from filter to filter unless they are contiguous (``unit``), and from tap to tap along both axes; in the
    packed ones the elements from ``point`` to point, and from channel to channel (``width``).
    """
    lane, channel, filters = Var("lane"), Var("channel"), Var("filters")
    lets: list[Stmt] = []

    def bind(value: Expr) -> Expr:
        variable = Var(f"v{len(lets)}", value.dtype)
        lets.append(Let(variable, value))
        return variable

    own = lane if unit else apply("mul", lane, Var("filter_step"))
    first = total(apply("mul", channel, Var("channel_step")), own)
    taps = []
    for r in range(WINDOW):
        line = []
        for s in range(WINDOW):
            place = total(first, scaled(Var("line_step"), r), scaled(Var("tap_step"), s))
            value = select(apply("less", lane, filters), Load("weights", place, float32), const(0, float32))
            line.append(bind(cast(value, float64)))
        taps.append([bind(e) for e in _weight_points(line)])
    stores: list[Stmt] = []
    for j in range(REACH):
        for i, value in enumerate(_weight_points([line[j] for line in taps])):
            place = total(scaled(Var("point"), i * REACH + j), apply("mul", channel, Var("width")), lane)
            stores.append(Store("packed", place, cast(value, float32)))
    vector = For(lane, const(lanes), LoopKind.VECTOR, (*lets, *stores))
    names = ["channels", "filters", "channel_step", *([] if unit else ["filter_step"])]
    names += ["line_step", "tap_step", "point", "width"]
    buffers = (Buffer("weights", float32, None), Buffer("packed", float32, None, writable=True))
    loop = For(channel, Var("channels"), LoopKind.SERIAL, (vector,))
    kind = "" if unit else "_strided"
    return Kernel(f"winograd_weights_{lanes}{kind}", buffers, tuple(Var(n) for n in names), (loop,))


def _weight_points(g: Sequence[Expr]) -> list[Expr]:
    """Return G g: three taps along an axis at the points 0, 1, -1 and infinity."""
    outer = apply("add", g[0], g[2])
    sums = [apply(op, outer, g[1]) for op in ("add", "sub")]
    return [g[0], *(apply("mul", each, _HALF) for each in sums), g[2]]
