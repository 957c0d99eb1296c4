"""Finds masks that hide all keys beyond a diagonal, so that the index says it and nobody needs to read them.

Looks at the values of constant masks. It must not know how attention is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlc.ir.expr import Apply, Const, Expr, Read, Var
from dlc.ir.graph import Node, Value
from dlc.passes.attention.pattern import Scope, simplified_body

_MOST_SEEN = 0.85
"""Share of the scores before the diagonal up to which leaving out the rest pays for two more operations on each."""


@dataclass(frozen=True)
class Diagonal:
    """Keys up to ``row + offset`` are seen; all others are ``hidden``. ``exact``: the mask says nothing else.

    ``masked`` is the node's operand that is masked.
    """

    offset: int
    hidden: float
    exact: bool
    masked: Value


def diagonal_of(scope: Scope, node: Node, scores: set[Value]) -> Diagonal | None:
    """Return the diagonal of a node that masks ``scores``: adds a constant to them, or selects by one."""
    body = simplified_body(node)
    if not isinstance(body, Apply) or not all(isinstance(a, Read) for a in body.args):
        return None
    operands = [node.inputs[a.input] for a in body.args if isinstance(a, Read)]
    if body.op == "add" and len([v for v in operands if v in scores]) == 1:
        masked, mask = operands if operands[0] in scores else operands[::-1]
        return _diagonal(scope, mask, masked, -np.inf)
    if body.op == "select" and operands[1] in scores and operands[0] not in scores:
        filler, _ = scope.source_of(operands[2], set())
        maker = scope.made_by.get(filler)
        value = simplified_body(maker) if maker is not None and maker.op.compute is not None else None
        if isinstance(value, Const) and value.value < 0:
            return _diagonal(scope, operands[0], operands[1], float(value.value))
    return None


def _diagonal(scope: Scope, mask: Value, masked: Value, hidden: float) -> Diagonal | None:
    source, indices = scope.source_of(mask, set())
    array = scope.constants.get(source)
    if array is None:
        return None
    table = _over_rows_and_keys(array, indices, mask.type.rank)
    if table is None:
        return None
    is_hidden = ~table if table.dtype == np.bool_ else np.isneginf(table)
    everywhere = is_hidden.all(axis=0)
    rows, keys = everywhere.shape
    distance = np.arange(keys)[None, :] - np.arange(rows)[:, None]
    if everywhere.all():
        return None
    offset = int(distance[~everywhere].max())
    beyond = distance > offset
    if beyond.mean() < 1 - _MOST_SEEN:
        return None
    exact = bool((is_hidden == beyond).all()) and (table.dtype == np.bool_ or not table[~is_hidden].any())
    return Diagonal(offset, hidden, exact, masked)


def _over_rows_and_keys(array: np.ndarray, indices: tuple[Expr, ...], rank: int) -> np.ndarray | None:
    """Return a mask as (everything else, rows, keys); None unless it is read along the last two dimensions."""
    rows, keys = Var(f"i{rank - 2}"), Var(f"i{rank - 1}")
    places: dict[Var, int] = {}
    picked = array
    for dimension in reversed(range(len(indices))):
        index = indices[dimension]
        if isinstance(index, Const):
            picked = np.take(picked, int(index.value), axis=dimension)
        elif not isinstance(index, Var) or index in places:
            return None
    for index in indices:
        if isinstance(index, Var):
            places[index] = len(places)
    if rows not in places or keys not in places:
        return None
    moved = np.moveaxis(picked, (places[rows], places[keys]), (-2, -1))
    return moved.reshape(-1, *moved.shape[-2:])
