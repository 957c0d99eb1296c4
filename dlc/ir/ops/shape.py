"""Ops that make, move, pad and join elements: no arithmetic on values happens here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes, Literal
from dlc.ir.builder import Builder
from dlc.ir.compute import Compute, output_axes, pointwise
from dlc.ir.dims import Dim, exact_quotient, size_of
from dlc.ir.expr import Expr, Read, apply, const, select
from dlc.ir.expr import cast as cast_expr
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import NOT_DIFFERENTIABLE, Attribute, OpDef, Trait, Types, register
from dlc.ir.ops.rules import (
    axis_vars,
    ceil_div,
    check_axes,
    check_axis,
    check_ints,
    check_shape,
    linear_index,
    normalize_axes,
    normalize_axis,
    single_vjp,
    spread,
    unravel,
    wrap_axis,
)
from dlc.ir.types import DType, TensorType, as_dtype, int64


def _movement(inputs: Types, outputs: Types, index: Sequence[Expr]) -> Compute:
    """Build the Compute that reads operand 0 at ``index``, given over the output axes i0, i1, ..."""
    axes = output_axes(outputs[0].shape)
    return pointwise(outputs[0].shape, outputs[0].dtype, axes, Read(0, tuple(index), inputs[0].dtype))


# -- constant, iota, dimension ---------------------------------------------------------


def constant_type(inputs: Types, attributes: Attributes) -> Types:
    """No operands -> the literal's type."""
    array = attributes["value"].array
    return (TensorType(as_dtype(array.dtype), tuple(array.shape)),)


def constant_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Choose the element by bisection of its position among runs of equal ones."""
    literal, dtype = attributes["value"], outputs[0].dtype
    axes = output_axes(outputs[0].shape)
    position = linear_index(axis_vars(axes), outputs[0].shape)
    starts = literal.run_starts()
    items = literal.array.reshape(-1)[starts].tolist()
    level: list[tuple[int, Expr]] = [(k, const(v, dtype)) for k, v in zip(starts, items, strict=True)]
    level = level or [(0, const(0, dtype))]  # (first position, expression) of each block
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2])
        joined = [(a[0], select(apply("less", position, const(c[0])), a[1], c[1])) for a, c in pairs]
        level = joined + ([level[-1]] if len(level) % 2 else [])
    return pointwise(outputs[0].shape, dtype, axes, level[0][1])


register(
    OpDef(
        name="constant",
        arity=0,
        infer=constant_type,
        evaluate=lambda attributes: attributes["value"].array,
        attributes={"value": Attribute((Literal,), doc="the array")},
        compute=constant_compute,
        vjp=NOT_DIFFERENTIABLE,
        doc="A small array that is part of the graph.",
    )
)


def iota_type(inputs: Types, attributes: Attributes) -> Types:
    """No operands -> ``dtype`` of ``shape``."""
    shape = check_shape(attributes["shape"])
    check_axis(attributes["axis"], len(shape))
    if attributes["dtype"].kind not in ("int", "uint", "float"):
        raise TypeRuleError(f"dtype {attributes['dtype']} must be an integer or float")
    return (TensorType(attributes["dtype"], shape),)


def iota_evaluate(attributes: Attributes) -> np.ndarray:
    """np.arange along one axis, broadcast."""
    shape, axis = attributes["shape"], attributes["axis"]
    line = np.arange(shape[axis]).astype(attributes["dtype"].numpy)
    return np.broadcast_to(line.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape).copy()


def iota_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """The index along ``axis``, cast."""
    axes = output_axes(outputs[0].shape)
    return pointwise(
        outputs[0].shape, outputs[0].dtype, axes, cast_expr(axes[attributes["axis"]].var, outputs[0].dtype)
    )


register(
    OpDef(
        name="iota",
        arity=0,
        infer=iota_type,
        evaluate=iota_evaluate,
        attributes={
            "shape": Attribute((int,), many=True, symbolic=True, doc="the result's shape"),
            "axis": Attribute((int,), default=0, required=False, doc="the axis along which values count up"),
            "dtype": Attribute((DType,), default=int64, required=False, doc="the result's dtype"),
        },
        compute=iota_compute,
        vjp=NOT_DIFFERENTIABLE,
        normalize=lambda types, a: a.updated(
            shape=spread(a["shape"], 1), axis=wrap_axis(a["axis"], len(spread(a["shape"], 1)))
        ),
        doc="0, 1, 2, ... along one axis, the same along the others.",
    )
)


def dimension_type(inputs: Types, attributes: Attributes) -> Types:
    """No operands -> int64 of rank 0."""
    return (TensorType(int64, ()),)


register(
    OpDef(
        name="dimension",
        arity=0,
        infer=dimension_type,
        evaluate=lambda attributes: np.asarray(int(attributes["size"]), np.int64),
        attributes={"size": Attribute((int,), symbolic=True, doc="the dimension, usually symbolic")},
        compute=lambda inputs, outputs, a: pointwise((), int64, (), const(int(a["size"]))),
        vjp=NOT_DIFFERENTIABLE,
        doc="The value of a dimension; folds to a constant once symbols are bound.",
    )
)


# -- reshape, transpose, broadcast -------------------------------------------------------


def _resolve_shape(types: Types, attributes: Attributes) -> Attributes:
    """Replace one -1 in ``shape`` by what is left."""
    shape = spread(attributes["shape"], 1)
    open_dims = [k for k, d in enumerate(shape) if isinstance(d, int) and d == -1]
    if len(open_dims) > 1:
        raise TypeRuleError(f"shape {list(shape)} has more than one -1")
    if open_dims:
        known = size_of(tuple(d for k, d in enumerate(shape) if k != open_dims[0]))
        rest = exact_quotient(types[0].size, known)
        if rest is None:
            raise TypeRuleError(
                f"cannot reshape {types[0].size} elements to {list(shape)}: {known} does not divide them"
            )
        shape = tuple(rest if k == open_dims[0] else d for k, d in enumerate(shape))
    return attributes.updated(shape=shape)


def reshape_type(inputs: Types, attributes: Attributes) -> Types:
    """Any tensor -> the same elements in row-major order with another ``shape`` of equal size."""
    shape = check_shape(attributes["shape"])
    if size_of(shape) != inputs[0].size:
        raise TypeRuleError(f"cannot reshape {inputs[0].size} elements to {list(shape)}, which has {size_of(shape)}")
    return (TensorType(inputs[0].dtype, shape),)


def reshape_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read at the row-major position, split by the operand's extents."""
    axes = output_axes(outputs[0].shape)
    position = linear_index(axis_vars(axes), outputs[0].shape)
    return _movement(inputs, outputs, unravel(position, inputs[0].shape))


