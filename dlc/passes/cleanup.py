"""Cleanup: dead nodes removed, equal nodes merged, inputs that nothing reads dropped. All in linear time.

Every op is pure (randomness takes an explicit key), so that equal nodes have equal results.
"""

from __future__ import annotations

from dataclasses import replace

from dlc.ir.graph import Graph, Node, Role, Signature, Value
from dlc.ir.opdef import Trait
from dlc.passes.regions import in_regions


def cleanup(graph: Graph) -> Graph:
    """Merge equal nodes and remove dead ones, in regions too. Inputs and outputs stay as they are."""
    return remove_dead(merge_equal(in_regions(graph, cleanup)))


def remove_dead(graph: Graph) -> Graph:
    """Remove the nodes that no output depends on; the same object if there are none."""
    live: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            live.update(node.inputs)
            kept.append(node)
    return graph if len(kept) == len(graph.nodes) else graph.with_nodes(reversed(kept))


def merge_equal(graph: Graph) -> Graph:
    """Replace a node by an earlier one with the same op, operands and attributes; the same object if none is."""
    seen: dict[tuple, Node] = {}
    mapping: dict[Value, Value] = {}
    numbers: dict[Value, int] = {}
    nodes: list[Node] = []
    for original in graph.nodes:
        node = original
        if any(v in mapping for v in original.inputs):
            inputs = tuple(mapping.get(v, v) for v in original.inputs)
            node = Node(original.op, inputs, original.attributes, original.outputs, original.origins)
        operands = tuple(numbers.setdefault(v, len(numbers)) for v in node.inputs)
        if node.op.has(Trait.COMMUTATIVE):
            operands = tuple(sorted(operands))
        key = (node.op, operands, node.attributes)
        first = seen.setdefault(key, node)
        if first is node:
            nodes.append(node)
        else:
            mapping.update(zip(node.outputs, first.outputs, strict=True))
    if not mapping:
        return graph
    return replace(graph, nodes=tuple(nodes), outputs=tuple(mapping.get(v, v) for v in graph.outputs))


def prune_state(graph: Graph) -> Graph:
    """Drop state that cannot matter to an inference, and weights that nothing reads.

    A replacement goes if it is the input itself, or if nothing but replacements that go depend on the input.
    Inputs of role data and target always stay.
    """
    replaced = {
        spec.replaced_by: value
        for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True)
        if spec.replaced_by is not None
    }
    updates = {name: v for name, v in zip(graph.signature.outputs, graph.outputs, strict=True) if name in replaced}
    live = {v for name, v in zip(graph.signature.outputs, graph.outputs, strict=True) if name not in replaced}
    makers = {v: node for node in graph.nodes for v in node.outputs}
    pending = list(live)
    update_of = {replaced[name]: v for name, v in updates.items() if v is not replaced[name]}
    while pending:
        value = pending.pop()
        found = [*makers[value].inputs] if value in makers else []
        if value in update_of:
            found.append(update_of[value])
        fresh = [v for v in dict.fromkeys(found) if v not in live]
        live.update(fresh)
        pending += fresh
    dropped = {name for name in updates if replaced[name] not in update_of or replaced[name] not in live}
    kept_inputs = [
        (v, replace(s, replaced_by=None) if s.replaced_by in dropped else s)
        for v, s in zip(graph.inputs, graph.signature.inputs, strict=True)
        if v in live or s.role in (Role.DATA, Role.TARGET)
    ]
    kept_outputs = [
        (name, v) for name, v in zip(graph.signature.outputs, graph.outputs, strict=True) if name not in dropped
    ]
    if len(kept_inputs) == len(graph.inputs) and not dropped:
        return graph
    pruned = replace(
        graph,
        inputs=tuple(v for v, _ in kept_inputs),
        outputs=tuple(v for _, v in kept_outputs),
        signature=Signature(tuple(s for _, s in kept_inputs), tuple(name for name, _ in kept_outputs)),
    )
    return remove_dead(pruned)
