"""Formulas over registers: arithmetic operators that emit LLVM instructions.

The vector math functions are written with it, alike for scalars and vectors, float32
and float64. It must not know which functions exist.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.llvm.scalar import call, constant, flag_type, int_constant
from dlc.codegen.llvm.state import FunctionState
from dlc.codegen.llvm.types import suffix

TABLE = 16
"""Entries of a table that one vector register holds."""


class Number:
    """A float in ``text`` (register or literal) under operators of its formula."""

    __slots__ = ("f", "text")

    def __init__(self, f: Formula, text: str) -> None:
        self.f = f
        self.text = text

    def __add__(self, other: Number | float) -> Number:
        return self.f.emit("fadd", self, other)

    def __radd__(self, other: float) -> Number:
        return self.f.emit("fadd", self.f.number(other), self)

    def __sub__(self, other: Number | float) -> Number:
        return self.f.emit("fsub", self, other)

    def __rsub__(self, other: float) -> Number:
        return self.f.emit("fsub", self.f.number(other), self)

    def __mul__(self, other: Number | float) -> Number:
        return self.f.emit("fmul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Number | float) -> Number:
        return self.f.emit("fdiv", self, other)

    def __rtruediv__(self, other: float) -> Number:
        return self.f.emit("fdiv", self.f.number(other), self)

    def __neg__(self) -> Number:
        return Number(self.f, self.f.s.op(f"fneg {self.f.kind} {self.text}"))

    def __gt__(self, other: Number | float) -> Flag:
        return self.f.test("ogt", self, other)

    def __lt__(self, other: Number | float) -> Flag:
        return self.f.test("olt", self, other)

    def __ge__(self, other: Number | float) -> Flag:
        return self.f.test("oge", self, other)

    def __le__(self, other: Number | float) -> Flag:
        return self.f.test("ole", self, other)

    def equals(self, other: Number | float) -> Flag:
        return self.f.test("oeq", self, other)

    def is_nan(self) -> Flag:
        return self.f.test("uno", self, self)

    def abs(self) -> Number:
        return Number(self.f, call(self.f.s, "fabs", self.f.kind, self.text))

    def sqrt(self) -> Number:
        return Number(self.f, call(self.f.s, "sqrt", self.f.kind, self.text))

    def bits(self) -> Bits:
        return Bits(self.f, self.f.s.op(f"bitcast {self.f.kind} {self.text} to {self.f.word}"))


class Bits:
    """The bit pattern of a float, as a signed integer of its width."""

    __slots__ = ("f", "text")

    def __init__(self, f: Formula, text: str) -> None:
        self.f = f
        self.text = text

    def _emit(self, op: str, other: Bits | int) -> Bits:
        right = other.text if isinstance(other, Bits) else int_constant(other, self.f.word)
        return Bits(self.f, self.f.s.op(f"{op} {self.f.word} {self.text}, {right}"))

    def __add__(self, other: Bits | int) -> Bits:
        return self._emit("add", other)

    def __sub__(self, other: Bits | int) -> Bits:
        return self._emit("sub", other)

    def __and__(self, other: Bits | int) -> Bits:
        return self._emit("and", other)

    def __or__(self, other: Bits | int) -> Bits:
        return self._emit("or", other)

    def __xor__(self, other: Bits | int) -> Bits:
        return self._emit("xor", other)

    def __lshift__(self, other: int) -> Bits:
        return self._emit("shl", other)

    def __rshift__(self, other: int) -> Bits:
        return self._emit("ashr", other)

    def _test(self, predicate: str, other: Bits | int) -> Flag:
        right = other.text if isinstance(other, Bits) else int_constant(other, self.f.word)
        return Flag(self.f, self.f.s.op(f"icmp {predicate} {self.f.word} {self.text}, {right}"))

    def equals(self, other: Bits | int) -> Flag:
        return self._test("eq", other)

    def differs(self, other: Bits | int) -> Flag:
        return self._test("ne", other)

    def __lt__(self, other: Bits | int) -> Flag:
        return self._test("slt", other)

    def __gt__(self, other: Bits | int) -> Flag:
        return self._test("sgt", other)

    def as_float(self) -> Number:
        """Reinterpret the bits."""
        return Number(self.f, self.f.s.op(f"bitcast {self.f.word} {self.text} to {self.f.kind}"))

    def to_float(self) -> Number:
        """Convert the integer's value."""
        return Number(self.f, self.f.s.op(f"sitofp {self.f.word} {self.text} to {self.f.kind}"))


