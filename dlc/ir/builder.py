"""Builder: emits nodes with inferred types, inserting the broadcasts and casts that elementwise ops want.

Every registered op is a method: operands are positional, attributes keywords.
``b.add(x, 1.0)`` makes the scalar a constant. Frontends, expansions, autodiff
and rewrites all emit through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dlc.errors import DlcError, GraphError, TypeRuleError
from dlc.ir.attributes import Attributes, Literal
from dlc.ir.dims import Dim, Shape, SymbolicDim
from dlc.ir.graph import Graph, InputSpec, Node, Origin, Role, Signature, Value
from dlc.ir.opdef import Attribute, OpDef, Trait, find_op, has_op
from dlc.ir.types import DType, TensorType, as_dtype, bool_, float32, int64, tensor_type

Operand = Value | int | float | bool | np.ndarray


def broadcast_shapes(*shapes: Shape) -> Shape:
    """Return the NumPy broadcast of ``shapes``; two different symbolic dimensions do not broadcast."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for position in range(-rank, 0):
        chosen: Dim = 1
        for shape in shapes:
            dim = shape[position] if -position <= len(shape) else 1
            if dim == 1 or dim == chosen:
                continue
            if chosen != 1:
                listed = " and ".join(str(list(s)) for s in shapes)
                raise TypeRuleError(f"shapes {listed} do not broadcast: {chosen} against {dim}")
            chosen = dim
        result.append(chosen)
    return tuple(result)


def promote(*dtypes: DType) -> DType:
    """Return the dtype that NumPy's promotion gives for arrays of ``dtypes``."""
    first = dtypes[0]
    if all(d is first for d in dtypes):
        return first
    return as_dtype(np.result_type(*(d.numpy for d in dtypes)))


