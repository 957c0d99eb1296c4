"""Composing a training step: forward, loss, gradients, clipping and updates in one graph.

Losses and optimizers come as the protocols of ``ir.training``. Everything that
persists between steps is an input with a replacement: parameters, the
optimizer's state, running statistics, random keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlc.errors import GraphError, NotDifferentiableError
from dlc.ir.builder import Builder, promote
from dlc.ir.graph import Graph, Origin, Phase, Role, Signature, Value
from dlc.ir.opdef import Mode
from dlc.ir.training import Clipping, Lookup, Loss, Optimizer
from dlc.ir.types import TensorType, as_dtype
from dlc.passes.autodiff.autodiff import gradients, has_own_vjp
from dlc.passes.expand import ExpandOptions, expand


@dataclass(frozen=True)
class TrainOptions:
    """``trainable`` names the parameters to train; None takes those marked as trainable."""

    loss: Loss
    optimizer: Optimizer
    clipping: Clipping | None = None
    trainable: Sequence[str] | None = None


def train_step(graph: Graph, options: TrainOptions) -> Graph:
    """Compose the graph of one training step from the graph of a model.

    Its results are ``loss`` and the metrics, all rank 0. Its inputs are those of the model, targets that the loss
    declares, STATE inputs ``optimizer:<name>`` (rank 0) and ``<parameter>:<key>``; trained parameters and state
    name their replacements. A parameter that the loss does not depend on is left as it is, as PyTorch does.
    Raises GraphError for unknown names and NotDifferentiableError where a float path has no derivative.
    """
    graph = expand(graph, ExpandOptions(Mode.TRAINING, keep=has_own_vjp))
    parameters = trained_parameters(graph, options.trainable)
    builder, loss, metrics = _emit_loss(graph, options.loss)
    found = gradients(builder, loss, [value for _, value in parameters], mode=Mode.TRAINING)
    trained = [(name, p, g) for (name, p), g in zip(parameters, found, strict=True) if g is not None]
    if not trained:
        names = ", ".join(name for name, _ in parameters)
        raise GraphError(f"graph {graph.name!r}: the loss depends on none of the parameters {names}")
    builder.output("loss", loss)
    for name, value in metrics.items():
        builder.output(name, value)
    with builder.origin(Origin("clipping", Phase.UPDATE)):
        clipped = clip(builder, [g for _, _, g in trained], options.clipping or Clipping())
    _update(builder, [(name, p, g) for (name, p, _), g in zip(trained, clipped, strict=True)], options.optimizer)
    return builder.finish()


def evaluation_step(graph: Graph, loss: Loss) -> Graph:
    """Compose the graph that gives ``loss`` and metrics of a model without training it; state is not replaced."""
    specs = tuple(replace(s, replaced_by=None) for s in graph.signature.inputs)
    frozen = replace(graph, signature=replace(graph.signature, inputs=specs))
    builder, value, metrics = _emit_loss(frozen, loss)
    builder.output("loss", value)
    for name, metric in metrics.items():
        builder.output(name, metric)
    return builder.finish()


def with_values(graph: Graph, values: Mapping[str, np.ndarray]) -> Graph:
    """Return ``graph`` with other initial arrays for the inputs named in ``values``; other names are ignored."""
    specs = tuple(replace(s, initial=values.get(s.name, s.initial)) for s in graph.signature.inputs)
    return replace(graph, signature=replace(graph.signature, inputs=specs))


def trained_parameters(graph: Graph, trainable: Sequence[str] | None = None) -> list[tuple[str, Value]]:
    """Return (name, value) of the parameters to train; GraphError for names that cannot be trained."""
    names = [s.name for s in graph.signature.inputs if s.role is Role.PARAMETER and s.trainable]
    names = names if trainable is None else list(trainable)
    if not names:
        raise GraphError(f"graph {graph.name!r} has no trainable parameter; name some with trainable=")
    for name in names:
        spec, type_ = graph.spec(name), graph.input(name).type
        if spec.role in (Role.DATA, Role.TARGET) or not type_.dtype.is_float or spec.replaced_by is not None:
            raise GraphError(f"input {name!r} ({type_}, {spec.role}) cannot be trained; parameters are float inputs")
    return [(name, graph.input(name)) for name in names]


def _emit_loss(graph: Graph, loss: Loss) -> tuple[Builder, Value, Mapping[str, Value]]:
    """Reopen ``graph`` without its results and emit the loss; return builder, loss and metrics."""
    named = dict(zip((s.name for s in graph.signature.inputs), graph.inputs, strict=True))
    named.update(zip(graph.signature.outputs, graph.outputs, strict=True))
    builder = Builder.reopen(_only_replacements(graph))
    with builder.origin(Origin("loss")):
        value, metrics = loss(builder, _lookup(graph, builder, named))
    if value.type.shape != () or not value.type.dtype.is_float:
        raise NotDifferentiableError(f"the loss is {value.type}; it must be a rank-0 float: reduce it")
    for name, metric in metrics.items():
        if metric.type.shape != () or name == "loss":
            raise GraphError(f"metric {name!r} is {metric.type}; metrics are rank 0 and not called 'loss'")
    return builder, value, metrics


def _only_replacements(graph: Graph) -> Graph:
    """Drop the outputs that a run returns; what replaces state stays."""
    replaced = graph.signature.replacements
    pairs = [(n, v) for n, v in zip(graph.signature.outputs, graph.outputs, strict=True) if n in replaced]
    signature = Signature(graph.signature.inputs, tuple(n for n, _ in pairs))
    return replace(graph, outputs=tuple(v for _, v in pairs), signature=signature)


def _lookup(graph: Graph, builder: Builder, named: dict[str, Value]) -> Lookup:
    def lookup(name: str, type_: TensorType | None = None) -> Value:
        if name in named:
            return named[name]
        if type_ is None:
            raise GraphError(f"graph {graph.name!r} has no output or input {name!r}; it has {', '.join(named)}")
        named[name] = builder.input(name, type_, Role.TARGET)
        return named[name]

    return lookup


def clip(builder: Builder, found: Sequence[Value], clipping: Clipping) -> list[Value]:
    """Emit gradient clipping as PyTorch's clip_grad_value_ and then clip_grad_norm_ define it."""
    clipped = list(found)
    if clipping.value is not None:
        bound = clipping.value
        clipped = [builder.minimum(builder.maximum(g, -bound), bound) for g in clipped]
    if clipping.global_norm is not None:
        dtype = promote(*(g.type.dtype for g in clipped))
        total: Value | None = None
        for g in clipped:
            square = builder.mul(g, g)
            square = builder.reduce_sum(square, axes=tuple(range(g.type.rank))) if g.type.rank else square
            square = builder.cast_to(square, dtype)
            total = square if total is None else builder.add(total, square)
        assert total is not None
        # 1e-6 keeps a zero norm harmless; the factor is never above one.
        factor = builder.div(clipping.global_norm, builder.add(builder.sqrt(total), 1e-6))
        factor = builder.minimum(factor, 1.0)
        clipped = [builder.mul(g, builder.cast_to(factor, g.type.dtype)) for g in clipped]
    return clipped


