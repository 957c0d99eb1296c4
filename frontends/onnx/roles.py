"""Roles of imported weights: which initializers are trained, which are state, which stay constants.

Looks at how the finished graph uses them: at operands of ops, through casts and moves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from dlc.frontends.onnx.untie import STATISTICS, untie
from dlc.frontends.onnx.values import LARGEST_LITERAL
from dlc.ir.attributes import Attributes, Literal
from dlc.ir.graph import Graph, InputSpec, Node, Role, Signature, Value
from dlc.ir.opdef import find_op

_WEIGHT_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "conv": (1,),
    "conv_transpose": (1,),
    "matmul": (0, 1),
    "einsum": (0, 1, 2, 3),
    "layer_norm": (1, 2),
    "rms_norm": (1,),
    "group_norm": (1, 2),
    "batch_norm": (1, 2),
    "gather": (0,),
    "prelu": (1,),
    "lstm": (1, 2, 3),
    "gru": (1, 2, 3, 4),
    "rnn": (1, 2, 3),
}
"""Operands that hold weights, biases or scales, by op."""

_PASSING = {"reshape", "transpose", "broadcast", "cast", "slice", "concat", "reverse"}


def assign_roles(graph: Graph, initializers: Collection[Value]) -> Graph:
    """Return ``graph`` with its CONSTANT inputs turned into parameters and state, and small others into nodes.

    ``initializers`` are the inputs that hold the model's initializers. Of these, floats of rank >= 1 that reach a
    weight, bias or scale become trainable parameters; running statistics of batch norm become state that training
    replaces.
    """
    graph, initializers = untie(graph, initializers)
    specs = dict(zip(graph.inputs, graph.signature.inputs, strict=True))
    candidates = {v for v in initializers if v.type.dtype.is_float and v.type.rank > 0}
    statistics = _statistics(graph, candidates)
    trainable = _trainable(graph, candidates - set(statistics))
    inputs: list[Value] = []
    kept: list[InputSpec] = []
    small: list[Node] = []
    outputs, names = list(graph.outputs), list(graph.signature.outputs)
    for value, spec in specs.items():
        if value in statistics:
            spec = replace(spec, role=Role.STATE, replaced_by=f"{spec.name}:next")
            outputs.append(statistics[value])
            names.append(f"{spec.name}:next")
        elif value in trainable:
            spec = replace(spec, role=Role.PARAMETER, trainable=True)
        elif spec.role is Role.CONSTANT and _is_small(spec.initial):
            small.append(Node(find_op("constant"), (), Attributes(value=Literal(np.asarray(spec.initial))), (value,)))
            continue
        inputs.append(value)
        kept.append(spec)
    signature = Signature(tuple(kept), tuple(names))
    return Graph(graph.name, tuple(inputs), (*small, *graph.nodes), tuple(outputs), signature)


def _is_small(array: np.ndarray | None) -> bool:
    return array is not None and array.nbytes <= LARGEST_LITERAL


def _statistics(graph: Graph, candidates: set[Value]) -> dict[Value, Value]:
    """Return running mean and variance inputs of batch norms with the values that replace them."""
    found: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op.name == "batch_norm":
            for index in STATISTICS:
                value = node.inputs[index]
                if value in candidates and value not in found:
                    found[value] = node.outputs[index - 2]
    return found


def _needed(graph: Graph) -> list[Node]:
    """Return the nodes whose results the outputs depend on, in order."""
    wanted, needed = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            needed.append(node)
    return needed[::-1]


def _trainable(graph: Graph, candidates: set[Value]) -> set[Value]:
    """Return the candidates that reach an operand in a weight's place, in nodes that the outputs need."""
    origin: dict[Value, set[Value]] = {value: {value} for value in candidates}
    products: set[Value] = set()  # results of contractions: what is added to them is a bias
    found: set[Value] = set()
    for node in _needed(graph):
        name = node.op.name
        if name in _PASSING:
            sources = set().union(*(origin.get(v, set()) for v in node.inputs))
            if sources:
                origin[node.outputs[0]] = sources
            if name in ("reshape", "transpose", "cast") and node.inputs[0] in products:
                products.add(node.outputs[0])
        elif name in ("add", "mul"):
            _affine(node, origin, products, found)
        else:
            for index in _WEIGHT_OPERANDS.get(name, ()):
                if index < len(node.inputs):
                    found |= origin.get(node.inputs[index], set())
            if name in ("matmul", "einsum", "conv", "conv_transpose"):
                products.add(node.outputs[0])
    return found


def _affine(node: Node, origin: dict[Value, set[Value]], products: set[Value], found: set[Value]) -> None:
    """An initializer added to or multiplied with a computed value is a bias or a scale, unless it is one number."""
    for mine, other in ((0, 1), (1, 0)):
        sources = origin.get(node.inputs[mine])
        if sources and node.inputs[other] not in origin:
            after_product = node.inputs[other] in products and node.op.name == "add"
            found |= {v for v in sources if after_product or v.type.size != 1}
    both = [origin.get(v) for v in node.inputs]
    if all(both):  # weights computed from weights (weight norm and the like)
        origin[node.outputs[0]] = set().union(*(s for s in both if s))
