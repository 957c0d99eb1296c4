"""Importers of GridSample, of pooling with positions and its inverse, and of cumulative products."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.windows import Window, kernel_shape, read_window
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim, size_of
from dlc.ir.graph import Value
from dlc.ir.types import TensorType, int64

_MOST_TAPS = 64


# -- cumulative product -------------------------------------------------------------------


@onnx_op("CumProd")
def import_cumprod(call: Call) -> Value:
    """Products of the elements up to each one."""
    b, x = call.b, call.value(0)
    axis = call.axis(int(call.scalar(1, "axis")), x.type.rank)
    order = (axis, *(k for k in range(x.type.rank) if k != axis))
    rows = b.transpose_to(x, order)
    row = TensorType(x.type.dtype, rows.type.shape[1:])
    inner = Builder(f"{call.label}_step")
    with inner.origin(*b.current_origins):
        carry, element = inner.input("carry", row), inner.input("element", row)
        total = inner.mul(carry, element)
    inner.output("total", total)
    inner.output("result", carry if call.flag("exclusive") else total)
    attributes = {"body": inner.finish(), "carries": 1, "sequences": 1, "reverse": call.flag("reverse")}
    results = b.emit("scan", [b.full(row.shape, 1, row.dtype), rows], attributes)[1]
    return b.transpose_to(results, [order.index(k) for k in range(x.type.rank)])


# -- pooling with positions ---------------------------------------------------------------


def max_positions(call: Call, x: Value, window: Window) -> tuple[Value, Value]:
    """Emit every window's first largest element and its position in the flat tensor, tap by tap."""
    b, shape = call.b, x.type.shape
    if call.flag("ceil_mode") or prod(window.extents) > _MOST_TAPS or not x.type.is_static:
        call.fail(f"gives positions for fixed shapes and windows of up to {_MOST_TAPS} elements without ceil_mode only")
    places = _flat_positions(b, shape, call.integer("storage_order", 0) == 1)
    low, high = ((0, 0, *(pair[k] for pair in window.pads)) for k in range(2))
    dtype = x.type.dtype
    lowest = -np.inf if dtype.is_float else np.iinfo(dtype.numpy).min
    x = b.pad(x, b.constant(lowest, dtype), low=low, high=high)
    places = b.pad(places, b.constant(0, int64), low=low, high=high)
    best: Value | None = None
    where: Value | None = None
    for tap in product(*(range(size) for size in window.extents)):
        starts, limits, strides = [0, 0], [int(d) for d in shape[:2]], [1, 1]  # type: ignore[arg-type]
        for k, t in enumerate(tap):
            reach = (window.extents[k] - 1) * window.dilations[k] + 1
            count = (int(x.type.shape[2 + k]) - reach) // window.strides[k] + 1  # type: ignore[arg-type]
            starts.append(t * window.dilations[k])
            limits.append(starts[-1] + (count - 1) * window.strides[k] + 1)
            strides.append(window.strides[k])
        taken, place = (b.slice(v, starts=starts, limits=limits, strides=strides) for v in (x, places))
        if best is None or where is None:
            best, where = taken, place
            continue
        larger = b.greater(taken, best)
        best, where = b.where(larger, taken, best), b.where(larger, place, where)
    assert best is not None and where is not None
    return best, where


def _flat_positions(b: Builder, shape: tuple[Dim, ...], column_major: bool) -> Value:
    """Emit each element's position, spatial dimensions in row-major or column-major order."""
    spatial = list(range(2, len(shape)))
    order = [0, 1, *(reversed(spatial) if column_major else spatial)]
    total = b.full(shape, 0, int64)
    stride: Dim = 1
    for axis in reversed(order):
        total = b.add(total, b.mul(b.iota(shape=shape, axis=axis, dtype=int64), b.constant(stride, int64)))
        stride = stride * shape[axis]
    return total


@onnx_op("MaxUnpool")
def import_max_unpool(call: Call) -> Value:
    """Put elements back where MaxPool found them, zeros elsewhere."""
    b, x, places = call.b, call.value(0), call.value(1)
    spatial = x.type.shape[2:]
    window = read_window(call, spatial, kernel_shape(call, len(spatial)))
    columns = zip(spatial, window.extents, window.strides, window.pads, strict=True)
    natural = (*x.type.shape[:2], *((d - 1) * s + k - p[0] - p[1] for d, k, s, p in columns))
    wanted = call.dims(2, "output_shape") if call.has(2) else natural
    call.check_size(wanted, x.type.dtype, "the result")
    count = size_of(x.type.shape)
    flat = b.full((size_of(natural),), 0, x.type.dtype)
    flat = b.scatter_elements(flat, b.reshape_to(places, (count,)), b.reshape_to(x, (count,)), axis=0, combiner="none")
    y = b.reshape_to(flat, natural)
    if tuple(wanted) == tuple(natural):
        return y
    high = tuple(w - n for w, n in zip(wanted, natural, strict=True))
    return b.pad(y, b.constant(0, x.type.dtype), low=(0,) * len(high), high=high)


# -- GridSample ---------------------------------------------------------------------------

_MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}