register(
    OpDef(
        name="reshape",
        arity=1,
        infer=reshape_type,
        evaluate=lambda attributes, x: x.reshape(attributes["shape"]),
        attributes={
            "shape": Attribute((int,), many=True, symbolic=True, doc="the new shape; one dimension may be given as -1")
        },
        compute=reshape_compute,
        vjp=single_vjp(lambda b, dy, node: b.reshape_to(dy, node.inputs[0].type.shape)),
        normalize=_resolve_shape,
        traits=frozenset({Trait.MOVEMENT}),
        doc="The same elements in row-major order with another shape.",
    )
)


def transpose_type(inputs: Types, attributes: Attributes) -> Types:
    """Any tensor -> its dimensions in the order ``permutation``."""
    permutation = attributes["permutation"]
    if not isinstance(permutation, tuple) or sorted(permutation) != list(range(inputs[0].rank)):
        raise TypeRuleError(f"permutation {permutation} must list each of the {inputs[0].rank} dimensions once")
    return (TensorType(inputs[0].dtype, tuple(inputs[0].shape[p] for p in permutation)),)


def inverse_permutation(permutation: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that undoes ``permutation``."""
    return tuple(sorted(range(len(permutation)), key=lambda k: permutation[k]))


def transpose_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Output dimension k counts operand dimension permutation[k]."""
    index = axis_vars(output_axes(outputs[0].shape))
    return _movement(inputs, outputs, [index[k] for k in inverse_permutation(attributes["permutation"])])


register(
    OpDef(
        name="transpose",
        arity=1,
        infer=transpose_type,
        evaluate=lambda attributes, x: np.transpose(x, attributes["permutation"]),
        attributes={
            "permutation": Attribute(
                (int, type(None)), many=True, default=None, required=False, doc="default: reverse all dimensions"
            )
        },
        compute=transpose_compute,
        vjp=single_vjp(lambda b, dy, node: b.transpose_to(dy, inverse_permutation(node.attributes["permutation"]))),
        normalize=lambda types, a: a.updated(
            permutation=tuple(range(types[0].rank))[::-1]
            if a["permutation"] is None
            else tuple(wrap_axis(p, types[0].rank, "permutation entry") for p in spread(a["permutation"], 1))
        ),
        traits=frozenset({Trait.MOVEMENT}),
        doc="Dimensions in another order.",
    )
)


def broadcast_type(inputs: Types, attributes: Attributes) -> Types:
    """Any tensor -> ``shape``, where operand dimension k is output dimension ``dims[k]`` and others repeat."""
    shape, dims = check_shape(attributes["shape"]), attributes["dims"]
    check_ints(dims, inputs[0].rank, "dims", low=0)
    check_axes(dims, len(shape), "dims")
    for dim, extent in zip(dims, inputs[0].shape, strict=True):
        if shape[dim] != extent:
            raise TypeRuleError(
                f"dimension {extent} cannot become {shape[dim]}: dims name equal extents; reshape 1s away"
            )
    return (TensorType(inputs[0].dtype, shape),)


def broadcast_evaluate(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """np.broadcast_to after inserting 1s (a read-only view)."""
    shape, dims = attributes["shape"], attributes["dims"]
    return np.broadcast_to(x.reshape([shape[k] if k in dims else 1 for k in range(len(shape))]), shape)


def broadcast_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read at the axes that the operand has."""
    index = axis_vars(output_axes(outputs[0].shape))
    return _movement(inputs, outputs, [index[d] for d in attributes["dims"]])


def broadcast_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """Sum over the dimensions that repeat."""
    new = tuple(k for k in range(node.outputs[0].type.rank) if k not in node.attributes["dims"])
    return b.reduce_sum(dy, axes=new) if new else dy


register(
    OpDef(
        name="broadcast",
        arity=1,
        infer=broadcast_type,
        evaluate=broadcast_evaluate,
        attributes={
            "shape": Attribute((int,), many=True, symbolic=True, doc="the result's shape"),
            "dims": Attribute((int,), many=True, doc="output dimension of each operand dimension, increasing"),
        },
        compute=broadcast_compute,
        vjp=single_vjp(broadcast_vjp),
        normalize=lambda types, a: a.updated(shape=spread(a["shape"], 1), dims=spread(a["dims"], 1)),
        traits=frozenset({Trait.MOVEMENT}),
        doc="Repeat a tensor along new dimensions.",
    )
)


# -- slice, reverse, pad, concat ---------------------------------------------------------


def _slice_attributes(types: Types, attributes: Attributes) -> Attributes:
    rank = types[0].rank
    strides = (1,) * rank if attributes["strides"] is None else spread(attributes["strides"], 1)
    return attributes.updated(
        starts=spread(attributes["starts"], 1), limits=spread(attributes["limits"], 1), strides=strides
    )


def slice_type(inputs: Types, attributes: Attributes) -> Types:
    """Any tensor -> elements start, start + stride, ... below limit of every dimension."""
    x = inputs[0]
    starts = check_ints(attributes["starts"], x.rank, "starts", low=0, symbolic=True)
    limits = check_ints(attributes["limits"], x.rank, "limits", low=0, symbolic=True)
    strides = check_ints(attributes["strides"], x.rank, "strides", low=1)
    shape = []
    for start, limit, stride, extent in zip(starts, limits, strides, x.shape, strict=True):
        if isinstance(limit - start, int) and limit - start < 0:
            raise TypeRuleError(f"limit {limit} is below start {start}")
        if isinstance(extent - limit, int) and extent - limit < 0:
            raise TypeRuleError(f"limit {limit} is beyond the extent {extent}")
        shape.append(ceil_div(limit - start, stride))
    return (TensorType(x.dtype, tuple(shape)),)


def slice_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read at start + index * stride."""
    index = axis_vars(output_axes(outputs[0].shape))
    return _movement(inputs, outputs, [
        _affine(i, stride, start)
        for i, start, stride in zip(index, attributes["starts"], attributes["strides"], strict=True)
    ])  # fmt: skip


def _affine(index: Expr, scale: int, offset: Dim) -> Expr:
    scaled = index if scale == 1 else apply("mul", index, const(scale))
    return scaled if offset == 0 else apply("add", scaled, const(int(offset)))


def slice_vjp(b: Builder, dy: Value, node: Node) -> Value:
    """Put the cotangent back between zeros."""
    x, a = node.inputs[0].type, node.attributes
    low, high, interior = [], [], []
    for start, stride, count, extent in zip(a["starts"], a["strides"], dy.type.shape, x.shape, strict=True):
        taken = 0 if isinstance(count, int) and count == 0 else (count - 1) * stride + 1
        low.append(start)
        high.append(extent - start - taken)
        interior.append(stride - 1)
    zero = b.constant(0, dy.type.dtype)
    return b.pad(dy, zero, low=tuple(low), high=tuple(high), interior=tuple(interior))


register(
    OpDef(
        name="slice",
        arity=1,
        infer=slice_type,
        evaluate=lambda a, x: x[tuple(slice(*t) for t in zip(a["starts"], a["limits"], a["strides"], strict=True))],
        attributes={
            "starts": Attribute((int,), many=True, symbolic=True, doc="first index taken, per dimension"),
            "limits": Attribute((int,), many=True, symbolic=True, doc="index before which to stop, per dimension"),
            "strides": Attribute(
                (int, type(None)), many=True, default=None, required=False, doc="positive steps; default 1"
            ),
        },
        compute=slice_compute,
        vjp=single_vjp(slice_vjp),
        normalize=_slice_attributes,
        traits=frozenset({Trait.MOVEMENT}),
        doc="A rectangular, possibly strided part.",
    )
)


def reverse_type(inputs: Types, attributes: Attributes) -> Types:
    """Any tensor -> the same type."""
    check_axes(attributes["axes"], inputs[0].rank)
    return (inputs[0],)


def reverse_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read at extent - 1 - index along ``axes``."""
    axes = output_axes(outputs[0].shape)
    index = [apply("sub", const(a.extent - 1), a.var) if k in attributes["axes"] else a.var for k, a in enumerate(axes)]
    return _movement(inputs, outputs, index)


register(
    OpDef(
        name="reverse",
        arity=1,
        infer=reverse_type,
        evaluate=lambda attributes, x: np.flip(x, attributes["axes"]),
        attributes={"axes": Attribute((int,), many=True, doc="the axes to reverse")},
        compute=reverse_compute,
        vjp=single_vjp(lambda b, dy, node: b.reverse(dy, axes=node.attributes["axes"])),
        normalize=normalize_axes,
        traits=frozenset({Trait.MOVEMENT}),
        doc="Elements in reverse order along some axes.",
    )
)


def padded_extent(extent: Dim, low: Dim, high: Dim, interior: int) -> Dim:
    """Return the extent after padding."""
    inner = 0 if isinstance(extent, int) and extent == 0 else extent + (extent - 1) * interior
    return low + inner + high


def pad_type(inputs: Types, attributes: Attributes) -> Types:
    """(T of any shape, T of rank 0) -> T, padded."""
    x, value = inputs
    if value.rank or value.dtype is not x.dtype:
        raise TypeRuleError("takes a tensor and a rank-0 value of its dtype")
    low = check_ints(attributes["low"], x.rank, "low", symbolic=True)
    high = check_ints(attributes["high"], x.rank, "high", symbolic=True)
    interior = check_ints(attributes["interior"], x.rank, "interior", low=0)
    shape = tuple(padded_extent(*t) for t in zip(x.shape, low, high, interior, strict=True))
    for extent, new in zip(x.shape, shape, strict=True):
        if isinstance(new, int) and new < 0:
            raise TypeRuleError(f"cropping by low {low}, high {high} takes more than the extent {extent}")
    return (TensorType(x.dtype, check_shape(shape, "padded shape")),)


def pad_evaluate(a: Attributes, x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Fill, then crop the operand where paddings are negative and place it."""
    shape = tuple(padded_extent(*t) for t in zip(x.shape, a["low"], a["high"], a["interior"], strict=True))
    result = np.full(shape, value, x.dtype)
    into, of = [], []
    for extent, new, low, interior in zip(x.shape, shape, a["low"], a["interior"], strict=True):
        places = np.arange(extent) * (interior + 1) + low
        kept = np.flatnonzero((places >= 0) & (places < new))
        into.append(places[kept])
        of.append(kept)
    result[np.ix_(*into)] = x[np.ix_(*of)]
    return result


def pad_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Read where the position falls on an element of the operand, else the padding value."""
    axes = output_axes(outputs[0].shape)
    condition: Expr | None = None
    index = []
    columns = zip(axes, inputs[0].shape, attributes["low"], attributes["high"], attributes["interior"], strict=True)
    for axis, extent, low, high, interior in columns:
        position = _affine(axis.var, 1, -low)
        tests = []
        if low > 0:
            tests.append(apply("greater_equal", axis.var, const(int(low))))
        if high > 0:
            last = low + (extent - 1) * (interior + 1)
            tests.append(apply("less_equal", axis.var, const(int(last))))
        if interior:
            tests.append(apply("equal", apply("floor_mod", position, const(interior + 1)), const(0)))
            position = apply("floor_div", position, const(interior + 1))
        index.append(position)
        for test in tests:
            condition = test if condition is None else apply("bit_and", condition, test)
    dtype = outputs[0].dtype
    body: Expr = Read(0, tuple(index), dtype)
    if inputs[0].size == 0:
        body = Read(1, (), dtype)
    elif condition is not None:
        body = select(condition, body, Read(1, (), dtype))
    return pointwise(outputs[0].shape, dtype, axes, body)


def pad_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value, Value]:
    """Undo the padding; the padding value gets the sum of what fell outside."""
    a, (x, _) = node.attributes, node.inputs
    zero, rank = b.constant(0, dy.type.dtype), x.type.rank
    dx = b.pad(
        dy, zero, low=tuple(d * -1 for d in a["low"]), high=tuple(d * -1 for d in a["high"]), interior=(0,) * rank
    )
    if any(a["interior"]):
        steps = tuple(i + 1 for i in a["interior"])
        dx = b.slice(dx, starts=(0,) * rank, limits=dx.type.shape, strides=steps)
    one = b.constant(1, dy.type.dtype)
    outside = b.pad(b.zeros_like(x), one, low=a["low"], high=a["high"], interior=a["interior"])
    return dx, b.reduce_sum(b.mul(dy, outside), axes=None)


def _pad_attributes(types: Types, a: Attributes) -> Attributes:
    rank = types[0].rank
    return a.updated(**{name: spread(a[name], rank) for name in ("low", "high", "interior")})


register(
    OpDef(
        name="pad",
        arity=2,
        infer=pad_type,
        evaluate=pad_evaluate,
        attributes={
            "low": Attribute((int,), many=True, symbolic=True, doc="elements before each dimension; negative crops"),
            "high": Attribute((int,), many=True, symbolic=True, doc="elements after each dimension; negative crops"),
            "interior": Attribute((int,), many=True, default=0, required=False, doc="elements between two neighbours"),
        },
        compute=pad_compute,
        vjp=single_vjp(pad_vjp),
        normalize=_pad_attributes,
        doc="Surround a tensor with copies of a rank-0 value (operand 1), or crop it.",
    )
)


def concat_type(inputs: Types, attributes: Attributes) -> Types:
    """Tensors that differ along ``axis`` only -> one after the other."""
    if not inputs:
        raise TypeRuleError("takes at least one operand")
    first, axis = inputs[0], attributes["axis"]
    check_axis(axis, first.rank)
    total: Dim = 0
    for t in inputs:
        if t.dtype is not first.dtype or t.rank != first.rank:
            raise TypeRuleError("operands must have one dtype and rank")
        if any(d != e for k, (d, e) in enumerate(zip(t.shape, first.shape, strict=True)) if k != axis):
            raise TypeRuleError(f"operand shapes may differ along axis {axis} only")
        total = total + t.shape[axis]
    return (TensorType(first.dtype, check_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))),)


def concat_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Choose the operand by the position along ``axis``."""
    axis, axes = attributes["axis"], output_axes(outputs[0].shape)
    index = axis_vars(axes)
    offset, pieces = 0, []
    for number, t in enumerate(inputs):
        if t.shape[axis] != 0:
            place = (*index[:axis], _affine(index[axis], 1, -offset), *index[axis + 1 :])
            pieces.append((offset, Read(number, place, t.dtype)))
        offset += int(t.shape[axis])  # type: ignore[call-overload]
    body: Expr = pieces[-1][1] if pieces else const(0, outputs[0].dtype)
    for (_, piece), (limit, _) in zip(pieces[-2::-1], pieces[:0:-1]):
        body = select(apply("less", index[axis], const(limit)), piece, body)
    return pointwise(outputs[0].shape, outputs[0].dtype, axes, body)


def concat_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value, ...]:
    """Cut the cotangent at the seams."""
    axis, offset, parts = node.attributes["axis"], 0, []
    for value in node.inputs:
        end = offset + value.type.shape[axis]
        starts = tuple(offset if k == axis else 0 for k in range(dy.type.rank))
        limits = tuple(end if k == axis else d for k, d in enumerate(dy.type.shape))
        parts.append(b.slice(dy, starts=starts, limits=limits))
        offset = end
    return tuple(parts)


register(
    OpDef(
        name="concat",
        arity=None,
        infer=concat_type,
        evaluate=lambda attributes, *arrays: np.concatenate(arrays, attributes["axis"]),
        attributes={"axis": Attribute((int,), doc="the axis along which to join")},
        compute=concat_compute,
        vjp=single_vjp(concat_vjp),
        normalize=lambda types, a: normalize_axis(types, a) if types else a,
        doc="Tensors one after the other along an axis.",
    )
)


# -- stop_gradient -----------------------------------------------------------------------


register(
    OpDef(
        name="stop_gradient",
        arity=1,
        infer=lambda inputs, attributes: (inputs[0],),
        evaluate=lambda attributes, x: x,
        expand=lambda b, inputs, attributes, mode: inputs,
        vjp=lambda b, node, cotangents: (None,),
        doc="The operand itself, as a constant for differentiation.",
    )
)
