"""Applying a pass inside regions: the graphs held by the attributes of control-flow nodes.

Recursion is over the nesting of regions only, never over the depth of a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.ir.graph import Graph, Node


def in_regions(graph: Graph, function: Callable[[Graph], Graph]) -> Graph:
    """Return ``graph`` with ``function`` applied to the regions of its nodes; the same object if none changed.

    ``function`` must keep the inputs and outputs of a region; it treats nested regions itself.
    """
    nodes = tuple(map_regions(node, function) if node.op.region else node for node in graph.nodes)
    return graph if all(a is b for a, b in zip(nodes, graph.nodes, strict=True)) else graph.with_nodes(nodes)


def map_regions(node: Node, function: Callable[[Graph], Graph]) -> Node:
    """Return ``node`` with ``function`` applied to its regions; the same object if none changed."""
    changes: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if isinstance(value, Graph):
            new: Any = function(value)
            if new is not value:
                changes[name] = new
        elif isinstance(value, tuple) and any(isinstance(v, Graph) for v in value):
            new = tuple(function(v) if isinstance(v, Graph) else v for v in value)
            if any(a is not b for a, b in zip(new, value, strict=True)):
                changes[name] = new
    if not changes:
        return node
    return Node(node.op, node.inputs, node.attributes.updated(**changes), node.outputs, node.origins)
