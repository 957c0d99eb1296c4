"""Reductions along axes, positions of extremes, and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import Axis, Compute, output_axes, reduction
from dlc.ir.expr import Expr, Load, Read, Var, apply, const
from dlc.ir.graph import Node, Value
from dlc.ir.kernel import Buffer, For, If, Kernel, LoopKind, Stmt, Store
from dlc.ir.opdef import NOT_DIFFERENTIABLE, Attribute, OpDef, Trait, Types, register
from dlc.ir.ops.rules import (
    axis_vars,
    check_axes,
    check_axis,
    lanes_for,
    normalize_axes,
    normalize_axis,
    single_vjp,
    vector_lanes,
    without,
)
from dlc.ir.types import TensorType, int64

_AXES = {
    "axes": Attribute(
        (int, type(None)), many=True, default=None, required=False, doc="the axes to reduce; default all"
    ),
    "keepdims": Attribute((bool,), default=False, required=False, doc="keep reduced axes with extent 1"),
}


def reduced_shape(shape: tuple, axes: tuple[int, ...], keepdims: bool) -> tuple:
    """Return ``shape`` without ``axes``, or with 1 in their place."""
    return tuple(1 if k in axes else d for k, d in enumerate(shape)) if keepdims else without(shape, axes)


def _infer(kinds: frozenset[str]) -> Callable[[Types, Attributes], Types]:
    def infer(inputs: Types, attributes: Attributes) -> Types:
        x = inputs[0]
        if x.dtype.kind not in kinds:
            raise TypeRuleError(f"takes {', '.join(sorted(kinds))} tensors, not {x.dtype}; cast first")
        if not isinstance(attributes["axes"], tuple):
            raise TypeRuleError(f"axes is {attributes['axes']!r}; it must be a tuple")
        axes = check_axes(attributes["axes"], x.rank)
        return (TensorType(x.dtype, reduced_shape(x.shape, axes, attributes["keepdims"])),)

    return infer


def split_axes(
    shape: tuple, axes: tuple[int, ...], keepdims: bool
) -> tuple[tuple[Axis, ...], tuple[Axis, ...], list[Expr]]:
    """Return output axes, reduction axes, and the operand's index in terms of both."""
    outputs = output_axes(reduced_shape(shape, axes, keepdims))
    reduced = output_axes(tuple(shape[a] for a in axes), "r")
    index: list[Expr] = [Var("")] * len(shape)
    for number, a in enumerate(axes):
        index[a] = reduced[number].var
    kept = [k for k in range(len(shape)) if k not in axes]
    for number, k in enumerate(kept):
        index[k] = outputs[k if keepdims else number].var
    return outputs, reduced, index


def _compute(combiner: str) -> Callable[[Types, Types, Attributes], Compute]:
    def compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
        x = inputs[0]
        axes, reduced, index = split_axes(x.shape, attributes["axes"], attributes["keepdims"])
        read = Read(0, tuple(index), x.dtype)
        if not reduced:
            return Compute(axes, (), None, read, axis_vars(axes), tuple(int(d) for d in outputs[0].shape), x.dtype)
        return reduction(axes, reduced, combiner, read, x.dtype)

    return compute


