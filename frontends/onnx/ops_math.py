"""Importers of elementwise ONNX ops: arithmetic, comparisons, logic, bits, casts and activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.tensors import dtype_of
from dlc.ir.graph import Value
from dlc.ir.types import DType, float32, float64, int64

_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BitwiseNot": "bit_not",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "IsNaN": "is_nan",
    "Log": "log",
    "Neg": "neg",
    "Not": "bit_not",
    "Reciprocal": "reciprocal",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}
_ROUNDING = {"Ceil": "ceil", "Floor": "floor", "Round": "round"}
_BINARY = {
    "Add": "add",
    "And": "bit_and",
    "BitwiseAnd": "bit_and",
    "BitwiseOr": "bit_or",
    "BitwiseXor": "bit_xor",
    "Div": "div",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "mul",
    "Or": "bit_or",
    "Sub": "sub",
    "Xor": "bit_xor",
}


def elementwise(call: Call, op: str, *operands: Value) -> Value:
    """Emit an elementwise op after making equal the symbols that broadcasting needs equal."""
    call.unify_broadcast(*(v.type.shape for v in operands))
    return call.b.call(op, *operands)


@onnx_op(*_UNARY)
def import_unary(call: Call) -> Value:
    """One operand, one scalar function."""
    return call.b.call(_UNARY[call.op_type], call.value(0))


@onnx_op(*_ROUNDING)
def import_rounding(call: Call) -> Value:
    """Rounding; integers stay."""
    x = call.value(0)
    return call.b.call(_ROUNDING[call.op_type], x) if x.type.dtype.is_float else x


@onnx_op(*_BINARY, since=7)
def import_binary(call: Call) -> Value:
    """Two operands that broadcast as in NumPy."""
    return elementwise(call, _BINARY[call.op_type], call.value(0), call.value(1))


_VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"}


@onnx_op(*_VARIADIC)
def import_variadic(call: Call) -> Value:
    """Any number of operands that broadcast."""
    values = call.values()
    total = reduce(lambda a, c: elementwise(call, _VARIADIC[call.op_type], a, c), values)
    return call.b.div(total, float(len(values))) if call.op_type == "Mean" else total


@onnx_op("Mod")
def import_mod(call: Call) -> Value:
    """fmod=0: the divisor's sign; fmod=1: the dividend's, as in C."""
    return elementwise(call, "trunc_mod" if call.flag("fmod") else "floor_mod", call.value(0), call.value(1))


@onnx_op("Pow", since=7)
def import_pow(call: Call) -> Value:
    """The result has the base's type; other exponent types are converted."""
    x, y = call.value(0), call.value(1)
    dtype = x.type.dtype
    if y.type.dtype is dtype:
        return elementwise(call, "pow", x, y)
    if dtype.is_integer and y.type.dtype.is_float:
        wide = elementwise(call, "pow", call.b.cast_to(x, float64), call.b.cast_to(y, float64))
        return call.b.cast_to(wide, dtype)
    return elementwise(call, "pow", x, call.b.cast_to(y, dtype))


@onnx_op("BitShift")
def import_bit_shift(call: Call) -> Value:
    """Shift by the second operand."""
    direction = call.string("direction")
    if direction not in ("LEFT", "RIGHT"):
        call.fail(f"direction is {direction!r}; it must be LEFT or RIGHT")
    x, amount = call.value(0), call.value(1)
    if direction == "RIGHT" and x.type.dtype.kind == "int":  # shifting out everything leaves the sign
        amount = call.b.minimum(amount, x.type.dtype.bits - 1)
    return elementwise(call, f"shift_{direction.lower()}", x, amount)


@onnx_op("IsInf")
def import_is_inf(call: Call) -> Value:
    """Infinite, of the signs asked for."""
    b, x = call.b, call.value(0)
    result = b.is_inf(x)
    if not call.flag("detect_negative", True):
        result = b.bit_and(result, b.greater(x, 0.0))
    if not call.flag("detect_positive", True):
        result = b.bit_and(result, b.less(x, 0.0))
    return result


@onnx_op("Where")
def import_where(call: Call) -> Value:
    """Choice by a condition, all three broadcast."""
    return elementwise(call, "where", call.value(0), call.value(1), call.value(2))


