"""Constant folding: nodes whose operands are small constants become constants, within budgets.

What is larger stays for ``hoist``, which computes it once at load. Work is
counted, not timed, so that the result does not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from dlc.ir.attributes import Literal
from dlc.ir.builder import Builder
from dlc.ir.dims import SymbolicDim
from dlc.ir.graph import Graph, Node, Role, Value
from dlc.ir.interpret import evaluate_node
from dlc.ir.opdef import Trait
from dlc.passes.regions import in_regions


@dataclass(frozen=True)
class FoldOptions:
    """``max_bytes`` of one folded result or known input; ``max_work`` scalar steps in all."""

    max_bytes: int = 1 << 20
    max_work: int = 1 << 28


def fold(graph: Graph, options: FoldOptions = FoldOptions()) -> Graph:
    """Replace primitive nodes over known values by ``constant`` nodes; the same object if there are none.

    Known are ``constant`` nodes and inputs of role constant up to the limit. A broadcast or an iota stays a node,
    for a large constant is worth less than the few words that describe it; its users are folded all the same.
    """
    graph = in_regions(graph, lambda region: fold(region, options))
    known: dict[Value, np.ndarray] = {}
    for value, spec in graph.inputs_with(Role.CONSTANT):
        if spec.initial is not None and spec.initial.nbytes <= options.max_bytes and spec.replaced_by is None:
            known[value] = spec.initial
    nodes: list[Node] = []
    budget = options.max_work
    changed = False
    for node in graph.nodes:
        if node.op.name == "constant":
            known[node.outputs[0]] = node.attributes["value"].array
        elif (work := _work(node, known, options)) is not None and work <= budget:
            budget -= work
            results = evaluate_node(node, tuple(known[v] for v in node.inputs))
            known.update(zip(node.outputs, results, strict=True))
            if not _describes_itself(node):
                nodes += [_constant(node, v, array) for v, array in zip(node.outputs, results, strict=True)]
                changed = True
                continue
        nodes.append(node)
    return graph.with_nodes(nodes) if changed else graph


def _describes_itself(node: Node) -> bool:
    """Tell whether ``node`` makes more elements than it reads."""
    return sum(v.type.size for v in node.outputs) > sum(v.type.size for v in node.inputs)


def _work(node: Node, known: dict[Value, np.ndarray], options: FoldOptions) -> int | None:
    """Return the scalar steps of folding ``node``, or None where it cannot or must not be folded."""
    if node.op.is_composite or node.op.region or node.op.has(Trait.HOST):
        return None
    if not all(v in known for v in node.inputs) or not all(v.type.is_static for v in node.outputs):
        return None
    if any(isinstance(a, SymbolicDim) for a in node.attributes.values()):
        return None
    if any(v.type.nbytes > options.max_bytes for v in node.outputs):
        return None
    if node.op.compute is not None:
        compute = node.op.compute(node.input_types, node.output_types, node.attributes)
        return prod(a.extent for a in (*compute.axes, *compute.reduce_axes))
    return sum(int(v.type.size) for v in (*node.inputs, *node.outputs))


def _constant(node: Node, value: Value, array: np.ndarray) -> Node:
    """Return a ``constant`` node that makes ``value``."""
    builder = Builder()
    builder.emit("constant", (), {"value": Literal(array)})
    made = builder.nodes[0]
    return Node(made.op, (), made.attributes, (value,), node.origins)
