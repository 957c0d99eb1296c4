"""Shape arithmetic at import: ONNX ops on known constants, which may hold symbolic dimensions.

Each function takes a Call whose inputs are all known, and returns known results,
or None where it cannot tell; then the op is emitted like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from dlc.errors import ResourceLimitError
from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.dimensions import at_most, compare
from dlc.frontends.onnx.slicing import resolve_slice
from dlc.frontends.onnx.tensors import dtype_of
from dlc.frontends.onnx.values import LARGEST_KNOWN, Tensor, known_tensor
from dlc.ir.dims import Dim, SymbolicDim
from dlc.ir.types import bool_, int64

Folder = Callable[[Call], Any]
FOLDERS: dict[str, Folder] = {}
LARGEST_RANGE = 1 << 34


def folder(*names: str) -> Callable[[Folder], Folder]:
    """Register the decorated function as the known-value form of ONNX ops."""

    def decorate(function: Folder) -> Folder:
        FOLDERS.update(dict.fromkeys(names, function))
        return function

    return decorate


def arrays(call: Call) -> list[np.ndarray]:
    """Return the known arrays of all inputs."""
    return [call.inputs[i].known for i in range(len(call.inputs))]


def _like(call: Call, array: Any, index: int = 0) -> Tensor:
    return known_tensor(array, call.dtype(index))


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[np.ndarray, np.ndarray], np.ndarray | None]:
    """Lift a function of two dimensions, None where undecided, to broadcast object arrays."""

    def apply(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
        shape = np.broadcast_shapes(a.shape, b.shape)
        if prod(shape) > LARGEST_KNOWN:
            return None
        left, right = np.broadcast_to(a, shape).reshape(-1), np.broadcast_to(b, shape).reshape(-1)
        results = [function(_plain(x), _plain(y)) for x, y in zip(left, right, strict=True)]
        if any(r is None for r in results):
            return None
        out = np.empty(len(results), object)
        out[:] = results
        return out.reshape(shape)

    return apply


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _truncating_divide(a: Dim, b: Dim) -> Dim | None:
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return None if b == 0 else a // b


def _modulo(a: Dim, b: Dim) -> Dim | None:
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else a % b
    return None if b == 0 else a - (a // b) * b


def _larger(a: Dim, b: Dim) -> Dim | None:
    below = at_most(a, b)
    return None if below is None else (b if below else a)


def _smaller(a: Dim, b: Dim) -> Dim | None:
    below = at_most(a, b)
    return None if below is None else (a if below else b)


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _truncating_divide,
    "Mod": _modulo,
    "Max": _larger,
    "Min": _smaller,
}


@folder(*_ARITHMETIC)
def fold_arithmetic(call: Call) -> Tensor | None:
    """Integer arithmetic with symbols."""
    if not call.dtype().is_integer:
        return None
    function = _elementwise(_ARITHMETIC[call.op_type])
    result = arrays(call)[0]
    for other in arrays(call)[1:]:
        folded = function(result, other)
        if folded is None:
            return None
        result = folded
    return _like(call, result)


def _compare(test: Callable[[int], bool]) -> Callable[[Any, Any], Any]:
    def decide(a: Dim, b: Dim) -> bool | None:
        sign = compare(a, b)
        return None if sign is None else test(sign)

    return decide


def _less(a: Dim, b: Dim) -> bool | None:
    above = at_most(b, a)
    return None if above is None else not above


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Equal": _compare(lambda s: s == 0),
    "Less": _less,
    "Greater": lambda a, b: _less(b, a),
    "LessOrEqual": at_most,
    "GreaterOrEqual": lambda a, b: at_most(b, a),
}


@folder(*_COMPARISONS)
def fold_comparison(call: Call) -> Tensor | None:
    """Comparisons that hold for every binding of the symbols."""
    if not call.dtype().is_integer:
        return None
    result = _elementwise(_COMPARISONS[call.op_type])(*arrays(call))
    return None if result is None else known_tensor(result, bool_)


@folder("Where")
def fold_where(call: Call) -> Tensor | None:
    """Choice under a known condition."""
    condition, a, b = arrays(call)
    if prod(np.broadcast_shapes(condition.shape, a.shape, b.shape)) > LARGEST_KNOWN:
        return None
    return _like(call, np.where(condition.astype(bool), a, b), 1)


@folder("Identity", "Dropout")
def fold_identity(call: Call) -> Any:
    """The value itself."""
    return call.inputs[0] if call.output_count == 1 else None


@folder("Cast")
def fold_cast(call: Call) -> Tensor | None:
    """Casts among integers keep symbols."""
    dtype = dtype_of(call.integer("to"), "attribute 'to'")
    if not call.inputs[0].is_symbolic or not dtype.is_integer or dtype.bits < 32:
        return None
    return known_tensor(arrays(call)[0], dtype)


@folder("Shape")
def fold_shape(call: Call) -> Tensor:
    """The dimensions of a tensor, from its type alone."""
    shape = call.shape()
    start, end = call.integer("start", 0), call.integer("end", len(shape))
    out = np.empty(len(shape), object)
    out[:] = list(shape)
    return known_tensor(out[_clip(start, len(shape)) : _clip(end, len(shape))], int64)


def _clip(index: int, rank: int) -> int:
    return min(max(index + rank if index < 0 else index, 0), rank)


@folder("Size")
def fold_size(call: Call) -> Tensor:
    """The number of elements of a tensor, from its type alone."""
    out = np.empty((), object)
    out[()] = prod(call.shape(), start=1)
    return known_tensor(out, int64)


@folder("Reshape")
def fold_reshape(call: Call) -> Tensor | None:
    """Another shape of the same elements."""
    data = arrays(call)[0]
    target = call.int_list("shape", None) if call.version < 5 else call.ints(1, "shape")
    if target is None:
        return None
    copied = [
        data.shape[i] if d == 0 and not call.flag("allowzero") and i < data.ndim else d for i, d in enumerate(target)
    ]
    return _like(call, data.reshape(copied))


@folder("Squeeze")
def fold_squeeze(call: Call) -> Tensor:
    """Without dimensions of size one."""
    data = arrays(call)[0]
    axes = call.ints(1, "axes") if call.has(1) else call.int_list("axes", None)
    return _like(call, np.squeeze(data, None if axes is None else call.axes(axes, data.ndim)))


@folder("Unsqueeze")
def fold_unsqueeze(call: Call) -> Tensor:
    """With new dimensions of size one."""
    data = arrays(call)[0]
    axes = call.ints(1, "axes") if call.version >= 13 else call.int_list("axes")
    return _like(call, np.expand_dims(data, call.axes(axes, data.ndim + len(axes))))


@folder("Flatten")
def fold_flatten(call: Call) -> Tensor:
    """Two dimensions."""
    data = arrays(call)[0]
    axis = call.integer("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return _like(call, data.reshape(prod(data.shape[:axis]), -1))


@folder("Transpose")
def fold_transpose(call: Call) -> Tensor:
    """Dimensions in another order."""
    return _like(call, np.transpose(arrays(call)[0], call.int_list("perm", None)))


@folder("Concat")
def fold_concat(call: Call) -> Tensor | None:
    """Joined along an axis."""
    parts = arrays(call)
    if sum(p.size for p in parts) > LARGEST_KNOWN:
        return None
    return _like(call, np.concatenate(parts, call.axis(call.integer("axis"), parts[0].ndim)))


@folder("Gather")
def fold_gather(call: Call) -> Tensor | None:
    """Elements at known indices."""
    data, indices = arrays(call)
    if indices.dtype == object or data.ndim == 0:
        return None
    axis = call.axis(call.integer("axis", 0), data.ndim)
    extent = data.shape[axis]
    if indices.size and (indices.min() < -extent or indices.max() >= extent):
        call.fail(
            f"index {indices.min() if indices.min() < -extent else indices.max()} is out of range for extent {extent}"
        )
    if indices.size * data.size > LARGEST_KNOWN * LARGEST_KNOWN:
        return None
    return _like(call, np.take(data, indices, axis))


@folder("Slice")
def fold_slice(call: Call) -> Tensor | None:
    """Known parts."""
    data = arrays(call)[0]
    index = []
    for start, limit, step in resolve_slice(call, data.shape):
        if isinstance(start, SymbolicDim) or isinstance(limit, SymbolicDim):
            return None
        index.append(slice(start, limit if limit >= 0 else None, step))
    return _like(call, data[tuple(index)])


@folder("Split")
def fold_split(call: Call) -> list[Tensor] | None:
    """Known parts along an axis, of given sizes."""
    data = arrays(call)[0]
    sizes = call.ints(1, "split") if call.has(1) else call.int_list("split", None)
    axis = call.axis(call.integer("axis", 0), data.ndim)
    if sizes is None:
        count = call.output_count
        each = -(-data.shape[axis] // count)
        sizes = [each] * (count - 1) + [data.shape[axis] - each * (count - 1)]
    if sum(sizes) != data.shape[axis] or min(sizes, default=0) < 0 or len(sizes) != call.output_count:
        return None
    return [_like(call, part) for part in np.split(data, np.cumsum(sizes)[:-1], axis)]


@folder("Expand")
def fold_expand(call: Call) -> Tensor | None:
    """Broadcast to a known shape, if small."""
    data, target = arrays(call)
    if target.dtype == object:
        return None
    shape = np.broadcast_shapes(data.shape, tuple(int(d) for d in target))
    return _like(call, np.broadcast_to(data, shape)) if prod(shape) <= LARGEST_KNOWN else None


@folder("Tile")
def fold_tile(call: Call) -> Tensor | None:
    """Repeated, if small."""
    data, repeats = arrays(call)
    if repeats.dtype == object or repeats.shape != (data.ndim,) or data.size * prod(map(int, repeats)) > LARGEST_KNOWN:
        return None
    return _like(call, np.tile(data, repeats))


@folder("Range")
def fold_range(call: Call) -> Tensor | None:
    """Known numbers start, start + delta, ..., if few."""
    start, limit, delta = (a.reshape(-1)[0] for a in arrays(call))
    if any(isinstance(v, SymbolicDim) for v in (start, limit, delta)) or delta == 0:
        return None
    count = max(0, int(np.ceil((float(limit) - float(start)) / float(delta))))
    if count > LARGEST_RANGE:
        raise ResourceLimitError(f"gives {count} elements; the limit is {LARGEST_RANGE}")
    if count > LARGEST_KNOWN:
        return None
    return _like(call, start + np.arange(count).astype(call.dtype().numpy) * delta)


@folder("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def fold_reduce(call: Call) -> Tensor | None:
    """Reductions of integers, with symbols."""
    data = arrays(call)[0]
    if not call.dtype().is_integer:
        return None
    axes = call.ints(1, "axes") if call.has(1) else call.int_list("axes", None)
    if axes is None or not len(axes):
        if call.flag("noop_with_empty_axes"):
            return call.inputs[0]
        axes = tuple(range(data.ndim))
    axes = call.axes(axes, data.ndim)
    function = {"ReduceProd": lambda a, b: a * b, "ReduceSum": lambda a, b: a + b}.get(
        call.op_type, _larger if call.op_type == "ReduceMax" else _smaller
    )
    if data.size == 0 and call.op_type in ("ReduceMax", "ReduceMin"):
        return None
    kept = [i for i in range(data.ndim) if i not in axes]
    rows = np.transpose(data, [*kept, *axes]).reshape(*[data.shape[i] for i in kept], -1)
    combine = _elementwise(function)
    total = np.full(rows.shape[:-1], int(call.op_type == "ReduceProd"), object) if rows.shape[-1] == 0 else rows[..., 0]
    for k in range(1, rows.shape[-1]):
        combined = combine(total, rows[..., k])
        if combined is None:
            return None
        total = combined
    if call.flag("keepdims", True):
        total = np.reshape(total, [1 if i in axes else d for i, d in enumerate(data.shape)])
    return _like(call, total)


@folder("NonZero")
def fold_nonzero(call: Call) -> Tensor | None:
    """Indices of known non-zero elements."""
    data = arrays(call)[0]
    return None if data.dtype == object else known_tensor(np.stack(np.nonzero(np.atleast_1d(data))), int64)


@folder("Compress")
def fold_compress(call: Call) -> Tensor | None:
    """Known elements under a known condition."""
    data, condition = arrays(call)
    return _like(call, np.compress(condition.reshape(-1), data, call.integer("axis", None)))


@folder("Unique")
def fold_unique(call: Call) -> list[Tensor] | None:
    """Distinct known elements."""
    data = arrays(call)[0]
    if data.dtype == object:
        return None
    found, index, inverse, counts = np.unique(data, True, True, True, axis=call.integer("axis", None))
    inverse = inverse.reshape(-1)
    if not call.flag("sorted", True):
        rank = np.argsort(index, kind="stable")
        place = np.argsort(rank)
        found = np.take(found, rank, call.integer("axis", 0) if "axis" in call.attributes else 0)
        index, counts, inverse = index[rank], counts[rank], place[inverse]
    return [_like(call, found), *(known_tensor(a, int64) for a in (index, inverse, counts))]
