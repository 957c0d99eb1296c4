"""Samples of every op: operands, attributes and tolerance, for the ladder and the gradient checks.

Each op draws from its own generator, seeded by its name, so that adding a sample elsewhere changes nothing here.
Values have random signs and scales; shapes include rank 0, extents 1 and 0, odd extents and middle axes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node
from dlc.ir.types import tensor_type

SHAPES = [(), (1,), (0,), (7,), (5, 1, 3), (2, 0, 3), (3, 17)]


@dataclass(frozen=True, eq=False)
class Sample:
    """One call of ``op``. ``tolerance`` is relative to the largest result, for float32; ``differentiable`` lists the
    operands whose gradient is checked (None: all floats)."""

    op: str
    arrays: tuple[np.ndarray, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 2e-5
    differentiable: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        operands = ",".join(f"{a.dtype}{list(a.shape)}".replace(" ", "") for a in self.arrays)
        texts = [f"{k}={v}" for k, v in self.attributes.items() if isinstance(v, bool | int | float | str | tuple)]
        return f"{self.op}({operands})" + (f"[{' '.join(texts)}]" if texts else "")

    def graph(self) -> Graph:
        """A graph of the one node, with inputs x0.. and outputs y0.."""
        b = Builder(self.op)
        inputs = [b.input(f"x{k}", tensor_type(a.dtype, a.shape)) for k, a in enumerate(self.arrays)]
        for k, value in enumerate(b.emit(self.op, inputs, self.attributes)):
            b.output(f"y{k}", value)
        return b.finish()

    def node(self) -> Node:
        return self.graph().nodes[-1]

    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{k}": a for k, a in enumerate(self.arrays)}


class Draw:
    """Random operands of one op."""

    def __init__(self, name: str) -> None:
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def normal(self, *shape: int, scale: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
        return np.asarray(self.rng.standard_normal(shape) * scale).astype(dtype)

    def uniform(self, low: float, high: float, *shape: int, dtype: Any = np.float32) -> np.ndarray:
        return np.asarray(self.rng.uniform(low, high, shape)).astype(dtype)

    def integers(self, low: int, high: int, *shape: int, dtype: Any = np.int64) -> np.ndarray:
        return np.asarray(self.rng.integers(low, high, shape)).astype(dtype)

    def bools(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.random(shape) < 0.5)


Maker = Callable[[Draw], Iterator[Sample]]
_MAKERS: dict[str, Maker] = {}


def sampler(*names: str) -> Callable[[Callable[[str, Draw], Iterator[Sample]]], Callable]:
    """Register a function (name, draw) -> samples for some ops."""

    def register(function: Callable[[str, Draw], Iterator[Sample]]) -> Callable:
        for name in names:
            assert name not in _MAKERS, f"two samplers for {name}"
            _MAKERS[name] = lambda draw, _name=name: function(_name, draw)
        return function

    return register


def sampled_ops() -> Sequence[str]:
    """Return the names of all ops that have samples."""
    return sorted(_MAKERS)


def samples_of(name: str) -> list[Sample]:
    """Return the samples of one op."""
    return list(_MAKERS[name](Draw(name)))


def all_samples() -> list[Sample]:
    """Return all samples, ordered by op."""
    return [sample for name in sampled_ops() for sample in samples_of(name)]


def both(op: str, *arrays: np.ndarray, tolerance: float = 2e-5, **attributes: Any) -> Iterator[Sample]:
    """Yield a sample as given and one with its float32 operands as float64."""
    yield Sample(op, arrays, attributes, tolerance)
    wide = tuple(a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays)
    if any(a.dtype == np.float32 for a in arrays):
        yield Sample(op, wide, attributes, tolerance)
