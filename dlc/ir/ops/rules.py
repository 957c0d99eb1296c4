"""Checks and small rules that the op families share: axes, bounded integers, sizes, index helpers.

Nothing here knows a particular op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import Axis
from dlc.ir.dims import Dim, Shape, size_of
from dlc.ir.expr import Expr, Var, apply, const
from dlc.ir.graph import Node, Value
from dlc.ir.kernel import For, LoopKind, Stmt
from dlc.ir.opdef import NormalizeRule, Types, VjpRule
from dlc.ir.types import DType

BOUND = 2**31
"""Attribute integers (paddings, strides, extents) must be smaller in magnitude."""
MAX_ELEMENTS = 2**44
"""No tensor of a graph may have more elements: larger sizes come from broken models."""


def check_axis(axis: Any, rank: int, what: str = "axis") -> int:
    """Return ``axis`` if it is an int in [0, rank); TypeRuleError otherwise."""
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeRuleError(f"{what} is {axis!r}; it must be an int")
    if not 0 <= axis < rank:
        raise TypeRuleError(f"{what} {axis} is out of range for rank {rank}")
    return axis


def wrap_axis(axis: Any, rank: int, what: str = "axis") -> int:
    """Return ``axis`` counted from the front; TypeRuleError unless it is in [-rank, rank)."""
    if isinstance(axis, int) and not isinstance(axis, bool) and -rank <= axis < 0:
        axis += rank
    return check_axis(axis, rank, what)


def check_axes(axes: Sequence[int], rank: int, what: str = "axes") -> tuple[int, ...]:
    """Return ``axes`` if they are distinct, sorted and in range; TypeRuleError otherwise."""
    for axis in axes:
        check_axis(axis, rank, what)
    if list(axes) != sorted(set(axes)):
        raise TypeRuleError(f"{what} {tuple(axes)} must be distinct and sorted")
    return tuple(axes)


def wrap_axes(axes: Any, rank: int, what: str = "axes") -> tuple[int, ...]:
    """Return ``axes`` (an int, a tuple, None for all) counted from the front, sorted; TypeRuleError if one repeats."""
    if axes is None:
        return tuple(range(rank))
    listed = as_tuple(axes)
    wrapped = sorted(wrap_axis(a, rank, what) for a in listed)
    if len(set(wrapped)) != len(wrapped):
        raise TypeRuleError(f"{what} {listed} name a dimension twice")
    return tuple(wrapped)


def normalize_axis(types: Types, attributes: Attributes) -> Attributes:
    """Normalise the attribute ``axis`` against the rank of operand 0."""
    return attributes.updated(axis=wrap_axis(attributes["axis"], types[0].rank))


def normalize_axes(types: Types, attributes: Attributes) -> Attributes:
    """Normalise the attribute ``axes`` against the rank of operand 0; None means all."""
    return attributes.updated(axes=wrap_axes(attributes["axes"], types[0].rank))


def as_tuple(value: Any) -> tuple:
    """Return a tuple as it is, anything else as a tuple of one."""
    return value if isinstance(value, tuple) else (value,)


def spread(value: Any, count: int) -> tuple:
    """Return a tuple as it is, anything else repeated ``count`` times."""
    return value if isinstance(value, tuple) else (value,) * count


def normalize_tuples(*names: str) -> NormalizeRule:
    """Build a rule that turns the attributes ``names`` into tuples, one element per dimension of operand 0."""

    def normalize(types: Types, attributes: Attributes) -> Attributes:
        return attributes.updated(**{name: spread(attributes[name], types[0].rank) for name in names})

    return normalize


def check_ints(values: Any, count: int, what: str, low: int = -BOUND + 1, symbolic: bool = False) -> tuple:
    """Return ``values`` if it is a tuple of ``count`` ints in [low, 2**31), or dims where ``symbolic``."""
    if not isinstance(values, tuple) or len(values) != count:
        raise TypeRuleError(f"{what} is {values!r}; it must have {count} elements, one per dimension")
    for value in values:
        if isinstance(value, bool) or (not isinstance(value, int) and not symbolic):
            raise TypeRuleError(f"{what} {values} must be ints")
        if isinstance(value, int) and not low <= value < BOUND:
            raise TypeRuleError(f"{what} {values}: {value} is outside [{low}, 2**31)")
    return values


def check_shape(shape: Any, what: str = "shape") -> Shape:
    """Return ``shape`` if its dimensions are non-negative and its size is sane; TypeRuleError otherwise."""
    if not isinstance(shape, tuple):
        raise TypeRuleError(f"{what} is {shape!r}; it must be a tuple of dimensions")
    check_ints(shape, len(shape), what, low=0, symbolic=True)
    known: Dim = 1
    for dim in shape:
        known = known * (dim if isinstance(dim, int) else 1)
    if isinstance(known, int) and known > MAX_ELEMENTS:
        raise TypeRuleError(f"{what} {list(shape)} has more than 2**44 elements")
    return shape


def check_float(types: Types, what: str = "operands") -> DType:
    """Return the dtype that all operands share if it is a float; TypeRuleError otherwise."""
    dtype = types[0].dtype
    if not dtype.is_float:
        raise TypeRuleError(f"takes float {what}, not {dtype}; cast first")
    if any(t.dtype is not dtype for t in types):
        raise TypeRuleError("operand dtypes differ; cast them first")
    return dtype


def ceil_div(a: Dim, c: int) -> Dim:
    """Return ``ceil(a / c)`` for a positive int ``c``."""
    return (a + (c - 1)) // c


def dim_value(b: Builder, dim: Dim, dtype: DType) -> Value:
    """Emit the value of ``dim`` as a rank-0 tensor of ``dtype``."""
    if isinstance(dim, int):
        return b.constant(dim, dtype)
    return b.cast_to(b.dimension(size=dim), dtype)


def count_of(b: Builder, shape: Shape, axes: Sequence[int], dtype: DType) -> Value:
    """Emit the number of elements along ``axes`` of ``shape`` as a rank-0 tensor of ``dtype``."""
    return dim_value(b, size_of(tuple(shape[a] for a in axes)), dtype)


def linear_index(index: Sequence[Expr], shape: Sequence[Dim]) -> Expr:
    """Return the row-major position of ``index`` in a static ``shape``."""
    result: Expr = const(0)
    for position, (part, extent) in enumerate(zip(index, shape, strict=True)):
        result = part if position == 0 else apply("add", apply("mul", result, const(int(extent))), part)
    return result


def unravel(position: Expr, shape: Sequence[Dim]) -> tuple[Expr, ...]:
    """Return the index in ``shape`` of a row-major ``position``."""
    parts: list[Expr] = []
    for number in range(len(shape) - 1, -1, -1):
        extent = max(int(shape[number]), 1)
        parts.append(position if number == 0 else apply("floor_mod", position, const(extent)))
        position = apply("floor_div", position, const(extent))
    return tuple(reversed(parts))


def lanes_for(extent: int) -> int:
    """Return how many vector lanes suit a contiguous extent: a power of two up to 16."""
    return min(16, 1 << max(extent - 1, 0).bit_length())


def vector_lanes(extent: int, start: Expr, lanes: int, body: Callable[[Expr], tuple[Stmt, ...]]) -> tuple[Stmt, ...]:
    """Run ``body(position)`` for ``lanes`` positions from ``start`` on, those at ``extent`` and beyond masked."""
    if lanes == 1:
        return body(start)
    lane = Var("lane")
    active = None if extent % lanes == 0 else apply("less", apply("add", start, lane), const(extent))
    return (For(lane, const(lanes), LoopKind.VECTOR, body(apply("add", start, lane)), active),)


def axis_vars(axes: Sequence[Axis]) -> tuple[Expr, ...]:
    """Return the variables of ``axes``."""
    return tuple(a.var for a in axes)


def without(shape: Sequence[Any], axes: Sequence[int]) -> tuple:
    """Return ``shape`` without the positions ``axes``."""
    return tuple(d for k, d in enumerate(shape) if k not in axes)


def single_vjp(rule: Callable[..., Any]) -> VjpRule:
    """Lift ``rule(b, dy, node)``, which gives one gradient per operand, to a vjp that knows absent cotangents."""

    def vjp(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
        if cotangents[0] is None:
            return (None,) * len(node.inputs)
        result = rule(b, cotangents[0], node)
        return result if isinstance(result, tuple) else (result,)

    return vjp


def lowest(dtype: DType) -> float | int | bool:
    """Return the identity of ``maximum``: -inf, the smallest integer, False."""
    if dtype.is_float:
        return -np.inf
    return int(np.iinfo(dtype.numpy).min) if dtype.is_integer else False


def highest(dtype: DType) -> float | int | bool:
    """Return the identity of ``minimum``: +inf, the largest integer, True."""
    if dtype.is_float:
        return np.inf
    return int(np.iinfo(dtype.numpy).max) if dtype.is_integer else True
