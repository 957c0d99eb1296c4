"""What scalar work costs, roughly: about one per simple operation or load.

Fusion and schedules weigh computing again against storing. It must not know
targets; the numbers are orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dlc.ir.expr import Apply, Expr, Load, Read, children
from dlc.ir.types import int64

SCALAR_COST = {
    "exp": 16, "expm1": 24, "log": 18, "log1p": 24, "sqrt": 6, "rsqrt": 8, "reciprocal": 6, "div": 6,
    "sin": 24, "cos": 24, "tan": 40, "asin": 30, "acos": 30, "atan": 30, "atan2": 40, "sinh": 30, "cosh": 30,
    "tanh": 24, "asinh": 40, "acosh": 40, "atanh": 40, "erf": 28, "sigmoid": 22, "pow": 60,
    "floor_div": 8, "floor_mod": 10, "trunc_mod": 10,
}  # fmt: skip


def distinct(exprs: Iterable[Expr]) -> list[Expr]:
    """Return every distinct node object of several expressions once, users before operands."""
    seen: set[int] = set()
    order: list[Expr] = []
    pending = list(reversed(list(exprs)))
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        order.append(current)
        pending += children(current)
    return order


def node_cost(expr: Expr) -> int:
    """Estimate the work of one node without its operands; index arithmetic is free."""
    if isinstance(expr, Load | Read):
        return 1
    if isinstance(expr, Apply) and expr.dtype is not int64 and not (expr.args and expr.args[0].dtype is int64):
        return SCALAR_COST.get(expr.op, 1)
    return 0


def cost(exprs: Sequence[Expr]) -> int:
    """Estimate the work of computing ``exprs`` together."""
    return sum(node_cost(expr) for expr in distinct(exprs))
