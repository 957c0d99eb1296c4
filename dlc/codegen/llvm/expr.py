"""Evaluates expressions to values: index arithmetic, scalar functions, reads, guarded selects.

Uniform subexpressions stay scalar inside vector loops. Values free of reads are
remembered for the block, values that read memory until the next write. It must
not know statements.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from dlc.codegen.llvm import index as llvm_index
from dlc.codegen.llvm.cast import convert
from dlc.codegen.llvm.math import MATH
from dlc.codegen.llvm.memory import inside, load, load_lanes
from dlc.codegen.llvm.scalar import BASIC, call
from dlc.codegen.llvm.state import FunctionState
from dlc.codegen.llvm.types import literal, register_type, suffix
from dlc.codegen.llvm.values import (
    Value,
    first_lane,
    fits_narrow,
    integer,
    last_lane,
    materialize,
    materialize_narrow,
    uniform_index,
)
from dlc.errors import CompileError
from dlc.ir.expr import Apply, Const, Expr, Horizontal, Load, Var, children, walk
from dlc.ir.types import DType, bool_, float32, int32, int64

_FUNCTIONS = BASIC | MATH
_ON_INT64: dict[str, Callable[[FunctionState, Value, Value], Value]] = {
    "add": llvm_index.add,
    "sub": llvm_index.sub,
    "mul": llvm_index.mul,
}
_COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})


def evaluate(s: FunctionState, expr: Expr) -> Value:
    """Emit ``expr``; return its value for the current lane setting."""
    kind = type(expr)
    if kind is Var:
        value = s.env.get(expr.name)  # type: ignore[union-attr]
        if value is None:
            raise CompileError(f"kernel {s.kernel.name}: variable {expr.name!r} is not defined here")  # type: ignore[union-attr]
        return value
    if kind is Const:
        return _constant(expr)  # type: ignore[arg-type]
    known = s.memo.get(expr)
    if known is not None:
        return known
    known = s.reads.get(expr)
    if known is not None:
        s.read_count += 1
        return known
    before = s.read_count
    if kind is Apply:
        value = _select(s, expr) if expr.op == "select" else _apply(s, expr)  # type: ignore[union-attr, arg-type]
    elif kind is Load:
        at = evaluate(s, expr.index)  # type: ignore[union-attr]
        s.read_count += 1
        value = load(s, s.buffer(expr.buffer), at)  # type: ignore[union-attr]
    elif kind is Horizontal:
        s.read_count += 1
        value = _horizontal(s, expr)  # type: ignore[arg-type]
    else:
        raise CompileError(f"kernel {s.kernel.name}: {expr} has no place in a kernel")
    if s.read_count == before:
        s.memo[expr] = value
    else:
        s.reads[expr] = value
    return value


@lru_cache(maxsize=4096)
def _constant(expr: Const) -> Value:
    """Values are never changed after they are built, so literals are shared."""
    if expr.dtype is int64:
        return integer(int(expr.value))
    return Value(literal(expr.value, expr.dtype), expr.dtype)


def evaluate_deep(s: FunctionState, expr: Expr) -> Value:
    """Evaluate an expression of any depth: operands first, from an explicit stack."""
    if not isinstance(expr, Apply):
        return evaluate(s, expr)
    pending: list[tuple[Expr, bool]] = [(expr, False)]
    while pending:
        current, ready = pending.pop()
        if ready:
            evaluate(s, current)
            continue
        if current in s.memo or current in s.reads:
            continue
        pending.append((current, True))
        operands = children(current)
        if isinstance(current, Apply) and current.op == "select":  # branches may be guarded: only the condition
            operands = operands[:1]
        pending += [(operand, False) for operand in operands if isinstance(operand, (Apply, Load))]
    return evaluate(s, expr)


def _apply(s: FunctionState, expr: Apply) -> Value:
    args = [evaluate(s, arg) for arg in expr.args]
    op, operand = expr.op, args[0].dtype
    if operand is int64:
        if op in _ON_INT64:
            return _ON_INT64[op](s, args[0], args[1])
        if all(arg.index for arg in args):
            value = _apply_index(s, expr, args)
            if value is not None:
                return value
    if operand is bool_ and op in ("bit_and", "bit_or"):
        absorbing = "false" if op == "bit_and" else "true"
        for one, other in ((args[0], args[1]), (args[1], args[0])):
            if one.text in ("true", "false"):
                return one if one.text == absorbing else other
    lanes = s.lanes if any(arg.varies for arg in args) else 0
    if op == "cast":
        return _cast(s, args[0], expr.dtype, lanes)
    texts = [materialize(s, arg, lanes) for arg in args]
    if op == "fma":
        return Value(call(s, "fma", register_type(operand, lanes), *texts), expr.dtype, lanes)
    if op == "nearest":
        return Value(_nearest(s, texts[0], lanes), expr.dtype, lanes)
    function = _FUNCTIONS.get(op)
    if function is None:
        raise CompileError(f"kernel {s.kernel.name}: scalar function {op!r} has no LLVM form")
    return Value(function(s, texts, operand, lanes), expr.dtype, lanes)


def _apply_index(s: FunctionState, expr: Apply, args: list[Value]) -> Value | None:
    """Emit arithmetic on indices where it keeps more than the plain instruction would."""
    op = expr.op
    if op == "neg":
        return llvm_index.scale(s, args[0], -1)
    if op in _COMPARISONS:
        return llvm_index.compare(s, op, args[0], args[1], bool_)
    if op in ("floor_div", "floor_mod") and args[1].constant is not None and args[1].constant > 0:
        function = llvm_index.floor_div if op == "floor_div" else llvm_index.floor_mod
        return function(s, args[0], args[1].constant)
    if op in ("div", "trunc_mod") and args[1].constant is not None and args[1].constant > 0:
        low = first_lane(args[0], s.lanes)
        if low is not None and low >= 0:  # rounding towards zero and down are the same
            function = llvm_index.floor_div if op == "div" else llvm_index.floor_mod
            return function(s, args[0], args[1].constant)
    if op in ("maximum", "minimum"):
        return _index_extreme(s, op, args[0], args[1])
    return None


def _index_extreme(s: FunctionState, op: str, a: Value, b: Value) -> Value | None:
    lanes = s.lanes if a.varies or b.varies else 0
    if not lanes:
        known = llvm_index.compare(s, "less_equal" if op == "minimum" else "greater_equal", a, b, bool_).text
        if known in ("true", "false"):
            return a if known == "true" else b
    lows, highs = [first_lane(v, lanes) for v in (a, b)], [last_lane(v, lanes) for v in (a, b)]
    if op == "maximum":
        low = max((x for x in lows if x is not None), default=None)
        high = None if None in highs else max(highs)  # type: ignore[type-var]
    else:
        high = min((x for x in highs if x is not None), default=None)
        low = None if None in lows else min(lows)  # type: ignore[type-var]
    name = "smin" if op == "minimum" else "smax"
    if not lanes:
        return uniform_index(call(s, name, "i64", a.text, b.text), low, high)
    narrow = fits_narrow(a, lanes) and fits_narrow(b, lanes)
    hold = materialize_narrow if narrow else materialize
    kind = f"<{lanes} x {'i32' if narrow else 'i64'}>"
    text = call(s, name, kind, hold(s, a, lanes), hold(s, b, lanes))
    return Value(text, int64, lanes, 0, low, high, 1, True, narrow)


def _cast(s: FunctionState, value: Value, dtype: DType, lanes: int) -> Value:
    if value.dtype is dtype:
        return value
    if value.varies and dtype is not bool_ and fits_narrow(value, lanes):  # 32-bit lanes convert faster
        text = materialize_narrow(s, value, lanes)
        return Value(convert(s, text, int32, dtype, lanes), dtype, lanes)
    text = materialize(s, value, lanes)
    return Value(convert(s, text, value.dtype, dtype, lanes), dtype, lanes)


def _nearest(s: FunctionState, text: str, lanes: int) -> str:
    kind, whole = register_type(float32, lanes), register_type(int32, lanes)
    symbol = f"@llvm.lrint.{suffix(whole)}.{suffix(kind)}"
    s.declare(f"{whole} {symbol}({kind})")
    return s.op(f"call {whole} {symbol}({kind} {text})")


def _select(s: FunctionState, expr: Apply) -> Value:
    """``select``: reads of the side not taken do not happen (they may be out of bounds)."""
    condition = evaluate(s, expr.args[0])
    if condition.text in ("true", "false"):
        return evaluate_deep(s, expr.args[1] if condition.text == "true" else expr.args[2])
    sides = expr.args[1:]
    if not condition.varies:
        if not all(_safe(s, side) for side in sides):
            return _branch(s, condition, expr)
        values = [evaluate_deep(s, side) for side in sides]
    else:
        values = []
        for number, side in enumerate(sides):
            if not _has_load(side):
                values.append(evaluate_deep(s, side))
                continue
            taken = condition.text
            if number:
                taken = s.op(f"xor <{s.lanes} x i1> {taken}, splat (i1 true)")
            outer_mask, outer_reads = s.mask, s.reads
            s.mask = taken if outer_mask is None else s.op(f"and <{s.lanes} x i1> {outer_mask}, {taken}")
            s.reads = dict(outer_reads)
            values.append(evaluate_deep(s, side))
            s.mask, s.reads = outer_mask, outer_reads
    return _choose(s, condition, values, expr.dtype)


def _choose(s: FunctionState, condition: Value, values: list[Value], dtype: DType) -> Value:
    lanes = s.lanes if condition.varies or any(value.varies for value in values) else 0
    flags = f"<{lanes} x i1>" if condition.varies else "i1"
    narrow = bool(lanes) and dtype is int64 and all(fits_narrow(value, lanes) for value in values)
    kind = f"<{lanes} x i32>" if narrow else register_type(dtype, lanes)
    a, b = (materialize_narrow(s, v, lanes) if narrow else materialize(s, v, lanes) for v in values)
    result = Value(s.op(f"select {flags} {condition.text}, {kind} {a}, {kind} {b}"), dtype, lanes)
    result.index, result.narrow = all(value.index for value in values), narrow
    if result.index:
        lows, highs = [first_lane(v, lanes) for v in values], [last_lane(v, lanes) for v in values]
        result.low = None if None in lows else min(lows)  # type: ignore[type-var]
        result.high = None if None in highs else max(highs)  # type: ignore[type-var]
    return result


def _has_load(expr: Expr) -> bool:
    return any(isinstance(node, (Load, Horizontal)) for node in walk(expr))


def _safe(s: FunctionState, expr: Expr) -> bool:
    """Whether every read of ``expr`` is in bounds whatever the conditions around it."""
    for node in walk(expr):
        if isinstance(node, Load) and node not in s.reads:
            if _has_load(node.index) or not inside(s.buffer(node.buffer), evaluate(s, node.index), s.lanes):
                return False
        elif isinstance(node, Apply) and node.op in ("floor_div", "floor_mod", "pow") and node.dtype.is_float:
            return False
    return True


def _branch(s: FunctionState, condition: Value, expr: Apply) -> Value:
    """A select on a uniform condition with reads behind it: two blocks and a join."""
    labels, joined = [s.label("chosen"), s.label("other")], s.label("joined")
    s.branch_if(condition.text, *labels)
    position = len(s.lines)
    sides = []
    for label, side in zip(labels, expr.args[1:], strict=True):
        s.start(label)
        with s.scope():
            value = evaluate_deep(s, side)
            sides.append((value, s.lines[position:], s.block, s.splats))
        del s.lines[position:]
    # Only now is it known whether the join is a vector; each side ends by bringing its value to that form.
    lanes = s.lanes if any(value.varies for value, *_ in sides) else 0
    incoming = []
    for value, lines, block, splats in sides:
        s.lines += lines
        saved, s.splats = s.splats, splats
        incoming.append(f"[ {materialize(s, value, lanes)}, %{block} ]")
        s.splats = saved
        s.branch(joined)
    s.start(joined)
    text = s.op(f"phi {register_type(expr.dtype, lanes)} {', '.join(incoming)}")
    return Value(text, expr.dtype, lanes)


def _horizontal(s: FunctionState, expr: Horizontal) -> Value:
    """Combine lanes by a halving tree: lane i with lane i + width/2."""
    width, dtype = expr.width, expr.dtype
    vector = load_lanes(s, s.buffer(expr.buffer), evaluate(s, expr.index), 0 if width == 1 else width)
    while width > 1:
        half = width // 2
        kind = register_type(dtype, width)
        if half == 1:
            low = s.op(f"extractelement {kind} {vector}, i64 0")
            high = s.op(f"extractelement {kind} {vector}, i64 1")
        else:
            low, high = (
                s.op(
                    f"shufflevector {kind} {vector}, {kind} poison, <{half} x i32> <"
                    + ", ".join(f"i32 {start + lane}" for lane in range(half))
                    + ">"
                )
                for start in (0, half)
            )
        vector = BASIC[expr.op](s, [low, high], dtype, 0 if half == 1 else half)
        width = half
    return Value(vector, dtype)
