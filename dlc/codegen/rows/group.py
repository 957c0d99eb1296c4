"""Recognises row problems in groups: reductions over one space and pointwise work along the same rows.

Matches by shapes and index expressions only; what does not fit gives None and is
lowered stage by stage. It must not know loops or targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.loops.bindings import stays
from dlc.codegen.loops.combiners import POSITIONS
from dlc.codegen.loops.nest import loads
from dlc.codegen.places import Place
from dlc.codegen.rows.problem import Keep, Reduction, RowProblem, Stage, Write
from dlc.ir.compute import Axis, Compute
from dlc.ir.cost import distinct, node_cost
from dlc.ir.expr import Expr, Load, Read, Var, const, substitute, transform
from dlc.ir.graph import Value
from dlc.ir.simplify import Simplifier, depends_on, linear_index, unravel

_WORTH_KEEPING = 4
"""Least work per element at which a value is kept between stages instead of computed again."""


@dataclass
class Space:
    """The kept and reduced axes of a row problem; ``full`` lists them by the dimensions of the reduced tensor."""

    kept: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    full: tuple[Axis, ...] | None

    @property
    def bounds(self) -> dict[Var, tuple[int, int]]:
        return {a.var: (0, max(a.extent - 1, 0)) for a in (*self.kept, *self.reduced)}


def row_problem(
    group: ComputeGroup, outputs: Sequence[Value], results: Mapping[Value, Place], sources: Mapping[int, Place]
) -> RowProblem | None:
    """Return the group as one row problem writing ``outputs``, or None where its parts do not share rows.

    ``results`` says where outputs are written, ``sources`` (by source number) where inputs are read.
    """
    reductions = group.reductions
    if not reductions:
        return None
    computes = group.inline(())
    space = _space_of(group, reductions[0])
    simplify = Simplifier(space.bounds)
    builder = _Builder(group, space, simplify, sources)
    for value in reductions:
        if not builder.add_reduction(value, computes[value]):
            return None
    for value in outputs:
        if not builder.add_output(value, computes[value], results[value]):
            return None
    return builder.problem()


def _space_of(group: ComputeGroup, value: Value) -> Space:
    compute = group.computes[value]
    kept = tuple(Axis(Var(f"k{n}"), a.extent) for n, a in enumerate(compute.axes))
    reduced = tuple(Axis(Var(f"r{n}"), a.extent) for n, a in enumerate(compute.reduce_axes))
    mapping = {a.var: b for a, b in zip((*compute.axes, *compute.reduce_axes), (*kept, *reduced), strict=True)}
    full = None
    if isinstance(compute.body, Read):
        index = compute.body.indices
        if all(isinstance(i, Var) and i in mapping for i in index) and len(set(index)) == len(index):
            full = tuple(mapping[i] for i in index if isinstance(i, Var))
            missing = set((*kept, *reduced)) - set(full)
            if any(a.extent != 1 for a in missing):
                full = None
    return Space(kept, reduced, full)


class _Builder:
    def __init__(self, group: ComputeGroup, space: Space, simplify: Simplifier, sources: Mapping[int, Place]) -> None:
        self.group = group
        self.space = space
        self.simplify = simplify
        self.sources = sources
        self.results: dict[Value, Var] = {}
        self.levels: dict[Var, int] = {}
        self.reductions: dict[int, list[Reduction]] = {}
        self.writes: dict[int, list[Write]] = {}
        self.row_writes: list[Write] = []
        self.indices: dict[Value, tuple[Expr, ...]] = {}

    def add_reduction(self, value: Value, compute: Compute) -> bool:
        """Add a reduction if it runs over the same kept and reduced axes."""
        space = self.space
        mapping: dict[Expr, Expr]
        original = self.group.computes[value]
        pairs = zip((*compute.axes, *compute.reduce_axes), (*space.kept, *space.reduced))
        if not self.results:
            mapping = {a.var: b.var for a, b in pairs}
        else:
            found = self._match(original)
            if found is None:
                return False
            mapping = found
        kept = {a.var for a in space.kept}
        index = tuple(self.simplify(substitute(s, mapping)) for s in compute.store)
        if any(depends_on(i, {a.var for a in space.reduced}) for i in index):
            return False
        if {v for i in index for v in distinct([i]) if isinstance(v, Var)} - kept:
            return False
        body = self._expression(compute.body, mapping)
        if body is None:
            return False
        number = len(self.results)
        result = Var(f"s{number}", compute.dtype)
        position = None
        if compute.combiner in POSITIONS:
            position = mapping[compute.reduce_axes[0].var]
        assert compute.combiner is not None
        level = self._level(body)
        self.levels[result] = level
        self.reductions.setdefault(level, []).append(Reduction(result, compute.combiner, body, position))
        self.results[value] = result
        self.indices[value] = index
        return True

    def _match(self, original: Compute) -> dict[Expr, Expr] | None:
        """Map the axes of another reduction to the space by the dimensions of the tensor that it reduces."""
        full = self.space.full
        body = original.body
        if full is None or not isinstance(body, Read) or len(body.indices) != len(full):
            return None
        axes = {a.var: a for a in (*original.axes, *original.reduce_axes)}
        reduced = {a.var for a in original.reduce_axes}
        mapping: dict[Expr, Expr] = {}
        for index, axis in zip(body.indices, full, strict=True):
            if not isinstance(index, Var) or index not in axes or axes[index].extent != axis.extent:
                return None
            if axis.extent != 1 and (index in reduced) != (axis in self.space.reduced):
                return None
            mapping[index] = axis.var
        for var, axis in axes.items():
            if var not in mapping:
                if axis.extent != 1:
                    return None
                mapping[var] = const(0)
        return mapping

    def add_output(self, value: Value, compute: Compute, place: Place) -> bool:
        """Add the write of an output: a reduction's result, a value per row, or a value per element."""
        space = self.space
        if value in self.results:
            index = place.index(self.indices[value], self.simplify)
            self.row_writes.append(Write(place.buffer, index, self.results[value]))
            return True
        size = prod(compute.shape)
        kept_size = prod(a.extent for a in space.kept)
        if space.full is not None and size == prod(a.extent for a in space.full):
            axes, is_row = space.full, size == kept_size and all(a.extent == 1 for a in space.reduced)
        elif size == kept_size:
            axes, is_row = space.kept, True
        else:
            return False
        position = linear_index(tuple(a.var for a in axes), tuple(a.extent for a in axes), self.simplify)
        indices = unravel(position, compute.shape, self.simplify)
        mapping: dict[Expr, Expr] = {a.var: i for a, i in zip(compute.axes, indices, strict=True)}
        body = self._expression(compute.body, mapping)
        if body is None:
            return False
        write = Write(place.buffer, place.at(position, self.simplify), body)
        if stays(write.buffer, write.index, body):
            return True
        if is_row or (not depends_on(position, {a.var for a in space.reduced}) and axes is space.kept):
            self.row_writes.append(write)
        else:
            self.writes.setdefault(self._level(body), []).append(write)
        return True

    def _expression(self, body: Expr, mapping: Mapping[Expr, Expr]) -> Expr | None:
        """Return ``body`` over the space, reads of earlier results as their names; None where rows do not match."""
        moved = self.simplify(substitute(body, mapping))
        failed = False

        def rule(expr: Expr) -> Expr | None:
            nonlocal failed
            if isinstance(expr, Read):
                value = self.group.sources[expr.input]
                if value in self.results:
                    if expr.indices != self.indices[value]:
                        failed = True
                    return self.results[value]
                if expr.input not in self.sources:
                    failed = True
            return None

        named = transform(moved, rule)
        if failed:
            return None
        return loads(named, self.sources.__getitem__, self.simplify)

    def _level(self, expr: Expr) -> int:
        found = [self.levels[e] for e in distinct([expr]) if isinstance(e, Var) and e in self.levels]
        return max(found) + 1 if found else 0

    def problem(self) -> RowProblem:
        """Return the collected problem with values shared by stages kept."""
        last = max([*self.reductions, *self.writes], default=0)
        stages = [Stage(tuple(self.reductions.get(n, ())), tuple(self.writes.get(n, ()))) for n in range(last + 1)]
        problem = RowProblem(self.space.kept, self.space.reduced, tuple(stages), tuple(self.row_writes))
        return share_between_stages(problem)


