"""The scalar functions of ``ir.scalar`` as LLVM instructions, on scalars or vectors alike.

Integers wrap and never trap; floats follow NumPy for NaN, infinities and signed
zeros; transcendental functions are in ``llvm_math``. It must not know kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dlc.codegen.llvm.state import FunctionState
from dlc.codegen.llvm.types import float_literal, literal_value, register_type, suffix
from dlc.ir.types import DType, bool_, float32, float64

Emit = Callable[[FunctionState, list[str], DType, int], str]


def call(s: FunctionState, name: str, kind: str, *args: str) -> str:
    """Call the overloaded intrinsic ``name`` whose operands and result all have type ``kind``."""
    symbol = f"@llvm.{name}.{suffix(kind)}"
    s.declare(f"{kind} {symbol}({', '.join([kind] * len(args))})")
    return s.op(f"call {kind} {symbol}({', '.join(f'{kind} {a}' for a in args)})")


def constant(value: float, kind: str) -> str:
    """Return a number as a literal of a float type (scalar or vector)."""
    if kind[0] == "<":
        element = kind[1:-1].split(" x ")[1]
        return f"splat ({element} {float_literal(value, element)})"
    return float_literal(value, kind)


def int_constant(value: int, kind: str) -> str:
    """Return an integer literal of an integer type (scalar or vector)."""
    if kind[0] == "<":
        return f"splat ({kind[1:-1].split(' x ')[1]} {value})"
    return str(value)


def flag_type(lanes: int) -> str:
    """Return the type of a comparison's result."""
    return f"<{lanes} x i1>" if lanes else "i1"


def select(s: FunctionState, condition: str, kind: str, lanes: int, a: str, b: str) -> str:
    """Choose per lane."""
    return s.op(f"select {flag_type(lanes)} {condition}, {kind} {a}, {kind} {b}")


