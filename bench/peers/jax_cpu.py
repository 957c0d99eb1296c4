"""JAX on the CPU as a contender: a jitted function of dlc's weights, for inference or for a whole training step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.jax_models import forward
from bench.peers.training import LEARNING_RATE, FirstLosses
from bench.suite import TRAINING, Case, cases
from dlc.cli.arrays import read_arrays
from dlc.cli.contenders import Request

STATISTICS = (".running_mean", ".running_var")


def read_weights(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the trained arrays and the running statistics of a case, by name."""
    arrays = {name: array for name, array in read_arrays(Path(path)).items() if name != "random_key"}
    statistics = {name: array for name, array in arrays.items() if name.endswith(STATISTICS)}
    return {name: array for name, array in arrays.items() if name not in statistics}, statistics


class JaxInference:
    """A jitted model; arrays are copied in and out."""

    cache = "off"

    def __init__(self, request: Request, case: Case) -> None:
        weights, statistics = jax.device_put(read_weights(request.options["weights"]))
        self.function = jax.jit(lambda x: forward(case.model, weights, statistics, x, False)[0])
        self.settings = f"JAX {jax.__version__}, CPU, jit, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        (x,) = feeds.values()
        return {"0": np.asarray(self.function(x))}


class JaxTraining:
    """A jitted step, its state donated; the loss is read after every step."""

    cache = "off"

    def __init__(self, request: Request, case: Case) -> None:
        weights, statistics = jax.device_put(read_weights(request.options["weights"]))

        def loss_of(weights: Any, statistics: Any, x: Any, label: Any) -> tuple[Any, Any]:
            logits, statistics = forward(case.model, weights, statistics, x, True)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)
            return -chosen.mean(), statistics

        def step(state: Any, x: Any, label: Any) -> tuple[Any, Any]:
            weights, first, second, count, statistics = state
            (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(weights, statistics, x, label)
            count = count + 1
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
            bias1, bias2 = 1 - 0.9**count, jnp.sqrt(1 - 0.999**count)

            def updated(w: Any, m: Any, v: Any) -> Any:
                return w - LEARNING_RATE / bias1 * m / (jnp.sqrt(v) / bias2 + 1e-8)

            weights = jax.tree.map(updated, weights, first, second)
            return (weights, first, second, count, statistics), loss

        zeros = jax.tree.map(jnp.zeros_like, weights)
        self.state = (weights, zeros, jax.tree.map(jnp.zeros_like, weights), jnp.float32(0), statistics)
        self.step = jax.jit(step, donate_argnums=0)
        self.losses = FirstLosses()
        self.settings = f"JAX {jax.__version__}, CPU, jit, Adam, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do one step."""
        x, label = feeds.values()
        self.state, loss = self.step(self.state, x, label)
        return self.losses.after(float(loss))


def open_model(request: Request) -> JaxInference | JaxTraining:
    """Build the function of a case. JAX takes its threads from the processors that it may run on, at its first use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: request.threads])
    os.environ["JAX_PLATFORMS"] = "cpu"
    case = cases()[request.options["case"]]
    return JaxTraining(request, case) if case.kind == TRAINING else JaxInference(request, case)
