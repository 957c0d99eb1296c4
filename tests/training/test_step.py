"""TrainingStep: steps, metrics, learning rates, evaluation, trained graphs, checkpoints and errors."""

import numpy as np
import pytest

import dlc.frontends.graph as g
from dlc.driver.compile import compile_graph
from dlc.errors import (
    CheckpointError,
    ConfigError,
    DlcError,
    GraphError,
    InputError,
    NotDifferentiableError,
    TypeRuleError,
)
from dlc.frontends.graph import losses, nn, optim
from dlc.ir.interpret import interpret
from dlc.ir.verify_graph import verify_graph
from dlc.passes.bind import bind
from dlc.training import compile_training

RNG = np.random.default_rng(5)
X = RNG.standard_normal((8, 3)).astype(np.float32)
LABEL = RNG.integers(0, 4, 8)
FEEDS = {"x": X, "label": LABEL}


def classifier(batch="batch", seed=2):
    with g.Graph("classifier", seed=seed) as graph:
        x = g.input("x", (batch, 3))
        h = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))(x)
        g.output("logits", h)
    return graph


def make(graph=None, loss=None, optimizer=None, **options):
    loss = loss or losses.cross_entropy("logits", "label")
    return compile_training(graph or classifier(), loss, optimizer or optim.Adam(1e-2), **options)


def test_run_returns_the_loss_before_the_update_and_metrics():
    step = make()
    before = step.parameters()
    loss = step.run(FEEDS)
    assert isinstance(loss, float) and step.metrics["loss"] == loss
    assert step.metrics["accuracy"] in {k / 8 for k in range(9)}
    assert step.steps == 1
    after = step.parameters()
    assert all(not np.array_equal(before[n], after[n]) for n in before if n != "0.bias")  # batch norm removes the mean
    losses_seen = [step.run(FEEDS) for _ in range(60)]
    assert losses_seen[-1] < 0.5 * loss


@pytest.mark.parametrize("batch", ["batch", 8])
def test_profile_times_the_kernels_of_a_step_and_trains(batch):
    step, twin = make(classifier(batch)), make(classifier(batch))
    result = step.profile(FEEDS, runs=3, warmup=1)
    labels = " ".join(record.label for record in result.steps)
    assert "loss" in labels and "backward" in labels and "update" in labels
    assert result.runs == 3 and result.milliseconds > 0
    assert result.roofline.threads == result.threads and result.floor > 0
    assert step.steps == 4
    for _ in range(4):
        twin.run(FEEDS)
    assert step.run(FEEDS) == twin.run(FEEDS)
    with pytest.raises(DlcError, match="interpreter"):
        make(device="interpreter").profile(FEEDS)


def test_two_compilations_train_alike_and_the_graph_keeps_its_values():
    graph = classifier()
    initial = graph.state()
    first, second = make(graph), make(graph)
    assert [first.run(FEEDS) for _ in range(5)] == [second.run(FEEDS) for _ in range(5)]
    assert all(np.array_equal(graph.state()[n], a) for n, a in initial.items())


def test_only_what_is_trainable_is_trained():
    step = make(trainable=["4.weight"])
    before = step.parameters()
    step.run(FEEDS)
    changed = {n for n, a in step.parameters().items() if not np.array_equal(a, before[n])}
    assert changed == {"4.weight"} and step.trained == ("4.weight",)
    with pytest.raises(GraphError, match="nonsense"):
        make(trainable=["nonsense"])


def test_learning_rate_and_schedules():
    step = make(optimizer=optim.SGD(0.5))
    assert step.learning_rate == 0.5
    step.learning_rate = 0.0
    before = step.parameters()
    step.run(FEEDS)
    assert all(np.array_equal(a, before[n]) for n, a in step.parameters().items())
    with pytest.raises(ConfigError, match="finite"):
        step.learning_rate = float("nan")
    seen = []
    step = make(optimizer=optim.SGD(lambda n: seen.append(n) or 0.1 / (n + 1)))
    for _ in range(3):
        step.run(FEEDS)
    assert seen[-3:] == [0, 1, 2] and step.state["optimizer:learning_rate"] == pytest.approx(0.1 / 3)
    step.learning_rate = 0.7
    step.run(FEEDS)
    assert step.learning_rate == 0.7


