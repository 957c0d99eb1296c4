"""Importers of ONNX ops that gather, scatter, select and sort."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.ops_shape import cut
from dlc.frontends.onnx.registry import onnx_op
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.types import int64

_LARGEST_SORT = 8192


def check_indices(call: Call, index: int, extent: Dim, column: int | None = None) -> None:
    """Refuse known indices outside of [-extent, extent), or those at place ``column`` of known index tuples."""
    known = call.tensor(index).known
    if known is None or known.dtype == object or not isinstance(extent, int) or not known.size:
        return
    if column is not None:
        known = known[..., column]
    low, high = int(known.min()), int(known.max())
    if low < -extent or high >= extent:
        call.fail(f"index {low if low < -extent else high} is out of range for extent {extent}")


@onnx_op("Gather")
def import_gather(call: Call) -> Value:
    """Elements along an axis at indices; negative ones count from the end."""
    axis = call.axis(call.integer("axis", 0), call.rank())
    check_indices(call, 1, call.shape()[axis])
    return call.b.gather(call.value(0), call.value(1), axis=axis)


@onnx_op("GatherElements")
def import_gather_elements(call: Call) -> Value:
    """Each element at its own index along an axis."""
    axis = call.axis(call.integer("axis", 0), call.rank())
    check_indices(call, 1, call.shape()[axis])
    return call.b.gather_elements(call.value(0), call.value(1), axis=axis)


def _check_tuples(call: Call, first: int) -> None:
    """Refuse known tuples (input 1) out of range for input 0, whose dimensions from ``first`` on they index."""
    tuples = call.shape(1)
    length = tuples[-1] if tuples else 0
    if isinstance(length, int):
        for column, extent in enumerate(call.shape()[first : first + length]):
            check_indices(call, 1, extent, column)


@onnx_op("GatherND")
def import_gather_nd(call: Call) -> Value:
    """Slices at index tuples."""
    batch = call.integer("batch_dims", 0)
    _check_tuples(call, batch)
    return call.b.gather_nd(call.value(0), call.value(1), batch_dims=batch)


_COMBINERS = {"none": "none", "add": "add", "mul": "mul", "max": "maximum", "min": "minimum"}


def _combiner(call: Call) -> str:
    reduction = call.string("reduction", "none")
    if reduction not in _COMBINERS:
        call.fail(f"reduction {reduction!r} is none of {', '.join(_COMBINERS)}")
    return _COMBINERS[reduction]


@onnx_op("ScatterElements", "Scatter")
def import_scatter_elements(call: Call) -> Value:
    """Put elements at their indices along an axis."""
    axis = call.axis(call.integer("axis", 0), call.rank())
    check_indices(call, 1, call.shape()[axis])
    b = call.b
    return b.scatter_elements(call.value(0), call.value(1), call.value(2), axis=axis, combiner=_combiner(call))


@onnx_op("ScatterND")
def import_scatter_nd(call: Call) -> Value:
    """Put slices at index tuples."""
    _check_tuples(call, 0)
    return call.b.scatter_nd(call.value(0), call.value(1), call.value(2), combiner=_combiner(call))


@onnx_op("OneHot")
def import_one_hot(call: Call) -> Value:
    """The second of two values at each index, the first elsewhere; indices out of range choose nowhere."""
    b, indices = call.b, call.value(0)
    depth = call.dims(1, "depth")[0] if call.dtype(1).is_integer else int(call.scalar(1, "depth"))
    rank = indices.type.rank
    axis = call.axis(call.integer("axis", -1), rank + 1)
    wide = b.cast_to(indices, int64)
    wide = b.where(b.less(wide, 0), b.add(wide, b.dimension(size=depth)), wide)
    shape = (*indices.type.shape[:axis], depth, *indices.type.shape[axis:])
    spread = b.broadcast(wide, shape=shape, dims=tuple(k for k in range(rank + 1) if k != axis))
    chosen = b.equal(spread, b.iota(shape=shape, axis=axis, dtype=int64))
    off, on = (b.reshape_to(cut(call, call.value(2), 0, k, k + 1), ()) for k in range(2))
    return b.where(chosen, b.broadcast_to(on, shape), b.broadcast_to(off, shape))


@onnx_op("Compress")
def import_compress(call: Call) -> Value:
    """Elements where a known condition holds."""
    condition = call.constant(1, "condition").reshape(-1)
    b, x = call.b, call.value(0)
    axis = call.integer("axis", None)
    if axis is None:
        x, axis = b.reshape_to(x, (x.type.size,)), 0
    axis = call.axis(axis, x.type.rank)
    places = np.flatnonzero(condition)
    extent = x.type.shape[axis]
    if isinstance(extent, int) and places.size and places.max() >= extent:
        call.fail(f"the condition selects element {places.max()} of {extent}")
    return b.gather(x, b.constant(places.astype(np.int64)), axis=axis)


@onnx_op("NonZero", "Unique")
def import_data_dependent(call: Call) -> Any:
    """Shapes that depend on data: known inputs only."""
    call.constant(0, "input")
    return call.fail(
        f"{call.op_type} of a large or computed input has a shape that depends on data, which dlc does not do"
    )


@onnx_op("ReverseSequence")
def import_reverse_sequence(call: Call) -> Value:
    """Reverse the first elements, as many as each batch entry's length says."""
    b, x, lengths = call.b, call.value(0), call.value(1)
    time, batch = (
        call.axis(call.integer("time_axis", 0), call.rank()),
        call.axis(call.integer("batch_axis", 1), call.rank()),
    )
    shape = x.type.shape
    places = b.iota(shape=shape, axis=time, dtype=int64)
    limit = b.broadcast(b.cast_to(lengths, int64), shape=shape, dims=(batch,))
    mirrored = b.sub(b.sub(limit, 1), places)
    return b.gather_elements(x, b.where(b.less(places, limit), mirrored, places), axis=time)


