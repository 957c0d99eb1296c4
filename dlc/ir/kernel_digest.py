"""Digests of kernels: equal digests mean equal code, in every process.

Walks statements and expressions as data. It must not know how they print.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from functools import lru_cache
from typing import Any

from dlc.ir.expr import Apply, Const, Expr, Horizontal, Load, Read, Var, children
from dlc.ir.kernel import Kernel
from dlc.ir.types import DType

_EXPRESSIONS = (Apply, Const, Horizontal, Load, Read, Var)


def fingerprint(kernel: Kernel) -> str:
    """Return a hex digest of what ``kernel`` does, whatever it is called."""
    return _digest(kernel.buffers, kernel.scalars, kernel.body)


@lru_cache(maxsize=4096)
def _digest(buffers: tuple, scalars: tuple, body: tuple) -> str:
    writer = _Writer()
    writer.write((buffers, scalars, body))
    return hashlib.sha256("\n".join(writer.parts).encode()).hexdigest()


_names: dict[type, tuple[str, ...]] = {}
"""The fields of every kind of statement met so far."""


class _Writer:
    """Writes data as lines; an expression once, then by its number."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.numbers: dict[int, int] = {}
        """Identity of an expression (which the kernel keeps alive) -> its number."""
        self.lines: dict[str, int] = {}
        """What an expression is, given the numbers of its operands -> its number."""

    def write(self, value: Any) -> None:
        """Write a statement, a tuple of them, or what they are made of."""
        if isinstance(value, _EXPRESSIONS):
            self.parts.append(f"e{self.number(value)}")
        elif isinstance(value, tuple):
            self.parts.append(f"({len(value)}")
            for element in value:
                self.write(element)
        elif isinstance(value, Kernel):
            self.parts.append(fingerprint(value))
        elif isinstance(value, DType):
            self.parts.append(value.name)
        elif value is None or isinstance(value, str | int | float):  # enumerations are strings
            self.parts.append(f"{type(value).__name__} {str(value)!r}")
        else:
            self.parts.append(type(value).__name__)
            kind = type(value)
            if kind not in _names:
                _names[kind] = tuple(field.name for field in fields(value))
            for name in _names[kind]:
                self.write(getattr(value, name))

    def number(self, expr: Expr) -> int:
        """Return the number of ``expr``, written after its operands; from a stack, expressions may be deep."""
        numbers, lines = self.numbers, self.lines
        pending = [expr]
        while pending:
            current = pending[-1]
            if id(current) in numbers:
                pending.pop()
                continue
            below = children(current)
            missing = [child for child in below if id(child) not in numbers]
            if missing:
                pending += missing
                continue
            pending.pop()
            operands = " ".join([str(numbers[id(child)]) for child in below])
            line = f"{_head(current)} {operands}"
            if line not in lines:
                lines[line] = len(lines)
                self.parts.append(line)
            numbers[id(current)] = lines[line]
        return numbers[id(expr)]


def _head(expr: Expr) -> str:
    """Return what distinguishes an expression beside its operands."""
    match expr:
        case Apply(op=op, dtype=dtype):
            return f"apply {op} {dtype.name}"
        case Load(buffer=buffer, dtype=dtype):
            return f"load {buffer!r} {dtype.name}"
        case Const(value=value, dtype=dtype):
            return f"const {value!r} {dtype.name}"
        case Var(name=name, dtype=dtype):
            return f"var {name!r} {dtype.name}"
        case Read(input=number, dtype=dtype):
            return f"read {number} {dtype.name}"
        case Horizontal(op=op, buffer=buffer, width=width, dtype=dtype):
            return f"horizontal {op} {buffer!r} {width} {dtype.name}"
