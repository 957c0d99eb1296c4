"""Rows whose lanes are rows: vectors run along a kept axis, every lane reduces by itself.

For reductions over outer axes and for windows over channels-last tensors.
Accumulators stay in registers while the reduced axes run. It must not know tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod

from dlc.codegen.loops.bindings import names, place, write_all
from dlc.codegen.loops.blocks import LANE, TaskSplit, serial
from dlc.codegen.loops.combiners import POSITIONS, accumulate, accumulation_dtype, identity, result_of
from dlc.codegen.loops.guards import guarded
from dlc.codegen.loops.nest import axis_simplifier
from dlc.codegen.rows.along import is_better
from dlc.codegen.rows.problem import Reduction, RowProblem, Stage
from dlc.ir.compute import Axis
from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Expr, Load, Var, apply, cast, const, select, substitute
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, If, Let, LoopKind, Space, Stmt, Store
from dlc.ir.simplify import depends_on, linear_index
from dlc.ir.types import DType, bool_, int64

SLOT = Var("slot")
LONGEST_CHAIN = 128
LARGEST_SCRATCH = 1 << 16
MOST_UNROLLED = 9
MOST_TESTED = 3
Make = Callable[[], Sequence[Stmt]]


class _Block:
    """How wide the block of rows at hand is: ``parts`` vectors of ``width`` lanes from ``start`` on."""

    def __init__(self, start: Expr, parts: int, width: int, active: int) -> None:
        self.start = start
        self.parts = parts
        self.width = width
        self.active = active

    @property
    def slots(self) -> int:
        return self.parts * self.width


class AcrossRows:
    """Builds the statements for blocks of ``unroll`` * ``lanes`` neighbouring rows along the last kept axis."""

    def __init__(self, problem: RowProblem, lanes: int, unroll: int) -> None:
        self.problem = problem
        self.inner = problem.kept[-1]
        self.lanes = lanes
        self.unroll = unroll
        self.fresh = names()
        self.simplify = axis_simplifier((*problem.kept, *problem.reduced), problem.outer)
        self.length = prod(a.extent for a in problem.reduced)
        self.mapping: dict[Expr, Expr] = {}

    def statements(self) -> list[Stmt]:
        """Return the loops over the whole last kept axis."""
        block = self.lanes * self.unroll
        count, rest = divmod(self.inner.extent, block)
        body: list[Stmt] = []
        if count:
            step = Axis(Var("rows"), count)
            start = apply("mul", step.var, const(block))
            body.append(serial(step, self._block(_Block(start, self.unroll, self.lanes, self.lanes))))
        return body + self._rest(count * block, rest)

    def chunk(self, task: Var, split: TaskSplit) -> list[Stmt]:
        """Return the loops over the part of the last kept axis that belongs to ``task``."""
        block = self.lanes * self.unroll
        per_task, total = split.chunk // block, self.inner.extent // block
        body: list[Stmt] = []
        if total:
            left = apply("sub", const(total), apply("mul", task, const(per_task)))
            count = const(per_task) if per_task * split.tasks == total else apply("minimum", const(per_task), left)
            start = apply("add", apply("mul", task, const(split.chunk)), apply("mul", Var("rows"), const(block)))
            rows = self._block(_Block(start, self.unroll, self.lanes, self.lanes))
            body.append(For(Var("rows"), count, LoopKind.SERIAL, tuple(rows)))
        ending = self._rest(total * block, self.inner.extent - total * block)
        if ending:
            body.append(If(apply("equal", task, const(split.tasks - 1)), tuple(ending)))
        return body

    def _rest(self, start: int, count: int) -> list[Stmt]:
        body: list[Stmt] = []
        parts, tail = divmod(count, self.lanes)
        if parts:
            body += self._block(_Block(const(start), parts, self.lanes, self.lanes))
        if tail:
            width = self.lanes
            while width > 1 and width // 2 >= tail:
                width //= 2
            body += self._block(_Block(const(start + parts * self.lanes), 1, width, tail))
        return body

    # -- one block of rows ----------------------------------------------------------------------

    def _vectors(self, block: _Block, body: Sequence[Stmt]) -> Stmt:
        """Run ``body`` for every row of the block, lanes at a time; ``slot`` counts the rows of the block."""
        part = Var("part")
        row: Expr = LANE if block.parts == 1 else apply("add", apply("mul", part, const(block.width)), LANE)
        lets = (Let(SLOT, row), Let(self.inner.var, apply("add", block.start, row)))
        inside = apply("less", LANE, const(block.active)) if block.active < block.width else None
        vectors: Stmt = For(LANE, const(block.width), LoopKind.VECTOR, (*lets, *body), active=inside)
        return For(part, const(block.parts), LoopKind.UNROLL, (vectors,)) if block.parts > 1 else vectors

    def _block(self, block: _Block) -> list[Stmt]:
        self.mapping = {}
        body: list[Stmt] = []
        for number, stage in enumerate(self.problem.stages):
            body += self._stage(number, stage, block)
        writes = self.problem.row_writes
        if writes:
            lets, values = place([self._known(w.value) for w in writes], self._row_levels, 1, self.fresh)
            stores = write_all([(w.buffer, w.index, v) for w, v in zip(writes, values, strict=True)], self.fresh)
            body += [*lets[0], self._vectors(block, [*lets[1], *stores])]
        return body

    @property
    def _row_levels(self) -> dict[Var, int]:
        """The variables that differ between the rows of a block."""
        return {self.inner.var: 1, SLOT: 1}

    def _known(self, expr: Expr) -> Expr:
        return substitute(expr, self.mapping) if self.mapping else expr

    def _stage(self, number: int, stage: Stage, block: _Block) -> list[Stmt]:
        before: list[Stmt] = []
        stores: list[tuple[str, Expr, Expr]] = []
        later: dict[Expr, Expr] = {}
        for keep in stage.keeps:
            value = self._known(keep.value)
            self.mapping[keep.name] = value
            if keep.buffer and keep.index is not None:
                later[keep.name] = Load(keep.buffer, keep.index, value.dtype)
            elif self._needed_after(number, keep.name) and self.length * block.slots <= LARGEST_SCRATCH:
                size = self.length * block.slots
                scratch = Buffer(f"row_{keep.name.name}", value.dtype, size, Space.LOCAL, writable=True)
                before.append(Alloc(scratch))
                index = self._scratch_index(block)
                stores.append((scratch.name, index, value))
                later[keep.name] = Load(scratch.name, index, value.dtype)
        stores += [(w.buffer, w.index, self._known(w.value)) for w in stage.writes]
        accumulators = [_Accumulator(f"a{number}_{k}", r, block) for k, r in enumerate(stage.reductions)]
        wide = [cast(self._known(a.reduction.value), a.dtype) for a in accumulators]
        condition, wide = self._common_guard(accumulators, wide, bool(stores))
        levels = {**self._row_levels, **{a.var: 2 for a in self.problem.reduced}}
        lets, placed = place([*(v for _, _, v in stores), *wide], levels, 2, self.fresh)
        invariant, reload = self._invariants(lets[1], block)
        body: list[Stmt] = [*reload, *lets[2]]
        for accumulator, value in zip(accumulators, placed[len(stores) :], strict=True):
            body += accumulator.update(value)
        body += write_all([(b, i, v) for (b, i, _), v in zip(stores, placed, strict=False)], self.fresh)
        inner: list[Stmt] = [self._vectors(block, body)]
        if condition is not None:
            inner = [If(condition, tuple(inner))]
        begin = [s for a in accumulators for s in a.begin(self, block)]
        end = [s for a in accumulators for s in a.end(self, block)]
        self.mapping.update(later)
        self.mapping.update({a.reduction.result: a.result for a in accumulators})
        return [*before, *begin, *lets[0], *invariant, *self._loops(inner, accumulators, block), *end]

    def _needed_after(self, number: int, name: Var) -> bool:
        stages = self.problem.stages[number + 1 :]
        return any(e == name for s in stages for e in distinct(RowProblem((), (), (s,)).exprs()))

    def _scratch_index(self, block: _Block) -> Expr:
        axes = self.problem.reduced
        place_ = linear_index(tuple(a.var for a in axes), tuple(a.extent for a in axes), self.simplify)
        return apply("add", apply("mul", place_, const(block.slots)), SLOT)

    def _invariants(self, lets: Sequence[Let], block: _Block) -> tuple[list[Stmt], list[Stmt]]:
        """Compute what differs between rows only once; return the statements and the Lets that read it back."""
        if not lets or self.length <= 1:
            return [], list(lets)
        statements: list[Stmt] = []
        body: list[Stmt] = list(lets)
        reload: list[Stmt] = []
        for let in lets:
            name = f"row_{let.var.name}"
            statements.append(Alloc(Buffer(name, let.var.dtype, block.slots, Space.LOCAL, writable=True)))
            body.append(Store(name, SLOT, let.var))
            reload.append(Let(let.var, Load(name, SLOT, let.var.dtype)))
        return [*statements, self._vectors(block, body)], reload

    def _common_guard(
        self, accumulators: Sequence[_Accumulator], values: list[Expr], stores: bool
    ) -> tuple[Expr | None, list[Expr]]:
        """Turn ``select(condition, x, identity)``, where the condition is one for all rows, into a test around."""
        if stores or not accumulators or any(a.by_position for a in accumulators):
            return None, values
        found = [guarded(v, a.combiner) for v, a in zip(values, accumulators, strict=True)]
        if any(f is None or f[0] != found[0][0] for f in found):  # type: ignore[index]
            return None, values
        condition = found[0][0]  # type: ignore[index]
        if depends_on(condition, {*self._row_levels, *(a for a in self.mapping if isinstance(a, Var))}):
            return None, values
        if any(isinstance(e, Load) for e in distinct([condition])):
            return None, values
        return condition, [f[1] for f in found if f is not None]

    def _loops(self, inner: list[Stmt], accumulators: Sequence[_Accumulator], block: _Block) -> list[Stmt]:
        """Return the loops over the reduced axes; long chains of additions go through totals."""
        axes = self.problem.reduced
        if self.length <= MOST_UNROLLED and all(len(s.body) < 40 for s in inner if isinstance(s, For)):
            for axis in reversed(axes):
                inner = [serial(axis, inner, LoopKind.UNROLL)]
            return inner
        summed = [a for a in accumulators if a.loses_digits]
        if not summed or self.length <= LONGEST_CHAIN:
            return self._around(inner, axes)
        begin = [s for a in summed for s in a.begin_total(self, block)]
        flush = [s for a in summed for s in a.flush(self, block)]
        end = [s for a in summed for s in a.use_total(self, block)]
        last = axes[-1]
        if last.extent > LONGEST_CHAIN:
            count = -(-last.extent // LONGEST_CHAIN)
            start = apply("mul", Var("block"), const(LONGEST_CHAIN))
            size: Expr = const(LONGEST_CHAIN)
            if count * LONGEST_CHAIN != last.extent:
                size = apply("minimum", size, apply("sub", const(last.extent), start))
            step = Var(f"{last.var.name}_j")
            run = For(step, size, LoopKind.SERIAL, (Let(last.var, apply("add", start, step)), *inner))
            inner = [serial(Axis(Var("block"), count), [run, *flush])]
            axes = axes[:-1]
        else:
            first = next(k for k in range(len(axes)) if prod(a.extent for a in axes[k:]) <= LONGEST_CHAIN)
            inner = [*self._around(inner, axes[first:]), *flush]
            axes = axes[:first]
        return [*begin, *self._around(inner, axes), *end]

    def _around(self, inner: list[Stmt], axes: Sequence[Axis]) -> list[Stmt]:
        """Put loops over ``axes`` around; short ones that tests depend on are unrolled, and the tests are decided."""
        for axis in reversed(axes):
            short = axis.extent <= MOST_TESTED and axis.var in self._tested
            inner = [serial(axis, inner, LoopKind.UNROLL if short else LoopKind.SERIAL)]
        return inner

    @cached_property
    def _tested(self) -> frozenset[Expr]:
        """The variables on which conditions of the problem depend."""
        exprs = distinct(self.problem.exprs())
        return frozenset(distinct([e.args[0] for e in exprs if isinstance(e, Apply) and e.op == "select"]))


class _Accumulator:
    """One reduction of a block: one accumulator per row of the block."""

    def __init__(self, name: str, reduction: Reduction, block: _Block) -> None:
        self.name = name
        self.reduction = reduction
        self.combiner = reduction.combiner
        self.by_position = self.combiner in POSITIONS
        self.dtype = accumulation_dtype(self.combiner, reduction.value.dtype)
        self.identity = identity(self.combiner, self.dtype)
        self.slots = block.slots

    @property
    def loses_digits(self) -> bool:
        return self.combiner == "add" and self.dtype.is_float

    @property
    def result(self) -> Expr:
        """What later stages read: the row's reduced value."""
        result = self.reduction.result
        if self.by_position:
            return Load(f"{self.name}_p", SLOT, int64)
        return result_of(Load(self.name, SLOT, self.dtype), self.combiner, result.dtype)

    def _alloc(self, name: str, dtype: DType) -> Alloc:
        return Alloc(Buffer(name, dtype, self.slots, Space.LOCAL, writable=True))

    def begin(self, rows: AcrossRows, block: _Block) -> list[Stmt]:
        """Allocate and set to the identity."""
        statements: list[Stmt] = [self._alloc(self.name, self.dtype)]
        stores: list[Stmt] = [Store(self.name, SLOT, self.identity)]
        if self.by_position:
            statements.append(self._alloc(f"{self.name}_p", int64))
            stores.append(Store(f"{self.name}_p", SLOT, const(0)))
        return [*statements, rows._vectors(_all_lanes(block), stores)]

    def update(self, value: Expr) -> list[Stmt]:
        """Take in one element per row."""
        if not self.by_position:
            return [accumulate(self.name, SLOT, self.combiner, value)]
        assert self.reduction.position is not None
        best = Load(self.name, SLOT, self.dtype)
        flag = Var(f"{self.name}_better", bool_)
        position = Var(f"{self.name}_position")
        return [
            Let(flag, is_better(self.combiner, value, best)),
            Let(position, select(flag, self.reduction.position, Load(f"{self.name}_p", SLOT, int64))),
            Store(self.name, SLOT, select(flag, value, best)),
            Store(f"{self.name}_p", SLOT, position),
        ]

    def begin_total(self, rows: AcrossRows, block: _Block) -> list[Stmt]:
        """Make the totals that partial sums are added to."""
        clear = rows._vectors(_all_lanes(block), [Store(f"{self.name}_t", SLOT, self.identity)])
        return [self._alloc(f"{self.name}_t", self.dtype), clear]

    def flush(self, rows: AcrossRows, block: _Block) -> list[Stmt]:
        """Add the partial sums to the totals and start again."""
        add = Accumulate(f"{self.name}_t", SLOT, self.combiner, Load(self.name, SLOT, self.dtype))
        return [rows._vectors(_all_lanes(block), [add, Store(self.name, SLOT, self.identity)])]

    def use_total(self, rows: AcrossRows, block: _Block) -> list[Stmt]:
        """Let the totals be the result."""
        return [rows._vectors(_all_lanes(block), [Store(self.name, SLOT, Load(f"{self.name}_t", SLOT, self.dtype))])]

    def end(self, rows: AcrossRows, block: _Block) -> list[Stmt]:
        """Nothing is left to combine: every lane holds its own result."""
        return []


def _all_lanes(block: _Block) -> _Block:
    """Local buffers have a slot for every lane: no mask is needed for them."""
    return _Block(block.start, block.parts, block.width, block.width)
