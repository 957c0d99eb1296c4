"""Export rules of elementwise ops, reductions and activations."""

from __future__ import annotations

import math

import numpy as np

from dlc.frontends.onnx.export_rules import NotExpressible, exports
from dlc.frontends.onnx.export_writer import Writer
from dlc.ir.graph import Node
from dlc.ir.types import DType, bool_, float32, float64, int32, int64, uint64

_DIRECT = {
    "abs": "Abs",
    "sign": "Sign",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "tanh": "Tanh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "erf": "Erf",
    "sigmoid": "Sigmoid",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "is_nan": "IsNaN",
    "is_inf": "IsInf",
    "equal": "Equal",
    "where": "Where",
}


@exports(*_DIRECT)
def export_direct(w: Writer, node: Node) -> str:
    """One ONNX op of the same meaning."""
    return w.node(_DIRECT[node.op.name], w.operands(node.inputs))


def _held(dtype: DType) -> DType:
    """Return the dtype, modulo 2**n the same, that ops without kernels for an integer ``dtype`` take instead."""
    if not dtype.is_integer:
        return dtype
    return int32 if dtype.bits < 32 else int64 if dtype.kind == "uint" else dtype


@exports("neg")
def export_neg(w: Writer, node: Node) -> str:
    """Negation; of unsigned numbers, from zero."""
    (x,), dtype = w.operands(node.inputs), node.inputs[0].type.dtype
    return w.node("Sub", [w.constant(0, dtype), x]) if dtype.kind == "uint" else w.node("Neg", [x])


@exports("pow")
def export_pow(w: Writer, node: Node) -> str:
    """Power."""
    dtype, names = node.inputs[0].type.dtype, w.operands(node.inputs)
    held = _held(dtype)
    if held is dtype:
        return w.node("Pow", names)
    return w.cast(w.node("Pow", [w.cast(n, held) for n in names]), dtype)


@exports("maximum", "minimum")
def export_extreme(w: Writer, node: Node) -> str:
    """Larger or smaller of two; of truth values, or and and."""
    largest = node.op.name == "maximum"
    if node.inputs[0].type.dtype is bool_:
        return w.node("Or" if largest else "And", w.operands(node.inputs))
    dtype, names = node.inputs[0].type.dtype, w.operands(node.inputs)
    if dtype.is_integer and dtype.bits < 32:  # onnxruntime has no kernels for these
        return w.cast(w.node("Max" if largest else "Min", [w.cast(n, int32) for n in names]), dtype)
    return w.node("Max" if largest else "Min", names)


@exports("expm1")
def export_expm1(w: Writer, node: Node) -> str:
    """tanh(x / 2) * (exp(x) + 1), which does not cancel; exp(x) - 1 far from 0."""
    (x,) = map(w.name, node.inputs)
    dtype = node.inputs[0].type.dtype
    one, half = w.constant(1, dtype), w.constant(0.5, dtype)
    grown = w.node("Exp", [x])
    near = w.node("Mul", [w.node("Tanh", [w.node("Mul", [x, half])]), w.node("Add", [grown, one])])
    return w.node("Where", [w.node("Less", [w.node("Abs", [x]), one]), near, w.node("Sub", [grown, one])])


@exports("log1p")
def export_log1p(w: Writer, node: Node) -> str:
    """x * log(u) / (u - 1) with u = 1 + x; x where u is 1 (Higham, Accuracy and Stability, 1.14)."""
    (x,) = map(w.name, node.inputs)
    dtype = node.inputs[0].type.dtype
    one = w.constant(1, dtype)
    u = w.node("Add", [x, one])
    same = w.node("Equal", [u, one])
    rest = w.node("Where", [same, one, w.node("Sub", [u, one])])
    log = w.node("Log", [u])
    exact = w.node("Mul", [x, w.node("Div", [log, rest])])
    finite = w.node("Where", [w.node("IsInf", [x]), log, exact])
    return w.node("Where", [same, x, finite])


