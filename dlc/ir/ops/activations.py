"""Activation functions: elementwise composites with PyTorch's formulas and gradients at kinks.

``evaluate`` computes in float64; expansions are sound for large arguments of both signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder, broadcast_shapes
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Attribute, InferRule, OpDef, Types, register
from dlc.ir.ops.rules import check_float, single_vjp
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.types import TensorType

Formula = Callable[..., Any]


def float_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> the same type."""
    check_float(inputs)
    return (inputs[0],)


def _not_zero(name: str) -> InferRule:
    """Build the type rule of an activation that divides by the attribute ``name``."""

    def infer(inputs: Types, attributes: Attributes) -> Types:
        if attributes[name] == 0:
            raise TypeRuleError(f"{name} is 0; it must not be")
        return float_type(inputs, attributes)

    return infer


def in_float64(formula: Formula) -> Callable[..., np.ndarray]:
    """Lift ``formula(attributes, *float64 arrays)`` to an evaluate rule that keeps the first operand's dtype."""

    def evaluate(attributes: Attributes, *arrays: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            result = formula(attributes, *(a.astype(np.float64) for a in arrays))
            return np.asarray(result, np.float64).astype(arrays[0].dtype)

    return evaluate


def _number(default: float, doc: str) -> Attribute:
    return Attribute((float,), default=default, required=False, doc=doc)


def _activation(
    name: str,
    formula: Formula,
    expansion: Callable[[Builder, Value, Attributes], Value],
    attributes: Mapping[str, Attribute] | None = None,
    gradient: Callable[[Builder, Value, Value, Value, Attributes], Value] | None = None,
    infer: Callable[[Types, Attributes], Types] = float_type,
    doc: str = "",
) -> OpDef:
    """Register one activation; ``gradient(b, dy, x, y, attributes)`` replaces that of the expansion."""
    rule = None
    if gradient is not None:
        rule = single_vjp(lambda b, dy, node: gradient(b, dy, node.inputs[0], node.outputs[0], node.attributes))
    return register(
        OpDef(
            name=name,
            arity=1,
            infer=infer,
            evaluate=in_float64(formula),
            attributes=attributes or {},
            expand=lambda b, inputs, a, mode: (expansion(b, inputs[0], a),),
            vjp=rule,
            doc=doc,
        )
    )


def _where_positive(b: Builder, x: Value, positive: Value | float, otherwise: Value | float) -> Value:
    return b.where(b.greater(x, 0.0), positive, otherwise)


def _nonpositive(b: Builder, x: Value) -> Value:
    """Replace positive elements by zero, so that the other branch of a choice neither overflows nor hurts gradients."""
    return b.where(b.greater(x, 0.0), b.zeros_like(x), x)


def _between(b: Builder, x: Value, low: float, high: float, dy: Value, inclusive: bool) -> Value:
    """Keep ``dy`` where ``x`` is between the bounds, else zero."""
    above, below = ("greater_equal", "less_equal") if inclusive else ("greater", "less")
    return b.where(b.bit_and(b.call(above, x, low), b.call(below, x, high)), dy, 0.0)


def _stable_log1p_exp(b: Builder, x: Value) -> Value:
    """Emit log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    return b.add(b.maximum(x, 0.0), b.log1p(b.exp(b.neg(b.abs(x)))))


def _np_softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _np_sigmoid(x: np.ndarray) -> Any:
    return SCALAR_OPS["sigmoid"].evaluate(x)


def _np_erf(x: np.ndarray) -> Any:
    return SCALAR_OPS["erf"].evaluate(x)


# -- rectifiers ----------------------------------------------------------------------------


def relu_type(inputs: Types, attributes: Attributes) -> Types:
    """A tensor of numbers -> the same type."""
    if inputs[0].dtype.kind not in ("int", "uint", "float"):
        raise TypeRuleError(f"takes numbers, not {inputs[0].dtype}; cast first")
    return (inputs[0],)


def relu_vjp(b: Builder, dy: Value, node: Node) -> Value | None:
    """The cotangent where the result is positive; 0 at 0."""
    if not node.inputs[0].type.dtype.is_float:
        return None
    return b.where(b.greater(node.outputs[0], 0.0), dy, 0.0)


register(
    OpDef(
        name="relu",
        arity=1,
        infer=relu_type,
        evaluate=lambda attributes, x: np.maximum(x, np.zeros((), x.dtype)),
        expand=lambda b, inputs, a, mode: (b.maximum(inputs[0], b.constant(0, inputs[0].type.dtype)),),
        vjp=single_vjp(relu_vjp),
        doc="max(x, 0), with gradient 0 at 0.",
    )
)

_activation(
    "leaky_relu",
    lambda a, x: np.where(x > 0, x, x * a["alpha"]),
    lambda b, x, a: _where_positive(b, x, x, b.mul(x, a["alpha"])),
    {"alpha": _number(0.01, "slope below zero")},
    doc="x above zero, alpha * x below.",
)
_activation(
    "thresholded_relu",
    lambda a, x: np.where(x > a["alpha"], x, 0),
    lambda b, x, a: b.where(b.greater(x, a["alpha"]), x, 0.0),
    {"alpha": _number(1.0, "the threshold")},
    doc="x above alpha, else 0.",
)
_activation(
    "elu",
    lambda a, x: np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0))),
    lambda b, x, a: _where_positive(b, x, x, b.mul(b.expm1(_nonpositive(b, x)), a["alpha"])),
    {"alpha": _number(1.0, "scale below zero")},
    doc="x above zero, alpha * (exp(x) - 1) below.",
)
_activation(
    "celu",
    lambda a, x: np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0) / a["alpha"])),
    lambda b, x, a: _where_positive(b, x, x, b.mul(b.expm1(b.mul(_nonpositive(b, x), 1.0 / a["alpha"])), a["alpha"])),
    {"alpha": _number(1.0, "scale below zero; not 0")},
    infer=_not_zero("alpha"),
    doc="x above zero, alpha * (exp(x / alpha) - 1) below.",
)
_activation(
    "selu",
    lambda a, x: a["gamma"] * np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0))),
    lambda b, x, a: b.mul(_where_positive(b, x, x, b.mul(b.expm1(_nonpositive(b, x)), a["alpha"])), a["gamma"]),
    {
        "alpha": _number(1.6732632423543772, "scale below zero"),
        "gamma": _number(1.0507009873554805, "scale of the whole"),
    },
    doc="Scaled elu whose defaults keep mean 0 and variance 1 (Klambauer et al., 2017).",
)


def prelu_type(inputs: Types, attributes: Attributes) -> Types:
    """(T, slope T that broadcasts to the operand's shape) -> T."""
    check_float(inputs)
    x, slope = inputs
    if broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise TypeRuleError(f"slope {list(slope.shape)} does not broadcast to {list(x.shape)}")
    return (x,)


register(
    OpDef(
        name="prelu",
        arity=2,
        infer=prelu_type,
        evaluate=lambda a, x, slope: np.where(x > 0, x, x * slope).astype(x.dtype),
        expand=lambda b, inputs, a, mode: (
            _where_positive(b, inputs[0], inputs[0], b.mul(inputs[0], b.broadcast_to(inputs[1], inputs[0].type.shape))),
        ),
        doc="x above zero, slope * x below; the slope (operand 1) broadcasts to the operand.",
    )
)


# -- smooth ----------------------------------------------------------------------------------


_ROOT_HALF = math.sqrt(0.5)
_TANH_SCALE = math.sqrt(2 / math.pi)


def gelu_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> the same type."""
    if attributes["approximate"] not in ("none", "tanh"):
        raise TypeRuleError(f"approximate is {attributes['approximate']!r}; it must be 'none' or 'tanh'")
    return float_type(inputs, attributes)


def _np_gelu(a: Attributes, x: np.ndarray) -> np.ndarray:
    if a["approximate"] == "none":
        return 0.5 * x * (1 + _np_erf(x * _ROOT_HALF))
    return 0.5 * x * (1 + np.tanh(_TANH_SCALE * (x + 0.044715 * x**3)))


# Gradients of these are dy times a slope that depends on x alone: fusion computes it beside the value, which shares
# most of its work, and one tensor is kept for the way back.


def _gelu_factor(b: Builder, x: Value, cubic: float) -> Value:
    """Emit u(x) / x with ``cubic`` 1, and u'(x) with 3, where gelu is x * sigmoid(u) with u = a x + b x^3."""
    return b.add(b.mul(b.mul(x, x), 2 * _TANH_SCALE * 0.044715 * cubic), 2 * _TANH_SCALE)


def _gelu_share(b: Builder, x: Value, a: Attributes) -> Value:
    """Emit what gelu multiplies x by; (1 + tanh(u)) / 2 is sigmoid(2 u), which keeps its digits near zero."""
    if a["approximate"] == "none":
        return b.mul(b.add(b.erf(b.mul(x, _ROOT_HALF)), 1.0), 0.5)
    return b.sigmoid(b.mul(x, _gelu_factor(b, x, 1.0)))


def _gelu_slope(b: Builder, x: Value, a: Attributes) -> Value:
    share = _gelu_share(b, x, a)
    if a["approximate"] == "none":
        density = b.mul(b.exp(b.mul(b.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    else:
        density = b.mul(b.mul(share, b.sub(1.0, share)), _gelu_factor(b, x, 3.0))
    return b.add(share, b.mul(x, density))


def _silu_slope(b: Builder, x: Value) -> Value:
    share = b.sigmoid(x)
    return b.mul(share, b.add(b.mul(x, b.sub(1.0, share)), 1.0))


_activation(
    "gelu",
    _np_gelu,
    lambda b, x, a: b.mul(x, _gelu_share(b, x, a)),
    {"approximate": Attribute((str,), default="none", required=False, doc="'none' (exact, by erf) or 'tanh'")},
    gradient=lambda b, dy, x, y, a: b.mul(dy, _gelu_slope(b, x, a)),
    infer=gelu_type,
    doc="x times the normal distribution function of x (Hendrycks & Gimpel, 2016).",
)
_activation(
    "silu",
    lambda a, x: x * _np_sigmoid(x),
    lambda b, x, a: b.mul(x, b.sigmoid(x)),
    gradient=lambda b, dy, x, y, a: b.mul(dy, _silu_slope(b, x)),
    doc="x * sigmoid(x), 0 below -87.3, where the sigmoid would be subnormal.",
)
_activation(
    "softsign",
    lambda a, x: x / (1 + np.abs(x)),
    lambda b, x, a: b.div(x, b.add(b.abs(x), 1.0)),
    gradient=lambda b, dy, x, y, a: b.div(dy, b.mul(b.add(b.abs(x), 1.0), b.add(b.abs(x), 1.0))),
    doc="x / (1 + |x|).",
)


def _softplus(b: Builder, x: Value, a: Attributes) -> Value:
    scaled = x if a["beta"] == 1 else b.mul(x, a["beta"])
    soft = _stable_log1p_exp(b, scaled)
    soft = soft if a["beta"] == 1 else b.mul(soft, 1.0 / a["beta"])
    return soft if a["threshold"] is None else b.where(b.greater(scaled, a["threshold"]), x, soft)


def _softplus_gradient(b: Builder, dy: Value, x: Value, y: Value, a: Attributes) -> Value:
    scaled = x if a["beta"] == 1 else b.mul(x, a["beta"])
    soft = b.mul(dy, b.sigmoid(scaled))
    return soft if a["threshold"] is None else b.where(b.greater(scaled, a["threshold"]), dy, soft)


def _np_softplus_beta(a: Attributes, x: np.ndarray) -> np.ndarray:
    soft = _np_softplus(x * a["beta"]) / a["beta"]
    return soft if a["threshold"] is None else np.where(x * a["beta"] > a["threshold"], x, soft)


_activation(
    "softplus",
    _np_softplus_beta,
    _softplus,
    {
        "beta": _number(1.0, "sharpness; not 0"),
        "threshold": Attribute((float, type(None)), default=20.0, required=False, doc="x itself where beta*x is above"),
    },
    gradient=_softplus_gradient,
    infer=_not_zero("beta"),
    doc="log(1 + exp(beta * x)) / beta.",
)
_activation(
    "log_sigmoid",
    lambda a, x: -_np_softplus(-x),
    lambda b, x, a: b.sub(b.minimum(x, 0.0), b.log1p(b.exp(b.neg(b.abs(x))))),
    gradient=lambda b, dy, x, y, a: b.mul(dy, b.sigmoid(b.neg(x))),
    doc="log(sigmoid(x)).",
)
_activation(
    "mish",
    lambda a, x: x * np.tanh(_np_softplus(x)),
    lambda b, x, a: b.mul(x, b.tanh(b.softplus(x, threshold=None))),
    doc="x * tanh(softplus(x)).",
)


# -- piecewise linear ----------------------------------------------------------------------


_activation(
    "hard_sigmoid",
    lambda a, x: np.clip(a["alpha"] * x + a["beta"], 0, 1),
    lambda b, x, a: b.minimum(b.maximum(b.add(b.mul(x, a["alpha"]), a["beta"]), 0.0), 1.0),
    {"alpha": _number(1 / 6, "slope (ONNX's default is 0.2)"), "beta": _number(0.5, "offset")},
    gradient=lambda b, dy, x, y, a: b.mul(_between(b, y, 0.0, 1.0, dy, inclusive=False), a["alpha"]),
    doc="alpha * x + beta, clipped to [0, 1].",
)
_activation(
    "hard_swish",
    lambda a, x: x * np.clip(x / 6 + 0.5, 0, 1),
    lambda b, x, a: b.mul(x, b.hard_sigmoid(x)),
    doc="x * hard_sigmoid(x).",
)
_activation(
    "hard_tanh",
    lambda a, x: np.clip(x, a["low"], a["high"]),
    lambda b, x, a: b.minimum(b.maximum(x, a["low"]), a["high"]),
    {"low": _number(-1.0, "lower bound"), "high": _number(1.0, "upper bound")},
    gradient=lambda b, dy, x, y, a: _between(b, x, a["low"], a["high"], dy, inclusive=False),
    doc="x clipped to [low, high], with gradient 0 at the bounds.",
)


def clamp_vjp(b: Builder, dy: Value, node: Node) -> Value | None:
    """The cotangent where the operand is within the bounds, inclusive."""
    x, a = node.inputs[0], node.attributes
    if not x.type.dtype.is_float:
        return None
    if a["low"] is not None:
        dy = b.where(b.greater_equal(x, float(a["low"])), dy, 0.0)
    if a["high"] is not None:
        dy = b.where(b.less_equal(x, float(a["high"])), dy, 0.0)
    return dy


def clamp_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Any) -> tuple[Value, ...]:
    """Maximum with the lower, then minimum with the upper bound."""
    x = inputs[0]
    if a["low"] is not None:
        x = b.maximum(x, b.constant(a["low"], x.type.dtype))
    if a["high"] is not None:
        x = b.minimum(x, b.constant(a["high"], x.type.dtype))
    return (x,)


def clamp_evaluate(a: Attributes, x: np.ndarray) -> np.ndarray:
    """np.maximum and np.minimum in the operand's dtype."""
    x = x if a["low"] is None else np.maximum(x, np.asarray(a["low"]).astype(x.dtype))
    return x if a["high"] is None else np.minimum(x, np.asarray(a["high"]).astype(x.dtype))


def clamp_type(inputs: Types, attributes: Attributes) -> Types:
    """A tensor of numbers -> the same type; bounds must fit an integer dtype."""
    relu_type(inputs, attributes)
    dtype = inputs[0].dtype
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        for bound in (attributes["low"], attributes["high"]):
            if bound is not None and not (info.min <= bound <= info.max and float(bound).is_integer()):
                raise TypeRuleError(f"bound {bound} is not a value of {dtype}")
    return (TensorType(dtype, inputs[0].shape),)


_BOUND = Attribute((float, type(None)), default=None, required=False, doc="bound, or None")

register(
    OpDef(
        name="clamp",
        arity=1,
        infer=clamp_type,
        evaluate=clamp_evaluate,
        attributes={"low": _BOUND, "high": _BOUND},
        expand=clamp_expand,
        vjp=single_vjp(clamp_vjp),
        doc="x clipped to [low, high]; the upper bound wins where they cross.",
    )
)
