"""Compute: what an op is, as an index space.

A Compute gives, for every point of its output axes, a scalar body over reads of
the inputs, combined over the reduction axes. It says nothing about loops,
memory order or targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dlc.ir.dims import Shape
from dlc.ir.expr import Apply, Expr, Read, Var, walk
from dlc.ir.types import DType

COMBINERS = ("add", "mul", "maximum", "minimum", "bit_and", "bit_or", "argmax", "argmin")


@dataclass(frozen=True)
class Axis:
    """An index variable running from 0 to ``extent`` - 1."""

    var: Var
    extent: int


@dataclass(frozen=True)
class Compute:
    """One output tensor as a function of its index.

    ``output[store(axes)] = combine over reduce_axes of body(axes, reduce_axes)``; ``combiner`` is None
    without reduction axes. ``store`` has one expression per output dimension, normally the axes in order;
    grouped dimensions are affine in several axes. argmax and argmin give the int64 position of the first
    extreme value along the single reduction axis. A reduction over nothing gives the combiner's identity.
    """

    axes: tuple[Axis, ...]
    reduce_axes: tuple[Axis, ...]
    combiner: str | None
    body: Expr
    store: tuple[Expr, ...]
    shape: tuple[int, ...]
    dtype: DType

    def reads(self) -> list[Read]:
        """Return the distinct reads of the body."""
        return list(dict.fromkeys(e for e in walk(self.body) if isinstance(e, Read)))


def axis(name: str, extent: int) -> Axis:
    """Build an axis called ``name``."""
    return Axis(Var(name), extent)


def output_axes(shape: Shape, prefix: str = "i") -> tuple[Axis, ...]:
    """Build one axis per dimension of a static ``shape``: i0, i1, ..."""
    return tuple(axis(f"{prefix}{number}", int(extent)) for number, extent in enumerate(shape))


def pointwise(shape: Shape, dtype: DType, axes: tuple[Axis, ...], body: Expr) -> Compute:
    """Build a Compute without reduction whose output dimensions are ``axes`` in order."""
    return Compute(axes, (), None, body, tuple(a.var for a in axes), tuple(int(d) for d in shape), dtype)


def reduction(
    axes: tuple[Axis, ...], reduce_axes: tuple[Axis, ...], combiner: str, body: Expr, dtype: DType
) -> Compute:
    """Build a Compute that reduces ``body`` over ``reduce_axes``; output dimensions are ``axes`` in order."""
    shape = tuple(a.extent for a in axes)
    return Compute(axes, reduce_axes, combiner, body, tuple(a.var for a in axes), shape, dtype)


FEW_TERMS, MOST_TERMS = 64, 128
"""Terms of a sum that is one chain of additions: so many always, and so many of a window that is moved about."""


def is_short_sum(terms: int, places: int) -> bool:
    """Tell whether each lane adds few terms for each of its ``places``: a window, not a sum over an image."""
    return 1 < terms <= max(FEW_TERMS, min(MOST_TERMS, 2 * places))


def uncast(expr: Expr) -> Expr:
    """Return the operand of a cast, or ``expr`` itself."""
    return expr.args[0] if isinstance(expr, Apply) and expr.op == "cast" else expr


def is_lanewise_product(compute: Compute) -> bool:
    """Tell whether a sum of products has few terms and no outer product: convolutions, depthwise or of narrow groups.

    Both operands are read along the last output axis, and one of them along no further output axis, so that
    every vector of output channels is made by itself.
    """
    body = compute.body
    if compute.combiner != "add" or not isinstance(body, Apply) or body.op != "mul" or not compute.axes:
        return False
    terms = prod(reduced.extent for reduced in compute.reduce_axes)
    long = [a for a in compute.axes if a.extent > 1]
    if not long or not is_short_sum(terms, prod(a.extent for a in long[:-1])):
        return False
    if not all(isinstance(uncast(a), Read) for a in body.args):
        return False
    last, names = long[-1].var, {a.var for a in long}
    used = [{v for v in walk(read) if isinstance(v, Var) and v in names} for read in body.args]
    return last in used[0] & used[1] and (used[0] <= used[1] or used[1] <= used[0])
