"""Fusion rule: pointwise nodes become the epilogue of the contraction whose result they read."""

from __future__ import annotations

from dlc.ir.graph import Node
from dlc.passes.fuse_groups import GroupKind
from dlc.passes.fuse_kinds import NodeKind, shape_size
from dlc.passes.fuse_state import OUTSIDE, Grouping


def as_epilogue(state: Grouping, node: Node, position: int) -> bool:
    """Add a pointwise node to the contraction whose result it reads, where nobody else will miss that."""
    size = shape_size(state.shape(node))
    best: int | None = None
    if node in state.planned:
        best = state.forest.find(state.planned[node])
    for number in state.sources(node) if best is None else ():
        group = state.forest.group(number)
        if group.kind is not GroupKind.CONTRACTION or not _continues(state, node, number, size):
            continue
        if len(group.nodes) > state.options.most_epilogue_nodes or group.weight > state.options.most_epilogue_weight:
            continue
        if not state.internal(number, node) and not _plan(state, number, node):
            continue
        if best is None or group.last > state.forest.group(best).last:
            best = number
    if best is None or not state.acyclic([best], node):
        return False
    groups = [best]
    for number in state.sources(node):
        group = state.forest.group(number)
        light = group.weight <= state.options.most_sealed_weight and len(group.nodes) <= 8
        if number == best or group.kind is not GroupKind.POINTWISE or not light or group.crosses:
            continue
        if shape_size(group.shape) == size and state.reads_in_order(node, number) and state.internal(number, node):
            if state.acyclic([*groups, number], node):
                groups.append(number)
    state.join(node, position, groups)
    return True


def _continues(state: Grouping, node: Node, number: int, size: int) -> bool:
    """Tell whether ``node`` computes, per element of a contraction's result, one element in the same order."""
    return shape_size(state.forest.group(number).shape) == size and state.reads_in_order(node, number)


def _plan(state: Grouping, number: int, node: Node) -> bool:
    """Look ahead where a result has several readers: pointwise nodes that meet again can all be epilogue."""
    start = state.forest.group(number).nodes[-1].outputs[0]
    size = shape_size(state.forest.group(number).shape)
    inside: list[int] = []
    values = {start}
    waiting = list(state.uses.get(start, ()))
    for _ in range(state.options.most_epilogue_nodes):
        if not waiting or min(waiting) == OUTSIDE:
            return False
        position = min(waiting)
        waiting = [w for w in waiting if w != position]
        reader = state.graph.nodes[position]
        if state.facts[reader].kind is not NodeKind.POINTWISE or shape_size(state.shape(reader)) != size:
            return False
        for operand, value in enumerate(reader.inputs):
            base, alias = state.base(value)
            if base in values and not (alias and state.is_identity(reader, operand)):
                return False
        inside.append(position)
        values.add(reader.outputs[0])
        waiting += [u for u in state.uses.get(reader.outputs[0], ()) if u not in inside]
        known = set(inside)
        open_values = [v for v in values if any(u not in known for u in state.uses.get(v, (OUTSIDE,)))]
        if open_values == [reader.outputs[0]]:
            found = [state.graph.nodes[p] for p in inside]
            if any(reader in state.group_of or reader in state.planned for reader in found):
                return False
            state.planned.update((reader, number) for reader in found)
            return node in state.planned
    return False
