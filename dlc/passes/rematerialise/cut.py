"""Which forward values later nodes read from memory and which are computed again: a minimum cut.

On the side of the source is what the forward part leaves behind, on the side of the
sink what must be there later. Cutting a value costs its bytes, cutting a node off the
source costs its work at a price. It must not know how graphs are rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import networkx

from dlc.ir.graph import Node
from dlc.passes.rematerialise.facts import Costs, Parts, compared_pairs, frontiers

SCALE = 1 << 20
"""Capacities are integers, so that a cut is exact; prices go down to one byte for a million steps."""

_SOURCE, _SINK = -1, -2


def nodes_to_repeat(parts: Parts, costs: Costs, price: float, heavy: bool, segments: int) -> set[Node]:
    """Choose the forward nodes that are computed again; see ``RematerialiseOptions``."""
    cuts = frontiers(parts, costs, segments)
    crossing = frozenset(v for _, values in cuts for v in values)
    last = set(parts.forward[cuts[-1][0] :]) if cuts else set()

    def kept(node: Node) -> bool:
        if any(v in crossing for v in node.outputs):
            return True
        # The last segment's gradients come next: repeating its heavy work at once would save nothing.
        return costs.of(node).heavy and (not heavy or node in last)

    return cheapest_cut(parts, lambda node: costs.of(node).cost, price, kept, compared_pairs(parts, costs))


def cheapest_cut(
    parts: Parts,
    cost: Callable[[Node], int],
    price: float,
    kept: Callable[[Node], bool],
    pairs: Iterable[tuple[Node, Node]] = (),
) -> set[Node]:
    """Return the nodes to compute again.

    ``cost`` is the work of a node in steps, ``price`` the bytes that a step must save. A node that is ``kept`` is not
    computed again: of its results, those that are wanted stay in memory. With the first of ``pairs`` the second is
    computed again. Of equal cuts, that with the fewest nodes.
    """
    nodes = _behind(parts)
    if not nodes:
        return set()
    flow = networkx.DiGraph()
    vertex: dict[object, int] = {}
    for node in nodes:
        place = vertex.setdefault(node, len(vertex))
        if kept(node):
            flow.add_edge(_SOURCE, place)  # without a capacity: never cut
        else:
            flow.add_edge(_SOURCE, place, capacity=1 + int(cost(node) * price * SCALE))
        for value in node.outputs:
            flow.add_edge(place, vertex.setdefault(value, len(vertex)), capacity=int(value.type.nbytes) * SCALE)
    for node in nodes:
        for value in node.inputs:
            if value in vertex:
                flow.add_edge(vertex[value], vertex[node])
    for first, second in pairs:
        if first in vertex and second in vertex:
            flow.add_edge(vertex[second], vertex[first])
    for value in parts.wanted:
        flow.add_edge(vertex[value], _SINK)
    _, (_, later) = networkx.minimum_cut(flow, _SOURCE, _SINK)
    return {node for node in nodes if vertex[node] in later}


def _behind(parts: Parts) -> list[Node]:
    """Return the forward nodes that wanted values depend on, in order."""
    needed = set(parts.wanted)
    found: list[Node] = []
    for node in reversed(parts.forward):
        if any(v in needed for v in node.outputs):
            needed.update(node.inputs)
            found.append(node)
    found.reverse()
    return found
