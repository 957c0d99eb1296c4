"""Scalar and index expressions, shared by Compute (``Read``) and Kernel (``Load``).

Expressions are immutable data: constants, variables, reads and applications of
the scalar functions of ``ir.scalar`` plus ``select`` and ``cast``. Hashes are
cached so that shared subexpressions stay cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import Union

from dlc.errors import DlcError
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.types import DType, bool_, int32, int64


class _Hashed:
    """Caches the hash of a frozen dataclass and compares by identity first."""

    __slots__ = ()

    def _key(self) -> tuple:
        raise NotImplementedError

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined,no-any-return]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or self._hash != other._hash:  # type: ignore[attr-defined]
            return False
        return _same(self, other)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self._key()))


@dataclass(frozen=True, eq=False, slots=True)
class Const(_Hashed):
    """A literal of ``dtype``; floats may be inf or nan."""

    value: int | float | bool
    dtype: DType
    _hash: int = field(init=False, repr=False)

    def _key(self) -> tuple:
        return (repr(self.value), self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Var(_Hashed):
    """A loop variable, let-bound name, or scalar parameter."""

    name: str
    dtype: DType = int64
    _hash: int = field(init=False, repr=False)

    def _key(self) -> tuple:
        return (self.name, self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Read(_Hashed):
    """Element of input number ``input`` of a Compute at one index per dimension."""

    input: int
    indices: tuple["Expr", ...]
    dtype: DType
    _hash: int = field(init=False, repr=False)

    def _key(self) -> tuple:
        return (self.input, self.indices, self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Load(_Hashed):
    """Element of a kernel buffer at a linear index, counted in elements."""

    buffer: str
    index: "Expr"
    dtype: DType
    _hash: int = field(init=False, repr=False)

    def _key(self) -> tuple:
        return (self.buffer, self.index, self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Apply(_Hashed):
    """A scalar function applied to expressions; ``select`` takes (condition, a, b), ``cast`` one operand.

    Three intrinsics stand beside the scalar table: ``fma(a, b, c)`` is a*b+c rounded once; ``nearest(x)`` is the
    int32 nearest to a float32, halves to even, some int32 where none is near; and ``horizontal_<op>(Load)`` (op: add,
    mul, maximum, minimum, bit_and, bit_or) combines the ``width`` lanes of a local buffer, see ``Horizontal``.
    """

    op: str
    args: tuple["Expr", ...]
    dtype: DType
    _hash: int = field(init=False, repr=False)

    def _key(self) -> tuple:
        return (self.op, self.args, self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Horizontal(_Hashed):
    """Combine ``width`` (a power of two) consecutive elements of a local buffer from ``index`` on.

    The order is the halving tree: lane i with lane i + width/2, and so on.
    """

    op: str
    buffer: str
    index: "Expr"
    width: int
    dtype: DType
    _hash: int = field(init=False, repr=False)

    def _key(self) -> tuple:
        return (self.op, self.buffer, self.index, self.width, self.dtype)


Expr = Union[Const, Var, Read, Load, Apply, Horizontal]


def _same(a: Expr, b: Expr) -> bool:
    """Compare structure from an explicit stack, each pair of nodes once: expressions may be deep and shared."""
    seen: set[tuple[int, int]] = set()
    pending = [(a, b)]
    while pending:
        a, b = pending.pop()
        if a is b or (id(a), id(b)) in seen:
            continue
        if type(a) is not type(b) or a._hash != b._hash or _head(a) != _head(b):
            return False
        left, right = children(a), children(b)
        if len(left) != len(right):
            return False
        seen.add((id(a), id(b)))
        pending += zip(left, right, strict=True)
    return True


def _head(expr: Expr) -> tuple:
    """Return what distinguishes a node beside its operands."""
    match expr:
        case Apply(op=op, dtype=dtype):
            return (op, dtype)
        case Load(buffer=buffer, dtype=dtype):
            return (buffer, dtype)
        case Read(input=number, dtype=dtype):
            return (number, dtype)
        case Horizontal(op=op, buffer=buffer, width=width, dtype=dtype):
            return (op, buffer, width, dtype)
    return expr._key()


_small: dict[int, Const] = {}
"""Indices that occur all the time: one object each."""


def const(value: int | float | bool, dtype: DType = int64) -> Const:
    """Build a literal."""
    if dtype is int64 and type(value) is int and -4096 <= value <= 65536:
        known = _small.get(value)
        if known is None:
            known = _small[value] = Const(value, int64)
        return known
    return Const(value, dtype)


def apply(op: str, *args: Expr) -> Apply:
    """Apply a scalar function; the dtype follows from the table."""
    if op == "select":
        return Apply(op, args, args[1].dtype)
    if op == "fma":
        return Apply(op, args, args[0].dtype)
    if op == "nearest":
        return Apply(op, args, int32)
    entry = SCALAR_OPS.get(op)
    if entry is None or entry.arity != len(args):
        raise DlcError(f"scalar function {op!r} with {len(args)} operands does not exist")
    return Apply(op, args, bool_ if entry.result == "bool" else args[0].dtype)


def cast(x: Expr, dtype: DType) -> Expr:
    """Convert ``x`` to ``dtype`` (the same expression where it has it already)."""
    return x if x.dtype is dtype else Apply("cast", (x,), dtype)


def select(condition: Expr, a: Expr, b: Expr) -> Expr:
    """``a`` where ``condition`` else ``b``; only the chosen operand's reads need be in bounds."""
    return Apply("select", (condition, a, b), a.dtype)


def children(expr: Expr) -> tuple[Expr, ...]:
    """Return the operands of ``expr``."""
    kind = type(expr)  # asked more often than anything else of an expression: patterns would take several times as long
    if kind is Apply:
        return expr.args  # type: ignore[union-attr]
    if kind is Read:
        return expr.indices  # type: ignore[union-attr]
    if kind is Load or kind is Horizontal:
        return (expr.index,)  # type: ignore[union-attr]
    return ()


def with_children(expr: Expr, new: tuple[Expr, ...]) -> Expr:
    """Return ``expr`` with operands ``new`` (the same object where nothing changed)."""
    old = children(expr)
    if len(old) == len(new) and all(map(is_, old, new)):
        return expr
    match expr:
        case Apply(op=op, dtype=dtype):
            return Apply(op, new, dtype)
        case Read(input=number, dtype=dtype):
            return Read(number, new, dtype)
        case Load(buffer=buffer, dtype=dtype):
            return Load(buffer, new[0], dtype)
        case Horizontal(op=op, buffer=buffer, width=width, dtype=dtype):
            return Horizontal(op, buffer, new[0], width, dtype)
    return expr


def transform(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild ``expr`` bottom-up; ``rule`` maps a node with new operands to its replacement or None."""
    done: dict[int, Expr] = {}
    keep: list[Expr] = []
    pending: list[tuple[Expr, bool]] = [(expr, False)]
    while pending:
        current, ready = pending.pop()
        if id(current) in done:
            continue
        if not ready:
            pending.append((current, True))
            pending += [(child, False) for child in children(current) if id(child) not in done]
            continue
        rebuilt = with_children(current, tuple(done[id(child)] for child in children(current)))
        replaced = rule(rebuilt)
        done[id(current)] = rebuilt if replaced is None else replaced
        keep.append(current)
    return done[id(expr)]


def substitute(expr: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """Replace whole subexpressions (usually variables) by ``mapping``."""
    return transform(expr, mapping.get)


def walk(expr: Expr) -> Iterable[Expr]:
    """Yield every distinct node of ``expr`` once, operands after users."""
    seen: set[int] = set()
    pending = [expr]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += children(current)