@exports("rsqrt")
def export_rsqrt(w: Writer, node: Node) -> str:
    """1 / sqrt(x)."""
    return w.node("Reciprocal", [w.node("Sqrt", [w.name(node.inputs[0])])])


@exports("trunc")
def export_trunc(w: Writer, node: Node) -> str:
    """sign(x) * floor(|x|)."""
    x = w.name(node.inputs[0])
    return w.node("Mul", [w.node("Sign", [x]), w.node("Floor", [w.node("Abs", [x])])])


@exports("atan2")
def export_atan2(w: Writer, node: Node) -> str:
    """The angle of (x, y), from the arc tangent of the quotient and the quadrant."""
    y, x = map(w.name, node.inputs)
    dtype = node.inputs[0].type.dtype
    zero, half, whole = (w.constant(v, dtype) for v in (0.0, math.pi / 2, math.pi))
    base = w.node("Atan", [w.node("Div", [y, x])])
    below = w.node("Less", [y, zero])
    turned = w.node("Where", [below, w.node("Sub", [base, whole]), w.node("Add", [base, whole])])
    sides = w.node("Where", [w.node("Less", [x, zero]), turned, base])
    axis = w.node("Where", [below, w.node("Neg", [half]), w.node("Where", [w.node("Equal", [y, zero]), zero, half])])
    return w.node("Where", [w.node("Equal", [x, zero]), axis, sides])


@exports("floor_mod", "trunc_mod")
def export_mod(w: Writer, node: Node) -> str:
    """Remainders."""
    names = w.operands(node.inputs)
    if node.op.name == "trunc_mod":
        return w.node("Mod", names, fmod=1)
    if not node.inputs[0].type.dtype.is_float:
        return w.node("Mod", names)
    x, y = names
    rest = w.node("Mod", [x, y], fmod=1)
    zero = w.constant(0, node.inputs[0].type.dtype)
    signs = w.node("Xor", [w.node("Less", [rest, zero]), w.node("Less", [y, zero])])
    other = w.node("And", [signs, w.node("Not", [w.node("Equal", [rest, zero])])])
    return w.node("Where", [other, w.node("Add", [rest, y]), rest])


@exports("floor_div")
def export_floor_div(w: Writer, node: Node) -> str:
    """Quotient rounded down."""
    x, y = w.operands(node.inputs)
    if node.inputs[0].type.dtype.is_float:
        return w.node("Floor", [w.node("Div", [x, y])])
    dtype = node.inputs[0].type.dtype
    if dtype.kind == "uint":
        return w.node("Div", [x, y])
    held = _held(dtype)
    if held is not dtype:
        x, y = w.cast(x, held), w.cast(y, held)
    zero, one = w.constant(0, held), w.constant(1, held)
    # One less than the quotient towards zero where signs differ and a remainder is left; x - mod(x, y) may overflow.
    signs = w.node("Xor", [w.node("Less", [x, zero]), w.node("Less", [y, zero])])
    below = w.node("And", [signs, w.node("Not", [w.node("Equal", [w.node("Mod", [x, y]), zero])])])
    quotient = w.node("Div", [x, y])
    result = w.node("Where", [below, w.node("Sub", [quotient, one]), quotient])
    return result if held is dtype else w.cast(result, dtype)


_COMPARISONS = {"less": "Less", "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual"}


@exports(*_COMPARISONS)
def export_comparison(w: Writer, node: Node) -> str:
    """Comparison; truth values as integers."""
    names = w.operands(node.inputs)
    if node.inputs[0].type.dtype is bool_:
        names = [w.cast(n, int32) for n in names]
    return w.node(_COMPARISONS[node.op.name], names)


@exports("not_equal")
def export_not_equal(w: Writer, node: Node) -> str:
    """Not equal."""
    return w.node("Not", [w.node("Equal", w.operands(node.inputs))])


_BITS = {"bit_and": "And", "bit_or": "Or", "bit_xor": "Xor", "bit_not": "Not"}


