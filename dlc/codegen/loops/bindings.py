"""Placing scalar bindings: shared subexpressions once, loop invariants outside their loop.

Given values that an innermost body computes, says which Lets stand at which loop
level and what is left of the values. It must not know how loops are chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Const, Expr, Horizontal, Load, Var, children, with_children
from dlc.ir.kernel import Let, Stmt, Store
from dlc.ir.types import bool_, int64


def names(prefix: str = "v") -> Iterator[str]:
    """Yield fresh names."""
    return (f"{prefix}{number}" for number in itertools.count())


def _unguarded(exprs: Sequence[Expr]) -> set[int]:
    """Return the ids of nodes that are computed whatever the selections on the way decide."""
    seen: set[int] = set()
    pending = list(exprs)
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        operands = children(current)
        pending += operands[:1] if isinstance(current, Apply) and current.op == "select" else operands
    return seen


def place(
    exprs: Sequence[Expr], level_of: Mapping[Var, int], depth: int, fresh: Iterator[str]
) -> tuple[list[list[Let]], list[Expr]]:
    """Bind shared and invariant subexpressions of ``exprs``, which stand at level ``depth``.

    ``level_of`` gives the loop level of variables (absent: 0). Returns the Lets of levels 0 .. depth, and
    the expressions rewritten. A read behind a selection is never moved in front of it.
    """
    canonical: dict[Expr, Expr] = {}
    open_nodes = _unguarded(exprs)
    safe = {e for e in distinct(exprs) if id(e) in open_nodes}
    uses: dict[Expr, int] = {}
    readers: dict[Expr, list[Expr]] = {}
    topological = _operands_first(exprs)
    for expr in topological:
        for child in children(expr):
            uses[child] = uses.get(child, 0) + 1
            readers.setdefault(child, []).append(expr)
    for expr in exprs:
        uses[expr] = uses.get(expr, 0) + 1
    level: dict[Expr, int] = {}
    reads: dict[Expr, bool] = {}
    index: dict[Expr, bool] = {}
    for expr in topological:
        operands = children(expr)
        level[expr] = level_of.get(expr, 0) if isinstance(expr, Var) else max((level[c] for c in operands), default=0)
        reads[expr] = isinstance(expr, Load | Horizontal) or any(reads[c] for c in operands)
        numeric = expr.dtype is int64 or (expr.dtype is bool_ and bool(operands) and operands[0].dtype is int64)
        index[expr] = numeric and not reads[expr]
    roots = set(exprs)
    lets: list[list[Let]] = [[] for _ in range(depth + 1)]
    for expr in topological:
        operands = children(expr)
        rebuilt = with_children(expr, tuple(canonical[c] for c in operands)) if operands else expr
        canonical[expr] = rebuilt
        if isinstance(expr, Const | Var) or index[expr] or (reads[expr] and expr not in safe):
            continue
        inner_reader = any(level[r] > level[expr] for r in readers.get(expr, ()))
        invariant = level[expr] < depth and (inner_reader or expr in roots)
        if invariant or uses.get(expr, 0) > 1:
            name = Var(next(fresh), expr.dtype)
            lets[level[expr]].append(Let(name, rebuilt))
            canonical[expr] = name
    return lets, [canonical[e] for e in exprs]


def stays(buffer: str, index: Expr, value: Expr) -> bool:
    """Tell whether a store writes the element that it has read: a part of a tensor that lies there already."""
    return isinstance(value, Load) and value.buffer == buffer and value.index == index


def write_all(writes: Sequence[tuple[str, Expr, Expr]], fresh: Iterator[str]) -> list[Stmt]:
    """Return Stores of (buffer, index, value); all values are computed before the first is written.

    So a buffer may share memory with one that is read at the written index.
    """
    if len(writes) == 1:
        return [Store(*writes[0])]
    lets: list[Stmt] = []
    stores: list[Stmt] = []
    for buffer, index, value in writes:
        if not isinstance(value, Var | Const):
            name = Var(next(fresh), value.dtype)
            lets.append(Let(name, value))
            value = name
        stores.append(Store(buffer, index, value))
    return lets + stores


def _operands_first(exprs: Sequence[Expr]) -> list[Expr]:
    """Return every structurally distinct node once, operands before users."""
    done: dict[Expr, None] = {}
    pending: list[tuple[Expr, bool]] = [(e, False) for e in reversed(list(exprs))]
    while pending:
        current, ready = pending.pop()
        if current in done:
            continue
        if ready or not children(current):
            done[current] = None
            continue
        pending.append((current, True))
        pending += [(child, False) for child in reversed(children(current)) if child not in done]
    return list(done)
