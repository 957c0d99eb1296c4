"""Reading the text form of a graph (see ``ir.text_graph``) back to an equal graph.

Result types may be left out of a node; then its type rule gives them. Faults in
the text are GraphErrors with the line number.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from dlc.errors import DlcError, GraphError
from dlc.ir.attributes import Literal
from dlc.ir.builder import check_attributes
from dlc.ir.dims import parse_dim
from dlc.ir.graph import Graph, InputSpec, Node, Origin, Phase, Role, Signature, Value
from dlc.ir.opdef import find_op
from dlc.ir.text_graph import read_elements
from dlc.ir.types import DTYPES, TensorType

MAX_NESTING = 64
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<name>%(?:"(?:[^"\\]|\\.)*"|[A-Za-z_](?:[\w.\-/:]*\w)?|\d+))
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<type>[A-Za-z_]\w*\[[^\]\n]*\])
    |(?P<dim><[^>\n]*>)
    |(?P<number>[-+]?(?:inf\b|nan\b|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))
    |(?P<word>[A-Za-z_]\w*)
    |(?P<mark>\.\.\.|[{}(),=:@])""",
    re.VERBOSE | re.ASCII,
)


def parse_graph(text: str, initials: Mapping[str, np.ndarray] | None = None) -> Graph:
    """Parse one graph; ``initials`` supplies the initial arrays that the text leaves out.

    Raises GraphError with the line of the first fault, DlcError for an unknown op, TypeRuleError for bad attributes.
    """
    reader = _Reader(text)
    try:
        graph = _graph(reader, initials or {})
    except ValueError as error:  # of json, base64, int or float, on a token of the right form only
        raise reader.fault(f"cannot read what is before this ({error})") from error
    if reader.kind != "end":
        raise reader.fault("expected the end of the text")
    return graph


class _Reader:
    """The tokens of a text, one ahead."""

    def __init__(self, text: str) -> None:
        self._text, self._position, self._line = text, 0, 1
        self.kind, self.token = "end", ""
        self.depth = 0
        self.advance()

    def advance(self) -> str:
        """Move to the next token; return the one left behind."""
        left = self.token
        while True:
            if self._position >= len(self._text):
                self.kind, self.token = "end", ""
                return left
            match = _TOKEN.match(self._text, self._position)
            if match is None:
                raise GraphError(f"line {self._line}: cannot read {self._text[self._position : self._position + 20]!r}")
            self._position = match.end()
            self._line += match.lastgroup == "newline"
            if match.lastgroup not in ("space", "newline"):
                self.kind, self.token = str(match.lastgroup), match.group()
                return left

    def fault(self, reason: str) -> GraphError:
        """Build an error that names line and token."""
        return GraphError(f"line {self._line}: {reason}, got {self.token!r}" if self.token else f"text ends: {reason}")

    def take(self, kind: str) -> str:
        """Return the current token, which must be of ``kind``, and move on."""
        if self.kind != kind:
            raise self.fault(f"expected a {kind}")
        return self.advance()

    def expect(self, token: str) -> None:
        """Move past ``token``."""
        if self.token != token or self.kind == "string":
            raise self.fault(f"expected {token!r}")
        self.advance()

    def accept(self, token: str) -> bool:
        """Move past ``token`` if it is there; tell whether it was."""
        found = self.token == token and self.kind != "string"
        if found:
            self.advance()
        return found


def _graph(reader: _Reader, initials: Mapping[str, np.ndarray]) -> Graph:
    reader.expect("graph")
    name = json.loads(reader.take("string"))
    reader.expect("{")
    values: dict[str, Value] = {}
    inputs: list[Value] = []
    specs: list[InputSpec] = []
    nodes: list[Node] = []
    outputs: list[tuple[str, Value]] = []
    while not reader.accept("}"):
        if reader.kind == "name":
            nodes.append(_node(reader, values))
        elif reader.accept("input"):
            spec, value = _input(reader, values, initials)
            specs.append(spec)
            inputs.append(value)
        elif reader.accept("output"):
            output = json.loads(reader.take("string"))
            reader.expect("=")
            outputs.append((output, _value(reader, values)))
        else:
            raise reader.fault("expected an input, a node, an output or }")
    signature = Signature(tuple(specs), tuple(n for n, _ in outputs))
    return Graph(name, tuple(inputs), tuple(nodes), tuple(v for _, v in outputs), signature)


def _input(reader: _Reader, values: dict[str, Value], initials: Mapping[str, np.ndarray]) -> tuple[InputSpec, Value]:
    text = reader.take("name")
    name = json.loads(text[1:]) if text[1] == '"' else text[1:]
    reader.expect(":")
    value = _define(reader, values, text, _type(reader), name)
    word = reader.take("word")
    if word not in set(Role):
        raise reader.fault(f"expected a role before this, not {word!r}")
    trainable = reader.accept("trainable")
    replaced_by = json.loads(reader.take("string")) if reader.accept("replaced_by") else None
    initial = initials.get(name)
    if reader.accept("initial") and not reader.accept("..."):
        initial = _array(reader)
    return InputSpec(name, Role(word), initial, replaced_by, trainable), value


