"""Runs of contiguous depth in contractions by pairs, and panels of weights in which every run is whole tiles.

A run that does not fill its last tile is filled up: panels with zeros here, rows where they are copied. It must not
know how tiles are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract.analysis import LoopAxis, Problem, extent_of, merge
from dlc.codegen.contract.index import decode, offset, scaled, total
from dlc.codegen.contract.pack import PackedPanels, call_panel_kernel, packed_panels
from dlc.ir.expr import Expr, Var, apply, const
from dlc.ir.kernel import Buffer, Call, For, If, Kernel, LoopKind, Stmt, Store, Window
from dlc.ir.types import uint32

PAIRS = 16
"""Pairs of one tile product."""


@dataclass(frozen=True)
class PairRuns:
    """The depth as rows have it: ``inner`` axes, in pairs, make one run of the row operand; ``outer`` are around it."""

    outer: tuple[LoopAxis, ...]
    inner: tuple[LoopAxis, ...]
    odd: bool

    @property
    def count(self) -> int:
        return extent_of(self.outer)

    @property
    def pairs(self) -> int:
        """Pairs of a run, the last of which may be half."""
        return extent_of(self.inner)

    @property
    def elements(self) -> int:
        """Elements of a run in the row operand."""
        return 2 * self.pairs - self.odd

    @property
    def run_steps(self) -> int:
        """Tile products along one run."""
        return -(-self.pairs // PAIRS)

    @property
    def steps(self) -> int:
        """Tile products along the whole depth."""
        return self.count * self.run_steps

    @property
    def depth(self) -> int:
        """Pairs of the whole depth, runs filled up."""
        return self.steps * PAIRS

    @property
    def whole(self) -> bool:
        """Whether runs consist of whole tiles."""
        return not self.odd and self.pairs % PAIRS == 0


def pair_runs(problem: Problem) -> PairRuns:
    """Find the longest runs: neighbouring axes of the depth through which rows run as through one."""
    axes, first = problem.depth, len(problem.depth) - 1
    while first > 0 and not problem.odd and len(merge(axes[first - 1 :], [problem.row_operand])) == 1:
        first -= 1
    return PairRuns(axes[:first], axes[first:], problem.odd)


def runs_size(problem: Problem, runs: PairRuns, width: int) -> int:
    """Return the words of all packed panels."""
    packed = packed_panels(problem, width, PAIRS)
    return extent_of(packed.groups) * packed.panels * runs.depth * width


def pack_runs(packed: PackedPanels, runs: PairRuns, windows: tuple[Window, Window], columns: int) -> list[Stmt]:
    """Return the statements that pack one panel of ``columns`` columns, run by run."""
    run = Var("run")
    source, target = windows
    size = runs.run_steps * PAIRS * packed.width
    start = offset(decode(run, [axis.extent for axis in runs.outer]), runs.outer, packed.tensor)
    place = Window(target.buffer, total(target.offset, scaled(run, size)))
    levels = [(const(axis.extent), const(axis.strides[packed.tensor])) for axis in runs.inner]
    whole = (Window(source.buffer, total(source.offset, start)), place)
    body: list[Stmt] = [call_panel_kernel(packed, whole, levels, columns)]
    missing = runs.run_steps * PAIRS - runs.pairs
    if missing:
        rest = Window(target.buffer, total(place.offset, const(runs.pairs * packed.width)))
        body.append(Call(clear_words_kernel(), (rest,), (const(missing * packed.width // PAIRS),)))
    return [For(run, const(runs.count), LoopKind.SERIAL, tuple(body))]


@lru_cache(maxsize=1)
def clear_words_kernel() -> Kernel:
    """Return the kernel (target) that sets words to zero; scalar ``vectors`` of PAIRS words."""
    lane, k = Var("lane"), Var("k")
    store = Store("target", total(scaled(k, PAIRS), lane), const(0, uint32))
    loop = For(k, Var("vectors"), LoopKind.SERIAL, (For(lane, const(PAIRS), LoopKind.VECTOR, (store,)),))
    return Kernel("clear_words", (Buffer("target", uint32, None, writable=True),), (Var("vectors"),), (loop,))


def pack_runs_kernel(problem: Problem, runs: PairRuns, width: int, name: str) -> Kernel:
    """Return the entry kernel (source, packed): tasks over groups and panels."""
    packed = packed_panels(problem, width, PAIRS)
    group, panel = Var("group"), Var("panel")
    size = runs.depth * width
    source = total(
        offset(decode(group, [axis.extent for axis in packed.groups]), packed.groups, packed.tensor),
        scaled(panel, width * packed.column.strides[packed.tensor]),
    )
    target = total(scaled(group, packed.panels * size), scaled(panel, size))
    windows = (Window("source", source), Window("packed", target))
    body = by_columns(panel, packed.column.extent, width, lambda columns: pack_runs(packed, runs, windows, columns))
    for var, extent in ((panel, packed.panels), (group, extent_of(packed.groups))):
        body = (For(var, const(extent), LoopKind.PARALLEL, body),)
    buffers = (
        Buffer("source", packed.reads, packed.source_size),
        Buffer("packed", packed.dtype, extent_of(packed.groups) * packed.panels * size, writable=True),
    )
    return Kernel(name, buffers, (), body)


def by_columns(panel: Expr, columns: int, width: int, made: Callable[[int], Sequence[Stmt]]) -> tuple[Stmt, ...]:
    """Return what ``made`` makes of the columns of a panel: a whole one's, or those of the last."""
    full, tail = divmod(columns, width)
    if not (full and tail):
        return tuple(made(width if full else tail))
    return (If(apply("less", panel, const(full)), tuple(made(width)), tuple(made(tail))),)
