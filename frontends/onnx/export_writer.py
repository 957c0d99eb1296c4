"""Writer: collects the ONNX nodes, initializers and names of one graph being exported.

It knows shapes and constants, but no op; ``export_*`` modules hold the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper

from dlc.errors import GraphError
from dlc.frontends.onnx.schema import type_code
from dlc.ir.attributes import Literal
from dlc.ir.dims import Dim, FloorDiv, Shape, SymbolicDim
from dlc.ir.graph import Node, Value
from dlc.ir.types import DType, TensorType


class Writer:
    """One ONNX graph under construction. ``outer`` is the writer around a subgraph: its names are visible here."""

    def __init__(self, opset: int, outer: Writer | None = None) -> None:
        self.opset = opset
        self.outer = outer
        self.nodes: list[NodeProto] = []
        self.initializers: list[tuple[str, np.ndarray]] = []
        self.taken: set[str] = outer.taken if outer is not None else set()
        self.node_names: set[str] = outer.node_names if outer is not None else set()
        self._names: dict[Value, str] = {}
        self._unexpanded: dict[Value, tuple[str, Shape]] = {}  # broadcasts not written out yet
        self._wanted: dict[Value, str] = {}
        self._constants: dict[Literal, str] = {}
        self._symbols: dict[str, str] = {}  # symbol -> name of an int64[1] tensor
        self._dims: dict[Dim, str] = {}
        self._label = ""

    # -- names --------------------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """Return a name not taken yet."""
        name, number = stem, 1
        while name in self.taken or not name:
            name = f"{stem or 'value'}_{number}"
            number += 1
        self.taken.add(name)
        return name

    def want(self, value: Value, name: str) -> None:
        """Ask for ``name`` (taken already) for a value that a node will define."""
        self._wanted.setdefault(value, name)

    def define(self, value: Value, name: str) -> None:
        """Say that ``value`` is the tensor ``name``."""
        wanted = self._wanted.get(value)
        if wanted is not None and wanted != name:
            if self.nodes and list(self.nodes[-1].output) == [name]:
                self.nodes[-1].output[0] = wanted
            else:
                self.nodes.append(helper.make_node("Identity", [name], [wanted], self.node_name()))
            name = wanted
        self._names[value] = name

    def alias(self, value: Value, name: str) -> None:
        """Say that ``value`` is another name's tensor, which must keep its name."""
        if self._wanted.get(value) not in (None, name):
            self.nodes.append(helper.make_node("Identity", [name], [self._wanted[value]], self.node_name()))
            name = self._wanted[value]
        self._names[value] = name

    def define_unexpanded(self, value: Value, name: str, shape: Shape) -> None:
        """Say that ``value`` is ``name``, of ``shape``, broadcast to the value's shape when that is needed."""
        self._unexpanded[value] = (name, shape)
        if value in self._wanted:
            self.name(value)

    def name(self, value: Value) -> str:
        """Return the name of a value, broadcast in full."""
        if value in self._names:
            return self._names[value]
        if value in self._unexpanded:
            source, _ = self._unexpanded[value]
            self.define(value, self.node("Expand", [source, self.shape(value.type.shape)]))
            return self._names[value]
        if self.outer is not None:
            return self.outer.name(value)
        raise GraphError(f"value {value!r} is used before it is computed")

    def operands(self, values: Sequence[Value]) -> list[str]:
        """Return names for elementwise operands; broadcasts are left to ONNX where others fix the result's shape."""
        shape = values[0].type.shape
        loose = [v not in self._names and v in self._unexpanded for v in values]
        if all(loose) and _broadcast(self._unexpanded[v][1] for v in values) != shape:
            self.name(values[0])  # at least one operand must have the result's shape
            loose = [v not in self._names for v in values]
        return [self._unexpanded[v][0] if is_loose else self.name(v) for v, is_loose in zip(values, loose, strict=True)]

    def at(self, node: Node) -> None:
        """Name the ONNX nodes written from now on after ``node``."""
        self._label = node.origins[0].name if node.origins else node.op.name

    def node_name(self) -> str:
        """Return a fresh node name."""
        stem = self._label or "node"
        name, number = stem, 1
        while name in self.node_names:
            number += 1
            name = f"{stem}_{number}"
        self.node_names.add(name)
        return name

    # -- nodes --------------------------------------------------------------------------

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node with one output; return its name."""
        return self.nodes_out(op, inputs, 1, **attributes)[0]

    def nodes_out(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Write a node with ``count`` outputs; return their names."""
        name = self.node_name()
        outputs = [self.fresh(f"{name}:{k}" if count > 1 else f"{name}:out") for k in range(count)]
        given = {k: v for k, v in attributes.items() if v is not None}
        node = helper.make_node(op, list(inputs), outputs, name)
        node.attribute.extend(_attribute(k, v) for k, v in given.items())
        self.nodes.append(node)
        return outputs

    # -- constants and shapes -------------------------------------------------------------

    def constant(self, array: Any, dtype: DType | None = None, stem: str = "constant") -> str:
        """Return the name of an initializer; equal ones are stored once."""
        array = np.asarray(array) if dtype is None else np.asarray(array).astype(dtype.numpy)
        key = Literal(array)
        if key not in self._constants:
            name = self.fresh(stem)
            self._constants[key] = name
            self.initializers.append((name, array))
        return self._constants[key]

    def ints(self, values: Iterable[int]) -> str:
        """Return the name of an int64 vector."""
        return self.constant(np.array(list(values), np.int64))

    def symbol_from(self, name: str, axis: int, symbol: str) -> None:
        """Say that ``symbol`` is dimension ``axis`` of the tensor ``name``."""
        self._symbols.setdefault(symbol, f"{name}\0{axis}")

    def shape(self, dims: Sequence[Dim]) -> str:
        """Return the name of an int64 vector holding ``dims``, computed where they are symbolic."""
        if all(isinstance(d, int) for d in dims):
            return self.ints(dims)  # type: ignore[arg-type]
        parts = [self.dimension(d) for d in dims]
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)

    def dimension(self, dim: Dim) -> str:
        """Return the name of an int64 vector of one element, the value of ``dim``."""
        if isinstance(dim, int):
            return self.ints([dim])
        if dim not in self._dims:
            self._dims[dim] = self._polynomial(dim)
        return self._dims[dim]

    def _polynomial(self, dim: SymbolicDim) -> str:
        total = ""
        for monomial, coefficient in dim.terms:
            factors = []
            for atom in monomial:
                if isinstance(atom, FloorDiv):
                    parts = [self.dimension(atom.numerator), self.dimension(atom.denominator)]
                    factors.append(self.node("Div", parts))  # extents: not negative
                else:
                    factors.append(self._symbol(atom.name))
            if coefficient != 1 or not factors:
                factors.append(self.ints([coefficient]))
            term = factors[0]
            for factor in factors[1:]:
                term = self.node("Mul", [term, factor])
            total = self.node("Add", [total, term]) if total else term
        return total

    def _symbol(self, symbol: str) -> str:
        found = self._symbols.get(symbol)
        if found is None:
            if self.outer is not None:
                return self.outer._symbol(symbol)
            raise GraphError(f"symbol {symbol!r} is no dimension of an input; bind it before exporting")
        if "\0" in found:
            source, axis = found.split("\0")
            number = int(axis)
            found = self.node("Shape", [source], start=number, end=number + 1)
            self._symbols[symbol] = found
        return found

    def reshape(self, name: str, shape: Shape) -> str:
        """Write a reshape to ``shape``."""
        open_axes = [k for k, d in enumerate(shape) if not isinstance(d, int)]
        if len(open_axes) == 1 and 0 not in shape:
            target = self.ints(-1 if k in open_axes else d for k, d in enumerate(shape))  # type: ignore[misc]
        else:
            target = self.shape(shape)
        return self.node("Reshape", [name, target], allowzero=1 if 0 in shape else None)

    def cast(self, name: str, dtype: DType) -> str:
        """Write a cast."""
        return self.node("Cast", [name], to=type_code(dtype))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """Write a transpose, unless ``order`` is the identity."""
        if list(order) == list(range(len(order))):
            return name
        return self.node("Transpose", [name], perm=list(order))

    def subgraph(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> GraphProto:
        """Return what was written as a GraphProto."""
        stored = [numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in self.initializers]
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), stored)


def _attribute(name: str, value: Any) -> AttributeProto:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 0:
        return helper.make_attribute(name, value, attr_type=AttributeProto.INTS)
    return helper.make_attribute(name, value)


def _broadcast(shapes: Iterable[Any]) -> tuple[Dim, ...]:
    rank = 0
    columns: list[tuple[Dim, ...]] = [tuple(s) for s in shapes]
    rank = max((len(s) for s in columns), default=0)
    result: list[Dim] = [1] * rank
    for shape in columns:
        for k, dim in enumerate(shape):
            if dim != 1:
                result[rank - len(shape) + k] = dim
    return tuple(result)


def value_info(name: str, type_: TensorType) -> Any:
    """Return the ValueInfoProto of a tensor; symbolic dimensions become dim_params."""
    dims = [d if isinstance(d, int) else str(d) for d in type_.shape]
    return helper.make_tensor_value_info(name, type_code(type_.dtype), dims)
