"""The import of one model: walks nodes in order, folds shape arithmetic, calls importers, wraps errors.

It knows no op; importers are found in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, NodeProto, TypeProto, ValueInfoProto

from dlc.errors import DlcError, InputError, InvalidModelError, ResourceLimitError, UnsupportedOpError
from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.constants import evaluate_constant
from dlc.frontends.onnx.dimensions import SymbolsEqual, replace_symbols
from dlc.frontends.onnx.folding import FOLDERS
from dlc.frontends.onnx.names import DimensionNames, hint, shown
from dlc.frontends.onnx.problems import AlreadyReported, Sink
from dlc.frontends.onnx.proto import ModelSource
from dlc.frontends.onnx.registry import find_importer
from dlc.frontends.onnx.schema import Schema, check_form, check_types, find_schema, standard_function, type_code
from dlc.frontends.onnx.structure import (
    Body,
    FunctionKey,
    function_body,
    function_table,
    graph_body,
    node_key,
    node_label,
    order,
)
from dlc.frontends.onnx.tensors import LARGEST_DIMENSION, densify, dtype_of, to_array
from dlc.frontends.onnx.untie import tie_transposed
from dlc.frontends.onnx.values import LARGEST_KNOWN, Frame, Poison, Region, Tensor, TensorList, known_tensor
from dlc.frontends.onnx.versions import canonical_domain, import_versions
from dlc.ir.dims import Dim, SymbolicDim
from dlc.ir.graph import Origin, Role, Value
from dlc.ir.types import TensorType, uint32

_LARGEST_FOLDED = 1 << 16
_SUBGRAPH_OPS = {"If", "Loop", "Scan", "SequenceMap"}
_UNFOLDED = _SUBGRAPH_OPS | {
    "Dropout",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
_POISON = Poison()
_ANY_FAULT = (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass
class Session:
    """State of one attempt to import a model under a binding of symbols."""

    source: ModelSource
    versions: dict[str, int]
    sink: Sink
    shapes: Mapping[str, Sequence[Any]]
    binding: dict[str, Dim]
    functions: dict[FunctionKey, FunctionProto] = field(default_factory=dict)
    symbol_ranks: dict[str, int] = field(default_factory=dict)
    names: DimensionNames = field(default_factory=DimensionNames)
    _key: Tensor | None = None
    _streams: int = 0

    def run(self) -> Region:
        """Import the main graph; return its region, inputs and outputs set."""
        model = self.source.model
        self.functions = function_table(model)
        region = Region(model.graph.name or "graph")
        frame = Frame(region, self.versions, self.sink)
        stored = self.bind_initializers(model.graph, frame)
        self._inputs(model.graph, frame, stored)
        self.run_body(frame, graph_body(model.graph, "the graph"))
        for info in model.graph.output:
            found = frame.tensors.get(info.name, _POISON)
            if isinstance(found, Poison):
                continue
            if not isinstance(found, Tensor):
                self.sink.report(
                    UnsupportedOpError(f"output {shown(info.name)} is a sequence or optional, not a tensor")
                )
                continue
            region.builder.output(info.name, region.value(found))
        return region

    # -- inputs and initializers ---------------------------------------------------------

    def _inputs(self, graph: GraphProto, frame: Frame, stored: set[str]) -> None:
        unknown = [name for name in self.shapes if name not in {v.name for v in graph.input}]
        if unknown:
            near = hint(unknown[0], [v.name for v in graph.input])
            self.sink.report(InputError(f"shapes= names {shown(unknown[0])}, which is no input of the model{near}"))
        for info in graph.input:
            if info.name in stored:
                continue
            try:
                type_ = self.input_type(info)
            except DlcError as error:
                self.sink.report(error)
                frame.tensors[info.name] = _POISON
                continue
            frame.region.reserve(info.name)
            value = frame.region.builder.input(info.name, type_, Role.DATA)
            frame.tensors[info.name] = frame.region.add(value, info.name)

    def input_type(self, info: ValueInfoProto) -> TensorType:
        """Return the type of a graph input, symbols bound; InvalidModelError if it has none."""
        what = f"input {shown(info.name)}"
        kind = info.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedOpError(
                f"{what} is a {(kind or 'value without type').removesuffix('_type')}, not a tensor"
            )
        dtype = dtype_of(info.type.tensor_type.elem_type, what)
        given = self.shapes.get(info.name)
        if not info.type.tensor_type.HasField("shape"):
            if given is None:
                raise InvalidModelError(f"{what} has no shape in the model; give shapes={{{info.name!r}: (...)}}")
            return TensorType(dtype, tuple(self._given_dim(d, what) for d in given))
        stated = info.type.tensor_type.shape.dim
        if given is not None and len(given) != len(stated):
            raise InputError(f"shapes= gives {what} rank {len(given)}, but the model says rank {len(stated)}")
        dims = []
        for axis, dim in enumerate(stated):
            found = self._stated_dim(dim, f"{info.name}_{axis}", what)
            if given is not None:
                found = self._match(found, self._given_dim(given[axis], what), what)
            dims.append(found)
        return TensorType(dtype, tuple(dims))

    def _stated_dim(self, dim: Any, stem: str, what: str) -> Dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            if dim.dim_value > LARGEST_DIMENSION:
                raise InvalidModelError(f"{what} has an impossible dimension {dim.dim_value}")
            return dim.dim_value
        if dim.dim_value < -1:  # some exporters write -1 for a dimension that they do not know
            raise InvalidModelError(f"{what} has the negative dimension {dim.dim_value}")
        named = dim.dim_param not in ("", "?", "-1", "None")
        found = self.names.named(dim.dim_param) if named else self.names.fresh(stem)
        if isinstance(found, SymbolicDim):
            self.symbol_ranks.setdefault(str(found), 0 if named else 1)
        return replace_symbols(found, self.binding)

    def _given_dim(self, dim: Any, what: str) -> Dim:
        if isinstance(dim, str):
            return replace_symbols(self.names.named(dim), self.binding)
        if isinstance(dim, int | np.integer) and not isinstance(dim, bool) and 0 <= dim <= LARGEST_DIMENSION:
            return int(dim)
        raise InputError(f"shapes= gives {what} the dimension {dim!r}; it must be an int >= 0 or a name")

    def _match(self, stated: Dim, given: Dim, what: str) -> Dim:
        if stated == given:
            return given
        if isinstance(stated, int):
            raise InputError(f"shapes= gives {what} the dimension {given}, but the model fixes it to {stated}")
        if len(stated.terms) == 1 and str(stated).isidentifier():
            raise SymbolsEqual({str(stated): given}, "")
        raise InputError(
            f"shapes= gives {what} the dimension {given} for {stated}; bind its symbols at plain dimensions"
        )

    def bind_initializers(self, graph: GraphProto, frame: Frame) -> set[str]:
        """Bind the initializers of a graph in ``frame``; return their names."""
        stored = set()
        apart = self.source.weights if frame.around is None and frame.depth == 0 else {}
        for number, proto in enumerate(graph.initializer):
            stored.add(proto.name)
            try:
                array = to_array(proto, self.source.folder, raw=apart.get(number))
            except DlcError as error:
                self.sink.report(error)
                frame.tensors[proto.name] = _POISON
                continue
            frame.tensors[proto.name] = initializer_tensor(array, dtype_of(proto.data_type, proto.name), proto.name)
        if apart or frame.depth == 0:
            tie_transposed(t for t in frame.tensors.values() if isinstance(t, Tensor))
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            stored.add(name)
            what = f"initializer {shown(name)}"
            try:
                values = to_array(sparse.values, self.source.folder, what)
                indices = to_array(sparse.indices, self.source.folder, what)
                array = densify(values, indices, tuple(sparse.dims), what)
            except DlcError as error:
                self.sink.report(error)
                frame.tensors[name] = _POISON
                continue
            frame.tensors[name] = initializer_tensor(array, dtype_of(sparse.values.data_type, what), name)
        return stored

    # -- nodes ---------------------------------------------------------------------------

    def run_body(self, frame: Frame, body: Body) -> None:
        """Import the nodes of ``body`` in execution order into the frame's region."""
        for index in order(body, Sink(collect=True)):
            self.run_node(frame, body.nodes[index], index)

    def run_node(self, frame: Frame, node: NodeProto, index: int) -> None:
        """Import one node and bind its outputs."""
        label = frame.prefix + node_label(node, index)
        try:
            inputs = [frame.lookup(name) if name else None for name in node.input]
        except KeyError as error:
            self._poison(
                frame, node, InvalidModelError(f"node {label} ({node.op_type}) reads undefined {error}"), label
            )
            return
        if any(isinstance(i, Poison) for i in inputs):
            self._poison(frame, node, None, label)
            return
        domain = canonical_domain(node.domain)
        version = frame.versions.get(domain, self.versions.get(domain, 1))
        call = Call(self, frame, node, label, version, inputs)
        try:
            with frame.region.builder.origin(Origin(label)):
                results = self._import(call, domain)
            self._bind(call, results)
        except SymbolsEqual:
            raise
        except AlreadyReported:
            self._poison(frame, node, None, label)
        except DlcError as error:
            self._poison(frame, node, type(error)(f"{describe(call)}: {error}"), label, error)
        except MemoryError as error:
            text = f"{describe(call)}: there is not enough memory"
            self._poison(frame, node, ResourceLimitError(text), label, error)
        except _ANY_FAULT as error:  # a malformed node that no check foresaw must still end in a typed error
            text = f"{describe(call)}: cannot be imported: {type(error).__name__}: {error}"
            self._poison(frame, node, InvalidModelError(text), label, error)

    def _poison(
        self, frame: Frame, node: NodeProto, error: DlcError | None, label: str, cause: BaseException | None = None
    ) -> None:
        frame.tensors.update((name, _POISON) for name in node.output if name)
        if error is not None:
            error.__cause__ = cause
            self.sink.report(error, label)

    def _import(self, call: Call, domain: str) -> Any:
        function = self.functions.get(node_key(call.node))
        if function is not None:
            return self.call_function(call, function, dict(call.attributes))
        importer = find_importer(domain, call.op_type, call.version)
        schema = find_schema(domain, call.op_type, call.version)
        if schema is not None:
            check_form(call.node, schema)
            check_types(schema, [t.dtype if isinstance(t, Tensor) else None for t in call.inputs])
        folded = self._fold(call, importer)
        if folded is not None:
            return folded
        if importer is not None:
            return importer(call)
        return self.expand_standard(call)

    def expand_standard(self, call: Call) -> list[Any]:
        """Inline the function by which the ONNX standard defines the op; UnsupportedOpError if there is none."""
        domain = canonical_domain(call.node.domain)
        schema = find_schema(domain, call.op_type, call.version)
        body = self._standard_function(call, schema) if schema is not None else None
        if schema is None or body is None:
            raise UnsupportedOpError(f"op {call.op_type!r} of domain {domain or 'ai.onnx'!r} is not supported")
        defaults = {name: a.default_value for name, a in schema.source.attributes.items() if a.default_value.name}
        return self.call_function(call, body, {**defaults, **call.attributes})

    def random_key(self, call: Call) -> tuple[Value, int]:
        """Return the graph's random key, a state that every run moves on, and the number of a stream not used yet."""
        if self._key is None:
            region = call.frame.region
            while region.around is not None:
                region = region.around
            name = region.fresh_name("random_key")
            value = region.builder.input(name, TensorType(uint32, (2,)), Role.STATE, np.array([0, 0], np.uint32))
            region.builder.replace(name, region.builder.key_next(value))
            self._key = region.add(value, name)
        self._streams += 1
        return call.frame.region.value(self._key), self._streams

    def _standard_function(self, call: Call, schema: Schema) -> FunctionProto | None:
        node = NodeProto()
        node.CopyFrom(call.node)
        del node.attribute[:]
        for name, attribute in call.attributes.items():
            node.attribute.add().CopyFrom(attribute)
            node.attribute[-1].name = name
        return standard_function(schema, call.version, node, [_type_proto(t) for t in call.inputs])

    def _fold(self, call: Call, importer: Any) -> Any:
        """Return known results if all inputs are known and small, else None."""
        tensors = [t for t in call.inputs if t is not None]
        if any(not isinstance(t, Tensor) for t in tensors):
            return None
        from_type = call.op_type in ("Shape", "Size")
        if not from_type and (not tensors or any(t.known is None for t in tensors)):
            return None
        if call.node.domain not in ("", "ai.onnx") or call.op_type in _UNFOLDED:
            return None
        fold = FOLDERS.get(call.op_type)
        if fold is not None and all(call.inputs):
            found = fold(call)
            if found is not None:
                return found
        if from_type or importer is None or any(t.is_symbolic for t in tensors):
            return None
        if sum(t.known.size for t in tensors) > LARGEST_KNOWN:
            return None
        return self._evaluate(call, importer)

    def _evaluate(self, call: Call, importer: Any) -> Any:
        """Import the node into a region of its own and evaluate it there."""
        region = Region("constant")
        frame = replace(call.frame, region=region)
        inner = Call(self, frame, call.node, call.label, call.version, call.inputs)
        with region.builder.origin(Origin(call.label)):
            results = importer(inner)
        if isinstance(results, TensorList):
            return None
        results = list(results) if isinstance(results, tuple | list) else [results]
        known: list[Any] = []
        for result in results:
            if not isinstance(result, Value):
                if isinstance(result, TensorList):
                    return None
                known.append(result)
                continue
            if not result.type.is_static or result.type.nbytes > _LARGEST_FOLDED:
                return None
            array = evaluate_constant(region, result)
            if array is None:
                return None
            known.append(known_tensor(array, result.type.dtype))
        return known

    def _bind(self, call: Call, results: Any) -> None:
        if isinstance(results, TensorList) or not isinstance(results, tuple | list):
            results = [results]
        names = call.node.output
        if len(results) < len(names) and any(names[len(results) :]):
            missing = ", ".join(shown(n) for n in names[len(results) :] if n)
            raise UnsupportedOpError(
                f"output {missing} of {call.op_type} is not supported; only the first {len(results)} are"
            )
        for number, name in enumerate(names):
            result = results[number]
            if result is None and name:
                raise UnsupportedOpError(f"output {shown(name)} (number {number}) of {call.op_type} is not supported")
            if isinstance(result, Value):
                result = call.frame.region.add(result, name)
            if isinstance(result, Tensor):
                call.check_size(result.shape, result.dtype, f"output {shown(name)}")
            if name:
                call.frame.tensors[name] = result

    # -- functions and subgraphs -----------------------------------------------------------

    def call_function(self, call: Call, function: FunctionProto, attributes: dict[str, Any]) -> list[Any]:
        """Inline a function at its call: a frame of its own in the same region."""
        defaults = {a.name: a for a in function.attribute_proto}
        versions = {**call.frame.versions, **import_versions(function.opset_import)}
        inner = Frame(
            call.frame.region,
            versions,
            self.sink,
            prefix=f"{call.label}/",
            attributes={**defaults, **attributes},
            depth=call.frame.depth + 1,
        )
        for position, name in enumerate(function.input):
            inner.tensors[name] = call.inputs[position] if position < len(call.inputs) else None
        self.run_body(inner, function_body(function))
        return [inner.tensors.get(name, _POISON) for name in function.output]

    def open_subgraph(self, call: Call, name: str) -> tuple[GraphProto, Frame]:
        """Return a subgraph attribute with a frame in a new region, its initializers bound."""
        graph = call.graph(name)
        region = Region(f"{call.label}/{name}", call.frame.region)
        frame = Frame(
            region,
            call.frame.versions,
            self.sink,
            around=call.frame,
            prefix=f"{call.label}/",
            attributes=call.frame.attributes,
            depth=call.frame.depth + 1,
        )
        self.bind_initializers(graph, frame)
        return graph, frame

    def inline_subgraph(self, call: Call, name: str) -> list[Any]:
        """Import a subgraph without inputs into the region around it; return its outputs."""
        graph = call.graph(name)
        frame = replace(call.frame, tensors={}, around=call.frame, prefix=f"{call.label}/", depth=call.frame.depth + 1)
        self.bind_initializers(graph, frame)
        return self.run_subgraph(graph, frame)

    def apply_subgraph(self, call: Call, graph: GraphProto, given: Sequence[Any], prefix: str) -> list[Any]:
        """Import a subgraph into the region around it with ``given`` as its inputs; return its outputs."""
        frame = replace(call.frame, tensors={}, around=call.frame, prefix=prefix, depth=call.frame.depth + 1)
        self.bind_initializers(graph, frame)
        frame.tensors.update(zip((info.name for info in graph.input), given, strict=True))
        outputs = self.run_subgraph(graph, frame)
        if any(isinstance(o, Poison) for o in outputs):
            raise AlreadyReported("a node of the subgraph cannot be imported")
        return outputs

    def run_subgraph(self, graph: GraphProto, frame: Frame) -> list[Any]:
        """Import the nodes of a subgraph whose inputs are bound; return its outputs."""
        self.run_body(frame, graph_body(graph, f"subgraph {shown(graph.name)}"))
        return [frame.lookup(info.name) for info in graph.output]


