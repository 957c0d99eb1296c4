"""Losses (``dlc.losses``) by the names of outputs and targets, with PyTorch's definitions and defaults.

Each is a frozen description that follows the Loss protocol: the training-step pass calls it to emit nodes. A
target that the graph does not declare becomes an input of role target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dlc.errors import ConfigError, TypeRuleError
from dlc.frontends.graph.promotion import normalize_axis
from dlc.frontends.graph.scope import Graph
from dlc.frontends.graph.tensor import Tensor
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.training import Lookup, Loss
from dlc.ir.types import TensorType, bool_, int64

Result = tuple[Value, Mapping[str, Value]]


@dataclass(frozen=True)
class CrossEntropy:
    """See ``cross_entropy``."""

    output: str
    target: str
    label_smoothing: float = 0.0
    ignore_index: int | None = -100
    axis: int | None = None
    probabilities: bool = False
    reduction: str = "mean"

    def __call__(self, builder: Builder, lookup: Lookup) -> Result:
        """Emit the loss and the accuracy."""
        logits = lookup(self.output)
        type_ = logits.type
        _check_float(type_, self.output, "cross_entropy")
        if type_.rank == 0:
            raise TypeRuleError(f"cross_entropy needs a dimension of classes; {self.output!r} is {type_}")
        axis = normalize_axis(self.axis if self.axis is not None else min(1, type_.rank - 1), type_.rank)
        indices = TensorType(int64, (*type_.shape[:axis], *type_.shape[axis + 1 :]))
        labels = lookup(self.target, type_ if self.probabilities else indices)
        if labels.type.dtype.is_float and labels.type.shape == type_.shape:
            return self._of_probabilities(builder, logits, labels, axis)
        if not labels.type.dtype.is_integer or labels.type.shape != indices.shape:
            raise TypeRuleError(
                f"cross_entropy: {self.target!r} is {labels.type}; for {self.output!r} ({type_}) it must hold class "
                f"indices ({indices}) or probabilities ({type_})"
            )
        return self._of_indices(builder, logits, labels, axis)

    def _emit(self, b: Builder, logits: Value, labels: Value, axis: int) -> Value:
        ignored = {} if self.ignore_index is None else {"ignore_index": self.ignore_index}
        smoothing = float(self.label_smoothing)
        return b.cross_entropy(
            logits, labels, axis=axis, label_smoothing=smoothing, reduction=self.reduction, **ignored
        )

    def _of_indices(self, b: Builder, logits: Value, labels: Value, axis: int) -> Result:
        dtype = logits.type.dtype
        predicted, labels = b.argmax(logits, axis=axis, keepdims=False), b.cast_to(labels, int64)
        hits = b.cast_to(b.equal(predicted, labels), dtype)
        loss = self._emit(b, logits, labels, axis)
        if self.ignore_index is None:
            return loss, {"accuracy": _mean(b, hits)}
        weight = b.cast_to(b.not_equal(labels, b.constant(self.ignore_index, labels.type.dtype)), dtype)
        return loss, {"accuracy": b.div(_sum(b, b.mul(hits, weight)), _sum(b, weight))}

    def _of_probabilities(self, b: Builder, logits: Value, target: Value, axis: int) -> Result:
        target = b.cast_to(target, logits.type.dtype)
        hits = b.equal(b.argmax(logits, axis=axis, keepdims=False), b.argmax(target, axis=axis, keepdims=False))
        return self._emit(b, logits, target, axis), {"accuracy": _mean(b, b.cast_to(hits, logits.type.dtype))}


@dataclass(frozen=True)
class Elementwise:
    """A loss of two tensors of one shape: the op ``op`` with ``options``; see ``mse`` and its like."""

    op: str
    output: str
    target: str
    reduction: str = "mean"
    options: tuple[tuple[str, float], ...] = ()
    binary: bool = False

    def __call__(self, builder: Builder, lookup: Lookup) -> Result:
        """Emit the loss; of binary targets also the accuracy."""
        output = lookup(self.output)
        _check_float(output.type, self.output, self.op)
        target = lookup(self.target, output.type)
        if target.type.shape != output.type.shape:
            raise TypeRuleError(
                f"{self.op}: {self.output!r} is {output.type}, {self.target!r} is {target.type}; shapes must agree"
            )
        dtype = output.type.dtype
        metrics: dict[str, Value] = {}
        if self.binary:
            positive = builder.greater(output, builder.constant(0.0, dtype))
            truth = target
            if target.type.dtype is not bool_:
                truth = builder.greater(builder.cast_to(target, dtype), builder.constant(0.5, dtype))
            metrics["accuracy"] = _mean(builder, builder.cast_to(builder.equal(positive, truth), dtype))
        operands = (output, builder.cast_to(target, dtype))
        return builder.call(self.op, *operands, reduction=self.reduction, **dict(self.options)), metrics


@dataclass(frozen=True)
class GraphOutput:
    """See ``output``."""

    name: str

    def __call__(self, builder: Builder, lookup: Lookup) -> Result:
        """Return the output."""
        return lookup(self.name), {}


@dataclass(frozen=True)
class Custom:
    """See ``custom``."""

    function: Callable[..., Any]
    names: tuple[str, ...]

    def __call__(self, builder: Builder, lookup: Lookup) -> Result:
        """Call the function on tensors and return its result."""
        with Graph.around(builder) as graph:
            tensors = [Tensor(lookup(name), graph, graph.root) for name in self.names]
            returned = self.function(*tensors)
        loss, metrics = returned if isinstance(returned, tuple) else (returned, {})
        if not isinstance(loss, Tensor) or not all(isinstance(m, Tensor) for m in metrics.values()):
            raise TypeRuleError("a custom loss returns a rank-0 tensor, or such a tensor and a dict of metric tensors")
        return loss.value, {name: metric.value for name, metric in metrics.items()}


def cross_entropy(
    output: str,
    target: str,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = -100,
    axis: int | None = None,
    probabilities: bool = False,
    reduction: str = "mean",
) -> Loss:
    """Cross entropy of the logits ``output`` and the classes ``target``; gives the metric ``accuracy``.

    ``target`` holds class indices (int64, the shape of ``output`` without the classes), or, with ``probabilities`` or
    if the graph declares it so, probabilities of the shape of ``output``. Classes lie along ``axis``: by default
    dimension 1, as in PyTorch (0 of a vector). Targets equal to ``ignore_index`` do not count (None: all do).
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ConfigError(f"cross_entropy: label_smoothing is {label_smoothing}; it must be between 0 and 1")
    return CrossEntropy(output, target, label_smoothing, ignore_index, axis, probabilities, _reduction(reduction))


