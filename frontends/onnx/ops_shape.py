"""Importers of ONNX ops that make, move, pad and join elements."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from dlc.errors import ResourceLimitError
from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.folding import LARGEST_RANGE
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.slicing import resolve_slice
from dlc.frontends.onnx.tensors import densify, dtype_of, to_array
from dlc.frontends.onnx.untie import is_uniform
from dlc.frontends.onnx.values import Tensor, dims_tensor, known_tensor
from dlc.ir.builder import broadcast_shapes
from dlc.ir.dims import Dim, SymbolicDim, exact_quotient, size_of
from dlc.ir.graph import Value
from dlc.ir.types import float32, int64, string


@onnx_op("Identity")
def import_identity(call: Call) -> Any:
    """The value itself; a merged initializer under the name of one of those that exporters merged."""
    found = call.inputs[0]
    if isinstance(found, Tensor) and found.initializer and found.known is None and is_uniform(found.array):
        name = call.node.output[0] if call.node.output else found.name
        return Tensor(found.dtype, found.shape, array=found.array, name=name, initializer=True)
    return found


@onnx_op("Shape")
def import_shape(call: Call) -> Tensor:
    """Dimensions, known from the type."""
    return dims_tensor(call.shape())


@onnx_op("Size")
def import_size(call: Call) -> Tensor:
    """Number of elements, known from the type."""
    count = np.empty((), object)
    count[()] = size_of(call.shape())
    return known_tensor(count, int64)


@onnx_op("Constant")
def import_constant(call: Call) -> Tensor:
    """The value in whichever attribute holds one."""
    name = call.node.output[0] if call.node.output else ""
    given = [a for a in call.attributes if a.startswith(("value", "sparse_value"))]
    if len(given) != 1:
        call.fail(f"has {len(given)} values; a Constant has exactly one")
    folder = call.session.source.folder
    what = f"the value of constant {call.label}"
    match given[0]:
        case "value":
            proto = call.tensor_attribute("value")
            return known_tensor(to_array(proto, folder, what), dtype_of(proto.data_type, what), name)
        case "value_float":
            return known_tensor(np.float32(call.attributes["value_float"].f), name=name)
        case "value_floats":
            return known_tensor(np.array(call.attributes["value_floats"].floats, np.float32), name=name)
        case "value_int":
            return known_tensor(np.int64(call.integer("value_int")), name=name)
        case "value_ints":
            return known_tensor(np.array(call.int_list("value_ints"), np.int64), name=name)
        case "sparse_value":
            sparse = call.attributes["sparse_value"].sparse_tensor
            values = to_array(sparse.values, folder, what)
            dense = densify(values, to_array(sparse.indices, folder, what), tuple(sparse.dims), what)
            return known_tensor(dense, dtype_of(sparse.values.data_type, what), name)
    texts = call.string_list("value_strings", None) or (call.string("value_string"),)
    array = np.array(texts, object)
    return known_tensor(array if given[0] == "value_strings" else array.reshape(()), string, name)


@onnx_op("ConstantOfShape")
def import_constant_of_shape(call: Call) -> Value:
    """A number repeated over a shape."""
    shape = call.dims(0)
    value: Any = np.zeros(1, np.float32)
    dtype = float32
    if "value" in call.attributes:
        proto = call.tensor_attribute("value")
        dtype = dtype_of(proto.data_type, "attribute 'value'")
        value = to_array(proto, call.session.source.folder, "attribute 'value'")
    if value.size != 1:
        call.fail(f"attribute 'value' must hold one element, not {value.size}")
    call.check_size(shape, dtype, "the result")
    return call.b.broadcast_to(call.b.constant(value.reshape(())), shape)


@onnx_op("Range")
def import_range(call: Call) -> Value:
    """start, start + delta, ... before limit; the number of elements must be known."""
    b, dtype = call.b, call.dtype()
    start: Any
    limit: Any
    delta: Any
    if dtype.is_float:
        start, limit, delta = (float(call.scalar(i, n)) for i, n in enumerate(("start", "limit", "delta")))
        count: Dim = max(0, int(np.ceil((limit - start) / delta))) if delta else -1
    else:
        start, limit, delta = (call.dims(i, n)[0] for i, n in enumerate(("start", "limit", "delta")))
        if not isinstance(delta, int):
            call.fail(f"delta {delta} is symbolic; give shapes=")
        span = limit - start if delta > 0 else start - limit
        count = (span + (abs(delta) - 1)) // abs(delta) if delta else -1
        count = max(0, count) if isinstance(count, int) and delta else count
    if isinstance(count, int):
        if count < 0:
            call.fail("delta is 0; it must not be")
        if count > LARGEST_RANGE:
            raise ResourceLimitError(f"gives {count} elements; the limit is {LARGEST_RANGE}")
    steps = b.iota(shape=(count,), axis=0, dtype=dtype)
    if delta != 1:
        steps = b.mul(steps, b.constant(delta, dtype))
    if isinstance(start, SymbolicDim):
        return b.add(steps, b.cast_to(b.dimension(size=start), dtype))
    return steps if start == 0 else b.add(steps, b.constant(start, dtype))


@onnx_op("EyeLike")
def import_eye_like(call: Call) -> Value:
    """Ones on a diagonal."""
    dtype = dtype_of(call.integer("dtype"), "attribute 'dtype'") if "dtype" in call.attributes else call.dtype()
    shape = call.shape()
    if len(shape) != 2:
        call.fail(f"takes a matrix, not rank {len(shape)}")
    b = call.b
    rows, columns = (b.iota(shape=shape, axis=k, dtype=int64) for k in range(2))
    return b.cast_to(b.equal(b.add(rows, call.integer("k", 0)), columns), dtype)


# -- shapes -----------------------------------------------------------------------------


@onnx_op("Reshape")
def import_reshape(call: Call) -> Value:
    """Another shape; 0 copies a dimension (unless allowzero), -1 takes what is left."""
    x = call.value(0)
    target = call.int_list("shape") if call.version < 5 else call.dims(1)
    return call.b.reshape_to(x, reshape_target(call, x.type.shape, target, call.flag("allowzero")))


def reshape_target(call: Call, shape: Sequence[Dim], target: Sequence[Dim], allow_zero: bool) -> tuple[Dim, ...]:
    """Resolve 0 and -1 in ``target`` for a tensor of ``shape``; symbols are unified where sizes must agree."""
    result: list[Dim] = []
    for position, dim in enumerate(target):
        if isinstance(dim, int) and dim == 0 and not allow_zero:
            if position >= len(shape):
                call.fail(f"target {list(target)} copies dimension {position}, but the input has rank {len(shape)}")
            dim = shape[position]
        result.append(dim)
    open_axes = [k for k, d in enumerate(result) if isinstance(d, int) and d == -1]
    if len(open_axes) > 1 or any(isinstance(d, int) and d < -1 for d in result):
        call.fail(f"target {list(target)} must have at most one -1 and no other negative dimension")
    total = size_of(tuple(shape))
    if open_axes:
        known = size_of(tuple(d for k, d in enumerate(result) if k != open_axes[0]))
        rest = exact_quotient(total, known) if known != 0 else (0 if total == 0 and not allow_zero else None)
        if rest is None:
            if isinstance(total, int) and isinstance(known, int):
                call.fail(f"cannot reshape {total} elements to {list(target)}: {known} does not divide them")
            rest = _symbolic_rest(call, shape, result, total, known)
        result[open_axes[0]] = rest
        return tuple(result)
    call.unify(total, size_of(tuple(result)), f"cannot reshape {total} elements to {list(target)}")
    return tuple(result)


def _symbolic_rest(call: Call, shape: Sequence[Dim], result: Sequence[Dim], total: Dim, known: Dim) -> Dim:
    """Find what -1 stands for where the division is not evidently exact: leading equal dimensions cancel."""
    for a, c in zip(shape, result):
        if a != c and isinstance(a, SymbolicDim) and isinstance(c, SymbolicDim) and c != -1:
            call.unify(a, c, f"cannot reshape {list(shape)} to {list(result)}")
    return call.fail(
        f"cannot reshape {list(shape)} to {list(result)}: {known} does not evidently divide {total}; give shapes="
    )


@onnx_op("Flatten")
def import_flatten(call: Call) -> Value:
    """A matrix: dimensions before and from ``axis`` on, joined."""
    shape, axis = call.shape(), call.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        call.fail(f"axis {axis} is out of range for rank {len(shape)}")
    axis = axis + len(shape) if axis < 0 else axis
    return call.b.reshape_to(call.value(0), (size_of(shape[:axis]), size_of(shape[axis:])))


@onnx_op("Squeeze")
def import_squeeze(call: Call) -> Value:
    """Without dimensions of size one."""
    shape = call.shape()
    axes = call.ints(1, "axes") if call.has(1) else call.int_list("axes", None)
    if axes is None:
        axes = tuple(k for k, d in enumerate(shape) if d == 1)
    axes = call.axes(axes, len(shape))
    for axis in axes:
        call.unify(shape[axis], 1, f"cannot squeeze axis {axis} of {list(shape)}")
    return call.b.reshape_to(call.value(0), tuple(d for k, d in enumerate(shape) if k not in axes))


@onnx_op("Unsqueeze")
def import_unsqueeze(call: Call) -> Value:
    """With new dimensions of size one."""
    shape = call.shape()
    axes = call.ints(1, "axes") if call.version >= 13 else call.int_list("axes")
    axes = call.axes(axes, len(shape) + len(axes))
    kept = iter(shape)
    new = tuple(1 if k in axes else next(kept) for k in range(len(shape) + len(axes)))
    return call.b.reshape_to(call.value(0), new)


@onnx_op("Transpose")
def import_transpose(call: Call) -> Value:
    """Dimensions in another order, reversed by default."""
    order = call.int_list("perm", None) or tuple(reversed(range(call.rank())))
    if sorted(order) != list(range(call.rank())):
        call.fail(f"perm {list(order)} must list each of the {call.rank()} dimensions once")
    return call.b.transpose_to(call.value(0), order)


@onnx_op("Expand")
def import_expand(call: Call) -> Value:
    """Broadcast against a shape."""
    target = call.dims(1)
    call.unify_broadcast(call.shape(), target)
    shape = broadcast_shapes(call.shape(), target)
    call.check_size(shape, call.dtype(), "the result")
    return call.b.broadcast_to(call.value(0), shape)


@onnx_op("Tile")
def import_tile(call: Call) -> Value:
    """Copies side by side along every dimension."""
    b, x, repeats = call.b, call.value(0), call.dims(1, "repeats")
    shape = x.type.shape
    if len(repeats) != len(shape):
        call.fail(f"has {len(repeats)} repeats for rank {len(shape)}")
    result = tuple(d * r for d, r in zip(shape, repeats, strict=True))
    call.check_size(result, call.dtype(), "the result")
    spread: list[Dim] = []
    dims: list[int] = []
    for dim, repeat in zip(shape, repeats, strict=True):
        if repeat != 1:
            spread.append(repeat)
        dims.append(len(spread))
        spread.append(dim)
    return b.reshape_to(b.broadcast(x, shape=tuple(spread), dims=tuple(dims)), result)


@onnx_op("Concat")
def import_concat(call: Call) -> Value:
    """Tensors one after the other along an axis."""
    axis = call.axis(call.integer("axis", 1) if call.version < 4 else call.integer("axis"), call.rank())
    values = call.values()
    for other in values[1:]:
        if other.type.rank != values[0].type.rank:
            call.fail(f"inputs have ranks {values[0].type.rank} and {other.type.rank}; concat wants equal ranks")
        for k, (a, c) in enumerate(zip(values[0].type.shape, other.type.shape, strict=True)):
            if k != axis:
                call.unify(a, c, f"dimension {k} must be the same in all inputs")
    return values[0] if len(values) == 1 else call.b.concat(*values, axis=axis)


def cut(call: Call, x: Value, axis: int, start: Dim, limit: Dim) -> Value:
    """Emit the part [start, limit) of ``x`` along ``axis``."""
    shape = x.type.shape
    if start == 0 and limit == shape[axis]:
        return x
    starts = tuple(start if k == axis else 0 for k in range(len(shape)))
    limits = tuple(limit if k == axis else d for k, d in enumerate(shape))
    return call.b.slice(x, starts=starts, limits=limits)


@onnx_op("Split")
def import_split(call: Call) -> list[Value]:
    """Parts along an axis: of given sizes, or as equal as possible."""
    x, axis = call.value(0), call.axis(call.integer("axis", 0), call.rank())
    extent = x.type.shape[axis]
    if call.has(1):
        sizes = call.dims(1, "split")
    else:
        sizes = call.int_list("split", None)
    if sizes is None:
        count = call.integer("num_outputs", call.output_count)
        if count < 1 or count != call.output_count:
            call.fail(f"num_outputs is {count}, but the node has {call.output_count} outputs")
        each = exact_quotient(extent, count)
        if each is None:
            if not isinstance(extent, int):
                call.fail(f"dimension {extent} does not evidently split into {count} parts; give shapes=")
            each = -(-extent // count)
        sizes = (each,) * (count - 1) + (extent - each * (count - 1),)
    if len(sizes) != call.output_count:
        call.fail(f"gives {len(sizes)} sizes for {call.output_count} outputs")
    call.unify(sum(sizes[1:], start=sizes[0]), extent, f"split sizes {list(sizes)} must add up to the extent")
    parts: list[Value] = []
    start: Dim = 0
    for size in sizes:
        if isinstance(size, int) and size < 0:
            call.fail(f"split sizes {list(sizes)} must not be negative")
        parts.append(cut(call, x, axis, start, start + size))
        start = start + size
    return parts


@onnx_op("Slice")
def import_slice(call: Call) -> Value:
    """Rectangular parts with steps; negative steps run backwards."""
    b, x = call.b, call.value(0)
    starts, limits, strides, backwards = [], [], [], []
    for axis, ((start, limit, step), extent) in enumerate(
        zip(resolve_slice(call, x.type.shape), x.type.shape, strict=True)
    ):
        if step < 0:
            backwards.append(axis)
            start, limit, step = extent - 1 - start, extent - 1 - limit, -step
        starts.append(start)
        limits.append(limit)
        strides.append(min(step, 1 << 30))
    if backwards:
        x = b.reverse(x, axes=tuple(backwards))
    if not any(starts) and tuple(limits) == x.type.shape and all(s == 1 for s in strides):
        return x
    return b.slice(x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


# -- padding ----------------------------------------------------------------------------


@onnx_op("Pad")
def import_pad(call: Call) -> Value:
    """Pad by a constant, or with the tensor's own elements (reflect, edge, wrap)."""
    rank = call.rank()
    if call.version < 11:
        pads: Sequence[int] = call.int_list("pads" if call.version >= 2 else "paddings")
        axes: tuple[int, ...] = tuple(range(rank))
    else:
        pads = call.ints(1, "pads")
        axes = call.axes(call.ints(3, "axes"), rank) if call.has(3) else tuple(range(rank))
    if len(pads) != 2 * len(axes):
        call.fail(f"has {len(pads)} pads for {len(axes)} axes; it takes two per axis")
    if any(abs(p) >= 1 << 31 for p in pads):
        raise ResourceLimitError(f"pads {list(pads)} are impossibly large")
    low, high = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        low[axis], high[axis] = pads[position], pads[position + len(axes)]
    shape = tuple(d + before + after for d, before, after in zip(call.shape(), low, high, strict=True))
    call.check_size(shape, call.dtype(), "the result")
    mode = call.string("mode", "constant")
    b, x = call.b, call.value(0)
    if mode == "constant":
        if call.version < 11:
            value = b.constant(call.real("value", 0.0), x.type.dtype)
        else:
            value = b.reshape_to(call.value(2), ()) if call.has(2) else b.constant(0, x.type.dtype)
        return b.pad(x, value, low=tuple(low), high=tuple(high))
    return pad_with_elements(call, x, low, high, mode)


