"""dlc's training step as a contender."""

from __future__ import annotations

import numpy as np

from bench.peers.training import LEARNING_RATE, FirstLosses
from bench.suite import Case, cases
from dlc.cli.contenders import Request
from dlc.frontends import models
from dlc.frontends.graph import losses, optim
from dlc.training.step import TrainingStep, compile_training


def training_step(case: Case, threads: int, seed: int = 0) -> TrainingStep:
    """Compile the step of a case: forward, cross entropy over the last dimension, gradients, Adam."""
    graph = models.build(case.model, batch=case.batch, seed=seed, **case.options)
    loss = losses.cross_entropy("logits", "label", axis=-1)
    return compile_training(graph, loss, optim.Adam(LEARNING_RATE), metrics=(), threads=threads)


class DlcTraining:
    """A compiled step; arrays are copied in, the loss is read after every step."""

    cache = "on"

    def __init__(self, request: Request) -> None:
        self.step = training_step(cases()[request.options["case"]], request.threads, request.seed)
        self.losses = FirstLosses()
        self.settings = f"dlc, float32, Adam, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do one step."""
        return self.losses.after(self.step.run(feeds))


def open_model(request: Request) -> DlcTraining:
    """Build the model and compile its step."""
    return DlcTraining(request)
