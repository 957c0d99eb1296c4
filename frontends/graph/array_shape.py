"""Functions that make, move and join elements, with NumPy's names, over builder values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.frontends.graph.promotion import (
    as_value,
    normalize_axes,
    normalize_axis,
    result_dtype,
    same_dtype,
    stack_values,
)
from dlc.ir.builder import Builder, broadcast_shapes
from dlc.ir.dims import Dim, SymbolicDim, exact_quotient
from dlc.ir.graph import Value
from dlc.ir.types import DType, as_dtype, bool_, float32, int64

# -- creation -------------------------------------------------------------------------


def full(b: Builder, shape: Sequence[Dim], fill: Any, dtype: Any = None) -> Value:
    """Return a tensor of ``shape`` filled with ``fill`` (a number or a rank-0 tensor)."""
    chosen = as_dtype(dtype) if dtype is not None else result_dtype([fill])
    return b.broadcast_to(as_value(b, fill, chosen), tuple(shape))


def full_like(b: Builder, x: Any, fill: Any, dtype: Any = None) -> Value:
    """Return a tensor of the shape of ``x`` (and its dtype unless given) filled with ``fill``."""
    value = as_value(b, x)
    return full(b, value.type.shape, fill, dtype if dtype is not None else value.type.dtype)


def zeros_like(b: Builder, x: Any, dtype: Any = None) -> Value:
    """Return zeros of the shape and dtype of ``x``."""
    return full_like(b, x, 0, dtype)


def ones_like(b: Builder, x: Any, dtype: Any = None) -> Value:
    """Return ones of the shape and dtype of ``x``."""
    return full_like(b, x, 1, dtype)


def arange(b: Builder, start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Value:
    """Return ``start, start + step, ...`` below ``stop``; ``arange(n)`` counts from 0 and ``n`` may be symbolic."""
    if stop is None:
        start, stop = 0, start
    floating = any(isinstance(v, float) for v in (start, stop, step))
    chosen = as_dtype(dtype) if dtype is not None else float32 if floating else int64
    if step == 0:
        raise TypeRuleError("arange needs a step other than 0")
    if any(isinstance(v, SymbolicDim) for v in (start, stop)):
        if step != 1 or floating:
            raise TypeRuleError("arange with a symbolic bound needs integers and step 1")
        count: Dim = stop - start
    else:
        count = max(0, int(np.ceil((stop - start) / step)))
    ramp = b.iota(shape=(count,), axis=0, dtype=chosen)
    if step != 1:
        ramp = b.mul(ramp, b.constant(step, chosen))
    if isinstance(start, SymbolicDim):
        raise TypeRuleError("arange cannot start at a symbolic dimension")
    return ramp if start == 0 else b.add(ramp, b.constant(start, chosen))


def iota(b: Builder, shape: Sequence[Dim], axis: int = 0, dtype: Any = "int64") -> Value:
    """Return a tensor of ``shape`` whose elements are their index along ``axis``."""
    return b.iota(shape=tuple(shape), axis=normalize_axis(axis, len(shape)), dtype=as_dtype(dtype))


def eye(b: Builder, n: Dim, m: Dim | None = None, k: int = 0, dtype: Any = "float32") -> Value:
    """Return an ``n`` x ``m`` matrix with ones on the ``k``-th diagonal."""
    shape = (n, n if m is None else m)
    rows, columns = (b.iota(shape=shape, axis=a, dtype=int64) for a in (0, 1))
    return b.cast_to(b.equal(b.add(rows, b.constant(k, int64)), columns), as_dtype(dtype))


# -- shape ---------------------------------------------------------------------------------


def resolve_shape(shape: Sequence[Any], size: Dim) -> tuple[Dim, ...]:
    """Replace a single -1 in ``shape`` by what ``size`` elements leave; TypeRuleError if it does not divide."""
    dims = list(shape)
    holes = [i for i, d in enumerate(dims) if isinstance(d, int) and d == -1]
    if len(holes) > 1:
        raise TypeRuleError(f"the shape {dims} has more than one -1")
    if any(isinstance(d, int) and d < -1 for d in dims):
        raise TypeRuleError(f"the shape {dims} has a negative dimension")
    if holes:
        known = prod((d for i, d in enumerate(dims) if i != holes[0]), start=1)
        quotient = exact_quotient(size, known)
        if quotient is None:
            raise TypeRuleError(f"{size} elements do not fill the shape {dims}")
        dims[holes[0]] = quotient
    return tuple(dims)


def reshape(b: Builder, x: Any, shape: Any) -> Value:
    """Return the elements of ``x`` in row-major order as ``shape``; one dimension may be -1."""
    value = as_value(b, x)
    shape = (shape,) if isinstance(shape, int | SymbolicDim | np.integer) else tuple(shape)
    return b.reshape_to(
        value, resolve_shape([int(d) if isinstance(d, np.integer) else d for d in shape], value.type.size)
    )


def flatten(b: Builder, x: Any, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Join the dimensions ``start_dim`` to ``end_dim`` (included) into one."""
    value = as_value(b, x)
    if value.type.rank == 0:
        return b.reshape_to(value, (1,))
    first, last = (normalize_axis(d, value.type.rank, "dimension") for d in (start_dim, end_dim))
    if first > last:
        raise TypeRuleError(f"flatten from dimension {first} to {last}: the first lies behind the last")
    shape = value.type.shape
    return b.reshape_to(value, (*shape[:first], prod(shape[first : last + 1], start=1), *shape[last + 1 :]))