class Builder:
    """Collects inputs, nodes and outputs, then freezes them with ``finish``."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self._specs: list[InputSpec] = []
        self._outputs: list[tuple[str, Value]] = []
        self._replacements: dict[str, str] = {}
        self._origins: tuple[Origin, ...] = ()
        self._names: set[str] = set()

    @classmethod
    def reopen(cls, graph: Graph) -> Builder:
        """Return a builder that continues ``graph``: the same values, with room for more inputs, nodes and outputs."""
        builder = cls(graph.name)
        builder.inputs = list(graph.inputs)
        builder.nodes = list(graph.nodes)
        builder._specs = list(graph.signature.inputs)
        builder._names = {spec.name for spec in builder._specs}
        builder._outputs = list(zip(graph.signature.outputs, graph.outputs, strict=True))
        builder._replacements = {s.name: s.replaced_by for s in builder._specs if s.replaced_by is not None}
        return builder

    # -- inputs, outputs, origins ------------------------------------------------

    def input(
        self,
        name: str,
        type_: TensorType,
        role: Role = Role.DATA,
        initial: np.ndarray | None = None,
        trainable: bool = False,
    ) -> Value:
        """Add a graph input; parameters, state and constants bring their ``initial`` array."""
        if name in self._names:
            raise GraphError(f"graph {self.name!r} already has an input {name!r}; choose another name")
        value = Value(type_, name)
        self.inputs.append(value)
        self._specs.append(InputSpec(name, role, initial, None, trainable))
        self._names.add(name)
        return value

    def output(self, name: str, value: Value) -> None:
        """Name ``value`` as a graph output."""
        if any(known == name for known, _ in self._outputs):
            raise GraphError(f"graph {self.name!r} already has an output {name!r}; choose another name")
        self._outputs.append((name, value))

    def replace(self, input_name: str, value: Value) -> None:
        """Make ``value`` the next value of the input ``input_name`` (same type)."""
        index = next((i for i, s in enumerate(self._specs) if s.name == input_name), None)
        if index is None:
            raise GraphError(f"graph {self.name!r} has no input {input_name!r} to replace")
        if self.inputs[index].type != value.type:
            raise GraphError(f"input {input_name!r} is {self.inputs[index].type}; its replacement is {value.type}")
        output_name = f"{input_name}:next"
        self.output(output_name, value)
        self._replacements[input_name] = output_name

    @contextmanager
    def origin(self, *origins: Origin) -> Iterator[None]:
        """Give ``origins`` to every node emitted inside the block."""
        before, self._origins = self._origins, tuple(origins)
        try:
            yield
        finally:
            self._origins = before

    @property
    def current_origins(self) -> tuple[Origin, ...]:
        return self._origins

    def finish(self) -> Graph:
        """Freeze what was built."""
        specs = tuple(
            InputSpec(s.name, s.role, s.initial, self._replacements.get(s.name), s.trainable) for s in self._specs
        )
        outputs = tuple(name for name, _ in self._outputs)
        values = tuple(value for _, value in self._outputs)
        return Graph(self.name, tuple(self.inputs), tuple(self.nodes), values, Signature(specs, outputs))

    # -- nodes --------------------------------------------------------------------

    def emit(
        self, op: OpDef | str, inputs: Sequence[Value], attributes: Mapping[str, Any] | None = None
    ) -> tuple[Value, ...]:
        """Add one node and return its results. Raises TypeRuleError naming op, origin and operand types."""
        op = find_op(op) if isinstance(op, str) else op
        try:
            checked = check_attributes(op, attributes or {})
            if op.arity is not None and len(inputs) != op.arity:
                raise TypeRuleError(f"takes {op.arity} operands, got {len(inputs)}")
            operand_types = tuple(v.type for v in inputs)
            if op.normalize is not None:
                checked = op.normalize(operand_types, checked)
            types = op.infer(operand_types, checked)
        except TypeRuleError as error:
            where = f" at {', '.join(map(str, self._origins))}" if self._origins else ""
            operands = ", ".join(str(v.type) for v in inputs)
            raise TypeRuleError(f"{op.name}({operands}){where}: {error}") from error
        node = Node(op, tuple(inputs), checked, tuple(Value(t) for t in types), self._origins)
        self.nodes.append(node)
        return node.outputs

    def append(self, node: Node) -> None:
        """Add a node that exists already (a pass keeps it as it is)."""
        self.nodes.append(node)

    def call(self, op: OpDef | str, *operands: Operand, **attributes: Any) -> Any:
        """Emit ``op``; one result comes alone, several as a tuple."""
        op = find_op(op) if isinstance(op, str) else op
        values = self.operands(operands, elementwise=op.has(Trait.ELEMENTWISE), condition_first=op.name == "where")
        results = self.emit(op, values, attributes)
        return results[0] if len(results) == 1 else results

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not has_op(name):
            raise AttributeError(f"builder has no op or method {name!r}")
        op = find_op(name)
        return lambda *operands, **attributes: self.call(op, *operands, **attributes)

    def operands(self, operands: Sequence[Operand], elementwise: bool, condition_first: bool = False) -> list[Value]:
        """Turn Python numbers and arrays into constants and, for elementwise ops, promote and broadcast."""
        values = [o for o in operands if isinstance(o, Value)]
        numbers = values[1:] if condition_first and isinstance(operands[0], Value) else values
        dtype = promote(*(v.type.dtype for v in numbers)) if numbers and elementwise else None
        result = []
        for position, operand in enumerate(operands):
            if isinstance(operand, Value):
                result.append(operand)
            elif isinstance(operand, np.ndarray | np.generic):
                result.append(self.constant(operand))
            elif isinstance(operand, bool | int | float):
                chosen = dtype if elementwise and not (condition_first and position == 0) else None
                if chosen is not None and isinstance(operand, float) and not chosen.is_float:
                    chosen = float32
                result.append(self.constant(operand, chosen))
            else:
                raise DlcError(f"operand {operand!r} is neither a tensor of this graph nor a number or array")
        if not elementwise or not result:
            return result
        body = result[1:] if condition_first else result
        target = promote(*(v.type.dtype for v in body))
        shape = broadcast_shapes(*(v.type.shape for v in result))
        cast_all = [self.cast_to(v, target) for v in body]
        if condition_first:
            cast_all = [result[0], *cast_all]
        return [self.broadcast_to(v, shape) for v in cast_all]

    # -- helpers that are no ops of their own ----------------------------------------

    def constant(self, value: Any, dtype: DType | None = None) -> Value:
        """Emit a small constant from an array or Python number (float -> float32, int -> int64 unless given)."""
        if dtype is None and not isinstance(value, np.ndarray | np.generic):
            dtype = bool_ if isinstance(value, bool) else int64 if isinstance(value, int) else float32
        array = np.asarray(value) if dtype is None else np.asarray(value).astype(dtype.numpy)
        return self.emit("constant", (), {"value": Literal(array)})[0]

    def full(self, shape: Sequence[Dim], value: int | float | bool, dtype: DType) -> Value:
        """Emit a tensor of ``shape`` filled with ``value``."""
        return self.broadcast_to(self.constant(value, dtype), tuple(shape))

    def zeros_like(self, value: Value) -> Value:
        """Emit zeros of the type of ``value``."""
        return self.full(value.type.shape, 0, value.type.dtype)

    def cast_to(self, value: Value, dtype: DType) -> Value:
        """Cast unless ``value`` has ``dtype`` already."""
        return value if value.type.dtype is dtype else self.emit("cast", (value,), {"dtype": dtype})[0]

    def broadcast_to(self, value: Value, shape: Shape) -> Value:
        """NumPy broadcasting of ``value`` to ``shape``, unless it has it already."""
        if value.type.shape == tuple(shape):
            return value
        offset = len(shape) - value.type.rank
        dims = tuple(range(offset, len(shape)))
        kept = tuple(i for i, d in enumerate(value.type.shape) if d != 1 or shape[i + offset] == 1)
        if len(kept) != value.type.rank:  # drop the stretched size-1 dimensions, then place the rest
            value = self.reshape_to(value, tuple(value.type.shape[i] for i in kept))
            dims = tuple(dims[i] for i in kept)
        return self.emit("broadcast", (value,), {"shape": tuple(shape), "dims": dims})[0]

    def reshape_to(self, value: Value, shape: Sequence[Dim]) -> Value:
        """Reshape unless the shape is the same."""
        if value.type.shape == tuple(shape):
            return value
        return self.emit("reshape", (value,), {"shape": tuple(shape)})[0]

    def transpose_to(self, value: Value, permutation: Sequence[int]) -> Value:
        """Transpose unless ``permutation`` is the identity."""
        if tuple(permutation) == tuple(range(value.type.rank)):
            return value
        return self.emit("transpose", (value,), {"permutation": tuple(permutation)})[0]

    def inline(self, graph: Graph, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """Emit copies of a graph's nodes on other ``inputs``; return its outputs."""
        mapping: dict[Value, Value] = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            outputs = tuple(Value(v.type, v.hint) for v in node.outputs)
            mapping.update(zip(node.outputs, outputs, strict=True))
            self.nodes.append(
                Node(
                    node.op,
                    tuple(mapping[v] for v in node.inputs),
                    node.attributes,
                    outputs,
                    node.origins or self._origins,
                )
            )
        return tuple(mapping[v] for v in graph.outputs)