@onnx_op("GridSample", since=16)
def import_grid_sample(call: Call) -> Value:
    """Sample at the coordinates of a grid, between -1 and 1 along every spatial dimension."""
    b, x, grid = call.b, call.value(0), call.value(1)
    rank = x.type.rank - 2
    mode = _MODES.get(call.string("mode", "bilinear" if call.version < 20 else "linear"))
    padding, aligned = call.string("padding_mode", "zeros"), call.flag("align_corners")
    if mode is None or padding not in ("zeros", "border", "reflection") or rank < 1 or grid.type.rank != rank + 2:
        call.fail(f"mode, padding_mode {padding!r} or the ranks {x.type.rank} and {grid.type.rank} make no sense")
    if not all(isinstance(d, int) and d > 0 for d in x.type.shape[2:]):
        call.fail(f"needs fixed spatial dimensions, not {list(x.type.shape[2:])}; give shapes=")
    extents = [int(d) for d in x.type.shape[2:]]  # type: ignore[arg-type]
    call.unify(grid.type.shape[-1], rank, "coordinates in the grid against spatial dimensions")
    call.unify(grid.type.shape[0], x.type.shape[0], "batch of the grid against the input's")
    grid = b.cast_to(grid, x.type.dtype)
    batch, places = x.type.shape[0], grid.type.shape[1:-1]
    count = size_of(places)
    points = b.reshape_to(grid, (batch, count, rank))
    wheres = []
    for k, extent in enumerate(extents):  # the grid counts dimensions from the last
        part = b.slice(points, starts=(0, 0, rank - 1 - k), limits=(batch, count, rank - k))
        raw = b.reshape_to(part, (batch, count))
        scaled = b.mul(b.add(raw, 1.0), (extent - 1) / 2) if aligned else b.sub(b.mul(b.add(raw, 1.0), extent / 2), 0.5)
        wheres.append(_fold_coordinate(b, scaled, extent, padding, aligned, mode))
    y = _sample(call, x, wheres, extents, mode, padding, aligned)
    return b.reshape_to(y, (batch, x.type.shape[1], *places))


def _bounds(extent: int, aligned: bool) -> tuple[float, float]:
    return (0.0, extent - 1.0) if aligned else (-0.5, extent - 0.5)


def _reflect(b: Builder, where: Value, low: float, high: float) -> Value:
    span = high - low
    if span <= 0:
        return b.full(where.type.shape, low, where.type.dtype)
    turn = b.floor_mod(b.sub(where, low), 2 * span)
    return b.add(b.minimum(turn, b.sub(2 * span, turn)), low)


def _fold_coordinate(b: Builder, where: Value, extent: int, padding: str, aligned: bool, mode: str) -> Value:
    if mode == "nearest":
        where = b.round(where)
    if padding == "border" and mode != "cubic":  # whose weights fall outside: its neighbours are clamped one by one
        return b.maximum(b.minimum(where, float(extent - 1)), 0.0)
    if padding == "reflection":
        return _reflect(b, where, *_bounds(extent, aligned))
    return where


def _taps(b: Builder, where: Value, mode: str) -> list[tuple[Value, Value | None]]:
    """Return (position, weight) of the neighbours along one dimension."""
    if mode == "nearest":
        return [(where, None)]
    base = b.floor(where)
    ratio = b.sub(where, base)
    if mode == "linear":
        return [(base, b.sub(1.0, ratio)), (b.add(base, 1.0), ratio)]
    a = -0.75
    taps = []
    for offset in (-1, 0, 1, 2):
        d = b.abs(b.sub(ratio, float(offset)))
        d2 = b.mul(d, d)
        d3 = b.mul(d2, d)
        if offset in (0, 1):
            weight = b.add(b.sub(b.mul(d3, a + 2), b.mul(d2, a + 3)), 1.0)
        else:
            weight = b.sub(b.add(b.sub(b.mul(d3, a), b.mul(d2, 5 * a)), b.mul(d, 8 * a)), 4 * a)
        taps.append((b.add(base, float(offset)), weight))
    return taps


def _sample(
    call: Call, x: Value, wheres: list[Value], extents: list[int], mode: str, padding: str, aligned: bool
) -> Value:
    """Emit the weighted sum of neighbours, each gathered from the flattened spatial dimensions."""
    b = call.b
    batch, channels = x.type.shape[:2]
    count = wheres[0].type.shape[1]
    flat = b.reshape_to(x, (batch, channels, prod(extents)))
    total: Value | None = None
    for taps in product(*(_taps(b, where, mode) for where in wheres)):
        place: Value | None = None
        weight: Value | None = None
        for (position, share), extent in zip(taps, extents, strict=True):
            if padding == "reflection":
                position = b.round(_reflect(b, position, *_bounds(extent, aligned)))
            inside = b.bit_and(b.greater_equal(position, 0.0), b.less_equal(position, float(extent - 1)))
            if padding == "zeros":
                kept = b.cast_to(inside, x.type.dtype)
                share = kept if share is None else b.mul(share, kept)
            index = b.cast_to(b.maximum(b.minimum(position, float(extent - 1)), 0.0), int64)
            place = index if place is None else b.add(b.mul(place, b.constant(extent, int64)), index)
            if share is not None:
                weight = share if weight is None else b.mul(weight, share)
        assert place is not None
        indices = b.broadcast(place, shape=(batch, channels, count), dims=(0, 2))
        taken = b.gather_elements(flat, indices, axis=2)
        if weight is not None:
            taken = b.mul(taken, b.broadcast(weight, shape=taken.type.shape, dims=(0, 2)))
        total = taken if total is None else b.add(total, taken)
    assert total is not None
    return total