def initializer_tensor(array: np.ndarray, dtype: Any, name: str) -> Tensor:
    """Return the Tensor of an initializer: known where it is small and no weight."""
    follow = array.size <= LARGEST_KNOWN and (not dtype.is_float or array.ndim == 0)
    return Tensor(dtype, array.shape, array if follow else None, array, name, initializer=True)


def describe(call: Call) -> str:
    """Return a node's label, op, opset and input types for an error message."""
    inputs = []
    for name, found in zip(call.node.input, call.inputs):
        short = name if name.isprintable() and len(name) < 60 else shown(name)
        inputs.append(f"{short}: {found.type}" if isinstance(found, Tensor) else f"{short or 'absent'}")
    listed = f"; inputs {', '.join(inputs[:8])}{', ...' if len(inputs) > 8 else ''}" if inputs else ""
    return f"node {call.label} ({call.op_type}, opset {call.version}{listed})"


def _type_proto(found: Any) -> TypeProto:
    if found is None:
        return TypeProto()
    if isinstance(found, TensorList):
        inner = _type_proto(found[0]) if found else onnx.helper.make_tensor_type_proto(1, None)
        return onnx.helper.make_sequence_type_proto(inner)
    dims = [d if isinstance(d, int) else str(d) for d in found.shape]
    return onnx.helper.make_tensor_type_proto(type_code(found.dtype), dims)
