"""Rewrite rules on elementwise arithmetic. All keep every bit of the result, signed zeros included, but for
powers with small integer exponents, which become products (at most one more rounding each).
"""

from __future__ import annotations

import math

import numpy as np

from dlc.ir.builder import Builder
from dlc.ir.graph import Node, Value
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.types import DType, bool_
from dlc.passes.rewrite import Context, Replacement, Rule, rule

_ELEMENTWISE = (*SCALAR_OPS, "where", "cast")


def _number(context: Context, value: Value) -> float | int | None:
    """Return the number that every element of ``value`` is, or None."""
    element = context.uniform(value)
    if element is None or not isinstance(element, np.generic):
        return None
    if value.type.dtype.is_integer:
        return int(element)
    return float(element) if value.type.dtype.is_float else None


def _is_negative_zero(number: float | int) -> bool:
    return number == 0 and math.copysign(1.0, number) < 0


@rule("add")
def add_zero(builder: Builder, node: Node, context: Context) -> Replacement:
    """X + 0 -> x for integers, x + -0.0 -> x for floats (x + 0.0 turns -0.0 into 0.0 and stays)."""
    for operand, other in (node.inputs, node.inputs[::-1]):
        number = _number(context, other)
        if number == 0 and (isinstance(number, int) or _is_negative_zero(number)):
            return operand
    return None


@rule("sub")
def sub_zero(builder: Builder, node: Node, context: Context) -> Replacement:
    """X - 0 -> x (for floats not x - -0.0)."""
    number = _number(context, node.inputs[1])
    if number != 0 or number is None or (isinstance(number, float) and _is_negative_zero(number)):
        return None
    return node.inputs[0]


@rule("mul")
def mul_one(builder: Builder, node: Node, context: Context) -> Replacement:
    """X * 1 -> x; x * -1 -> neg(x); integer x * 0 -> 0."""
    for operand, other in (node.inputs, node.inputs[::-1]):
        number = _number(context, other)
        if number == 1:
            return operand
        if number == -1 and operand.type.dtype.kind != "uint":
            return builder.neg(operand)
        if number == 0 and isinstance(number, int):
            return builder.zeros_like(operand)
    return None


@rule("div")
def div_by_power_of_two(builder: Builder, node: Node, context: Context) -> Replacement:
    """X / 1 -> x; float x / c -> x * (1/c) where c is a power of two, so that both are exact."""
    number = _number(context, node.inputs[1])
    if number == 1:
        return node.inputs[0]
    if not isinstance(number, float) or not math.isfinite(number) or number == 0 or abs(math.frexp(number)[0]) != 0.5:
        return None
    if not 2.0**-60 <= abs(number) <= 2.0**60 and node.outputs[0].type.dtype.bits < 64:
        return None
    if node.outputs[0].type.dtype.bits < 32 and not 2.0**-8 <= abs(number) <= 2.0**8:
        return None
    return builder.mul(node.inputs[0], 1.0 / number)


@rule("pow")
def pow_constant(builder: Builder, node: Node, context: Context) -> Replacement:
    """X ** c -> x, x*x, x*x*x, (x*x)*(x*x), 1/x or a square root."""
    x, number = node.inputs[0], _number(context, node.inputs[1])
    if number == 1:
        return x
    if number in (2, 3, 4):
        square = builder.mul(x, x)
        return square if number == 2 else builder.mul(square, x if number == 3 else square)
    if number == -1 and isinstance(number, float):
        return builder.reciprocal(x)
    if number == 0.5:
        return builder.sqrt(x)  # as NumPy and PyTorch have it, also for -0.0 and -inf
    return None


@rule("neg", "bit_not")
def double_negation(builder: Builder, node: Node, context: Context) -> Replacement:
    """neg(neg(x)) -> x."""
    inner = context.producer(node.inputs[0], node.op.name)
    return None if inner is None else inner.inputs[0]


def _is_lossless(source: DType, target: DType) -> bool:
    """Tell whether every element of ``source`` is one of ``target``."""
    if source is bool_:
        return target.kind in ("bool", "int", "uint", "float")
    if source.kind == target.kind:
        plain = not source.is_float or source.bits >= 16
        return plain and source.bits <= target.bits and (source is target or source.bits < target.bits)
    return source.kind == "uint" and target.kind == "int" and source.bits < target.bits


@rule("cast")
def cast_of_cast(builder: Builder, node: Node, context: Context) -> Replacement:
    """cast(x) to its own dtype -> x; cast(cast(x, wider), t) -> cast(x, t)."""
    target, operand = node.attributes["dtype"], node.inputs[0]
    if operand.type.dtype is target:
        return operand
    inner = context.producer(operand, "cast")
    if inner is not None and _is_lossless(inner.inputs[0].type.dtype, operand.type.dtype):
        return builder.cast_to(inner.inputs[0], target)
    return None


@rule("where")
def where_decided(builder: Builder, node: Node, context: Context) -> Replacement:
    """where(true, a, b) -> a; where(false, a, b) -> b; where(c, a, a) -> a."""
    condition, a, b = node.inputs
    if a is b:
        return a
    chosen = context.uniform(condition)
    return None if chosen is None else (a if chosen else b)


@rule("bit_and", "bit_or")
def mask_decided(builder: Builder, node: Node, context: Context) -> Replacement:
    """On bool: x and true -> x, x or false -> x; x and x -> x."""
    x, y = node.inputs
    if x is y:
        return x
    if x.type.dtype is not bool_:
        return None
    for operand, other in ((x, y), (y, x)):
        element = context.uniform(other)
        if element is not None:
            return operand if bool(element) == (node.op.name == "bit_and") else other
    return None


@rule(*_ELEMENTWISE)
def broadcast_after(builder: Builder, node: Node, context: Context) -> Replacement:
    """f(broadcast(a), broadcast(b)) -> broadcast(f(a, b)) for equal broadcasts; uniform operands go with any."""
    shape = node.outputs[0].type.shape
    first: Node | None = None
    sources: list[Value | None] = []
    for value in node.inputs:
        maker = context.producer(value, "broadcast")
        if maker is None:
            return None
        source = maker.inputs[0]
        if source.type.rank == 0:
            sources.append(source)
            continue
        if first is not None and (
            maker.attributes["dims"] != first.attributes["dims"] or source.type.shape != first.inputs[0].type.shape
        ):
            return None
        first = first or maker
        sources.append(source)
    inner = () if first is None else first.inputs[0].type.shape
    if inner == shape:
        return None
    operands = [builder.broadcast_to(v, inner) if v is not None else v for v in sources]
    result = builder.emit(node.op, [v for v in operands if v is not None], node.attributes)[0]
    dims = () if first is None else first.attributes["dims"]
    return builder.broadcast(result, shape=shape, dims=dims)


ELEMENTWISE_RULES: tuple[Rule, ...] = (
    add_zero,
    sub_zero,
    mul_one,
    div_by_power_of_two,
    pow_constant,
    double_negation,
    cast_of_cast,
    where_decided,
    mask_decided,
    broadcast_after,
)
