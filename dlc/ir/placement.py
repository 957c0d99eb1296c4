"""Placement: where in memory the elements of a node's tensors lie, if not one after the other.

A tensor may live inside a larger one, as a part of a concatenation or the middle of a padded image: its
elements then lie along the strides of the larger one. It must not know buffers nor kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a contiguous tensor."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(strides[::-1])


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the number of elements from the first to the last of a tensor that is not empty, both included."""
    return 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))


@dataclass(frozen=True)
class Layout:
    """A tensor's elements, in row-major order, as nested runs: how many, and how many elements apart.

    It is a property of that order, so that a tensor may be seen under every shape whose dimensions no run cuts.
    """

    extents: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def of(shape: Sequence[int], strides: Sequence[int]) -> Layout:
        """Return the layout of a tensor with such dimensions: neighbours that go through memory as one are one run."""
        runs: list[tuple[int, int]] = []
        for extent, stride in zip(shape, strides, strict=True):
            if extent == 1:
                continue
            if runs and runs[-1][1] == extent * stride:
                runs[-1] = (runs[-1][0] * extent, stride)
            else:
                runs.append((extent, stride))
        return Layout(tuple(extent for extent, _ in runs), tuple(stride for _, stride in runs))

    def steps(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the strides of the dimensions of ``shape``, None where a run ends inside a dimension."""
        if prod(shape) != prod(self.extents):
            return None
        runs = list(zip(row_major(self.extents), self.extents, self.strides, strict=True))
        found = []
        for dense, extent in zip(row_major(shape), shape, strict=True):
            if extent == 1:
                found.append(0)
                continue
            run = next((r for r in runs if r[0] <= dense and dense * extent <= r[0] * r[1]), None)
            if run is None or dense % run[0]:
                return None
            found.append(dense // run[0] * run[2])
        return tuple(found)


@dataclass(frozen=True)
class Inside:
    """An input that lies in an output of the same node from the index ``start`` on: it need not be copied there."""

    output: int
    start: tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """What a caller says of a node's tensors; those that are not named are whole and contiguous.

    ``inputs`` lie as their layouts say, or ``inside`` outputs that they are parts of. ``outputs`` should be written
    as their layouts say: what code generation makes of a node tells which are.
    """

    inputs: tuple[tuple[int, Layout], ...] = ()
    outputs: tuple[tuple[int, Layout], ...] = ()
    inside: tuple[tuple[int, Inside], ...] = ()

    def of_inputs(self, numbers: Sequence[int]) -> Placement:
        """Return the same with input ``numbers[k]`` as input k."""
        new = {number: k for k, number in enumerate(numbers)}
        inputs = tuple((new[number], layout) for number, layout in self.inputs)
        return Placement(inputs, self.outputs, tuple((new[number], inside) for number, inside in self.inside))


CONTIGUOUS = Placement()
