"""Index arithmetic of contraction kernels: sums and products that fold, and positions of flattened axes."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.contract.analysis import LoopAxis
from dlc.ir.expr import Const, Expr, apply, const

ZERO = const(0)


def total(*terms: Expr) -> Expr:
    """Add, leaving out zeros and folding literals into one."""
    literal = 0
    result: Expr | None = None
    for term in terms:
        if isinstance(term, Const):
            literal += int(term.value)
        else:
            result = term if result is None else apply("add", result, term)
    if result is None:
        return const(literal)
    return apply("add", result, const(literal)) if literal else result


def scaled(expr: Expr, factor: int) -> Expr:
    """Multiply by an integer."""
    if isinstance(expr, Const):
        return const(int(expr.value) * factor)
    if factor == 0:
        return ZERO
    return expr if factor == 1 else apply("mul", expr, const(factor))


def least(expr: Expr, limit: int | Expr) -> Expr:
    """The smaller of two indices."""
    other = const(limit) if isinstance(limit, int) else limit
    if isinstance(expr, Const) and isinstance(other, Const):
        return const(min(int(expr.value), int(other.value)))
    return apply("minimum", expr, other)


def decode(flat: Expr, extents: Sequence[int]) -> list[Expr]:
    """Return the indices of nested axes (outermost first) at position ``flat`` of their row-major product."""
    indices: list[Expr] = []
    rest = flat
    for extent in reversed(extents[1:]):
        if isinstance(rest, Const):
            indices.append(const(int(rest.value) % extent))
            rest = const(int(rest.value) // extent)
        else:
            indices.append(apply("floor_mod", rest, const(extent)))
            rest = apply("floor_div", rest, const(extent))
    if extents:
        indices.append(rest)
    return indices[::-1]


def offset(indices: Sequence[Expr], axes: Sequence[LoopAxis], tensor: int) -> Expr:
    """Return the position in ``tensor`` of ``indices`` along ``axes``."""
    return total(*(scaled(index, axis.strides[tensor]) for index, axis in zip(indices, axes, strict=True)))
