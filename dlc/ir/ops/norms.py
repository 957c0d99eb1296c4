"""Softmax and normalisations: composites of reductions and elementwise ops.

Softmax subtracts the maximum, variances take two passes, so that large offsets do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.dims import Shape, exact_quotient
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Trait, Types, register
from dlc.ir.ops.activations import in_float64
from dlc.ir.ops.reduce import broadcast_over, reduced_shape
from dlc.ir.ops.rules import (
    check_axes,
    check_axis,
    check_float,
    count_of,
    normalize_axes,
    normalize_axis,
    single_vjp,
    without,
    wrap_axis,
)
from dlc.ir.ops.standardize import mean_over
from dlc.ir.types import TensorType

_AXIS = Attribute((int,), default=-1, required=False, doc="the axis to normalise along")
_AXES = Attribute((int, type(None)), many=True, default=-1, required=False, doc="the axes to normalise over")


def _epsilon(default: float = 1e-5) -> Attribute:
    return Attribute((float,), default=default, required=False, doc="added to the variance")


def along(b: Builder, value: Value, shape: Shape, axes: Sequence[int]) -> Value:
    """Repeat ``value``, whose dimensions are ``axes`` of ``shape``, along all others."""
    return b.broadcast(value, shape=shape, dims=tuple(axes)) if len(axes) != len(shape) else value


# -- softmax family --------------------------------------------------------------------------


def axis_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> the same type."""
    check_float(inputs)
    check_axis(attributes["axis"], inputs[0].rank)
    return (inputs[0],)


def _shifted(b: Builder, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value]:
    """Emit x minus its maximum along ``axes``, and that maximum; the maximum is a constant for gradients."""
    top = b.stop_gradient(b.reduce_max(x, axes=axes))
    return b.sub(x, broadcast_over(b, top, x.type.shape, axes)), top


def softmax_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """exp(x - max) over its sum."""
    x, axes = inputs[0], (a["axis"],)
    power = b.exp(_shifted(b, x, axes)[0])
    total = b.reduce_sum(power, axes=axes)
    return (b.div(power, broadcast_over(b, total, x.type.shape, axes)),)


def softmax_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """y * (dy - sum(dy * y))."""
    y, axes = node.outputs[0], (node.attributes["axis"],)
    inner = b.reduce_sum(b.mul(dy, y), axes=axes)
    return b.mul(y, b.sub(dy, broadcast_over(b, inner, y.type.shape, axes)))


def _np_softmax(a: Attributes, x: np.ndarray) -> np.ndarray:
    if x.size == 0:
        return x
    power = np.exp(x - x.max(a["axis"], keepdims=True))
    return power / power.sum(a["axis"], keepdims=True)


register(
    OpDef(
        name="softmax",
        arity=1,
        infer=axis_type,
        evaluate=in_float64(_np_softmax),
        attributes={"axis": _AXIS},
        expand=softmax_expand,
        vjp=single_vjp(softmax_vjp),
        normalize=normalize_axis,
        doc="exp(x) divided by its sum along an axis.",
    )
)


def log_softmax_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """(x - max) - log(sum(exp(x - max)))."""
    x, axes = inputs[0], (a["axis"],)
    shifted, _ = _shifted(b, x, axes)
    total = b.log(b.reduce_sum(b.exp(shifted), axes=axes))
    return (b.sub(shifted, broadcast_over(b, total, x.type.shape, axes)),)


def log_softmax_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """dy - softmax(x) * sum(dy)."""
    y, axes = node.outputs[0], (node.attributes["axis"],)
    total = b.reduce_sum(dy, axes=axes)
    return b.sub(dy, b.mul(b.exp(y), broadcast_over(b, total, y.type.shape, axes)))


def _np_log_softmax(a: Attributes, x: np.ndarray) -> np.ndarray:
    if x.size == 0:
        return x
    shifted = x - x.max(a["axis"], keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(a["axis"], keepdims=True))


register(
    OpDef(
        name="log_softmax",
        arity=1,
        infer=axis_type,
        evaluate=in_float64(_np_log_softmax),
        attributes={"axis": _AXIS},
        expand=log_softmax_expand,
        vjp=single_vjp(log_softmax_vjp),
        normalize=normalize_axis,
        doc="The logarithm of softmax, without overflow.",
    )
)