def _simple(float_op: str, int_op: str) -> Emit:
    def emit(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
        op = float_op if dtype.is_float else int_op
        return s.op(f"{op} {register_type(dtype, lanes)} {args[0]}, {args[1]}")

    return emit


def _compare(ordered: str, signed: str, unsigned: str) -> Emit:
    def emit(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
        kind = register_type(dtype, lanes)
        if dtype.is_float:
            return s.op(f"fcmp {ordered} {kind} {args[0]}, {args[1]}")
        return s.op(f"icmp {signed if dtype.kind == 'int' else unsigned} {kind} {args[0]}, {args[1]}")

    return emit


def _neg(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    if dtype.is_float:
        return s.op(f"fneg {kind} {args[0]}")
    return s.op(f"sub {kind} {int_constant(0, kind)}, {args[0]}")


def _abs(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    if dtype.is_float:
        return call(s, "fabs", kind, args[0])
    if dtype.kind == "uint":
        return args[0]
    s.declare(f"{kind} @llvm.abs.{suffix(kind)}({kind}, i1)")
    return s.op(f"call {kind} @llvm.abs.{suffix(kind)}({kind} {args[0]}, i1 false)")


def _sign(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    """1, -1, 0 (also for -0.0), NaN for NaN."""
    kind, x = register_type(dtype, lanes), args[0]
    if dtype.is_float:
        zero = constant(0.0, kind)
        positive = s.op(f"fcmp ogt {kind} {x}, {zero}")
        negative = s.op(f"fcmp olt {kind} {x}, {zero}")
        unordered = s.op(f"fcmp uno {kind} {x}, {zero}")
        rest = select(s, unordered, kind, lanes, x, zero)
        rest = select(s, negative, kind, lanes, constant(-1.0, kind), rest)
        return select(s, positive, kind, lanes, constant(1.0, kind), rest)
    if dtype.kind == "uint":
        nonzero = s.op(f"icmp ne {kind} {x}, {int_constant(0, kind)}")
        return s.op(f"zext {flag_type(lanes)} {nonzero} to {kind}")
    positive = s.op(f"icmp sgt {kind} {x}, {int_constant(0, kind)}")
    upper = s.op(f"zext {flag_type(lanes)} {positive} to {kind}")
    lower = s.op(f"ashr {kind} {x}, {int_constant(dtype.bits - 1, kind)}")
    return s.op(f"or {kind} {upper}, {lower}")


def _extreme(greater: bool) -> Emit:
    """maximum or minimum: NaN if either is NaN; which zero wins is left open, as in NumPy.

    The target tests the intrinsic's first operand for NaN and relies on its instruction for the second, so
    the operands are swapped: what is accumulated into comes first here and stays off that slower path.
    """
    name = "max" if greater else "min"

    def emit(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
        kind = register_type(dtype, lanes)
        a, b = args
        if dtype is bool_:
            return s.op(f"{'or' if greater else 'and'} {kind} {a}, {b}")
        if not dtype.is_float:
            return call(s, ("s" if dtype.kind == "int" else "u") + name, kind, a, b)
        symbol = f"@llvm.{name}imum.{suffix(kind)}"
        s.declare(f"{kind} {symbol}({kind}, {kind})")
        return s.op(f"call nsz {kind} {symbol}({kind} {b}, {kind} {a})")

    return emit


# -- division: never traps ---------------------------------------------------------------------------


def _guarded(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> tuple[str, str, str | None]:
    """Return a divisor that is safe, where the true one is zero, and where it is -1 (signed only)."""
    kind = register_type(dtype, lanes)
    zero = s.op(f"icmp eq {kind} {args[1]}, {int_constant(0, kind)}")
    safe = select(s, zero, kind, lanes, int_constant(1, kind), args[1])
    if dtype.kind == "uint":
        return safe, zero, None
    minus = s.op(f"icmp eq {kind} {args[1]}, {int_constant(-1, kind)}")
    return select(s, minus, kind, lanes, int_constant(1, kind), safe), zero, minus


def _quotient(s: FunctionState, args: list[str], dtype: DType, lanes: int, floor: bool) -> str:
    kind = register_type(dtype, lanes)
    safe, zero, minus = _guarded(s, args, dtype, lanes)
    if minus is None:
        result = s.op(f"udiv {kind} {args[0]}, {safe}")
    else:
        result = s.op(f"sdiv {kind} {args[0]}, {safe}")
        if floor:
            remainder = s.op(f"srem {kind} {args[0]}, {safe}")
            inexact = s.op(f"icmp ne {kind} {remainder}, {int_constant(0, kind)}")
            mixed = s.op(f"xor {kind} {remainder}, {safe}")
            opposite = s.op(f"icmp slt {kind} {mixed}, {int_constant(0, kind)}")
            lower = s.op(f"and {flag_type(lanes)} {inexact}, {opposite}")
            result = s.op(f"add {kind} {result}, " + s.op(f"sext {flag_type(lanes)} {lower} to {kind}"))
        negated = s.op(f"sub {kind} {int_constant(0, kind)}, {args[0]}")
        result = select(s, minus, kind, lanes, negated, result)
    return select(s, zero, kind, lanes, int_constant(0, kind), result)


def _divide(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    if dtype.is_float:
        by = literal_value(args[1]) if lanes and dtype in (float32, float64) else None
        if by is not None and s.target.has_fma and _divides_by_products(by, dtype):
            return _divide_by_literal(s, args[0], by, dtype, lanes)
        return s.op(f"fdiv {register_type(dtype, lanes)} {args[0]}, {args[1]}")
    return _quotient(s, args, dtype, lanes, floor=False)


def _divides_by_products(by: float, dtype: DType) -> bool:
    """Tell whether a quotient by ``by`` follows exactly from its reciprocal: see ``_divide_by_literal``."""
    mantissa, _ = math.frexp(abs(by))
    all_ones = mantissa == 1 - 2.0 ** -(24 if dtype is float32 else 53)
    return 1 < abs(by) < 2.0**60 and mantissa != 0.5 and not all_ones


def _divide_by_literal(s: FunctionState, x: str, by: float, dtype: DType, lanes: int) -> str:
    """x / by as a product with the reciprocal, corrected by what is left over: a division takes several times as long.

    The rounded quotient is the same (Markstein 1990) where what is left over is a normal number, else its last bit
    may differ; the mantissa of ``by`` must not be all ones. Infinity leaves NaN over and keeps the product.
    """
    kind = register_type(dtype, lanes)
    reciprocal = constant(float(dtype.numpy.type(1) / dtype.numpy.type(by)), kind)
    product = s.op(f"fmul {kind} {x}, {reciprocal}")
    rest = call(s, "fma", kind, product, constant(-by, kind), x)
    quotient = call(s, "fma", kind, rest, reciprocal, product)
    finite = s.op(f"fcmp ord {kind} {rest}, {rest}")
    return select(s, finite, kind, lanes, quotient, product)


def _float_mod(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    """np.mod: the remainder with the divisor's sign, zero included."""
    kind = register_type(dtype, lanes)
    x, y = args
    remainder = s.op(f"frem {kind} {x}, {y}")
    zero = constant(0.0, kind)
    nonzero = s.op(f"fcmp une {kind} {remainder}, {zero}")
    negative = s.op(f"fcmp olt {kind} {y}, {zero}")
    opposite = s.op(f"xor {flag_type(lanes)} {negative}, " + s.op(f"fcmp olt {kind} {remainder}, {zero}"))
    shifted = select(s, opposite, kind, lanes, s.op(f"fadd {kind} {remainder}, {y}"), remainder)
    result = select(s, nonzero, kind, lanes, shifted, call(s, "copysign", kind, zero, y))
    by_zero = s.op(f"fcmp oeq {kind} {y}, {zero}")
    return select(s, by_zero, kind, lanes, remainder, result)


def _floor_divide(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    if not dtype.is_float:
        return _quotient(s, args, dtype, lanes, floor=True)
    # As NumPy: exact remainder first, so that the quotient is a whole number before it is rounded.
    kind = register_type(dtype, lanes)
    x, y = args
    zero = constant(0.0, kind)
    remainder = s.op(f"frem {kind} {x}, {y}")
    whole = s.op(f"fdiv {kind} " + s.op(f"fsub {kind} {x}, {remainder}") + f", {y}")
    negative = s.op(f"fcmp olt {kind} {y}, {zero}")
    opposite = s.op(f"xor {flag_type(lanes)} {negative}, " + s.op(f"fcmp olt {kind} {remainder}, {zero}"))
    nonzero = s.op(f"fcmp une {kind} {remainder}, {zero}")
    lower = s.op(f"and {flag_type(lanes)} {nonzero}, {opposite}")
    whole = select(s, lower, kind, lanes, s.op(f"fsub {kind} {whole}, {constant(1.0, kind)}"), whole)
    floored = call(s, "floor", kind, whole)
    over = s.op(f"fcmp ogt {kind} " + s.op(f"fsub {kind} {whole}, {floored}") + f", {constant(0.5, kind)}")
    floored = select(s, over, kind, lanes, s.op(f"fadd {kind} {floored}, {constant(1.0, kind)}"), floored)
    quotient = s.op(f"fdiv {kind} {x}, {y}")
    is_zero = s.op(f"fcmp oeq {kind} {whole}, {zero}")
    result = select(s, is_zero, kind, lanes, call(s, "copysign", kind, zero, quotient), floored)
    by_zero = s.op(f"fcmp oeq {kind} {y}, {zero}")
    return select(s, by_zero, kind, lanes, quotient, result)


def _floor_mod(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    if dtype.is_float:
        return _float_mod(s, args, dtype, lanes)
    kind = register_type(dtype, lanes)
    safe, zero, minus = _guarded(s, args, dtype, lanes)
    if minus is None:
        remainder = s.op(f"urem {kind} {args[0]}, {safe}")
    else:
        remainder = s.op(f"srem {kind} {args[0]}, {safe}")
        inexact = s.op(f"icmp ne {kind} {remainder}, {int_constant(0, kind)}")
        mixed = s.op(f"xor {kind} {remainder}, {safe}")
        opposite = s.op(f"icmp slt {kind} {mixed}, {int_constant(0, kind)}")
        lower = s.op(f"and {flag_type(lanes)} {inexact}, {opposite}")
        shifted = s.op(f"add {kind} {remainder}, {safe}")
        remainder = select(s, lower, kind, lanes, shifted, remainder)
        remainder = select(s, minus, kind, lanes, int_constant(0, kind), remainder)
    return select(s, zero, kind, lanes, int_constant(0, kind), remainder)


def _trunc_mod(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    if dtype.is_float:
        return s.op(f"frem {kind} {args[0]}, {args[1]}")
    safe, zero, minus = _guarded(s, args, dtype, lanes)
    remainder = s.op(f"{'urem' if minus is None else 'srem'} {kind} {args[0]}, {safe}")
    if minus is not None:
        remainder = select(s, minus, kind, lanes, int_constant(0, kind), remainder)
    return select(s, zero, kind, lanes, int_constant(0, kind), remainder)


def _shift(left: bool) -> Emit:
    def emit(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
        kind = register_type(dtype, lanes)
        inside = s.op(f"icmp ult {kind} {args[1]}, {int_constant(dtype.bits, kind)}")
        op = "shl" if left else "ashr" if dtype.kind == "int" else "lshr"
        most = dtype.bits - 1 if op == "ashr" else 0  # as NumPy: all bits out leave the sign, or 0
        amount = select(s, inside, kind, lanes, args[1], int_constant(most, kind))
        shifted = s.op(f"{op} {kind} {args[0]}, {amount}")
        return shifted if op == "ashr" else select(s, inside, kind, lanes, shifted, int_constant(0, kind))

    return emit


def _bit(op: str) -> Emit:
    return lambda s, args, dtype, lanes: s.op(f"{op} {register_type(dtype, lanes)} {args[0]}, {args[1]}")


def _bit_not(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    ones = ("splat (i1 true)" if lanes else "true") if dtype is bool_ else int_constant(-1, kind)
    return s.op(f"xor {kind} {args[0]}, {ones}")


def _unary(name: str) -> Emit:
    return lambda s, args, dtype, lanes: call(s, name, register_type(dtype, lanes), args[0])


def _is_nan(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    return s.op(f"fcmp uno {kind} {args[0]}, {constant(0.0, kind)}")


def _is_inf(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    return s.op(f"fcmp oeq {kind} {call(s, 'fabs', kind, args[0])}, {constant(float('inf'), kind)}")


def _reciprocal(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    return s.op(f"fdiv {kind} {constant(1.0, kind)}, {args[0]}")


def _rsqrt(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    return _reciprocal(s, [call(s, "sqrt", register_type(dtype, lanes), args[0])], dtype, lanes)


def power_by_squaring(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    """Integer power, wrapping; a negative exponent truncates 1 / x**n towards zero."""
    kind = register_type(dtype, lanes)
    zero, one = int_constant(0, kind), int_constant(1, kind)
    base, exponent = args
    signed = dtype.kind == "int"
    head, body, done, before = s.label("pow"), s.label("pow_step"), s.label("pow_end"), s.block
    if signed:
        left = call(s, "smax", kind, exponent, zero)
    else:
        left = exponent
    s.branch(head)
    s.start(head)
    names = [f"%{s.label('p')}" for _ in range(6)]
    result, square, rest, result2, square2, rest2 = names
    s.do(f"{result} = phi {kind} [ {one}, %{before} ], [ {result2}, %{body} ]")
    s.do(f"{square} = phi {kind} [ {base}, %{before} ], [ {square2}, %{body} ]")
    s.do(f"{rest} = phi {kind} [ {left}, %{before} ], [ {rest2}, %{body} ]")
    pending = s.op(f"icmp ne {kind} {rest}, {zero}")
    if lanes:
        s.declare(f"i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1>)")
        pending = s.op(f"call i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1> {pending})")
    s.branch_if(pending, body, done)
    s.start(body)
    odd = s.op(f"icmp ne {kind} " + s.op(f"and {kind} {rest}, {one}") + f", {zero}")
    factor = select(s, odd, kind, lanes, square, one)
    s.do(f"{result2} = mul {kind} {result}, {factor}")
    s.do(f"{square2} = mul {kind} {square}, {square}")
    s.do(f"{rest2} = lshr {kind} {rest}, {one}")
    s.branch(head)
    s.start(done)
    if not signed:
        return result
    negative = s.op(f"icmp slt {kind} {exponent}, {zero}")
    is_one = s.op(f"icmp eq {kind} {base}, {one}")
    is_minus_one = s.op(f"icmp eq {kind} {base}, {int_constant(-1, kind)}")
    odd = s.op(f"icmp ne {kind} " + s.op(f"and {kind} {exponent}, {one}") + f", {zero}")
    alternating = select(s, odd, kind, lanes, int_constant(-1, kind), one)
    inverse = select(s, is_minus_one, kind, lanes, alternating, zero)
    inverse = select(s, is_one, kind, lanes, one, inverse)
    return select(s, negative, kind, lanes, inverse, result)


def _flush_subnormal(s: FunctionState, args: list[str], dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    smallest = 2.0**-1022 if dtype.bits == 64 else 2.0**-126
    small = s.op(f"fcmp olt {kind} {call(s, 'fabs', kind, args[0])}, {constant(smallest, kind)}")
    zero = s.op(f"fmul {kind} {args[0]}, {constant(0.0, kind)}")
    flushed = select(s, small, kind, lanes, zero, args[0])
    s.flushed[flushed] = args[0]
    return flushed


BASIC: dict[str, Emit] = {
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "add": _simple("fadd", "add"),
    "sub": _simple("fsub", "sub"),
    "mul": _simple("fmul", "mul"),
    "div": _divide,
    "floor_div": _floor_divide,
    "floor_mod": _floor_mod,
    "trunc_mod": _trunc_mod,
    "maximum": _extreme(True),
    "minimum": _extreme(False),
    "sqrt": _unary("sqrt"),
    "rsqrt": _rsqrt,
    "reciprocal": _reciprocal,
    "floor": _unary("floor"),
    "ceil": _unary("ceil"),
    "round": _unary("roundeven"),
    "trunc": _unary("trunc"),
    "flush_subnormal": _flush_subnormal,
    "is_nan": _is_nan,
    "is_inf": _is_inf,
    "equal": _compare("oeq", "eq", "eq"),
    "not_equal": _compare("une", "ne", "ne"),
    "less": _compare("olt", "slt", "ult"),
    "less_equal": _compare("ole", "sle", "ule"),
    "greater": _compare("ogt", "sgt", "ugt"),
    "greater_equal": _compare("oge", "sge", "uge"),
    "bit_and": _bit("and"),
    "bit_or": _bit("or"),
    "bit_xor": _bit("xor"),
    "bit_not": _bit_not,
    "shift_left": _shift(True),
    "shift_right": _shift(False),
}
