"""Tells runs so short that sharing them among threads costs more than it saves.

Threads meet after every step, for a microsecond where each has a core of its own, for far more where another program
takes one. It must not know kernels.
"""

from __future__ import annotations

from math import inf, prod

from dlc.ir.graph import Graph, Node, Value
from dlc.ir.opdef import Trait
from dlc.ir.ops.contract import contract_extents

FLOPS, BYTES = 50e3, 20e3
"""Operations of contractions, and bytes read and written, that one thread does in a microsecond, if it is slow."""


def takes_less(graph: Graph, microseconds: float) -> bool:
    """Whether one thread is expected to run the fused ``graph`` in less time; what is not known counts as long."""
    return _time(graph) < microseconds


def _time(graph: Graph) -> float:
    """Estimate the microseconds of a run on one thread."""
    return sum(_node_time(node) for node in graph.nodes)


def _node_time(node: Node) -> float:
    regions = [value for value in node.attributes.values() if isinstance(value, Graph)]
    if node.op.name == "fused":
        return max(sum(_flops(inner) for inner in regions[0].nodes) / FLOPS, _nbytes(node) / BYTES)
    if regions:
        length = node.attributes["length"] if "length" in node.attributes else None
        return max(length, 1) * sum(map(_time, regions)) if isinstance(length, int) else inf
    if node.op.region or any(isinstance(v, tuple) and v and isinstance(v[0], Graph) for v in node.attributes.values()):
        return inf
    return max(_flops(node) / FLOPS, _nbytes(node) / BYTES)


def _flops(node: Node) -> float:
    if not node.op.has(Trait.CONTRACTION):
        return 0
    extents = contract_extents(node.input_types, node.attributes).values()
    return 2 * prod(extent if isinstance(extent, int) else inf for extent in extents)


def _nbytes(node: Node) -> float:
    """Bytes read and written; symbols of inner loops may stay unbound."""
    values: dict[Value, None] = dict.fromkeys((*node.inputs, *node.outputs))
    return sum(v.type.nbytes if isinstance(v.type.nbytes, int) else inf for v in values)
