"""fit: history, shuffling, partial batches, callbacks, resuming, interruption and the progress display."""

import numpy as np
import pytest

import dlc.frontends.graph as g
from dlc.errors import ConfigError, InputError
from dlc.frontends.graph import losses, nn, optim
from dlc.training import Callback, EarlyStopping, ModelCheckpoint, compile_training
from dlc.training.data import as_batches

RNG = np.random.default_rng(5)
X = RNG.standard_normal((50, 3)).astype(np.float32)
DATA = {"x": X, "label": (X.sum(1) > 0).astype(np.int64)}
VALIDATION = {name: array[:20] for name, array in DATA.items()}


def make(batch="batch", device="cpu"):
    with g.Graph("classifier", seed=2) as graph:
        x = g.input("x", (batch, 3))
        g.output("logits", nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))(x))
    return compile_training(graph, losses.cross_entropy("logits", "label"), optim.Adam(1e-2), device=device)


class Recorder(Callback):
    def __init__(self):
        self.calls, self.losses = [], []

    def on_train_begin(self, step):
        self.calls.append("begin")

    def on_epoch_begin(self, step, epoch):
        self.calls.append(f"epoch {epoch}")

    def on_step_end(self, step, number, logs):
        self.calls.append(number)
        self.losses.append(logs["loss"])

    def on_epoch_end(self, step, epoch, logs):
        self.calls.append(sorted(logs))

    def on_train_end(self, step):
        self.calls.append("end")


def test_history_callbacks_and_the_smaller_last_batch():
    step, recorder = make(), Recorder()
    history = step.fit(DATA, epochs=2, batch_size=20, validation_data=VALIDATION, callbacks=[recorder])
    logs = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert recorder.calls == ["begin", "epoch 0", 0, 1, 2, logs, "epoch 1", 0, 1, 2, logs, "end"]
    assert sorted(history) == logs and all(len(values) == 2 for values in history.values())
    mean = np.average(recorder.losses[:3], weights=[20, 20, 10])
    assert history["loss"][0] == pytest.approx(mean)
    assert history["val_loss"][1] == pytest.approx(step.evaluate(VALIDATION)["loss"], rel=1e-6)
    history = step.fit(DATA, epochs=20, batch_size=20)
    assert history["accuracy"][-1] > 0.85


def test_drop_last_and_other_forms_of_data():
    step, recorder = make(20), Recorder()
    step.fit(DATA, batch_size=20, drop_last=True, callbacks=[recorder])
    assert len(recorder.losses) == 2
    with pytest.raises(InputError, match="x"):
        step.fit(DATA, batch_size=20)
    batches = [{"x": X[:20], "label": DATA["label"][:20]}, (X[20:40], DATA["label"][20:40])]
    step.fit(batches, epochs=2, callbacks=[recorder])
    assert len(recorder.losses) == 2 + 4
    step.fit((X, DATA["label"]), batch_size=20, drop_last=True)


def test_shuffling_depends_on_seed_and_epoch():
    def order(seed, epoch):
        return [b["x"][:, 0].tolist() for b, _ in as_batches(DATA, ["x"], 20, True, seed).batches(epoch)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    assert sorted(v for b in order(0, 0) for v in b) == sorted(X[:, 0].tolist())
    plain = [b["x"] for b, _ in as_batches(DATA, ["x"], 20).batches(3)]
    np.testing.assert_array_equal(np.concatenate(plain), X)


@pytest.mark.parametrize("epochs", [-1, 1.5, None])
def test_wrong_number_of_epochs(epochs):
    with pytest.raises(ConfigError, match="epochs"):
        make().fit(DATA, epochs=epochs)


@pytest.mark.parametrize(
    "data, words",
    [
        ({"x": X, "label": DATA["label"][:7]}, "one length"),
        ({}, "one length"),
        (3.0, "dict of arrays"),
        ({"x": X, "label": None}, "'label' are a NoneType"),
        ({"x": [[1.0], [1.0, 2.0]], "label": DATA["label"]}, "'x' are no array"),
        (iter([1]), "iterator"),
        ([3.0], "batch must be"),
        ({"x": X[:0], "label": DATA["label"][:0]}, "no batch"),
    ],
)
def test_wrong_data(data, words):
    with pytest.raises(InputError, match=words):
        make().fit(data)


class Interrupt(Callback):
    def __init__(self, after):
        self.left = after

    def on_step_end(self, step, number, logs):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6])
