"""Reductions over sliding windows: the primitive below pooling."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlc.errors import NotDifferentiableError, TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import Compute, output_axes, reduction
from dlc.ir.expr import Expr, Read, apply, const
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Attribute, OpDef, Trait, Types, register
from dlc.ir.ops.rules import axis_vars, check_ints, normalize_tuples, single_vjp
from dlc.ir.types import TensorType

_UFUNCS = {"add": np.add, "maximum": np.maximum, "minimum": np.minimum}
MAX_TAPS = 4096
"""Windows with more elements have no gradient for maximum and minimum: it would be as many nodes."""


def reduce_window_type(inputs: Types, attributes: Attributes) -> Types:
    """A tensor of numbers -> one element per placement of the window inside it."""
    x, a = inputs[0], attributes
    if x.dtype.kind not in ("int", "uint", "float"):
        raise TypeRuleError(f"takes numbers, not {x.dtype}; cast first")
    if a["combiner"] not in _UFUNCS:
        raise TypeRuleError(f"combiner is {a['combiner']!r}; it must be one of {', '.join(_UFUNCS)}")
    window = check_ints(a["window"], x.rank, "window", low=1)
    strides = check_ints(a["strides"], x.rank, "strides", low=1)
    dilations = check_ints(a["dilations"], x.rank, "dilations", low=1)
    shape = []
    for extent, size, stride, dilation in zip(x.shape, window, strides, dilations, strict=True):
        if size == 1 and stride == 1:
            shape.append(extent)
            continue
        span = extent - ((size - 1) * dilation + 1)
        if isinstance(span, int) and span < 0:
            raise TypeRuleError(f"a window of {size} with dilation {dilation} does not fit into {extent}; pad first")
        shape.append(span // stride + 1)
    return (TensorType(x.dtype, tuple(shape)),)


def reduce_window_evaluate(a: Attributes, x: np.ndarray) -> np.ndarray:
    """A ufunc over sliding_window_view; 16-bit floats add up in float32."""
    reach = tuple((w - 1) * d + 1 for w, d in zip(a["window"], a["dilations"], strict=True))
    steps = tuple(slice(None, None, s) for s in (*a["strides"], *a["dilations"]))
    wide = x.astype(np.float32) if x.dtype.kind not in "iu" and x.dtype.itemsize < 4 else x
    if x.size == 0:
        shape = tuple((n - r) // s + 1 if n else 0 for n, r, s in zip(x.shape, reach, a["strides"], strict=True))
        return np.zeros(shape, x.dtype)
    views = np.lib.stride_tricks.sliding_window_view(wide, reach)[steps]
    axes = tuple(range(x.ndim, 2 * x.ndim))
    with np.errstate(all="ignore"):
        return np.asarray(_UFUNCS[a["combiner"]].reduce(views, axis=axes, dtype=wide.dtype)).astype(x.dtype)


def reduce_window_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Combine over window positions with more than one element; read at place * stride + tap * dilation."""
    axes, a = output_axes(outputs[0].shape), attributes
    moving = [k for k, size in enumerate(a["window"]) if size > 1]
    taps = output_axes(tuple(a["window"][k] for k in moving), "r")
    index: list[Expr] = []
    for place, stride in zip(axis_vars(axes), a["strides"], strict=True):
        index.append(place if stride == 1 else apply("mul", place, const(stride)))
    for tap, k in zip(axis_vars(taps), moving, strict=True):
        dilation = a["dilations"][k]
        index[k] = apply("add", index[k], tap if dilation == 1 else apply("mul", tap, const(dilation)))
    read = Read(0, tuple(index), inputs[0].dtype)
    if not taps:
        shape = tuple(int(d) for d in outputs[0].shape)
        return Compute(axes, (), None, read, axis_vars(axes), shape, outputs[0].dtype)
    return reduction(axes, taps, a["combiner"], read, outputs[0].dtype)


def reduce_window_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """Gradient of a sum: a sum over windows of the spread cotangent. Of an extreme: to its first place."""
    if node.attributes["combiner"] == "add":
        return _sum_gradient(b, dy, node)
    return _extreme_gradient(b, dy, node)


def _sum_gradient(b: Builder, dy: Value, node: Node) -> Value:
    a, shape = node.attributes, node.inputs[0].type.shape
    low, high, interior = [], [], []
    for extent, places, w, s, d in zip(shape, dy.type.shape, a["window"], a["strides"], a["dilations"], strict=True):
        low.append((w - 1) * d)
        spread = 0 if isinstance(places, int) and places == 0 else (places - 1) * s + 1
        high.append(extent - spread)
        interior.append(s - 1)
    zero = b.constant(0, dy.type.dtype)
    spread_out = b.pad(dy, zero, low=tuple(low), high=tuple(high), interior=tuple(interior))
    ones = (1,) * len(shape)
    return b.reduce_window(spread_out, combiner="add", window=a["window"], strides=ones, dilations=a["dilations"])


def _taps(a: Attributes) -> Iterator[tuple[int, ...]]:
    """Yield the offsets of a window's elements in row-major order."""
    for tap in np.ndindex(*a["window"]):
        yield tuple(t * d for t, d in zip(tap, a["dilations"], strict=True))


def _extreme_gradient(b: Builder, dy: Value, node: Node) -> Value:
    """Each tap of the window takes the cotangents of the windows whose first extreme it is."""
    a, x, y = node.attributes, node.inputs[0], node.outputs[0]
    if int(np.prod(a["window"], dtype=np.int64)) > MAX_TAPS:
        raise NotDifferentiableError(
            f"{node!r}: a window this large has no gradient; use reduce_max where it spans an axis"
        )
    shape, places, rank = x.type.shape, y.type.shape, x.type.rank
    zero = b.constant(0, dy.type.dtype)
    found: Value | None = None
    total: Value | None = None
    for offset in _taps(a):
        ends = tuple(o + (n - 1) * s + 1 for o, n, s in zip(offset, places, a["strides"], strict=True))
        ends = tuple(o if isinstance(n, int) and n == 0 else e for o, n, e in zip(offset, places, ends, strict=True))
        here = b.equal(b.slice(x, starts=offset, limits=ends, strides=a["strides"]), y)
        first = here if found is None else b.bit_and(here, b.bit_not(found))
        found = here if found is None else b.bit_or(found, here)
        share = b.pad(
            b.where(first, dy, 0.0),
            zero,
            low=offset,
            high=tuple(n - e for n, e in zip(shape, ends, strict=True)),
            interior=tuple(s - 1 for s in a["strides"]),
        )
        total = share if total is None else b.add(total, share)
    assert total is not None and rank == total.type.rank
    return total


register(
    OpDef(
        name="reduce_window",
        arity=1,
        infer=reduce_window_type,
        evaluate=reduce_window_evaluate,
        attributes={
            "combiner": Attribute((str,), doc="'add', 'maximum' or 'minimum'"),
            "window": Attribute((int,), many=True, doc="window extent per dimension"),
            "strides": Attribute((int,), many=True, default=1, required=False, doc="step per dimension"),
            "dilations": Attribute(
                (int,), many=True, default=1, required=False, doc="distance of window elements per dimension"
            ),
        },
        compute=reduce_window_compute,
        vjp=single_vjp(reduce_window_vjp),
        normalize=normalize_tuples("window", "strides", "dilations"),
        traits=frozenset({Trait.REDUCTION}),
        doc="Combine the elements of every window that lies inside the tensor.",
    )
)
