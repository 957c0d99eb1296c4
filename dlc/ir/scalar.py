"""The scalar functions: one table that expressions, elementwise ops, the emulator and emitters share.

Each entry gives arity, result rule and the NumPy meaning. It must not know how
any target computes the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Result = Literal["same", "bool"]


@dataclass(frozen=True)
class ScalarOp:
    """A scalar function: ``arity`` operands of one dtype, result of that dtype or bool.

    ``domain`` lists the dtype kinds accepted (of bool, int, uint, float). ``evaluate`` is the
    meaning on NumPy arrays, elementwise, and must not warn or trap.
    """

    name: str
    arity: int
    result: Result
    domain: frozenset[str]
    evaluate: Callable[..., Any]


_NUMBER = frozenset({"int", "uint", "float"})
_FLOAT = frozenset({"float"})
_INTEGER = frozenset({"int", "uint"})
_BITS = frozenset({"bool", "int", "uint"})
_ANY = _NUMBER | {"bool"}


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arrays: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arrays)

    return run


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lift a function without float16 or bfloat16 support through float32."""

    def run(*arrays: Any) -> Any:
        dtype = np.asarray(arrays[0]).dtype
        if dtype.kind == "f" and dtype.itemsize >= 4:
            return function(*arrays)
        return function(*(np.asarray(a).astype(np.float32) for a in arrays)).astype(dtype)

    return run


_erf_scalar = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Any) -> Any:
    x = np.asarray(x)
    return np.asarray(_erf_scalar(x.astype(np.float64))).astype(x.dtype)


def _sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.asarray(x).dtype)


def _divide(x: Any, y: Any) -> Any:
    """True division of floats; of integers, truncation towards zero (x / 0 = 0, min / -1 wraps)."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "iu":
        return x / y
    safe = np.where(y == 0, np.ones_like(y), y)
    if x.dtype.kind == "u":
        return np.where(y == 0, np.zeros_like(x), x // safe)
    negative_one = safe == -1
    safe = np.where(negative_one, np.ones_like(safe), safe)
    quotient = x // safe
    quotient = quotient + (((x % safe) != 0) & ((x < 0) != (safe < 0))).astype(x.dtype)
    return np.where(y == 0, np.zeros_like(x), np.where(negative_one, -x, quotient)).astype(x.dtype)


def _floor_divide(x: Any, y: Any) -> Any:
    """Floor division (integers: x // 0 = 0, min // -1 wraps)."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "iu":
        return np.floor_divide(x, y)
    safe = np.where(y == 0, np.ones_like(y), y)
    if x.dtype.kind == "i":
        negative_one = safe == -1
        safe = np.where(negative_one, np.ones_like(safe), safe)
        return np.where(y == 0, np.zeros_like(x), np.where(negative_one, -x, x // safe)).astype(x.dtype)
    return np.where(y == 0, np.zeros_like(x), x // safe).astype(x.dtype)


def _floor_mod(x: Any, y: Any) -> Any:
    """Remainder with the divisor's sign (Python's %); integers: x mod 0 = 0."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "iu":
        return np.mod(x, y)
    return (x - _floor_divide(x, y) * y).astype(x.dtype) * (y != 0).astype(x.dtype)


def _trunc_mod(x: Any, y: Any) -> Any:
    """Remainder with the dividend's sign (C's fmod); integers: x mod 0 = 0."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "iu":
        return np.fmod(x, y)
    return (x - _divide(x, y) * y).astype(x.dtype) * (y != 0).astype(x.dtype)


def _power(x: Any, y: Any) -> Any:
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind == "i":  # NumPy refuses negative integer exponents; C truncates 1/x**n towards zero.
        positive = np.power(x, np.maximum(y, 0))
        return np.where(y >= 0, positive, np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y & 1), 0))).astype(x.dtype)
    return np.power(x, y)


def _round(x: Any) -> Any:
    return np.rint(x).astype(np.asarray(x).dtype)


def _flush_subnormal(x: Any) -> Any:
    """X, or zero of its sign where float32 holds it as a subnormal number (float64: where float64 does)."""
    x = np.asarray(x)
    wide = np.float64 if x.dtype == np.float64 else np.float32
    small = np.abs(x).astype(wide) < np.finfo(wide).smallest_normal
    return np.where(small, x * np.zeros((), x.dtype), x)


