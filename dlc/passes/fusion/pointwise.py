"""Fusion rule: pointwise nodes join what they read element by element, or compute it where they read it."""

from __future__ import annotations

from dlc.ir.graph import Node
from dlc.passes.fusion.groups import GroupKind
from dlc.passes.fusion.state import Grouping
from dlc.passes.node_facts import shape_size


def pointwise(state: Grouping, node: Node, position: int) -> None:
    """Add a pointwise node to the pointwise groups that it reads from, or begin one."""
    shape = state.shape(node)
    size = shape_size(shape)
    chosen: list[int] = []
    sealed: list[int] = []
    sources = state.sources(node)
    for number in sorted(sources, key=lambda g: -state.forest.group(g).last):
        group = state.forest.group(number)
        if group.kind is not GroupKind.POINTWISE or not state.fits([*chosen, *sealed, number], node):
            continue
        if node in state.copies and not all(n in state.copies for n in group.nodes):
            continue  # a copy is there to be computed where it is read, not where its operands are made
        if group.crosses and not (state.reads_only(node, number) and state.internal(number, node)):
            continue
        same = shape_size(group.shape) == size and state.reads_in_order(node, number)
        if not same and not state.can_seal(number, node, size):
            continue
        if state.acyclic([*chosen, *sealed, number], node):
            (chosen if same else sealed).append(number)
    if chosen and sealed and any(state.forest.group(g).shape != shape for g in chosen):
        sealed = []
    for number in sealed:
        group = state.forest.group(number)
        group.sealed.update(v for n in group.nodes for v in n.outputs)
    if not chosen and not sealed:
        state.alone(node, position, GroupKind.POINTWISE)
        return
    joined = state.forest.group(state.join(node, position, [*chosen, *sealed]))
    if not chosen:
        joined.shape = shape
