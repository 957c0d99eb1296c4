"""Trimming scans: results that nothing reads, operands that the body ignores, and results given twice."""

from __future__ import annotations

from dataclasses import replace

from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Value, region_signature
from dlc.passes.cleanup import remove_dead
from dlc.passes.regions import in_regions
from dlc.passes.rewrite import with_inputs


def trim_scans(graph: Graph) -> Graph:
    """Drop unused results and operands of every scan, in regions too; the same object if there are none."""
    graph = in_regions(graph, trim_scans)
    if not any(node.op.name == "scan" for node in graph.nodes):
        return graph
    # Backwards, so that what a later scan no longer reads can be dropped from an earlier one.
    used: set[Value] = set(graph.outputs)
    builder = Builder(graph.name)
    mapping: dict[Value, Value] = {}
    trimmed: list[Node] = []
    for node in reversed(graph.nodes):
        if node.op.name == "scan":
            node = _trim(node, used, mapping)
        used.update(node.inputs)
        trimmed.append(node)
    if all(a is b for a, b in zip(trimmed[::-1], graph.nodes, strict=True)):
        return graph
    for node in reversed(trimmed):
        builder.append(with_inputs(node, mapping))
    outputs = tuple(mapping.get(v, v) for v in graph.outputs)
    return remove_dead(replace(graph, nodes=tuple(builder.nodes), outputs=outputs))


def _trim(node: Node, used: set[Value], mapping: dict[Value, Value]) -> Node:
    """Return the scan without unused parts; ``mapping`` gets the results that another one stands for."""
    a, body = node.attributes, node.attributes["body"]
    carries, sequences = a["carries"], a["sequences"]
    first: dict[Value, Value] = {}
    kept_results: list[int] = []
    for k in range(carries, len(node.outputs)):
        if node.outputs[k] not in used:
            continue
        if body.outputs[k] in first:
            mapping[node.outputs[k]] = first[body.outputs[k]]
            continue
        first[body.outputs[k]] = node.outputs[k]
        kept_results.append(k)
    kept_carries = _needed_carries(node, kept_results, used)
    outputs = [*kept_carries, *kept_results]
    region = remove_dead(replace(body, outputs=tuple(body.outputs[k] for k in outputs)))
    read = {v for n in region.nodes for v in n.inputs} | set(region.outputs)
    kept = [k for k, v in enumerate(body.inputs) if k in kept_carries or (k >= carries and v in read)]
    if len(kept) == len(node.inputs) and len(outputs) == len(node.outputs):
        return node
    region = replace(
        region,
        inputs=tuple(body.inputs[k] for k in kept),
        signature=region_signature(len(kept), len(outputs)),
    )
    attributes = a.updated(
        body=region, carries=len(kept_carries), sequences=sum(carries <= k < carries + sequences for k in kept)
    )
    inputs = tuple(node.inputs[k] for k in kept)
    return Node(node.op, inputs, attributes, tuple(node.outputs[k] for k in outputs), node.origins)


def _needed_carries(node: Node, results: list[int], used: set[Value]) -> list[int]:
    """Return the carries that a used result depends on, in any step."""
    body, carries = node.attributes["body"], node.attributes["carries"]
    makers = {v: n for n in body.nodes for v in n.outputs}
    position = {v: k for k, v in enumerate(body.inputs[:carries])}
    needed = {k for k in range(carries) if node.outputs[k] in used}
    pending = [body.outputs[k] for k in (*results, *sorted(needed))]
    seen: set[Value] = set(pending)
    while pending:
        value = pending.pop()
        found = list(makers[value].inputs) if value in makers else []
        if value in position and position[value] not in needed:
            needed.add(position[value])
            found.append(body.outputs[position[value]])
        fresh = [v for v in dict.fromkeys(found) if v not in seen]
        seen.update(fresh)
        pending += fresh
    return sorted(needed)
