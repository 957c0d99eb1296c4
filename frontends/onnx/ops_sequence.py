"""Importers of ONNX sequences and optionals: lists of tensors whose length is known at import."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.ops_shape import cut
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.values import Tensor, TensorList, known_tensor
from dlc.ir.graph import Value
from dlc.ir.types import bool_


def _list(call: Call, index: int = 0) -> TensorList:
    found = call.inputs[index] if call.has(index) else None
    if not isinstance(found, TensorList):
        call.fail(f"input {index} is not a sequence of known length")
    return found


def _position(call: Call, index: int, count: int, default: int) -> int:
    place = int(call.scalar(index, "position")) if call.has(index) else default
    place = place + count if place < 0 else place
    if not 0 <= place <= count:
        call.fail(f"position {place} is out of range for a sequence of {count}")
    return place


@onnx_op("SequenceConstruct")
def import_construct(call: Call) -> TensorList:
    """A sequence of the inputs."""
    return TensorList(call.tensor(k) for k in range(len(call.inputs)))


@onnx_op("SequenceEmpty")
def import_empty(call: Call) -> TensorList:
    """A sequence of nothing."""
    return TensorList()


@onnx_op("SequenceAt")
def import_at(call: Call) -> Tensor:
    """One element."""
    items = _list(call)
    place = _position(call, 1, len(items), 0)
    if place == len(items):
        call.fail(f"position {place} is out of range for a sequence of {len(items)}")
    return items[place]


@onnx_op("SequenceInsert")
def import_insert(call: Call) -> TensorList:
    """With one more element."""
    items = _list(call)
    place = _position(call, 2, len(items), len(items))
    return TensorList((*items[:place], call.tensor(1), *items[place:]))


@onnx_op("SequenceErase")
def import_erase(call: Call) -> TensorList:
    """Without one element."""
    items = _list(call)
    place = _position(call, 1, len(items), len(items) - 1)
    return TensorList((*items[:place], *items[place + 1 :]))


@onnx_op("SequenceLength")
def import_length(call: Call) -> Tensor:
    """The number of elements."""
    return known_tensor(np.int64(len(_list(call))))


@onnx_op("ConcatFromSequence")
def import_concat_from_sequence(call: Call) -> Value:
    """The elements joined along an axis, new or old."""
    b, values = call.b, [call.frame.region.value(t) for t in _list(call)]
    if not values:
        call.fail("joins an empty sequence")
    new = call.flag("new_axis")
    axis = call.axis(call.integer("axis"), values[0].type.rank + new)
    if new:
        values = [b.reshape_to(v, (*v.type.shape[:axis], 1, *v.type.shape[axis:])) for v in values]
    for other in values[1:]:
        call.unify_shapes(
            tuple(d for k, d in enumerate(values[0].type.shape) if k != axis),
            tuple(d for k, d in enumerate(other.type.shape) if k != axis),
            "elements must have equal shapes",
        )
    return values[0] if len(values) == 1 else b.concat(*values, axis=axis)


@onnx_op("SplitToSequence")
def import_split_to_sequence(call: Call) -> TensorList:
    """Parts along an axis: of given sizes, of one size, or single elements."""
    b, x = call.b, call.value(0)
    axis = call.axis(call.integer("axis", 0), x.type.rank)
    extent = x.type.shape[axis]
    if not isinstance(extent, int):
        call.fail(f"splits dimension {extent}; give shapes=")
    squeeze = False
    if not call.has(1):
        sizes, squeeze = [1] * extent, not call.flag("keepdims", True)
    elif call.rank(1) == 0:
        size = int(call.scalar(1, "split"))
        if size < 1:
            call.fail(f"split is {size}; it must be at least 1")
        sizes = [size] * (extent // size) + ([extent % size] if extent % size else [])
    else:
        sizes = list(call.ints(1, "split"))
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        call.fail(f"split sizes {sizes} must add up to {extent}")
    parts, start = [], 0
    for size in sizes:
        part = cut(call, x, axis, start, start + size)
        start += size
        if squeeze:
            part = b.reshape_to(part, (*part.type.shape[:axis], *part.type.shape[axis + 1 :]))
        parts.append(call.frame.region.add(part))
    return TensorList(parts)


@onnx_op("SequenceMap")
def import_sequence_map(call: Call) -> list[TensorList]:
    """A subgraph applied to every element."""
    graph, items = call.graph("body"), _list(call)
    rows = []
    for number, item in enumerate(items):
        given = [item, *(_mapped(call, k, number) for k in range(1, len(call.inputs)))]
        rows.append(call.session.apply_subgraph(call, graph, given, f"{call.label}/{number}/"))
    return [TensorList(row[k] for row in rows) for k in range(len(graph.output))]


def _mapped(call: Call, index: int, number: int) -> Any:
    other = call.inputs[index]
    if not isinstance(other, TensorList):
        return other
    if number >= len(other):
        call.fail(f"input {index} has {len(other)} elements, fewer than the first sequence")
    return other[number]


@onnx_op("Optional", "OptionalGetElement")
def import_optional(call: Call) -> Any:
    """The element itself."""
    if not call.has(0):
        call.fail("holds nothing; an empty optional is not supported")
    return call.inputs[0]


@onnx_op("OptionalHasElement")
def import_optional_has_element(call: Call) -> Tensor:
    """Whether there is an element."""
    return known_tensor(np.asarray(call.has(0)), bool_)