class Flag:
    """A truth value per lane."""

    __slots__ = ("f", "text")

    def __init__(self, f: Formula, text: str) -> None:
        self.f = f
        self.text = text

    def _emit(self, op: str, other: Flag) -> Flag:
        return Flag(self.f, self.f.s.op(f"{op} {flag_type(self.f.lanes)} {self.text}, {other.text}"))

    def __and__(self, other: Flag) -> Flag:
        return self._emit("and", other)

    def __or__(self, other: Flag) -> Flag:
        return self._emit("or", other)

    def __xor__(self, other: Flag) -> Flag:
        return self._emit("xor", other)

    def pick(self, a: Number | float, b: Number | float) -> Number:
        """Return ``a`` where true, else ``b``."""
        f = self.f
        one, other = f.number(a), f.number(b)
        flags = flag_type(f.lanes)
        return Number(f, f.s.op(f"select {flags} {self.text}, {f.kind} {one.text}, {f.kind} {other.text}"))

    def pick_bits(self, a: Bits | int, b: Bits | int) -> Bits:
        """Return ``a`` where true, else ``b``."""
        f = self.f
        texts = [x.text if isinstance(x, Bits) else int_constant(x, f.word) for x in (a, b)]
        flags = flag_type(f.lanes)
        return Bits(f, f.s.op(f"select {flags} {self.text}, {f.word} {texts[0]}, {f.word} {texts[1]}"))