def mse(output: str, target: str, *, reduction: str = "mean") -> Loss:
    """Mean (or sum) of squared differences."""
    return Elementwise("mse_loss", output, target, _reduction(reduction))


def l1(output: str, target: str, *, reduction: str = "mean") -> Loss:
    """Mean (or sum) of absolute differences."""
    return Elementwise("l1_loss", output, target, _reduction(reduction))


def huber(output: str, target: str, *, delta: float = 1.0, reduction: str = "mean") -> Loss:
    """Squared differences (halved) below ``delta``, linear above: PyTorch's HuberLoss."""
    if not delta > 0:
        raise ConfigError(f"huber: delta is {delta}; it must be positive")
    return Elementwise("huber_loss", output, target, _reduction(reduction), (("delta", float(delta)),))


def smooth_l1(output: str, target: str, *, beta: float = 1.0, reduction: str = "mean") -> Loss:
    """Huber loss divided by ``beta``: PyTorch's SmoothL1Loss."""
    if not beta > 0:
        raise ConfigError(f"smooth_l1: beta is {beta}; it must be positive, or use l1")
    return Elementwise("smooth_l1_loss", output, target, _reduction(reduction), (("beta", float(beta)),))


def bce_with_logits(output: str, target: str, *, reduction: str = "mean") -> Loss:
    """Binary cross entropy of logits and targets in [0, 1]; gives the metric ``accuracy``."""
    return Elementwise("bce_with_logits", output, target, _reduction(reduction), binary=True)


def output(name: str) -> Loss:
    """Take the rank-0 output ``name`` of the graph as the loss."""
    return GraphOutput(name)


def custom(function: Callable[..., Any], *names: str) -> Loss:
    """Make a loss of a function of tensors: ``custom(lambda y, t: dlc.mean((y - t) ** 4), "y", "t")``.

    ``names`` are outputs or inputs of the graph; targets must be declared by ``dlc.input(..., role="target")``. The
    function returns a rank-0 tensor, or such a tensor and a dict of rank-0 metrics.
    """
    return Custom(function, names)


def _reduction(reduction: str) -> str:
    if reduction not in ("mean", "sum"):
        raise ConfigError(f'reduction {reduction!r} is unknown; a loss that is trained is a "mean" or "sum"')
    return reduction


def _check_float(type_: TensorType, name: str, loss: str) -> None:
    if not type_.dtype.is_float:
        raise TypeRuleError(f"{loss} takes floating-point outputs; {name!r} is {type_}")


def _sum(b: Builder, value: Value) -> Value:
    return b.reduce_sum(value, axes=tuple(range(value.type.rank)), keepdims=False) if value.type.rank else value


def _mean(b: Builder, value: Value) -> Value:
    if value.type.rank == 0:
        return value
    size = value.type.size
    count = (
        b.constant(float(size), value.type.dtype)
        if isinstance(size, int)
        else b.cast_to(b.dimension(size=size), value.type.dtype)
    )
    return b.div(_sum(b, value), count)