def transpose(b: Builder, x: Any, axes: Sequence[int] | None = None) -> Value:
    """Permute dimensions: result dimension i is dimension ``axes[i]`` of ``x``; None reverses them."""
    value = as_value(b, x)
    rank = value.type.rank
    permutation = tuple(reversed(range(rank))) if axes is None else normalize_axes(tuple(axes), rank, "axes")
    if len(permutation) != rank:
        raise TypeRuleError(f"axes {list(permutation)} do not permute the {rank} dimensions of {value.type}")
    return b.transpose_to(value, permutation)


def swapaxes(b: Builder, x: Any, axis1: int, axis2: int) -> Value:
    """Exchange two dimensions."""
    value = as_value(b, x)
    order = list(range(value.type.rank))
    first, second = normalize_axis(axis1, len(order)), normalize_axis(axis2, len(order))
    order[first], order[second] = order[second], order[first]
    return b.transpose_to(value, order)


def moveaxis(b: Builder, x: Any, source: Any, destination: Any) -> Value:
    """Move dimensions ``source`` to the positions ``destination``; the others keep their order."""
    value = as_value(b, x)
    sources = normalize_axes(source, value.type.rank, "source")
    targets = normalize_axes(destination, value.type.rank, "destination")
    if len(sources) != len(targets):
        raise TypeRuleError(f"source {source} and destination {destination} differ in number")
    order = [a for a in range(value.type.rank) if a not in sources]
    for target, axis in sorted(zip(targets, sources)):
        order.insert(target, axis)
    return b.transpose_to(value, order)


def squeeze(b: Builder, x: Any, axis: Any = None) -> Value:
    """Drop dimensions of extent 1: all, or those named by ``axis``."""
    value = as_value(b, x)
    shape = value.type.shape
    axes = [i for i, d in enumerate(shape) if d == 1] if axis is None else normalize_axes(axis, len(shape))
    for a in axes:
        if shape[a] != 1:
            raise TypeRuleError(f"dimension {a} of {value.type} has extent {shape[a]}; only 1 can be dropped")
    return b.reshape_to(value, tuple(d for i, d in enumerate(shape) if i not in axes))


def expand_dims(b: Builder, x: Any, axis: Any) -> Value:
    """Insert dimensions of extent 1 at the positions ``axis`` of the result."""
    value = as_value(b, x)
    count = len(axis) if isinstance(axis, tuple | list) else 1
    axes = normalize_axes(axis, value.type.rank + count)
    rest = iter(value.type.shape)
    return b.reshape_to(value, tuple(1 if i in axes else next(rest) for i in range(value.type.rank + count)))


def broadcast_to(b: Builder, x: Any, shape: Sequence[Dim]) -> Value:
    """Broadcast ``x`` to ``shape``; -1 keeps a dimension."""
    value = as_value(b, x)
    offset = len(shape) - value.type.rank
    if offset < 0:
        raise TypeRuleError(f"{value.type} has more dimensions than {list(shape)}")
    target = tuple(
        value.type.shape[i - offset] if isinstance(d, int) and d == -1 and i >= offset else d
        for i, d in enumerate(shape)
    )
    if broadcast_shapes(value.type.shape, target) != target:
        raise TypeRuleError(f"{value.type} does not broadcast to {list(target)}")
    return b.broadcast_to(value, target)


