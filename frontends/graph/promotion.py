"""NumPy's promotion over graph values: Python scalars are weak, arrays and tensors strong.

Works on the builder's values; it must not know the user's tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlc.errors import DlcError, TypeRuleError
from dlc.ir.builder import Builder, promote
from dlc.ir.dims import SymbolicDim
from dlc.ir.graph import Value
from dlc.ir.types import DType, as_dtype, bool_, float16, float32, float64, int64

Scalar = bool | int | float


def result_dtype(operands: Sequence[Any]) -> DType:
    """Return the dtype of an elementwise op on ``operands`` (values, arrays, Python scalars), as NumPy 2 promotes.

    Python scalars only lift the kind: ``int32 + 1`` is int32, ``float32 + 1.5`` float32, ``int32 + 1.5`` float64.
    """
    strong = [o.type.dtype if isinstance(o, Value) else as_dtype(o.dtype) for o in operands if not _is_weak(o)]
    weak = [0 if isinstance(o, SymbolicDim) else o for o in operands if _is_weak(o)]
    if not strong:
        kinds = {type(o) for o in weak}
        return float32 if float in kinds else int64 if kinds != {bool} else bool_
    dtype = promote(*strong)
    if dtype.kind in ("string", "complex"):
        return dtype
    if any(isinstance(o, float) for o in weak) and not dtype.is_float:
        return float64
    if dtype is bool_ and any(isinstance(o, int) and not isinstance(o, bool) for o in weak):
        return int64
    return dtype


def _is_weak(operand: Any) -> bool:
    if isinstance(operand, Value | np.ndarray):
        return False
    if isinstance(operand, np.generic):
        return False
    if isinstance(operand, bool | int | float | SymbolicDim):
        return True
    raise DlcError(f"operand {operand!r} is neither a tensor nor a number or array")


def as_value(b: Builder, operand: Any, dtype: DType | None = None) -> Value:
    """Return ``operand`` as a value, of ``dtype`` if given; nested sequences become arrays as in NumPy."""
    if isinstance(operand, list | tuple):
        if any(isinstance(o, Value) for o in operand):
            return stack_values(b, [as_value(b, o, dtype) for o in operand], 0)
        array = np.asarray(operand)
        if dtype is None and array.dtype == np.float64:
            dtype = float32
        operand = array
    if isinstance(operand, Value):
        return operand if dtype is None else b.cast_to(operand, dtype)
    if isinstance(operand, SymbolicDim):
        return b.cast_to(b.dimension(size=operand), dtype or int64)
    if _is_weak(operand):
        chosen = dtype or result_dtype([operand])
        if chosen.is_integer and isinstance(operand, int):
            info = np.iinfo(chosen.numpy)
            if not info.min <= operand <= info.max:
                raise TypeRuleError(f"the number {operand} does not fit {chosen}; cast the tensor first")
        return b.constant(operand, chosen)
    return b.constant(operand, dtype)


def stack_values(b: Builder, values: Sequence[Value], axis: int) -> Value:
    """Stack values of one shape along a new ``axis``, promoting dtypes."""
    if not values:
        raise TypeRuleError("needs at least one tensor to stack")
    dtype = promote(*(v.type.dtype for v in values))
    shape = values[0].type.shape
    for value in values:
        if value.type.shape != shape:
            raise TypeRuleError(
                f"all tensors must have one shape to be stacked; got {list(shape)} and {list(value.type.shape)}"
            )
    axis = axis + len(shape) + 1 if axis < 0 else axis
    if not 0 <= axis <= len(shape):
        raise TypeRuleError(f"axis {axis} is out of range for stacking tensors of rank {len(shape)}")
    expanded = [b.reshape_to(b.cast_to(v, dtype), (*shape[:axis], 1, *shape[axis:])) for v in values]
    return expanded[0] if len(expanded) == 1 else b.concat(*expanded, axis=axis)


def same_dtype(b: Builder, operands: Sequence[Any], dtype: DType | None = None) -> list[Value]:
    """Return ``operands`` as values of their promoted dtype (or of ``dtype``); shapes are left alone."""
    prepared = [
        np.asarray(o) if isinstance(o, list | tuple) and not any(isinstance(v, Value) for v in o) else o
        for o in operands
    ]
    prepared = [as_value(b, o) if isinstance(o, list | tuple) else o for o in prepared]
    chosen = dtype or result_dtype(prepared)
    return [as_value(b, o, chosen) for o in prepared]


def float_dtype(dtype: DType) -> DType:
    """Return the dtype in which NumPy computes functions such as ``exp`` of ``dtype``."""
    if dtype.is_float or dtype.kind == "complex":
        return dtype
    if dtype.kind == "string":
        raise TypeRuleError("takes numbers, not strings")
    return float16 if dtype.bits == 8 else float32 if dtype.bits == 16 else float64


def normalize_axis(axis: Any, rank: int, what: str = "axis") -> int:
    """Return ``axis`` as a non-negative int; TypeRuleError if it is out of range."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeRuleError(f"{what} must be an int, not {axis!r}")
    if not -rank <= axis < rank:
        raise TypeRuleError(f"{what} {axis} is out of range for a tensor of rank {rank}")
    return int(axis) % rank


def normalize_axes(axis: Any, rank: int, what: str = "axis") -> tuple[int, ...]:
    """Return ``axis`` (None: all, an int, or several) as distinct non-negative ints, in the order given."""
    if axis is None:
        return tuple(range(rank))
    axes = tuple(normalize_axis(a, rank, what) for a in (axis if isinstance(axis, tuple | list) else (axis,)))
    if len(set(axes)) != len(axes):
        raise TypeRuleError(f"{what} {axis} names a dimension twice")
    return axes