@exports(*_BITS)
def export_bits(w: Writer, node: Node) -> str:
    """Logic on truth values, bitwise on integers."""
    name = _BITS[node.op.name]
    bitwise = node.inputs[0].type.dtype is not bool_
    return w.node(f"Bitwise{name}" if bitwise else name, w.operands(node.inputs))


@exports("shift_left", "shift_right")
def export_shift(w: Writer, node: Node) -> str:
    """Shifts; ONNX shifts unsigned integers only, so signed ones multiply or divide by a power of two."""
    x, y = w.operands(node.inputs)
    dtype = node.inputs[0].type.dtype
    left = node.op.name == "shift_left"
    if left or dtype.kind == "uint":
        wide = [w.cast(n, uint64) for n in (x, y)]
        return w.cast(w.node("BitShift", wide, direction="LEFT" if left else "RIGHT"), dtype)
    x, y = (w.cast(n, int64) for n in (x, y))
    all_bits = w.constant(62, int64)
    outside = w.node("Less", [y, w.constant(0, int64)])
    y = w.node("Where", [outside, all_bits, w.node("Min", [y, all_bits])])
    power = w.node("Pow", [w.constant(2, int64), y])
    return w.cast(w.node("Div", [w.node("Sub", [x, w.node("Mod", [x, power])]), power]), dtype)


@exports("cast")
def export_cast(w: Writer, node: Node) -> str:
    """Conversion."""
    return w.cast(w.name(node.inputs[0]), node.attributes["dtype"])


@exports("stop_gradient", "barrier")
def export_identity(w: Writer, node: Node) -> str:
    """The value itself."""
    return w.node("Identity", [w.name(node.inputs[0])])


@exports("flush_subnormal")
def export_flush_subnormal(w: Writer, node: Node) -> str:
    """x times whether |x| is at least the least normal number of float32 or float64: zeros keep their sign."""
    x, dtype = w.name(node.inputs[0]), node.inputs[0].type.dtype
    wide = float64 if dtype is float64 else float32
    least = w.constant(float(np.finfo(wide.numpy).smallest_normal), wide)
    small = w.node("Less", [w.node("Abs", [w.cast(x, wide)]), least])
    return w.node("Mul", [x, w.cast(w.node("Not", [small]), dtype)])


# -- reductions -------------------------------------------------------------------------

_REDUCTIONS = {
    "reduce_sum": "Sum",
    "reduce_prod": "Prod",
    "reduce_max": "Max",
    "reduce_min": "Min",
    "logsumexp": "LogSumExp",
}


@exports(*_REDUCTIONS)
def export_reduction(w: Writer, node: Node) -> str:
    """Reductions of numbers."""
    x, axes = w.name(node.inputs[0]), node.attributes["axes"]
    if node.op.name == "logsumexp" and (axes is None or not axes):
        raise NotExpressible
    dtype = node.inputs[0].type.dtype
    narrow = dtype.bits < 32 and not dtype.is_float
    x = w.cast(x, int32 if dtype.bits < 32 else dtype) if narrow else x
    keepdims = int(node.attributes["keepdims"])
    y = w.node(f"Reduce{_REDUCTIONS[node.op.name]}", [x, w.ints(axes)], keepdims=keepdims, noop_with_empty_axes=1)
    return w.cast(y, dtype) if narrow else y


@exports("reduce_and", "reduce_or")
def export_logical_reduction(w: Writer, node: Node) -> str:
    """All, any."""
    x = w.cast(w.name(node.inputs[0]), int32)
    kind = "Min" if node.op.name == "reduce_and" else "Max"
    axes, keepdims = w.ints(node.attributes["axes"]), int(node.attributes["keepdims"])
    return w.cast(w.node(f"Reduce{kind}", [x, axes], keepdims=keepdims, noop_with_empty_axes=1), bool_)


