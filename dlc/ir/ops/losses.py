"""Losses: composites with PyTorch's definitions, stable for large logits, reduced to a scalar or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.reduce import broadcast_over
from dlc.ir.ops.rules import BOUND, check_axis, check_float, count_of, without, wrap_axis
from dlc.ir.types import TensorType, int64

_REDUCTION = Attribute((str,), default="mean", required=False, doc="'mean', 'sum' or 'none'")


def _result(t: TensorType, shape: tuple, attributes: Attributes) -> Types:
    reduction = attributes["reduction"]
    if reduction not in ("mean", "sum", "none"):
        raise TypeRuleError(f"reduction is {reduction!r}; it must be 'mean', 'sum' or 'none'")
    return (TensorType(t.dtype, shape if reduction == "none" else ()),)


def _reduce(b: Builder, x: Value, reduction: str) -> Value:
    """Emit the sum or mean over all elements, or ``x`` itself."""
    if reduction == "none":
        return x
    axes = tuple(range(x.type.rank))
    total = b.reduce_sum(x, axes=axes)
    return total if reduction == "sum" else b.div(total, count_of(b, x.type.shape, axes, x.type.dtype))


def _np_reduce(x: np.ndarray, reduction: str) -> np.ndarray:
    return x if reduction == "none" else np.asarray(x.sum() if reduction == "sum" else x.mean())


# -- elementwise losses ----------------------------------------------------------------------


def pair_type(inputs: Types, attributes: Attributes) -> Types:
    """(prediction T, target T of its shape) -> T, of rank 0 unless reduction is 'none'."""
    check_float(inputs)
    if inputs[0].shape != inputs[1].shape:
        raise TypeRuleError("prediction and target have different shapes; reshape or broadcast one of them")
    return _result(inputs[0], inputs[0].shape, attributes)


def _pair_loss(
    name: str,
    formula: Callable[[Attributes, np.ndarray, np.ndarray], np.ndarray],
    expansion: Callable[[Builder, Value, Value, Attributes], Value],
    doc: str,
    attributes: dict[str, Attribute] | None = None,
    check: Callable[[Attributes], None] | None = None,
) -> None:
    def infer(inputs: Types, a: Attributes) -> Types:
        if check is not None:
            check(a)
        return pair_type(inputs, a)

    def evaluate(a: Attributes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            each = formula(a, x.astype(np.float64), y.astype(np.float64))
            return _np_reduce(each, a["reduction"]).astype(x.dtype)

    def expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
        return (_reduce(b, expansion(b, inputs[0], inputs[1], a), a["reduction"]),)

    register(
        OpDef(
            name=name,
            arity=2,
            infer=infer,
            evaluate=evaluate,
            attributes={**(attributes or {}), "reduction": _REDUCTION},
            expand=expand,
            doc=doc,
        )
    )


def _check_positive(name: str, zero: bool) -> Callable[[Attributes], None]:
    def check(a: Attributes) -> None:
        if not (a[name] > 0 or (zero and a[name] == 0)):
            raise TypeRuleError(f"{name} is {a[name]}; it must be positive")

    return check


def _square(b: Builder, x: Value) -> Value:
    return b.mul(x, x)


def _smooth_l1(b: Builder, x: Value, y: Value, a: Attributes) -> Value:
    difference = b.sub(x, y)
    size, beta = b.abs(difference), a["beta"]
    if beta == 0:
        return size
    return b.where(b.less(size, beta), b.mul(_square(b, difference), 0.5 / beta), b.sub(size, 0.5 * beta))


def _np_smooth_l1(a: Attributes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size, beta = np.abs(x - y), a["beta"]
    return size if beta == 0 else np.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def _huber(b: Builder, x: Value, y: Value, a: Attributes) -> Value:
    difference = b.sub(x, y)
    size, delta = b.abs(difference), a["delta"]
    linear = b.mul(b.sub(size, 0.5 * delta), delta)
    return b.where(b.less_equal(size, delta), b.mul(_square(b, difference), 0.5), linear)


def _np_huber(a: Attributes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size, delta = np.abs(x - y), a["delta"]
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def _bce_with_logits(b: Builder, x: Value, y: Value, a: Attributes) -> Value:
    soft = b.log1p(b.exp(b.neg(b.abs(x))))
    return b.add(b.sub(b.maximum(x, 0.0), b.mul(x, y)), soft)


_pair_loss("mse_loss", lambda a, x, y: (x - y) ** 2, lambda b, x, y, a: _square(b, b.sub(x, y)), "Squared differences.")
_pair_loss("l1_loss", lambda a, x, y: np.abs(x - y), lambda b, x, y, a: b.abs(b.sub(x, y)), "Absolute differences.")
_pair_loss(
    "smooth_l1_loss",
    _np_smooth_l1,
    _smooth_l1,
    "Squares (over 2 beta) of differences below beta, absolute values (less beta / 2) above.",
    {"beta": Attribute((float,), default=1.0, required=False, doc="where the square ends; at least 0")},
    _check_positive("beta", zero=True),
)
_pair_loss(
    "huber_loss",
    _np_huber,
    _huber,
    "Half squares of differences up to delta, delta times absolute values (less delta / 2) above.",
    {"delta": Attribute((float,), default=1.0, required=False, doc="where the square ends; positive")},
    _check_positive("delta", zero=False),
)
_pair_loss(
    "bce_with_logits",
    lambda a, x, y: np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x))),
    _bce_with_logits,
    "Binary cross-entropy of sigmoid(prediction) against targets in [0, 1], without overflow.",
)


# -- classification --------------------------------------------------------------------------


def _class_axis(types: Types, a: Attributes) -> Attributes:
    """The classes are dimension 1, or 0 of a vector, as in PyTorch, unless ``axis`` says otherwise."""
    rank = types[0].rank
    return a.updated(axis=min(1, rank - 1) if a["axis"] is None else wrap_axis(a["axis"], rank))


def _check_labels(inputs: Types, a: Attributes, probabilities: bool) -> tuple:
    x, labels = inputs
    check_float(inputs[:1])
    axis = check_axis(a["axis"], x.rank)
    rest = without(x.shape, (axis,))
    if labels.dtype.is_integer:
        if labels.shape != rest:
            raise TypeRuleError(f"class labels have shape {list(labels.shape)}; they must have {list(rest)}")
    elif not probabilities or labels.dtype is not x.dtype or labels.shape != x.shape:
        wanted = " or probabilities of the logits' type" if probabilities else ""
        raise TypeRuleError(f"labels are {labels}; they must be integers of shape {list(rest)}{wanted}")
    if not -BOUND < a["ignore_index"] < BOUND:
        raise TypeRuleError(f"ignore_index {a['ignore_index']} is out of range")
    return rest


def nll_loss_type(inputs: Types, attributes: Attributes) -> Types:
    """(log-probabilities T, integer labels without the class axis) -> T."""
    return _result(inputs[0], _check_labels(inputs, attributes, probabilities=False), attributes)


def _picked(b: Builder, values: Value, labels: Value, axis: int) -> Value:
    """Emit the value of each label's class: the sum over classes of what equals the label (0 for no class)."""
    shape = values.type.shape
    spread = broadcast_over(b, labels, shape, (axis,))
    chosen = b.equal(spread, b.iota(shape=shape, axis=axis, dtype=int64))
    return b.reduce_sum(b.where(chosen, values, b.zeros_like(values)), axes=(axis,))


