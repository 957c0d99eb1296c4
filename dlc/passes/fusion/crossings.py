"""Shares transposes: elementwise(x) that is transposed several times becomes elementwise of one transposed x.

Optimizers read a gradient in several terms, each of which layout has transposed
by itself; one crossing of memory is enough. It must not know groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlc.ir.attributes import Attributes
from dlc.ir.graph import Graph, Node, Value, producers
from dlc.ir.opdef import Trait, find_op
from dlc.ir.types import TensorType
from dlc.passes.node_facts import NodeFacts, NodeKind


@dataclass(frozen=True)
class _Term:
    """``movement`` of what ``chain`` (last node first) computes, element by element, of ``base`` and scalars."""

    movement: Node
    chain: tuple[Node, ...]
    base: Value


def share_transposes(graph: Graph, facts_of: Callable[[Node], NodeFacts]) -> Graph:
    """Return the graph with one transpose per tensor and order where several elementwise terms wanted it."""
    sharing = _Sharing(graph, facts_of)
    terms = [t for node in graph.nodes if (t := sharing.term(node)) is not None]
    by_key: dict[tuple, list[_Term]] = {}
    for term in terms:
        by_key.setdefault((term.base, term.movement.op, term.movement.attributes), []).append(term)
    shared = [found for found in by_key.values() if len(found) > 1]
    return sharing.rewritten(shared) if shared else graph


class _Sharing:
    def __init__(self, graph: Graph, facts_of: Callable[[Node], NodeFacts]) -> None:
        self.graph = graph
        self.facts = {node: facts_of(node) for node in graph.nodes}
        self.made_by = producers(graph)
        self.readers: dict[Value, int] = {v: 1 for v in graph.outputs}
        for node in graph.nodes:
            for value in dict.fromkeys(node.inputs):
                self.readers[value] = self.readers.get(value, 0) + 1

    def term(self, node: Node) -> _Term | None:
        """Return the term that ``node`` moves, None if it is no transpose."""
        facts = self.facts[node]
        if facts.kind is not NodeKind.POINTWISE or not facts.crosses or len(node.inputs) != 1:
            return None
        base = node.inputs[0]
        chain: list[Node] = []
        while self.readers[base] == 1:
            maker = self.made_by.get(base)
            below = self._only_tensor(maker) if maker is not None else None
            if maker is None or below is None:
                break
            chain.append(maker)
            base = below
        return _Term(node, tuple(chain), base)

    def _only_tensor(self, node: Node) -> Value | None:
        """Return the one operand, beside scalars, of an elementwise node."""
        if not node.op.has(Trait.ELEMENTWISE):
            return None
        tensors = {v for v in node.inputs if self._scalar(v) is None}
        return tensors.pop() if len(tensors) == 1 else None

    def _scalar(self, value: Value) -> Value | None:
        """Return the scalar that ``value`` repeats, None if it is no such broadcast."""
        node = self.made_by.get(value)
        if node is None or self.facts[node].kind is not NodeKind.FREE or len(node.inputs) != 1:
            return None
        return node.inputs[0] if node.inputs[0].type.rank == 0 else None

    def rewritten(self, shared: list[list[_Term]]) -> Graph:
        """Return the graph with the terms of each list computed from one transposed base."""
        moved: dict[Node, tuple[_Term, Value]] = {}
        gone: set[Node] = set()
        for terms in shared:
            movement = terms[0].movement
            turned = Value(TensorType(terms[0].base.type.dtype, movement.outputs[0].type.shape))
            for term in terms:
                moved[term.movement] = (term, turned)
                gone.update(term.chain)
        made: set[Value] = set()
        nodes: list[Node] = []
        for node in self.graph.nodes:
            if node in gone:
                continue
            if node not in moved:
                nodes.append(node)
                continue
            term, turned = moved[node]
            if turned not in made:
                made.add(turned)
                nodes.append(Node(node.op, (term.base,), node.attributes, (turned,), node.origins))
            nodes += self._again(term, turned)
        return self.graph.with_nodes(nodes)

    def _again(self, term: _Term, turned: Value) -> list[Node]:
        """Return the chain of ``term`` computed from the transposed base; it makes the value that was moved."""
        result = term.movement.outputs[0]
        if not term.chain:  # readers of the moved base itself: an elementwise identity would cost; a reshape does not
            attributes = Attributes({"shape": result.type.shape})
            return [Node(find_op("reshape"), (turned,), attributes, (result,), term.movement.origins)]
        shape = result.type.shape
        nodes: list[Node] = []
        renamed: dict[Value, Value] = {term.base: turned}
        for node in reversed(term.chain):
            inputs = []
            for value in node.inputs:
                scalar = self._scalar(value)
                if scalar is not None and value not in renamed:
                    wide = Value(TensorType(value.type.dtype, shape))
                    attributes = Attributes({"shape": shape, "dims": ()})
                    nodes.append(Node(find_op("broadcast"), (scalar,), attributes, (wide,), node.origins))
                    renamed[value] = wide
                inputs.append(renamed[value])
            last = node is term.chain[0]
            output = result if last else Value(TensorType(node.outputs[0].type.dtype, shape))
            nodes.append(Node(node.op, tuple(inputs), node.attributes, (output,), node.origins))
            renamed[node.outputs[0]] = output
        return nodes
