"""The loop of ``fit``: epochs of steps, means, validation, callbacks, progress, and a position to resume from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from dlc.errors import CheckpointError, ConfigError, InputError
from dlc.training.callbacks import Callback
from dlc.training.data import ArrayBatches, IterableBatches
from dlc.training.progress import ProgressDisplay

if TYPE_CHECKING:
    from dlc.training.step import TrainingStep


@dataclass(frozen=True)
class FitOptions:
    """Arguments of ``fit`` that are not data."""

    epochs: int
    callbacks: tuple[Callback, ...] = ()
    resume: bool = False
    verbose: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, Integral) or self.epochs < 0:
            raise ConfigError(f"epochs={self.epochs!r} is not a whole number of epochs; give 0 or more")


@dataclass(frozen=True)
class Position:
    """Where a fit stands: ``batch`` batches of ``epoch`` were done when ``steps`` steps had been done in all.

    ``sums`` and ``rows`` are what the epoch's means are made of so far.
    """

    epoch: int
    batch: int
    steps: int
    rows: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)

    def at(self, steps: int) -> Position:
        """Return the position after ``steps`` steps: an interruption may fall between a step and its bookkeeping."""
        return replace(self, batch=self.batch + steps - self.steps, steps=steps)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "steps": self.steps,
            "rows": self.rows,
            "sums": dict(self.sums),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Position:
        """Build from plain data; CheckpointError if an entry is missing."""
        try:
            return Position(data["epoch"], data["batch"], data["steps"], data["rows"], data["sums"])
        except KeyError as error:
            raise CheckpointError(f"the checkpoint's position lacks {error}; it is damaged") from error

    def means(self) -> dict[str, float]:
        """Return the means so far."""
        return {name: value / max(self.rows, 1) for name, value in self.sums.items()}


def run_fit(
    step: TrainingStep,
    data: ArrayBatches | IterableBatches,
    options: FitOptions,
    validate: Callable[[], dict[str, float]] | None,
) -> dict[str, list[float]]:
    """Run the epochs; see ``TrainingStep.fit``."""
    start = Position(0, 0, step.steps)
    if options.resume and step.position is not None:
        start = step.position.at(step.steps)
        if len(data) and start.batch >= len(data):
            start = Position(start.epoch + 1, 0, step.steps) if start.rows == 0 else start
    step.position, step.stop_training = start, False
    history: dict[str, list[float]] = {}
    for callback in options.callbacks:
        callback.on_train_begin(step)
    try:
        with ProgressDisplay(options.epochs, options.verbose) as display:
            for epoch in range(start.epoch, options.epochs):
                logs = _run_epoch(step, data, epoch, options, display, validate)
                for name, value in logs.items():
                    history.setdefault(name, []).append(value)
                if step.stop_training:
                    break
    finally:
        for callback in options.callbacks:
            callback.on_train_end(step)
    return history


def _run_epoch(
    step: TrainingStep,
    data: ArrayBatches | IterableBatches,
    epoch: int,
    options: FitOptions,
    display: ProgressDisplay,
    validate: Callable[[], dict[str, float]] | None,
) -> dict[str, float]:
    """Run what is left of an epoch; return its logs."""
    position = step.position
    if position is None or position.epoch != epoch:
        position = Position(epoch, 0, step.steps)
    display.begin_epoch(epoch, len(data), position.batch)
    for callback in options.callbacks:
        callback.on_epoch_begin(step, epoch)
    step.position = position
    for batch, rows in data.batches(epoch, position.batch):
        step.run(batch)
        sums = {name: position.sums.get(name, 0.0) + value * rows for name, value in step.metrics.items()}
        position = Position(epoch, position.batch + 1, step.steps, position.rows + rows, sums)
        step.position = position
        display.advance(position.means())
        for callback in options.callbacks:
            callback.on_step_end(step, position.batch - 1, step.metrics)
        if step.stop_training:
            break
    if position.rows == 0:
        raise InputError("the data gave no batch; an epoch needs at least one")
    logs = position.means()
    if validate is not None:
        logs |= {f"val_{name}": value for name, value in validate().items()}
    display.end_epoch(epoch, logs)
    if not step.stop_training:
        step.position = Position(epoch + 1, 0, step.steps)  # a checkpoint of on_epoch_end continues with the next epoch
    for callback in options.callbacks:
        callback.on_epoch_end(step, epoch, logs)
    return logs
