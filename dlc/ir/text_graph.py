"""The text form of a graph: one generic syntax for every op, with deterministic names.

``ir.parse_graph`` reads it back to an equal graph. Inputs go by their names, results are
numbered, regions are nested graphs. Attributes at their default are left out.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from dlc.errors import GraphError
from dlc.ir.attributes import Attributes, Literal, repr_key
from dlc.ir.dims import SymbolicDim
from dlc.ir.graph import Graph, InputSpec, Node, Origin, Phase, Value
from dlc.ir.types import DType, as_dtype

INLINE_ELEMENTS = 64
"""Arrays up to this size are written element by element, larger ones as base64."""

_PLAIN_NAME = re.compile(r"[A-Za-z_](?:[\w.\-/:]*\w)?\Z", re.ASCII)


def print_graph(graph: Graph, initials: bool = False, origins: bool = True) -> str:
    """Return the text of ``graph``, ending in a newline.

    Initial arrays of inputs are written up to 4 elements, or all of them with ``initials``.
    Without ``origins`` the text says nothing of where nodes come from.
    """
    return "\n".join(_graph_lines(graph, initials, origins)) + "\n"


def _graph_lines(graph: Graph, initials: bool, origins: bool) -> list[str]:
    lines = [f"graph {json.dumps(graph.name)} {{"]
    names = value_names(graph)
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        lines.append(f"  input {names[value]}: {value.type} {_spec_text(spec, initials)}")
    lines += [f"  {line}" for node in graph.nodes for line in node_text(node, names, origins).split("\n")]
    for name, value in zip(graph.signature.outputs, graph.outputs, strict=True):
        lines.append(f"  output {json.dumps(name)} = {names.get(value, '%?')}")
    return [*lines, "}"]


def value_names(graph: Graph) -> dict[Value, str]:
    """Map every value to its name: inputs by name, results numbered in node order."""
    names = {}
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        names[value] = f"%{spec.name if _PLAIN_NAME.match(spec.name) else json.dumps(spec.name)}"
    number = 0
    for node in graph.nodes:
        for value in node.outputs:
            names[value] = f"%{number}"
            number += 1
    return names


def node_text(node: Node, names: Mapping[Value, str], origins: bool = True) -> str:
    """Return the text of one node; values missing from ``names`` read ``%?``."""
    results = ", ".join(names.get(v, "%?") for v in node.outputs)
    operands = ", ".join(names.get(v, "%?") for v in node.inputs)
    given = _given_attributes(node)
    attributes = f" {{{', '.join(f'{k}={attribute_text(v, origins)}' for k, v in given.items())}}}" if given else ""
    types = ", ".join(str(v.type) for v in node.outputs)
    where = f" @ {', '.join(map(_origin_text, node.origins))}" if origins and node.origins else ""
    return f"{results} = {node.op.name}({operands}){attributes}: {types}{where}"


def _given_attributes(node: Node) -> dict[str, object]:
    """Return the attributes that differ from their schema's default."""
    given = {}
    for name, value in node.attributes.items():
        schema = node.op.attributes.get(name)
        if (
            schema is None
            or schema.required
            or repr_key(Attributes({name: value})) != repr_key(Attributes({name: schema.default}))
        ):
            given[name] = value
    return given


def attribute_text(value: object, origins: bool = True) -> str:
    """Return the text of an attribute's value; regions are indented graphs."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case str():
            return json.dumps(value)
        case DType():
            return value.name
        case SymbolicDim():
            return f"<{value}>"
        case Literal():
            return array_text(value.array)
        case Graph():
            return "\n  ".join(_graph_lines(value, True, origins))
        case tuple():
            return f"({', '.join(attribute_text(v, origins) for v in value)}{',' if len(value) == 1 else ''})"
    raise GraphError(f"an attribute of type {type(value).__name__} has no text form: {value!r}")


def array_text(array: np.ndarray) -> str:
    """Return the exact text of an array: its type, then elements or base64 of its little-endian bytes."""
    head = f"{as_dtype(array.dtype)}[{', '.join(map(str, array.shape))}]"
    if array.dtype == object:
        return f"{head}{{{', '.join(json.dumps(str(v)) for v in array.ravel())}}}"
    if array.size <= INLINE_ELEMENTS and array.dtype.kind != "c":
        elements = [_element(v) for v in array.ravel()]
        if (
            read_elements(elements, as_dtype(array.dtype)).tobytes() == array.tobytes()
        ):  # not so for NaNs with a payload
            return f"{head}{{{', '.join(elements)}}}"
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return f"{head}{{base64 {json.dumps(base64.b64encode(data).decode())}}}"


def _element(value: np.generic) -> str:
    kind = as_dtype(value.dtype).kind
    if kind == "bool":
        return "true" if value else "false"
    return str(value) if kind == "float" else str(int(value))  # the shortest text that reads back exactly


def read_elements(texts: Sequence[str], dtype: DType) -> np.ndarray:
    """Return the flat array of the elements that ``array_text`` wrote."""
    if dtype.kind == "bool":
        return np.array([t == "true" for t in texts], dtype.numpy)
    if dtype.is_integer:
        wide = np.int64 if dtype.kind == "int" else np.uint64
        return np.array([int(t) for t in texts], wide).astype(dtype.numpy)
    return np.array([float(t) for t in texts], np.float64).astype(dtype.numpy)


def _origin_text(origin: Origin) -> str:
    phase = "" if origin.phase is Phase.FORWARD else f" {origin.phase}"
    return json.dumps(origin.name) + phase


def _spec_text(spec: InputSpec, initials: bool) -> str:
    parts = [str(spec.role)]
    if spec.trainable:
        parts.append("trainable")
    if spec.replaced_by is not None:
        parts.append(f"replaced_by {json.dumps(spec.replaced_by)}")
    if spec.initial is not None and (initials or spec.initial.size <= 4):
        parts.append(f"initial {array_text(spec.initial)}")
    elif spec.initial is not None:
        parts.append("initial ...")
    return " ".join(parts)