def share_between_stages(problem: RowProblem) -> RowProblem:
    """Keep what several stages compute alike, where computing it again costs more than reading it back."""
    reduced = {a.var for a in problem.reduced}
    stages = list(problem.stages)
    number = 0
    for later in range(1, len(stages)):
        earlier: dict[Expr, int] = {}
        for n in reversed(range(later)):
            for expr in distinct(_values(stages[n])):
                earlier[expr] = n
        for node in _shared(_values(stages[later]), earlier, reduced):
            origin = earlier[node]
            name = Var(f"e{number}", node.dtype)
            number += 1
            written = next((w for w in stages[origin].writes if w.value == node), None)
            keep = Keep(name, node, written.buffer, written.index) if written else Keep(name, node)
            for n in range(origin, len(stages)):
                stages[n] = _replace(stages[n], node, name)
            stages[origin] = replace(stages[origin], keeps=_ordered((*stages[origin].keeps, keep)))
    return replace(problem, stages=tuple(stages))


def _values(stage: Stage) -> list[Expr]:
    return [k.value for k in stage.keeps] + [r.value for r in stage.reductions] + [w.value for w in stage.writes]


def _shared(roots: Sequence[Expr], earlier: Mapping[Expr, int], reduced: set[Var]) -> list[Expr]:
    """Return the largest subexpressions of ``roots`` that an earlier stage has, vary along the row and are costly."""
    found: dict[Expr, None] = {}
    seen: set[int] = set()
    pending = list(roots)
    while pending:
        current = pending.pop()
        if id(current) in seen or current in found:
            continue
        seen.add(id(current))
        if current in earlier and not isinstance(current, Load | Var) and depends_on(current, reduced):
            if row_cost(current, reduced) >= _WORTH_KEEPING:
                found[current] = None
                continue
        operands = getattr(current, "args", ())
        if getattr(current, "op", "") == "select":
            operands = operands[:1]  # what is computed behind a selection only is not worth a scratch row
        pending += operands
    return list(found)


def row_cost(expr: Expr, reduced: set[Var]) -> int:
    """Estimate the work per element of ``expr``, leaving out what is the same along the row."""
    return sum(node_cost(node) for node in distinct([expr]) if depends_on(node, reduced))


def _ordered(keeps: Sequence[Keep]) -> tuple[Keep, ...]:
    """Return keeps such that each comes after those that its value refers to."""
    waiting, done = list(keeps), []
    while waiting:
        names = {k.name for k in waiting}
        ready = [k for k in waiting if not depends_on(k.value, names - {k.name})]
        done += ready
        waiting = [k for k in waiting if k not in ready]
    return tuple(done)


def _replace(stage: Stage, node: Expr, name: Var) -> Stage:
    problem = RowProblem((), (), (stage,)).map(lambda e: substitute(e, {node: name}))
    return problem.stages[0]
