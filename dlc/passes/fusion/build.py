"""Rebuilds a graph from groups: bodies with the free nodes that they read through, in a valid order.

It must not decide what belongs together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dlc.errors import GraphError
from dlc.ir.attributes import Attributes
from dlc.ir.graph import Graph, Node, Value, producers, region_signature
from dlc.ir.opdef import find_op
from dlc.passes.fusion.groups import Group
from dlc.passes.node_facts import NodeFacts, NodeKind


def build(graph: Graph, facts: Mapping[Node, NodeFacts], groups: Sequence[Group]) -> Graph:
    """Return ``graph`` with every group of several nodes as one ``fused`` node."""
    builder = _Build(graph, facts, groups)
    nodes = builder.nodes()
    if len(nodes) == len(graph.nodes) and all(a is b for a, b in zip(nodes, graph.nodes, strict=True)):
        return graph
    return graph.with_nodes(nodes)


class _Build:
    def __init__(self, graph: Graph, facts: Mapping[Node, NodeFacts], groups: Sequence[Group]) -> None:
        self.graph = graph
        self.facts = facts
        self.groups = list(groups)
        self.made_by = producers(graph)
        self.position = {node: k for k, node in enumerate(graph.nodes)}
        self.members: dict[Node, int] = {n: k for k, g in enumerate(self.groups) for n in g.nodes}
        self.copies: list[list[Node]] = []
        self.inputs: list[list[Value]] = []
        for number, group in enumerate(self.groups):
            group.nodes.sort(key=self.position.__getitem__)
            copies, inputs = self._copies(number, group)
            self.copies.append(copies)
            self.inputs.append(inputs)

    # -- what a group reads ------------------------------------------------------------------------

    def _copies(self, number: int, group: Group) -> tuple[list[Node], list[Value]]:
        """Return the free nodes that the group takes copies of and the values that it reads from outside."""
        if self._takes_operands_as_they_are(group):
            return [], list(dict.fromkeys(v for n in group.nodes for v in n.inputs))
        decided: dict[Value, bool] = {}  # value -> whether its free producer is copied
        copies: dict[Node, None] = {}
        # What a contraction reads as it is exists outside: the rest of the group reads it there too.
        contracted = [v for n in group.nodes if self.facts[n].kind is NodeKind.CONTRACTION for v in n.inputs]
        inputs = dict.fromkeys(v for v in contracted if not self._is_member(v, number))
        for node in group.nodes:
            for value in node.inputs:
                if value in inputs or self._is_member(value, number):
                    continue
                if self._copied(value, number, decided):
                    self._collect(value, number, decided, copies, inputs)
                else:
                    inputs[value] = None
        return sorted(copies, key=self.position.__getitem__), list(inputs)

    def _is_member(self, value: Value, number: int) -> bool:
        maker = self.made_by.get(value)
        return maker is not None and self.members.get(maker) == number

    def _takes_operands_as_they_are(self, group: Group) -> bool:
        kind = self.facts[group.nodes[0]].kind
        return len(group.nodes) == 1 and kind in (NodeKind.OPAQUE, NodeKind.CONTRACTION)

    def _free(self, value: Value) -> Node | None:
        node = self.made_by.get(value)
        return node if node is not None and self.facts[node].kind is NodeKind.FREE else None

    def _copied(self, value: Value, number: int, decided: dict[Value, bool]) -> bool:
        """Tell whether the group copies the free producer of ``value``.

        An alias of something outside costs nothing where it is; everything else is read through.
        """
        path: list[tuple[Value, Node]] = []
        current = value
        while current not in decided:
            node = self._free(current)
            if node is None:
                decided[current] = self._is_member(current, number)
                break
            path.append((current, node))
            if len(node.inputs) != 1:
                break
            current = node.inputs[0]
        for reached, node in reversed(path):
            inner = len(node.inputs) == 1 and decided.get(node.inputs[0], False)
            decided[reached] = inner or not self.facts[node].alias
        return decided[value]

    def _collect(
        self, value: Value, number: int, decided: dict[Value, bool], copies: dict[Node, None], inputs: dict[Value, None]
    ) -> None:
        pending = [value]
        while pending:
            current = pending.pop()
            if current in inputs or self._is_member(current, number):
                continue
            node = self._free(current)
            if node is None or not self._copied(current, number, decided):
                inputs[current] = None
                continue
            copies[node] = None
            pending += node.inputs

    # -- the new graph -------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """Return the new nodes in an order in which every value is made before it is read."""
        wanted_free = self._free_nodes_outside()
        outside = self._values_read_outside(wanted_free)
        units: list[Callable[[], Node]] = []
        reads: list[Sequence[Value]] = []
        rank: list[int] = []
        made_in: dict[Value, int] = {}
        for number, group in enumerate(self.groups):
            unit = len(units)
            made = [v for n in group.nodes for v in n.outputs]
            made_in.update((v, unit) for v in made)
            units.append(lambda number=number: self._node_of(number, outside))  # type: ignore[misc]
            reads.append(self.inputs[number])
            rank.append(self.position[group.nodes[-1]])
        for node in wanted_free:
            made_in.update((v, len(units)) for v in node.outputs)
            units.append(lambda node=node: self._alone(node))  # type: ignore[misc]
            reads.append(node.inputs)
            rank.append(self.position[node])
        return [units[u]() for u in _ordered(reads, rank, made_in, self.graph.name)]

    def _free_nodes_outside(self) -> list[Node]:
        """Return the free nodes that must exist by themselves: read as whole tensors, or outputs."""
        wanted: dict[Node, None] = {}
        pending = [*self.graph.outputs, *(v for values in self.inputs for v in values)]
        while pending:
            node = self._free(pending.pop())
            if node is not None and node not in wanted:
                wanted[node] = None
                pending += node.inputs
        return sorted(wanted, key=self.position.__getitem__)

    def _values_read_outside(self, wanted_free: Sequence[Node]) -> set[Value]:
        read = set(self.graph.outputs)
        for values in self.inputs:
            read.update(values)
        for node in wanted_free:
            read.update(node.inputs)
        return read

    def _alone(self, node: Node) -> Node:
        """A free node by itself: what only renumbers elements is a reshape, which costs nothing."""
        if self.facts[node].alias and len(node.inputs) == 1:
            reshape = find_op("reshape")
            if node.op is not reshape:
                shape = Attributes({"shape": node.outputs[0].type.shape})
                return Node(reshape, node.inputs, shape, node.outputs, node.origins)
        return node

    def _node_of(self, number: int, outside: set[Value]) -> Node:
        group = self.groups[number]
        copies = self.copies[number]
        if len(group.nodes) == 1 and not copies:
            return group.nodes[0]
        inputs = self.inputs[number]
        outputs = tuple(v for n in group.nodes for v in n.outputs if v in outside)
        inner: dict[Value, Value] = {v: Value(v.type, v.hint) for v in inputs}
        body: list[Node] = []
        known: dict[tuple, Node] = {}
        for node in sorted([*copies, *group.nodes], key=self.position.__getitem__):
            key = (node.op, node.attributes, tuple(inner[v] for v in node.inputs))
            twin = known.setdefault(key, node)
            if twin is not node and not any(v in outside for v in node.outputs):
                inner.update((v, inner[w]) for v, w in zip(node.outputs, twin.outputs, strict=True))
                continue
            results = tuple(Value(v.type, v.hint) for v in node.outputs)
            body.append(Node(node.op, tuple(inner[v] for v in node.inputs), node.attributes, results, node.origins))
            inner.update(zip(node.outputs, results, strict=True))
        region = Graph(
            "fused",
            tuple(inner[v] for v in inputs),
            tuple(body),
            tuple(inner[v] for v in outputs),
            region_signature(len(inputs), len(outputs)),
        )
        origins = tuple(dict.fromkeys(o for n in group.nodes for o in n.origins))
        return Node(find_op("fused"), tuple(inputs), Attributes({"body": region}), outputs, origins)


def _ordered(
    reads: Sequence[Sequence[Value]], rank: Sequence[int], made_in: Mapping[Value, int], name: str
) -> list[int]:
    """Return units so that each follows those it reads: in the old order, but for what is fetched when it is needed.

    A group stands where its last node stood. What reads another of its nodes fetches it; the units between, ready or
    not, keep their places: they would only make values that nobody reads yet.
    """
    order: list[int] = []
    begun, done = [False] * len(reads), [False] * len(reads)
    for first in sorted(range(len(reads)), key=lambda unit: (rank[unit], unit)):
        pending = [first]
        while pending:
            unit = pending[-1]
            missing = [] if done[unit] else _missing(unit, reads, made_in, done)
            if not missing:
                pending.pop()
                if not done[unit]:
                    done[unit] = True
                    order.append(unit)
                continue
            if begun[unit]:
                raise GraphError(f"fusion made a cycle in graph {name!r}")
            begun[unit] = True
            pending += sorted(missing, key=lambda source: (-rank[source], -source))
    return order


def _missing(
    unit: int, reads: Sequence[Sequence[Value]], made_in: Mapping[Value, int], done: Sequence[bool]
) -> set[int]:
    return {made_in[v] for v in reads[unit] if v in made_in and not done[made_in[v]]} - {unit}
