"""Structure of a graph of names: definitions, order, cycles, and recursion of functions.

It works on protobuf names only and knows no op's meaning. Nothing recurses over
the number of nodes.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

from dlc.errors import InvalidModelError, ResourceLimitError
from dlc.frontends.onnx.names import hint, shown
from dlc.frontends.onnx.problems import Sink
from dlc.frontends.onnx.versions import canonical_domain

FunctionKey = tuple[str, str, str]
MAXIMUM_NESTING = 40
MAXIMUM_NODES = 2_000_000


@dataclass(frozen=True)
class Body:
    """Nodes with the names they may use and must define: a graph's or a function's."""

    label: str
    inputs: tuple[str, ...]
    initializers: tuple[str, ...]
    nodes: Sequence[NodeProto]
    outputs: tuple[str, ...]


def graph_body(graph: GraphProto, label: str) -> Body:
    """Return the Body of a graph."""
    dense = [t.name for t in graph.initializer]
    sparse = [t.values.name for t in graph.sparse_initializer]
    names = tuple(v.name for v in graph.input)
    return Body(label, names, tuple(dense + sparse), graph.node, tuple(v.name for v in graph.output))


def function_body(function: FunctionProto) -> Body:
    """Return the Body of a model-local function."""
    label = f"function {shown(function.name)}"
    return Body(label, tuple(function.input), (), function.node, tuple(function.output))


def node_label(node: NodeProto, index: int) -> str:
    """Return the node's name, or ``OpType_index`` for a node without one; safe to print."""
    name = node.name or f"{node.op_type}_{index}"
    return name if name.isprintable() and len(name) <= 200 else shown(name)


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs in a node's attributes."""
    found = []
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found.append(attribute.g)
        elif attribute.type == AttributeProto.GRAPHS:
            found.extend(attribute.graphs)
    return found


def free_names(graph: GraphProto, depth: int = 0) -> set[str]:
    """Return the names that a subgraph takes from the graphs around it."""
    if depth > MAXIMUM_NESTING:
        raise ResourceLimitError(f"subgraphs are nested more than {MAXIMUM_NESTING} deep")
    body = graph_body(graph, "")
    inside = set(body.inputs) | set(body.initializers)
    used = set(body.outputs)
    for node in graph.node:
        used.update(node.input)
        for inner in subgraphs(node):
            used |= free_names(inner, depth + 1)
        inside.update(node.output)
    return used - inside - {""}


def check_body(body: Body, outer: Collection[str], sink: Sink, depth: int = 0) -> None:
    """Report duplicate and undefined names and cycles of ``body`` and its subgraphs."""
    defined = _definitions(body, sink)
    for index, node in enumerate(body.nodes):
        label = node_label(node, index)
        needed = list(node.input)
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            known = _Union(defined, outer)
            if depth >= MAXIMUM_NESTING:
                sink.report(
                    ResourceLimitError(f"node {label}: subgraphs are nested more than {MAXIMUM_NESTING} deep"), label
                )
                continue
            for inner in subgraphs(node):
                check_body(graph_body(inner, f"subgraph {shown(inner.name)} of node {label}"), known, sink, depth + 1)
        for name in needed:
            if name and name not in defined and name not in outer:
                sink.report(_undefined(name, f"node {label} ({node.op_type}) reads", body, defined, outer), label)
    for name in body.outputs:
        if name not in defined and name not in outer:
            sink.report(_undefined(name, f"{body.label} lists the output", body, defined, outer))
    order(body, sink)


class _Union:
    """Names defined here or outside, without copying either."""

    def __init__(self, inner: Collection[str], outer: Collection[str]) -> None:
        self._parts = (inner, outer)

    def __contains__(self, name: object) -> bool:
        return any(name in part for part in self._parts)

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from part

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)


def _definitions(body: Body, sink: Sink) -> dict[str, str]:
    defined: dict[str, str] = {}
    inputs = set(body.inputs)

    def define(name: str, where: str) -> None:
        if name in defined:
            error = f"{body.label} defines {shown(name)} twice: as {defined[name]} and as {where}; rename one"
            sink.report(InvalidModelError(error))
        defined[name] = where

    for name in body.inputs:
        define(name, "an input")
    stored: set[str] = set()
    for name in body.initializers:
        if name in inputs and name not in stored:
            stored.add(name)
            continue
        define(name, "an initializer")
    for index, node in enumerate(body.nodes):
        for name in node.output:
            if name:
                define(name, f"an output of node {node_label(node, index)}")
    return defined


