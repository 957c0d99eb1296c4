"""Values while a kernel is emitted: uniform scalars, affine lane sequences and vectors.

A uniform value stays scalar until a vector is really needed; an index that is
affine in the lane stays a base and a step, which is how contiguous access is
recognised. Intervals and known divisors of indices prove accesses in bounds
and simplify division. It must not know statements.
"""

from __future__ import annotations

from math import gcd
from typing import Protocol

from dlc.codegen.llvm_types import register_type
from dlc.ir.types import DType, int64

Bound = int | None


class Emitter(Protocol):
    """What values need of the function being written (``llvm_state.FunctionState``)."""

    lanes: int
    splats: dict[tuple[str, int], str]

    def op(self, text: str) -> str: ...
    def declare(self, signature: str) -> None: ...


class Value:
    """A value of ``dtype``.

    ``lanes`` is 0 for a scalar register or literal ``text``, else the width of the vector in ``text``.
    With ``step`` not 0, ``text`` is a scalar base and lane i holds base + i * step. ``low`` and ``high``
    bound the base where known, ``multiple`` divides it, and ``index`` says that the value comes from loop
    variables and literals alone, so that its arithmetic does not overflow.
    """

    __slots__ = ("dtype", "high", "index", "lanes", "low", "multiple", "step", "text")

    def __init__(
        self,
        text: str,
        dtype: DType,
        lanes: int = 0,
        step: int = 0,
        low: Bound = None,
        high: Bound = None,
        multiple: int = 1,
        index: bool = False,
    ) -> None:
        self.text = text
        self.dtype = dtype
        self.lanes = lanes
        self.step = step
        self.low = low
        self.high = high
        self.multiple = multiple
        self.index = index

    @property
    def constant(self) -> Bound:
        """The integer that this uniform index is known to be, else None."""
        return self.low if self.low is not None and self.low == self.high and not self.lanes and not self.step else None

    @property
    def varies(self) -> bool:
        """Whether lanes may differ."""
        return bool(self.lanes or self.step)


def integer(value: int) -> Value:
    """Build a literal index."""
    return Value(str(value), int64, 0, 0, value, value, abs(value), True)


def uniform_index(text: str, low: Bound = None, high: Bound = None, multiple: int = 1) -> Value:
    """Build an index held in the scalar register ``text``."""
    return Value(text, int64, 0, 0, low, high, multiple, True)


def last_lane(value: Value, lanes: int) -> Bound:
    """Return the largest value over lanes of a uniform or affine index, where known."""
    if value.high is None:
        return None
    return value.high + max(0, value.step * (lanes - 1))


def first_lane(value: Value, lanes: int) -> Bound:
    """Return the smallest value over lanes of a uniform or affine index, where known."""
    if value.low is None:
        return None
    return value.low + min(0, value.step * (lanes - 1))


def iota(lanes: int, step: int, element: str) -> str:
    """Return the constant vector 0, step, 2*step, ..."""
    return "<" + ", ".join(f"{element} {lane * step}" for lane in range(lanes)) + ">"


def materialize(s: Emitter, value: Value, lanes: int) -> str:
    """Return ``value`` as the text of a register or literal with ``lanes`` lanes (0: a scalar)."""
    if value.lanes == lanes and not value.step:
        return value.text
    assert lanes, "a value that differs between lanes cannot become a scalar"
    element = register_type(value.dtype)
    vector = f"<{lanes} x {element}>"
    if value.text[0] != "%":
        if not value.step:
            return f"splat ({element} {value.text})"
        base = int(value.text)
        return "<" + ", ".join(f"{element} {base + lane * value.step}" for lane in range(lanes)) + ">"
    wide = splat(s, value.text, element, lanes)
    if not value.step:
        return wide
    flags = " nsw" if value.index else ""
    return s.op(f"add{flags} {vector} {wide}, {iota(lanes, value.step, element)}")


