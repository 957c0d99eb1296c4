"""Reading by tensors of indices: gathers and one-hot, and the checks that scatters share.

Memory-safe by definition: a negative index counts from the end once, then every
index is clamped into its axis, in ``evaluate`` and in code alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import Compute, output_axes, pointwise
from dlc.ir.dims import size_of
from dlc.ir.expr import Expr, Read, apply, const, select
from dlc.ir.expr import cast as cast_expr
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.rules import (
    axis_vars,
    check_axis,
    check_ints,
    check_shape,
    normalize_axis,
    single_vjp,
    wrap_axis,
)
from dlc.ir.types import DType, TensorType, float32, int64

AXIS = Attribute((int,), default=0, required=False, doc="the axis that is indexed")


def check_indices(indices: TensorType) -> None:
    """Raise TypeRuleError unless ``indices`` are integers."""
    if not indices.dtype.is_integer:
        raise TypeRuleError(f"indices are {indices.dtype}; they must be integers")


def check_not_empty(extent: object, count: object, what: str) -> None:
    """Raise TypeRuleError if an axis without elements is indexed at least once."""
    if extent == 0 and count != 0:
        raise TypeRuleError(f"{what} has no elements to index")


def wrapped(index: np.ndarray, extent: int) -> np.ndarray:
    """Count negative indices from the end once and clamp all to [0, extent)."""
    index = index.astype(np.int64)
    return np.clip(np.where(index < 0, index + extent, index), 0, max(extent - 1, 0))


def wrapped_expr(index: Expr, extent: int) -> Expr:
    """Return the index expression for ``wrapped``."""
    index = cast_expr(index, int64)
    positive = select(apply("less", index, const(0)), apply("add", index, const(extent)), index)
    return apply("minimum", apply("maximum", positive, const(0)), const(max(extent - 1, 0)))


# -- gather ------------------------------------------------------------------------------


def gather_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, integer indices) -> x with the axis replaced by the indices' shape."""
    x, indices = inputs
    axis = check_axis(attributes["axis"], x.rank)
    check_indices(indices)
    check_not_empty(x.shape[axis], indices.size, f"axis {axis}")
    return (TensorType(x.dtype, check_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))),)


