"""Recognises weight gradients of 3 x 3 convolutions: windows whose taps are kept and whose positions are summed.

It goes by strides alone: two row axes of extent 3 and two depth axes that step through the row operand alike. It
must not know targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from dlc.codegen.contract.analysis import OUT, Problem, extent_of
from dlc.codegen.winograd.problem import MARGIN, STEP, WINDOW, WindowProblem, divided
from dlc.ir.types import float32


@dataclass(frozen=True)
class TapsProblem(WindowProblem):
    """Windows whose positions are summed, and whose taps and channels are kept, in rows."""

    @property
    def lines(self) -> int:
        """Lines of tiles of an image."""
        return -(-self.height.extent // STEP)

    @property
    def all_lines(self) -> int:
        """Lines of tiles of all images."""
        return extent_of(self.images) * self.lines

    @property
    def line_tiles(self) -> int:
        """Tiles of a line."""
        return -(-self.width.extent // STEP)

    @property
    def line_pixels(self) -> int:
        """Pixels of a line of the row operand."""
        return self.width.extent + MARGIN


def recognise_taps(problem: Problem) -> TapsProblem | None:
    """Return the contraction as sums over positions of a window, None if it is something else."""
    if problem.dtype is not float32 or problem.out_dtype is not float32 or not problem.plain:
        return None
    if problem.spread or problem.batch or len(problem.columns) != 1:
        return None
    column = problem.columns[0]
    if column.strides[OUT] != 1 or column.strides[problem.panel_operand] != 1:
        return None
    row = problem.row_operand
    for height, width in permutations(problem.depth, 2):
        rows = divided(problem.rows, row, width.strides[row])
        if len(rows) != 3 or rows[2].strides[row] != 1:
            continue
        moves = [(tap.extent, tap.strides[row]) for tap in rows[:2]]
        if moves == [(WINDOW, height.strides[row]), (WINDOW, width.strides[row])]:
            images = tuple(axis for axis in problem.depth if axis not in (height, width))
            return TapsProblem(problem, images, height, width, (rows[0], rows[1]), rows[2], column)
    return None
