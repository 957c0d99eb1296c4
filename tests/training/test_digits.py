"""The main job: the CNN with batch norm learns the handwritten digits, and Ctrl-C during fit leaves a usable state."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from dlc.driver.compile import compile_graph
from dlc.frontends import models
from dlc.frontends.graph import losses, optim
from dlc.training import compile_training

EPOCHS = 12
BATCH = 64


def train(seed, epochs=EPOCHS):
    training, test = models.digits(seed)
    steps = epochs * -(-len(training) // BATCH)
    step = compile_training(
        models.digits_cnn(seed=seed),
        loss=losses.cross_entropy("logits", "label"),
        optimizer=optim.Adam(optim.cosine_decay(3e-3, steps)),
    )
    step.fit(training, epochs=epochs, batch_size=BATCH, seed=seed)
    return step, test


@pytest.mark.slow
def test_mean_test_accuracy_of_three_seeds():
    accuracies = []
    for seed in range(3):
        step, test = train(seed)
        accuracies.append(step.evaluate(test)["accuracy"])
    assert np.mean(accuracies) >= 0.98, accuracies


def test_one_epoch_learns_and_the_trained_model_serves():
    step, test = train(0, epochs=2)
    accuracy = step.evaluate(test)["accuracy"]
    assert accuracy > 0.9
    logits = compile_graph(step.inference_graph()).run({"image": test.image})["logits"]
    assert (logits.argmax(1) == test.label).mean() == pytest.approx(accuracy)


SCRIPT = """
    import signal, sys
    import numpy as np
    from dlc.frontends import models
    from dlc.frontends.graph import losses, optim
    from dlc.training import Callback, compile_training

    train, test = models.digits()
    step = compile_training(models.digits_cnn(), losses.cross_entropy("logits", "label"), optim.Adam(1e-3))

    class Announce(Callback):
        def on_step_end(self, step, number, logs):
            if number == 2:
                print("running", flush=True)

    try:
        step.fit(train, epochs=10_000, batch_size=64, callbacks=[Announce()])
    except KeyboardInterrupt:
        done = step.steps
        step.save(sys.argv[1])
        reference = compile_training(models.digits_cnn(), losses.cross_entropy("logits", "label"), optim.Adam(1e-3))

        class Stop(Callback):
            def on_step_end(self, step, number, logs):
                step.stop_training = step.steps == done

        reference.fit(train, epochs=10_000, batch_size=64, callbacks=[Stop()])
        assert reference.steps == done
        same = all(np.array_equal(a, reference.state[n]) for n, a in step.state.items())
        print("interrupted", "consistent" if same else "torn", flush=True)
"""


def test_control_c_leaves_the_state_of_a_whole_step(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    child = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "saved")], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert child.stdout.readline().strip() == "running"
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=120)
    finally:
        child.kill()
    assert output.strip() == "interrupted consistent" and child.returncode == 0
    assert (tmp_path / "saved").exists()
