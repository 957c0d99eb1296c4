"""Window reductions several neighbours at a time: weights are read once for all, overlapping reads once.

Inside the padding tiles of neighbours run without tests; what is left of a line
runs one by one. It must not know tasks.
"""

from __future__ import annotations

from math import prod

from dlc.codegen.row_interior import inside_test, interior_ranges
from dlc.codegen.row_problem import RowProblem
from dlc.codegen.rows_across import MOST_UNROLLED, AcrossRows, Tile
from dlc.codegen.schedule_loops import serial
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.cost import distinct
from dlc.ir.expr import Load, Var, apply, const, select
from dlc.ir.kernel import For, If, Let, LoopKind, Stmt
from dlc.ir.simplify import depends_on

_SIZES = (5, 4, 6, 3)
STEP, SKIPPED = Var("tile"), Var("skipped")


def tiled_line(problem: RowProblem, lanes: int, target: CpuTarget) -> list[Stmt] | None:
    """Return the loop over the last axis but one of ``problem`` in tiles; None where tiles gain nothing."""
    if len(problem.kept) < 2 or not _shares_weights(problem):
        return None
    axis, inner = problem.kept[-2], problem.kept[-1]
    found = interior_ranges(problem, inner)
    ranges, inside = found if found is not None else ({}, problem)
    low, high = ranges.pop(axis.var, (0, axis.extent - 1))
    sizes = _SIZES if target.vector_registers >= 32 else _SIZES[1::2]
    size = max(sizes, key=lambda n: (high - low + 1) // n * n)
    count = (high - low + 1) // size
    if count == 0:
        return None
    vectors = 2 if target.vector_registers >= 32 and inner.extent >= 2 * lanes else 1
    tile = Tile(axis, apply("add", apply("mul", STEP, const(size)), const(low)), size)
    tiles: list[Stmt] = [serial(Axis(STEP, count), AcrossRows(inside, lanes, vectors, tile).statements())]
    covered = count * size
    before: list[Stmt] = []
    skipped = const(covered)
    if ranges:  # lines at the edge have no tiles
        test = inside_test(problem, ranges)
        before.append(Let(SKIPPED, select(test, const(covered), const(0))))
        tiles = [If(test, tuple(tiles))]
    elif covered == axis.extent:
        return tiles
    else:
        before.append(Let(SKIPPED, skipped))
    rest = Var(f"{axis.var.name}_rest")
    jump = select(apply("greater_equal", rest, const(low)), SKIPPED, const(0)) if low else SKIPPED
    one_by_one = AcrossRows(problem, lanes, vectors).statements()
    left = apply("sub", const(axis.extent), SKIPPED)
    body = (Let(axis.var, apply("add", rest, jump)), *one_by_one)
    return [*before, *tiles, For(rest, left, LoopKind.SERIAL, body)]


def _shares_weights(problem: RowProblem) -> bool:
    """Tell whether neighbours read the same vectors: a short window with weights of its own."""
    if len(problem.stages) != 1 or not 1 < prod(a.extent for a in problem.reduced) <= MOST_UNROLLED:
        return False
    stage = problem.stages[0]
    if stage.writes or stage.keeps or len(stage.reductions) != 1 or stage.reductions[0].position is not None:
        return False
    axis, inner = problem.kept[-2].var, problem.kept[-1].var
    loads = [e for e in distinct([stage.reductions[0].value]) if isinstance(e, Load)]
    shared = any(depends_on(e, {inner}) and not depends_on(e, {axis}) for e in loads)
    return shared and any(depends_on(e, {axis}) for e in loads)
