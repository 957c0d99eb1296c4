"""``save``: writes an inference graph as an ONNX model that onnxruntime runs to the same results."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.errors import ConfigError, GraphError, UnsupportedOpError
from dlc.frontends.onnx import export_math, export_nn, export_shape  # noqa: F401  (registers their rules)
from dlc.frontends.onnx.export_rules import RULES, NotExpressible
from dlc.frontends.onnx.export_writer import Writer, value_info
from dlc.frontends.onnx.structure import all_nodes
from dlc.frontends.onnx.tensors import CODES
from dlc.frontends.onnx.versions import EXPORT_OPSETS, describe_range
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.dims import SymbolicDim
from dlc.ir.graph import Graph, Node, Role, Value
from dlc.ir.opdef import Mode, find_op
from dlc.ir.types import as_dtype

LARGEST_INLINE = 3 << 29
"""Bytes of weights (1.5 GiB) above which ``save`` puts them into a file of their own."""

_ALIGNMENT = 4096
_SMALL = 1024
_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10}


def save(graph: Graph, path: str | os.PathLike, *, external_data: bool | None = None, opset: int = 21) -> None:
    """Write ``graph`` in its inference form to ``path``, atomically.

    Weights are stored in the model, or beside it in ``<name>.data`` with ``external_data`` (by default above 1.5 GiB).
    Names of inputs, weights and outputs are kept; symbolic dimensions become dim_params.
    Raises UnsupportedOpError for ops without a counterpart in ONNX, GraphError for names that clash.
    """
    model, weights = _build(graph, opset)
    total = sum(array.nbytes for _, array in weights)
    target = Path(path)
    if external_data is None:
        external_data = total > LARGEST_INLINE
    if external_data:
        _write_external(model, weights, target)
    else:
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in weights)
    _replace(target, [model.SerializeToString()])


def to_proto(graph: Graph, opset: int = 21) -> onnx.ModelProto:
    """Return ``graph`` in its inference form as a ModelProto, weights inside. Raises as ``save`` does."""
    model, weights = _build(graph, opset)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in weights)
    return model


# -- files ------------------------------------------------------------------------------


def _write_external(model: onnx.ModelProto, weights: Sequence[tuple[str, np.ndarray]], target: Path) -> None:
    """Write weights beside the model, under a name that no older model uses."""
    location = f"{target.name}.data"
    if (target.parent / location).exists():
        location = f"{target.name}.{secrets.token_hex(4)}.data"
    chunks: list[Any] = []
    offset = 0
    for name, array in weights:
        if array.nbytes <= _SMALL:  # shapes and axes must be readable without the data file
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
            continue
        gap = -offset % _ALIGNMENT
        if gap:
            chunks.append(bytes(gap))
            offset += gap
        code = CODES[as_dtype(array.dtype).name]
        proto = TensorProto(name=name, data_type=code, dims=array.shape, data_location=TensorProto.EXTERNAL)
        data = _raw(array)
        for key, value in (("location", location), ("offset", offset), ("length", data.nbytes)):
            proto.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(proto)
        chunks.append(data)
        offset += data.nbytes
    _replace(target.parent / location, chunks)


def _raw(array: np.ndarray) -> memoryview:
    """Return the little-endian bytes of an array, without a copy where it is contiguous; 4-bit types are packed."""
    if as_dtype(array.dtype).bits == 4:
        return memoryview(numpy_helper.from_array(array).raw_data)
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data


def _replace(target: Path, chunks: Sequence[Any]) -> None:
    """Write a file under another name, then rename it: readers see the old file or the whole new one."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# -- graph ------------------------------------------------------------------------------


def _build(graph: Graph, opset: int) -> tuple[onnx.ModelProto, list[tuple[str, np.ndarray]]]:
    """Return the model without initializers, and the initializers."""
    if opset not in EXPORT_OPSETS:
        raise ConfigError(f"opset {opset} cannot be written; dlc writes {describe_range(EXPORT_OPSETS)}")
    results = [(n, graph.output(n)) for n in graph.signature.results]
    writer = Writer(opset)
    weights: list[tuple[str, np.ndarray]] = []
    inputs = []
    nodes, live = _live(graph, [value for _, value in results])
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        fed = spec.role in (Role.DATA, Role.TARGET) or spec.initial is None
        if not fed and value not in live:
            continue
        writer.fresh(spec.name)
        writer.define(value, spec.name)
        if fed:
            inputs.append(value_info(spec.name, value.type))
            for axis, dim in enumerate(value.type.shape):
                if isinstance(dim, SymbolicDim) and str(dim).isidentifier():
                    writer.symbol_from(spec.name, axis, str(dim))
        else:
            weights.append((spec.name, np.asarray(spec.initial)))
    for name, value in results:
        if name in writer.taken:
            raise GraphError(
                f"the name {name!r} is both an input and an output; ONNX needs different names: rename one"
            )
        writer.taken.add(name)
        if value in graph.inputs:
            writer.nodes.append(helper.make_node("Identity", [writer.name(value)], [name], writer.node_name()))
        else:
            writer.want(value, name)
    write_nodes(writer, nodes)
    done: dict[Value, str] = {}
    for name, value in results:
        if value in done:
            writer.nodes.append(helper.make_node("Identity", [done[value]], [name], writer.node_name()))
        elif value not in graph.inputs:
            done[value] = writer.name(value)
    outputs = [value_info(name, value.type) for name, value in results]
    proto = helper.make_graph(writer.nodes, graph.name, inputs, outputs)
    used = {name for node in all_nodes(proto.node) for name in node.input} | {info.name for info in outputs}
    weights = [(name, array) for name, array in (*weights, *writer.initializers) if name in used]
    model = helper.make_model(
        proto,
        producer_name="dlc",
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSIONS[opset],
    )
    return model, weights


