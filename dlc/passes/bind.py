"""Binding: symbols in types and attributes become ints, and the type rules run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dlc.errors import GraphError, TypeRuleError
from dlc.ir.dims import Dim, SymbolicDim, bind_dim, symbols_of
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.types import TensorType, bind_type


def free_symbols(graph: Graph) -> set[str]:
    """Return the names of all symbols in the types and attributes of ``graph``, its regions included."""
    names: set[str] = set()
    pending: list[Any] = [graph]
    while pending:
        match pending.pop():
            case Graph(inputs=inputs, nodes=nodes):
                pending += [v.type for v in inputs]
                for node in nodes:
                    pending += [v.type for v in node.outputs if not v.type.is_static]
                    pending += [a for a in node.attributes.values() if isinstance(a, tuple | SymbolicDim | Graph)]
            case TensorType(shape=shape) if any(isinstance(d, SymbolicDim) for d in shape):
                pending += shape
            case SymbolicDim() as dim:
                names |= symbols_of(dim)
            case tuple() as elements:
                pending += [e for e in elements if isinstance(e, tuple | SymbolicDim | Graph)]
    return names


def bind(graph: Graph, binding: Mapping[str, int]) -> Graph:
    """Substitute ``binding`` for the symbols of ``graph``; the same object if it has none.

    Raises GraphError naming symbols that ``binding`` leaves open, and TypeRuleError naming the node where
    the bound shapes do not fit together.
    """
    open_symbols = free_symbols(graph)
    if not open_symbols:
        return graph
    missing = sorted(open_symbols - set(binding))
    if missing:
        readers = [f"{s.name} {v.type}" for v, s in zip(graph.inputs, graph.signature.inputs, strict=True)]
        hint = ", ".join(r for r in readers if any(m in r for m in missing))
        raise GraphError(
            f"graph {graph.name!r} leaves the dimensions {', '.join(missing)} open (inputs: {hint or 'none'}); "
            "give them with shapes={...}"
        )
    return _bind(graph, binding)


def _bind(graph: Graph, binding: Mapping[str, Dim]) -> Graph:
    mapping: dict[Value, Value] = {v: Value(bind_type(v.type, binding), v.hint) for v in graph.inputs}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(mapping[v] for v in node.inputs)
        changes = {name: _bind_attribute(v, binding) for name, v in node.attributes.items()}
        same = all(changes[name] is v for name, v in node.attributes.items())
        attributes = node.attributes if same else node.attributes.updated(**changes)
        try:
            types = node.op.infer(tuple(v.type for v in inputs), attributes)
        except TypeRuleError as error:
            bound = ", ".join(f"{k}={v}" for k, v in binding.items())
            operands = ", ".join(str(v.type) for v in inputs)
            raise TypeRuleError(f"{node.label}({operands}) with {bound}: {error}") from error
        outputs = tuple(Value(t, v.hint) for t, v in zip(types, node.outputs, strict=True))
        mapping.update(zip(node.outputs, outputs, strict=True))
        nodes.append(Node(node.op, inputs, attributes, outputs, node.origins))
    return replace(
        graph,
        inputs=tuple(mapping[v] for v in graph.inputs),
        nodes=tuple(nodes),
        outputs=tuple(mapping[v] for v in graph.outputs),
    )


def _bind_attribute(value: Any, binding: Mapping[str, Dim]) -> Any:
    match value:
        case SymbolicDim():
            return bind_dim(value, binding)
        case Graph():
            return _bind(value, binding)
        case tuple():
            new = tuple(_bind_attribute(v, binding) for v in value)
            return value if all(a is b for a, b in zip(new, value, strict=True)) else new
    return value
