"""``load`` and ``check``: the order in which a model is parsed, checked, imported and given roles."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.errors import DlcError, InvalidModelError, TypeRuleError, UnsupportedOpError
from dlc.frontends.onnx import (  # noqa: F401  (importing a family registers its importers)
    ops_attention,
    ops_control,
    ops_image,
    ops_index,
    ops_math,
    ops_nn,
    ops_optimizer,
    ops_quantize,
    ops_random,
    ops_recurrent,
    ops_reduce,
    ops_sampling,
    ops_sequence,
    ops_shape,
)
from dlc.frontends.onnx.dimensions import SymbolsEqual, replace_symbols
from dlc.frontends.onnx.importer import Session
from dlc.frontends.onnx.names import hint, shown
from dlc.frontends.onnx.problems import Problem, Sink
from dlc.frontends.onnx.proto import ModelSource, Source, open_model
from dlc.frontends.onnx.registry import find_importer, known_ops
from dlc.frontends.onnx.roles import assign_roles
from dlc.frontends.onnx.schema import find_schema
from dlc.frontends.onnx.structure import (
    all_nodes,
    check_body,
    check_functions,
    function_body,
    function_table,
    graph_body,
    node_key,
    node_label,
)
from dlc.frontends.onnx.versions import canonical_domain, import_versions, opset_versions, supported_opsets
from dlc.ir.dims import Dim
from dlc.ir.graph import Graph
from dlc.ir.provenance import Region

_MOST_ATTEMPTS = 2000


def load(
    source: Source,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    external_data_root: str | os.PathLike | None = None,
) -> Graph:
    """Import an ONNX model (a path, bytes or ModelProto) as a graph.

    ``shapes`` gives dimensions to inputs by name: ints, or names of symbols. Weights are viewed, not copied.
    Raises a DlcError that names the offending node, value or file: InvalidModelError, UnsupportedVersionError,
    UnsupportedOpError, ExternalDataError, TypeRuleError, ResourceLimitError, InputError for bad ``shapes``.
    """
    imported = import_model(source, shapes=shapes, external_data_root=external_data_root)
    for warning in imported.warnings:
        warnings.warn(warning, stacklevel=2)
    return imported.graph


@dataclass(frozen=True)
class Imported:
    """A graph, what there is to warn of, and the memory in which its weights lie as they do in files."""

    graph: Graph
    warnings: tuple[str, ...]
    regions: tuple[Region, ...]


def import_model(
    source: Source,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    external_data_root: str | os.PathLike | None = None,
) -> Imported:
    """Import as ``load`` does, and tell where the weights come from."""
    opened = open_model(source, external_data_root)
    sink = Sink()
    versions = opset_versions(opened.model)
    _check_structure(opened, versions, sink)
    graph = _import(opened, versions, sink, shapes or {})
    assert graph is not None
    return Imported(graph, tuple(problem.message for problem in sink.problems), opened.regions)


def check(
    source: Source,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    external_data_root: str | os.PathLike | None = None,
) -> list[Problem]:
    """Return every problem of a model at once (an empty list for a good one); never raises for a bad model."""
    sink = Sink(collect=True)
    try:
        opened = open_model(source, external_data_root)
    except DlcError as error:
        return [Problem(error)]
    try:
        versions = opset_versions(opened.model)
    except DlcError as error:
        sink.report(error)
        versions = {canonical_domain(e.domain): e.version for e in opened.model.opset_import}
        if supported_opsets[""].start > versions.get("", 0) or versions[""] not in supported_opsets[""]:
            return sink.problems
    try:
        if _check_structure(opened, versions, sink):
            _import(opened, versions, sink, shapes or {})
    except DlcError as error:
        sink.report(error)
    return sink.problems


def _check_structure(opened: ModelSource, versions: Mapping[str, int], sink: Sink) -> bool:
    """Report faults of names, functions and ops; return whether functions can be inlined."""
    model = opened.model
    functions = function_table(model)
    if len(functions) != len(model.functions):
        sink.report(InvalidModelError("two functions of the model have the same domain and name"))
    check_functions(model, functions, sink)
    finite = not sink.problems
    _check_ops(opened, versions, sink)
    check_body(graph_body(model.graph, "the graph"), (), sink)
    for function in functions.values():
        check_body(function_body(function), (), sink)
    return finite


def _check_ops(opened: ModelSource, versions: Mapping[str, int], sink: Sink) -> None:
    """Report all unknown ops and domains together."""
    model = opened.model
    functions = function_table(model)
    missing: dict[str, list[str]] = defaultdict(list)
    index = 0
    bodies = [(model.graph.node, dict(versions))]
    for function in functions.values():
        bodies.append((function.node, {**versions, **import_versions(function.opset_import)}))
    for nodes, known in bodies:
        for node in all_nodes(nodes):
            index += 1
            key = node_key(node)
            if key in functions:
                continue
            problem = _unknown(key[0], node.op_type, known)
            if problem:
                missing[problem].append(node_label(node, index - 1))
    if missing:
        lines = []
        for problem, labels in sorted(missing.items()):
            more = ", ..." if len(labels) > 3 else ""
            times = "node" if len(labels) == 1 else "nodes"
            lines.append(f"{problem} ({len(labels)} {times}: {', '.join(labels[:3])}{more})")
        sink.report(UnsupportedOpError("the model uses ops that dlc does not support: " + "; ".join(lines)))


def _unknown(domain: str, op_type: str, versions: Mapping[str, int]) -> str:
    """Say why an op is not supported, or return an empty text."""
    shown_op = shown(op_type)[1:-1]
    if domain not in supported_opsets and not known_ops(domain):
        return f"{shown_op} of domain {shown(domain)}"
    if domain not in versions:
        return f"{shown_op} of domain {shown(domain)}, whose opset the model does not import"
    if find_importer(domain, op_type, versions[domain]) is not None:
        return ""
    schema = find_schema(domain, op_type, versions[domain])
    if schema is not None and (schema.source.has_function or schema.source.has_context_dependent_function):
        return ""
    near = "" if schema is not None else hint(op_type, known_ops(domain))
    return f"{shown_op}{near}"


def _import(
    opened: ModelSource, versions: dict[str, int], sink: Sink, shapes: Mapping[str, Sequence[int | str]]
) -> Graph | None:
    """Import, starting over whenever symbols turn out to be equal."""
    binding: dict[str, Dim] = {}
    before = list(sink.problems)
    fixed: list[str] = []
    for _ in range(_MOST_ATTEMPTS):
        session = Session(opened, versions, sink, shapes, binding)
        try:
            region = session.run()
        except SymbolsEqual as equal:
            merged = merge_binding(binding, equal.binding)
            if merged == binding:
                raise TypeRuleError(equal.reason) from None
            if equal.reason:
                numbers = [
                    f"dimension {name} is fixed to {d}" for name, d in equal.binding.items() if isinstance(d, int)
                ]
                fixed += [f"{text} by {equal.reason}" for text in numbers]
            binding = merged
            sink.problems[:] = before
            continue
        if any(problem.severity == "error" for problem in sink.problems):
            return None
        for text in fixed:
            sink.warn(TypeRuleError(text))
        return assign_roles(region.builder.finish(), region.initializers)
    raise InvalidModelError("the model's symbolic dimensions could not be made consistent; give shapes=")


def merge_binding(old: Mapping[str, Dim], new: Mapping[str, Dim]) -> dict[str, Dim]:
    """Add ``new`` replacements to ``old`` ones, applying them to those."""
    merged = {name: replace_symbols(dim, new) for name, dim in old.items()}
    for name, dim in new.items():
        merged.setdefault(name, dim)
    return merged
