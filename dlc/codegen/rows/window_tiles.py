"""Statements of window reductions: tiles of neighbours whose accumulators stay in registers.

What neighbours read in common is read once. Taps outside the operand are left out:
along the line when code is made, across lines by the bounds of loops. It must not
know tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dlc.codegen.loops.bindings import names, place, write_all
from dlc.codegen.loops.blocks import LANE, serial
from dlc.codegen.loops.combiners import accumulate, accumulation_dtype, identity, result_of
from dlc.codegen.rows.windows import Test, Tiles, Windows, cut_line
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, substitute, transform, walk
from dlc.ir.kernel import Alloc, Buffer, For, If, Let, LoopKind, Space, Stmt, Store
from dlc.ir.simplify import Simplifier, depends_on
from dlc.ir.types import int64

MOST_NEIGHBOURS = 8
LEAST_NEIGHBOURS = 3
START, BLOCK = Var("start"), Var("rows")
SUMS = "sums"


@dataclass(frozen=True)
class _Index:
    """An index at the first neighbour and tap, and how far the next neighbour's and the next tap's are from it."""

    first: Expr
    step: int
    tap: int
    known: dict[int, Expr] = field(default_factory=dict)


class WindowTiles:
    """Builds the loops over one line, for blocks of ``parts`` vectors of ``lanes`` along the inner axis."""

    def __init__(self, windows: Windows, lanes: int, target: CpuTarget) -> None:
        self.windows = windows
        self.lanes = lanes
        registers = target.vector_registers
        self.parts = 2 if registers >= 32 and windows.inner.extent >= 2 * lanes else 1
        # The accumulators of a part stay in registers beside the weights of a line of taps and one operand.
        most = (registers - 2 - windows.taps.extent * self.parts) // self.parts
        self.most = max(LEAST_NEIGHBOURS, min(MOST_NEIGHBOURS, most))
        self.combiner = windows.reduction.combiner
        self.dtype = accumulation_dtype(self.combiner, windows.reduction.value.dtype)
        self.fresh: Iterator[str] = names()
        self._simplifiers: dict[Tiles, Simplifier] = {}
        self._moving: dict[tuple[Expr, Tiles], tuple[Expr, dict[Expr, _Index]] | None] = {}
        taps = range(windows.taps.extent)
        inside = [x for x in range(windows.line.extent) if all(windows.inside(x, s) for s in taps)]
        low, high = (inside[0], inside[-1]) if inside else (windows.line.extent, -1)
        self.tiles = cut_line(windows.line.extent, low, high, self.most)

    @property
    def block(self) -> int:
        """Elements along the inner axis that are computed together."""
        return self.parts * self.lanes

    def statements(self, first: Expr, blocks: Expr, with_rest: Expr | None) -> list[Stmt]:
        """Return the loops over ``blocks`` blocks of the inner axis from block ``first`` on.

        What the blocks leave over at the end is computed too where ``with_rest`` holds (None: always).
        """
        whole, left = divmod(self.windows.inner.extent, self.block)
        body: list[Stmt] = []
        for tiles in self.tiles:
            inner: list[Stmt] = []
            if whole:
                at = apply("mul", apply("add", first, BLOCK), const(self.block))
                inner.append(For(BLOCK, blocks, LoopKind.SERIAL, tuple(self._tile(tiles, at, self.parts))))
            if left:
                rest = self._rest(tiles, whole * self.block, left)
                inner += rest if with_rest is None else [If(with_rest, tuple(rest))]
            if tiles.count > 1:
                step = Var("tile")
                start = Let(START, apply("add", apply("mul", step, const(tiles.size)), const(tiles.start)))
                inner = [serial(Axis(step, tiles.count), [start, *inner])]
            body += inner
        return body

    def _rest(self, tiles: Tiles, start: int, count: int) -> list[Stmt]:
        body: list[Stmt] = []
        while count >= self.lanes:
            body += self._tile(tiles, const(start), 1)
            start, count = start + self.lanes, count - self.lanes
        if count:
            width = self.lanes
            while width > 1 and width // 2 >= count:
                width //= 2
            body += self._tile(tiles, const(start), 1, width, count)
        return body

    # -- one tile ------------------------------------------------------------------------------------

    def _tile(self, tiles: Tiles, at: Expr, parts: int, width: int = 0, active: int = 0) -> list[Stmt]:
        """Return the statements for ``parts`` vectors from ``at`` on; of a lone one only ``active`` lanes count."""
        windows, width = self.windows, width or self.lanes
        inside = apply("less", LANE, const(active)) if 0 < active < width else None

        def vector(part: int, statements: Sequence[Stmt], active: Expr | None = inside) -> Stmt:
            inner = Let(windows.inner.var, apply("add", at, apply("add", LANE, const(part * width))))
            return For(LANE, const(width), LoopKind.VECTOR, (inner, *statements), active=active)

        def slot(neighbour: int, part: int) -> Expr:
            return apply("add", LANE, const((neighbour * parts + part) * width))

        sums = Buffer(SUMS, self.dtype, tiles.size * parts * width, Space.LOCAL, writable=True)
        neutral = identity(self.combiner, self.dtype)
        begin: list[Stmt] = [Alloc(sums)]
        for part in range(parts):  # every lane has a slot: no mask is needed
            begin.append(vector(part, [Store(SUMS, slot(n, part), neutral) for n in range(tiles.size)], None))
        taps: list[Stmt] = []
        for reads in self._columns(tiles):
            values = [cast(self._at(windows.value, tiles, n, s), self.dtype) for n, s in reads]
            lets, placed = place(values, {windows.inner.var: 1}, 1, self.fresh)
            taps += lets[0]
            for part in range(parts):
                found = zip(reads, placed, strict=True)
                updates = [accumulate(SUMS, slot(n, part), self.combiner, value) for (n, _), value in found]
                taps.append(vector(part, [*lets[1], *updates]))
        return [*begin, *self._across_lines(taps), *self._writes(tiles, parts, slot, vector)]

    def _columns(self, tiles: Tiles) -> list[list[tuple[int, int]]]:
        """Return (neighbour, tap) by what they read of the operand: what is read once is used by all before the next.

        Taps outside the operand are left out. Every neighbour meets its taps in order.
        """
        windows = self.windows
        step, tap = windows.steps
        columns: dict[int, list[tuple[int, int]]] = {}
        for neighbour in range(tiles.size):
            for s in range(windows.taps.extent):
                if tiles.count > 1 or windows.inside(tiles.start + neighbour, s):
                    columns.setdefault(neighbour * step + s * tap, []).append((neighbour, s))
        return [columns[c] for c in sorted(columns)]

    def _at(self, expr: Expr, tiles: Tiles, neighbour: int, tap: int = 0) -> Expr:
        """Return ``expr`` at a neighbour of the tile and a tap of the line."""
        if (expr, tiles) not in self._moving:
            self._moving[expr, tiles] = self._movable(expr, tiles)
        found, simplify = self._moving[expr, tiles], self._simplifier(tiles)
        if found is None:
            here: dict[Expr, Expr] = {self.windows.taps.var: const(tap)}
            here[self.windows.line.var] = apply("add", self._first(tiles), const(neighbour))
            return simplify(substitute(expr, here))
        body, indices = found
        moved: dict[Expr, Expr] = {}
        for slot, index in indices.items():
            distance = index.step * neighbour + index.tap * tap
            if distance not in index.known:
                index.known[distance] = simplify(apply("add", index.first, const(distance)))
            moved[slot] = index.known[distance]
        return simplify(substitute(body, moved))

    @staticmethod
    def _first(tiles: Tiles) -> Expr:
        return START if tiles.count > 1 else const(tiles.start)

    def _movable(self, expr: Expr, tiles: Tiles) -> tuple[Expr, dict[Expr, _Index]] | None:
        """Return ``expr`` with variables for the indices that it reads at, or is; None if others move along the line.

        Neighbours and taps differ by what is added to indices: that much is simplified for each of them.
        """
        line, taps = self.windows.line.var, self.windows.taps.var
        simplify, indices = self._simplifier(tiles), dict[Expr, _Index]()
        straight = True

        def slot_of(index: Expr) -> Var:
            nonlocal straight
            form = self.windows.simplify.affine(index)
            rest = [atom for atom, _ in form.terms if atom not in (line, taps)]
            straight = straight and not any(depends_on(atom, {line, taps}) for atom in rest)
            slot = Var(f"index{len(indices)}", index.dtype)
            first = simplify(substitute(index, {line: self._first(tiles), taps: const(0)}))
            indices[slot] = _Index(first, form.coefficient(line), form.coefficient(taps))
            return slot

        def rule(current: Expr) -> Expr | None:
            return Load(current.buffer, slot_of(current.index), current.dtype) if isinstance(current, Load) else None

        body = slot_of(expr) if expr.dtype is int64 else transform(expr, rule)
        return (body, indices) if straight and not {line, taps} & set(walk(body)) else None

    def _simplifier(self, tiles: Tiles) -> Simplifier:
        if tiles not in self._simplifiers:
            last = tiles.start + (tiles.count - 1) * tiles.size
            self._simplifiers[tiles] = self.windows.simplify.narrowed({START: (tiles.start, last)})
        return self._simplifiers[tiles]

    def _across_lines(self, taps: list[Stmt]) -> list[Stmt]:
        """Return the loops over the other reduced axes, from the first tap inside to the last."""
        body = taps
        for axis in reversed(self.windows.problem.reduced[:-1]):
            low: Expr = const(0)
            high: Expr = const(axis.extent)
            for test in self.windows.tests:
                if test.reduced == axis.var:
                    low, high = _narrowed(test, low, high)
            step = Var(f"{axis.var.name}_j")
            count = self.windows.simplify(apply("sub", high, low))
            least = self.windows.simplify.range(count)
            if least is None or least[0] is None or least[0] < 0:
                count = apply("maximum", count, const(0))
            body = [For(step, count, LoopKind.SERIAL, (Let(axis.var, apply("add", low, step)), *body))]
        return body

    def _writes(
        self,
        tiles: Tiles,
        parts: int,
        slot: Callable[[int, int], Expr],
        vector: Callable[[int, Sequence[Stmt]], Stmt],
    ) -> list[Stmt]:
        windows = self.windows
        writes = windows.problem.row_writes
        body: list[Stmt] = []
        for part in range(parts):
            found: list[tuple[str, Expr, Expr]] = []
            for n in range(tiles.size):
                total = result_of(Load(SUMS, slot(n, part), self.dtype), self.combiner, windows.reduction.result.dtype)
                for write in writes:
                    value = substitute(self._at(write.value, tiles, n), {windows.reduction.result: total})
                    found.append((write.buffer, self._at(write.index, tiles, n), value))
            lets, placed = place([v for *_, v in found], {windows.inner.var: 1, LANE: 1}, 1, self.fresh)
            stores: list[Stmt] = []
            for k in range(0, len(found), len(writes)):
                group = [(b, i, v) for (b, i, _), v in zip(found[k : k + len(writes)], placed[k : k + len(writes)])]
                stores += write_all(group, self.fresh)
            body += [*lets[0], vector(part, [*lets[1], *stores])]
        return body


def _narrowed(test: Test, low: Expr, high: Expr) -> tuple[Expr, Expr]:
    """Return the bounds (from, before) of a reduced axis where the test holds, too."""
    assert test.kept is not None
    along = apply("mul", test.kept, const(test.along))
    if test.low is not None:  # tap * r >= low - along
        least = apply("sub", const(test.low + test.tap - 1), along)
        low = apply("maximum", low, apply("floor_div", least, const(test.tap)))
    if test.high is not None:
        most = apply("sub", const(test.high + test.tap), along)
        high = apply("minimum", high, apply("floor_div", most, const(test.tap)))
    return low, high