def test_schedules():
    assert [optim.step_decay(1.0, 2, 0.5)(n) for n in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert optim.cosine_decay(1.0, 10, 0.1)(0) == 1.0 and optim.cosine_decay(1.0, 10, 0.1)(99) == pytest.approx(0.1)
    assert optim.cosine_decay(1.0, 10)(5) == pytest.approx(0.5)
    assert optim.linear_decay(1.0, 4)(1) == 0.75
    assert [optim.warmup(0.8, 4)(n) for n in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert optim.exponential_decay(2.0, 0.5)(3) == 0.25


def test_metrics_are_chosen_by_name():
    with g.Graph("m") as graph:
        x = g.input("x", (8, 3))
        y = g.output("logits", nn.Linear(3, 4)(x))
        g.output("size", g.mean(g.abs(y)))
    step = make(graph, metrics=["size"])
    step.run(FEEDS)
    assert set(step.metrics) == {"loss", "size"} and step.metrics["size"] > 0
    with pytest.raises(GraphError, match="wrong"):
        make(graph, metrics=["wrong"])


def test_evaluate_uses_the_inference_form_of_the_current_state():
    step = make()
    for _ in range(3):
        step.run(FEEDS)
    before = {n: a.copy() for n, a in step.state.items()}
    got = step.evaluate({"x": X, "label": LABEL}, batch_size=3)
    outputs = interpret(bind(step.inference_graph(), {"batch": 8}), {"x": X})
    shifted = outputs["logits"] - outputs["logits"].max(1, keepdims=True)
    each = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(8), LABEL]
    assert got["loss"] == pytest.approx(each.mean(), rel=1e-5)
    assert got["accuracy"] == pytest.approx((outputs["logits"].argmax(1) == LABEL).mean())
    assert all(np.array_equal(a, before[n]) for n, a in step.state.items())
    step.run(FEEDS)
    assert step.evaluate({"x": X, "label": LABEL})["loss"] != got["loss"]


def test_inference_graph_compiles_and_is_independent_of_further_training():
    step = make()
    for _ in range(20):
        step.run(FEEDS)
    graph = step.inference_graph()
    verify_graph(graph)
    assert graph.signature.results == graph.signature.outputs == ("logits",)
    executable = compile_graph(graph)
    first = executable.run({"x": X})["logits"]
    step.run(FEEDS)
    assert np.array_equal(executable.run({"x": X})["logits"], first)
    np.testing.assert_allclose(first, interpret(bind(graph, {"batch": 8}), {"x": X})["logits"], rtol=1e-4, atol=1e-5)


def test_random_numbers_outside_dropout_still_advance_in_the_inference_graph():
    with g.Graph("noisy") as graph:
        x = g.input("x", (8, 3))
        y = g.output("y", nn.Linear(3, 1)(g.dropout(x)))
        g.output("noisy", y + g.random_normal((8, 1)))
    step = make(graph, losses.mse("y", "t"))
    inference = step.inference_graph()
    assert inference.signature.results == ("y", "noisy")
    assert set(inference.signature.replacements.values()) == {"random_key"}


def test_save_and_load_continue_bit_for_bit(tmp_path):
    step = make()
    for _ in range(3):
        step.run(FEEDS)
    path = step.save(tmp_path / "run.safetensors")
    wanted = [step.run(FEEDS) for _ in range(3)]
    other = make(classifier(seed=99))
    other.load(path)
    assert other.steps == 3
    assert [other.run(FEEDS) for _ in range(3)] == wanted
    assert all(np.array_equal(a, step.state[n]) for n, a in other.state.items())


def test_a_model_with_a_parameter_of_rank_0_is_evaluated():
    with g.Graph("scaled", seed=2) as graph:
        scale = g.parameter("scale", np.float32(1.5))
        g.output("logits", nn.Linear(3, 4)(g.input("x", ("batch", 3))) * scale)
    step = compile_training(graph, losses.cross_entropy("logits", "label"), optim.SGD(0.1))
    assert step.run(FEEDS) > 0 and step.evaluate(FEEDS)["loss"] > 0


@pytest.mark.parametrize("device", ["cpu", "interpreter"])
def test_states_that_replace_one_another(device):
    with g.Graph("swap", seed=2) as graph:
        a, b = g.state("a", np.zeros(3, np.float32)), g.state("b", np.ones(3, np.float32))
        g.update(a, b)
        g.update(b, a)
        g.output("logits", nn.Linear(3, 4)(g.input("x", (8, 3)) + a))
    step = compile_training(graph, losses.cross_entropy("logits", "label"), optim.SGD(0.1), device=device)
    for value in (1, 0, 1):
        step.run(FEEDS)
        assert (step.state["a"] == value).all() and (step.state["b"] == 1 - value).all()


def convolutional(batch="batch"):
    with g.Graph("convolutional", seed=2) as graph:
        x = g.input("x", (batch, 3, 6, 6))
        h = g.relu(nn.Conv2d(3, 8, 3, padding=1)(x))
        g.output("logits", nn.Linear(8, 4)(g.mean(nn.Conv2d(8, 8, 3)(h), axis=(2, 3))))
    return graph


def test_weights_of_convolutions_are_seen_as_they_were_defined_however_they_are_stored(tmp_path):
    feeds = {"x": RNG.standard_normal((8, 3, 6, 6)).astype(np.float32), "label": LABEL}
    half = {name: array[:4] for name, array in feeds.items()}
    loss, adam = losses.cross_entropy("logits", "label"), optim.Adam(1e-2)
    step, checked = (compile_training(convolutional(), loss, adam, device=d) for d in ("cpu", "interpreter"))
    for batch in (feeds, half, feeds):
        np.testing.assert_allclose(step.run(batch), checked.run(batch), rtol=1e-5)
    assert step.state.keys() == checked.state.keys()
    for name, array in checked.state.items():
        assert step.state[name].shape == array.shape
        np.testing.assert_allclose(step.state[name], array, rtol=1e-3, atol=1e-5, err_msg=name)
    views = [array for array in step.state.values() if array.ndim == 4]
    assert len(views) == 6 and not any(array.flags.c_contiguous for array in views)
    assert all(array.flags.c_contiguous for array in step.parameters().values())
    assert step.evaluate(feeds)["loss"] == pytest.approx(checked.evaluate(feeds)["loss"], rel=1e-4)
    exe = compile_graph(step.inference_graph())
    np.testing.assert_allclose(
        exe.run({"x": feeds["x"]})["logits"],
        compile_graph(checked.inference_graph()).run({"x": feeds["x"]})["logits"],
        rtol=1e-2,
        atol=1e-4,
    )
    file = step.save(tmp_path / "state.safetensors")
    other = compile_training(convolutional(), loss, adam)
    other.load(file)
    checked.load(file)
    assert other.run(feeds) == step.run(feeds)
    np.testing.assert_allclose(checked.run(feeds), step.metrics["loss"], rtol=1e-5)
    name = next(n for n, a in step.state.items() if a.ndim == 4)
    step.state[name][...] = 0
    assert not np.array_equal(other.state[name], step.state[name]) and (step.parameters().get(name, 0) == 0).all()


def test_load_refuses_what_does_not_fit_and_changes_nothing(tmp_path):
    step = make()
    step.run(FEEDS)
    path = step.save(tmp_path / "run")
    with g.Graph("other") as graph:
        g.output("logits", nn.Linear(3, 4)(g.input("x", ("batch", 3))))
    other = make(graph)
    before = {n: a.copy() for n, a in other.state.items()}
    with pytest.raises(CheckpointError, match=r"missing linear\.weight"):
        other.load(path)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError):
        step.load(damaged)
    frozen = make(classifier(seed=99), trainable=["4.weight"])
    with pytest.raises(CheckpointError):
        frozen.load(path)
    assert all(np.array_equal(a, before[n]) for n, a in other.state.items())


