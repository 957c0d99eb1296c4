"""Initial values of parameters, with PyTorch's names and formulas (``nn.init``).

Each function returns an initializer: it takes a NumPy generator and a shape and returns an array, which the
parameter casts to its dtype. Random values have float32 resolution: large tables are made in half the time.
"""

from __future__ import annotations

import math

import numpy as np

from dlc.errors import DlcError
from dlc.frontends.graph.scope import Initializer


def _uniform(generator: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    drawn = generator.random(shape, np.float32)
    drawn *= np.float32(high - low)
    drawn += np.float32(low)
    return drawn


def _normal(generator: np.random.Generator, mean: float, std: float, shape: tuple[int, ...]) -> np.ndarray:
    drawn = generator.standard_normal(shape, np.float32)
    drawn *= np.float32(std)
    if mean:
        drawn += np.float32(mean)
    return drawn


def constant(value: float) -> Initializer:
    """Fill with ``value``."""
    return lambda generator, shape: np.full(shape, value, np.float64)


def zeros() -> Initializer:
    """Fill with 0."""
    return constant(0.0)


def ones() -> Initializer:
    """Fill with 1."""
    return constant(1.0)


def uniform(low: float = 0.0, high: float = 1.0) -> Initializer:
    """Draw from [``low``, ``high``)."""
    return lambda generator, shape: _uniform(generator, low, high, shape)


def normal(std: float = 1.0, mean: float = 0.0) -> Initializer:
    """Draw from the normal distribution."""
    return lambda generator, shape: _normal(generator, mean, std, shape)


def truncated_normal(std: float = 1.0, mean: float = 0.0, low: float = -2.0, high: float = 2.0) -> Initializer:
    """Draw from the normal distribution cut to [``low``, ``high``] (absolute bounds), by drawing again outside."""

    def make(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        drawn = _normal(generator, mean, std, shape)
        outside = (drawn < low) | (drawn > high)
        while outside.any():
            drawn = np.where(outside, _normal(generator, mean, std, shape), drawn)
            outside = (drawn < low) | (drawn > high)
        return drawn

    return make


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return fan-in and fan-out of a weight (out, in, kernel...), as PyTorch counts them."""
    if len(shape) < 2:
        raise DlcError(f"fan-in and fan-out need a weight of at least 2 dimensions, got shape {list(shape)}")
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def gain_of(nonlinearity: str, a: float = 0.0) -> float:
    """Return PyTorch's recommended gain for a nonlinearity; ``a`` is the negative slope of leaky_relu."""
    gains = {"linear": 1.0, "conv": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + a * a))
    if nonlinearity not in gains:
        raise DlcError(f"nonlinearity {nonlinearity!r} is unknown; use {', '.join([*gains, 'leaky_relu'])}")
    return gains[nonlinearity]


def _fan(shape: tuple[int, ...], mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise DlcError(f'mode {mode!r} is unknown; use "fan_in" or "fan_out"')
    return max(1, fans(shape)[0 if mode == "fan_in" else 1])


def kaiming_uniform(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Draw from [-bound, bound), bound = gain * sqrt(3 / fan) (He et al., 2015)."""

    def make(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        bound = gain_of(nonlinearity, a) * math.sqrt(3.0 / _fan(shape, mode))
        return _uniform(generator, -bound, bound, shape)

    return make


def kaiming_normal(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Draw from the normal distribution of deviation gain / sqrt(fan) (He et al., 2015)."""

    def make(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return _normal(generator, 0.0, gain_of(nonlinearity, a) / math.sqrt(_fan(shape, mode)), shape)

    return make


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Draw from [-bound, bound), bound = gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""

    def make(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        bound = gain * math.sqrt(6.0 / sum(fans(shape)))
        return _uniform(generator, -bound, bound, shape)

    return make


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Draw from the normal distribution of deviation gain * sqrt(2 / (fan_in + fan_out))."""

    def make(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return _normal(generator, 0.0, gain * math.sqrt(2.0 / sum(fans(shape))), shape)

    return make


def orthogonal(gain: float = 1.0) -> Initializer:
    """Make rows or columns orthonormal, times ``gain`` (Saxe et al., 2013)."""

    def make(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        rows, columns = shape[0], math.prod(shape[1:])
        q, r = np.linalg.qr(generator.normal(0.0, 1.0, (max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diag(r))
        return gain * (q.T if rows < columns else q).reshape(shape)

    return make