@onnx_op("TopK")
def import_top_k(call: Call) -> list[Value]:
    """The k largest or smallest elements along an axis in order, and their positions; ties keep their order."""
    b, x = call.b, call.value(0)
    axis = call.axis(call.integer("axis", -1), call.rank())
    k = call.integer("k") if call.version < 10 else call.dims(1, "k")[0]
    largest = call.flag("largest", True)
    extent = x.type.shape[axis]
    if isinstance(k, int) and isinstance(extent, int) and not 0 <= k <= extent:
        call.fail(f"k is {k}, but axis {axis} has {extent} elements")
    if k == 1:
        places = b.call("argmax" if largest else "argmin", x, axis=axis, keepdims=True)
        return [b.gather_elements(x, places, axis=axis), places]
    if not isinstance(extent, int) or extent > _LARGEST_SORT:
        call.fail(f"sorts an axis of {extent} elements; up to {_LARGEST_SORT} are supported, and shapes= must fix them")
    order = sorting_positions(call, x, axis, largest)
    places = cut(call, order, axis, 0, k)
    return [b.gather_elements(x, places, axis=axis), places]


def sorting_positions(call: Call, x: Value, axis: int, descending: bool) -> Value:
    """Emit the positions that sort ``x`` stably along ``axis``, by counting how many elements come before each."""
    b, rank, extent = call.b, x.type.rank, x.type.shape[axis]
    shape = (*x.type.shape, extent)
    mine = b.broadcast(x, shape=shape, dims=tuple(range(rank)))
    moved = b.transpose_to(x, (*(k for k in range(rank) if k != axis), axis))
    other = b.broadcast(moved, shape=shape, dims=(*(k for k in range(rank) if k != axis), rank))
    ahead = b.greater(other, mine) if descending else b.less(other, mine)
    earlier = b.less(b.iota(shape=shape, axis=rank, dtype=int64), b.iota(shape=shape, axis=axis, dtype=int64))
    before = b.bit_or(ahead, b.bit_and(b.equal(other, mine), earlier))
    place = b.reduce_sum(b.cast_to(before, int64), axes=(rank,))
    numbers = b.iota(shape=x.type.shape, axis=axis, dtype=int64)
    return b.scatter_elements(numbers, place, numbers, axis=axis, combiner="none")


@onnx_op("ArrayFeatureExtractor", domain="ai.onnx.ml")
def import_array_feature_extractor(call: Call) -> Value:
    """Columns of the last axis."""
    b = call.b
    return b.gather(call.value(0), b.reshape_to(call.value(1), (call.tensor(1).type.size,)), axis=call.rank() - 1)


@onnx_op("TensorScatter")
def import_tensor_scatter(call: Call) -> Value:
    """Write an update at each batch entry's position along an axis, as caches of keys and values do."""
    b, past, update = call.b, call.value(0), call.value(1)
    axis = call.axis(call.integer("axis", -2), past.type.rank)
    shape, extent = update.type.shape, past.type.shape[axis]
    places = b.iota(shape=shape, axis=axis, dtype=int64)
    if call.has(2):
        places = b.add(places, b.broadcast(b.cast_to(call.value(2), int64), shape=shape, dims=(0,)))
    if call.string("mode", "linear") == "circular":
        places = b.floor_mod(places, b.dimension(size=extent))
    return b.scatter_elements(past, places, update, axis=axis, combiner="none")