# -- joining and splitting ----------------------------------------------------------------------


def concatenate(b: Builder, tensors: Sequence[Any], axis: int | None = 0) -> Value:
    """Join tensors along an existing ``axis`` (None: flattened), promoting dtypes."""
    values = same_dtype(b, list(tensors))
    if not values:
        raise TypeRuleError("concatenate needs at least one tensor")
    if axis is None:
        values, axis = [b.reshape_to(v, (v.type.size,)) for v in values], 0
    axis = normalize_axis(axis, values[0].type.rank)
    return values[0] if len(values) == 1 else b.concat(*values, axis=axis)


def stack(b: Builder, tensors: Sequence[Any], axis: int = 0) -> Value:
    """Join tensors of one shape along a new ``axis``."""
    return stack_values(b, [as_value(b, t) for t in tensors], axis)


def split(b: Builder, x: Any, indices_or_sections: Any, axis: int = 0) -> tuple[Value, ...]:
    """Split along ``axis`` into equal parts (an int) or at the given positions (a sequence), as NumPy does."""
    value = as_value(b, x)
    axis = normalize_axis(axis, value.type.rank)
    extent = value.type.shape[axis]
    if isinstance(indices_or_sections, int | np.integer):
        sections = int(indices_or_sections)
        part = exact_quotient(extent, sections) if sections > 0 else None
        if part is None:
            raise TypeRuleError(f"dimension {axis} of extent {extent} does not split into {sections} equal parts")
        bounds: list[Dim] = [part * i for i in range(sections + 1)]
    else:
        bounds = [0, *indices_or_sections, extent]
    return tuple(slice_axis(b, value, axis, *_clamped(low, high, extent)) for low, high in pairwise(bounds))


def _clamped(low: Dim, high: Dim, extent: Dim) -> tuple[Dim, Dim]:
    """Return the bounds of ``[low:high]`` as Python takes them: from the end if negative, and inside ``extent``."""
    if any(isinstance(d, SymbolicDim) for d in (low, high, extent)):
        return low, high
    first, last, _ = slice(low, high).indices(extent)  # type: ignore[arg-type]
    return first, max(first, last)


def slice_axis(b: Builder, value: Value, axis: int, start: Dim, limit: Dim, stride: int = 1) -> Value:
    """Return ``value[..., start:limit:stride, ...]`` along ``axis``; bounds lie inside, ``stride`` is positive."""
    shape = value.type.shape
    if start == 0 and limit == shape[axis] and stride == 1:
        return value
    starts = tuple(start if i == axis else 0 for i in range(len(shape)))
    limits = tuple(limit if i == axis else d for i, d in enumerate(shape))
    return b.slice(
        value, starts=starts, limits=limits, strides=tuple(stride if i == axis else 1 for i in range(len(shape)))
    )


def flip(b: Builder, x: Any, axis: Any = None) -> Value:
    """Reverse the order of elements along ``axis`` (None: along all)."""
    value = as_value(b, x)
    axes = normalize_axes(axis, value.type.rank)
    return b.reverse(value, axes=tuple(sorted(axes))) if axes else value


def roll(b: Builder, x: Any, shift: int, axis: int) -> Value:
    """Shift elements along ``axis`` by ``shift`` places; those pushed out come back at the other end."""
    value = as_value(b, x)
    axis = normalize_axis(axis, value.type.rank)
    extent = value.type.shape[axis]
    if isinstance(extent, int):
        shift = shift % extent if extent else 0
    if shift == 0:
        return value
    cut = extent - shift if shift > 0 else -shift
    return b.concat(slice_axis(b, value, axis, cut, extent), slice_axis(b, value, axis, 0, cut), axis=axis)


def tile(b: Builder, x: Any, reps: Any) -> Value:
    """Repeat the whole tensor ``reps`` times along each dimension."""
    value = as_value(b, x)
    reps = tuple(reps) if isinstance(reps, tuple | list) else (reps,)
    rank = max(len(reps), value.type.rank)
    shape = (1,) * (rank - value.type.rank) + value.type.shape
    reps = (1,) * (rank - len(reps)) + reps
    paired = [d for pair in zip((1,) * rank, shape) for d in pair]
    repeated = [d for pair in zip(reps, shape) for d in pair]
    stretched = b.broadcast_to(b.reshape_to(value, paired), tuple(repeated))
    return b.reshape_to(stretched, tuple(r * d for r, d in zip(reps, shape)))


