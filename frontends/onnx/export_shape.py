"""Export rules of ops that make, move, pad, join, gather and scatter elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.errors import UnsupportedOpError
from dlc.frontends.onnx.export_rules import exports
from dlc.frontends.onnx.export_writer import Writer
from dlc.ir.dims import Dim
from dlc.ir.graph import Node
from dlc.ir.types import float64, int64

_LOWEST = -(1 << 63) + 1


@exports("constant")
def export_constant(w: Writer, node: Node) -> str:
    """An initializer."""
    return w.constant(node.attributes["value"].array)


@exports("dimension")
def export_dimension(w: Writer, node: Node) -> str:
    """The value of a dimension."""
    return w.reshape(w.dimension(node.attributes["size"]), ())


@exports("iota")
def export_iota(w: Writer, node: Node) -> str:
    """Counting numbers along an axis."""
    shape, axis, dtype = node.attributes["shape"], node.attributes["axis"], node.attributes["dtype"]
    limit = w.reshape(w.dimension(shape[axis]), ())
    line = w.node("Range", [w.constant(np.int64(0)), limit, w.constant(np.int64(1))])
    if dtype is not int64:
        line = w.cast(line, dtype)
    if len(shape) == 1:
        return line
    line = w.reshape(line, tuple(d if k == axis else 1 for k, d in enumerate(shape)))
    return w.node("Expand", [line, w.shape(shape)])


@exports("reshape")
def export_reshape(w: Writer, node: Node) -> str:
    """Another shape."""
    return w.reshape(w.name(node.inputs[0]), node.outputs[0].type.shape)


@exports("transpose")
def export_transpose(w: Writer, node: Node) -> str:
    """Dimensions in another order."""
    return w.node("Transpose", [w.name(node.inputs[0])], perm=list(node.attributes["permutation"]))


@exports("broadcast")
def export_broadcast(w: Writer, node: Node) -> None:
    """A reshape that inserts ones; the expansion is left to elementwise users where it can be."""
    shape, dims = node.attributes["shape"], node.attributes["dims"]
    x, own = w.name(node.inputs[0]), node.inputs[0].type.shape
    trailing = tuple(range(len(shape) - len(dims), len(shape)))
    if tuple(dims) != trailing:
        first = dims[0] if dims else len(shape)
        own = tuple(shape[k] if k in dims else 1 for k in range(first, len(shape)))
        x = w.reshape(x, own)
    w.define_unexpanded(node.outputs[0], x, own)


@exports("slice")
def export_slice(w: Writer, node: Node) -> str:
    """A rectangular part."""
    a, shape = node.attributes, node.inputs[0].type.shape
    columns = list(zip(a["starts"], a["limits"], a["strides"], shape, strict=True))
    axes = [k for k, (start, limit, step, extent) in enumerate(columns) if start != 0 or limit != extent or step != 1]
    if not axes:
        return w.node("Identity", [w.name(node.inputs[0])])
    starts, limits = (w.shape([columns[k][p] for k in axes]) for p in range(2))
    return w.node("Slice", [w.name(node.inputs[0]), starts, limits, w.ints(axes), w.ints(columns[k][2] for k in axes)])


@exports("reverse")
def export_reverse(w: Writer, node: Node) -> str:
    """Backwards along axes."""
    axes = node.attributes["axes"]
    x, count = w.name(node.inputs[0]), len(axes)
    return w.node("Slice", [x, w.ints([-1] * count), w.ints([_LOWEST] * count), w.ints(axes), w.ints([-1] * count)])


@exports("pad")
def export_pad(w: Writer, node: Node) -> str:
    """Padding before, after and between elements."""
    a, x, shape = node.attributes, w.name(node.inputs[0]), list(node.inputs[0].type.shape)
    value = w.name(node.inputs[1])
    for axis, interior in enumerate(a["interior"]):
        if interior:
            x = _spread(w, x, shape, axis, interior, value)
            shape[axis] = shape[axis] + (shape[axis] - 1) * interior
    if any(d != 0 for d in (*a["low"], *a["high"])):
        x = w.node("Pad", [x, w.shape([*a["low"], *a["high"]]), value])
    return x


def _spread(w: Writer, x: str, shape: Sequence[Dim], axis: int, interior: int, value: str) -> str:
    """Put ``interior`` copies of ``value`` between neighbours along an axis: pad a new axis, merge, cut the end."""
    rank = len(shape)
    before, after = tuple(shape[: axis + 1]), tuple(shape[axis + 1 :])
    x = w.reshape(x, (*before, 1, *after))
    pads = [0] * (2 * (rank + 1))
    pads[rank + 1 + axis + 1] = interior
    x = w.node("Pad", [x, w.ints(pads), value])
    merged = shape[axis] * (interior + 1)
    x = w.reshape(x, (*before[:-1], merged, *after))
    return w.node("Slice", [x, w.ints([0]), w.shape([merged - interior]), w.ints([axis])])


@exports("concat")
def export_concat(w: Writer, node: Node) -> str:
    """Joining."""
    return w.node("Concat", [w.name(v) for v in node.inputs], axis=node.attributes["axis"])


# -- gather and scatter -----------------------------------------------------------------


def _indices(w: Writer, node: Node) -> str:
    name = w.name(node.inputs[1])
    return name if node.inputs[1].type.dtype.name in ("int32", "int64") else w.cast(name, int64)


@exports("gather")
def export_gather(w: Writer, node: Node) -> str:
    """Slices at indices."""
    return w.node("Gather", [w.name(node.inputs[0]), _indices(w, node)], axis=node.attributes["axis"])


@exports("gather_elements")
def export_gather_elements(w: Writer, node: Node) -> str:
    """Elements at indices."""
    return w.node("GatherElements", [w.name(node.inputs[0]), _indices(w, node)], axis=node.attributes["axis"])


@exports("gather_nd")
def export_gather_nd(w: Writer, node: Node) -> str:
    """Slices at index tuples."""
    indices = w.cast(w.name(node.inputs[1]), int64)
    return w.node("GatherND", [w.name(node.inputs[0]), indices], batch_dims=node.attributes["batch_dims"])


_COMBINERS = {"none": "none", "add": "add", "mul": "mul", "maximum": "max", "minimum": "min"}


@exports("scatter_elements")
def export_scatter_elements(w: Writer, node: Node) -> str:
    """Elements put at indices."""
    x, indices, updates = w.name(node.inputs[0]), _indices(w, node), w.name(node.inputs[2])
    reduction = _COMBINERS[node.attributes["combiner"]]
    return w.node("ScatterElements", [x, indices, updates], axis=node.attributes["axis"], reduction=reduction)


@exports("scatter_nd")
def export_scatter_nd(w: Writer, node: Node) -> str:
    """Slices put at index tuples."""
    x, indices, updates = (w.name(v) for v in node.inputs)
    reduction = _COMBINERS[node.attributes["combiner"]]
    return w.node("ScatterND", [x, w.cast(indices, int64), updates], reduction=reduction)


@exports("scatter_add")
def export_scatter_add(w: Writer, node: Node) -> str:
    """Slices added at indices along an axis: indices repeated to the updates' shape, then by elements."""
    axis = node.attributes["axis"]
    shape, indices = node.inputs[0].type.shape, node.inputs[1].type
    count = indices.size
    flat = (*shape[:axis], count, *shape[axis + 1 :])
    updates = w.reshape(w.name(node.inputs[2]), flat)
    places = w.reshape(_indices(w, node), (count, *(1,) * (len(shape) - axis - 1)))
    places = w.node("Expand", [places, w.shape(flat)])
    return w.node("ScatterElements", [w.name(node.inputs[0]), places, updates], axis=axis, reduction="add")