def logsumexp_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> that dtype without (or with extent 1 along) ``axes``."""
    check_float(inputs)
    axes = check_axes(attributes["axes"], inputs[0].rank)
    return (TensorType(inputs[0].dtype, reduced_shape(inputs[0].shape, axes, attributes["keepdims"])),)


def logsumexp_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """max + log(sum(exp(x - max))); an infinite maximum is not subtracted."""
    x, axes = inputs[0], a["axes"]
    top = b.stop_gradient(b.reduce_max(x, axes=axes))
    top = b.where(b.is_inf(top), 0.0, top)
    total = b.reduce_sum(b.exp(b.sub(x, broadcast_over(b, top, x.type.shape, axes))), axes=axes)
    y = b.add(b.log(total), top)
    return (b.reshape_to(y, reduced_shape(x.type.shape, axes, a["keepdims"])),)


def logsumexp_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """dy * exp(x - y)."""
    x, y, a = node.inputs[0], node.outputs[0], node.attributes
    spread = broadcast_over(b, y, x.type.shape, a["axes"], a["keepdims"])
    finite = b.where(b.is_inf(spread), 0.0, spread)
    return b.mul(broadcast_over(b, dy, x.type.shape, a["axes"], a["keepdims"]), b.exp(b.sub(x, finite)))


def _np_logsumexp(a: Attributes, x: np.ndarray) -> np.ndarray:
    top = np.max(x, a["axes"], keepdims=True, initial=-np.inf)
    top = np.where(np.isinf(top), 0, top)
    total = np.log(np.sum(np.exp(x - top), a["axes"], keepdims=True)) + top
    return total if a["keepdims"] else total.reshape(without(x.shape, a["axes"]))


register(
    OpDef(
        name="logsumexp",
        arity=1,
        infer=logsumexp_type,
        evaluate=in_float64(_np_logsumexp),
        attributes={
            "axes": Attribute(
                (int, type(None)), many=True, default=None, required=False, doc="the axes to reduce; default all"
            ),
            "keepdims": Attribute((bool,), default=False, required=False, doc="keep reduced axes with extent 1"),
        },
        expand=logsumexp_expand,
        vjp=single_vjp(logsumexp_vjp),
        normalize=normalize_axes,
        doc="log(sum(exp(x))) along axes, without overflow.",
    )
)


# -- layer, RMS and group norm -----------------------------------------------------------------


def _check_affine(inputs: Types, axes: tuple[int, ...]) -> None:
    wanted = tuple(inputs[0].shape[a] for a in axes)
    for t in inputs[1:]:
        if t.shape != wanted:
            raise TypeRuleError(f"scale and bias must have shape {list(wanted)}, not {list(t.shape)}")


def layer_norm_type(inputs: Types, attributes: Attributes) -> Types:
    """(T, scale and bias T of the normalised dimensions' shape) -> T."""
    check_float(inputs)
    _check_affine(inputs, check_axes(attributes["axes"], inputs[0].rank))
    return (inputs[0],)


def layer_norm_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Standardise over ``axes``, then scale and shift."""
    x, scale, bias = inputs
    shape, axes = x.type.shape, a["axes"]
    y, _, _ = b.standardize(x, axes=axes, epsilon=a["epsilon"])
    return (b.add(b.mul(y, along(b, scale, shape, axes)), along(b, bias, shape, axes)),)


def _np_along(value: np.ndarray, rank: int, axes: Sequence[int]) -> np.ndarray:
    extents = iter(value.shape)
    return value.reshape([next(extents) if k in axes else 1 for k in range(rank)])


def _np_standardize(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def _np_layer_norm(a: Attributes, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    y = _np_standardize(x, a["axes"], a["epsilon"])
    return y * _np_along(scale, x.ndim, a["axes"]) + _np_along(bias, x.ndim, a["axes"])


register(
    OpDef(
        name="layer_norm",
        arity=3,
        infer=layer_norm_type,
        evaluate=in_float64(_np_layer_norm),
        attributes={"axes": _AXES, "epsilon": _epsilon()},
        expand=layer_norm_expand,
        normalize=normalize_axes,
        doc="Zero mean and unit (biased) variance over axes, then scale (operand 1) and bias (operand 2).",
    )
)


def rms_norm_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    x, scale = inputs
    inverse = b.rsqrt(b.add(mean_over(b, b.mul(x, x), a["axes"]), a["epsilon"]))
    y = b.mul(x, broadcast_over(b, inverse, x.type.shape, a["axes"]))
    return (b.mul(y, along(b, scale, x.type.shape, a["axes"])),)


def _np_rms_norm(a: Attributes, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.mean(x * x, a["axes"], keepdims=True) + a["epsilon"])
    return x / size * _np_along(scale, x.ndim, a["axes"])


register(
    OpDef(
        name="rms_norm",
        arity=2,
        infer=layer_norm_type,
        evaluate=in_float64(_np_rms_norm),
        attributes={"axes": _AXES, "epsilon": _epsilon()},
        expand=rms_norm_expand,
        normalize=normalize_axes,
        doc="Unit root mean square over axes, then scale (operand 1).",
    )
)


def group_norm_type(inputs: Types, attributes: Attributes) -> Types:
    """(T with batch axis 0, scale and bias T of one element per channel) -> T."""
    check_float(inputs)
    axis, groups = check_axis(attributes["channel_axis"], inputs[0].rank, "channel_axis"), attributes["groups"]
    if axis == 0:
        raise TypeRuleError("channel_axis is 0, which is the batch")
    if groups < 1 or exact_quotient(inputs[0].shape[axis], groups) is None:
        raise TypeRuleError(f"{inputs[0].shape[axis]} channels do not divide into {groups} groups")
    _check_affine(inputs, (axis,))
    return (inputs[0],)


def _grouped_shape(shape: Sequence[Any], axis: int, groups: int) -> tuple[tuple, tuple[int, ...]]:
    """Return the shape with channels split into (groups, rest), and the axes to normalise over."""
    split = (*shape[:axis], groups, exact_quotient(shape[axis], groups), *shape[axis + 1 :])
    return split, tuple(k for k in range(1, len(split)) if k != axis)


def group_norm_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Split the channels, standardise each group, then scale and shift by channel."""
    x, scale, bias = inputs
    shape, axis = x.type.shape, a["channel_axis"]
    split, axes = _grouped_shape(shape, axis, a["groups"])
    y = b.reshape_to(b.standardize(b.reshape_to(x, split), axes=axes, epsilon=a["epsilon"])[0], shape)
    return (b.add(b.mul(y, along(b, scale, shape, (axis,))), along(b, bias, shape, (axis,))),)


def _np_group_norm(a: Attributes, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    split, axes = _grouped_shape(x.shape, a["channel_axis"], a["groups"])
    y = _np_standardize(x.reshape(split), axes, a["epsilon"]).reshape(x.shape)
    return y * _np_along(scale, x.ndim, (a["channel_axis"],)) + _np_along(bias, x.ndim, (a["channel_axis"],))


register(
    OpDef(
        name="group_norm",
        arity=3,
        infer=group_norm_type,
        evaluate=in_float64(_np_group_norm),
        attributes={
            "groups": Attribute((int,), doc="number of groups"),
            "channel_axis": Attribute((int,), default=1, required=False, doc="the axis of channels"),
            "epsilon": _epsilon(),
        },
        expand=group_norm_expand,
        normalize=lambda types, a: a.updated(channel_axis=wrap_axis(a["channel_axis"], types[0].rank, "channel_axis")),
        doc="Zero mean and unit variance over each group of channels of each sample, then scale and bias by channel.",
    )
)


# -- batch norm --------------------------------------------------------------------------------


def batch_norm_type(inputs: Types, attributes: Attributes) -> Types:
    """(T, scale, bias, mean, var: one T per channel) -> T, new mean, new variance."""
    check_float(inputs)
    _check_affine(inputs, (check_axis(attributes["axis"], inputs[0].rank),))
    return inputs[0], inputs[3], inputs[4]


def batch_norm_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Inference: one multiply and add by running statistics. Training: batch statistics.

    These also move the running statistics (the variance unbiased), as in PyTorch.
    """
    x, scale, bias, mean, variance = inputs
    shape, channel, momentum = x.type.shape, (a["axis"],), a["momentum"]
    if mode is Mode.INFERENCE:
        factor = b.mul(scale, b.rsqrt(b.add(variance, a["epsilon"])))
        offset = b.sub(bias, b.mul(mean, factor))
        return b.add(b.mul(x, along(b, factor, shape, channel)), along(b, offset, shape, channel)), mean, variance
    axes = tuple(k for k in range(len(shape)) if k not in channel)
    y, batch_mean, batch_variance = b.standardize(x, axes=axes, epsilon=a["epsilon"])
    y = b.add(b.mul(y, along(b, scale, shape, channel)), along(b, bias, shape, channel))
    count = count_of(b, shape, axes, x.type.dtype)
    unbiased = b.mul(batch_variance, b.div(count, b.maximum(b.sub(count, 1.0), 1.0)))
    new_mean = b.add(b.mul(mean, 1 - momentum), b.mul(batch_mean, momentum))
    new_variance = b.add(b.mul(variance, 1 - momentum), b.mul(unbiased, momentum))
    return y, b.stop_gradient(new_mean), b.stop_gradient(new_variance)


def batch_norm_evaluate(
    a: Attributes, x: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inference form."""
    wide = [_np_along(v.astype(np.float64), x.ndim, (a["axis"],)) for v in (scale, bias, mean, variance)]
    with np.errstate(all="ignore"):
        y = (x.astype(np.float64) - wide[2]) / np.sqrt(wide[3] + a["epsilon"]) * wide[0] + wide[1]
    return y.astype(x.dtype), mean, variance


register(
    OpDef(
        name="batch_norm",
        arity=5,
        infer=batch_norm_type,
        evaluate=batch_norm_evaluate,
        attributes={
            "axis": Attribute((int,), default=1, required=False, doc="the axis of channels"),
            "epsilon": _epsilon(),
            "momentum": Attribute((float,), default=0.1, required=False, doc="weight of the batch in new statistics"),
        },
        expand=batch_norm_expand,
        normalize=normalize_axis,
        traits=frozenset({Trait.MODAL}),
        doc="Normalisation by channel: (x, scale, bias, mean, var) -> (y, new mean, new var). In training by the "
        "batch's statistics, in inference by the running ones, which then stay as they are.",
    )
)


# -- local response and Lp norm ----------------------------------------------------------------


def local_response_norm_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> the same type."""
    if not 1 <= attributes["size"] < 2**16:
        raise TypeRuleError(f"size is {attributes['size']}; it must be at least 1 (and below 65536)")
    return axis_type(inputs, attributes)


def local_response_norm_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """x / (bias + alpha / size * sum of squares in a window of channels) ** beta."""
    x, rank, size = inputs[0], inputs[0].type.rank, a["size"]

    def only(value: int, other: int) -> tuple[int, ...]:
        return tuple(value if k == a["axis"] else other for k in range(rank))

    zero = b.constant(0, x.type.dtype)
    squares = b.pad(b.mul(x, x), zero, low=only((size - 1) // 2, 0), high=only(size // 2, 0), interior=0)
    total = b.reduce_window(squares, combiner="add", window=only(size, 1), strides=1, dilations=1)
    base = b.add(b.mul(total, a["alpha"] / size), a["bias"])
    if a["alpha"] < 0 or a["bias"] < 0 or a["beta"] not in (0.25, 0.5, 0.75):
        return (b.div(x, b.pow(base, a["beta"])),)
    root = b.sqrt(base)  # of what is not negative two roots take a third of a power's time
    power = root if a["beta"] == 0.5 else b.sqrt(root)
    return (b.div(x, b.mul(root, power) if a["beta"] == 0.75 else power),)


def _np_local_response_norm(a: Attributes, x: np.ndarray) -> np.ndarray:
    squares = np.moveaxis(x * x, a["axis"], 0)
    total = np.zeros_like(squares)
    for channel in range(squares.shape[0]):
        first = max(0, channel - (a["size"] - 1) // 2)
        total[channel] = squares[first : channel + a["size"] // 2 + 1].sum(0)
    return x / (a["bias"] + a["alpha"] / a["size"] * np.moveaxis(total, 0, a["axis"])) ** a["beta"]


register(
    OpDef(
        name="local_response_norm",
        arity=1,
        infer=local_response_norm_type,
        evaluate=in_float64(_np_local_response_norm),
        attributes={
            "size": Attribute((int,), doc="channels in a window"),
            "alpha": Attribute((float,), default=1e-4, required=False, doc="weight of the squares' mean"),
            "beta": Attribute((float,), default=0.75, required=False, doc="exponent"),
            "bias": Attribute((float,), default=1.0, required=False, doc="added to the weighted mean"),
            "axis": Attribute((int,), default=1, required=False, doc="the axis of channels"),
        },
        expand=local_response_norm_expand,
        normalize=normalize_axis,
        doc="Division by a power of the mean square over neighbouring channels (Krizhevsky et al., 2012).",
    )
)


def lp_norm_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> the same type."""
    if attributes["p"] not in (1, 2):
        raise TypeRuleError(f"p is {attributes['p']}; it must be 1 or 2")
    return axis_type(inputs, attributes)


def lp_norm_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """x over its norm; zero vectors stay zero."""
    x, axes = inputs[0], (a["axis"],)
    total = b.reduce_sum(b.abs(x) if a["p"] == 1 else b.mul(x, x), axes=axes)
    empty = b.equal(total, 0.0)
    safe = b.where(empty, 1.0, total)
    inverse = b.reciprocal(safe) if a["p"] == 1 else b.rsqrt(safe)
    return (b.mul(x, broadcast_over(b, inverse, x.type.shape, axes)),)


def _np_lp_norm(a: Attributes, x: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x, a["p"], a["axis"], keepdims=True)
    return x / np.where(size == 0, 1, size)


register(
    OpDef(
        name="lp_norm",
        arity=1,
        infer=lp_norm_type,
        evaluate=in_float64(_np_lp_norm),
        attributes={"axis": _AXIS, "p": Attribute((int,), default=2, required=False, doc="1 or 2")},
        expand=lp_norm_expand,
        normalize=normalize_axis,
        doc="Division by the L1 or L2 norm along an axis; zero vectors stay zero.",
    )
)