def _node(reader: _Reader, values: dict[str, Value]) -> Node:
    results = [reader.take("name")]
    while reader.accept(","):
        results.append(reader.take("name"))
    reader.expect("=")
    op = find_op(reader.take("word"))
    inputs = _inputs(reader, values)
    if op.arity is not None and len(inputs) != op.arity:
        raise reader.fault(f"{op.name} takes {op.arity} operands, {len(inputs)} are before this")
    given: dict[str, Any] = {}
    if reader.accept("{"):
        while not reader.accept("}"):
            key = reader.take("word")
            reader.expect("=")
            given[key] = _attribute(reader)
            reader.accept(",")
    try:
        attributes = check_attributes(op, given)
    except DlcError as error:
        raise reader.fault(f"{op.name} {error}") from error
    if reader.accept(":"):
        types = [_type(reader)]
        while reader.accept(","):
            types.append(_type(reader))
    else:
        operands = tuple(v.type for v in inputs)
        attributes = op.normalize(operands, attributes) if op.normalize is not None else attributes
        types = list(op.infer(operands, attributes))
    if len(types) != len(results):
        raise reader.fault(f"{op.name} has {len(results)} results but {len(types)} types before this")
    outputs = tuple(_define(reader, values, n, t) for n, t in zip(results, types, strict=True))
    return Node(op, inputs, attributes, outputs, _origins(reader))


def _inputs(reader: _Reader, values: dict[str, Value]) -> tuple[Value, ...]:
    reader.expect("(")
    found = []
    while not reader.accept(")"):
        found.append(_value(reader, values))
        reader.accept(",")
    return tuple(found)


def _origins(reader: _Reader) -> tuple[Origin, ...]:
    if not reader.accept("@"):
        return ()
    origins = []
    while True:
        name = json.loads(reader.take("string"))
        phase = Phase(reader.advance()) if reader.token in set(Phase) else Phase.FORWARD
        origins.append(Origin(name, phase))
        if not reader.accept(","):
            return tuple(origins)


def _value(reader: _Reader, values: dict[str, Value]) -> Value:
    if reader.kind == "name" and reader.token not in values:
        raise reader.fault("a value is used before it is defined")
    return values[reader.take("name")]


def _define(reader: _Reader, values: dict[str, Value], name: str, type_: TensorType, hint: str = "") -> Value:
    if name in values:
        raise reader.fault(f"{name} is defined twice before this")
    values[name] = Value(type_, hint)
    return values[name]


@lru_cache(maxsize=4096)
def _read_type(text: str) -> TensorType:
    name, _, dims = text[:-1].partition("[")
    if name not in DTYPES:
        raise DlcError(f"{name!r} is not a dtype")
    return TensorType(DTYPES[name], tuple(parse_dim(d) for d in dims.split(",")) if dims.strip() else ())


def _type(reader: _Reader) -> TensorType:
    try:
        type_ = _read_type(reader.token) if reader.kind == "type" else None
    except DlcError as error:
        raise reader.fault(str(error)) from error
    if type_ is None:
        raise reader.fault("expected a type such as float32[2, n]")
    reader.advance()
    return type_


def _array(reader: _Reader) -> np.ndarray:
    type_ = _type(reader)
    shape = tuple(d for d in type_.shape if isinstance(d, int))
    reader.expect("{")
    if reader.accept("base64"):
        data = base64.b64decode(json.loads(reader.take("string")), validate=True)
        array = np.frombuffer(data, type_.dtype.numpy.newbyteorder("<")).astype(type_.dtype.numpy)
    else:
        elements = []
        while not reader.kind == "mark":
            elements.append(reader.advance())
            reader.accept(",")
        strings = type_.dtype.kind == "string"
        array = np.array([json.loads(e) for e in elements], object) if strings else read_elements(elements, type_.dtype)
    reader.expect("}")
    if len(shape) != type_.rank or array.size != np.prod(shape, dtype=int):
        raise reader.fault(f"an array of type {type_} has {array.size} elements before this")
    return array.reshape(shape)


def _attribute(reader: _Reader) -> Any:
    """Read a value; tuples and regions nest, up to MAX_NESTING."""
    reader.depth += 1
    if reader.depth > MAX_NESTING:
        raise reader.fault(f"values nest deeper than {MAX_NESTING}")
    value = _attribute_value(reader)
    reader.depth -= 1
    return value


def _attribute_value(reader: _Reader) -> Any:
    match reader.kind:
        case "number":
            text = reader.advance()
            return int(text) if text.lstrip("+-").isdigit() else float(text)
        case "string":
            return json.loads(reader.advance())
        case "dim":
            return parse_dim(reader.advance()[1:-1])
        case "type":
            return Literal(_array(reader))
        case "word" if reader.token == "graph":
            return _graph(reader, {})
        case "word" if reader.token in DTYPES:
            return DTYPES[reader.advance()]
        case "word" if reader.token in ("none", "true", "false"):
            return {"none": None, "true": True, "false": False}[reader.advance()]
    if not reader.accept("("):
        raise reader.fault("expected the value of an attribute")
    elements = []
    while not reader.accept(")"):
        elements.append(_attribute(reader))
        reader.accept(",")
    return tuple(elements)