def _undefined(name: str, who: str, body: Body, defined: Collection[str], outer: Collection[str]) -> InvalidModelError:
    known = _Union(defined, outer)
    return InvalidModelError(f"{who} {shown(name)}, which nothing in {body.label} defines{hint(name, known)}")


def order(body: Body, sink: Sink) -> list[int]:
    """Return node indices in an order that defines before use, the stored order where that is one.

    Reports a cycle with its path (the nodes on cycles are then left out) and warns where sorting was needed.
    """
    producer: dict[str, int] = {name: i for i, node in enumerate(body.nodes) for name in node.output if name}
    needs: list[list[int]] = []
    sorted_already = True
    for index, node in enumerate(body.nodes):
        names: Iterable[str] = node.input
        inner = subgraphs(node) if node.attribute else []
        if inner:
            names = [*node.input, *(name for graph in inner for name in free_names(graph))]
        sources = [producer[name] for name in names if name in producer]
        sorted_already = sorted_already and all(source < index for source in sources)
        needs.append(sources)
    if sorted_already:
        return list(range(len(body.nodes)))
    waiting = [len(set(sources)) for sources in needs]
    followers: list[list[int]] = [[] for _ in needs]
    for index, sources in enumerate(needs):
        for source in set(sources):
            followers[source].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    result: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        result.append(index)
        for follower in followers[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, follower)
    if len(result) < len(needs):
        sink.report(_cycle(body, needs, {i for i, count in enumerate(waiting) if count > 0}))
    else:
        sink.warn(InvalidModelError(f"the nodes of {body.label} are not in execution order; dlc sorted them"))
    return result


def _cycle(body: Body, needs: Sequence[Sequence[int]], stuck: set[int]) -> InvalidModelError:
    path: list[int] = []
    position: dict[int, int] = {}
    current = min(stuck)
    while current not in position:
        position[current] = len(path)
        path.append(current)
        current = next(source for source in needs[current] if source in stuck)
    ring = [node_label(body.nodes[i], i) for i in reversed(path[position[current] :])]
    text = " -> ".join([*ring[:12], *(["..."] if len(ring) > 12 else []), ring[0]])
    return InvalidModelError(f"{body.label} has a cycle of {len(ring)} nodes: {text}")


def function_table(model: onnx.ModelProto) -> dict[FunctionKey, FunctionProto]:
    """Return the model's functions by (domain, name, overload)."""
    return {(canonical_domain(f.domain), f.name, f.overload): f for f in model.functions}


def node_key(node: NodeProto) -> FunctionKey:
    """Return the key under which a node's function would be found."""
    return (canonical_domain(node.domain), node.op_type, node.overload)


def all_nodes(nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
    """Yield nodes and those of their subgraphs."""
    pending = [iter(nodes)]
    while pending:
        for node in pending[-1]:
            yield node
            if node.attribute and len(pending) <= MAXIMUM_NESTING:
                inner = subgraphs(node)
                if inner:
                    pending.extend(iter(graph.node) for graph in inner)
                    break
        else:
            pending.pop()


def check_functions(model: onnx.ModelProto, functions: Mapping[FunctionKey, FunctionProto], sink: Sink) -> None:
    """Report recursive functions with their cycle, too deep calls, and models that inline to too many nodes."""
    if not functions:
        return
    calls = {key: [node_key(n) for n in all_nodes(f.node)] for key, f in functions.items()}
    sizes: dict[FunctionKey, int] = {}
    depths: dict[FunctionKey, int] = {}
    for root in functions:
        path: list[FunctionKey] = []
        pending: list[tuple[FunctionKey, bool]] = [(root, False)]
        while pending:
            key, done = pending.pop()
            if done:
                path.pop()
                sizes[key] = sum(sizes.get(c, 1) for c in calls[key])
                depths[key] = 1 + max((depths.get(c, 0) for c in calls[key]), default=0)
                continue
            if key in sizes:
                continue
            if key in path:
                ring = [name for _, name, _ in path[path.index(key) :]] + [key[1]]
                sink.report(InvalidModelError(f"functions call themselves: {' -> '.join(ring[:20])}"))
                sizes[key], depths[key] = 1, 1
                continue
            path.append(key)
            pending.append((key, True))
            pending.extend((c, False) for c in dict.fromkeys(calls[key]) if c in functions and c not in sizes)
    total = sum(sizes.get(node_key(n), 1) for n in all_nodes(model.graph.node))
    if total > MAXIMUM_NODES:
        sink.report(ResourceLimitError(f"the model's functions expand to {total} nodes; the limit is {MAXIMUM_NODES}"))
    if max(depths.values()) > MAXIMUM_NESTING:
        sink.report(ResourceLimitError(f"functions call one another more than {MAXIMUM_NESTING} deep"))
