"""Standardising over axes: the core of layer, group and batch norm, with the closed form of its gradient.

Differentiated as a composite: the chain rule over its parts would read the tensor once more per statistic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.reduce import broadcast_over, reduced_shape
from dlc.ir.ops.rules import check_axes, check_float, count_of, normalize_axes
from dlc.ir.types import TensorType


def mean_over(b: Builder, x: Value, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """Emit the mean of ``x`` along ``axes``."""
    total = b.reduce_sum(x, axes=axes, keepdims=keepdims)
    return b.div(total, count_of(b, x.type.shape, axes, x.type.dtype))


def standardize_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> the same type, and twice that type without ``axes``."""
    check_float(inputs)
    x = inputs[0]
    statistic = TensorType(x.dtype, reduced_shape(x.shape, check_axes(attributes["axes"], x.rank), False))
    return x, statistic, statistic


def standardize_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """(x - mean) / sqrt(variance + epsilon); the variance takes a pass of its own."""
    x, axes = inputs[0], a["axes"]
    mean = mean_over(b, x, axes)
    centred = b.sub(x, broadcast_over(b, mean, x.type.shape, axes))
    variance = mean_over(b, b.mul(centred, centred), axes)
    inverse = b.rsqrt(b.add(variance, a["epsilon"]))
    return b.mul(centred, broadcast_over(b, inverse, x.type.shape, axes)), mean, variance


def standardize_vjp(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    """(dy - mean(dy) - y * mean(dy * y)) / deviation, plus what the two statistics receive."""
    (x,), (y, mean, variance), axes = node.inputs, node.outputs, node.attributes["axes"]
    dy, d_mean, d_variance = cotangents
    shape = x.type.shape

    def spread(statistic: Value) -> Value:
        return broadcast_over(b, statistic, shape, axes)

    parts: list[Value] = []
    if dy is not None:
        inverse = b.rsqrt(b.add(variance, node.attributes["epsilon"]))
        along = b.mul(y, spread(mean_over(b, b.mul(dy, y), axes)))
        rest = b.sub(b.sub(dy, spread(mean_over(b, dy, axes))), along)
        parts.append(b.mul(rest, spread(inverse)))
    count = count_of(b, shape, axes, x.type.dtype)
    if d_mean is not None:
        parts.append(spread(b.div(d_mean, count)))
    if d_variance is not None:
        centred = b.sub(x, spread(mean))
        parts.append(b.mul(centred, spread(b.div(b.mul(d_variance, 2.0), count))))
    total: Value | None = None
    for part in parts:
        total = part if total is None else b.add(total, part)
    return (total,)


def standardize_evaluate(a: Attributes, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The formula in float64."""
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        mean, variance = wide.mean(a["axes"], keepdims=True), wide.var(a["axes"], keepdims=True)
        y = (wide - mean) / np.sqrt(variance + a["epsilon"])
    shape = reduced_shape(x.shape, a["axes"], False)
    return y.astype(x.dtype), mean.reshape(shape).astype(x.dtype), variance.reshape(shape).astype(x.dtype)


register(
    OpDef(
        name="standardize",
        arity=1,
        infer=standardize_type,
        evaluate=standardize_evaluate,
        attributes={
            "axes": Attribute(
                (int, type(None)), many=True, default=-1, required=False, doc="the axes to normalise over"
            ),
            "epsilon": Attribute((float,), default=1e-5, required=False, doc="added to the variance"),
        },
        expand=standardize_expand,
        vjp=standardize_vjp,
        normalize=normalize_axes,
        doc="Zero mean and unit (biased) variance over axes: x -> (y, mean, variance).",
    )
)
