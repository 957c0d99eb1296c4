"""Schedules pointwise groups: every output element from reads at its own index.

Outer axes become tasks, the innermost one vectors; loops are cut where a
selection on one axis changes sides, so that padding and concatenation cost no
test per element. It must not know ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from dlc.codegen.loops.bindings import names, place, stays, write_all
from dlc.codegen.loops.blocks import (
    TaskSplit,
    chunk_loop,
    parallel,
    serial_nest,
    split_tasks,
    vector_axis,
    vector_chunk,
    vector_lanes,
    wanted_tasks,
)
from dlc.codegen.loops.nest import Space, axis_simplifier, normalize
from dlc.codegen.loops.transpose import crossing_body, find_crossing
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.cost import cost, distinct
from dlc.ir.expr import Apply, Const, Expr, Load, Var, apply, const, substitute
from dlc.ir.kernel import If, Stmt
from dlc.ir.simplify import Bounds, Simplifier

_COMPARISONS = frozenset({"less", "less_equal", "greater", "greater_equal"})
_MOST_PIECES = 1000
_UNROLLED = ((8, 4), (24, 2))
"""Bodies of so much work at most: so many vectors, one after the other, before the loop goes on."""


@dataclass(frozen=True)
class Assignment:
    """``buffer[index] = value`` at every point of the axes."""

    buffer: str
    index: Expr
    value: Expr


class PointwiseSchedule:
    """Builds the statements of one pointwise nest; use ``pointwise_body``."""

    def __init__(self, targets: Sequence[str], target: CpuTarget, threads: int) -> None:
        self.targets = list(targets)
        self.target = target
        self.threads = threads
        self.fresh = names()

    def build(self, axes: Sequence[Axis], exprs: list[Expr]) -> tuple[Stmt, ...]:
        """Return the kernel body; ``exprs`` are all indices, then all values."""
        space = normalize(Space([list(axes)], exprs))
        axes, exprs = space.axes, space.exprs
        points = prod(a.extent for a in axes)
        if not points:
            return ()
        count = len(self.targets)
        crossing = find_crossing(axes, exprs[:count], exprs[count:])
        if crossing is not None:
            return crossing_body(crossing, self.targets, exprs[:count], exprs[count:], self.target, self.threads)
        values = exprs[count:]
        work = points * max(cost(values), 1)
        if not axes:
            return tuple(self._leaf([], exprs))
        inner = axes[-1]
        lanes, unroll = self._vectors(inner.extent, exprs)
        multiples = [1] * (len(axes) - 1) + [lanes * unroll]
        split = split_tasks([a.extent for a in axes], multiples, wanted_tasks(work, self.threads), self.threads)
        simplify = axis_simplifier(axes)
        task = Var("task")
        if split.tasks > 1 and split.full == len(axes) - 1:  # the vector axis itself is cut
            body = self._tasks_of_vector_axis(axes, exprs, split, task, lanes, unroll)
        elif split.tasks > 1:
            bound, rest = axes[: split.full + 1], axes[split.full + 1 :]
            body = chunk_loop(axes[split.full], task, split, self._decided(bound, rest, exprs, simplify))
        else:
            body = self._decided(axes[: split.full], axes[split.full :], exprs, simplify)
        return parallel(axes, split, task, body)

    def _vectors(self, extent: int, exprs: Sequence[Expr]) -> tuple[int, int]:
        """Return the lanes of a vector and how many vectors an iteration of the loop computes.

        A long chain of operations fills the window within which a processor reorders them. Two registers are then one
        vector, so that every operation is done for both before the next; not where formulas look tables up, which
        fit one register of AVX-512.
        """
        values = exprs[len(self.targets) :]
        sizes = [v.dtype.itemsize for v in values] + [e.dtype.itemsize for e in distinct(values) if isinstance(e, Load)]
        wide = [s for s in sizes if s >= 4] or sizes
        lanes = vector_lanes(self.target, [min(wide)], extent)
        weight = cost(values)
        unroll = next((count for most, count in _UNROLLED if weight <= most), 1)
        while unroll > 1 and lanes * unroll > extent:
            unroll //= 2
        if weight > _UNROLLED[-1][0] and not self.target.has_masks and extent % (2 * lanes) == 0:
            lanes *= 2
        return lanes, unroll

    # -- deciding selections on outer axes ----------------------------------------------------

    def _decided(
        self, bound: Sequence[Axis], rest: Sequence[Axis], exprs: list[Expr], simplify: Simplifier
    ) -> list[Stmt]:
        """Test what selections ask of the ``bound`` axes outside the loops over ``rest``."""
        for position, axis in enumerate(bound):
            if not _cuts(axis, exprs):
                continue
            pieces = [
                (high, self._decided(bound[position + 1 :], rest, inner, narrow))
                for _, high, inner, narrow in _pieces(axis, exprs, simplify)
            ]
            return _choice(axis.var, pieces)
        return self._nest(rest, exprs, simplify)

    def _nest(self, axes: Sequence[Axis], exprs: list[Expr], simplify: Simplifier) -> list[Stmt]:
        """Emit the loops over ``axes``, one nest per piece of an axis on which selections change sides."""
        for position, axis in enumerate(axes):
            if not _cuts(axis, exprs):
                continue
            statements: list[Stmt] = []
            for low, high, inside, _ in _pieces(axis, exprs, simplify):
                piece = Axis(axis.var, high - low)
                narrow = simplify.narrowed({axis.var: (0, high - low - 1)})
                moved = [narrow(substitute(e, {axis.var: apply("add", axis.var, const(low))})) for e in inside]
                inner = [piece, *axes[position + 1 :]] if high - low > 1 else list(axes[position + 1 :])
                space = normalize(Space([inner], moved, _without(narrow, inner)))
                statements += self._nest(space.axes, space.exprs, space.simplifier)
            return serial_nest(axes[:position], statements) if statements else []
        return self._leaf(axes, exprs)

    # -- leaves -----------------------------------------------------------------------------------

    def _writes(self, exprs: Sequence[Expr]) -> list[tuple[str, Expr, Expr]]:
        count = len(self.targets)
        return list(zip(self.targets, exprs[:count], exprs[count:], strict=True))

    def _leaf(self, axes: Sequence[Axis], exprs: Sequence[Expr]) -> list[Stmt]:
        """A nest without undecided selections on one axis: serial loops around vectors."""
        writes = [w for w in self._writes(exprs) if not stays(*w)]
        if not writes:
            return []
        depth = len(axes)
        levels = {a.var: k + 1 for k, a in enumerate(axes)}
        lets, values = place([value for _, _, value in writes], levels, depth, self.fresh)
        stores = write_all([(b, i, v) for (b, i, _), v in zip(writes, values, strict=True)], self.fresh)
        if not axes:
            return [*lets[0], *stores]
        inner = axes[-1]
        lanes, unroll = self._vectors(inner.extent, exprs)
        body = vector_axis(inner.var, const(0), inner.extent, lanes, unroll, [*lets[depth], *stores])
        return [*lets[0], *serial_nest(axes[:-1], body, lets[1:depth])]

    def _tasks_of_vector_axis(
        self, axes: Sequence[Axis], exprs: list[Expr], split: TaskSplit, task: Var, lanes: int, unroll: int
    ) -> list[Stmt]:
        count, inner = len(self.targets), axes[-1]
        lets, values = place(exprs[count:], {inner.var: 1}, 1, self.fresh)
        stores = write_all(self._writes([*exprs[:count], *values]), self.fresh)
        chunk = vector_chunk(
            inner.var, task, split.chunk, split.tasks, inner.extent, lanes, unroll, [*lets[1], *stores]
        )
        return [*lets[0], *chunk]


def _pieces(axis: Axis, exprs: list[Expr], simplify: Simplifier) -> list[tuple[int, int, list[Expr], Simplifier]]:
    """Cut ``axis`` wherever selections change: (begin, end, expressions inside, their simplifier) in order.

    Halving keeps the work of many pieces small.
    """
    done: list[tuple[int, int, list[Expr], Simplifier]] = []
    pending = [(0, axis.extent, exprs, simplify)]
    while pending:
        low, high, inside, narrow = pending.pop()
        cuts = [c for c in _cuts(axis, inside) if low < c < high]
        if not cuts:
            done.append((low, high, inside, narrow))
            continue
        middle = cuts[len(cuts) // 2]
        for begin, end in ((middle, high), (low, middle)):
            part = narrow.narrowed({axis.var: (begin, end - 1)})
            pending.append((begin, end, [part(e) for e in inside], part))
    return done


def _choice(var: Var, pieces: Sequence[tuple[int, list[Stmt]]]) -> list[Stmt]:
    """Return tests that run the piece, given with the index where it ends, that ``var`` lies in."""
    if len(pieces) == 1:
        return pieces[0][1]
    middle = len(pieces) // 2
    below, above = _choice(var, pieces[:middle]), _choice(var, pieces[middle:])
    return [If(apply("less", var, const(pieces[middle - 1][0])), tuple(below), tuple(above))]


def _without(simplify: Simplifier, axes: Sequence[Axis]) -> Bounds:
    inside = {a.var for a in axes}
    return {v: interval for v, interval in simplify.bounds.items() if v not in inside}


def pointwise_body(
    axes: Sequence[Axis], assignments: Sequence[Assignment], target: CpuTarget, threads: int
) -> tuple[Stmt, ...]:
    """Return the body of a kernel that makes every assignment at every point of ``axes``."""
    schedule = PointwiseSchedule([a.buffer for a in assignments], target, threads)
    return schedule.build(axes, [*(a.index for a in assignments), *(a.value for a in assignments)])


def _cuts(axis: Axis, exprs: Sequence[Expr]) -> list[int]:
    """Return where selections on ``axis`` alone change sides; empty where cutting would not pay."""
    cuts: set[int] = set()
    for expr in distinct(exprs):
        if isinstance(expr, Apply) and expr.op == "select":
            for test in distinct([expr.args[0]]):
                cut = _cut_of(test, axis)
                if cut is not None and 0 < cut < axis.extent:
                    cuts.add(cut)
    if not cuts or len(cuts) >= _MOST_PIECES:
        return []
    return sorted(cuts)


def _cut_of(test: Expr, axis: Axis) -> int | None:
    """Return the first index at which a comparison of ``axis`` with a literal changes, else None."""
    match test:
        case Apply(op=op, args=(left, Const(value=limit))) if op in _COMPARISONS:
            factor = 1
            match left:
                case Var() if left == axis.var:
                    pass
                case Apply(op="mul", args=(Var() as var, Const(value=c))) if var == axis.var and int(c) > 0:
                    factor = int(c)
                case _:
                    return None
            if op in ("less", "greater_equal"):  # changes at the first i with i*factor >= limit
                return -(-int(limit) // factor)
            return int(limit) // factor + 1  # changes at the first i with i*factor > limit
    return None