_TABLE = [
    # arithmetic
    ("neg", 1, "same", _NUMBER, np.negative),
    ("abs", 1, "same", _NUMBER, np.abs),
    ("sign", 1, "same", _NUMBER, np.sign),
    ("add", 2, "same", _NUMBER, np.add),
    ("sub", 2, "same", _NUMBER, np.subtract),
    ("mul", 2, "same", _NUMBER, np.multiply),
    ("div", 2, "same", _NUMBER, _divide),
    ("floor_div", 2, "same", _NUMBER, _floor_divide),
    ("floor_mod", 2, "same", _NUMBER, _floor_mod),
    ("trunc_mod", 2, "same", _NUMBER, _trunc_mod),
    ("pow", 2, "same", _NUMBER, _power),
    ("maximum", 2, "same", _ANY, np.maximum),  # NaN if either is NaN
    ("minimum", 2, "same", _ANY, np.minimum),
    # transcendental
    ("exp", 1, "same", _FLOAT, np.exp),
    ("expm1", 1, "same", _FLOAT, np.expm1),
    ("log", 1, "same", _FLOAT, np.log),
    ("log1p", 1, "same", _FLOAT, np.log1p),
    ("sqrt", 1, "same", _FLOAT, np.sqrt),
    ("rsqrt", 1, "same", _FLOAT, lambda x: (1 / np.sqrt(x)).astype(np.asarray(x).dtype)),
    ("reciprocal", 1, "same", _FLOAT, lambda x: (1 / np.asarray(x)).astype(np.asarray(x).dtype)),
    ("sin", 1, "same", _FLOAT, np.sin),
    ("cos", 1, "same", _FLOAT, np.cos),
    ("tan", 1, "same", _FLOAT, np.tan),
    ("asin", 1, "same", _FLOAT, np.arcsin),
    ("acos", 1, "same", _FLOAT, np.arccos),
    ("atan", 1, "same", _FLOAT, np.arctan),
    ("atan2", 2, "same", _FLOAT, np.arctan2),
    ("sinh", 1, "same", _FLOAT, np.sinh),
    ("cosh", 1, "same", _FLOAT, np.cosh),
    ("tanh", 1, "same", _FLOAT, np.tanh),
    ("asinh", 1, "same", _FLOAT, np.arcsinh),
    ("acosh", 1, "same", _FLOAT, np.arccosh),
    ("atanh", 1, "same", _FLOAT, np.arctanh),
    ("erf", 1, "same", _FLOAT, _erf),
    ("sigmoid", 1, "same", _FLOAT, _in_float32(_sigmoid)),
    # rounding
    ("floor", 1, "same", _FLOAT, np.floor),
    ("ceil", 1, "same", _FLOAT, np.ceil),
    ("round", 1, "same", _FLOAT, _round),  # halves to even
    ("trunc", 1, "same", _FLOAT, np.trunc),
    ("flush_subnormal", 1, "same", _FLOAT, _flush_subnormal),
    # tests and comparisons
    ("is_nan", 1, "bool", _FLOAT, np.isnan),
    ("is_inf", 1, "bool", _FLOAT, np.isinf),
    ("equal", 2, "bool", _ANY, np.equal),
    ("not_equal", 2, "bool", _ANY, np.not_equal),
    ("less", 2, "bool", _ANY, np.less),
    ("less_equal", 2, "bool", _ANY, np.less_equal),
    ("greater", 2, "bool", _ANY, np.greater),
    ("greater_equal", 2, "bool", _ANY, np.greater_equal),
    # bits and truth values (on bool: logical)
    ("bit_and", 2, "same", _BITS, np.bitwise_and),
    ("bit_or", 2, "same", _BITS, np.bitwise_or),
    ("bit_xor", 2, "same", _BITS, np.bitwise_xor),
    ("bit_not", 1, "same", _BITS, np.invert),
    ("shift_left", 2, "same", _INTEGER, np.left_shift),
    ("shift_right", 2, "same", _INTEGER, np.right_shift),
]

SCALAR_OPS: Mapping[str, ScalarOp] = {
    name: ScalarOp(name, arity, result, domain, _quiet(function))  # type: ignore[arg-type]
    for name, arity, result, domain, function in _TABLE
}
"""Beside these, expressions know ``select(condition, a, b)`` and ``cast(x)`` (saturating float to
integer, NaN to 0; wrapping between integers; non-zero to true)."""


def cast_array(x: Any, dtype: np.dtype) -> Any:
    """Cast as dlc defines it: saturating from float to integer (NaN to 0), wrapping among integers."""
    x = np.asarray(x)
    if dtype.kind in "iu" and x.dtype.kind not in "iub":
        info = np.iinfo(dtype)
        wide = x.astype(np.float64)
        with np.errstate(all="ignore"):
            inside = np.trunc(np.clip(np.nan_to_num(wide, nan=0.0, posinf=np.inf, neginf=-np.inf), info.min, info.max))
            result = np.where(np.isfinite(inside) & (np.abs(inside) < 2.0**62), inside, 0).astype(np.int64)
            if dtype.itemsize == 8:  # limits that float64 cannot hold exactly
                exact = np.where(np.abs(inside) < 2.0**63, inside, 0)
                result = (
                    exact.astype(np.int64)
                    if dtype.kind == "i"
                    else np.where(inside >= 2.0**63, 0, exact).astype(np.int64)
                )
                out = result.astype(dtype)
                out = np.where(inside >= float(info.max), np.array(info.max, dtype), out)
                if dtype.kind == "u":
                    big = (inside >= 2.0**63) & (inside < 2.0**64)
                    out = np.where(
                        big,
                        np.where(big, inside - 2.0**63, 0).astype(np.int64).astype(np.uint64) + np.uint64(2**63),
                        out,
                    )
                else:
                    out = np.where(inside <= float(info.min), np.array(info.min, dtype), out)
                return out.astype(dtype)
        return result.astype(dtype)
    with np.errstate(all="ignore"):
        return x.astype(dtype)