def splat(s: Emitter, text: str, element: str, lanes: int) -> str:
    """Return a vector with the scalar ``text`` in every lane."""
    key = (text, lanes)
    found = s.splats.get(key)
    if found is None:
        vector = f"<{lanes} x {element}>"
        one = s.op(f"insertelement {vector} poison, {element} {text}, i64 0")
        found = s.op(f"shufflevector {vector} {one}, {vector} poison, <{lanes} x i32> zeroinitializer")
        s.splats[key] = found
    return found


# -- arithmetic on indices ---------------------------------------------------------------------------


def _sum(a: Bound, b: Bound) -> Bound:
    return None if a is None or b is None else a + b


def _no_wrap(a: Value, b: Value) -> str:
    """Flags of an addition, subtraction or product: indices do not overflow, data wraps."""
    return " nsw" if a.index and b.index else ""


def _literal(value: int, step: int, index: bool) -> Value:
    """A base known as a number, wrapped to 64 bits as the addition of data would."""
    wrapped = (value + 2**63) % 2**64 - 2**63
    return Value(str(wrapped), int64, 0, step, wrapped, wrapped, abs(wrapped), index and wrapped == value)


def _on_lanes(s: Emitter, op: str, a: Value, b: Value) -> Value:
    lanes = a.lanes or b.lanes or s.lanes
    left, right = materialize(s, a, lanes), materialize(s, b, lanes)
    text = s.op(f"{op}{_no_wrap(a, b)} <{lanes} x i64> {left}, {right}")
    return Value(text, int64, lanes, index=a.index and b.index)


def add(s: Emitter, a: Value, b: Value) -> Value:
    """Return a + b of int64 values; uniform and affine operands stay so."""
    if a.lanes or b.lanes:
        return _on_lanes(s, "add", a, b)
    index = a.index and b.index
    for one, other in ((a, b), (b, a)):
        if one.text == "0":
            if not one.step:
                return other
            step = one.step + other.step
            return Value(other.text, int64, 0, step, other.low, other.high, other.multiple, index)
    low, high = _sum(a.low, b.low), _sum(a.high, b.high)
    if low is not None and low == high:
        return _literal(low, a.step + b.step, index)
    text = s.op(f"add{_no_wrap(a, b)} i64 {a.text}, {b.text}")
    return Value(text, int64, 0, a.step + b.step, low, high, gcd(a.multiple, b.multiple), index)


def scale(s: Emitter, a: Value, factor: int) -> Value:
    """Return a * factor of an int64 value and an integer."""
    if factor == 1:
        return a
    if factor == 0:
        return integer(0)
    flags = " nsw" if a.index else ""
    if a.lanes:
        text = s.op(f"mul{flags} <{a.lanes} x i64> {a.text}, splat (i64 {factor})")
        return Value(text, int64, a.lanes, index=a.index)
    low, high = (a.low, a.high) if factor > 0 else (a.high, a.low)
    low = None if low is None else low * factor
    high = None if high is None else high * factor
    if low is not None and low == high:
        return _literal(low, a.step * factor, a.index)
    text = s.op(f"mul{flags} i64 {a.text}, {factor}")
    return Value(text, int64, 0, a.step * factor, low, high, a.multiple * abs(factor), a.index)


def sub(s: Emitter, a: Value, b: Value) -> Value:
    """Return a - b of int64 values; uniform and affine operands stay so."""
    if b.constant is not None and b.constant != -(2**63):
        return add(s, a, integer(-b.constant))
    if a.lanes or b.lanes:
        return _on_lanes(s, "sub", a, b)
    index = a.index and b.index
    low = None if a.low is None or b.high is None else a.low - b.high
    high = None if a.high is None or b.low is None else a.high - b.low
    if low is not None and low == high:
        return _literal(low, a.step - b.step, index)
    text = s.op(f"sub{_no_wrap(a, b)} i64 {a.text}, {b.text}") if a.text != b.text else "0"
    return Value(text, int64, 0, a.step - b.step, low, high, gcd(a.multiple, b.multiple), index)


