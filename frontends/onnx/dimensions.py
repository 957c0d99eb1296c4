"""Reasoning about symbolic dimensions at import: equality constraints, bounds and comparisons.

Symbols stand for extents, so they are at least zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlc.ir.dims import Dim, Symbol, SymbolicDim, bind_dim, exact_quotient, symbols_of


class SymbolsEqual(Exception):
    """Raised to start the import over with symbols replaced: ``binding`` maps their names to dimensions."""

    def __init__(self, binding: Mapping[str, Dim], reason: str) -> None:
        super().__init__(reason)
        self.binding = dict(binding)
        self.reason = reason


def solve(a: Dim, b: Dim, keep: Mapping[str, int] | None = None) -> dict[str, Dim] | None:
    """Return a binding of one symbol that makes ``a`` equal ``b``, or None if there is no obvious one.

    ``keep`` ranks symbols: of several candidates the one with the highest rank is replaced.
    """
    difference = a - b
    if not isinstance(difference, SymbolicDim):
        return {} if difference == 0 else None
    candidates = []
    for monomial, coefficient in difference.terms:
        if len(monomial) != 1 or not isinstance(monomial[0], Symbol):
            continue
        name = monomial[0].name
        rest = difference - SymbolicDim(((monomial, coefficient),))
        if name in symbols_of(rest):
            continue
        value = exact_quotient(rest * -1, coefficient)
        if value is not None and not (isinstance(value, int) and value < 0):
            candidates.append((name, value))
    if not candidates:
        return _solve_common_factor(difference)
    ranks = keep or {}
    candidates.sort(key=lambda c: (not isinstance(c[1], int), -ranks.get(c[0], 0), -len(c[0]), c[0]))
    name, value = candidates[0]
    return {name: value}


def _solve_common_factor(difference: SymbolicDim) -> dict[str, Dim] | None:
    """Solve ``s*(...) = 0`` products such as ``batch*seq - other*seq`` by taking out a common symbol."""
    common = set(difference.terms[0][0])
    for monomial, _ in difference.terms:
        common &= set(monomial)
    for atom in sorted(common, key=str):
        if isinstance(atom, Symbol):
            rest = exact_quotient(difference, SymbolicDim((((atom,), 1),)))
            if isinstance(rest, SymbolicDim):
                return solve(rest, 0)
    return None


def lower_bound(dim: Dim) -> int | None:
    """Return a number that ``dim`` is never below, or None if none is known."""
    if isinstance(dim, int):
        return dim
    bound = 0
    for monomial, coefficient in dim.terms:
        if not monomial:
            bound += coefficient
        elif coefficient < 0:
            return None
    return bound


def compare(a: Dim, b: Dim) -> int | None:
    """Return -1, 0 or 1 as ``a`` is below, equal to or above ``b`` for every binding; None if it depends."""
    difference = a - b
    if isinstance(difference, int):
        return (difference > 0) - (difference < 0)
    low = lower_bound(difference)
    if low is not None and low > 0:
        return 1
    high = lower_bound(difference * -1)
    if high is not None and high > 0:
        return -1
    return None


def at_most(a: Dim, b: Dim) -> bool | None:
    """Return whether ``a <= b`` for every binding, or None if it depends."""
    low = lower_bound(b - a)
    if low is not None and low >= 0:
        return True
    above = lower_bound(a - b)
    if above is not None and above > 0:
        return False
    return None


def replace_symbols(dim: Dim, binding: Mapping[str, Dim]) -> Dim:
    """Substitute until nothing of ``binding`` is left in ``dim``."""
    for _ in range(len(binding) + 1):
        if isinstance(dim, int) or not (symbols_of(dim) & set(binding)):
            return dim
        dim = bind_dim(dim, binding)
    return dim