class Formula:
    """The element type and lanes that a formula works in."""

    __slots__ = ("bits", "element", "kind", "lanes", "s", "word")

    def __init__(self, s: FunctionState, element: str, lanes: int) -> None:
        self.s = s
        self.element = element
        self.lanes = lanes
        self.bits = 32 if element == "float" else 64
        self.kind = f"<{lanes} x {element}>" if lanes else element
        self.word = f"<{lanes} x i{self.bits}>" if lanes else f"i{self.bits}"

    def number(self, value: Number | float) -> Number:
        """Lift a Python number to a literal."""
        return value if isinstance(value, Number) else Number(self, constant(float(value), self.kind))

    def register(self, text: str) -> Number:
        """Take a register into the formula."""
        return Number(self, text)

    def emit(self, op: str, a: Number, b: Number | float) -> Number:
        return Number(self, self.s.op(f"{op} {self.kind} {a.text}, {self.number(b).text}"))

    def test(self, predicate: str, a: Number, b: Number | float) -> Flag:
        return Flag(self, self.s.op(f"fcmp {predicate} {self.kind} {a.text}, {self.number(b).text}"))

    def fma(self, a: Number | float, b: Number | float, c: Number | float) -> Number:
        """a * b + c: fused where the target has it, so callers must not rely on one rounding."""
        texts = [self.number(x).text for x in (a, b, c)]
        if self.s.target.has_fma:
            return Number(self, call(self.s, "fma", self.kind, *texts))
        product = self.s.op(f"fmul {self.kind} {texts[0]}, {texts[1]}")
        return Number(self, self.s.op(f"fadd {self.kind} {product}, {texts[2]}"))

    def polynomial(self, x: Number, coefficients: Sequence[float]) -> Number:
        """Evaluate a polynomial, coefficients in ascending order, by Horner's rule."""
        result = self.number(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, coefficient)
        return result

    def estrin(self, x: Number, coefficients: Sequence[float]) -> Number:
        """Evaluate a longer polynomial as two interleaved Horner chains, for a shorter dependency chain."""
        square = x * x
        return self.fma(self.polynomial(square, coefficients[1::2]), x, self.polynomial(square, coefficients[0::2]))

    def below(self, x: Number, limit: float) -> Number:
        """The smaller of ``x`` and ``limit``; NaN stays NaN (one instruction on x86)."""
        bound = self.number(limit)
        return self.test("olt", bound, x).pick(bound, x)

    def above(self, x: Number, limit: float) -> Number:
        """The larger of ``x`` and ``limit``; NaN stays NaN."""
        bound = self.number(limit)
        return self.test("ogt", bound, x).pick(bound, x)

    def copysign(self, magnitude: Number | float, sign: Number) -> Number:
        return Number(self, call(self.s, "copysign", self.kind, self.number(magnitude).text, sign.text))

    def nearest(self, x: Number) -> tuple[Number, Bits]:
        """Round to the nearest integer, |x| < 2^21 (2^50): the value as a float and as an integer.

        Adding 1.5 * 2^(mantissa bits) leaves the integer in the low bits; no instruction set lacks it.
        """
        magic = 1.5 * 2.0 ** (23 if self.bits == 32 else 52)
        shifted = x + magic
        return shifted - magic, shifted.bits() - self.number(magic).bits()

    @property
    def has_lookup(self) -> bool:
        """Whether ``lookup`` is one instruction."""
        return self.bits == 32 and self.lanes == TABLE and self.s.target.has("avx512f")

    def segment(self, x: Number, width: float, bias: int = 0) -> tuple[Number, Bits]:
        """Return the multiple of ``width`` nearest to a small ``x``, as a count, and bits that end in count + bias."""
        magic = 1.5 * 2.0**23 + bias
        shifted = self.fma(x, 1 / width, magic)
        return shifted - magic, shifted.bits()

    def lookup(self, table: Sequence[float], index: Bits) -> Number:
        """Return ``table[index mod 16]`` for every lane; needs ``has_lookup``."""
        assert self.has_lookup and len(table) == TABLE
        entries = ", ".join(f"{self.element} {constant(value, self.element)}" for value in table)
        name = "llvm.x86.avx512.permvar.sf.512"
        self.s.declare(f"{self.kind} @{name}({self.kind}, {self.word})")
        operands = f"{self.kind} <{entries}>, {self.word} {index.text}"
        return Number(self, self.s.op(f"call {self.kind} @{name}({operands})"))

    def quotient(self, a: Number | float, b: Number) -> Number:
        """a / b within 0.6 ULP where all three are normal numbers: division takes as long as six to ten products."""
        if not self.has_lookup:
            return self.number(a) / b
        name = "llvm.x86.avx512.rcp14.ps.512"
        self.s.declare(f"{self.kind} @{name}({self.kind}, {self.kind}, i16)")
        near = Number(self, self.s.op(f"call {self.kind} @{name}({self.kind} {b.text}, {self.kind} {b.text}, i16 -1)"))
        first = near * a  # within 2^-14; what it leaves over corrects it to 2^-28
        return self.fma(self.fma(-b, first, a), near, first)

    def scale(self, x: Number, exponent: Number, integer: Bits) -> Number:
        """x * 2^exponent for a normal x in [0.5, 4), with overflow and subnormal results rounded once.

        ``exponent`` and ``integer`` are the same whole number, twice representable as a power of two's half. With
        ``has_lookup`` the integer is not used, and ``exponent`` is rounded down.
        """
        s = self.s
        width = 512 // self.bits
        if s.target.has("avx512f") and self.lanes == width:
            name = f"llvm.x86.avx512.mask.scalef.p{'s' if self.bits == 32 else 'd'}.512"
            s.declare(f"{self.kind} @{name}({self.kind}, {self.kind}, {self.kind}, i{width}, i32)")
            arguments = f"{self.kind} {x.text}, {self.kind} {exponent.text}, {self.kind} {x.text}, i{width} -1, i32 4"
            return Number(self, s.op(f"call {self.kind} @{name}({arguments})"))
        if s.target.has("avx512vl"):  # becomes the same instruction at any width
            exponents = self.word.replace("i64", "i32")
            text = integer.text
            if exponents != self.word:
                text = s.op(f"trunc {self.word} {text} to {exponents}")
            name = f"llvm.ldexp.{suffix(self.kind)}.{suffix(exponents)}"
            s.declare(f"{self.kind} @{name}({self.kind}, {exponents})")
            return Number(self, s.op(f"call {self.kind} @{name}({self.kind} {x.text}, {exponents} {text})"))
        mantissa, bias = (23, 127) if self.bits == 32 else (52, 1023)
        half = integer >> 1
        other = integer - half
        first = ((half + bias) << mantissa).as_float()
        second = ((other + bias) << mantissa).as_float()
        return x * first * second