def gather_evaluate(a: Attributes, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """np.take of wrapped indices."""
    if indices.size == 0 or x.shape[a["axis"]] == 0:
        return np.zeros((*x.shape[: a["axis"]], *indices.shape, *x.shape[a["axis"] + 1 :]), x.dtype)
    return np.take(x, wrapped(indices, x.shape[a["axis"]]), axis=a["axis"])


def gather_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read x where the index, itself read, says."""
    x, indices = inputs
    axis, axes = attributes["axis"], output_axes(outputs[0].shape)
    index = axis_vars(axes)
    chosen = Read(1, index[axis : axis + indices.rank], indices.dtype)
    place = (*index[:axis], wrapped_expr(chosen, int(x.shape[axis])), *index[axis + indices.rank :])  # type: ignore[arg-type]
    return pointwise(outputs[0].shape, x.dtype, axes, Read(0, place, x.dtype))


def _gather_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value | None, ...]:
    x, indices = node.inputs
    return b.scatter_add(b.zeros_like(x), indices, dy, axis=node.attributes["axis"]), None


register(
    OpDef(
        name="gather",
        arity=2,
        infer=gather_type,
        evaluate=gather_evaluate,
        attributes={"axis": AXIS},
        compute=gather_compute,
        vjp=single_vjp(_gather_vjp),
        normalize=normalize_axis,
        doc="Slices of operand 0 along an axis at the indices of operand 1 (numpy.take).",
    )
)


def _same_but_axis(x: TensorType, indices: TensorType, axis: int) -> None:
    if x.rank != indices.rank:
        raise TypeRuleError(f"operand and indices must have one rank, not {x.rank} and {indices.rank}")
    for k, (extent, count) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if k == axis or extent == count:
            continue
        if not isinstance(extent, int) or not isinstance(count, int) or count > extent:
            raise TypeRuleError(f"indices {list(indices.shape)} exceed the operand's {list(x.shape)} in dimension {k}")


def gather_elements_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, integer indices of x's rank, no larger except along the axis) -> x's dtype in the indices' shape."""
    x, indices = inputs
    axis = check_axis(attributes["axis"], x.rank)
    check_indices(indices)
    _same_but_axis(x, indices, axis)
    check_not_empty(x.shape[axis], indices.size, f"axis {axis}")
    return (TensorType(x.dtype, indices.shape),)


def gather_elements_evaluate(a: Attributes, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """np.take_along_axis of wrapped indices."""
    if indices.size == 0:
        return np.zeros(indices.shape, x.dtype)
    part = x[tuple(slice(None if k == a["axis"] else n) for k, n in enumerate(indices.shape))]
    return np.take_along_axis(part, wrapped(indices, x.shape[a["axis"]]), axis=a["axis"])


def gather_elements_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read x at the own index, except along the axis."""
    x, indices = inputs
    axis, axes = attributes["axis"], output_axes(outputs[0].shape)
    index = axis_vars(axes)
    chosen = wrapped_expr(Read(1, index, indices.dtype), int(x.shape[axis]))  # type: ignore[arg-type]
    return pointwise(outputs[0].shape, x.dtype, axes, Read(0, (*index[:axis], chosen, *index[axis + 1 :]), x.dtype))


def _gather_elements_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value | None, ...]:
    x, indices = node.inputs
    zeros = b.zeros_like(x)
    return b.scatter_elements(zeros, indices, dy, axis=node.attributes["axis"], combiner="add"), None


register(
    OpDef(
        name="gather_elements",
        arity=2,
        infer=gather_elements_type,
        evaluate=gather_elements_evaluate,
        attributes={"axis": AXIS},
        compute=gather_elements_compute,
        vjp=single_vjp(_gather_elements_vjp),
        normalize=normalize_axis,
        doc="Elements of operand 0 at the indices of operand 1 along an axis (numpy.take_along_axis).",
    )
)


def tuple_length(x: TensorType, indices: TensorType, batch_dims: int = 0) -> int:
    """Return how many coordinates each index tuple has; TypeRuleError if they do not fit ``x``."""
    check_indices(indices)
    if indices.rank == 0 or not isinstance(indices.shape[-1], int):
        raise TypeRuleError("the last dimension of the indices must be a known number of coordinates")
    length = indices.shape[-1]
    if not 1 <= length <= x.rank - batch_dims:
        raise TypeRuleError(f"index tuples have {length} coordinates for an operand of rank {x.rank}")
    for k in range(length):
        check_not_empty(x.shape[batch_dims + k], size_of(indices.shape[:-1]), f"axis {batch_dims + k}")
    return length


def gather_nd_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, indices whose last dimension holds coordinates) -> the slices that they name."""
    x, indices = inputs
    batch = attributes["batch_dims"]
    if not 0 <= batch < min(x.rank, max(indices.rank, 1)) or x.shape[:batch] != indices.shape[:batch]:
        raise TypeRuleError(f"batch_dims is {batch}: it must be smaller than both ranks and name equal dimensions")
    length = tuple_length(x, indices, batch)
    return (TensorType(x.dtype, check_shape((*indices.shape[:-1], *x.shape[batch + length :]))),)


def coordinates_of(x_shape: Sequence[int], indices: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
    """Return one array of places per leading dimension of x, batch dimensions first."""
    grid = np.ogrid[tuple(slice(n) for n in indices.shape[:-1])]
    places = [np.broadcast_to(grid[k], indices.shape[:-1]) for k in range(batch)]
    return (*places, *(wrapped(indices[..., k], x_shape[batch + k]) for k in range(indices.shape[-1])))


def gather_nd_evaluate(a: Attributes, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Advanced indexing with wrapped coordinates."""
    if indices.size == 0 or x.size == 0:
        return np.zeros((*indices.shape[:-1], *x.shape[a["batch_dims"] + indices.shape[-1] :]), x.dtype)
    return x[coordinates_of(x.shape, indices, a["batch_dims"])]


def gather_nd_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read x at batch index, coordinates, then the rest of the own index."""
    x, indices = inputs
    batch, axes = attributes["batch_dims"], output_axes(outputs[0].shape)
    index, lead = axis_vars(axes), indices.rank - 1
    coordinates = [
        wrapped_expr(Read(1, (*index[:lead], const(k)), indices.dtype), int(x.shape[batch + k]))  # type: ignore[arg-type]
        for k in range(int(indices.shape[-1]))  # type: ignore[arg-type]
    ]
    return pointwise(outputs[0].shape, x.dtype, axes, Read(0, (*index[:batch], *coordinates, *index[lead:]), x.dtype))


def _gather_nd_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value | None, ...]:
    x, indices = node.inputs
    shape = (*indices.type.shape[:-1], 1)
    parts = [b.iota(shape=shape, axis=k) for k in range(node.attributes["batch_dims"])]
    whole = b.concat(*parts, b.cast_to(indices, int64), axis=-1) if parts else indices
    return b.scatter_nd(b.zeros_like(x), whole, dy, combiner="add"), None


register(
    OpDef(
        name="gather_nd",
        arity=2,
        infer=gather_nd_type,
        evaluate=gather_nd_evaluate,
        attributes={"batch_dims": Attribute((int,), default=0, required=False, doc="leading dimensions in common")},
        compute=gather_nd_compute,
        vjp=single_vjp(_gather_nd_vjp),
        doc="Slices of operand 0 at the coordinate tuples in the last dimension of operand 1.",
    )
)


# -- one-hot -------------------------------------------------------------------------------


def one_hot_type(inputs: Types, attributes: Attributes) -> Types:
    """Integer indices -> ``dtype`` with a new dimension ``depth`` at ``axis``."""
    check_indices(inputs[0])
    axis = check_axis(attributes["axis"], inputs[0].rank + 1)
    check_ints((attributes["depth"],), 1, "depth", low=0, symbolic=True)
    if attributes["dtype"].kind not in ("bool", "int", "uint", "float"):
        raise TypeRuleError(f"dtype {attributes['dtype']} must be a number or bool")
    shape = inputs[0].shape
    return (TensorType(attributes["dtype"], check_shape((*shape[:axis], attributes["depth"], *shape[axis:]))),)


def one_hot_evaluate(a: Attributes, indices: np.ndarray) -> np.ndarray:
    """Compare with 0 ... depth - 1 along the new axis."""
    index = indices.astype(np.int64)
    index = np.expand_dims(np.where(index < 0, index + a["depth"], index), a["axis"])
    line = np.arange(a["depth"]).reshape([-1 if k == a["axis"] else 1 for k in range(index.ndim)])
    return (index == line).astype(a["dtype"].numpy)


def one_hot_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """1 where the position along the new axis equals the index; indices out of range give zeros."""
    index = b.cast_to(inputs[0], int64)
    index = b.where(b.less(index, 0), b.add(index, b.cast_to(_depth(b, a), int64)), index)
    shape, axis = index.type.shape, a["axis"]
    whole = (*shape[:axis], a["depth"], *shape[axis:])
    spread = b.broadcast(index, shape=whole, dims=tuple(k for k in range(len(whole)) if k != axis))
    return (b.cast_to(b.equal(spread, b.iota(shape=whole, axis=axis, dtype=int64)), a["dtype"]),)


def _depth(b: Builder, a: Attributes) -> Value:
    return b.constant(a["depth"]) if isinstance(a["depth"], int) else b.dimension(size=a["depth"])


register(
    OpDef(
        name="one_hot",
        arity=1,
        infer=one_hot_type,
        evaluate=one_hot_evaluate,
        attributes={
            "depth": Attribute((int,), symbolic=True, doc="extent of the new dimension"),
            "axis": Attribute((int,), default=-1, required=False, doc="where the new dimension goes"),
            "dtype": Attribute((DType,), default=float32, required=False, doc="the result's dtype"),
        },
        expand=one_hot_expand,
        normalize=lambda types, a: a.updated(axis=wrap_axis(a["axis"], types[0].rank + 1)),
        doc="1 at the index along a new axis, else 0; negative indices count from the end.",
    )
)
