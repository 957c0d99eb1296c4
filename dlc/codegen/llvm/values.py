"""Values while a kernel is emitted: uniform scalars, affine lane sequences and vectors.

A uniform value stays scalar until a vector is really needed; an index that is
affine in the lane stays a base and a step, which is how contiguous access is
recognised. Intervals and known divisors of indices prove accesses in bounds
and simplify division. It must not know statements.
"""

from __future__ import annotations

from typing import Protocol

from dlc.codegen.llvm.types import register_type
from dlc.ir.types import DType, int32, int64

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
    bound the base (of a vector: every lane) where known, ``multiple`` divides it, and ``index`` says that
    the value comes from loop variables and literals alone, so that its arithmetic does not overflow.
    ``narrow`` marks an int64 vector that is held in 32-bit lanes, since its bounds allow it. Lane i of an index
    vector with ``distances`` is also known to be ``base`` + distances[i], where ``base`` is uniform.
    """

    __slots__ = ("base", "distances", "dtype", "high", "index", "lanes", "low", "multiple", "narrow", "step", "text")

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
        narrow: bool = False,
    ) -> None:
        self.text = text
        self.dtype = dtype
        self.lanes = lanes
        self.step = step
        self.low = low
        self.high = high
        self.multiple = multiple
        self.index = index
        self.narrow = narrow
        self.base: Value | None = None
        self.distances: tuple[int, ...] = ()

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


def known_lanes(value: Value, lanes: int) -> tuple[Value, tuple[int, ...]] | None:
    """Return a uniform base of an index and each lane's distance from it, where these are known."""
    if not value.lanes:
        base = uniform_index(value.text, value.low, value.high, value.multiple) if value.step else value
        return base, tuple(lane * value.step for lane in range(lanes))
    return (value.base, value.distances) if value.base is not None else None


def with_lanes(value: Value, base: Value, distances: tuple[int, ...]) -> Value:
    """Note on the vector ``value`` that lane i is ``base`` + distances[i]."""
    value.base, value.distances = base, distances
    return value


def last_lane(value: Value, lanes: int) -> Bound:
    """Return the largest value over lanes of an index, where known."""
    if value.high is None:
        return None
    return value.high + max(0, value.step * (lanes - 1))


def first_lane(value: Value, lanes: int) -> Bound:
    """Return the smallest value over lanes of an index, where known."""
    if value.low is None:
        return None
    return value.low + min(0, value.step * (lanes - 1))


def iota(lanes: int, step: int, element: str) -> str:
    """Return the constant vector 0, step, 2*step, ..."""
    return "<" + ", ".join(f"{element} {lane * step}" for lane in range(lanes)) + ">"


def materialize(s: Emitter, value: Value, lanes: int) -> str:
    """Return ``value`` as the text of a register or literal with ``lanes`` lanes (0: a scalar)."""
    if value.lanes == lanes and not value.step:
        return _widened(s, value) if value.narrow else value.text
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


def _widened(s: Emitter, value: Value) -> str:
    key = (value.text, -value.lanes)
    found = s.splats.get(key)
    if found is None:
        found = s.splats[key] = s.op(f"sext <{value.lanes} x i32> {value.text} to <{value.lanes} x i64>")
    return found


def fits_narrow(value: Value, lanes: int) -> bool:
    """Whether ``materialize_narrow`` can hold an index in 32-bit lanes."""
    if value.lanes and not value.narrow:
        return False
    low, high = first_lane(value, lanes), last_lane(value, lanes)
    return value.index and low is not None and high is not None and is_narrow(low, high)


def is_narrow(low: int, high: int) -> bool:
    """Whether an interval lies within 32 bits."""
    return -(2**31) <= low and high < 2**31


def materialize_narrow(s: Emitter, value: Value, lanes: int) -> str:
    """Return an index that ``fits_narrow`` as a vector of 32-bit lanes."""
    if value.lanes:
        return value.text
    base = value.text
    if base[0] == "%":
        base = s.op(f"trunc nsw i64 {base} to i32")
    return materialize(s, Value(base, int32, 0, value.step, index=True), lanes)
