"""Lowers a group of nodes in index form: one pointwise nest, one row problem, or stage by stage.

It must not know how single schedules work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.kernel_builder import KernelBuilder
from dlc.codegen.loops.bindings import stays
from dlc.codegen.loops.blocks import TASK_WORK
from dlc.codegen.loops.combiners import POSITIONS
from dlc.codegen.loops.nest import axis_simplifier, loads
from dlc.codegen.loops.pointwise import Assignment, pointwise_body
from dlc.codegen.lower.in_place import Pairs, pointwise_pairs, row_pairs
from dlc.codegen.places import Place, placed, places_of, whole
from dlc.codegen.rows.group import row_problem
from dlc.codegen.rows.problem import Reduction, RowProblem, Stage, Write
from dlc.codegen.rows.schedule import row_body, rows_of, work_of
from dlc.codegen.rows.split import split_rows, wants_split
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.compute import Axis, Compute
from dlc.ir.expr import Expr, Var, substitute
from dlc.ir.graph import Node, Value
from dlc.ir.lowering import KernelCall, Lowered
from dlc.ir.placement import CONTIGUOUS, Placement
from dlc.ir.simplify import Simplifier, linear_index, unravel


def lower_group(
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    target: CpuTarget,
    threads: int,
    placement: Placement = CONTIGUOUS,
) -> Lowered:
    """Return the kernel calls that compute ``outputs`` of a body of ``nodes`` over ``inputs``."""
    lowering = GroupLowering(nodes, inputs, outputs, target, threads, placement)
    return lowering.lowered()


class GroupLowering:
    """The lowering of one group; use ``lower_group``."""

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        target: CpuTarget,
        threads: int,
        placement: Placement,
    ) -> None:
        self.group = ComputeGroup(inputs, nodes)
        self.outputs = [v for v in outputs if v.type.size != 0]
        self.target = target
        self.threads = threads
        self.builder = KernelBuilder([v.type for v in inputs], [v.type for v in outputs])
        self.sources, self.results = places_of(inputs, outputs, placement)
        for place in (*self.sources.values(), *self.results.values()):
            self.builder.reach(place)
        self.placed = placed(outputs, self.results, placement)
        for value in outputs:
            if value not in self.group.computes:
                raise CompileError(f"a fused node returns {value!r}, which its body does not compute")
        self.pairs: list[tuple[int, int]] = []
        self.note = ", ".join(dict.fromkeys(n.op.name for n in nodes))

    def lowered(self) -> Lowered:
        """Choose a form and lower to it."""
        if not self.outputs:
            return Lowered((), placed=self.placed)
        live = self._live_reductions()
        if not live:
            calls = self._pointwise(self.outputs, self.group.inline(()))
        else:
            calls = self._as_rows() or self._stage_by_stage(live)
        pairs = tuple(self.pairs) if len(calls) == 1 else ()
        return Lowered(tuple(calls), tuple(self.builder.temporaries), pairs, self.placed)

    def _live_reductions(self) -> list[Value]:
        needed = set(self.outputs)
        for value in reversed(self.group.computes):
            if value in needed:
                needed.update(self.group.operands[value])
        return [v for v in self.group.reductions if v in needed]

    # -- pointwise -------------------------------------------------------------------------------

    def _pointwise(self, values: Sequence[Value], computes: Mapping[Value, Compute]) -> list[KernelCall]:
        """One kernel per number of elements: outputs of other shapes are written at the same position."""
        by_size: dict[int, list[Value]] = {}
        for value in values:
            by_size.setdefault(prod(computes[value].shape), []).append(value)
        calls = []
        for same in by_size.values():
            axes = max((computes[v].axes for v in same), key=len)
            simplify = axis_simplifier(axes)
            position = linear_index(tuple(a.var for a in axes), tuple(a.extent for a in axes), simplify)
            assignments = []
            for value in same:
                body = self._at_position(computes[value], axes, position, simplify)
                place = self.results[value]
                body = loads(simplify(body), self.sources.__getitem__, simplify)
                assignments.append(Assignment(place.buffer, place.at(position, simplify), body))
            assignments = [a for a in assignments if not stays(a.buffer, a.index, a.value)]
            if not assignments:
                continue
            pairs = self._own(pointwise_pairs(assignments, self.builder.types)) if len(by_size) == 1 else []
            statements = pointwise_body(axes, assignments, self.target, self.threads)
            if statements:
                calls.append(self.builder.call("pointwise", statements, self.note, pairs=pairs))
                self._pair(pairs)
        return calls

    @staticmethod
    def _at_position(compute: Compute, axes: Sequence[Axis], position: Expr, simplify: Simplifier) -> Expr:
        """Return the value of a pointwise Compute at a row-major ``position`` given by other ``axes``."""
        if compute.axes == axes:
            return compute.body
        same_shape = compute.shape == tuple(a.extent for a in axes)
        indices = [a.var for a in axes] if same_shape else unravel(position, compute.shape, simplify)
        return substitute(compute.body, {a.var: i for a, i in zip(compute.axes, indices, strict=True)})

    def _own(self, pairs: Pairs) -> Pairs:
        """Return the pairs of tensors that are buffers of their own: others share one with what lives on."""
        places = [*self.sources.values(), *self.results.values()]
        own = {p.buffer for p in places if p.is_whole and sum(q.buffer == p.buffer for q in places) == 1}
        return [(written, read) for written, read in pairs if written in own and read in own]

    def _pair(self, pairs: Pairs) -> None:
        self.pairs += [(int(written[1:]), int(read[1:])) for written, read in pairs]

    # -- rows ------------------------------------------------------------------------------------

    def _as_rows(self) -> list[KernelCall]:
        """The whole group as one row problem; nothing where it is none or its rows are too few."""
        problem = row_problem(self.group, self.outputs, self.results, self.sources)
        if problem is None:
            return []
        problem = problem.normalized()
        if len(problem.stages) > 1 and self.threads > 1:
            few = rows_of(problem, self.target) < self.threads
            if few and work_of(problem) > 4 * TASK_WORK * self.threads:
                return []
        return self._rows(problem)

    def _rows(self, problem: RowProblem) -> list[KernelCall]:
        parts = wants_split(problem, self.target, self.threads)
        if parts > 1:
            split = split_rows(problem, parts, self.builder.temporary, self.target)
            if split is not None:
                partial, combined = split
                second = row_body(combined.normalized(), self.target, self.threads)
                return [
                    self.builder.call("partial_reduction", partial, self.note),
                    self.builder.call("combine", second, self.note),
                ]
        pairs = self._own(row_pairs(problem, self.builder.types))
        body = row_body(problem, self.target, self.threads)
        if not body:
            return []
        name = "reduction" if len(problem.stages) == 1 else "rows"
        self._pair(pairs)
        return [self.builder.call(name, body, self.note, pairs=pairs)]

    # -- stage by stage -------------------------------------------------------------------------

    def _stage_by_stage(self, reductions: Sequence[Value]) -> list[KernelCall]:
        """Every reduction by itself into a buffer, then the pointwise outputs."""
        computes = self.group.inline((), [*dict.fromkeys([*reductions, *self.outputs])])
        calls: list[KernelCall] = []
        for value in reductions:
            place = self.results.get(value)
            if place is None:
                place = self.results[value] = whole(self.builder.temporary(value.type), value.type)
            self.sources[self.group.source(value)] = place
        for value in reductions:
            if value.type.size != 0:
                calls += self._rows(self._single(computes[value], self.results[value]))
        rest = [v for v in self.outputs if v not in set(reductions)]
        return calls + self._pointwise(rest, computes)

    def _single(self, compute: Compute, place: Place) -> RowProblem:
        """Return a lone reduction as a row problem."""
        assert compute.combiner is not None
        simplify = axis_simplifier((*compute.axes, *compute.reduce_axes))
        value = loads(simplify(compute.body), self.sources.__getitem__, simplify)
        result = Var("s0", compute.dtype)
        position = compute.reduce_axes[0].var if compute.combiner in POSITIONS else None
        index = place.index(compute.store, simplify)
        stage = Stage((Reduction(result, compute.combiner, value, position),))
        problem = RowProblem(compute.axes, compute.reduce_axes, (stage,), (Write(place.buffer, index, result),))
        return problem.normalized()
