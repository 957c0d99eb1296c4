"""Finds window reductions, such as depthwise convolutions and pooling, and cuts their lines into tiles.

A line is a kept axis along which neighbours read the same weights or overlapping
operands. It must not know statements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from dlc.codegen.loops.guards import conjuncts, guarded
from dlc.codegen.loops.nest import axis_simplifier
from dlc.codegen.rows.problem import Reduction, RowProblem
from dlc.ir.compute import Axis
from dlc.ir.cost import cost, distinct
from dlc.ir.expr import Apply, Const, Expr, Load, Var
from dlc.ir.simplify import Simplifier, depends_on

MOST_TAPS = 128
"""Taps of a whole window: sums of so many products are one chain."""
LONGEST_LINE = 16
"""Taps along the line, for each of which code is made."""
HEAVIEST_TAP = 24
"""Work per tap up to which code is made for every tap of every neighbour."""
_TESTS = ("less", "less_equal", "greater", "greater_equal")


@dataclass(frozen=True)
class Test:
    """``along * x + tap * s + constant`` (x, s: a kept and a reduced axis) must be in ``low`` .. ``high``."""

    kept: Var
    reduced: Var
    along: int
    tap: int
    low: int | None
    high: int | None

    def holds(self, place_: int, tap: int) -> bool:
        """Tell whether the tap lies inside at this place."""
        value = self.along * place_ + self.tap * tap
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Windows:
    """A row problem whose rows are windows: ``line`` is the kept axis tiles run along, ``taps`` the reduced one."""

    problem: RowProblem
    line: Axis
    inner: Axis
    taps: Axis
    reduction: Reduction
    value: Expr
    tests: tuple[Test, ...]
    simplify: Simplifier

    @property
    def steps(self) -> tuple[int, int]:
        """Return how far a step along the line and a tap move in the operand; (0, 1) if no read depends on both."""
        for load in (e for e in distinct([self.value]) if isinstance(e, Load)):
            form = self.simplify.affine(load.index)
            step, tap = form.coefficient(self.line.var), form.coefficient(self.taps.var)
            if step and tap:
                return step, tap
        return 0, 1

    def inside(self, place_: int, tap: int) -> bool:
        """Tell whether no test along the line excludes the tap at this place."""
        return all(t.holds(place_, tap) for t in self.tests if t.kept == self.line.var)


def find_windows(problem: RowProblem) -> Windows | None:
    """Return the normalised ``problem``, lanes along its last kept axis, as windows; None where tiles gain nothing."""
    if len(problem.kept) < 2 or not problem.reduced or len(problem.stages) != 1:
        return None
    problem = _taps_last(problem)
    stage, line, inner, taps = problem.stages[0], problem.kept[-2], problem.kept[-1], problem.reduced[-1]
    if stage.writes or stage.keeps or len(stage.reductions) != 1 or stage.reductions[0].position is not None:
        return None
    reduction = stage.reductions[0]
    if not 1 < prod(a.extent for a in problem.reduced) <= MOST_TAPS or taps.extent > LONGEST_LINE:
        return None
    condition, value = guarded(reduction.value, reduction.combiner) or (None, reduction.value)
    simplify = axis_simplifier((*problem.kept, *problem.reduced), problem.outer)
    tests = _tests(problem, condition, simplify)
    if tests is None or cost([value]) > HEAVIEST_TAP or any(_selects(e) for e in distinct([value])):
        return None
    found = Windows(problem, line, inner, taps, reduction, value, tests, simplify)
    return found if _shares_reads(found) else None


def _taps_last(problem: RowProblem) -> RowProblem:
    """Return the problem with the reduced axis last along which windows of neighbours overlap, if there is one."""
    simplify = axis_simplifier((*problem.kept, *problem.reduced), problem.outer)
    line = problem.kept[-2].var
    for load in (e for e in distinct(problem.exprs()) if isinstance(e, Load)):
        form = simplify.affine(load.index)
        step = form.coefficient(line)
        for axis in reversed(problem.reduced):
            if 0 < step < form.coefficient(axis.var) * axis.extent:
                return replace(problem, reduced=(*(a for a in problem.reduced if a != axis), axis))
    return problem


def _selects(expr: Expr) -> bool:
    return isinstance(expr, Apply) and expr.op == "select"


def _tests(problem: RowProblem, condition: Expr | None, simplify: Simplifier) -> tuple[Test, ...] | None:
    """Return what is asked of the taps; None if that is more than bounds of a kept axis with a reduced one."""
    kept, reduced = {a.var for a in problem.kept[:-1]}, {a.var for a in problem.reduced}
    found: list[Test] = []
    for test in conjuncts(condition):
        if not isinstance(test, Apply) or test.op not in _TESTS or not isinstance(test.args[1], Const):
            return None
        form = simplify.affine(test.args[0])
        limit = int(test.args[1].value) - form.constant
        places = [(atom, c) for atom, c in form.terms if isinstance(atom, Var) and atom in kept]
        steps = [(atom, c) for atom, c in form.terms if isinstance(atom, Var) and atom in reduced]
        if len(form.terms) != 2 or len(places) != 1 or len(steps) != 1 or any(c <= 0 for _, c in form.terms):
            return None
        (place_, along), (step, tap) = *places, *steps
        if (place_ == problem.kept[-2].var) != (step == problem.reduced[-1].var):
            return None
        low = limit if test.op == "greater_equal" else limit + 1 if test.op == "greater" else None
        high = limit if test.op == "less_equal" else limit - 1 if test.op == "less" else None
        found.append(Test(place_, step, along, tap, low, high))
    return tuple(found)


def _shares_reads(windows: Windows) -> bool:
    """Tell whether neighbours read the same: weights of their own, or windows that overlap."""
    line, inner = windows.line.var, windows.inner.var
    loads = [e for e in distinct([windows.value]) if isinstance(e, Load)]
    if not any(depends_on(e, {line}) for e in loads):
        return False
    if any(depends_on(e, {inner}) and not depends_on(e, {line}) for e in loads):
        return True
    step, tap = windows.steps
    return 0 < step < tap * windows.taps.extent


# -- cutting a line --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """``count`` tiles of ``size`` neighbours from ``start`` on; a lone tile is made for its place."""

    start: int
    size: int
    count: int


def cut_line(extent: int, low: int, high: int, most: int) -> list[Tiles]:
    """Cut 0 .. ``extent`` - 1 into tiles of at most ``most``; outside ``low`` .. ``high`` every tile is for its place.

    Few tiles are all made for their place. Tiles are of nearly equal size.
    """
    count = -(-extent // most)
    if count <= 2 or high - low + 1 < most:
        return _alone(0, extent, count)
    best: tuple[int, int, list[Tiles]] | None = None
    for size in range(most, max(most // 2, 1), -1):
        runs = (high - low + 1) // size
        for repeats in (runs, runs - 1):
            rest = extent - repeats * size
            if repeats < 1 or rest < low + extent - 1 - high:
                continue
            before = max(low, min(rest - (extent - 1 - high), rest // 2 if low or high < extent - 1 else 0))
            after = rest - before
            cut = [
                *_alone(0, before, -(-before // most)),
                Tiles(before, size, repeats),
                *_alone(before + repeats * size, after, -(-after // most)),
            ]
            smallest = min(t.size for t in cut)
            rank = (sum(t.count for t in cut) + len(cut), -smallest)
            if best is None or rank < best[:2]:
                best = (*rank, cut)
    return best[2] if best is not None else _alone(0, extent, count)


def _alone(start: int, extent: int, count: int) -> list[Tiles]:
    """Return ``count`` tiles of nearly equal size, each by itself."""
    tiles: list[Tiles] = []
    for number in range(count):
        size = extent // count + (number < extent % count)
        tiles.append(Tiles(start, size, 1))
        start += size
    return tiles