def _evaluate(function: Any, initial: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Lift a ufunc's reduction; 16-bit floats accumulate in float32."""

    def evaluate(attributes: Attributes, x: np.ndarray) -> np.ndarray:
        axes, keepdims = attributes["axes"], attributes["keepdims"]
        narrow = x.dtype.kind not in "biufc" or (x.dtype.kind == "f" and x.dtype.itemsize < 4)
        wide = x.astype(np.float32) if narrow else x
        start = {} if initial is None else {"initial": wide.dtype.type(initial(wide.dtype))}
        with np.errstate(all="ignore"):
            return np.asarray(function.reduce(wide, axis=axes, keepdims=keepdims, dtype=wide.dtype, **start), x.dtype)

    return evaluate


def _numpy_lowest(dtype: np.dtype) -> Any:
    return -np.inf if dtype.kind == "f" else False if dtype.kind == "b" else np.iinfo(dtype).min


def _numpy_highest(dtype: np.dtype) -> Any:
    return np.inf if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max


def expand_reduced(b: Builder, value: Value, node: Node) -> Value:
    """Repeat a reduction's result (or cotangent) along the reduced axes."""
    x = node.inputs[0].type
    return broadcast_over(b, value, x.shape, node.attributes["axes"], node.attributes["keepdims"])


def broadcast_over(b: Builder, value: Value, shape: tuple, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """Repeat ``value``, shaped like ``shape`` without ``axes`` (1 there if ``keepdims``), to ``shape``."""
    if keepdims:
        value = b.reshape_to(value, without(shape, axes))
    if not axes:
        return value
    return b.broadcast(value, shape=shape, dims=tuple(k for k in range(len(shape)) if k not in axes))


def _sum_vjp(b: Builder, dy: Value, node: Node) -> Value:
    return expand_reduced(b, dy, node)


def _prod_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """The product of the other elements; exact with zeros (first derivatives)."""
    x, axes = node.inputs[0], node.attributes["axes"]
    is_zero = b.equal(x, b.zeros_like(x))
    others = b.where(is_zero, b.full(x.type.shape, 1, x.type.dtype), x)
    product = b.reduce_prod(others, axes=axes)
    zeros = b.reduce_sum(b.cast_to(is_zero, int64), axes=axes)
    none = broadcast_over(b, b.equal(zeros, 0), x.type.shape, axes)
    one = broadcast_over(b, b.equal(zeros, 1), x.type.shape, axes)
    spread = broadcast_over(b, product, x.type.shape, axes)
    zero = b.zeros_like(x)
    others_product = b.where(none, b.div(spread, others), b.where(b.bit_and(one, is_zero), spread, zero))
    return b.mul(expand_reduced(b, dy, node), others_product)


def _extreme_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """Elements that tie for the extreme share the gradient equally, as PyTorch's amax does."""
    x, y = node.inputs[0], node.outputs[0]
    chosen = b.cast_to(b.equal(x, expand_reduced(b, y, node)), x.type.dtype)
    count = b.reduce_sum(chosen, axes=node.attributes["axes"], keepdims=node.attributes["keepdims"])
    return b.mul(chosen, expand_reduced(b, b.div(dy, count), node))


_NUMBERS = frozenset({"int", "uint", "float"})
_FAMILY: list[tuple[str, str, frozenset[str], Callable[..., Any], Any, str]] = [
    ("reduce_sum", "add", _NUMBERS, _evaluate(np.add), single_vjp(_sum_vjp), "Sum"),
    ("reduce_prod", "mul", _NUMBERS, _evaluate(np.multiply), single_vjp(_prod_vjp), "Product"),
    ("reduce_max", "maximum", _NUMBERS | {"bool"}, _evaluate(np.maximum, _numpy_lowest), single_vjp(_extreme_vjp),
     "Maximum (NaN if any is; over nothing: the dtype's lowest value)"),
    ("reduce_min", "minimum", _NUMBERS | {"bool"}, _evaluate(np.minimum, _numpy_highest), single_vjp(_extreme_vjp),
     "Minimum (NaN if any is; over nothing: the dtype's highest value)"),
    ("reduce_and", "bit_and", frozenset({"bool"}), _evaluate(np.logical_and), NOT_DIFFERENTIABLE, "Whether all hold"),
    ("reduce_or", "bit_or", frozenset({"bool"}), _evaluate(np.logical_or), NOT_DIFFERENTIABLE, "Whether any holds"),
]  # fmt: skip

for _name, _combiner, _kinds, _function, _vjp, _doc in _FAMILY:
    register(
        OpDef(
            name=_name,
            arity=1,
            infer=_infer(_kinds),
            evaluate=_function,
            attributes=_AXES,
            compute=_compute(_combiner),
            vjp=_vjp,
            normalize=normalize_axes,
            traits=frozenset({Trait.REDUCTION}),
            doc=f"{_doc} along axes, in the operand's dtype.",
        )
    )


# -- argmax, argmin ----------------------------------------------------------------------


def position_type(inputs: Types, attributes: Attributes) -> Types:
    """A number tensor with elements along ``axis`` -> int64 without (or with extent 1 along) that axis."""
    x, axis = inputs[0], check_axis(attributes["axis"], inputs[0].rank)
    if x.dtype.kind not in _NUMBERS:
        raise TypeRuleError(f"takes int, uint or float tensors, not {x.dtype}; cast first")
    if x.shape[axis] == 0:
        raise TypeRuleError(f"axis {axis} has no elements")
    return (TensorType(int64, reduced_shape(x.shape, (axis,), attributes["keepdims"])),)


def _position_compute(combiner: str) -> Callable[[Types, Types, Attributes], Compute]:
    def compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
        x = inputs[0]
        axes, reduced, index = split_axes(x.shape, (attributes["axis"],), attributes["keepdims"])
        return reduction(axes, reduced, combiner, Read(0, tuple(index), x.dtype), int64)

    return compute


for _name, _position in (("argmax", np.argmax), ("argmin", np.argmin)):
    register(
        OpDef(
            name=_name,
            arity=1,
            infer=position_type,
            evaluate=lambda a, x, _f=_position: np.asarray(_f(x, axis=a["axis"], keepdims=a["keepdims"]), np.int64),
            attributes={"axis": Attribute((int,), doc="the axis to search"), "keepdims": _AXES["keepdims"]},
            compute=_position_compute(_name),
            vjp=NOT_DIFFERENTIABLE,
            normalize=normalize_axis,
            traits=frozenset({Trait.REDUCTION}),
            doc=f"Position of the first {'largest' if _name == 'argmax' else 'smallest'} element along an axis.",
        )
    )


# -- cumsum ------------------------------------------------------------------------------


def cumsum_type(inputs: Types, attributes: Attributes) -> Types:
    """A number tensor -> the same type."""
    check_axis(attributes["axis"], inputs[0].rank)
    if inputs[0].dtype.kind not in _NUMBERS:
        raise TypeRuleError(f"takes int, uint or float tensors, not {inputs[0].dtype}; cast first")
    return (inputs[0],)


def cumsum_evaluate(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """np.cumsum, flipped for ``reverse`` and shifted for ``exclusive``."""
    axis = attributes["axis"]
    x = np.flip(x, axis) if attributes["reverse"] else x
    y = np.cumsum(x, axis, dtype=x.dtype)
    if attributes["exclusive"]:
        y = np.concatenate([np.zeros_like(np.take(y, [0] * min(1, x.shape[axis]), axis)), y], axis)
        y = np.take(y, np.arange(x.shape[axis]), axis)
    return np.flip(y, axis) if attributes["reverse"] else y


def cumsum_kernel(inputs: Types, outputs: Types, attributes: Attributes) -> Kernel:
    """Tasks over everything but the axis; along the axis each sum adds to the one before it."""
    axis, dtype = attributes["axis"], inputs[0].dtype
    shape = [int(d) for d in inputs[0].shape]  # type: ignore[arg-type]
    outer, count, inner = (
        int(np.prod(part, dtype=np.int64)) for part in (shape[:axis], shape[axis], shape[axis + 1 :])
    )
    size, lanes = outer * count * inner, lanes_for(inner)
    o, chunk, step = Var("o"), Var("chunk"), Var("step")
    backwards = attributes["reverse"]
    row = apply("sub", const(count - 1), step) if backwards else step
    line = apply("mul", apply("add", apply("mul", o, const(count)), row), const(inner))
    neighbour = apply("add" if backwards else "sub", line, const(inner))
    first = apply("equal", step, const(0))

    def add(position: Expr) -> tuple[Stmt, ...]:
        before, place = apply("add", neighbour, position), apply("add", line, position)
        source = before if attributes["exclusive"] else place
        return (Store("y", place, apply("add", Load("y", before, dtype), Load("x", source, dtype))),)

    def begin(position: Expr) -> tuple[Stmt, ...]:
        place = apply("add", line, position)
        return (Store("y", place, const(0, dtype) if attributes["exclusive"] else Load("x", place, dtype)),)

    start = apply("mul", chunk, const(lanes))
    body = If(first, vector_lanes(inner, start, lanes, begin), vector_lanes(inner, start, lanes, add))
    loop = For(step, const(count), LoopKind.SERIAL, (body,))
    chunks = For(chunk, const(-(-inner // lanes)), LoopKind.PARALLEL, (loop,))
    tasks = For(o, const(outer), LoopKind.PARALLEL, (chunks,))
    return Kernel("cumsum", (Buffer("x", dtype, size), Buffer("y", dtype, size, writable=True)), (), (tasks,))


def _cumsum_vjp(b: Builder, dy: Value, node: Node) -> Value:
    a = node.attributes
    return b.cumsum(dy, axis=a["axis"], reverse=not a["reverse"], exclusive=a["exclusive"])


register(
    OpDef(
        name="cumsum",
        arity=1,
        infer=cumsum_type,
        evaluate=cumsum_evaluate,
        attributes={
            "axis": Attribute((int,), doc="the axis along which sums run"),
            "reverse": Attribute((bool,), default=False, required=False, doc="sum from the end"),
            "exclusive": Attribute((bool,), default=False, required=False, doc="leave each element out of its own sum"),
        },
        kernel=cumsum_kernel,
        vjp=single_vjp(_cumsum_vjp),
        normalize=normalize_axis,
        doc="Running sums along an axis.",
    )
)
