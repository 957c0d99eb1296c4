"""Structural equality and digests of graphs: the same ops on the same operands, whatever the objects.

The name of the graph and the hints of values do not count. Digests are stable
across processes and serve as cache keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from dlc.errors import GraphError
from dlc.ir.attributes import Literal
from dlc.ir.dims import SymbolicDim
from dlc.ir.graph import Graph, Value
from dlc.ir.types import DType

Token = tuple


def same_graph(a: Graph, b: Graph, origins: bool = True, values: bool = False) -> bool:
    """Tell whether two graphs are equal; ``values`` compares the initial arrays of inputs too."""
    pairs = zip_longest(_tokens(a, origins, values), _tokens(b, origins, values))
    return all(left == right for left, right in pairs)


def difference(a: Graph, b: Graph, origins: bool = True, values: bool = False) -> str:
    """Describe the first difference of two graphs, or return an empty text."""
    for left, right in zip_longest(_tokens(a, origins, values), _tokens(b, origins, values)):
        if left != right:
            return f"{left}\n    against\n{right}"
    return ""


def graph_digest(graph: Graph, origins: bool = False, values: bool = False) -> str:
    """Return the SHA-256 (hex) of the structure; with ``values`` also of the bytes of initial arrays."""
    digest = hashlib.sha256()
    for token in _tokens(graph, origins, values):
        digest.update(repr(token).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _tokens(graph: Graph, origins: bool, values: bool) -> Iterator[Token]:
    """Yield the graph as plain comparable tuples: inputs, nodes in order, outputs."""
    numbers: dict[Value, int] = {}
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        numbers[value] = len(numbers)
        initial = _array_token(spec.initial) if values and spec.initial is not None else ()
        yield ("input", spec.name, str(value.type), str(spec.role), spec.replaced_by, spec.trainable, initial)
    for node in graph.nodes:
        operands = tuple(numbers.get(v, -1) for v in node.inputs)
        for value in node.outputs:
            numbers[value] = len(numbers)
        attributes = tuple((name, _attribute_token(v, origins)) for name, v in node.attributes.items())
        types = tuple(str(v.type) for v in node.outputs)
        where = tuple((o.name, str(o.phase)) for o in node.origins) if origins else ()
        yield ("node", node.op.name, operands, attributes, types, where)
    for name, value in zip(graph.signature.outputs, graph.outputs, strict=True):
        yield ("output", name, numbers.get(value, -1))


def _attribute_token(value: object, origins: bool) -> Token:
    """Encode an attribute so that 1, 1.0 and true differ and nan equals itself."""
    match value:
        case None | bool() | int() | str():
            return (type(value).__name__, value)
        case float():
            return ("float", repr(value))
        case DType() | SymbolicDim():
            return (type(value).__name__, str(value))
        case Literal():
            return _array_token(value.array)
        case Graph():
            return ("graph", *_tokens(value, origins, True))
        case tuple():
            return ("tuple", *(_attribute_token(v, origins) for v in value))
    raise GraphError(f"an attribute of type {type(value).__name__} has no structure: {value!r}")


def _array_token(array: np.ndarray) -> Token:
    """Encode an array by dtype, shape and its bytes (their digest where they are many)."""
    if array.dtype == object:
        return ("array", "string", array.shape, tuple(map(str, array.ravel())))
    contiguous = np.ascontiguousarray(array)
    if contiguous.nbytes <= 64:
        content: str = contiguous.tobytes().hex()
    else:
        content = hashlib.sha256(contiguous.reshape(-1).view(np.uint8).data).hexdigest()
    return ("array", str(array.dtype), array.shape, content)
