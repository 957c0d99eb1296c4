"""Optimizers (``dlc.optim``) with PyTorch's formulas, arguments and defaults, and learning-rate schedules.

Each is a frozen description that follows the Optimizer protocol: the training-step pass calls it to emit the
update of every parameter as ordinary nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dlc.errors import ConfigError
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.types import TensorType, float64

Schedule = Callable[[int], float]
"""Learning rate as a function of the number of steps done so far."""

LearningRate = float | Schedule


def initial_rate(lr: LearningRate) -> float:
    """Return the learning rate of the first step; ConfigError unless it is a finite number of at least 0."""
    rate = float(lr(0)) if callable(lr) else float(lr)
    if not (math.isfinite(rate) and rate >= 0):
        raise ConfigError(f"learning rate {rate} must be a finite number of at least 0")
    return rate


def _check(optimizer: str, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{optimizer}: {name} is {value}; it must be a finite number of at least 0")


def _cast_rate(b: Builder, scalars: Mapping[str, Value], parameter: Value) -> Value:
    return b.cast_to(scalars["learning_rate"], parameter.type.dtype)


class _Stepping:
    """What all optimizers share: the scalars ``learning_rate`` (float64) and ``step`` (int64)."""

    lr: LearningRate

    def init_scalars(self) -> Mapping[str, np.ndarray]:
        """Return the shared scalars before the first step."""
        return {"learning_rate": np.asarray(initial_rate(self.lr), np.float64), "step": np.asarray(0, np.int64)}

    def advance(self, builder: Builder, scalars: Mapping[str, Value]) -> Mapping[str, Value]:
        """Count the step."""
        return {"step": builder.add(scalars["step"], 1)}


@dataclass(frozen=True)
class SGD(_Stepping):
    """Stochastic gradient descent, with momentum, dampening, weight decay and Nesterov's form.

    ``v = momentum * v + (1 - dampening) * g`` (the first ``v`` is ``g``), ``p = p - lr * v``; with ``nesterov``,
    ``p = p - lr * (g + momentum * v)``. ``weight_decay * p`` is added to the gradient.
    """

    lr: LearningRate = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check("SGD", momentum=self.momentum, weight_decay=self.weight_decay, lr=initial_rate(self.lr))
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ConfigError("SGD: nesterov needs momentum above 0 and dampening 0")

    def init_state(self, name: str, type_: TensorType) -> Mapping[str, np.ndarray]:
        """Return zeros for the momentum buffer, if there is momentum."""
        return {"momentum_buffer": np.zeros(type_.shape, type_.dtype.numpy)} if self.momentum else {}  # type: ignore[arg-type]

    def update(
        self,
        builder: Builder,
        parameter: Value,
        gradient: Value,
        state: Mapping[str, Value],
        scalars: Mapping[str, Value],
    ) -> tuple[Value, Mapping[str, Value]]:
        """Emit the update of one parameter."""
        b = builder
        if self.weight_decay:
            gradient = b.add(gradient, b.mul(parameter, self.weight_decay))
        new_state: dict[str, Value] = {}
        direction = gradient
        if self.momentum:
            velocity = b.mul(state["momentum_buffer"], self.momentum)
            damped = b.mul(gradient, 1.0 - self.dampening) if self.dampening else gradient
            if self.dampening:
                first = b.equal(scalars["step"], 1)
                damped = b.where(b.broadcast_to(first, gradient.type.shape), gradient, damped)
            velocity = b.add(velocity, damped)
            new_state["momentum_buffer"] = velocity
            direction = b.add(gradient, b.mul(velocity, self.momentum)) if self.nesterov else velocity
        return b.sub(parameter, b.mul(direction, _cast_rate(b, scalars, parameter))), new_state


@dataclass(frozen=True)
class Adam(_Stepping):
    """Adam (Kingma and Ba, 2015); ``weight_decay * p`` is added to the gradient.

    ``m = b1 * m + (1 - b1) * g``, ``v = b2 * v + (1 - b2) * g * g``,
    ``p = p - lr / (1 - b1 ** t) * m / (sqrt(v / (1 - b2 ** t)) + eps)``; ``amsgrad`` uses the largest ``v`` so far.
    """

    lr: LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    decoupled = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        _check(name, eps=self.eps, weight_decay=self.weight_decay, lr=initial_rate(self.lr))
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"{name}: betas are {self.betas}; each must be in [0, 1)")

    def init_state(self, name: str, type_: TensorType) -> Mapping[str, np.ndarray]:
        """Return zeros for the moments."""
        keys = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else [])]
        return {key: np.zeros(type_.shape, type_.dtype.numpy) for key in keys}  # type: ignore[arg-type]

    def update(
        self,
        builder: Builder,
        parameter: Value,
        gradient: Value,
        state: Mapping[str, Value],
        scalars: Mapping[str, Value],
    ) -> tuple[Value, Mapping[str, Value]]:
        """Emit the update of one parameter."""
        b = builder
        dtype = parameter.type.dtype
        beta1, beta2 = self.betas
        # Scalar arithmetic stays in float64: 1 - 0.999 ** t loses digits otherwise.
        step = b.cast_to(scalars["step"], float64)
        correction1 = b.sub(1.0, b.pow(b.constant(beta1, float64), step))
        correction2 = b.sqrt(b.sub(1.0, b.pow(b.constant(beta2, float64), step)))
        rate = scalars["learning_rate"]
        if self.weight_decay and self.decoupled:
            parameter = b.mul(parameter, b.cast_to(b.sub(1.0, b.mul(rate, self.weight_decay)), dtype))
        elif self.weight_decay:
            gradient = b.add(gradient, b.mul(parameter, self.weight_decay))
        mean = b.add(b.mul(state["exp_avg"], beta1), b.mul(gradient, 1.0 - beta1))
        square = b.add(b.mul(state["exp_avg_sq"], beta2), b.mul(b.mul(gradient, gradient), 1.0 - beta2))
        new_state = {"exp_avg": mean, "exp_avg_sq": square}
        if self.amsgrad:
            square = b.maximum(state["max_exp_avg_sq"], square)
            new_state["max_exp_avg_sq"] = square
        denominator = b.add(b.div(b.sqrt(square), b.cast_to(correction2, dtype)), self.eps)
        size = b.cast_to(b.div(rate, correction1), dtype)
        return b.sub(parameter, b.div(b.mul(mean, size), denominator)), new_state


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): ``p = p * (1 - lr * weight_decay)`` first."""

    weight_decay: float = 1e-2

    decoupled = True


# -- learning-rate schedules --------------------------------------------------------------


def step_decay(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """Multiply the rate by ``gamma`` every ``step_size`` steps."""
    return lambda step: lr * gamma ** (step // step_size)


def exponential_decay(lr: float, gamma: float) -> Schedule:
    """Multiply the rate by ``gamma`` after every step."""
    return lambda step: lr * gamma**step


def cosine_decay(lr: float, steps: int, minimum: float = 0.0) -> Schedule:
    """Fall from ``lr`` to ``minimum`` along half a cosine in ``steps`` steps, then stay."""
    return lambda step: minimum + (lr - minimum) * 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))


def linear_decay(lr: float, steps: int, minimum: float = 0.0) -> Schedule:
    """Fall from ``lr`` to ``minimum`` along a line in ``steps`` steps, then stay."""
    return lambda step: lr + (minimum - lr) * min(step, steps) / steps


def warmup(schedule: LearningRate, steps: int) -> Schedule:
    """Rise linearly to the first rate of ``schedule`` in ``steps`` steps, then follow it from its start."""

    def rate(step: int) -> float:
        if step < steps:
            return initial_rate(schedule) * (step + 1) / steps
        return float(schedule(step - steps)) if callable(schedule) else float(schedule)

    return rate
