"""Arithmetic on int64 values that keeps them scalar, affine or in 32-bit lanes as long as it can.

Operands that are indices (made of loop variables and literals) do not overflow; data
wraps. Intervals and divisors fold comparisons and divisions. It must not know memory.
"""

from __future__ import annotations

from math import gcd

from dlc.codegen.llvm.values import (
    Bound,
    Emitter,
    Value,
    first_lane,
    fits_narrow,
    integer,
    iota,
    is_narrow,
    known_lanes,
    last_lane,
    materialize,
    materialize_narrow,
    splat,
    uniform_index,
    with_lanes,
)
from dlc.ir.types import DType, int64


def _sum(a: Bound, b: Bound) -> Bound:
    return None if a is None or b is None else a + b


def _no_wrap(a: Value, b: Value) -> str:
    """Flags of an addition, subtraction or product: indices do not overflow, data wraps."""
    return " nsw" if a.index and b.index else ""


def _literal(value: int, step: int, index: bool) -> Value:
    """A base known as a number, wrapped to 64 bits as the addition of data would."""
    wrapped = (value + 2**63) % 2**64 - 2**63
    return Value(str(wrapped), int64, 0, step, wrapped, wrapped, abs(wrapped), index and wrapped == value)


def _product(a: tuple[Bound, Bound], b: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    ends = [None if x is None or y is None else x * y for x in a for y in b]
    known = [end for end in ends if end is not None]
    if len(known) == len(ends):
        return min(known), max(known)
    if None not in (a[0], b[0]) and a[0] >= 0 and b[0] >= 0:  # type: ignore[operator]
        return a[0] * b[0], None  # type: ignore[operator]
    return None, None


def _on_lanes(s: Emitter, op: str, a: Value, b: Value) -> Value:
    """Add, subtract or multiply vectors, in 32-bit lanes where operands and result fit."""
    lanes = a.lanes or b.lanes or s.lanes
    result = _by_lane(s, op, a, b, lanes)
    left, right = known_lanes(a, lanes), known_lanes(b, lanes)
    if left is None or right is None or not result.index:
        return result
    (one, ahead), (other, behind) = left, right
    if op == "mul":
        factor = b.constant if b.constant is not None else a.constant
        if factor is None:
            return result
        base, ahead = (one, ahead) if b.constant is not None else (other, behind)
        return with_lanes(result, scale(s, base, factor), tuple(d * factor for d in ahead))
    if op == "add":
        return with_lanes(result, add(s, one, other), tuple(x + y for x, y in zip(ahead, behind, strict=True)))
    return with_lanes(result, sub(s, one, other), tuple(x - y for x, y in zip(ahead, behind, strict=True)))


def _by_lane(s: Emitter, op: str, a: Value, b: Value, lanes: int) -> Value:
    left, right = (first_lane(a, lanes), last_lane(a, lanes)), (first_lane(b, lanes), last_lane(b, lanes))
    if op == "mul":
        low, high = _product(left, right)
    elif op == "add":
        low, high = _sum(left[0], right[0]), _sum(left[1], right[1])
    else:
        low = None if left[0] is None or right[1] is None else left[0] - right[1]
        high = None if left[1] is None or right[0] is None else left[1] - right[0]
    index = a.index and b.index
    narrow = index and low is not None and high is not None and is_narrow(low, high)
    if narrow and fits_narrow(a, lanes) and fits_narrow(b, lanes):
        text = f"{materialize_narrow(s, a, lanes)}, {materialize_narrow(s, b, lanes)}"
        return Value(s.op(f"{op} nsw <{lanes} x i32> {text}"), int64, lanes, 0, low, high, 1, True, True)
    text = f"{materialize(s, a, lanes)}, {materialize(s, b, lanes)}"
    return Value(s.op(f"{op}{_no_wrap(a, b)} <{lanes} x i64> {text}"), int64, lanes, 0, low, high, 1, index)


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
    if a.lanes:
        return _on_lanes(s, "mul", a, integer(factor))
    flags = " nsw" if a.index else ""
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
    low, high = _product((a.low, a.high), (b.low, b.high))
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
    first, last = first_lane(a, s.lanes), last_lane(a, s.lanes)
    low = None if first is None else first // divisor
    high = None if last is None else last // divisor
    if low is not None and low == high:
        return integer(low)
    multiple = a.multiple // divisor if a.multiple % divisor == 0 and not a.varies else 1
    result = _divide(s, a, divisor, "div", low, high, multiple)
    found = known_lanes(a, s.lanes) if a.varies else None
    if found is None or found[0].multiple % divisor:
        return result
    return with_lanes(result, floor_div(s, found[0], divisor), tuple(d // divisor for d in found[1]))


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
    elif not a.lanes and a.multiple % divisor == 0:
        return integer(0)
    first, last = first_lane(a, s.lanes), last_lane(a, s.lanes)
    if first is not None and last is not None and first // divisor == last // divisor:
        return sub(s, a, integer(first // divisor * divisor))
    multiple = 1 if a.lanes else gcd(gcd(a.multiple, a.step), divisor)
    result = _divide(s, a, divisor, "rem", 0, divisor - multiple, 1 if a.varies else multiple)
    found = known_lanes(a, s.lanes) if a.varies else None
    if found is None or found[0].multiple % divisor:
        return result
    return with_lanes(result, integer(0), tuple(d % divisor for d in found[1]))


def _divide(s: Emitter, a: Value, divisor: int, what: str, low: Bound, high: Bound, multiple: int) -> Value:
    lanes = s.lanes if a.varies else 0
    narrow = bool(lanes) and fits_narrow(a, lanes) and divisor < 2**31
    element = "i32" if narrow else "i64"
    text = materialize_narrow(s, a, lanes) if narrow else materialize(s, a, lanes)
    kind = f"<{lanes} x {element}>" if lanes else element

    def literal(value: int) -> str:
        return f"splat ({element} {value})" if lanes else str(value)

    least = first_lane(a, lanes) if lanes else a.low
    if divisor & (divisor - 1) == 0:  # shifts and masks floor by themselves
        amount, op = (divisor.bit_length() - 1, "ashr") if what == "div" else (divisor - 1, "and")
        result = s.op(f"{op} {kind} {text}, {literal(amount)}")
    elif least is not None and least >= 0:
        result = s.op(f"u{what} {kind} {text}, {literal(divisor)}")
    else:
        remainder = s.op(f"srem {kind} {text}, {literal(divisor)}")
        negative = s.op(f"icmp slt {kind} {remainder}, {literal(0)}")
        flag = f"<{lanes} x i1>" if lanes else "i1"
        if what == "rem":
            fixed = s.op(f"add nsw {kind} {remainder}, {literal(divisor)}")
            result = s.op(f"select {flag} {negative}, {kind} {fixed}, {kind} {remainder}")
        else:
            quotient = s.op(f"sdiv {kind} {text}, {literal(divisor)}")
            one = s.op(f"sext {flag} {negative} to {kind}")
            result = s.op(f"add nsw {kind} {quotient}, {one}")
    return Value(result, int64, lanes, 0, low, high, multiple, True, narrow)


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
    step = a.step - b.step
    if a.lanes or b.lanes or abs(step) * s.lanes >= 2**30:
        lanes = s.lanes
        if fits_narrow(a, lanes) and fits_narrow(b, lanes):
            text = f"<{lanes} x i32> {materialize_narrow(s, a, lanes)}, {materialize_narrow(s, b, lanes)}"
        else:
            text = f"<{lanes} x i64> {materialize(s, a, lanes)}, {materialize(s, b, lanes)}"
        return Value(s.op(f"icmp {predicate} {text}"), boolean, lanes)
    if not step:
        known = _known(op, a, b)
        if known is not None:
            return Value("true" if known else "false", boolean)
        return Value(s.op(f"icmp {predicate} i64 {a.text}, {b.text}"), boolean)
    # base_a + i*step_a ? base_b + i*step_b  is  i*step ? base_b - base_a, whose right side is one scalar.
    difference = _saturated_difference(s, _base(b), _base(a), a.index and b.index)
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


def _saturated_difference(s: Emitter, a: Value, b: Value, index: bool) -> Value:
    """Return a - b of uniform values, with the right sign if they are data too (not ``index``)."""
    if index or a.text == b.text:
        return sub(s, a, b)
    s.declare("i64 @llvm.ssub.sat.i64(i64, i64)")
    return uniform_index(s.op(f"call i64 @llvm.ssub.sat.i64(i64 {a.text}, i64 {b.text})"))


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
