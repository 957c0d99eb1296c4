"""Rows whose lanes share a row: vectors run along the reduced axes and are combined at the row's end.

Several independent accumulators hide latency and add up in pairs. It must not
know tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from dlc.codegen.loops.bindings import names, place, write_all
from dlc.codegen.loops.blocks import LANE, serial, serial_nest, vector_axis
from dlc.codegen.loops.combiners import POSITIONS, accumulate, accumulation_dtype, identity, result_of
from dlc.codegen.loops.nest import axis_simplifier
from dlc.codegen.rows.problem import Reduction, RowProblem, Stage
from dlc.ir.compute import Axis
from dlc.ir.cost import distinct
from dlc.ir.expr import Expr, Horizontal, Load, Var, apply, cast, const, select, substitute
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, Let, LoopKind, Space, Stmt, Store
from dlc.ir.simplify import linear_index
from dlc.ir.types import DType, int64

Body = Callable[[Expr], Sequence[Stmt]]

LONGEST_CHAIN = 512
"""Additions in sequence to one float accumulator before it is added to a total of its own."""
LARGEST_SCRATCH = 1 << 18
"""Elements of a row that are kept between stages; longer rows compute them again."""
_NOWHERE = 2**62


class AlongRows:
    """Builds the statements of one row of ``problem``: ``unroll`` accumulators of ``lanes`` lanes.

    Of a single reduced axis only the first ``wanted`` elements matter, if given: others may be left out.
    """

    def __init__(self, problem: RowProblem, lanes: int, unroll: int, wanted: Expr | None = None) -> None:
        self.problem = problem
        self.wanted = wanted
        self.lanes = lanes
        self.unroll = unroll
        self.fresh = names()
        self.reduced = problem.reduced or (Axis(Var("only"), 1),)
        self.simplify = axis_simplifier((*problem.kept, *self.reduced), problem.outer)
        self.length = prod(a.extent for a in self.reduced)
        shape = tuple(a.extent for a in self.reduced)
        self.place = linear_index(tuple(a.var for a in self.reduced), shape, self.simplify)
        self.mapping: dict[Expr, Expr] = {}

    def statements(self) -> list[Stmt]:
        """Return everything that one row does."""
        body: list[Stmt] = []
        for number, stage in enumerate(self.problem.stages):
            body += self._stage(number, stage)
        lets, values = place([self._known(w.value) for w in self.problem.row_writes], {}, 0, self.fresh)
        body += lets[0]
        body += write_all(
            [(w.buffer, w.index, v) for w, v in zip(self.problem.row_writes, values, strict=True)], self.fresh
        )
        return body

    def _known(self, expr: Expr) -> Expr:
        return substitute(expr, self.mapping) if self.mapping else expr

    def _stage(self, number: int, stage: Stage) -> list[Stmt]:
        before: list[Stmt] = []
        stores: list[tuple[str, Expr, Expr]] = []  # buffer, index, value
        later: dict[Expr, Expr] = {}
        for keep in stage.keeps:
            value = self._known(keep.value)
            self.mapping[keep.name] = value
            if keep.buffer and keep.index is not None:
                later[keep.name] = Load(keep.buffer, keep.index, value.dtype)
            elif self._needed_after(number, keep.name) and self.length <= LARGEST_SCRATCH:
                scratch = Buffer(f"row_{keep.name.name}", value.dtype, self.length, Space.LOCAL, writable=True)
                before.append(Alloc(scratch))
                stores.append((scratch.name, self.place, value))
                later[keep.name] = Load(scratch.name, self.place, value.dtype)
        stores += [(w.buffer, w.index, self._known(w.value)) for w in stage.writes]
        values = [self._known(r.value) for r in stage.reductions]
        accumulators = [
            Accumulator(f"a{number}_{k}", r, self.lanes, self.unroll) for k, r in enumerate(stage.reductions)
        ]
        wide = [cast(v, a.dtype) for v, a in zip(values, accumulators, strict=True)]
        depth = len(self.reduced)
        levels = {a.var: k + 1 for k, a in enumerate(self.reduced)}
        lets, placed = place([*(v for _, _, v in stores), *wide], levels, depth, self.fresh)
        count = len(stores)

        def body(part: Expr) -> list[Stmt]:
            result: list[Stmt] = list(lets[depth])
            for accumulator, value in zip(accumulators, placed[count:], strict=True):
                result += accumulator.update(value, part)
            result += write_all([(b, i, v) for (b, i, _), v in zip(stores, placed, strict=False)], self.fresh)
            return result

        for accumulator in accumulators:
            before += accumulator.begin()
        statements = [*before, *lets[0], *self._loops(body, accumulators, lets)]
        for accumulator in accumulators:
            statements += accumulator.end()
        self.mapping.update(later)
        return statements

    def _needed_after(self, number: int, name: Var) -> bool:
        for stage in self.problem.stages[number + 1 :]:
            part = RowProblem((), (), (stage,))
            if any(e == name for e in distinct(part.exprs())):
                return True
        return False

    def _loops(self, body: Body, accumulators: Sequence[Accumulator], lets: Sequence[Sequence[Let]]) -> list[Stmt]:
        """Return the loops over the reduced axes, with totals of their own where chains are long."""
        inner = self.reduced[-1]
        outer = self.reduced[:-1]
        step = self.lanes * self.unroll
        summed = [a for a in accumulators if a.loses_digits]
        chain = self.length // step
        if not summed or chain <= LONGEST_CHAIN:
            wanted = None if outer else self.wanted
            loop = vector_axis(inner.var, const(0), inner.extent, self.lanes, self.unroll, body, wanted=wanted)
            return serial_nest(outer, loop, lets[1 : len(outer) + 1])
        block = step * LONGEST_CHAIN
        begin: list[Stmt] = [s for a in summed for s in a.begin_total()]
        flush: list[Stmt] = [s for a in summed for s in a.flush()]
        blocks, rest = divmod(inner.extent, block)
        run: list[Stmt] = []
        if blocks:
            part = Axis(Var("block"), blocks)
            start = apply("mul", part.var, const(block))
            run.append(serial(part, [*vector_axis(inner.var, start, block, self.lanes, self.unroll, body), *flush]))
        if rest:
            run += vector_axis(inner.var, const(blocks * block), rest, self.lanes, self.unroll, body, "b")
            run += flush
        ending: list[Stmt] = [s for a in summed for s in a.use_total()]
        return [*begin, *serial_nest(outer, run, lets[1 : len(outer) + 1]), *ending]


class Accumulator:
    """The local buffers of one reduction and the statements that fill and combine them."""

    def __init__(self, name: str, reduction: Reduction, lanes: int, unroll: int) -> None:
        self.name = name
        self.reduction = reduction
        self.lanes = lanes
        self.combiner = reduction.combiner
        self.by_position = reduction.combiner in POSITIONS
        self.dtype = accumulation_dtype(reduction.combiner, reduction.value.dtype)
        self.parts = 1 if self.by_position else unroll
        self.identity = identity(self.combiner, self.dtype)
        self.positions = f"{name}_p"
        self.totals = f"{name}_t"

    @property
    def loses_digits(self) -> bool:
        """Whether long chains should be cut: floating point sums."""
        return self.combiner == "add" and self.dtype.is_float

    def _each(self, make: Body, kind: LoopKind = LoopKind.UNROLL) -> list[Stmt]:
        lanes = For(LANE, const(self.lanes), LoopKind.VECTOR, tuple(make(self.slot(Var("part")))))
        if self.parts == 1:
            return [For(LANE, const(self.lanes), LoopKind.VECTOR, tuple(make(LANE)))]
        return [For(Var("part"), const(self.parts), kind, (lanes,))]

    def slot(self, part: Expr) -> Expr:
        """Return the element that lane ``lane`` of vector ``part`` accumulates in."""
        if self.parts == 1 or part == const(0):
            return LANE
        return apply("add", apply("mul", part, const(self.lanes)), LANE)

    def _alloc(self, name: str, dtype: DType) -> Alloc:
        return Alloc(Buffer(name, dtype, self.lanes * self.parts, Space.LOCAL, writable=True))

    def begin(self) -> list[Stmt]:
        """Allocate and set to the identity."""
        statements: list[Stmt] = [self._alloc(self.name, self.dtype)]
        statements += self._each(lambda slot: [Store(self.name, slot, self.identity)])
        if self.by_position:
            statements.append(self._alloc(self.positions, int64))
            statements += self._each(lambda slot: [Store(self.positions, slot, const(0))])
        return statements

    def update(self, value: Expr, part: Expr) -> list[Stmt]:
        """Take in ``value`` of one element."""
        slot = self.slot(part)
        if not self.by_position:
            return [accumulate(self.name, slot, self.combiner, value)]
        assert self.reduction.position is not None
        best = Load(self.name, slot, self.dtype)
        better = is_better(self.combiner, value, best)
        flag = Var(f"{self.name}_better", better.dtype)
        old = Load(self.positions, slot, int64)
        position = Var(f"{self.name}_position")
        return [
            Let(flag, better),
            Let(position, select(flag, self.reduction.position, old)),
            Store(self.name, slot, select(flag, value, best)),
            Store(self.positions, slot, position),
        ]

    def begin_total(self) -> list[Stmt]:
        """Make the totals that partial sums are added to."""
        return [self._alloc(self.totals, self.dtype), *self._each(lambda s: [Store(self.totals, s, self.identity)])]

    def flush(self) -> list[Stmt]:
        """Add the partial sums to the totals and start again."""

        def make(slot: Expr) -> list[Stmt]:
            add = Accumulate(self.totals, slot, self.combiner, Load(self.name, slot, self.dtype))
            return [add, Store(self.name, slot, self.identity)]

        return self._each(make)

    def use_total(self) -> list[Stmt]:
        """Let the totals be what is combined at the end."""
        return self._each(lambda slot: [Store(self.name, slot, Load(self.totals, slot, self.dtype))])

    def end(self) -> list[Stmt]:
        """Combine the vectors in pairs, then the lanes; bind the result."""
        if self.by_position:
            return self._end_position()
        statements: list[Stmt] = []
        parts = self.parts
        while parts > 1:
            half = parts // 2
            for k in range(half):
                low, high = const(k), const(parts - half + k)
                taken = Load(self.name, self.slot(high), self.dtype)
                combine = Accumulate(self.name, self.slot(low), self.combiner, taken)
                statements.append(For(LANE, const(self.lanes), LoopKind.VECTOR, (combine,)))
            parts -= half
        whole = horizontal(self.combiner, self.name, self.lanes, self.dtype)
        result = self.reduction.result
        return [*statements, Let(result, result_of(whole, self.combiner, result.dtype))]

    def _end_position(self) -> list[Stmt]:
        """The first position among the lanes that hold the best value."""
        combiner, _ = POSITIONS[self.combiner]
        best = Var(f"{self.name}_best", self.dtype)
        mine = Load(self.name, LANE, self.dtype)
        hit: Expr = apply("equal", mine, best)
        if self.dtype.is_float:
            hit = select(apply("is_nan", best), apply("is_nan", mine), hit)
        kept = select(hit, Load(self.positions, LANE, int64), const(_NOWHERE))
        return [
            Let(best, horizontal(combiner, self.name, self.lanes, self.dtype)),
            For(LANE, const(self.lanes), LoopKind.VECTOR, (Store(self.positions, LANE, kept),)),
            Let(self.reduction.result, horizontal("minimum", self.positions, self.lanes, int64)),
        ]


def is_better(combiner: str, value: Expr, best: Expr) -> Expr:
    """Return the test that ``value`` replaces ``best``: strictly better, or the first NaN."""
    better: Expr = apply(POSITIONS[combiner][1], value, best)
    if value.dtype.is_float:
        first_nan = apply("bit_and", apply("is_nan", value), apply("bit_not", apply("is_nan", best)))
        better = apply("bit_or", better, first_nan)
    return better


def horizontal(combiner: str, buffer: str, lanes: int, dtype: DType) -> Expr:
    """Return all lanes of a local vector combined."""
    return Load(buffer, const(0), dtype) if lanes == 1 else Horizontal(combiner, buffer, const(0), lanes, dtype)
