"""Callbacks of ``fit``: the protocol, early stopping and checkpoints.

A callback gets the training step and plain numbers; it must not know how steps are compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlc.errors import ConfigError

Logs = Mapping[str, float]


class Callback:
    """Base of callbacks; override what is needed. ``step`` is the TrainingStep.

    ``step.stop_training = True`` ends ``fit`` after the current step.
    """

    def on_train_begin(self, step: Any) -> None:
        """Called once before the first epoch."""

    def on_epoch_begin(self, step: Any, epoch: int) -> None:
        """Called before an epoch; epochs count from 0."""

    def on_step_end(self, step: Any, number: int, logs: Logs) -> None:
        """Called after a step with its number in the epoch and its loss and metrics."""

    def on_epoch_end(self, step: Any, epoch: int, logs: Logs) -> None:
        """Called after an epoch with its mean loss and metrics, and with those of validation as ``val_...``."""

    def on_train_end(self, step: Any) -> None:
        """Called once at the end, also when ``fit`` was interrupted."""


def _better(mode: str, new: float, best: float, margin: float) -> bool:
    return new > best + margin if mode == "max" else new < best - margin


def _mode(monitor: str, mode: str) -> str:
    if mode not in ("auto", "min", "max"):
        raise ConfigError(f'mode {mode!r} is unknown; use "auto", "min" or "max"')
    return mode if mode != "auto" else "max" if "accuracy" in monitor else "min"


def _value(logs: Logs, monitor: str, who: str) -> float:
    if monitor not in logs:
        raise ConfigError(f"{who} watches {monitor!r}, but an epoch reports {', '.join(logs)}")
    return float(logs[monitor])


class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved by more than ``min_delta`` for ``patience`` epochs.

    With ``restore_best``, parameters and state of the best epoch are put back at the end.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = False,
    ) -> None:
        self.monitor, self.patience, self.min_delta = monitor, patience, abs(min_delta)
        self.mode = _mode(monitor, mode)
        self.restore_best = restore_best
        self.best: float | None = None
        self.waited = 0
        self.kept: dict[str, np.ndarray] = {}

    def on_train_begin(self, step: Any) -> None:
        self.best, self.waited, self.kept = None, 0, {}

    def on_epoch_end(self, step: Any, epoch: int, logs: Logs) -> None:
        value = _value(logs, self.monitor, "EarlyStopping")
        if self.best is None or _better(self.mode, value, self.best, self.min_delta):
            self.best, self.waited = value, 0
            if self.restore_best:
                self.kept = {name: array.copy() for name, array in step.state.items()}
            return
        self.waited += 1
        if self.waited > self.patience:
            step.stop_training = True

    def on_train_end(self, step: Any) -> None:
        for name, array in self.kept.items():
            step.state[name][...] = array


class ModelCheckpoint(Callback):
    """Save to ``path`` after every epoch, or only when ``monitor`` is the best so far.

    ``path`` may contain ``{epoch}`` and the names of logs, for example ``"run/{epoch}-{val_loss:.3f}.safetensors"``.
    """

    def __init__(
        self, path: str | Path, monitor: str = "val_loss", save_best_only: bool = False, mode: str = "auto"
    ) -> None:
        self.path, self.monitor, self.save_best_only = str(path), monitor, save_best_only
        self.mode = _mode(monitor, mode)
        self.best: float | None = None

    def on_epoch_end(self, step: Any, epoch: int, logs: Logs) -> None:
        if self.save_best_only:
            value = _value(logs, self.monitor, "ModelCheckpoint")
            if self.best is not None and not _better(self.mode, value, self.best, 0.0):
                return
            self.best = value
        step.save(self.path.format(epoch=epoch, **logs))
