"""Training steps: signature, losses, optimizers, clipping, state."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.errors import GraphError, NotDifferentiableError
from dlc.ir.builder import Builder
from dlc.ir.graph import Phase, Role
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.training import Clipping
from dlc.ir.types import tensor_type
from dlc.ir.verify_graph import verify_graph
from dlc.passes.manager import run_pipeline
from dlc.passes.pipeline import TRAINING
from dlc.passes.train_step import TrainOptions, evaluation_step, train_step, trained_parameters, with_values
from tests.passes.pass_text import graph_of


class Momentum:
    """v = 0.9 v + g; p = p - rate v; counts its steps."""

    def init_scalars(self):
        return {"learning_rate": np.float64(0.1), "step": np.int64(0)}

    def init_state(self, name, type_):
        return {"velocity": np.zeros(type_.shape, type_.dtype.numpy)}

    def advance(self, builder, scalars):
        return {"step": builder.add(scalars["step"], 1)}

    def update(self, builder, parameter, gradient, state, scalars):
        velocity = builder.add(builder.mul(state["velocity"], 0.9), gradient)
        rate = builder.cast_to(scalars["learning_rate"], parameter.type.dtype)
        return builder.sub(parameter, builder.mul(velocity, rate)), {"velocity": velocity}


def squared_error(builder, lookup):
    y = lookup("y")
    error = builder.sub(y, lookup("target", y.type))
    axes = tuple(range(error.type.rank))
    return builder.reduce_sum(builder.mul(error, error), axes=axes), {"worst": builder.reduce_max(error, axes=axes)}


def linear_model(dtype="float64"):
    rng = np.random.default_rng(3)
    b = Builder("linear")
    x = b.input("x", tensor_type(dtype, (4, 3)))
    w, c, unused, frozen = (
        b.input(name, tensor_type(dtype, shape), Role.PARAMETER, rng.normal(size=shape).astype(dtype), bool(train))
        for name, shape, train in (
            ("w", (3, 2), True),
            ("b", (2,), True),
            ("unused", (2,), True),
            ("frozen", (2,), False),
        )
    )
    b.output("extra", b.exp(unused))
    b.output("y", b.add(b.mul(b.matmul(x, w), frozen), c))
    return b.finish()


def feeds(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(4, 3)).astype(dtype), "target": rng.normal(size=(4, 2)).astype(dtype)}


def advance(step, results):
    return with_values(step, {s.name: results[s.replaced_by] for s in step.signature.inputs if s.replaced_by})


def reference(steps, clip=lambda grads: grads):
    """The same training in NumPy."""
    model = linear_model()
    w, c, frozen = (model.spec(n).initial.copy() for n in ("w", "b", "frozen"))
    vw, vc = np.zeros_like(w), np.zeros_like(c)
    losses = []
    for number in range(steps):
        data = feeds(number)
        error = data["x"] @ w * frozen + c - data["target"]
        losses.append((error**2).sum())
        gw, gc = clip([data["x"].T @ (2 * error * frozen), (2 * error).sum(0)])
        vw, vc = 0.9 * vw + gw, 0.9 * vc + gc
        w, c = w - 0.1 * vw, c - 0.1 * vc
    return losses, w, c


def train(options, steps=5, optimised=False):
    step = train_step(linear_model(), options)
    verify_graph(step)
    if optimised:
        step, _ = run_pipeline(step, TRAINING)
    losses = []
    for number in range(steps):
        results = interpret(step, feeds(number), Mode.TRAINING)
        losses.append(float(results["loss"]))
        step = advance(step, results)
    return losses, step


@pytest.mark.parametrize("optimised", [False, True])
def test_training_follows_the_formula(optimised):
    losses, step = train(TrainOptions(squared_error, Momentum()), optimised=optimised)
    want, w, c = reference(5)
    np.testing.assert_allclose(losses, want, rtol=1e-10)
    np.testing.assert_allclose(step.spec("w").initial, w, rtol=1e-10)
    np.testing.assert_allclose(step.spec("b").initial, c, rtol=1e-10)
    assert step.spec("optimizer:step").initial == 5


def test_the_signature_says_what_is_replaced():
    step = train_step(linear_model(), TrainOptions(squared_error, Momentum()))
    roles = {s.name: (s.role, s.replaced_by) for s in step.signature.inputs}
    assert roles == {
        "x": (Role.DATA, None),
        "w": (Role.PARAMETER, "w:next"),
        "b": (Role.PARAMETER, "b:next"),
        "unused": (Role.PARAMETER, None),
        "frozen": (Role.PARAMETER, None),
        "target": (Role.TARGET, None),
        "optimizer:learning_rate": (Role.STATE, "optimizer:learning_rate:next"),
        "optimizer:step": (Role.STATE, "optimizer:step:next"),
        "w:velocity": (Role.STATE, "w:velocity:next"),
        "b:velocity": (Role.STATE, "b:velocity:next"),
    }
    assert step.signature.results == ("loss", "worst")


def test_trainable_overrides_the_marks():
    step = train_step(linear_model(), TrainOptions(squared_error, Momentum(), trainable=["frozen"]))
    assert [s.name for s in step.signature.inputs if s.replaced_by and s.role is Role.PARAMETER] == ["frozen"]


def norm_clip(bound):
    def clip(grads):
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        return [g * min(1.0, bound / (norm + 1e-6)) for g in grads]

    return clip


@pytest.mark.parametrize(
    ("clipping", "clip"),
    [
        (Clipping(global_norm=0.5), norm_clip(0.5)),
        (Clipping(global_norm=1e9), lambda g: g),
        (Clipping(value=0.25), lambda g: [np.clip(v, -0.25, 0.25) for v in g]),
        (Clipping(value=0.25, global_norm=0.1), lambda g: norm_clip(0.1)([np.clip(v, -0.25, 0.25) for v in g])),
    ],
)
def test_clipping(clipping, clip):
    losses, _ = train(TrainOptions(squared_error, Momentum(), clipping))
    np.testing.assert_allclose(losses, reference(5, clip)[0], rtol=1e-8)


def test_updates_are_marked_as_such():
    step = train_step(linear_model(), TrainOptions(squared_error, Momentum()))
    makers = {v: n for n in step.nodes for v in n.outputs}
    assert [o.phase for o in makers[step.output("w:next")].origins] == [Phase.UPDATE]
    assert {o.phase for n in step.nodes for o in n.origins} == {Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE}


def batch_norm_model():
    b = Builder("bn")
    x = b.input("x", tensor_type("float64", (4, 3)))
    scale, bias = (b.input(n, tensor_type("float64", (3,)), Role.PARAMETER, v, True)
                   for n, v in (("scale", np.ones(3)), ("bias", np.zeros(3))))  # fmt: skip
    mean, variance = (b.input(n, tensor_type("float64", (3,)), Role.STATE, v)
                      for n, v in (("mean", np.zeros(3)), ("variance", np.ones(3))))  # fmt: skip
    key = b.input("key", tensor_type("uint32", (2,)), Role.STATE, np.array([1, 2], np.uint32))
    y, new_mean, new_variance = b.batch_norm(x, scale, bias, mean, variance, axis=1, epsilon=1e-5, momentum=0.1)
    y = b.dropout(y, key, rate=0.5, stream=0)
    b.output("y", b.matmul(y, b.input("w", tensor_type("float64", (3, 2)), Role.PARAMETER, np.ones((3, 2)), True)))
    for name, value in (("mean", new_mean), ("variance", new_variance), ("key", b.key_next(key))):
        b.replace(name, value)
    return b.finish()


def test_statistics_and_keys_advance_as_state():
    step = train_step(batch_norm_model(), TrainOptions(squared_error, Momentum()))
    data = feeds()
    results = interpret(step, data, Mode.TRAINING)
    np.testing.assert_allclose(results["mean:next"], 0.1 * data["x"].mean(0))
    np.testing.assert_allclose(results["variance:next"], 0.9 + 0.1 * data["x"].var(0, ddof=1))
    assert not np.array_equal(results["key:next"], [1, 2])
    again = interpret(advance(step, results), data, Mode.TRAINING)
    assert again["loss"] != results["loss"]


def test_evaluation_uses_the_inference_form_and_keeps_state():
    graph = evaluation_step(batch_norm_model(), squared_error)
    verify_graph(graph)
    data = feeds()
    y = (data["x"] / np.sqrt(1 + 1e-5)) @ np.ones((3, 2))
    results = interpret(graph, data)
    np.testing.assert_allclose(results["loss"], ((y - data["target"]) ** 2).sum())
    assert set(results) == {"loss", "worst"}


@pytest.mark.parametrize(("name", "reason"), [("x", "data"), ("nothing", "no input")])
def test_what_cannot_be_trained_is_named(name, reason):
    with pytest.raises(GraphError, match=rf"'{name}'|{reason}"):
        trained_parameters(linear_model(), [name])


def test_a_loss_that_reaches_no_parameter():
    def lost(builder, lookup):
        return builder.reduce_sum(lookup("x"), axes=(0, 1)), {}

    with pytest.raises(GraphError, match="depends on none of the parameters"):
        train_step(linear_model(), TrainOptions(lost, Momentum()))


def test_a_loss_must_be_a_scalar():
    with pytest.raises(NotDifferentiableError, match="rank-0 float"):
        train_step(linear_model(), TrainOptions(lambda b, lookup: (lookup("y"), {}), Momentum()))


def test_unknown_names_are_listed():
    with pytest.raises(GraphError, match=r"no output or input 'logits'.*x, w, b.*y"):
        train_step(linear_model(), TrainOptions(lambda b, lookup: (lookup("logits"), {}), Momentum()))


def test_a_graph_without_parameters():
    graph = graph_of('input %x: float32[3] data\noutput "y" = %x')
    with pytest.raises(GraphError, match="no trainable parameter"):
        train_step(graph, TrainOptions(squared_error, Momentum()))