def test_an_interrupted_fit_resumes_bit_for_bit(tmp_path, after):
    whole, broken, resumed = make(), make(), make()
    recorder = Recorder()
    history = whole.fit(DATA, epochs=3, batch_size=20, seed=4, callbacks=[recorder])
    with pytest.raises(KeyboardInterrupt):
        broken.fit(DATA, epochs=3, batch_size=20, seed=4, callbacks=[Interrupt(after)])
    assert broken.steps == after
    resumed.load(broken.save(tmp_path / "run"))
    rest = Recorder()
    later = resumed.fit(DATA, epochs=3, batch_size=20, seed=4, callbacks=[rest], resume=True)
    assert rest.losses == recorder.losses[after:]
    assert all(np.array_equal(a, whole.state[n]) for n, a in resumed.state.items())
    assert later["loss"][-1] == history["loss"][-1]
    broken.fit(DATA, epochs=3, batch_size=20, seed=4, resume=True)
    assert all(np.array_equal(a, whole.state[n]) for n, a in broken.state.items())


def test_fit_without_resume_starts_over():
    step = make()
    step.fit(DATA, epochs=1, batch_size=20)
    step.fit(DATA, epochs=1, batch_size=20)
    assert step.steps == 6


def test_early_stopping_and_restoring_the_best():
    step = make()
    values = iter([3.0, 1.0, 2.0, 1.5, 0.0])
    stopping = EarlyStopping("watched", patience=1, restore_best=True)
    states = []

    class Scripted(Callback):
        def on_train_begin(self, s):
            stopping.on_train_begin(s)

        def on_epoch_end(self, s, epoch, logs):
            states.append({n: a.copy() for n, a in s.state.items()})
            stopping.on_epoch_end(s, epoch, {**logs, "watched": next(values)})

        def on_train_end(self, s):
            stopping.on_train_end(s)

    history = step.fit(DATA, epochs=10, batch_size=25, callbacks=[Scripted()])
    assert len(history["loss"]) == 4 and stopping.best == 1.0
    assert all(np.array_equal(a, states[1][n]) for n, a in step.state.items())
    with pytest.raises(ConfigError, match="val_loss"):
        step.fit(DATA, callbacks=[EarlyStopping()])


def test_model_checkpoint(tmp_path):
    step = make()
    step.fit(
        DATA, epochs=2, batch_size=25, callbacks=[ModelCheckpoint(tmp_path / "{epoch}-{loss:.1f}", monitor="loss")]
    )
    saved = sorted(p.name.split("-")[0] for p in tmp_path.iterdir() if not p.name.startswith("."))
    assert saved == ["0", "1"]
    best = ModelCheckpoint(tmp_path / "best", monitor="accuracy", save_best_only=True)
    best.on_epoch_end(step, 0, {"accuracy": 0.5})
    first = (tmp_path / "best").stat().st_mtime_ns
    best.on_epoch_end(step, 1, {"accuracy": 0.4})
    assert (tmp_path / "best").stat().st_mtime_ns == first and best.best == 0.5
    best.on_epoch_end(step, 2, {"accuracy": 0.6})
    assert best.best == 0.6


def test_the_display_is_quiet_off_a_terminal_unless_asked(capsys):
    step = make()
    step.fit(DATA, epochs=1, batch_size=25)
    assert capsys.readouterr().out == ""
    step.fit(DATA, epochs=2, batch_size=25, verbose=True)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith("epoch 1/2  loss ")


def test_interpreter_and_compiled_code_train_alike():
    compiled, interpreted = make(), make(device="interpreter")
    first = compiled.fit(DATA, epochs=2, batch_size=20)
    second = interpreted.fit(DATA, epochs=2, batch_size=20)
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-4)
    for name, array in compiled.state.items():
        np.testing.assert_allclose(array, interpreted.state[name], rtol=2e-3, atol=2e-4)
