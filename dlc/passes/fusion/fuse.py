"""Fusion: groups primitives into ``fused`` nodes, each of which becomes one kernel or a few.

Decides by the kind of a node and by how it reads its operands, never by its name:
pointwise groups, row groups (reductions with what is computed along their rows),
contractions with their epilogues or with what reads slices of their columns.
Nodes that only say where to read are copied to their readers. It must not know
how groups are computed.
"""

from __future__ import annotations

from dlc.ir.graph import Graph
from dlc.ir.opdef import find_op
from dlc.passes.fusion.build import build
from dlc.passes.fusion.epilogue import as_epilogue
from dlc.passes.fusion.groups import GroupKind
from dlc.passes.fusion.pointwise import pointwise
from dlc.passes.fusion.rows import in_rows, reduction
from dlc.passes.fusion.slices import join_slices
from dlc.passes.fusion.state import FuseOptions, Grouping
from dlc.passes.node_facts import NodeKind
from dlc.passes.regions import map_regions


def fuse(graph: Graph, options: FuseOptions | None = None) -> Graph:
    """Return ``graph`` with groups of primitives as ``fused`` nodes; shapes must be static.

    Input: primitives only (after ``expand`` and ``layout``). Regions of control flow are fused inside.
    """
    chosen = options or FuseOptions()
    fused = find_op("fused")
    nodes = [map_regions(n, lambda r: fuse(r, chosen)) if n.op.region and n.op is not fused else n for n in graph.nodes]
    if any(a is not b for a, b in zip(nodes, graph.nodes, strict=True)):
        graph = graph.with_nodes(nodes)
    grouping = Grouping(graph, chosen)
    group_nodes(grouping)
    return build(grouping.graph, grouping.facts, [g for g in grouping.forest.groups if g.nodes])


def group_nodes(state: Grouping) -> None:
    """Group every node."""
    for position, node in enumerate(state.graph.nodes):
        facts = state.facts[node]
        match facts.kind:
            case NodeKind.FREE:
                continue
            case NodeKind.OPAQUE:
                state.alone(node, position, GroupKind.OPAQUE)
            case NodeKind.CONTRACTION:
                state.alone(node, position, GroupKind.CONTRACTION)
            case NodeKind.POINTWISE:
                if as_epilogue(state, node, position):
                    continue
                if node in state.copies or not in_rows(state, node, position):
                    pointwise(state, node, position)
            case NodeKind.REDUCTION:
                reduction(state, node, position)
    join_slices(state)
