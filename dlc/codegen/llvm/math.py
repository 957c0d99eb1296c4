"""The transcendental functions by name, for the expression emitter: picks precision and special forms."""

from __future__ import annotations

from collections.abc import Callable

from dlc.codegen.llvm import math32 as llvm_math32
from dlc.codegen.llvm import math64 as llvm_math64
from dlc.codegen.llvm import trig32 as llvm_trig32
from dlc.codegen.llvm.formula import Formula, Number
from dlc.codegen.llvm.scalar import Emit, constant, power_by_squaring
from dlc.codegen.llvm.state import FunctionState
from dlc.codegen.llvm.types import register_type
from dlc.ir.types import DType, float64

_FLOAT32: dict[str, Callable[..., Number]] = llvm_math32.FUNCTIONS | llvm_trig32.FUNCTIONS
_FLOAT64: dict[str, Callable[..., Number]] = llvm_math64.FUNCTIONS


def _emitter(name: str) -> Emit:
    def emit(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
        single = dtype is not float64
        f = Formula(s, "float" if single else "double", lanes)
        return (_FLOAT32 if single else _FLOAT64)[name](f, *(Number(f, arg) for arg in args)).text

    return emit


def _power(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    """pow; small whole literals as exponents become products, which are at least as accurate."""
    if not dtype.is_float:
        return power_by_squaring(s, args, dtype, lanes)
    kind = register_type(dtype, lanes)
    base, exponent = args
    if exponent == constant(2.0, kind):
        return s.op(f"fmul {kind} {base}, {base}")
    if exponent == constant(3.0, kind):
        return s.op(f"fmul {kind} " + s.op(f"fmul {kind} {base}, {base}") + f", {base}")
    if exponent == constant(-1.0, kind):
        return s.op(f"fdiv {kind} {constant(1.0, kind)}, {base}")
    if exponent == constant(1.0, kind):
        return base
    return _general_power(s, args, dtype, lanes)


_general_power = _emitter("pow")

MATH: dict[str, Emit] = {name: _emitter(name) for name in _FLOAT32} | {"pow": _power}
