"""Reductions and cumulative sums with NumPy's names, axes and result dtypes, over builder values."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from dlc.errors import TypeRuleError
from dlc.frontends.graph import array_elementwise as ew
from dlc.frontends.graph.promotion import as_value, float_dtype, normalize_axes, normalize_axis
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.types import DType, as_dtype, bool_, int64, uint8, uint64

Axis = int | tuple[int, ...] | list[int] | None


def _accumulation_dtype(dtype: DType) -> DType:
    """NumPy sums narrow integers and bools in the platform's integer."""
    if dtype is bool_ or (dtype.kind == "int" and dtype.bits < 64):
        return int64
    return uint64 if dtype.kind == "uint" and dtype.bits < 64 else dtype


def _accumulating(op: str, doc: str) -> Callable[..., Value]:
    def function(b: Builder, x: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Value:
        value = as_value(b, x)
        value = b.cast_to(value, as_dtype(dtype) if dtype is not None else _accumulation_dtype(value.type.dtype))
        axes = normalize_axes(axis, value.type.rank)
        return b.call(op, value, axes=tuple(sorted(axes)), keepdims=keepdims) if axes else value

    function.__doc__ = doc
    return function


def _plain(op: str, doc: str, logical: bool = False) -> Callable[..., Value]:
    def function(b: Builder, x: Any, axis: Axis = None, keepdims: bool = False) -> Value:
        value = ew.truth(b, x) if logical else as_value(b, x)
        axes = tuple(sorted(normalize_axes(axis, value.type.rank)))
        if not axes:
            return value
        if not logical and any(value.type.shape[a] == 0 for a in axes):
            raise TypeRuleError(
                f"the extreme of no elements is not defined; the tensor has shape {list(value.type.shape)}"
            )
        return b.call(op, value, axes=axes, keepdims=keepdims)

    function.__doc__ = doc
    return function


sum_ = _accumulating("reduce_sum", "Return the sum over ``axis`` (None: all); narrow integers are summed in int64.")
prod_ = _accumulating("reduce_prod", "Return the product over ``axis`` (None: all).")
max_ = _plain("reduce_max", "Return the largest element over ``axis`` (None: all); NaN if there is one.")
min_ = _plain("reduce_min", "Return the smallest element over ``axis`` (None: all); NaN if there is one.")
any_ = _plain("reduce_or", "Return whether any element over ``axis`` is true.", logical=True)
all_ = _plain("reduce_and", "Return whether all elements over ``axis`` are true.", logical=True)


def _count(value: Value, axes: tuple[int, ...]) -> Dim:
    return prod((value.type.shape[a] for a in axes), start=1)


def divide_by_dim(b: Builder, value: Value, divisor: Dim) -> Value:
    """Return ``value / divisor`` in the dtype of ``value``; the divisor may be symbolic."""
    return b.div(value, as_value(b, float(divisor) if isinstance(divisor, int) else divisor, value.type.dtype))


def mean(b: Builder, x: Any, axis: Axis = None, keepdims: bool = False) -> Value:
    """Return the arithmetic mean over ``axis`` (None: all); of integers, in float64."""
    value = as_value(b, x)
    value = value if value.type.dtype.is_float else ew.astype(b, value, as_dtype("float64"))
    axes = normalize_axes(axis, value.type.rank)
    return divide_by_dim(b, sum_(b, value, axes, keepdims), _count(value, axes)) if axes else value


def var(b: Builder, x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Value:
    """Return the variance over ``axis``: the sum of squared deviations over ``count - ddof``."""
    value = as_value(b, x)
    value = value if value.type.dtype.is_float else ew.astype(b, value, as_dtype("float64"))
    axes = normalize_axes(axis, value.type.rank)
    deviation = ew.subtract(b, value, mean(b, value, axes, keepdims=True))
    freedom = _count(value, axes) - ddof
    freedom = max(freedom, 0) if isinstance(freedom, int) else freedom  # as NumPy: none left divides by 0
    return divide_by_dim(b, sum_(b, ew.square(b, deviation), axes, keepdims), freedom)


def std(b: Builder, x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Value:
    """Return the standard deviation over ``axis``; see ``var``."""
    return _root(b, var(b, x, axis, ddof, keepdims))


def _root(b: Builder, squares: Value) -> Value:
    """Return the square root of a sum of squares; as in PyTorch, its gradient is 0 where all of them are 0."""
    empty = b.equal(squares, 0.0)
    return b.where(empty, squares, b.sqrt(b.where(empty, 1.0, squares)))


def _arg(op: str, doc: str) -> Callable[..., Value]:
    def function(b: Builder, x: Any, axis: int | None = None, keepdims: bool = False) -> Value:
        value = as_value(b, x)
        value = b.cast_to(value, uint8) if value.type.dtype is bool_ else value
        if axis is None:
            flat = b.reshape_to(value, (value.type.size,))
            result = b.call(op, flat, axis=0, keepdims=False)
            return b.reshape_to(result, (1,) * value.type.rank) if keepdims else result
        return b.call(op, value, axis=normalize_axis(axis, value.type.rank), keepdims=keepdims)

    function.__doc__ = doc
    return function


argmax = _arg(
    "argmax", "Return the index (int64) of the first largest element along ``axis`` (None: of the flat tensor)."
)
argmin = _arg(
    "argmin", "Return the index (int64) of the first smallest element along ``axis`` (None: of the flat tensor)."
)


def cumsum(b: Builder, x: Any, axis: int | None = None) -> Value:
    """Return running sums along ``axis`` (None: of the flat tensor)."""
    value = as_value(b, x)
    value = b.cast_to(value, _accumulation_dtype(value.type.dtype))
    if axis is None:
        return b.cumsum(b.reshape_to(value, (value.type.size,)), axis=0)
    return b.cumsum(value, axis=normalize_axis(axis, value.type.rank))


def logsumexp(b: Builder, x: Any, axis: Axis = None, keepdims: bool = False) -> Value:
    """Return ``log(sum(exp(x)))`` over ``axis`` without overflow."""
    value = as_value(b, x)
    value = b.cast_to(value, float_dtype(value.type.dtype))
    return b.logsumexp(value, axes=tuple(sorted(normalize_axes(axis, value.type.rank))), keepdims=keepdims)


def norm(b: Builder, x: Any, axis: Axis = None, keepdims: bool = False) -> Value:
    """Return the Euclidean norm over ``axis`` (None: of all elements)."""
    value = as_value(b, x)
    value = b.cast_to(value, float_dtype(value.type.dtype))
    return _root(b, sum_(b, ew.square(b, value), axis, keepdims))
