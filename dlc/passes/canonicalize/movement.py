"""Rewrite rules on ops that move elements: what does nothing goes, neighbours merge. All are exact."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.ir.builder import Builder
from dlc.ir.dims import Dim
from dlc.ir.graph import Node, Value
from dlc.ir.scalar import SCALAR_OPS
from dlc.passes.rewrite import Context, Replacement, Rule, rule


@rule("reshape")
def reshape_of_reshape(builder: Builder, node: Node, context: Context) -> Replacement:
    """reshape(x) to its own shape -> x; reshape(reshape(x)) -> reshape(x)."""
    operand, shape = node.inputs[0], node.attributes["shape"]
    if operand.type.shape == shape:
        return operand
    inner = context.producer(operand, "reshape")
    return None if inner is None else builder.reshape_to(inner.inputs[0], shape)


@rule("transpose")
def transpose_of_transpose(builder: Builder, node: Node, context: Context) -> Replacement:
    """Identity -> x; transpose(transpose(x)) -> transpose(x); moving extents of 1 only -> reshape(x)."""
    operand, permutation = node.inputs[0], node.attributes["permutation"]
    if permutation == tuple(range(len(permutation))):
        return operand
    inner = context.producer(operand, "transpose")
    if inner is not None:
        first = inner.attributes["permutation"]
        return builder.transpose_to(inner.inputs[0], [first[k] for k in permutation])
    moved = [k for k in permutation if operand.type.shape[k] != 1]
    return builder.reshape_to(operand, node.outputs[0].type.shape) if moved == sorted(moved) else None


@rule("transpose")
def transpose_of_broadcast(builder: Builder, node: Node, context: Context) -> Replacement:
    """transpose(broadcast(x)) -> broadcast(transpose(x)), which moves fewer elements."""
    inner = context.producer(node.inputs[0], "broadcast")
    if inner is None:
        return None
    place = {old: new for new, old in enumerate(node.attributes["permutation"])}
    dims = [place[d] for d in inner.attributes["dims"]]
    order = sorted(range(len(dims)), key=dims.__getitem__)
    source = builder.transpose_to(inner.inputs[0], order)
    return builder.broadcast(source, shape=node.outputs[0].type.shape, dims=tuple(dims[k] for k in order))


@rule("transpose")
def transpose_of_pad(builder: Builder, node: Node, context: Context) -> Replacement:
    """transpose(pad(x, v)) -> pad(transpose(x), v), which moves fewer elements."""
    inner = context.producer(node.inputs[0], "pad")
    if inner is None or not context.has_one_use(node.inputs[0]):
        return None
    if min((*inner.attributes["low"], *inner.attributes["high"]), default=0) < 0:
        return None
    permutation = node.attributes["permutation"]
    source = builder.transpose_to(inner.inputs[0], permutation)
    changes = {name: tuple(inner.attributes[name][k] for k in permutation) for name in ("low", "high", "interior")}
    return builder.pad(source, inner.inputs[1], **changes)


@rule(*SCALAR_OPS, "where", "cast")
def transpose_after_elementwise(builder: Builder, node: Node, context: Context) -> Replacement:
    """f(transpose(a), transpose(b), broadcast(c)) -> transpose(f(a, b, broadcast(c))) for equal transposes.

    Transposes sink until they meet another one, a contraction or a reduction that takes them in.
    """
    permutation: tuple[int, ...] | None = None
    for value in node.inputs:
        maker = context.producer(value, "transpose", "broadcast")
        if maker is None or (maker.op.name == "transpose" and not context.has_one_use(value)):
            return None
        if maker.op.name == "transpose":
            if permutation not in (None, maker.attributes["permutation"]):
                return None
            permutation = maker.attributes["permutation"]
    if permutation is None:
        return None
    inverse = tuple(permutation.index(k) for k in range(len(permutation)))
    operands = []
    for value in node.inputs:
        maker = context.producer(value, "transpose")
        operands.append(builder.transpose_to(value, inverse) if maker is None else maker.inputs[0])
    return builder.transpose_to(builder.emit(node.op, operands, node.attributes)[0], permutation)


@rule("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or")
def reduce_of_transpose(builder: Builder, node: Node, context: Context) -> Replacement:
    """reduce(transpose(x)) -> transpose(reduce(x)), which moves fewer elements or none."""
    maker = context.producer(node.inputs[0], "transpose")
    if maker is None or node.attributes["keepdims"] or not context.has_one_use(node.inputs[0]):
        return None
    permutation, axes = maker.attributes["permutation"], node.attributes["axes"]
    reduced = tuple(sorted(permutation[a] for a in axes))
    result = builder.emit(node.op, (maker.inputs[0],), {**node.attributes, "axes": reduced})[0]
    kept = [d for d in range(len(permutation)) if d not in reduced]
    order = [kept.index(d) for position, d in enumerate(permutation) if position not in axes]
    return builder.transpose_to(result, order)


@rule("broadcast")
def broadcast_of_broadcast(builder: Builder, node: Node, context: Context) -> Replacement:
    """broadcast(x) to its own shape -> x; broadcast(broadcast(x)) -> broadcast(x)."""
    operand, dims = node.inputs[0], node.attributes["dims"]
    if operand.type.shape == node.attributes["shape"]:
        return operand
    inner = context.producer(operand, "broadcast")
    if inner is None:
        return None
    through = tuple(dims[d] for d in inner.attributes["dims"])
    return builder.broadcast(inner.inputs[0], shape=node.attributes["shape"], dims=through)


@rule("slice")
def slice_of_slice(builder: Builder, node: Node, context: Context) -> Replacement:
    """A slice of everything -> x; slice(slice(x)) -> slice(x)."""
    operand, a = node.inputs[0], node.attributes
    if operand.type == node.outputs[0].type:
        return operand if all(s == 1 for s in a["strides"]) and all(s == 0 for s in a["starts"]) else None
    inner = context.producer(operand, "slice")
    if inner is None or not operand.type.is_static or 0 in node.outputs[0].type.shape:
        return None
    starts, limits, strides = [], [], []
    for k, extent in enumerate(node.outputs[0].type.shape):
        step = inner.attributes["strides"][k] * a["strides"][k]
        start = inner.attributes["starts"][k] + a["starts"][k] * inner.attributes["strides"][k]
        starts.append(start)
        strides.append(step)
        limits.append(start + (extent - 1) * step + 1)
    return builder.slice(inner.inputs[0], starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


@rule("slice")
def slice_of_transpose(builder: Builder, node: Node, context: Context) -> Replacement:
    """slice(transpose(x)) -> transpose(slice(x)), which moves fewer elements."""
    inner = context.producer(node.inputs[0], "transpose")
    if inner is None or not context.has_one_use(node.inputs[0]):
        return None
    permutation = inner.attributes["permutation"]
    inverse = tuple(permutation.index(k) for k in range(len(permutation)))
    bounds = {name: tuple(node.attributes[name][k] for k in inverse) for name in ("starts", "limits", "strides")}
    return builder.transpose_to(builder.slice(inner.inputs[0], **bounds), permutation)


@rule("reverse")
def reverse_of_reverse(builder: Builder, node: Node, context: Context) -> Replacement:
    """reverse along nothing or extents of 1 -> x; reverse(reverse(x)) -> reverse along the axes of only one."""
    operand, axes = node.inputs[0], node.attributes["axes"]
    kept = tuple(a for a in axes if operand.type.shape[a] != 1)
    if not kept:
        return operand
    inner = context.producer(operand, "reverse")
    if inner is not None:
        once = tuple(sorted(set(axes) ^ set(inner.attributes["axes"])))
        return builder.reverse(inner.inputs[0], axes=once) if once else inner.inputs[0]
    return builder.reverse(operand, axes=kept) if kept != axes else None


@rule("pad")
def pad_of_pad(builder: Builder, node: Node, context: Context) -> Replacement:
    """A pad by nothing -> x; pad(pad(x, v), v) -> pad(x, v) where the inner one only adds."""
    operand, value = node.inputs
    a = node.attributes
    if not any((*a["low"], *a["high"], *a["interior"])):
        return operand
    inner = context.producer(operand, "pad")
    if inner is None or any(a["interior"]) or min((*inner.attributes["low"], *inner.attributes["high"]), default=0) < 0:
        return None
    same = inner.inputs[1] is value
    if not same:
        ours, theirs = context.constant(value), context.constant(inner.inputs[1])
        same = ours is not None and theirs is not None and ours.tobytes() == theirs.tobytes()
    if not same or any(inner.attributes["interior"]):
        return None
    low = tuple(x + y for x, y in zip(a["low"], inner.attributes["low"], strict=True))
    high = tuple(x + y for x, y in zip(a["high"], inner.attributes["high"], strict=True))
    return builder.pad(inner.inputs[0], value, low=low, high=high, interior=a["interior"])


@rule("concat")
def concat_of_concat(builder: Builder, node: Node, context: Context) -> Replacement:
    """concat(x) -> x; empty parts go; concat(concat(a, b), c) -> concat(a, b, c) along one axis."""
    axis = node.attributes["axis"]
    parts: list = []
    for value in node.inputs:
        inner = context.producer(value, "concat")
        if inner is not None and inner.attributes["axis"] == axis and context.has_one_use(value):
            parts += inner.inputs
        elif value.type.shape[axis] != 0:
            parts.append(value)
    if not parts:
        return node.inputs[0]
    if len(parts) == 1:
        return parts[0]
    return None if parts == list(node.inputs) else builder.concat(*parts, axis=axis)


MAX_PARTS = 64


@rule("add")
def sum_of_pads(builder: Builder, node: Node, context: Context) -> Replacement:
    """pad(x) + pad(y) + ... -> concat(x, y, ...) where zero pads place the parts side by side along one axis.

    Gradients of slices have this form. Only the sign of zeros may differ: -0.0 + 0.0 is 0.0.
    """
    parts: list[Node] = []
    pending = list(node.inputs)
    while pending:
        maker = context.producer(pending.pop(), "add", "pad")
        if maker is None or len(parts) == MAX_PARTS:
            return None
        if maker.op.name == "add":
            if not context.has_one_use(maker.outputs[0]):
                return None
            pending += maker.inputs
        elif any(maker.attributes["interior"]) or not _is_zero(context, maker.inputs[1]):
            return None
        else:
            parts.append(maker)
    axes = {
        k for p in parts for k in range(p.outputs[0].type.rank) if p.attributes["low"][k] or p.attributes["high"][k]
    }
    if len(axes) != 1:
        return None
    axis = axes.pop()
    parts.sort(key=lambda p: p.attributes["low"][axis])
    end: Dim = 0
    for part in parts:
        if part.attributes["low"][axis] != end:
            return None
        end = end + part.inputs[0].type.shape[axis]
    if end != node.outputs[0].type.shape[axis]:
        return None
    return builder.concat(*(p.inputs[0] for p in parts), axis=axis)


def _is_zero(context: Context, value: Value) -> bool:
    array = context.constant(value)
    return array is not None and array.size == 1 and not array.reshape(-1)[0]


@rule("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or")
def reduce_nothing(builder: Builder, node: Node, context: Context) -> Replacement:
    """A reduction along no axis, or extents of 1 only -> reshape(x)."""
    operand = node.inputs[0]
    if (
        all(operand.type.shape[a] == 1 for a in node.attributes["axes"])
        and operand.type.dtype is node.outputs[0].type.dtype
    ):
        return builder.reshape_to(operand, node.outputs[0].type.shape)
    return None


@rule("gather")
def gather_one(builder: Builder, node: Node, context: Context) -> Replacement:
    """gather(x, constant of rank 0) -> reshape(slice(x))."""
    operand, axis = node.inputs[0], node.attributes["axis"]
    index = context.constant(node.inputs[1])
    if index is None or index.ndim != 0 or not operand.type.is_static:
        return None
    extent = operand.type.shape[axis]
    if not isinstance(extent, int) or extent == 0:
        return None
    place = int(index) + (extent if int(index) < 0 else 0)
    place = min(max(place, 0), extent - 1)
    starts = _with(len(operand.type.shape) * [0], axis, place)
    limits = _with(operand.type.shape, axis, place + 1)
    part = builder.slice(operand, starts=starts, limits=limits)
    return builder.reshape_to(part, node.outputs[0].type.shape)


def _with(values: Sequence, position: int, value: int) -> tuple:
    changed = list(values)
    changed[position] = value
    return tuple(changed)


@rule("if_")
def if_decided(builder: Builder, node: Node, context: Context) -> Replacement:
    """if_ with a constant condition -> the branch that it takes."""
    condition = context.constant(node.inputs[0])
    if condition is None:
        return None
    branch = node.attributes["then_graph" if bool(condition.reshape(-1)[0]) else "else_graph"]
    results = builder.inline(branch, node.inputs[1:])
    return results if tuple(v.type for v in results) == node.output_types else None


MOVEMENT_RULES: tuple[Rule, ...] = (
    reshape_of_reshape,
    transpose_of_transpose,
    transpose_of_broadcast,
    transpose_of_pad,
    transpose_after_elementwise,
    reduce_of_transpose,
    broadcast_of_broadcast,
    slice_of_slice,
    slice_of_transpose,
    reverse_of_reverse,
    pad_of_pad,
    concat_of_concat,
    sum_of_pads,
    reduce_nothing,
    gather_one,
    if_decided,
)
