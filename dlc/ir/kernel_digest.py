"""Digests of kernels: equal digests mean equal code, in every process.

Walks statements and expressions as data. It must not know how they print.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any

from dlc.ir.expr import Apply, Const, Expr, Horizontal, Load, Read, Var, children
from dlc.ir.kernel import Kernel
from dlc.ir.types import DType

_EXPRESSIONS = frozenset((Apply, Const, Horizontal, Load, Read, Var))


def fingerprint(kernel: Kernel) -> str:
    """Return a hex digest of what ``kernel`` does, whatever it is called; a kernel object is read once."""
    known: str | None = kernel.__dict__.get("_digest")
    if known is None:
        writer = _Writer()
        writer.write((kernel.buffers, kernel.scalars, kernel.body))
        known = hashlib.sha256(repr((list(writer.expressions), writer.parts)).encode()).hexdigest()
        object.__setattr__(kernel, "_digest", known)
    return known


def renamed(kernel: Kernel, name: str) -> Kernel:
    """Return the same kernel under another name, which leaves its digest as it is."""
    digest = fingerprint(kernel)
    kernel = replace(kernel, name=name)
    object.__setattr__(kernel, "_digest", digest)
    return kernel


_names: dict[type, tuple[str, ...]] = {}
"""The fields of every kind of statement met so far."""


class _Writer:
    """Writes data as a list of plain parts; an expression as its number in a table of expressions."""

    def __init__(self) -> None:
        self.parts: list[str | int] = []
        self.expressions: dict[tuple, int] = {}
        """What an expression is, given the numbers of its operands -> its number."""
        self.numbers: dict[int, int] = {}
        """Identity of an expression (which the kernel keeps alive) -> its number."""

    def write(self, value: Any) -> None:
        """Write a statement, a tuple of them, or what they are made of."""
        kind = type(value)
        if kind in _EXPRESSIONS:
            number = self.numbers.get(id(value))
            self.parts.append(self.number(value) if number is None else number)
        elif kind is tuple:
            self.parts.append(f"({len(value)}")
            for element in value:
                self.write(element)
        elif kind is Kernel:
            self.parts.append(fingerprint(value))
        elif kind is DType:
            self.parts.append(value.name)
        elif value is None or isinstance(value, str | int | float):  # enumerations are strings
            self.parts.append(f"{kind.__name__} {value!s}")
        else:
            self.parts.append(kind.__name__)
            if kind not in _names:
                _names[kind] = tuple(field.name for field in fields(value))
            for name in _names[kind]:
                self.write(getattr(value, name))

    def number(self, expr: Expr) -> int:
        """Return the number of ``expr``, entered after its operands; from a stack, expressions may be deep."""
        numbers, expressions = self.numbers, self.expressions
        pending = [expr]
        while pending:
            current = pending[-1]
            below = children(current)
            operands = [numbers.get(id(child)) for child in below]
            if None in operands:
                pending += [child for child, number in zip(below, operands, strict=True) if number is None]
                continue
            pending.pop()
            numbers[id(current)] = expressions.setdefault((*_head(current), *operands), len(expressions))
        return numbers[id(expr)]


def _head(expr: Expr) -> tuple:
    """Return what distinguishes an expression beside its operands."""
    kind = type(expr)  # no patterns: kernels have tens of thousands of expressions
    if kind is Apply:
        return ("apply", expr.op, expr.dtype.name)  # type: ignore[union-attr]
    if kind is Const:
        return ("const", repr(expr.value), expr.dtype.name)  # type: ignore[union-attr]
    if kind is Var:
        return ("var", expr.name, expr.dtype.name)  # type: ignore[union-attr]
    if kind is Load:
        return ("load", expr.buffer, expr.dtype.name)  # type: ignore[union-attr]
    if kind is Read:
        return ("read", expr.input, expr.dtype.name)  # type: ignore[union-attr]
    assert isinstance(expr, Horizontal)
    return ("horizontal", expr.op, expr.buffer, expr.width, expr.dtype.name)
