"""Finds which inputs a kernel may overwrite: those read only at the index that is written.

It must not know schedules beyond this: every value is computed before any write of its index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlc.codegen.loops.pointwise import Assignment
from dlc.codegen.rows.problem import RowProblem
from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Expr, Load, children
from dlc.ir.types import TensorType

Pairs = list[tuple[str, str]]
"""(written buffer, read buffer) that may be the same memory."""


def pointwise_pairs(assignments: Sequence[Assignment], types: Mapping[str, TensorType]) -> Pairs:
    """Return the pairs of a pointwise kernel."""
    index = assignments[0].index
    if any(a.index != index for a in assignments):
        return []
    values = [a.value for a in assignments]
    return _pairs([a.buffer for a in assignments], index, values, types)


def row_pairs(problem: RowProblem, types: Mapping[str, TensorType]) -> Pairs:
    """Return the pairs for writes of the last stage; all reads of the rows must be at the written index."""
    if not problem.stages or not problem.stages[-1].writes:
        return []
    if any(stage.writes for stage in problem.stages[:-1]):
        return []
    writes = problem.stages[-1].writes
    if any(w.index != writes[0].index for w in writes):
        return []
    return _pairs([w.buffer for w in writes], writes[0].index, problem.exprs(), types)


def _pairs(written: Sequence[str], index: Expr, exprs: Sequence[Expr], types: Mapping[str, TensorType]) -> Pairs:
    always = _always_computed(exprs)
    fits: dict[str, bool] = {}
    for expr in distinct(exprs):
        if isinstance(expr, Load):
            fits[expr.buffer] = fits.get(expr.buffer, True) and expr.index == index and expr in always
    reads = [r for r in types if fits.get(r)]
    return [(w, r) for w in written for r in reads if _alike(types[w], types[r])]


def _alike(written: TensorType, read: TensorType) -> bool:
    return written.size == read.size and written.dtype.itemsize == read.dtype.itemsize


def _always_computed(exprs: Sequence[Expr]) -> set[Expr]:
    """Return the nodes that are computed whatever selections decide: these can be read before any write."""
    found: dict[Expr, None] = {}
    pending = list(exprs)
    while pending:
        current = pending.pop()
        if current in found:
            continue
        found[current] = None
        operands = children(current)
        pending += operands[:1] if isinstance(current, Apply) and current.op == "select" else operands
    return set(found)
