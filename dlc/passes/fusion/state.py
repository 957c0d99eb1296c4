"""The state of fusion: groups so far, who reads what, and the questions that every rule asks.

It must not decide what belongs together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlc.ir.graph import Graph, Node, Value, producers
from dlc.passes.fusion.crossings import share_transposes
from dlc.passes.fusion.groups import Group, GroupForest, GroupKind
from dlc.passes.fusion.recompute import duplicate_cheap
from dlc.passes.node_facts import NodeFacts, NodeKind, facts_of, shape_size

OUTSIDE = -1
"""A reader that wants the whole tensor: a graph output, or a node that is never fused with what it reads."""


@dataclass(frozen=True)
class FuseOptions:
    """Limits of groups.

    ``most_nodes`` and ``most_weight`` (work per element) bound every group, ``most_epilogue_*`` what follows a
    contraction, ``most_sealed_weight`` what is computed where a reader moves it to, ``most_window_weight`` what
    is computed again for every window. Rows that are not contiguous stay in one kernel up to
    ``most_rows_in_cache`` elements. Contractions of up to ``most_sliced_rows`` rows are joined by what reads
    slices of their columns.
    """

    most_nodes: int = 64
    most_weight: int = 1200
    most_epilogue_nodes: int = 24
    most_epilogue_weight: int = 160
    most_sealed_weight: int = 64
    most_window_weight: int = 12
    most_rows_in_cache: int = 4096
    most_sliced_rows: int = 32


class Grouping:
    """All nodes with their facts and groups; rules add one node after the other."""

    def __init__(self, graph: Graph, options: FuseOptions) -> None:
        self.options = options
        self.forest = GroupForest()
        self._known: dict[tuple, NodeFacts] = {}
        graph, self.copies = duplicate_cheap(share_transposes(graph, self._facts_of), self._facts_of)
        self.graph = graph
        self.facts: dict[Node, NodeFacts] = {node: self._facts_of(node) for node in graph.nodes}
        self.made_by = producers(graph)
        self.position = {node: k for k, node in enumerate(graph.nodes)}
        self.group_of: dict[Node, int] = {}
        self.uses: dict[Value, list[int]] = {}
        self.readers: dict[tuple, int] = {}
        self.planned: dict[Node, int] = {}
        """Pointwise nodes that are to be epilogues, and of which contraction."""
        self._count_uses()

    def _facts_of(self, node: Node) -> NodeFacts:
        key = (node.op, node.attributes, node.input_types, node.output_types) if not node.op.region else (node,)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = facts_of(node)
        return known

    def _count_uses(self) -> None:
        """List the real readers of every value, through nodes that readers take a copy of."""
        for value in self.graph.outputs:
            self._use(value, OUTSIDE)
        for number, node in enumerate(self.graph.nodes):
            kind = self.facts[node].kind
            if kind is NodeKind.FREE:
                continue
            opaque = kind is NodeKind.OPAQUE or kind is NodeKind.CONTRACTION
            for value in dict.fromkeys(node.inputs):
                self._use(value, OUTSIDE if opaque else number)

    def _use(self, value: Value, reader: int) -> None:
        pending = [value]
        while pending:
            current = pending.pop()
            self.uses.setdefault(current, []).append(reader)
            node = self.made_by.get(current)
            if node is not None and self.facts[node].kind is NodeKind.FREE:
                pending += node.inputs

    def base(self, value: Value) -> tuple[Value, bool]:
        """Return the value that ``value`` is read from, and whether only aliases lie between."""
        alias = True
        while True:
            node = self.made_by.get(value)
            if node is None or self.facts[node].kind is not NodeKind.FREE or len(node.inputs) != 1:
                return value, alias
            alias = alias and self.facts[node].alias
            value = node.inputs[0]

    def is_identity(self, node: Node, operand: int) -> bool:
        """Tell whether ``node`` reads the operand's element of its own row-major position."""
        found = self.facts[node].maps[operand]
        return (
            found == tuple(range(node.outputs[0].type.rank))
            and node.inputs[operand].type.shape == node.outputs[0].type.shape
        )

    def sources(self, node: Node) -> dict[int, int]:
        """Return the groups that ``node`` reads from, as group number -> an operand that comes from it."""
        found: dict[int, int] = {}
        for operand, value in enumerate(node.inputs):
            for maker in self.makers(value):
                found.setdefault(maker, operand)
        return found

    def makers(self, value: Value) -> list[int]:
        """Return the groups that make ``value``, through free nodes."""
        pending, found = [value], []
        while pending:
            node = self.made_by.get(pending.pop())
            if node is None:
                continue
            if self.facts[node].kind is NodeKind.FREE:
                pending += node.inputs
            else:
                found.append(self.forest.find(self.group_of[node]))
        return found

    def shape(self, node: Node) -> tuple[int, ...]:
        return tuple(int(d) for d in node.outputs[0].type.shape)  # type: ignore[call-overload]

    def alone(self, node: Node, position: int, kind: GroupKind) -> int:
        shape = self.shape(node) if len(node.outputs) == 1 and node.outputs[0].type.is_static else ()
        group = Group(kind, [node], position, position, shape, weight=self.facts[node].weight)
        group.crosses = self.facts[node].crosses
        group.inputs = set(self.sources(node))
        number = self.forest.add(group)
        self.group_of[node] = number
        return number

    def join(self, node: Node, position: int, groups: Sequence[int]) -> int:
        """Put ``node`` into the union of ``groups``; the first says what kind it is."""
        number = self.forest.find(groups[0])
        for other in groups[1:]:
            number = self.forest.merge(number, other)
        group = self.forest.group(number)
        group.nodes.append(node)
        group.last = max(group.last, position)
        group.weight += self.facts[node].weight
        group.crosses = group.crosses or self.facts[node].crosses
        group.inputs |= set(self.sources(node))
        group.inputs = {i for i in map(self.forest.find, group.inputs) if i != number}
        self.group_of[node] = number
        return number

    def fits(self, groups: Iterable[int], node: Node) -> bool:
        found = [self.forest.group(g) for g in groups]
        nodes = sum(len(g.nodes) for g in found) + 1
        weight = sum(g.weight for g in found) + self.facts[node].weight
        return nodes <= self.options.most_nodes and weight <= self.options.most_weight

    def acyclic(self, groups: Sequence[int], node: Node) -> bool:
        """Tell whether ``groups`` and ``node`` can be one group: no path leaves it and comes back."""
        chosen = {self.forest.find(g) for g in groups}
        starts = set(self.sources(node)) - chosen
        if len(chosen) > 1:
            for number in chosen:
                starts |= {self.forest.find(i) for i in self.forest.group(number).inputs}
        return not self.forest.reaches(chosen, starts - chosen)

    def used_inside(self, values: Iterable[Value], groups: Iterable[int], node: Node) -> bool:
        """Tell whether ``values`` are read only by ``node`` and by members of ``groups``."""
        chosen = {self.forest.find(g) for g in groups}
        here = self.position[node]
        for value in values:
            for reader in self.uses.get(value, ()):
                if reader == here:
                    continue
                if reader == OUTSIDE:
                    return False
                number = self.group_of.get(self.graph.nodes[reader])
                if number is None or self.forest.find(number) not in chosen:
                    return False
        return True

    def internal(self, number: int, node: Node) -> bool:
        """Tell whether everything that group ``number`` makes is read by itself and ``node`` only."""
        members = self.forest.group(number).nodes
        return self.used_inside((v for n in members for v in n.outputs), (number,), node)

    def reads_only(self, node: Node, number: int) -> bool:
        """Tell whether ``node`` reads nothing large but what group ``number`` makes."""
        size = shape_size(self.shape(node))
        for value in node.inputs:
            base, _ = self.base(value)
            if number not in self.makers(value) and int(base.type.size) * 8 > size:  # type: ignore[call-overload]
                return False
        return True

    def reads_in_order(self, node: Node, number: int) -> bool:
        """Tell whether all that ``node`` reads from a group it reads at its own position."""
        for operand, value in enumerate(node.inputs):
            if number in self.makers(value):
                base, alias = self.base(value)
                if not alias or not self.is_identity(node, operand) or base in self.forest.group(number).sealed:
                    return False
        return True

    def can_seal(self, number: int, node: Node, size: int) -> bool:
        """Tell whether a group may be computed at the indices that ``node`` reads: nobody else wants it."""
        group = self.forest.group(number)
        light = group.weight <= self.options.most_sealed_weight
        repeats = size > 2 * shape_size(group.shape)
        if repeats and group.weight > 4:
            return False
        return light and self.internal(number, node)