@onnx_op("Cast")
def import_cast(call: Call) -> Value:
    """Convert the element type."""
    return convert(call, call.value(0), dtype_of(call.integer("to"), "attribute 'to'"))


@onnx_op("CastLike")
def import_cast_like(call: Call) -> Value:
    """Convert to the second operand's element type."""
    return convert(call, call.value(0), call.dtype(1))


def convert(call: Call, x: Value, dtype: DType) -> Value:
    """Cast with ONNX's rules for narrow floats: those saturate unless ``saturate=0``."""
    narrow = dtype.name.startswith(("float8", "float4"))
    if narrow and x.type.dtype is not dtype and x.type.dtype.kind in ("float", "int", "uint"):
        if x.type.dtype.bits > 32 or not x.type.dtype.is_float:
            x = call.b.cast_to(x, float32)
        if call.flag("saturate", True) or dtype.bits == 4:
            x = _saturate(call, x, dtype)
    return call.b.cast_to(x, dtype)


_LARGEST = {
    "float8_e4m3fn": 448.0,
    "float8_e4m3fnuz": 240.0,
    "float8_e5m2": 57344.0,
    "float8_e5m2fnuz": 57344.0,
    "float4_e2m1fn": 6.0,
}


def _saturate(call: Call, x: Value, dtype: DType) -> Value:
    """Clamp to the largest finite numbers; NaN stays (float4 has none)."""
    limit = _LARGEST[dtype.name]
    return call.b.maximum(call.b.minimum(x, limit), -limit)


@onnx_op("Clip")
def import_clip(call: Call) -> Value:
    """Limit from below and above; limits are attributes before opset 11, inputs after."""
    b, x = call.b, call.value(0)
    dtype = x.type.dtype
    if call.version < 11:
        low, high = call.real("min", None), call.real("max", None)
    else:
        low, high = _limit(call, 1), _limit(call, 2)
    plain = not isinstance(low, Value) and not isinstance(high, Value)
    if plain and dtype.is_float and dtype.bits >= 32 and (low is None or high is None or low <= high):
        if low is None and high is None:
            return x
        return b.clamp(x, low=-math.inf if low is None else low, high=math.inf if high is None else high)
    if low is not None:
        x = b.maximum(x, low if isinstance(low, Value) else b.constant(low, dtype))
    if high is not None:
        x = b.minimum(x, high if isinstance(high, Value) else b.constant(high, dtype))
    return x


def _limit(call: Call, index: int) -> Any:
    if not call.has(index):
        return None
    if call.tensor(index).known is not None and call.dtype(index).is_float:
        return float(call.scalar(index, "limit"))
    return call.b.reshape_to(call.value(index), ())


# -- activations ------------------------------------------------------------------------


@onnx_op("Relu")
def import_relu(call: Call) -> Value:
    """max(x, 0)."""
    return call.b.relu(call.value(0)) if call.dtype().is_float else call.b.maximum(call.value(0), 0)


@onnx_op("LeakyRelu")
def import_leaky_relu(call: Call) -> Value:
    """x, or alpha * x where negative."""
    return call.b.leaky_relu(call.value(0), alpha=call.real("alpha", 0.01))


@onnx_op("PRelu")
def import_prelu(call: Call) -> Value:
    """x, or slope * x where negative; the slope broadcasts to x."""
    b, x, slope = call.b, call.value(0), call.value(1)
    call.unify_broadcast(x.type.shape, slope.type.shape)
    zero = b.constant(0, x.type.dtype)
    return b.where(b.less(x, zero), b.mul(x, slope), x)


@onnx_op("Elu")
def import_elu(call: Call) -> Value:
    """x, or alpha * (exp(x) - 1) where negative."""
    return call.b.elu(call.value(0), alpha=call.real("alpha", 1.0))


@onnx_op("Celu")
def import_celu(call: Call) -> Value:
    """x, or alpha * (exp(x / alpha) - 1) where negative."""
    return call.b.celu(call.value(0), alpha=call.real("alpha", 1.0))


