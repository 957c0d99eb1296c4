"""Combiners of reductions: identities, accumulation dtypes, and which can be cut into parts.

It must not know loops.
"""

from __future__ import annotations

import numpy as np

from dlc.errors import CompileError
from dlc.ir.expr import Apply, Const, Expr, cast
from dlc.ir.kernel import Accumulate
from dlc.ir.types import DType, bool_, float32, int64

POSITIONS = {"argmax": ("maximum", "greater"), "argmin": ("minimum", "less")}
"""Combiners that give a position: the combiner of their values and the test for a better value."""


def accumulation_dtype(combiner: str, dtype: DType) -> DType:
    """Return the dtype in which values of ``dtype`` are combined: 16-bit floats add up in float32."""
    if dtype.is_float and dtype.bits < 32 and combiner in ("add", "mul"):
        return float32
    return dtype


def identity(combiner: str, dtype: DType) -> Const:
    """Return the value that changes nothing under ``combiner``; CompileError for an unknown one."""
    match combiner:
        case "add" | "bit_or":
            return Const(False if dtype is bool_ else 0.0 if dtype.is_float else 0, dtype)
        case "mul":
            return Const(True if dtype is bool_ else 1.0 if dtype.is_float else 1, dtype)
        case "bit_and":
            return (
                Const(True, dtype) if dtype is bool_ else Const(-1 if dtype.kind == "int" else 2**dtype.bits - 1, dtype)
            )
        case "maximum" | "argmax":
            return _extreme(dtype, lowest=True)
        case "minimum" | "argmin":
            return _extreme(dtype, lowest=False)
    raise CompileError(f"reductions cannot combine with {combiner!r}")


def _extreme(dtype: DType, lowest: bool) -> Const:
    if dtype is bool_:
        return Const(not lowest, dtype)
    if dtype.is_float:
        return Const(float("-inf") if lowest else float("inf"), dtype)
    info = np.iinfo(dtype.numpy)
    return Const(int(info.min if lowest else info.max), dtype)


def accumulate(buffer: str, slot: Expr, combiner: str, value: Expr) -> Accumulate:
    """Return the statement that takes ``value`` into ``buffer[slot]``; products are added without rounding first."""
    product = isinstance(value, Apply) and value.op == "mul" and value.dtype.is_float and value.dtype.bits >= 32
    return Accumulate(buffer, slot, "fma" if combiner == "add" and product else combiner, value)


def result_of(value: Expr, combiner: str, dtype: DType) -> Expr:
    """Return an accumulated ``value`` as the ``dtype`` of the reduction's result."""
    return value if combiner in POSITIONS and value.dtype is int64 else cast(value, dtype)
