"""Recognises contractions that Winograd's minimal filtering can compute: 3 x 3 windows moving by one.

It goes by strides alone: two row axes and two window axes of extent 3 that step through the row operand
alike, beside one contiguous axis of channels. It must not know targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from dlc.codegen.contract.analysis import FIRST_READ, OUT, LoopAxis, Problem
from dlc.ir.types import float32

WINDOW = 3
"""Taps of the window along either axis."""
STEP = 2
"""Outputs of a tile along either axis."""
REACH = STEP + WINDOW - 1
"""Inputs of a tile along either axis; its transform has REACH * REACH points."""
POINTS = REACH * REACH
MARGIN = WINDOW - 1
"""Lines of inputs beyond those of outputs."""
FEWEST_CHANNELS = 32
"""With fewer, the sums are so short that what the transforms round shows."""


@dataclass(frozen=True)
class WindowProblem:
    """A contraction over sliding windows: its axes, with their strides in every tensor.

    The window moves along ``height`` and ``width``, in each of ``images``; ``taps`` are its own axes in that order,
    ``channels`` lie side by side in the row operand, ``column`` in the output.
    """

    problem: Problem
    images: tuple[LoopAxis, ...]
    height: LoopAxis
    width: LoopAxis
    taps: tuple[LoopAxis, LoopAxis]
    channels: LoopAxis
    column: LoopAxis


@dataclass(frozen=True)
class WinogradProblem(WindowProblem):
    """Windows whose positions are kept, in rows, and whose taps and channels are summed."""

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles along height and width of one image."""
        return -(-self.height.extent // STEP), -(-self.width.extent // STEP)


def recognise(problem: Problem) -> WinogradProblem | None:
    """Return the contraction as sliding windows, None if it is something else."""
    if problem.dtype is not float32 or problem.spread or problem.batch or len(problem.columns) != 1:
        return None
    column = problem.columns[0]
    if column.strides[OUT] != 1:
        return None
    if any(column.strides[FIRST_READ + number] not in (0, 1) for number in range(len(problem.reads))):
        return None
    row = problem.row_operand
    for height, width in permutations(problem.rows, 2):
        found = _window(problem, height, width)
        if found is not None:
            *taps, channels = found
            images = tuple(axis for axis in problem.rows if axis not in (height, width))
            if channels.extent < FEWEST_CHANNELS or min(height.strides[row], width.strides[row]) < channels.extent:
                return None
            return WinogradProblem(problem, images, height, width, (taps[0], taps[1]), channels, column)
    return None


def _window(problem: Problem, height: LoopAxis, width: LoopAxis) -> tuple[LoopAxis, LoopAxis, LoopAxis] | None:
    """Return the axes of the window and of the channels, where the window moves along ``height`` and ``width``."""
    row = problem.row_operand
    depth = divided(problem.depth, row, width.strides[row])
    if len(depth) != 3 or depth[2].strides[row] != 1:
        return None
    taps, channels = depth[:2], depth[2]
    moves = [(tap.extent, tap.strides[row]) for tap in taps]
    if moves != [(WINDOW, height.strides[row]), (WINDOW, width.strides[row])]:
        return None
    return taps[0], taps[1], channels


def divided(axes: tuple[LoopAxis, ...], tensor: int, step: int) -> tuple[LoopAxis, ...]:
    """Return ``axes``, the last one, if it is taps and channels merged into one, as the two that it was."""
    if not axes or axes[-1].strides[tensor] != 1 or axes[-1].extent != WINDOW * step:
        return axes
    channels = axes[-1].strides
    taps = LoopAxis(WINDOW, tuple(stride * step for stride in channels))
    return (*axes[:-1], taps, LoopAxis(step, channels))