def _state_input(builder: Builder, name: str, initial: np.ndarray) -> Value:
    array = np.asarray(initial)
    return builder.input(name, TensorType(as_dtype(array.dtype), array.shape), Role.STATE, array)


def _update(builder: Builder, trained: Sequence[tuple[str, Value, Value]], optimizer: Optimizer) -> None:
    """Emit the optimizer's updates and name every replacement."""
    scalars = {
        name: _state_input(builder, f"optimizer:{name}", array) for name, array in optimizer.init_scalars().items()
    }
    with builder.origin(Origin("optimizer", Phase.UPDATE)):
        advanced = optimizer.advance(builder, scalars)
    current = {**scalars, **advanced}
    for name, value in current.items():  # also those that stay: what is replaced is live state that a caller may set
        builder.replace(f"optimizer:{name}", value)
    for name, parameter, gradient in trained:
        state = {
            key: _state_input(builder, f"{name}:{key}", array)
            for key, array in optimizer.init_state(name, parameter.type).items()
        }
        with builder.origin(Origin(name, Phase.UPDATE)):
            new_parameter, new_state = optimizer.update(builder, parameter, gradient, state, current)
        if set(new_state) != set(state):
            raise GraphError(f"the optimizer keeps {sorted(state)} for {name!r} but updates {sorted(new_state)}")
        builder.replace(name, new_parameter)
        for key, value in new_state.items():
            builder.replace(f"{name}:{key}", value)
