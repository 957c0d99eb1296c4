"""Indexing with NumPy's rules, and take, gather and scatter, over builder values."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.frontends.graph import array_shape
from dlc.frontends.graph.promotion import as_value, normalize_axis, stack_values
from dlc.ir.builder import Builder, broadcast_shapes
from dlc.ir.dims import Dim, SymbolicDim
from dlc.ir.graph import Value
from dlc.ir.types import as_dtype, bool_, int64


def index(b: Builder, x: Value, key: Any) -> Value:
    """Return ``x[key]`` for ints, slices, None, Ellipsis and integer tensors or arrays, as in NumPy.

    Boolean masks are refused: their result has no shape known in advance (use ``where``). Bounds of slices of a
    symbolic dimension are taken as they are, not clamped.
    """
    entries = _expand_ellipsis(x, key if isinstance(key, tuple) else (key,))
    entries = [_as_entry(b, e) for e in entries]
    basic: list[Any] = []  # what each dimension of the sliced tensor is: None (new), an index value, or ":"
    source = 0
    for entry in entries:
        if entry is None:
            basic.append(None)
            continue
        if isinstance(entry, slice):
            x = _slice(b, x, source, entry)
            basic.append(slice(None))
        elif isinstance(entry, Value):
            basic.append(entry)
        else:
            x = _pick(b, x, source, entry)
            basic.append(0)
        source += 1
    has_advanced = any(isinstance(e, Value) for e in basic)
    if has_advanced:
        basic = [as_value(b, 0, int64) if isinstance(e, int) and not isinstance(e, Value) else e for e in basic]
    shape: list[Dim] = []
    remaining = iter(x.type.shape)
    advanced: list[tuple[int, Value]] = []
    positions: list[int] = []
    for position, entry in enumerate(basic):
        if entry is None:
            shape.append(1)
        elif isinstance(entry, Value):
            advanced.append((len(shape), entry))
            positions.append(position)
            shape.append(next(remaining))
        elif isinstance(entry, slice):
            shape.append(next(remaining))
        else:
            next(remaining)
    x = b.reshape_to(x, tuple(shape))
    return _advanced(b, x, advanced, positions) if advanced else x


def _expand_ellipsis(x: Value, key: tuple[Any, ...]) -> list[Any]:
    consumed = sum(1 for e in key if e is not None and e is not Ellipsis)
    if sum(1 for e in key if e is Ellipsis) > 1:
        raise TypeRuleError("an index may have only one ellipsis")
    if consumed > x.type.rank:
        raise TypeRuleError(f"too many indices: {x.type} has {x.type.rank} dimensions, {consumed} were indexed")
    fill = [slice(None)] * (x.type.rank - consumed)
    entries: list[Any] = []
    for e in key:
        entries.extend(fill if e is Ellipsis else [e])
    return entries if any(e is Ellipsis for e in key) else entries + fill


def _as_entry(b: Builder, entry: Any) -> Any:
    if entry is None or isinstance(entry, slice):
        return entry
    if isinstance(entry, bool | np.bool_):
        raise TypeRuleError("a tensor cannot be indexed by a bool; its result would have no shape known in advance")
    if isinstance(entry, int | SymbolicDim):
        return entry
    if isinstance(entry, np.integer):
        return int(entry)
    if isinstance(entry, np.ndarray | list | Value | tuple):
        if isinstance(entry, list | tuple) and not entry:
            entry = np.zeros((0,), np.int64)
        value = as_value(b, entry)
        if value.type.dtype is bool_:
            raise TypeRuleError(
                "a tensor cannot be indexed by a boolean mask (its result has no known shape); use where"
            )
        if not value.type.dtype.is_integer:
            raise TypeRuleError(f"an index tensor must be of integers, not {value.type.dtype}")
        return b.cast_to(value, int64)
    raise TypeRuleError(f"index {entry!r} is not an int, slice, None, ellipsis or integer tensor")


def _pick(b: Builder, x: Value, axis: int, position: Dim) -> Value:
    """Slice out one element along ``axis``, keeping the dimension."""
    extent = x.type.shape[axis]
    if isinstance(position, int) and isinstance(extent, int) and not -extent <= position < extent:
        raise TypeRuleError(f"index {position} is out of range for dimension {axis} of {x.type}")
    start = position + extent if isinstance(position, int) and position < 0 else position
    return array_shape.slice_axis(b, x, axis, start, start + 1)


def _slice(b: Builder, x: Value, axis: int, key: slice) -> Value:
    extent = x.type.shape[axis]
    step = 1 if key.step is None else key.step
    if not isinstance(step, int | np.integer) or step == 0:
        raise TypeRuleError(f"slice step must be a non-zero int, not {key.step!r}")
    bounds = (key.start, key.stop)
    if any(isinstance(v, Value) for v in bounds):
        raise TypeRuleError("slice bounds must be ints or dimensions, not tensors; use take")
    if isinstance(extent, int) and not any(isinstance(v, SymbolicDim) for v in bounds):
        start, stop, step = slice(key.start, key.stop, int(step)).indices(extent)
        count = len(range(start, stop, step))
        if step < 0:
            picked = array_shape.slice_axis(b, x, axis, *_reversed_bounds(start, step, count), -step)
            return b.reverse(picked, axes=(axis,)) if count > 1 else picked
        return array_shape.slice_axis(b, x, axis, start, max(start, stop), step)
    if step < 0:
        if bounds != (None, None) or step != -1:
            raise TypeRuleError(f"a symbolic dimension ({extent}) is reversed only as a whole, by [::-1]")
        return b.reverse(x, axes=(axis,))
    low, high = (
        default if v is None else v + extent if isinstance(v, int) and v < 0 else v
        for v, default in zip(bounds, (0, extent))
    )
    return array_shape.slice_axis(b, x, axis, low, high, int(step))


def _reversed_bounds(start: int, step: int, count: int) -> tuple[int, int]:
    if count == 0:
        return 0, 0
    return start + (count - 1) * step, start + 1


def _advanced(b: Builder, x: Value, indices: list[tuple[int, Value]], positions: list[int]) -> Value:
    axes = [axis for axis, _ in indices]
    if len(indices) == 1:
        return b.gather(x, indices[0][1], axis=axes[0])
    shape = broadcast_shapes(*(v.type.shape for _, v in indices))
    values = [b.broadcast_to(v, shape) for _, v in indices]
    rest = [a for a in range(x.type.rank) if a not in axes]
    moved = b.transpose_to(x, [*axes, *rest])
    picked = b.gather_nd(moved, stack_values(b, values, -1))
    adjacent = positions == list(range(positions[0], positions[0] + len(positions)))
    if not adjacent:
        return picked
    # Adjacent index tensors: their dimensions take the place of the indexed ones.
    before = sum(1 for a in rest if a < axes[0])
    rank = len(shape)
    order = [*range(rank, rank + before), *range(rank), *range(rank + before, rank + len(rest))]
    return b.transpose_to(picked, order)


def take(b: Builder, x: Any, indices: Any, axis: int | None = None) -> Value:
    """Return ``x`` at ``indices`` along ``axis`` (None: of the flat tensor); negative indices count from the end."""
    value = as_value(b, x)
    if axis is None:
        value, axis = b.reshape_to(value, (value.type.size,)), 0
    return b.gather(value, _indices(b, indices), axis=normalize_axis(axis, value.type.rank))


def _indices(b: Builder, indices: Any) -> Value:
    value = as_value(b, indices)
    if not value.type.dtype.is_integer:
        raise TypeRuleError(f"indices must be integers, not {value.type.dtype}")
    return b.cast_to(value, int64)


def take_along_axis(b: Builder, x: Any, indices: Any, axis: int) -> Value:
    """Return one element of ``x`` per element of ``indices``, which replaces the position along ``axis``."""
    value, picks = as_value(b, x), _indices(b, indices)
    axis = normalize_axis(axis, value.type.rank)
    if picks.type.rank != value.type.rank:
        raise TypeRuleError(f"indices {picks.type} and the tensor {value.type} must have one rank")
    keep = [1 if i == axis else d for i, d in enumerate(picks.type.shape)]
    other = [1 if i == axis else d for i, d in enumerate(value.type.shape)]
    shape = broadcast_shapes(tuple(keep), tuple(other))
    value = b.broadcast_to(value, tuple(value.type.shape[axis] if i == axis else d for i, d in enumerate(shape)))
    picks = b.broadcast_to(picks, tuple(picks.type.shape[axis] if i == axis else d for i, d in enumerate(shape)))
    return b.gather_elements(value, picks, axis=axis)


def scatter_add(b: Builder, x: Any, indices: Any, updates: Any, axis: int = 0) -> Value:
    """Return ``x`` with slices of ``updates`` added at ``indices`` along ``axis``; repeated indices add up."""
    value = as_value(b, x)
    picks = _indices(b, indices)
    return b.scatter_add(
        value, picks, as_value(b, updates, value.type.dtype), axis=normalize_axis(axis, value.type.rank)
    )


def one_hot(b: Builder, indices: Any, depth: int, axis: int = -1, dtype: Any = "float32") -> Value:
    """Return 1 at each index along a new dimension ``axis`` of extent ``depth``, else 0."""
    value = _indices(b, indices)
    return b.one_hot(value, depth=depth, axis=normalize_axis(axis, value.type.rank + 1), dtype=as_dtype(dtype))
