"""Conversion between dtypes: saturating from float to integer, wrapping among integers, never trapping."""

from __future__ import annotations

from dlc.codegen.llvm.half import from_bits16, to_bits16
from dlc.codegen.llvm.scalar import constant, flag_type, int_constant, select
from dlc.codegen.llvm.state import FunctionState
from dlc.codegen.llvm.types import register_type
from dlc.ir.types import DType, bool_


def convert(s: FunctionState, text: str, source: DType, result: DType, lanes: int) -> str:
    """Return ``text`` of dtype ``source`` as dtype ``result``."""
    if source is result:
        return text
    kind, to = register_type(source, lanes), register_type(result, lanes)
    if result is bool_:
        if source.is_float:
            return s.op(f"fcmp une {kind} {text}, {constant(0.0, kind)}")
        return s.op(f"icmp ne {kind} {text}, {int_constant(0, kind)}")
    if source is bool_:
        if result.is_float:
            return s.op(f"uitofp {flag_type(lanes)} {text} to {to}")
        return s.op(f"zext {flag_type(lanes)} {text} to {to}")
    if source.is_float:
        return _from_float(s, text, source, result, lanes)
    if result.is_float:
        text = s.op(f"{'sitofp' if source.kind == 'int' else 'uitofp'} {kind} {text} to {to}")
        return _rounded(s, text, result, lanes)
    if source.bits == result.bits:
        return text
    if source.bits > result.bits:
        return s.op(f"trunc {kind} {text} to {to}")
    return s.op(f"{'sext' if source.kind == 'int' else 'zext'} {kind} {text} to {to}")


def _from_float(s: FunctionState, text: str, source: DType, result: DType, lanes: int) -> str:
    kind, to = register_type(source, lanes), register_type(result, lanes)
    if result.is_integer:
        return _saturated(s, text, source, result, lanes)
    if kind != to:
        text = s.op(f"{'fptrunc' if to.find('float') >= 0 else 'fpext'} {kind} {text} to {to}")
    return _rounded(s, text, result, lanes)


def _saturated(s: FunctionState, text: str, source: DType, result: DType, lanes: int) -> str:
    """Float to integer: NaN to 0, too large or small to the limits; LLVM's own intrinsic goes lane by lane."""
    kind, to = register_type(source, lanes), register_type(result, lanes)
    signed = result.kind == "int"
    low = -(2 ** (result.bits - 1)) if signed else 0
    limit = 2.0 ** (result.bits - 1 if signed else result.bits)  # the first value that does not fit
    nan = s.op(f"fcmp uno {kind} {text}, {constant(0.0, kind)}")
    x = select(s, nan, kind, lanes, constant(0.0, kind), text)
    below = s.op(f"fcmp olt {kind} {x}, {constant(float(low), kind)}")
    x = select(s, below, kind, lanes, constant(float(low), kind), x)
    above = s.op(f"fcmp oge {kind} {x}, {constant(limit, kind)}")
    x = select(s, above, kind, lanes, constant(0.0, kind), x)
    whole, bits = to, result.bits
    if bits < 32:  # through 32 bits, which every vector unit converts
        whole, bits, signed = to.replace(f"i{bits}", "i32"), 32, True
    integer = s.op(f"{'fptosi' if signed else 'fptoui'} {kind} {x} to {whole}")
    if whole != to:
        integer = s.op(f"trunc {whole} {integer} to {to}")
    largest = int(limit) - 1
    return select(s, above, to, lanes, int_constant(largest, to), integer)


def _rounded(s: FunctionState, text: str, dtype: DType, lanes: int) -> str:
    """Round a register of float16 or bfloat16 to that precision."""
    if dtype.bits != 16:
        return text
    return from_bits16(s, to_bits16(s, text, dtype, lanes), dtype, lanes)
