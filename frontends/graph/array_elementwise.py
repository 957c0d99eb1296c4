"""Elementwise functions with NumPy's names, promotion and broadcasting, over builder values.

Every function takes the builder first; ``functions`` lifts them to tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dlc.errors import TypeRuleError
from dlc.frontends.graph.promotion import as_value, float_dtype, result_dtype, same_dtype
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.types import DType, as_dtype, bool_, float64


def binary(op: str, doc: str, floating: bool = False, logical: bool = False) -> Callable[..., Value]:
    """Make ``f(b, x, y)`` that promotes, broadcasts and emits ``op``."""

    def function(b: Builder, x: Any, y: Any) -> Value:
        dtype: DType | None = bool_ if logical else None
        if floating:
            dtype = float_dtype(result_dtype(same_kind(b, x, y)))
        if logical:
            return b.call(op, truth(b, x), truth(b, y))
        return b.call(op, *same_dtype(b, (x, y), dtype))

    function.__doc__ = f"{doc}\n\n    Operands are promoted and broadcast as in NumPy."
    return function


def same_kind(b: Builder, *operands: Any) -> list[Any]:
    """Return operands with nested sequences made values, for asking their dtypes."""
    return [as_value(b, o) if isinstance(o, list | tuple) else o for o in operands]


def unary(op: str, doc: str, floating: bool = False) -> Callable[..., Value]:
    """Make ``f(b, x)`` that emits ``op``, in floating point if ``floating``."""

    def function(b: Builder, x: Any) -> Value:
        value = as_value(b, x)
        return b.call(op, b.cast_to(value, float_dtype(value.type.dtype)) if floating else value)

    function.__doc__ = doc
    return function


def truth(b: Builder, x: Any) -> Value:
    """Return ``x`` as bool: itself, or ``x != 0``."""
    value = as_value(b, x)
    return value if value.type.dtype is bool_ else b.not_equal(value, as_value(b, 0, value.type.dtype))


def add(b: Builder, x: Any, y: Any) -> Value:
    """Return ``x + y``; of bools, their disjunction. Operands are promoted and broadcast as in NumPy."""
    x, y = same_dtype(b, (x, y))
    return b.bit_or(x, y) if x.type.dtype is bool_ else b.add(x, y)


def multiply(b: Builder, x: Any, y: Any) -> Value:
    """Return ``x * y``; of bools, their conjunction. Operands are promoted and broadcast as in NumPy."""
    x, y = same_dtype(b, (x, y))
    return b.bit_and(x, y) if x.type.dtype is bool_ else b.mul(x, y)


def divide(b: Builder, x: Any, y: Any) -> Value:
    """Return the true quotient ``x / y``; of integers and bools, in float64. Operands are promoted and broadcast."""
    operands = same_kind(b, x, y)
    dtype = result_dtype(operands)
    return b.div(*same_dtype(b, operands, dtype if dtype.is_float else float64))


subtract = binary("sub", "Return ``x - y``.")
floor_divide = binary("floor_div", "Return ``x // y``, rounded down; an integer divided by 0 gives 0.")
remainder = binary("floor_mod", "Return ``x % y`` with the sign of ``y``; an integer modulo 0 gives 0.")
fmod = binary("trunc_mod", "Return the remainder with the sign of ``x``.")
power = binary("pow", "Return ``x ** y``.")
maximum = binary("maximum", "Return the larger of two elements; NaN if either is NaN.")
minimum = binary("minimum", "Return the smaller of two elements; NaN if either is NaN.")
arctan2 = binary("atan2", "Return the angle of the point (y, x), in radians.", floating=True)
equal = binary("equal", "Return ``x == y`` as bool.")
not_equal = binary("not_equal", "Return ``x != y`` as bool.")
less = binary("less", "Return ``x < y`` as bool.")
less_equal = binary("less_equal", "Return ``x <= y`` as bool.")
greater = binary("greater", "Return ``x > y`` as bool.")
greater_equal = binary("greater_equal", "Return ``x >= y`` as bool.")
bitwise_and = binary("bit_and", "Return the bitwise (of bools: logical) and.")
bitwise_or = binary("bit_or", "Return the bitwise (of bools: logical) or.")
bitwise_xor = binary("bit_xor", "Return the bitwise (of bools: logical) exclusive or.")
left_shift = binary("shift_left", "Return ``x << y`` of integers.")
right_shift = binary("shift_right", "Return ``x >> y`` of integers.")
logical_and = binary("bit_and", "Return ``x and y`` of truth values.", logical=True)
logical_or = binary("bit_or", "Return ``x or y`` of truth values.", logical=True)
logical_xor = binary("bit_xor", "Return whether exactly one operand is true.", logical=True)

absolute = unary("abs", "Return the absolute value.")
sign = unary("sign", "Return -1, 0 or 1 by sign.")
bitwise_not = unary("bit_not", "Return the bitwise (of bools: logical) complement.")
exp = unary("exp", "Return e to the power ``x``.", True)
expm1 = unary("expm1", "Return ``exp(x) - 1``, accurate near 0.", True)
log = unary("log", "Return the natural logarithm.", True)
log1p = unary("log1p", "Return ``log(1 + x)``, accurate near 0.", True)
sqrt = unary("sqrt", "Return the square root.", True)
rsqrt = unary("rsqrt", "Return ``1 / sqrt(x)``.", True)
reciprocal = unary("reciprocal", "Return ``1 / x``.", True)
sin = unary("sin", "Return the sine.", True)
cos = unary("cos", "Return the cosine.", True)
tan = unary("tan", "Return the tangent.", True)
arcsin = unary("asin", "Return the inverse sine.", True)
arccos = unary("acos", "Return the inverse cosine.", True)
arctan = unary("atan", "Return the inverse tangent.", True)
sinh = unary("sinh", "Return the hyperbolic sine.", True)
cosh = unary("cosh", "Return the hyperbolic cosine.", True)
tanh = unary("tanh", "Return the hyperbolic tangent.", True)
arcsinh = unary("asinh", "Return the inverse hyperbolic sine.", True)
arccosh = unary("acosh", "Return the inverse hyperbolic cosine.", True)
arctanh = unary("atanh", "Return the inverse hyperbolic tangent.", True)
erf = unary("erf", "Return the error function.", True)
sigmoid = unary("sigmoid", "Return ``1 / (1 + exp(-x))``.", True)


def negative(b: Builder, x: Any) -> Value:
    """Return ``-x``; TypeRuleError for bools, as in NumPy."""
    value = as_value(b, x)
    if value.type.dtype is bool_:
        raise TypeRuleError("negative takes numbers, not bool; use logical_not or ~")
    if value.type.dtype.kind == "uint":
        return b.sub(as_value(b, 0, value.type.dtype), value)
    return b.neg(value)


def rounding(op: str, doc: str) -> Callable[..., Value]:
    """Make ``f(b, x)`` that emits ``op`` on floats and leaves integers alone."""

    def function(b: Builder, x: Any) -> Value:
        value = as_value(b, x)
        return b.call(op, value) if value.type.dtype.is_float else value

    function.__doc__ = doc
    return function


floor = rounding("floor", "Round down to a whole number.")
ceil = rounding("ceil", "Round up to a whole number.")
round_ = rounding("round", "Round to the nearest whole number, halves to even.")
trunc = rounding("trunc", "Round towards zero.")


def isnan(b: Builder, x: Any) -> Value:
    """Return where ``x`` is NaN, as bool."""
    value = as_value(b, x)
    return b.is_nan(value) if value.type.dtype.is_float else b.full(value.type.shape, False, bool_)


def isinf(b: Builder, x: Any) -> Value:
    """Return where ``x`` is infinite, as bool."""
    value = as_value(b, x)
    return b.is_inf(value) if value.type.dtype.is_float else b.full(value.type.shape, False, bool_)


def isfinite(b: Builder, x: Any) -> Value:
    """Return where ``x`` is neither infinite nor NaN, as bool."""
    return b.bit_not(b.bit_or(isnan(b, x), isinf(b, x)))


def logical_not(b: Builder, x: Any) -> Value:
    """Return where ``x`` is false (zero), as bool."""
    return b.bit_not(truth(b, x))


def square(b: Builder, x: Any) -> Value:
    """Return ``x * x``."""
    value = as_value(b, x)
    return multiply(b, value, value)


def exp2(b: Builder, x: Any) -> Value:
    """Return 2 to the power ``x``."""
    value = as_value(b, x)
    return power(b, 2.0, b.cast_to(value, float_dtype(value.type.dtype)))


def log2(b: Builder, x: Any) -> Value:
    """Return the base-2 logarithm."""
    return multiply(b, log(b, x), 1.0 / math.log(2.0))


def log10(b: Builder, x: Any) -> Value:
    """Return the base-10 logarithm."""
    return multiply(b, log(b, x), 1.0 / math.log(10.0))


def logaddexp(b: Builder, x: Any, y: Any) -> Value:
    """Return ``log(exp(x) + exp(y))`` without overflow; of integers, in floating point."""
    operands = same_kind(b, x, y)
    x, y = same_dtype(b, operands, float_dtype(result_dtype(operands)))
    difference = where(b, equal(b, x, y), 0.0, subtract(b, x, y))  # equal infinities differ by 0, not by NaN
    return add(b, maximum(b, x, y), log1p(b, exp(b, negative(b, absolute(b, difference)))))


def where(b: Builder, condition: Any, x: Any, y: Any) -> Value:
    """Return ``x`` where ``condition`` is true, else ``y``; all three broadcast, ``x`` and ``y`` are promoted."""
    return b.where(truth(b, condition), *same_dtype(b, (x, y)))


def clip(b: Builder, x: Any, min: Any = None, max: Any = None) -> Value:
    """Limit ``x`` to the interval [``min``, ``max``]; None leaves a side open."""
    value = as_value(b, x)
    if min is not None:
        value = maximum(b, value, min)
    return value if max is None else minimum(b, value, max)


def astype(b: Builder, x: Any, dtype: DType | str | type) -> Value:
    """Convert to ``dtype``: float to integer saturates and takes NaN to 0, integers wrap, non-zero is true."""
    return b.cast_to(as_value(b, x), as_dtype(dtype))