def _weigh(b: Builder, losses: Value, labels: Value, a: Attributes) -> Value:
    """Zero what is ignored, then reduce; the mean is over what is not ignored."""
    kept = b.not_equal(labels, a["ignore_index"])
    losses = b.where(kept, losses, b.zeros_like(losses))
    if a["reduction"] == "none":
        return losses
    total = b.reduce_sum(losses, axes=None)
    if a["reduction"] == "sum":
        return total
    return b.div(total, b.cast_to(b.reduce_sum(b.cast_to(kept, int64), axes=None), total.type.dtype))


def nll_loss_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Minus the log-probability of the label."""
    x, labels = inputs[0], b.cast_to(inputs[1], int64)
    return (_weigh(b, b.neg(_picked(b, x, labels, a["axis"])), labels, a),)


def _np_weigh(losses: np.ndarray, labels: np.ndarray, a: Attributes) -> np.ndarray:
    kept = labels != a["ignore_index"]
    losses = np.where(kept, losses, 0)
    if a["reduction"] == "mean":
        return np.asarray(losses.sum() / kept.sum())
    return _np_reduce(losses, a["reduction"])


def _np_picked(values: np.ndarray, labels: np.ndarray, axis: int) -> np.ndarray:
    labels = labels.astype(np.int64)
    known = (labels >= 0) & (labels < values.shape[axis])
    taken = np.take_along_axis(values, np.expand_dims(np.where(known, labels, 0), axis), axis)
    return np.where(known, np.squeeze(taken, axis), 0)


def nll_loss_evaluate(a: Attributes, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pick and weigh in float64."""
    with np.errstate(all="ignore"):
        losses = -_np_picked(x.astype(np.float64), labels, a["axis"])
        return _np_weigh(losses, labels, a).astype(x.dtype)


_LABEL_ATTRIBUTES = {
    "axis": Attribute((int, type(None)), default=None, required=False, doc="the axis of classes; default 1"),
    "reduction": _REDUCTION,
    "ignore_index": Attribute((int,), default=-100, required=False, doc="label of elements that do not count"),
}

register(
    OpDef(
        name="nll_loss",
        arity=2,
        infer=nll_loss_type,
        evaluate=nll_loss_evaluate,
        attributes=_LABEL_ATTRIBUTES,
        expand=nll_loss_expand,
        normalize=_class_axis,
        doc="Negative log-likelihood of integer labels under log-probabilities.",
    )
)