def check_attributes(op: OpDef, given: Mapping[str, Any]) -> Attributes:
    """Fill defaults and check names and kinds against the op's schema; TypeRuleError otherwise."""
    schema = op.attributes
    if not schema and not given:
        return _EMPTY
    unknown = [name for name in given if name not in schema]
    if unknown:
        raise TypeRuleError(f"has no attribute {', '.join(unknown)}; it has {', '.join(schema) or 'none'}")
    values = {}
    for name, attribute in schema.items():
        if name not in given:
            if attribute.required:
                raise TypeRuleError(f"needs the attribute {name}")
            values[name] = attribute.default
            continue
        value = _plain(given[name])
        elements = value if isinstance(value, tuple) and attribute.many else (value,)
        if not all(_fits(element, attribute) for element in elements):
            kinds = " or ".join(k.__name__ for k in attribute.kinds)
            also = " (or a tuple of these)" if attribute.many else ""
            raise TypeRuleError(f"attribute {name} is {value!r}; it must be {kinds}{also}")
        values[name] = float(value) if attribute.kinds == (float,) and type(value) is int else value
    return Attributes(values)


def _fits(element: Any, attribute: Attribute) -> bool:
    """Tell whether one value is of the schema's kinds; ints serve as floats if a float can hold them."""
    if isinstance(element, bool):
        return bool in attribute.kinds
    if isinstance(element, SymbolicDim):
        return attribute.symbolic or SymbolicDim in attribute.kinds
    if float in attribute.kinds and type(element) is int:
        return abs(element) < 2**1023
    return isinstance(element, attribute.kinds)


_EMPTY = Attributes()


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if isinstance(value, np.generic):
        return value.item()
    return value


def scalar_type(dtype: DType) -> TensorType:
    """Return the rank-0 type of ``dtype``."""
    return tensor_type(dtype, ())