def test_frozen_parameters_must_be_those_of_the_checkpoint(tmp_path):
    step = make(trainable=["4.weight"])
    path = step.save(tmp_path / "run")
    make(trainable=["4.weight"]).load(path)
    with pytest.raises(CheckpointError, match="not trained here"):
        make(classifier(seed=99), trainable=["4.weight"]).load(path)


@pytest.mark.parametrize(
    "loss, shape, target, formula",
    [
        (losses.mse("y", "t"), (4, 2), None, lambda y, t: ((y - t) ** 2).mean()),
        (losses.mse("y", "t", reduction="sum"), (4, 2), None, lambda y, t: ((y - t) ** 2).sum()),
        (losses.l1("y", "t"), (4, 2), None, lambda y, t: np.abs(y - t).mean()),
        (
            losses.huber("y", "t", delta=0.5),
            (4, 2),
            None,
            lambda y, t: np.where(np.abs(y - t) < 0.5, 0.5 * (y - t) ** 2, 0.5 * (np.abs(y - t) - 0.25)).mean(),
        ),
        (
            losses.smooth_l1("y", "t", beta=0.5),
            (4, 2),
            None,
            lambda y, t: np.where(np.abs(y - t) < 0.5, (y - t) ** 2, np.abs(y - t) - 0.25).mean(),
        ),
        (
            losses.bce_with_logits("y", "t"),
            (4, 2),
            "unit",
            lambda y, t: (np.logaddexp(0, y) - t * y).mean(),
        ),
        (
            losses.cross_entropy("y", "t", label_smoothing=0.1, ignore_index=2),
            (4, 3),
            "classes",
            lambda y, t: np.mean(
                [
                    0.9 * (np.log(np.exp(r).sum()) - r[c]) + 0.1 * (np.log(np.exp(r).sum()) - r.mean())
                    for r, c in zip(y, t)
                    if c != 2
                ]
            ),
        ),
        (
            losses.cross_entropy("y", "t", probabilities=True),
            (4, 3),
            "unit",
            lambda y, t: -((y - np.log(np.exp(y).sum(1, keepdims=True))) * t).sum(1).mean(),
        ),
        (losses.custom(lambda y, t: (g.mean((y - t) ** 4), {"peak": g.max(y)}), "y", "t"), (4, 2), "declared", None),
        (losses.output("own"), (4, 2), "none", lambda y, t: np.abs(y).sum()),
    ],
)
def test_losses(loss, shape, target, formula):
    y = RNG.standard_normal(shape)
    t = {"unit": RNG.random(shape), "classes": np.array([0, 2, 1, 0])}.get(target, RNG.standard_normal(shape))
    with g.Graph("l", dtype="float64") as graph:
        x = g.input("x", shape, "float64")
        scale = g.parameter("scale", np.ones(()))
        out = g.output("y", x * scale)
        if target == "declared":
            g.input("t", shape, "float64", role="target")
        g.output("own", g.sum(g.abs(out)))
    step = make(graph, loss)
    feeds = {"x": y} if target == "none" else {"x": y, "t": t}
    wanted = ((y - t) ** 4).mean() if formula is None else formula(y, t)
    assert step.run(feeds) == pytest.approx(wanted, rel=1e-12)
    if target == "declared":
        assert step.metrics["peak"] == y.max()


