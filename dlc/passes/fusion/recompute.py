"""Gives readers copies of cheap values that they can compute from a tensor which is in memory anyway.

Storing such a value and reading it back would cost more than computing it again:
centred and normalised activations, the first steps of an activation's gradient.
It must not know groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlc.ir.graph import Graph, Node, Value, producers
from dlc.passes.node_facts import NodeFacts, NodeKind, shape_size

LEAST_ELEMENTS = 1024
MOST_WEIGHT = 10
"""Work per element, reads included, up to which a value is computed again."""


@dataclass(frozen=True)
class _Recipe:
    """A value is cheap work on the tensor ``base`` and on small ones."""

    base: Value
    weight: int


def duplicate_cheap(graph: Graph, facts_of: Callable[[Node], NodeFacts]) -> tuple[Graph, set[Node]]:
    """Return the graph in which every reader of a cheap value has its own copy, and the copies."""
    return _Duplication(graph, facts_of).run()


class _Duplication:
    def __init__(self, graph: Graph, facts_of: Callable[[Node], NodeFacts]) -> None:
        self.graph = graph
        self.facts = {node: facts_of(node) for node in graph.nodes}
        self.made_by = producers(graph)
        self.position = {node: k for k, node in enumerate(graph.nodes)}
        self.readers: dict[Value, list[Node]] = {}
        for node in graph.nodes:
            for value in dict.fromkeys(node.inputs):
                self.readers.setdefault(value, []).append(node)
        self.whole = set(graph.outputs)  # wanted as whole tensors
        for node in graph.nodes:
            if self.facts[node].kind in (NodeKind.OPAQUE, NodeKind.CONTRACTION):
                for value in node.inputs:
                    self._want(value)
        self.ends: set[Value] = set()
        """Results of contractions and of what continues them element by element."""
        self.recipes: dict[Value, _Recipe] = {}

    def _want(self, value: Value) -> None:
        pending = [value]
        while pending:
            current = pending.pop()
            self.whole.add(current)
            node = self.made_by.get(current)
            if node is not None and self.facts[node].kind is NodeKind.FREE:
                pending += node.inputs

    def run(self) -> tuple[Graph, set[Node]]:
        """Find the cheap values, then copy them, last ones first, so that chains are copied whole."""
        for node in self.graph.nodes:
            self._note(node)
        if not self.recipes:
            return self.graph, set()
        copies: set[Node] = set()
        backwards: list[Node] = []
        for node in reversed(self.graph.nodes):
            value = node.outputs[0] if len(node.outputs) == 1 else None
            if value is None or value not in self.recipes:
                self._place(node, backwards, copies)
        return self.graph.with_nodes(reversed(backwards)), copies

    def _place(self, node: Node, backwards: list[Node], copies: set[Node]) -> None:
        """Put ``node`` and, in front of it, its own copies of the cheap values that it reads."""
        mine: dict[Value, Value] = {}
        chain: list[Node] = []
        waiting = [v for v in node.inputs if v in self.recipes]
        while waiting:
            value = waiting.pop()
            if value in mine:
                continue
            mine[value] = Value(value.type, value.hint)
            maker = self.made_by[value]
            chain.append(maker)
            waiting += [v for v in maker.inputs if v in self.recipes]
        chain.sort(key=self.position.__getitem__)
        for maker in (node, *reversed(chain)):
            inputs = tuple(mine.get(v, v) for v in maker.inputs)
            outputs = maker.outputs if maker is node else (mine[maker.outputs[0]],)
            same = maker is node and inputs == maker.inputs
            placed = maker if same else Node(maker.op, inputs, maker.attributes, outputs, maker.origins)
            if maker is not node:
                copies.add(placed)
            backwards.append(placed)

    # -- which values are cheap -------------------------------------------------------------------

    def _note(self, node: Node) -> None:
        facts = self.facts[node]
        if len(node.outputs) != 1:
            return
        value = node.outputs[0]
        if facts.kind is NodeKind.CONTRACTION:
            self.ends.add(value)
        if facts.kind is not NodeKind.POINTWISE or facts.crosses:
            return
        size = shape_size(tuple(int(d) for d in value.type.shape))  # type: ignore[call-overload]
        base: Value | None = None
        weight = facts.weight
        for operand, read in zip(node.inputs, facts.maps, strict=True):
            if operand in self.ends and len(self.readers[operand]) == 1 and read == tuple(range(value.type.rank)):
                self.ends.add(value)
            source = self._source(operand)
            if int(source.type.size) * 8 <= size:  # type: ignore[call-overload]
                continue
            if source is not operand or read != tuple(range(value.type.rank)) or operand.type.shape != value.type.shape:
                return
            recipe = self.recipes.get(operand)
            weight += recipe.weight if recipe else 0
            found = recipe.base if recipe else operand
            if base not in (None, found):
                return
            base = found
        if base is None or size < LEAST_ELEMENTS or weight > MOST_WEIGHT or not self._in_memory(base):
            return
        readers = self.readers.get(value, [])
        smaller = value.type.dtype.itemsize < base.type.dtype.itemsize
        if len(readers) < 2 or value in self.whole or smaller:
            return
        if any(self.facts[r].kind not in (NodeKind.POINTWISE, NodeKind.REDUCTION) for r in readers):
            return
        self.recipes[value] = _Recipe(base, weight)

    def _source(self, value: Value) -> Value:
        while True:
            node = self.made_by.get(value)
            if node is None or self.facts[node].kind is not NodeKind.FREE or len(node.inputs) != 1:
                return value
            value = node.inputs[0]

    def _in_memory(self, value: Value) -> bool:
        """Tell whether ``value`` is stored whatever fusion does."""
        node = self.made_by.get(value)
        if node is None or value in self.whole or self.facts[node].kind is NodeKind.OPAQUE:
            return True
        return value in self.ends and len(self.readers.get(value, ())) >= 2