@exports("argmax", "argmin")
def export_arg_extreme(w: Writer, node: Node) -> str:
    """Positions of extremes."""
    x = w.name(node.inputs[0])
    if node.inputs[0].type.dtype is bool_:
        x = w.cast(x, int32)
    kind = "ArgMax" if node.op.name == "argmax" else "ArgMin"
    return w.node(kind, [x], axis=node.attributes["axis"], keepdims=int(node.attributes["keepdims"]))


@exports("cumsum")
def export_cumsum(w: Writer, node: Node) -> str:
    """Cumulative sums."""
    a = node.attributes
    axis, x, dtype = w.constant(np.int64(a["axis"])), w.name(node.inputs[0]), node.inputs[0].type.dtype
    narrow = dtype.is_integer and dtype.bits < 32
    inputs = [w.cast(x, int32) if narrow else x, axis]
    result = w.node("CumSum", inputs, reverse=int(a["reverse"]), exclusive=int(a["exclusive"]))
    return w.cast(result, dtype) if narrow else result


# -- activations ------------------------------------------------------------------------

_PLAIN = {"relu": "Relu", "softsign": "Softsign"}
_WITH_ALPHA = {"leaky_relu": "LeakyRelu", "elu": "Elu", "celu": "Celu", "thresholded_relu": "ThresholdedRelu"}


@exports(*_PLAIN)
def export_plain_activation(w: Writer, node: Node) -> str:
    """Activations without attributes."""
    return w.node(_PLAIN[node.op.name], [w.name(node.inputs[0])])


def _only(dtype: DType, *accepted: DType) -> None:
    """onnxruntime has few kernels for some ops: others are expanded."""
    if dtype not in accepted:
        raise NotExpressible


@exports(*_WITH_ALPHA)
def export_alpha_activation(w: Writer, node: Node) -> str:
    """Activations with alpha."""
    _only(node.inputs[0].type.dtype, float32)
    return w.node(_WITH_ALPHA[node.op.name], [w.name(node.inputs[0])], alpha=float(node.attributes["alpha"]))


@exports("selu")
def export_selu(w: Writer, node: Node) -> str:
    """Scaled exponential linear unit."""
    _only(node.inputs[0].type.dtype, float32)
    a = node.attributes
    return w.node("Selu", [w.name(node.inputs[0])], alpha=float(a["alpha"]), gamma=float(a["gamma"]))


@exports("hard_sigmoid")
def export_hard_sigmoid(w: Writer, node: Node) -> str:
    """Clipped line."""
    _only(node.inputs[0].type.dtype, float32)
    a = node.attributes
    return w.node("HardSigmoid", [w.name(node.inputs[0])], alpha=float(a["alpha"]), beta=float(a["beta"]))


@exports("gelu")
def export_gelu(w: Writer, node: Node) -> str:
    """Gaussian error linear unit, an op of its own from opset 20 on."""
    _only(node.inputs[0].type.dtype, float32)
    if w.opset < 20:
        raise NotExpressible
    return w.node("Gelu", [w.name(node.inputs[0])], approximate=node.attributes["approximate"])


@exports("softplus")
def export_softplus(w: Writer, node: Node) -> str:
    """log(1 + exp(x))."""
    _only(node.inputs[0].type.dtype, float32)
    if node.attributes["beta"] != 1.0:
        raise NotExpressible
    return w.node("Softplus", [w.name(node.inputs[0])])


@exports("clamp", "hard_tanh")
def export_clamp(w: Writer, node: Node) -> str:
    """Clipping."""
    dtype = node.inputs[0].type.dtype
    bounds = [node.attributes["low"], node.attributes["high"]]
    limits = ["" if v is None or math.isinf(v) else w.constant(v, dtype) for v in bounds]
    while limits and not limits[-1]:
        limits.pop()
    return w.node("Clip", [w.name(node.inputs[0]), *limits])


@exports("softmax", "log_softmax")
def export_softmax(w: Writer, node: Node) -> str:
    """Softmax along an axis."""
    kind = "Softmax" if node.op.name == "softmax" else "LogSoftmax"
    return w.node(kind, [w.name(node.inputs[0])], axis=node.attributes["axis"])