def _live(graph: Graph, results: Sequence[Value]) -> tuple[list[Node], set[Value]]:
    """Return the nodes that ``results`` need, in order, and all values that are used."""
    live = set(results)
    kept = []
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            kept.append(node)
            live.update(node.inputs)
    return kept[::-1], live


def write_nodes(writer: Writer, nodes: Sequence[Node]) -> None:
    """Write nodes in order; composites without a rule of their own are expanded first."""
    pending = list(reversed(nodes))
    while pending:
        node = pending.pop()
        writer.at(node)
        rule = RULES.get(node.op.name)
        try:
            results = rule(writer, node) if rule is not None else _write_region(writer, node)
        except NotExpressible:
            pending.extend(reversed(_expanded(writer, node)))
            continue
        if results is None:
            continue
        for value, name in zip(node.outputs, results if isinstance(results, list) else [results], strict=True):
            if isinstance(name, tuple):
                writer.alias(value, name[1])
            else:
                writer.define(value, name)


def _expanded(writer: Writer, node: Node) -> list[Node]:
    """Return the nodes of a composite's inference form; results that it passes through are aliased."""
    if node.op.expand is None:
        raise UnsupportedOpError(f"{node.label} has no counterpart in ONNX; remove it before exporting")
    b = Builder("expansion")
    with b.origin(*node.origins):
        results = node.op.expand(b, node.inputs, node.attributes, Mode.INFERENCE)
    made = {v for n in b.nodes for v in n.outputs}
    identity = []
    renamed: dict[Value, Value] = {}
    for old, new in zip(node.outputs, results, strict=True):
        if new in made and new not in renamed:
            renamed[new] = old
        else:
            identity.append((old, new))
    nodes = [
        Node(
            n.op,
            tuple(renamed.get(v, v) for v in n.inputs),
            n.attributes,
            tuple(renamed.get(v, v) for v in n.outputs),
            n.origins or node.origins,
        )
        for n in b.nodes
    ]
    for old, new in identity:
        source = renamed.get(new, new)
        nodes.append(Node(find_op("stop_gradient"), (source,), Attributes(), (old,), node.origins))
    return nodes


# -- regions ----------------------------------------------------------------------------


def _write_region(writer: Writer, node: Node) -> Any:
    match node.op.name:
        case "fused":
            return _inline(writer, node)
        case "scan":
            return _write_scan(writer, node)
        case "if_":
            return _write_if(writer, node)
        case "loop":
            return _write_loop(writer, node)
    raise NotExpressible


def _inline(writer: Writer, node: Node) -> list[Any]:
    body: Graph = node.attributes["body"]
    b = Builder("inlined")
    outputs = b.inline(body, node.inputs)
    write_nodes(writer, b.nodes)
    return [("alias", writer.name(v)) for v in outputs]


def _subgraph(writer: Writer, body: Graph, names: Sequence[str], bound: Sequence[tuple[Value, str]], label: str) -> Any:
    """Return the GraphProto of ``body``: ``names`` are its own inputs, ``bound`` its captures from outside."""
    inner = Writer(writer.opset, writer)
    for value, name in zip(body.inputs, names):
        inner.define(value, name)
    for value, name in bound:
        inner.alias(value, name)
    write_nodes(inner, body.nodes)
    outputs = []
    for number, value in enumerate(body.outputs):
        name = inner.fresh(f"{label}:{number}")
        inner.nodes.append(helper.make_node("Identity", [inner.name(value)], [name], inner.node_name()))
        outputs.append(value_info(name, value.type))
    inputs = [value_info(n, v.type) for n, v in zip(names, body.inputs)]
    return inner.subgraph(label, inputs, outputs)


def _write_scan(writer: Writer, node: Node) -> list[str]:
    a = node.attributes
    body, carries, sequences = a["body"], a["carries"], a["sequences"]
    if sequences == 0:
        raise UnsupportedOpError(f"{node.label} scans no sequence; ONNX's Scan needs one")
    operands = [writer.name(v) for v in node.inputs]
    own = carries + sequences
    names = [writer.fresh(f"{body.name}:in{k}") for k in range(own)]
    bound = list(zip(body.inputs[own:], operands[own:], strict=True))
    graph = _subgraph(writer, body, names, bound, writer.fresh(f"{body.name}:body"))
    back = [int(a["reverse"])]
    return writer.nodes_out(
        "Scan",
        operands[:own],
        len(node.outputs),
        body=graph,
        num_scan_inputs=sequences,
        scan_input_directions=back * sequences,
        scan_output_directions=back * (len(node.outputs) - carries) if len(node.outputs) > carries else None,
    )


def _write_if(writer: Writer, node: Node) -> list[str]:
    operands = [writer.name(v) for v in node.inputs]
    graphs = {}
    for name in ("then_graph", "else_graph"):
        body = node.attributes[name]
        bound = list(zip(body.inputs, operands[1:], strict=True))
        graphs[name.replace("graph", "branch")] = _subgraph(writer, body, [], bound, writer.fresh(name))
    for graph in graphs.values():
        del graph.input[:]
    return writer.nodes_out("If", operands[:1], len(node.outputs), **graphs)


def _write_loop(writer: Writer, node: Node) -> list[str]:
    a = node.attributes
    body, carries = a["body"], a["carries"]
    operands = [writer.name(v) for v in node.inputs]
    own = 2 + carries
    names = [writer.fresh(f"{body.name}:in{k}") for k in range(own)]
    bound = list(zip(body.inputs[own:], operands[own:], strict=True))
    graph = _subgraph(writer, body, names, bound, writer.fresh(f"{body.name}:body"))
    return writer.nodes_out("Loop", operands[:own], len(node.outputs), body=graph)