@onnx_op("Selu")
def import_selu(call: Call) -> Value:
    """gamma * x, or gamma * alpha * (exp(x) - 1) where negative."""
    alpha, gamma = call.real("alpha", 1.67326319217681884765625), call.real("gamma", 1.05070102214813232421875)
    b, x = call.b, call.value(0)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6:
        return b.selu(x)
    return b.mul(b.elu(x, alpha=alpha), gamma)


@onnx_op("Gelu")
def import_gelu(call: Call) -> Value:
    """x * Phi(x), exactly or through tanh."""
    return call.b.gelu(call.value(0), approximate=call.string("approximate", "none"))


@onnx_op("Softplus")
def import_softplus(call: Call) -> Value:
    """log(1 + exp(x))."""
    return call.b.softplus(call.value(0))


@onnx_op("Softsign")
def import_softsign(call: Call) -> Value:
    """x / (1 + |x|)."""
    return call.b.softsign(call.value(0))


@onnx_op("HardSigmoid")
def import_hard_sigmoid(call: Call) -> Value:
    """max(0, min(1, alpha * x + beta))."""
    b, x = call.b, call.value(0)
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    return b.maximum(b.minimum(b.add(b.mul(x, alpha), beta), 1.0), 0.0)


@onnx_op("HardSwish")
def import_hard_swish(call: Call) -> Value:
    """x * max(0, min(1, x / 6 + 0.5))."""
    return call.b.hard_swish(call.value(0))


@onnx_op("Mish")
def import_mish(call: Call) -> Value:
    """x * tanh(softplus(x))."""
    return call.b.mish(call.value(0))


@onnx_op("Swish")
def import_swish(call: Call) -> Value:
    """x * sigmoid(alpha * x)."""
    b, x, alpha = call.b, call.value(0), call.real("alpha", 1.0)
    return b.silu(x) if alpha == 1.0 else b.mul(x, b.sigmoid(b.mul(x, alpha)))


@onnx_op("ThresholdedRelu")
def import_thresholded_relu(call: Call) -> Value:
    """x where above alpha, else 0."""
    return call.b.thresholded_relu(call.value(0), alpha=call.real("alpha", 1.0))


@onnx_op("Shrink")
def import_shrink(call: Call) -> Value:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    b, x = call.b, call.value(0)
    dtype = x.type.dtype
    limit, bias = call.real("lambd", 0.5), call.real("bias", 0.0)
    wide = x if dtype.is_float else b.cast_to(x, float32)
    zero = b.zeros_like(wide)
    above = b.where(b.greater(wide, limit), b.sub(wide, bias), zero)
    return b.cast_to(b.where(b.less(wide, -limit), b.add(wide, bias), above), dtype)


@onnx_op("Hardmax", since=13)
def import_hardmax(call: Call) -> Value:
    """1 at the first largest element along the axis, else 0."""
    return hardmax(call, call.value(0), call.axis(call.integer("axis", -1), call.rank()))


def hardmax(call: Call, x: Value, axis: int) -> Value:
    """Emit the indicator of the first largest element along ``axis``."""
    b = call.b
    best = b.argmax(x, axis=axis, keepdims=True)
    places = b.iota(shape=x.type.shape, axis=axis, dtype=int64)
    return b.cast_to(b.equal(places, b.broadcast_to(best, x.type.shape)), x.type.dtype)


@onnx_op("BlackmanWindow", "HannWindow", "HammingWindow")
def import_window(call: Call) -> Value:
    """Cosine windows of a known size."""
    b, size = call.b, int(call.dims(0, "size")[0])
    dtype = dtype_of(call.integer("output_datatype", 1), "attribute 'output_datatype'")
    wide = dtype if dtype.is_float else float32
    span = size if call.flag("periodic", True) else size - 1
    angle = b.mul(b.iota(shape=(size,), axis=0, dtype=wide), 2 * math.pi / max(span, 1))
    terms: Sequence[float] = {
        "BlackmanWindow": (0.42, -0.5, 0.08),
        "HannWindow": (0.5, -0.5),
        "HammingWindow": (25 / 46, -21 / 46),
    }[call.op_type]
    total = b.add(b.mul(b.cos(angle), terms[1]), terms[0])
    if len(terms) > 2:
        total = b.add(total, b.mul(b.cos(b.mul(angle, 2.0)), terms[2]))
    return b.cast_to(total, dtype)
