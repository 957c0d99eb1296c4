"""Fusion rule: pointwise groups that read contractions' results in slices of their columns join them.

So the gates of a recurrent step, which one product makes or several, are computed by the tasks that multiply.
"""

from __future__ import annotations

from dlc.passes.fusion.groups import Group, GroupKind
from dlc.passes.fusion.state import OUTSIDE, Grouping
from dlc.passes.node_facts import NodeKind, shape_size


def join_slices(state: Grouping) -> None:
    """Join contractions of few rows with the one pointwise group that reads their results, if it does so in slices.

    What is added to such a result before it is cut may be another one. The groups must be complete. Of more rows, a
    task would keep more of the results than its nearest cache holds.
    """
    for number, group in enumerate(state.forest.groups):
        if not group.nodes or group.kind is not GroupKind.POINTWISE:
            continue
        shape, joined = group.shape, number
        found: int | None = number
        while found is not None:
            sources = sorted({state.forest.find(i) for i in state.forest.group(joined).inputs})
            found = next((s for s in sources if _joins(state, s, joined, shape)), None)
            if found is not None:
                joined = _join(state, found, joined)


def _joins(state: Grouping, source: int, number: int, shape: tuple[int, ...]) -> bool:
    """Tell whether contraction ``source`` joins group ``number``, which reads slices of ``shape``."""
    contraction, group = state.forest.group(source), state.forest.group(number)
    if contraction.kind is not GroupKind.CONTRACTION or not contraction.shape:
        return False
    made, columns = contraction.nodes[-1].outputs[0], contraction.shape[-1]
    rows = shape_size(contraction.shape) // max(columns, 1)
    if rows > state.options.most_sliced_rows or group.crosses or len(contraction.shape) != len(shape):
        return False
    if contraction.shape[:-1] != shape[:-1] or not 0 < shape[-1] < columns or columns % shape[-1]:
        return False
    if len(contraction.nodes) + len(group.nodes) > state.options.most_nodes:
        return False
    if contraction.weight + group.weight > state.options.most_weight:
        return False
    members = set(group.nodes)
    readers = state.uses.get(made, [OUTSIDE])
    if OUTSIDE in readers or any(state.graph.nodes[r] not in members for r in readers):
        return False
    if any(made in node.inputs and state.shape(node) != contraction.shape for node in group.nodes):
        return False
    starts = {state.forest.find(i) for i in (*contraction.inputs, *group.inputs)} - {source, number}
    return _made_once(state, contraction) and not state.forest.reaches({source, number}, starts)


def _made_once(state: Grouping, contraction: Group) -> bool:
    """Tell whether nothing but the last value of a contraction's group is read outside of it."""
    members = set(contraction.nodes)
    for node in contraction.nodes[:-1]:
        for reader in state.uses.get(node.outputs[0], [OUTSIDE]):
            if reader == OUTSIDE or state.graph.nodes[reader] not in members:
                return False
    return state.facts[contraction.nodes[0]].kind is NodeKind.CONTRACTION


def _join(state: Grouping, source: int, number: int) -> int:
    inputs = state.forest.group(source).inputs | state.forest.group(number).inputs
    joined = state.forest.merge(source, number)
    state.forest.group(joined).inputs = {i for i in map(state.forest.find, inputs) if i != joined}
    return joined
