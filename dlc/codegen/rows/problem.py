"""Row problems: reductions over shared axes with everything computed along the way, as data.

For every point of the kept axes, stages run over the reduced axes one after the
other; a stage reads the results of the stages before. Softmax and layer norm are
row problems, and so is a single reduction. It must not know targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dlc.codegen.loops.nest import Space, normalize
from dlc.ir.compute import Axis
from dlc.ir.expr import Expr, Var

ExprMap = Callable[[Expr], Expr]


@dataclass(frozen=True)
class Reduction:
    """``result`` = ``value`` combined over the reduced axes; for argmax and argmin also needs the ``position``."""

    result: Var
    combiner: str
    value: Expr
    position: Expr | None = None


@dataclass(frozen=True)
class Write:
    """``buffer[index] = value``."""

    buffer: str
    index: Expr
    value: Expr


@dataclass(frozen=True)
class Keep:
    """``name`` = ``value`` at every point of the reduced axes, kept for later stages of the same row."""

    name: Var
    value: Expr
    buffer: str = ""
    """The written buffer that holds it (read back at ``index``); a scratch row where empty."""
    index: Expr | None = None


@dataclass(frozen=True)
class Stage:
    """One pass over the reduced axes. ``keeps`` come first: other values refer to them by name."""

    reductions: tuple[Reduction, ...] = ()
    writes: tuple[Write, ...] = ()
    keeps: tuple[Keep, ...] = ()


@dataclass(frozen=True)
class RowProblem:
    """Stages over ``reduced`` for every point of ``kept``; ``row_writes`` once per point, at the end."""

    kept: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    row_writes: tuple[Write, ...] = ()
    outer: dict = field(default_factory=dict)

    def exprs(self) -> list[Expr]:
        """Return every expression, in a fixed order."""
        found: list[Expr] = []

        def note(expr: Expr) -> Expr:
            found.append(expr)
            return expr

        self.map(note)
        return found

    def map(self, function: ExprMap) -> RowProblem:
        """Return the problem with ``function`` applied to every expression, in the order of ``exprs``."""

        def write(w: Write) -> Write:
            return Write(w.buffer, function(w.index), function(w.value))

        def keep(k: Keep) -> Keep:
            return Keep(k.name, function(k.value), k.buffer, None if k.index is None else function(k.index))

        def reduction(r: Reduction) -> Reduction:
            position = None if r.position is None else function(r.position)
            return Reduction(r.result, r.combiner, function(r.value), position)

        stages = []
        for stage in self.stages:
            keeps = tuple(keep(k) for k in stage.keeps)
            reductions = tuple(reduction(r) for r in stage.reductions)
            stages.append(Stage(reductions, tuple(write(w) for w in stage.writes), keeps))
        return replace(self, stages=tuple(stages), row_writes=tuple(write(w) for w in self.row_writes))

    def normalized(self) -> RowProblem:
        """Return the problem with axes split and collapsed; kept and reduced axes stay apart."""
        space = normalize(Space([list(self.kept), list(self.reduced)], self.exprs(), self.outer))
        exprs = iter(space.exprs)
        mapped = self.map(lambda _: next(exprs))
        return replace(mapped, kept=tuple(space.blocks[0]), reduced=tuple(space.blocks[1]))
