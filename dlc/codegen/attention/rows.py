"""What lies between the contractions of attention, as row problems on a tile of scores in scratch.

Scores become weights in place. It must not know how scores are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from dlc.codegen.attention.parts import Parts
from dlc.codegen.compute_group import ComputeGroup, axis_bounds
from dlc.codegen.places import whole
from dlc.codegen.rows.group import row_problem
from dlc.codegen.rows.problem import RowProblem, Write
from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Const, Expr, Load, Var, apply, const, substitute, transform
from dlc.ir.graph import Value
from dlc.ir.simplify import Simplifier, linear_index
from dlc.ir.types import DType

SCORES = "scores"
"""Scratch of a tile's scores; row ``Var(TILE_ROW)`` begins at element ``Var(SCORE_ROW)``."""
SCORE_ROW, TILE_ROW = "score_row", "r"
ROW, KEY = Var("row"), Var("key")
_WEIGHTS = "weights"
_ORDER = {"less_equal": (False, 0), "less": (False, 1), "greater_equal": (True, 0), "greater": (True, 1)}
"""Comparison -> whether the greater operand stands first, and what strictness takes off."""


@dataclass(frozen=True)
class TileRows:
    """``passes`` over all rows of a tile, one after the other.

    ``axes`` gives the value of each kept axis of the passes. ``buffers`` have an element per row of the tile;
    ``results`` names those that hold values of the graph.
    """

    passes: tuple[RowProblem, ...]
    axes: tuple[tuple[Var, Expr], ...]
    buffers: tuple[tuple[str, DType], ...]
    results: Mapping[Value, str]
    horizon: Horizon | None


@dataclass(frozen=True)
class Horizon:
    """Keys beyond ``row + offset`` have the score ``hidden``, whatever was computed for them.

    Their weights are zero in every row whose greatest score, in the buffer ``greatest``, is above ``hidden``.
    """

    offset: int
    hidden: Const
    greatest: str


def tile_rows(parts: Parts, inputs: Sequence[Value], names: Sequence[Var], shape: Sequence[int]) -> TileRows | None:
    """Return the part between scores, whose dimensions are ``names`` and ``shape``, and weights; None if it is no rows.

    Input number k is the buffer ``x<k>``.
    """
    made = parts.first.outputs[0]
    group = ComputeGroup((*inputs, made), (*parts.before, *parts.between))
    sources = {k: whole(f"x{k}", v.type) for k, v in enumerate(inputs)} | {len(inputs): whole(SCORES, made.type)}
    results = {value: f"row{k}" for k, value in enumerate(parts.row_values)}
    inner = {v for n in parts.between for v in n.outputs}
    if any(r not in inner for r in group.reductions):
        return None
    places = {value: whole(buffer, value.type) for value, buffer in {parts.weights: _WEIGHTS, **results}.items()}
    problem = row_problem(group, list(places), places, sources)
    if problem is None or prod(a.extent for a in problem.reduced) != shape[-1]:
        return None
    wide = [a for a in problem.kept if a.extent != 1]
    dims = [(v, e) for v, e in zip(names[:-1], shape[:-1], strict=True) if e != 1]
    if [a.extent for a in wide] != [e for _, e in dims]:
        return None
    axes: tuple[tuple[Var, Expr], ...] = tuple((a.var, v) for a, (v, _) in zip(wide, dims, strict=True))
    axes += tuple((a.var, const(0)) for a in problem.kept if a.extent == 1)
    local = _localized(problem, set(results.values()))
    if local is None:
        return None
    passes, handed = _passes(_kept_in_place(local))
    buffers = (*((name, value.type.dtype) for value, name in results.items()), *handed)
    return TileRows(passes, axes, buffers, results, _horizon(passes, axes, names[-1]))


def _localized(problem: RowProblem, row_buffers: set[str]) -> RowProblem | None:
    """Return ``problem`` on a tile's scratch; None where scores are not read and written element by element."""
    simplify = Simplifier(axis_bounds((*problem.kept, *problem.reduced)))
    kept = linear_index(tuple(a.var for a in problem.kept), tuple(a.extent for a in problem.kept), simplify)
    reduced = linear_index(tuple(a.var for a in problem.reduced), tuple(a.extent for a in problem.reduced), simplify)
    length = prod(a.extent for a in problem.reduced)
    whole = simplify(apply("add", apply("mul", kept, const(length)), reduced))
    here = apply("add", Var(SCORE_ROW), reduced)
    if not _in_place(problem, whole, kept, row_buffers, simplify):
        return None

    def rule(expr: Expr) -> Expr | None:
        return Load(SCORES, here, expr.dtype) if isinstance(expr, Load) and expr.buffer in (SCORES, _WEIGHTS) else None

    mapped = problem.map(lambda e: transform(e, rule))
    stages = []
    for stage in mapped.stages:
        writes = tuple(replace(w, buffer=SCORES, index=here) for w in stage.writes)
        keeps = tuple(replace(k, buffer=SCORES, index=here) if k.buffer else k for k in stage.keeps)
        stages.append(replace(stage, writes=writes, keeps=keeps))
    row_writes = tuple(replace(w, index=Var(TILE_ROW)) for w in mapped.row_writes)
    return replace(mapped, stages=tuple(stages), row_writes=row_writes)