def repeat(b: Builder, x: Any, repeats: int, axis: int | None = None) -> Value:
    """Repeat every element ``repeats`` times along ``axis`` (None: of the flat tensor)."""
    value = as_value(b, x)
    if axis is None:
        value, axis = b.reshape_to(value, (value.type.size,)), 0
    axis = normalize_axis(axis, value.type.rank)
    shape = value.type.shape
    inner = b.reshape_to(value, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    stretched = b.broadcast_to(inner, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return b.reshape_to(stretched, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


def pad(b: Builder, x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Value:
    """Pad: ``pad_width`` is a count, a pair, or one (before, after) pair per dimension; ``mode`` is "constant",
    "edge" or "reflect".
    """
    value = as_value(b, x)
    widths = np.broadcast_to(np.asarray(pad_width, dtype=np.int64), (value.type.rank, 2)).tolist()
    if any(w < 0 for pair in widths for w in pair):
        raise TypeRuleError(f"pad widths {widths} must not be negative; slice instead")
    if mode == "constant":
        fill = as_value(b, constant_values, value.type.dtype)
        low, high = (tuple(pair[side] for pair in widths) for side in (0, 1))
        return b.pad(value, fill, low=low, high=high, interior=(0,) * value.type.rank)
    if mode not in ("edge", "reflect"):
        raise TypeRuleError(f'pad mode {mode!r} is unknown; use "constant", "edge" or "reflect"')
    for axis, (before, after) in enumerate(widths):
        if before or after:
            value = _extend(b, value, axis, before, after, mode)
    return value


def _extend(b: Builder, value: Value, axis: int, before: int, after: int, mode: str) -> Value:
    extent = value.type.shape[axis]
    if mode == "reflect" and isinstance(extent, int) and max(before, after) >= extent:
        raise TypeRuleError(f"reflecting {max(before, after)} elements needs a dimension larger than {extent}")
    parts = [value]
    for count, first in ((before, True), (after, False)):
        if count == 0:
            continue
        if mode == "edge":
            edge = slice_axis(b, value, axis, 0, 1) if first else slice_axis(b, value, axis, extent - 1, extent)
            shape = tuple(count if i == axis else d for i, d in enumerate(value.type.shape))
            part = b.broadcast_to(edge, shape)
        else:
            low, high = (1, count + 1) if first else (extent - 1 - count, extent - 1)
            part = b.reverse(slice_axis(b, value, axis, low, high), axes=(axis,))
        parts = [part, *parts] if first else [*parts, part]
    return b.concat(*parts, axis=axis)


def _triangle(b: Builder, x: Any, k: int, lower: bool) -> Value:
    value = as_value(b, x)
    if value.type.rank < 2:
        raise TypeRuleError(f"a triangle needs at least 2 dimensions, {value.type} has {value.type.rank}")
    shape = value.type.shape[-2:]
    rows, columns = (b.iota(shape=shape, axis=a, dtype=int64) for a in (0, 1))
    limit = b.add(rows, b.constant(k, int64))
    kept = b.less_equal(columns, limit) if lower else b.greater_equal(columns, limit)
    zero = False if value.type.dtype is bool_ else 0
    return b.where(kept, value, b.constant(zero, value.type.dtype))


def tril(b: Builder, x: Any, k: int = 0) -> Value:
    """Zero the elements above the ``k``-th diagonal of the last two dimensions."""
    return _triangle(b, x, k, True)


def triu(b: Builder, x: Any, k: int = 0) -> Value:
    """Zero the elements below the ``k``-th diagonal of the last two dimensions."""
    return _triangle(b, x, k, False)


def zeros(b: Builder, shape: Sequence[Dim], dtype: DType) -> Value:
    """Return zeros of ``shape``."""
    return b.full(tuple(shape), 0, dtype)


def ones(b: Builder, shape: Sequence[Dim], dtype: DType) -> Value:
    """Return ones of ``shape``."""
    return b.full(tuple(shape), 1, dtype)