def mul(s: Emitter, a: Value, b: Value) -> Value:
    """Return a * b of int64 values."""
    if b.constant is not None:
        return scale(s, a, b.constant)
    if a.constant is not None:
        return scale(s, b, a.constant)
    if a.varies or b.varies:
        return _on_lanes(s, "mul", a, b)
    low = high = None
    if None not in (a.low, a.high, b.low, b.high):
        ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]  # type: ignore[operator]
        low, high = min(ends), max(ends)
    elif a.low is not None and b.low is not None and a.low >= 0 and b.low >= 0:
        low = a.low * b.low
    text = s.op(f"mul{_no_wrap(a, b)} i64 {a.text}, {b.text}")
    return Value(text, int64, 0, 0, low, high, a.multiple * b.multiple, a.index and b.index)


def _stays_in_block(value: Value, divisor: int, lanes: int) -> bool:
    """Whether all lanes of an affine index share one quotient by ``divisor``."""
    return value.step > 0 and gcd(value.multiple, divisor) > value.step * (lanes - 1)


def floor_div(s: Emitter, a: Value, divisor: int) -> Value:
    """Return floor(a / divisor) of an index and a positive integer."""
    if divisor == 1:
        return a
    if a.constant is not None:
        return integer(a.constant // divisor)
    if a.step:
        if a.step % divisor == 0 and a.multiple % divisor == 0:
            base = floor_div(s, uniform_index(a.text, a.low, a.high, a.multiple), divisor)
            return Value(base.text, int64, 0, a.step // divisor, base.low, base.high, base.multiple, True)
        if _stays_in_block(a, divisor, s.lanes):
            return floor_div(s, uniform_index(a.text, a.low, a.high, a.multiple), divisor)
    low = None if a.low is None else a.low // divisor
    high = None if a.high is None else a.high // divisor
    if not a.varies and low is not None and low == high:
        return integer(low)
    multiple = a.multiple // divisor if a.multiple % divisor == 0 else 1
    return _divide(s, a, divisor, "div", low, high, multiple)


def floor_mod(s: Emitter, a: Value, divisor: int) -> Value:
    """Return a mod divisor (never negative) of an index and a positive integer."""
    if divisor == 1:
        return integer(0)
    if a.constant is not None:
        return integer(a.constant % divisor)
    if a.step:
        if a.step % divisor == 0:
            return floor_mod(s, uniform_index(a.text, a.low, a.high, a.multiple), divisor)
        if _stays_in_block(a, divisor, s.lanes):
            base = floor_mod(s, uniform_index(a.text, a.low, a.high, a.multiple), divisor)
            return Value(base.text, int64, 0, a.step, base.low, base.high, base.multiple, True)
    elif not a.lanes:
        if a.multiple % divisor == 0:
            return integer(0)
        if a.low is not None and a.high is not None and 0 <= a.low and a.high < divisor:
            return a
    multiple = gcd(a.multiple, divisor)
    return _divide(s, a, divisor, "rem", 0, divisor - multiple, multiple)


def _divide(s: Emitter, a: Value, divisor: int, what: str, low: Bound, high: Bound, multiple: int) -> Value:
    lanes = s.lanes if a.varies else 0
    text = materialize(s, a, lanes)
    kind = f"<{lanes} x i64>" if lanes else "i64"
    by = f"splat (i64 {divisor})" if lanes else str(divisor)
    not_negative = not a.lanes and (first_lane(a, lanes) if lanes else a.low) is not None and (a.low or 0) >= 0
    if divisor & (divisor - 1) == 0:  # shifts and masks floor by themselves
        if what == "div":
            amount = divisor.bit_length() - 1
            result = s.op(f"ashr {kind} {text}, " + (f"splat (i64 {amount})" if lanes else str(amount)))
        else:
            result = s.op(f"and {kind} {text}, " + (f"splat (i64 {divisor - 1})" if lanes else str(divisor - 1)))
    elif not_negative and a.step >= 0:
        result = s.op(f"u{what} {kind} {text}, {by}")
    else:
        remainder = s.op(f"srem {kind} {text}, {by}")
        zero = "zeroinitializer" if lanes else "0"
        negative = s.op(f"icmp slt {kind} {remainder}, {zero}")
        flag = f"<{lanes} x i1>" if lanes else "i1"
        if what == "rem":
            fixed = s.op(f"add nsw {kind} {remainder}, {by}")
            result = s.op(f"select {flag} {negative}, {kind} {fixed}, {kind} {remainder}")
        else:
            quotient = s.op(f"sdiv {kind} {text}, {by}")
            one = s.op(f"sext {flag} {negative} to {kind}")
            result = s.op(f"add nsw {kind} {quotient}, {one}")
    return Value(result, int64, lanes, 0, low, high, multiple, True)


_COMPARE = {
    "equal": ("eq", lambda x, y: x == y),
    "not_equal": ("ne", lambda x, y: x != y),
    "less": ("slt", lambda x, y: x < y),
    "less_equal": ("sle", lambda x, y: x <= y),
    "greater": ("sgt", lambda x, y: x > y),
    "greater_equal": ("sge", lambda x, y: x >= y),
}


def compare(s: Emitter, op: str, a: Value, b: Value, boolean: DType) -> Value:
    """Compare two indices; literals fold, affine sides compare in 32-bit lanes."""
    predicate, holds = _COMPARE[op]
    if a.lanes or b.lanes:
        lanes = a.lanes or b.lanes
        text = s.op(f"icmp {predicate} <{lanes} x i64> {materialize(s, a, lanes)}, {materialize(s, b, lanes)}")
        return Value(text, boolean, lanes)
    step = a.step - b.step
    if not step:
        known = _known(op, a, b)
        if known is not None:
            return Value("true" if known else "false", boolean)
        return Value(s.op(f"icmp {predicate} i64 {a.text}, {b.text}"), boolean)
    # base_a + i*step_a ? base_b + i*step_b  is  i*step ? base_b - base_a, whose right side is one scalar.
    difference = sub(s, _base(b), _base(a))
    lanes = s.lanes
    if difference.constant is not None:
        flags = ", ".join("i1 true" if holds(lane * step, difference.constant) else "i1 false" for lane in range(lanes))
        return Value(f"<{flags}>", boolean, lanes)
    limit = lanes * abs(step) + 1
    s.declare("i64 @llvm.smax.i64(i64, i64)")
    s.declare("i64 @llvm.smin.i64(i64, i64)")
    above = s.op(f"call i64 @llvm.smax.i64(i64 {difference.text}, i64 {-limit})")
    clamped = s.op(f"call i64 @llvm.smin.i64(i64 {above}, i64 {limit})")
    narrow = s.op(f"trunc nsw i64 {clamped} to i32")
    wide = splat(s, narrow, "i32", lanes)
    return Value(s.op(f"icmp {predicate} <{lanes} x i32> {iota(lanes, step, 'i32')}, {wide}"), boolean, lanes)


def _base(a: Value) -> Value:
    return uniform_index(a.text, a.low, a.high, a.multiple) if a.step else a


def _known(op: str, a: Value, b: Value) -> bool | None:
    """Decide a comparison of two bases from their intervals."""
    below = a.high is not None and b.low is not None and a.high < b.low
    above = a.low is not None and b.high is not None and a.low > b.high
    at_most = a.high is not None and b.low is not None and a.high <= b.low
    at_least = a.low is not None and b.high is not None and a.low >= b.high
    same = a.text == b.text
    match op:
        case "less":
            return True if below else False if at_least or same else None
        case "less_equal":
            return True if at_most or same else False if above else None
        case "greater":
            return True if above else False if at_most or same else None
        case "greater_equal":
            return True if at_least or same else False if below else None
        case "equal":
            return True if same else False if below or above else None
        case _:
            return False if same else True if below or above else None
