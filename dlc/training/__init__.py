"""Training: compiled steps, the fit loop, callbacks and checkpoints. Part of the driver layer."""

from dlc.training.callbacks import Callback, EarlyStopping, ModelCheckpoint
from dlc.training.step import TrainingStep, compile_training

__all__ = ["Callback", "EarlyStopping", "ModelCheckpoint", "TrainingStep", "compile_training"]
