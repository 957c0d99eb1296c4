"""float16 and bfloat16 between their 16 bits in memory and float32 in registers.

Written in integer arithmetic wherever the target has no instruction for it, since the
compiler's fallback would be a call into a library that a JIT does not link.
"""

from __future__ import annotations

from dlc.codegen.llvm.scalar import constant, int_constant, select
from dlc.codegen.llvm.state import FunctionState
from dlc.codegen.llvm.types import register_type
from dlc.ir.types import DType, bfloat16, float32, uint16, uint32


def _has_float16(s: FunctionState) -> bool:
    return s.target.has("f16c") or s.target.triple.startswith("aarch64")


def from_bits16(s: FunctionState, bits: str, dtype: DType, lanes: int) -> str:
    """Widen 16 stored bits to float32, exactly."""
    wide = _widened(s, bits, dtype, lanes)
    s.halves[dtype, wide] = bits
    return wide


def to_bits16(s: FunctionState, text: str, dtype: DType, lanes: int) -> str:
    """Round float32 to the nearest value of ``dtype`` (ties to even); return its 16 bits."""
    known = s.halves.get((dtype, text))
    if known is not None:
        return known
    if dtype is bfloat16 and text in s.flushed and lanes in _NATIVE and s.target.has("avx512bf16"):
        return _rounded_natively(s, s.flushed[text], lanes)
    return _rounded(s, text, dtype, lanes)


_NATIVE = {16: "512", 8: "256"}
"""Lanes -> bits of the registers that an instruction rounds, as its name has them."""


def _rounded_natively(s: FunctionState, text: str, lanes: int) -> str:
    """Round float32 to bfloat16 by the instruction, which takes subnormal numbers for zero."""
    kind, halves = register_type(float32, lanes), f"<{lanes} x bfloat>"
    symbol = f"@llvm.x86.avx512bf16.cvtneps2bf16.{_NATIVE[lanes]}"
    s.declare(f"{halves} {symbol}({kind})")
    rounded = s.op(f"call {halves} {symbol}({kind} {text})")
    return s.op(f"bitcast {halves} {rounded} to {register_type(uint16, lanes)}")


def _widened(s: FunctionState, bits: str, dtype: DType, lanes: int) -> str:
    kind, word, half = register_type(float32, lanes), register_type(uint32, lanes), register_type(uint16, lanes)
    if dtype is bfloat16:
        wide = s.op(f"zext {half} {bits} to {word}")
        return s.op(f"bitcast {word} " + s.op(f"shl {word} {wide}, {int_constant(16, word)}") + f" to {kind}")
    if _has_float16(s):
        native = half.replace("i16", "half")
        return s.op(f"fpext {native} " + s.op(f"bitcast {half} {bits} to {native}") + f" to {kind}")
    # Place exponent and mantissa as float32 does, then multiply by 2^112: subnormals come out right by themselves.
    wide = s.op(f"zext {half} {bits} to {word}")
    magnitude = s.op(f"and {word} {wide}, {int_constant(0x7FFF, word)}")
    placed = s.op(f"shl {word} {magnitude}, {int_constant(13, word)}")
    scaled = s.op(f"fmul {kind} " + s.op(f"bitcast {word} {placed} to {kind}") + f", {constant(2.0**112, kind)}")
    special = s.op(f"icmp uge {word} {magnitude}, {int_constant(0x7C00, word)}")
    infinite = s.op(f"or {word} {placed}, {int_constant(0x7F800000, word)}")
    result = select(s, special, word, lanes, infinite, s.op(f"bitcast {kind} {scaled} to {word}"))
    sign = s.op(f"and {word} {wide}, {int_constant(0x8000, word)}")
    sign = s.op(f"shl {word} {sign}, {int_constant(16, word)}")
    return s.op(f"bitcast {word} " + s.op(f"or {word} {result}, {sign}") + f" to {kind}")


def _rounded(s: FunctionState, text: str, dtype: DType, lanes: int) -> str:
    kind, word, half = register_type(float32, lanes), register_type(uint32, lanes), register_type(uint16, lanes)
    if dtype is not bfloat16 and _has_float16(s):
        native = half.replace("i16", "half")
        return s.op(f"bitcast {native} " + s.op(f"fptrunc {kind} {text} to {native}") + f" to {half}")
    bits = s.op(f"bitcast {kind} {text} to {word}")
    not_a_number = s.op(f"fcmp uno {kind} {text}, {constant(0.0, kind)}")
    if dtype is bfloat16:
        lowest = s.op(f"lshr {word} {bits}, {int_constant(16, word)}")
        lowest = s.op(f"and {word} {lowest}, {int_constant(1, word)}")
        rounding = s.op(f"add {word} {lowest}, {int_constant(0x7FFF, word)}")
        rounded = s.op(f"lshr {word} " + s.op(f"add {word} {bits}, {rounding}") + f", {int_constant(16, word)}")
        quiet = s.op(f"lshr {word} {bits}, {int_constant(16, word)}")
        quiet = s.op(f"or {word} {quiet}, {int_constant(0x40, word)}")
        return s.op(f"trunc {word} {select(s, not_a_number, word, lanes, quiet, rounded)} to {half}")
    sign = s.op(f"and {word} {bits}, {int_constant(-0x80000000, word)}")
    magnitude = s.op(f"xor {word} {bits}, {sign}")
    # Normal results: add half a unit (ties to even) and rebias; results below 2^-14: let a float addition round.
    odd = s.op(f"lshr {word} {magnitude}, {int_constant(13, word)}")
    odd = s.op(f"and {word} {odd}, {int_constant(1, word)}")
    bias = s.op(f"add {word} {odd}, {int_constant((15 - 127) * 2**23 + 0xFFF, word)}")
    normal = s.op(f"lshr {word} " + s.op(f"add {word} {magnitude}, {bias}") + f", {int_constant(13, word)}")
    small = s.op(f"fadd {kind} " + s.op(f"bitcast {word} {magnitude} to {kind}") + f", {constant(0.5, kind)}")
    small = s.op(f"sub {word} " + s.op(f"bitcast {kind} {small} to {word}") + f", {int_constant(0x3F000000, word)}")
    is_small = s.op(f"icmp ult {word} {magnitude}, {int_constant(113 << 23, word)}")
    result = select(s, is_small, word, lanes, small, normal)
    too_large = s.op(f"icmp uge {word} {magnitude}, {int_constant(0x47800000, word)}")
    result = select(s, too_large, word, lanes, int_constant(0x7C00, word), result)
    result = select(s, not_a_number, word, lanes, int_constant(0x7E00, word), result)
    result = s.op(f"or {word} {result}, " + s.op(f"lshr {word} {sign}, {int_constant(16, word)}"))
    return s.op(f"trunc {word} {result} to {half}")
