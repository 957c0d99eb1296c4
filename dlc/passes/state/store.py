"""Stores state in another order of its dimensions than the graph computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, InputSpec, Node, Value
from dlc.ir.types import TensorType
from dlc.passes.layout.reshape import Layout


@dataclass(frozen=True)
class StoreStateOptions:
    """``orders`` gives, by name, the dimensions of an input in the order in which they are stored."""

    orders: Mapping[str, Layout] = field(default_factory=dict)


def store_state(graph: Graph, options: StoreStateOptions) -> Graph:
    """Return ``graph`` with inputs, and what replaces them, in the orders of ``options``, transposed for its nodes.

    ``layout`` takes such transposes for what they are, other names of the same dimensions.
    """
    if not options.orders:
        return graph
    builder = Builder(graph.name)
    inputs: list[Value] = []
    specs: list[InputSpec] = []
    logical: dict[Value, Value] = {}
    turned: dict[str, Layout] = {}
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        order = options.orders.get(spec.name)
        if order is None:
            inputs.append(value)
            specs.append(spec)
            continue
        stored = Value(TensorType(value.type.dtype, tuple(value.type.shape[d] for d in order)), value.hint)
        logical[value] = builder.transpose_to(stored, inverse(order))
        initial = None if spec.initial is None else spec.initial.transpose(order)  # a view: who runs it copies
        inputs.append(stored)
        specs.append(replace(spec, initial=initial))
        if spec.replaced_by is not None:
            turned[spec.replaced_by] = order
    for node in graph.nodes:
        read = tuple(logical.get(v, v) for v in node.inputs)
        builder.append(Node(node.op, read, node.attributes, node.outputs, node.origins))
    outputs = []
    for value, name in zip(graph.outputs, graph.signature.outputs, strict=True):
        result = logical.get(value, value)
        outputs.append(builder.transpose_to(result, turned[name]) if name in turned else result)
    signature = replace(graph.signature, inputs=tuple(specs))
    return replace(graph, inputs=tuple(inputs), nodes=tuple(builder.nodes), outputs=tuple(outputs), signature=signature)


def inverse(order: Layout) -> Layout:
    """Return the permutation that undoes ``order``."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))
