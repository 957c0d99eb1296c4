"""Conversion between dtypes: saturating from float to integer, wrapping among integers, never trapping."""

from __future__ import annotations

from dlc.codegen.llvm_half import from_bits16, to_bits16
from dlc.codegen.llvm_scalar import constant, flag_type, int_constant
from dlc.codegen.llvm_state import FunctionState
from dlc.codegen.llvm_types import register_type, suffix
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
        name = f"llvm.fpto{'s' if result.kind == 'int' else 'u'}i.sat.{suffix(to)}.{suffix(kind)}"
        s.declare(f"{to} @{name}({kind})")
        return s.op(f"call {to} @{name}({kind} {text})")
    if kind != to:
        text = s.op(f"{'fptrunc' if to.find('float') >= 0 else 'fpext'} {kind} {text} to {to}")
    return _rounded(s, text, result, lanes)


def _rounded(s: FunctionState, text: str, dtype: DType, lanes: int) -> str:
    """Round a register of float16 or bfloat16 to that precision."""
    if dtype.bits != 16:
        return text
    return from_bits16(s, to_bits16(s, text, dtype, lanes), dtype, lanes)
