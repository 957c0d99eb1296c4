"""Guarded values of reductions: elements that count only where a condition holds.

It must not know loops.
"""

from __future__ import annotations

from dlc.codegen.loops.combiners import accumulation_dtype, identity
from dlc.ir.expr import Apply, Const, Expr, apply, cast
from dlc.ir.types import bool_


def guarded(value: Expr, combiner: str) -> tuple[Expr, Expr] | None:
    """Return (condition, x) of ``select(condition, x, identity)``, looking through casts and products."""
    match value:
        case Apply(op="select", args=(condition, x, Const() as other)) if _changes_nothing(other, combiner):
            return condition, x
        case Apply(op="cast", args=(Apply(op="select", args=(condition, x, Const() as other)),)):
            if _changes_nothing(other, combiner):
                return condition, cast(x, value.dtype)
        case Apply(op="mul", args=(a, b)) if combiner == "add":  # padding contributes nothing
            found = guarded(a, combiner)
            if found is not None:
                return found[0], apply("mul", found[1], b)
            found = guarded(b, combiner)
            if found is not None:
                return found[0], apply("mul", found[1], a)
    return None


def conjuncts(condition: Expr | None) -> list[Expr]:
    """Return the conditions that must all hold, in order."""
    pending, found = [condition] if condition is not None else [], []
    while pending:
        current = pending.pop()
        if isinstance(current, Apply) and current.op == "bit_and":
            pending += reversed(current.args)
        else:
            found.append(current)
    return found


def _changes_nothing(value: Const, combiner: str) -> bool:
    neutral = identity(combiner, accumulation_dtype(combiner, value.dtype)).value
    same_sign = value.value != 0 or str(value.value) == str(neutral) or value.dtype is bool_
    return bool(value.value == neutral) and (same_sign or combiner == "add")