# -- windows ----------------------------------------------------------------------------


@exports("reduce_window")
def export_reduce_window(w: Writer, node: Node) -> str:
    """A pool over the windowed dimensions, moved last; all others are batch."""
    a, x = node.attributes, node.inputs[0].type
    columns = zip(a["window"], a["strides"], strict=True)
    axes = [k for k, (size, stride) in enumerate(columns) if size != 1 or stride != 1]
    if not axes:
        return w.node("Identity", [w.name(node.inputs[0])])
    if len(axes) > 3:
        raise UnsupportedOpError(f"{node.label} has windows along {len(axes)} dimensions; ONNX pools have at most 3")
    rest = [k for k in range(x.rank) if k not in axes]
    order = [*rest, *axes]
    name = w.transpose(w.name(node.inputs[0]), order)
    batch: Dim = 1
    for k in rest:
        batch = batch * x.shape[k]
    name = w.reshape(name, (batch, 1, *(x.shape[k] for k in axes)))
    integer = not x.dtype.is_float
    name = w.cast(name, float64) if integer else name
    window = [a["window"][k] for k in axes]
    options = {
        "kernel_shape": window,
        "strides": [a["strides"][k] for k in axes],
        "dilations": [a["dilations"][k] for k in axes],
    }
    computed = float64 if integer else x.dtype
    if a["combiner"] == "add":
        if all(d == 1 for d in options["dilations"]):
            del options["dilations"]
        name = w.node("AveragePool", [name], **options)
        name = w.node("Mul", [name, w.constant(float(np.prod(window)), computed)])
        name = w.node("Round", [name]) if integer else name
    elif a["combiner"] == "maximum":
        name = w.node("MaxPool", [name], **options)
    else:
        name = w.node("Neg", [w.node("MaxPool", [w.node("Neg", [name])], **options)])
    name = w.cast(name, x.dtype) if integer else name
    shape = node.outputs[0].type.shape
    name = w.reshape(name, tuple(shape[k] for k in order))
    return w.transpose(name, [order.index(k) for k in range(x.rank)])
