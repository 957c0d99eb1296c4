"""Text of a model: protobuf hands out bytes for strings that are no UTF-8; such models are refused early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from dlc.errors import InvalidModelError


def check_text(model: onnx.ModelProto) -> None:
    """Raise InvalidModelError if a name anywhere in ``model`` is not valid UTF-8."""
    for entry in model.opset_import:
        _check("an opset import", (entry.domain,))
    bodies: list[Any] = [model.graph]
    for function in model.functions:
        _check("a function", (function.name, function.domain, function.overload, *function.input, *function.output))
        _check("a function", function.attribute)
        for entry in function.opset_import:
            _check("an opset import", (entry.domain,))
        bodies.append(function)
    while bodies:
        body = bodies.pop()
        if isinstance(body, GraphProto):
            _check("a graph", _graph_texts(body))
        for index, node in enumerate(body.node):
            _check(f"node number {index}", _node_texts(node))
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    bodies.append(attribute.g)
                elif attribute.type == AttributeProto.GRAPHS:
                    bodies.extend(attribute.graphs)


def _check(what: str, texts: Iterable[Any]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise InvalidModelError(f"{what} has a name that is not valid UTF-8 ({text[:40]!r}): the model is damaged")


def _graph_texts(graph: GraphProto) -> Iterator[Any]:
    yield graph.name
    for info in (*graph.input, *graph.output):
        yield info.name
        for dim in info.type.tensor_type.shape.dim:
            yield dim.dim_param
    for tensor in graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield entry.key
            yield entry.value
    for sparse in graph.sparse_initializer:
        yield sparse.values.name


def _node_texts(node: NodeProto) -> Iterator[Any]:
    yield node.name
    yield node.op_type
    yield node.domain
    yield node.overload
    yield from node.input
    yield from node.output
    for attribute in node.attribute:
        yield attribute.name
        yield attribute.ref_attr_name