def pad_with_elements(call: Call, x: Value, low: Sequence[int], high: Sequence[int], mode: str) -> Value:
    """Emit padding that repeats elements of the tensor itself."""
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        extent = x.type.shape[axis]
        if before == 0 and after == 0:
            continue
        if not isinstance(extent, int) or extent == 0:
            call.fail(f"mode {mode!r} cannot pad dimension {extent}; give shapes=")
        places = np.arange(-before, extent + after)
        match mode:
            case "edge":
                places = np.clip(places, 0, extent - 1)
            case "reflect":
                period = max(2 * (extent - 1), 1)
                places = np.abs((places + extent - 1) % period - (extent - 1)) if extent > 1 else places * 0
            case "wrap":
                places = places % extent
            case _:
                call.fail(f"mode {mode!r} is none of constant, reflect, edge, wrap")
        x = call.b.gather(x, indices_value(call, places), axis=axis)
    return x


def indices_value(call: Call, places: np.ndarray) -> Value:
    """Emit a table of indices, a node or an input by its size."""
    return call.frame.region.value(known_tensor(places.astype(np.int64), name=f"{call.label}_indices"))


@onnx_op("CenterCropPad")
def import_center_crop_pad(call: Call) -> Value:
    """Crop or pad with zeros around the middle."""
    b, x, target = call.b, call.value(0), call.ints(1, "shape")
    axes = call.axes(call.int_list("axes", None) or tuple(range(len(target))), call.rank())
    low, high = [0] * call.rank(), [0] * call.rank()
    for axis, wanted in zip(axes, target, strict=True):
        extent = x.type.shape[axis]
        if not isinstance(extent, int):
            call.fail(f"dimension {extent} is symbolic; give shapes=")
        if wanted >= extent:
            low[axis] = (wanted - extent) // 2
            high[axis] = wanted - extent - low[axis]
        else:
            low[axis] = -((extent - wanted) // 2)
            high[axis] = wanted - extent - low[axis]
    return b.pad(x, b.constant(0, x.type.dtype), low=tuple(low), high=tuple(high))


@onnx_op("DepthToSpace")
def import_depth_to_space(call: Call) -> Value:
    """Move blocks of channels into space."""
    b, x, block = call.b, call.value(0), call.integer("blocksize")
    n, c, h, w = _four(call, x)
    depth = exact_quotient(c, block * block) if block > 0 else None
    if depth is None:
        call.fail(f"{c} channels do not divide by blocksize {block} squared")
    if call.string("mode", "DCR") == "DCR":
        split = b.reshape_to(x, (n, block, block, depth, h, w))
        moved = b.transpose_to(split, (0, 3, 4, 1, 5, 2))
    else:
        split = b.reshape_to(x, (n, depth, block, block, h, w))
        moved = b.transpose_to(split, (0, 1, 4, 2, 5, 3))
    return b.reshape_to(moved, (n, depth, h * block, w * block))


@onnx_op("SpaceToDepth")
def import_space_to_depth(call: Call) -> Value:
    """Move blocks of space into channels."""
    b, x, block = call.b, call.value(0), call.integer("blocksize")
    n, c, h, w = _four(call, x)
    rows, columns = (exact_quotient(d, block) if block > 0 else None for d in (h, w))
    if rows is None or columns is None:
        call.fail(f"{h} x {w} does not divide by blocksize {block}")
    split = b.reshape_to(x, (n, c, rows, block, columns, block))
    if call.string("mode", "DCR") == "CRD":
        moved = b.transpose_to(split, (0, 1, 3, 5, 2, 4))
    else:
        moved = b.transpose_to(split, (0, 3, 5, 1, 2, 4))
    return b.reshape_to(moved, (n, c * (block * block), rows, columns))


def _four(call: Call, x: Value) -> tuple[Dim, ...]:
    if x.type.rank != 4:
        call.fail(f"takes rank 4, not {x.type.rank}")
    return x.type.shape


@onnx_op("Trilu")
def import_trilu(call: Call) -> Value:
    """The upper or lower triangle, zeros elsewhere."""
    b, x = call.b, call.value(0)
    if x.type.rank < 2:
        call.fail(f"takes rank 2 or more, not {x.type.rank}")
    shape = x.type.shape[-2:]
    k = int(call.scalar(1, "k")) if call.has(1) else 0
    rows, columns = (b.iota(shape=shape, axis=axis, dtype=int64) for axis in range(2))
    shifted = b.add(rows, b.constant(k, int64))
    kept = b.greater_equal(columns, shifted) if call.flag("upper", True) else b.less_equal(columns, shifted)
    return b.where(b.broadcast_to(kept, x.type.shape), x, b.zeros_like(x))


@onnx_op("Col2Im")
def import_col2im(call: Call) -> Value:
    """Add columns of blocks back into an image: the transpose of extracting blocks."""
    image, block = call.ints(1, "image_shape"), call.ints(2, "block_shape")
    b, x, count = call.b, call.value(0), len(image)
    strides = call.int_list("strides", (1,) * count)
    dilations = call.int_list("dilations", (1,) * count)
    pads = call.int_list("pads", (0,) * (2 * count))
    n, rows, _ = x.type.shape
    channels = exact_quotient(rows, prod(block))
    if channels is None:
        call.fail(f"{rows} rows do not divide by the block's {prod(block)} elements")
    steps = [
        (image[k] + pads[k] + pads[k + count] - (block[k] - 1) * dilations[k] - 1) // strides[k] + 1
        for k in range(count)
    ]
    padded = [image[k] + pads[k] + pads[k + count] for k in range(count)]
    x = b.reshape_to(x, (n, channels, *block, *steps))
    total: Value | None = None
    zero = b.constant(0, x.type.dtype)
    for tap in np.ndindex(*block):
        part = x
        for k, t in enumerate(tap):
            part = cut(call, part, 2 + k, int(t), int(t) + 1)
        part = b.reshape_to(part, (n, channels, *steps))
        low = [int(t) * dilations[k] for k, t in enumerate(tap)]
        high = [padded[k] - low[k] - (steps[k] - 1) * strides[k] - 1 for k in range(count)]
        inner = [s - 1 for s in strides]
        part = b.pad(part, zero, low=(0, 0, *low), high=(0, 0, *high), interior=(0, 0, *inner))
        total = part if total is None else b.add(total, part)
    assert total is not None
    starts = (0, 0, *pads[:count])
    limits = (n, channels, *(pads[k] + image[k] for k in range(count)))
    return b.slice(total, starts=starts, limits=limits)