def test_accuracy_of_classes_in_bytes():
    """Neither the class that -100 wraps to nor the one that 299 wraps to is mistaken for another."""
    with g.Graph("b") as graph:
        g.output("logits", g.input("x", (3, 300)) * g.parameter("scale", 1.0))
        g.input("label", (3,), "uint8", role="target")
    x = np.zeros((3, 300), np.float32)
    x[range(3), [156, 299, 7]] = 1
    step = make(graph, losses.cross_entropy("logits", "label"))
    step.run({"x": x, "label": np.array([156, 299 - 256, 7], np.uint8)})
    assert step.metrics["accuracy"] == pytest.approx(2 / 3)


def test_accuracy_of_binary_targets_and_sequences():
    with g.Graph("b") as graph:
        x = g.input("x", (2, 3, 5))
        g.output("logits", x * g.parameter("scale", 1.0))
    x, label = RNG.standard_normal((2, 3, 5)).astype(np.float32), RNG.integers(0, 5, (2, 3))
    step = make(graph, losses.cross_entropy("logits", "label", axis=-1))
    step.run({"x": x, "label": label})
    assert step.metrics["accuracy"] == pytest.approx((x.argmax(-1) == label).mean())
    step = make(graph, losses.bce_with_logits("logits", "t"))
    t = (RNG.random((2, 3, 5)) < 0.5).astype(np.float32)
    step.run({"x": x, "t": t})
    assert step.metrics["accuracy"] == pytest.approx(((x > 0) == (t > 0.5)).mean())


@pytest.mark.parametrize(
    "make_step, error, words",
    [
        (lambda: make(loss=losses.cross_entropy("wrong", "label")), GraphError, "wrong"),
        (lambda: make(loss="logits"), NotDifferentiableError, "rank-0"),
        (lambda: compile_training("graph", "loss", optim.SGD()), DlcError, "not a graph"),
        (lambda: make(loss=losses.mse("logits", "x")), TypeRuleError, "shapes"),
        (lambda: make(clip_norm=-1.0), ConfigError, "positive"),
        (lambda: make(device="tpu"), DlcError, "tpu"),
        (lambda: losses.cross_entropy("a", "b", label_smoothing=2.0), ConfigError, "label_smoothing"),
        (lambda: losses.mse("a", "b", reduction="none"), ConfigError, "reduction"),
        (lambda: optim.SGD(-1.0), ConfigError, "learning rate"),
        (lambda: optim.SGD(0.1, nesterov=True), ConfigError, "nesterov"),
        (lambda: optim.Adam(betas=(1.0, 0.9)), ConfigError, "betas"),
    ],
)
def test_errors(make_step, error, words):
    with pytest.raises(error, match=words):
        make_step()


def test_wrong_feeds_are_input_errors():
    step = make()
    with pytest.raises(InputError, match="label"):
        step.run({"x": X})
    with pytest.raises(InputError, match="x"):
        step.run({"x": X[0], "label": LABEL})
    assert step.steps == 0