def cross_entropy_type(inputs: Types, attributes: Attributes) -> Types:
    """(logits T, integer labels without the class axis, or probabilities T) -> T."""
    if not 0 <= attributes["label_smoothing"] <= 1:
        raise TypeRuleError(f"label_smoothing is {attributes['label_smoothing']}; it must be between 0 and 1")
    return _result(inputs[0], _check_labels(inputs, attributes, probabilities=True), attributes)


def cross_entropy_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Log-softmax, then the label's (or the expected) negative log-probability."""
    logits, labels = inputs
    axis, smoothing = a["axis"], a["label_smoothing"]
    logs = b.log_softmax(logits, axis=axis)
    probabilities = labels.type.dtype.is_float
    labels = labels if probabilities else b.cast_to(labels, int64)
    if probabilities:
        losses = b.neg(b.reduce_sum(b.mul(logs, labels), axes=(axis,)))
    else:
        losses = b.neg(_picked(b, logs, labels, axis))
    if smoothing:
        count = count_of(b, logits.type.shape, (axis,), logits.type.dtype)
        uniform = b.div(b.neg(b.reduce_sum(logs, axes=(axis,))), count)
        losses = b.add(b.mul(losses, 1 - smoothing), b.mul(uniform, smoothing))
    if probabilities:
        return (_reduce(b, losses, a["reduction"]),)
    return (_weigh(b, losses, labels, a),)


def _element_weights(b: Builder, dy: Value, labels: Value, a: Attributes, rest: tuple) -> Value:
    """Emit d(result)/d(loss of each element) times ``dy``: what the reduction and ignored labels leave."""
    weights = dy
    if a["reduction"] == "mean" and labels.type.dtype.is_float:
        weights = b.div(dy, count_of(b, rest, tuple(range(len(rest))), dy.type.dtype))
    weights = b.broadcast_to(weights, rest)
    if labels.type.dtype.is_float:
        return weights
    kept = b.not_equal(labels, a["ignore_index"])
    if a["reduction"] == "mean":
        count = b.cast_to(b.reduce_sum(b.cast_to(kept, int64), axes=None), dy.type.dtype)
        weights = b.div(weights, b.broadcast_to(count, rest))
    return b.where(kept, weights, b.zeros_like(weights))


def cross_entropy_vjp(
    b: Builder, node: Node, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, Value | None]:
    """weight * (softmax(logits) * sum(target) - target), where the target is smoothed."""
    (dy,), (logits, labels), a = cotangents, node.inputs, node.attributes
    if dy is None:
        return None, None
    shape, axis, smoothing = logits.type.shape, a["axis"], a["label_smoothing"]
    probabilities = labels.type.dtype.is_float
    labels = labels if probabilities else b.cast_to(labels, int64)
    weights = _element_weights(b, dy, labels, a, without(shape, (axis,)))
    spread = broadcast_over(b, weights, shape, (axis,))
    softmax = b.softmax(logits, axis=axis)
    if probabilities:
        target = labels
        total = b.add(b.mul(b.reduce_sum(labels, axes=(axis,)), 1 - smoothing), smoothing)
        softmax = b.mul(softmax, broadcast_over(b, total, shape, (axis,)))
    else:
        places = b.iota(shape=shape, axis=axis, dtype=int64)
        target = b.cast_to(b.equal(broadcast_over(b, labels, shape, (axis,)), places), logits.type.dtype)
    if smoothing:
        share = b.div(b.constant(smoothing, logits.type.dtype), count_of(b, shape, (axis,), logits.type.dtype))
        target = b.add(b.mul(target, 1 - smoothing), share)
    gradient = b.mul(spread, b.sub(softmax, target))
    if not probabilities:
        return gradient, None
    return gradient, b.mul(b.mul(spread, b.log_softmax(logits, axis=axis)), smoothing - 1)


def cross_entropy_evaluate(a: Attributes, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The definition in float64."""
    x, axis, smoothing = logits.astype(np.float64), a["axis"], a["label_smoothing"]
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis, keepdims=True, initial=-np.inf)
        logs = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
        if labels.dtype.kind in "iu":
            losses = -_np_picked(logs, labels, axis)
        else:
            losses = -(logs * labels).sum(axis)
        losses = (1 - smoothing) * losses - smoothing * logs.mean(axis)
        if labels.dtype.kind in "iu":
            return _np_weigh(losses, labels, a).astype(logits.dtype)
        return _np_reduce(losses, a["reduction"]).astype(logits.dtype)


register(
    OpDef(
        name="cross_entropy",
        arity=2,
        infer=cross_entropy_type,
        evaluate=cross_entropy_evaluate,
        attributes={
            **_LABEL_ATTRIBUTES,
            "label_smoothing": Attribute((float,), default=0.0, required=False, doc="weight of the uniform target"),
        },
        expand=cross_entropy_expand,
        vjp=cross_entropy_vjp,
        normalize=_class_axis,
        doc="Cross-entropy of softmax(logits) against integer labels or probabilities.",
    )
)
