"""What a node does to the first dimension of its result, seen in its index form. It must not know who asks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.compute import Compute
from dlc.ir.expr import Expr, Read, Var, children
from dlc.ir.graph import Node
from dlc.ir.simplify import Simplifier, depends_on
from dlc.ir.types import TensorType


class Rows:
    """How a node makes the rows of its result, which are its elements along the first dimension.

    ``extent`` is their number, 0 for a node that does not work row by row; ``sliced`` are the operands of which each
    row of the result reads that row only. No other operand is read by row. ``operations`` counts the additions and
    multiplications of sums, 0 for a node that combines nothing.
    """

    def __init__(self, node: Node) -> None:
        self.extent, self.sliced, self.operations = 0, frozenset[int](), 0
        self._found: dict[int, Attributes | None] = {}
        if node.op.compute is None or len(node.outputs) != 1 or not node.outputs[0].type.shape:
            return
        compute = node.op.compute(node.input_types, node.output_types, node.attributes)
        self.form = _index_form(compute, compute.shape[0])
        sliced = _sliced(*self.form)
        if sliced is None or any(node.inputs[k].type.shape[0] != compute.shape[0] for k in sliced):
            return
        self.extent, self.sliced = compute.shape[0], sliced
        if compute.combiner is not None:
            self.operations = 2 * prod(a.extent for a in (*compute.axes, *compute.reduce_axes))

    def attributes_for(self, node: Node, count: int) -> Attributes | None:
        """Return the attributes with which ``node`` does the same to ``count`` rows; None if there are none."""
        if count not in self._found:
            types = tuple(first_rows(v.type, count) if k in self.sliced else v.type for k, v in enumerate(node.inputs))
            made = first_rows(node.outputs[0].type, count)
            candidates = (node.attributes, self._restated(node.attributes, len(made.shape), count))
            self._found[count] = next((a for a in candidates if self._same(node, types, made, a)), None)
        return self._found[count]

    def _restated(self, attributes: Attributes, rank: int, count: int) -> Attributes:
        """Give what has a number for every dimension, that of rows for the first (a shape, limits), the new one."""
        stated = {n: a for n, a in attributes.items() if isinstance(a, tuple) and len(a) == rank}
        return attributes.updated(**{n: (count, *a[1:]) for n, a in stated.items() if a[0] == self.extent})

    def _same(self, node: Node, types: tuple[TensorType, ...], made: TensorType, attributes: Attributes) -> bool:
        """Tell whether ``node`` with other operands and attributes has a result of that type, made in the same way."""
        try:
            if node.op.compute is None or node.op.infer(types, attributes) != (made,):
                return False
        except TypeRuleError:
            return False
        return _index_form(node.op.compute(types, (made,), attributes), self.extent) == self.form


def first_rows(type_: TensorType, count: int) -> TensorType:
    """Return the type of ``count`` rows."""
    return TensorType(type_.dtype, (count, *type_.shape[1:]))


def _index_form(compute: Compute, rows: int) -> tuple[Expr, ...]:
    """Return the body and the places of results, simplified as if there were so many rows: one would have no index."""
    axes = (*compute.axes, *compute.reduce_axes)
    bounds = {a.var: (0, max(a.extent - 1, 0)) for a in axes}
    if isinstance(compute.store[0], Var):
        bounds[compute.store[0]] = (0, max(rows - 1, 0))
    simplify = Simplifier(bounds)
    return (simplify(compute.body), *(simplify(s) for s in compute.store))


def _sliced(body: Expr, row: Expr, *columns: Expr) -> frozenset[int] | None:
    """Return the operands that are read by row; None if rows of the result depend on their number in another way."""
    if not isinstance(row, Var) or _uses(columns, row):
        return None
    by_row, whole = set[int](), set[int]()
    pending, seen = [body], set[int]()
    while pending:
        expr = pending.pop()
        if id(expr) in seen:
            continue
        seen.add(id(expr))
        if not isinstance(expr, Read):
            if expr == row:
                return None
            pending += children(expr)
        elif not _uses(expr.indices, row):
            whole.add(expr.input)
        elif expr.indices[0] == row and not _uses(expr.indices[1:], row):
            by_row.add(expr.input)
        else:
            return None
    return None if by_row & whole else frozenset(by_row)


def _uses(exprs: Sequence[Expr], row: Var) -> bool:
    return any(depends_on(expr, {row}) for expr in exprs)
