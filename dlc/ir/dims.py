"""Dimensions: an int, or a symbolic integer polynomial such as ``batch*8 + 4``.

A symbolic dimension is kept in canonical form (sorted monomials over atoms), so
equality is structural. Atoms are named symbols and floor divisions that do not
simplify. Text form is a Python expression and parses back equal.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import total_ordering
from math import prod
from typing import Union

from dlc.errors import DlcError

Monomial = tuple["Atom", ...]


@dataclass(frozen=True)
class Symbol:
    """A named unknown extent, at least zero."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FloorDiv:
    """``numerator // denominator`` where the division is not known to be exact."""

    numerator: "SymbolicDim"
    denominator: "Dim"

    def __str__(self) -> str:
        denominator = f"{self.denominator}" if isinstance(self.denominator, int) else f"({self.denominator})"
        return f"(({self.numerator})//{denominator})"


Atom = Union[Symbol, FloorDiv]


@total_ordering
@dataclass(frozen=True)
class SymbolicDim:
    """A polynomial with integer coefficients; build through arithmetic or ``symbol(name)``."""

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        parts = []
        for monomial, coefficient in self.terms:
            factors = [str(atom) for atom in monomial]
            if not factors:
                parts.append(str(coefficient))
            elif coefficient == 1:
                parts.append("*".join(factors))
            else:
                parts.append("*".join([*factors, str(coefficient)]))
        return " + ".join(parts).replace("+ -", "- ")

    __repr__ = __str__

    def __add__(self, other: Dim) -> Dim:
        merged = dict(self.terms)
        for monomial, coefficient in _terms(other):
            merged[monomial] = merged.get(monomial, 0) + coefficient
        return _canonical(merged)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (other * -1)

    def __rsub__(self, other: Dim) -> Dim:
        return (self * -1) + other

    def __mul__(self, other: Dim) -> Dim:
        product: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                monomial = tuple(sorted(left + right, key=str))
                product[monomial] = product.get(monomial, 0) + a * b
        return _canonical(product)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        exact = exact_quotient(self, other)
        if exact is not None:
            return exact
        if isinstance(other, int):
            # (k*d*a + r) // d == k*a + r // d for every integer r: take out what divides.
            whole = _canonical({m: c // other for m, c in self.terms if c % other == 0})
            rest = _canonical({m: c for m, c in self.terms if c % other != 0})
            if isinstance(rest, int):
                return whole + rest // other
            return whole + _canonical({(FloorDiv(rest, other),): 1})
        return _canonical({(FloorDiv(self, other),): 1})

    def __rfloordiv__(self, other: int) -> Dim:
        exact = exact_quotient(other, self)
        if exact is not None:
            return exact
        return _canonical({(FloorDiv(SymbolicDim((((), other),)), self),): 1})

    def __lt__(self, other: object) -> bool:  # only for sorting text; not an order of sizes
        return str(self) < str(other)

    def __index__(self) -> int:
        raise TypeError(f"dimension {self} is symbolic; bind it first with shapes={{...}}")


Dim = Union[int, SymbolicDim]
Shape = tuple[Dim, ...]


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, SymbolicDim) else ((((), int(dim)),) if dim else ())


def _canonical(terms: Mapping[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c != 0}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return SymbolicDim(tuple(sorted(kept.items(), key=lambda t: (-len(t[0]), [str(a) for a in t[0]]))))


def symbol(name: str) -> SymbolicDim:
    """Return the dimension that is the unknown ``name`` (an identifier)."""
    if not name.isidentifier():
        raise DlcError(f"dimension name {name!r} is not an identifier; rename it, for example 'batch'")
    return SymbolicDim((((Symbol(name),), 1),))


def exact_quotient(numerator: Dim, denominator: Dim) -> Dim | None:
    """Return ``numerator / denominator`` where it is exact for every binding, else None."""
    if isinstance(numerator, int) and isinstance(denominator, int):
        return numerator // denominator if denominator and numerator % denominator == 0 else None
    if numerator == denominator:
        return 1
    divisor_terms = _terms(denominator)
    if len(divisor_terms) != 1:
        if isinstance(numerator, SymbolicDim) and isinstance(denominator, SymbolicDim):
            # A common case: (a*p) / p for a polynomial p; try the leading-term quotient.
            lead = exact_quotient(_canonical(dict(numerator.terms[:1])), _canonical(dict(denominator.terms[:1])))
            if lead is not None and lead * denominator == numerator:
                return lead
        return None
    (monomial, coefficient) = divisor_terms[0]
    quotient: dict[Monomial, int] = {}
    for m, c in _terms(numerator):
        rest = list(m)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % coefficient:
            return None
        quotient[tuple(rest)] = c // coefficient
    return _canonical(quotient)


def size_of(shape: Shape) -> Dim:
    """Return the number of elements of ``shape``."""
    return prod(shape, start=1)


def symbols_of(dim: Dim) -> set[str]:
    """Return the names of the symbols that ``dim`` depends on."""
    names: set[str] = set()
    pending: list[Dim] = [dim]
    while pending:
        current = pending.pop()
        if isinstance(current, SymbolicDim):
            for monomial, _ in current.terms:
                for atom in monomial:
                    if isinstance(atom, Symbol):
                        names.add(atom.name)
                    else:
                        pending += [atom.numerator, atom.denominator]
    return names


def bind_dim(dim: Dim, binding: Mapping[str, Dim]) -> Dim:
    """Substitute symbols of ``dim`` by ``binding``; names not in it stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            if isinstance(atom, Symbol):
                term = term * binding.get(atom.name, symbol(atom.name))
            else:
                numerator = bind_dim(atom.numerator, binding)
                term = term * (numerator // bind_dim(atom.denominator, binding))
        total = total + term
    return total


def parse_dim(text: str) -> Dim:
    """Parse the text form of a dimension: a Python expression of names, ints, ``+ - * //``."""

    def walk(node: ast.expr) -> Dim:
        match node:
            case ast.Constant(value=int(value)):
                return value
            case ast.Name(id=name):
                return symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return walk(operand) * -1
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return walk(left) + walk(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return walk(left) - walk(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return walk(left) * walk(right)
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return walk(left) // walk(right)
        raise DlcError(f"dimension {text!r} is not an expression of names, ints and + - * //")

    try:
        return walk(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise DlcError(f"dimension {text!r} does not parse: {error.msg}") from error