def _in_place(problem: RowProblem, whole: Expr, kept: Expr, row_buffers: set[str], simplify: Simplifier) -> bool:
    """Tell whether scores are read, and weights written in their place, at index ``whole``; per row at ``kept``."""
    loads = [e for e in distinct(problem.exprs()) if isinstance(e, Load) and e.buffer in (SCORES, _WEIGHTS)]
    if any(simplify(e.index) != whole for e in loads):
        return False
    written = [n for n, s in enumerate(problem.stages) if s.writes]
    if len(written) != 1 or [w.buffer for w in problem.stages[written[0]].writes] != [_WEIGHTS]:
        return False
    for number, stage in enumerate(problem.stages):
        exprs = RowProblem((), (), (stage,)).exprs()
        if number > written[0] and any(isinstance(e, Load) and e.buffer == SCORES for e in distinct(exprs)):
            return False  # scores are gone by then
        indices = [w.index for w in stage.writes] + [k.index for k in stage.keeps if k.buffer and k.index is not None]
        if any(simplify(i) != whole for i in indices):
            return False
    return all(w.buffer in row_buffers and simplify(w.index) == kept for w in problem.row_writes)


def _kept_in_place(problem: RowProblem) -> RowProblem:
    """Return ``problem`` with what its first stage keeps written over the scores, where nothing reads those later."""
    first, *later = problem.stages
    if len(first.keeps) != 1 or first.writes or first.keeps[0].buffer:
        return problem
    keep = first.keeps[0]
    reads = [e for e in distinct(RowProblem((), (), tuple(later)).exprs()) if isinstance(e, Load)]
    places = [e.index for e in distinct([keep.value]) if isinstance(e, Load) and e.buffer == SCORES]
    if any(e.buffer == SCORES for e in reads) or not places or keep.value.dtype is not _dtype_of_scores(problem):
        return problem
    back = Load(SCORES, places[0], keep.value.dtype)
    inner = RowProblem((), (), (replace(first, keeps=()),)).map(lambda e: substitute(e, {keep.name: keep.value}))
    outer = RowProblem((), (), tuple(later)).map(lambda e: substitute(e, {keep.name: back}))
    written = replace(inner.stages[0], writes=(Write(SCORES, places[0], keep.value),))
    return replace(problem, stages=(written, *outer.stages))


def _dtype_of_scores(problem: RowProblem) -> DType:
    return next(e.dtype for e in distinct(problem.exprs()) if isinstance(e, Load) and e.buffer == SCORES)


def _horizon(passes: Sequence[RowProblem], axes: Sequence[tuple[Var, Expr]], key: Var) -> Horizon | None:
    """Return the horizon of a softmax whose scores are hidden from some key on; None if there is none."""
    if len(passes) != 2 or len(passes[0].reduced) != 1:
        return None
    (first,), (second,) = passes[0].stages, passes[1].stages
    if [r.combiner for r in first.reductions] != ["maximum"] or len(second.writes) != 1:
        return None
    if [r.combiner for r in second.reductions] != ["add"] or len(passes[0].row_writes) != 1:
        return None
    score = first.reductions[0].value
    (greatest,) = passes[0].row_writes
    known: list[Expr] = [score, *(Load(w.buffer, w.index, w.value.dtype) for w in first.writes if w.value == score)]
    top = Load(greatest.buffer, greatest.index, score.dtype)
    powers = [apply("exp", apply("sub", x, top)) for x in known]
    if second.writes[0].value not in powers or second.reductions[0].value not in powers:
        return None
    common: dict[Expr, Expr] = {**dict(axes), passes[0].reduced[0].var: key}
    return _hidden(substitute(score, common), greatest.buffer)


def _hidden(score: Expr, greatest: str) -> Horizon | None:
    """Return from where on ``score``, an expression over row and key, is a constant."""
    if not isinstance(score, Apply) or score.op != "select":
        return None
    condition, then, otherwise = score.args
    offset = _offset_seen(condition)
    if offset is not None and isinstance(otherwise, Const):
        return Horizon(offset, otherwise, greatest)
    found = _hidden(then, greatest)
    return found if found is not None and otherwise == found.hidden else None


def _offset_seen(condition: Expr) -> int | None:
    """Return d where ``condition`` says ``key <= row + d``."""
    if not isinstance(condition, Apply) or condition.op not in _ORDER:
        return None
    swapped, strict = _ORDER[condition.op]
    low, high = condition.args[::-1] if swapped else condition.args
    form = Simplifier({}).affine(apply("sub", high, low))
    if sorted(form.terms, key=lambda t: t[1]) != [(KEY, -1), (ROW, 1)]:
        return None
    return form.constant - strict


def _passes(problem: RowProblem) -> tuple[tuple[RowProblem, ...], list[tuple[str, DType]]]:
    """Return a problem per stage and the buffers of results handed on, where nothing else is kept between stages.

    Rows then overlap: the end of one's reduction need not be waited for before the next begins.
    """
    if any(stage.keeps for stage in problem.stages):
        return (problem,), []
    passes: list[RowProblem] = []
    buffers: list[tuple[str, DType]] = []
    mapping: dict[Expr, Expr] = {}
    for number, stage in enumerate(problem.stages):
        known = RowProblem((), (), (stage,), problem.row_writes).map(lambda e: substitute(e, mapping))
        row_writes = known.row_writes
        if number + 1 < len(problem.stages):
            row_writes = ()
            for reduction in stage.reductions:
                name = f"handed_{reduction.result.name}"
                buffers.append((name, reduction.result.dtype))
                row_writes += (Write(name, Var(TILE_ROW), reduction.result),)
                mapping[reduction.result] = Load(name, Var(TILE_ROW), reduction.result.dtype)
        passes.append(replace(problem, stages=known.stages, row_writes=row_writes))
    return tuple(passes), buffers
