"""Rematerialisation: values of the forward part are computed again where gradients read them, instead of kept.

Whatever crosses from the forward part does so through a ``barrier``, so that fusion
neither stores more than was chosen nor computes it early. Every op is pure, random
ones too: a second computation gives the first one's values, sums rounded in another order at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlc.ir.attributes import Attributes
from dlc.ir.graph import Graph, Node, Origin, Phase, Value
from dlc.ir.opdef import find_op
from dlc.passes.rematerialise.cut import nodes_to_repeat
from dlc.passes.rematerialise.facts import Costs, Parts, gradients_to_store, is_update, parts_of


@dataclass(frozen=True)
class RematerialiseOptions:
    """How much work memory is worth.

    ``price`` is the bytes that one scalar step of computing again must save. With ``heavy``, contractions and control
    flow may be computed again, else only what is cheap. The forward part is cut into ``segments``: what crosses from
    one to the next is kept, so that a segment is computed again from its own beginning, when its gradients are due.
    """

    price: float = 1 / 64
    heavy: bool = False
    segments: int = 1


def rematerialise(graph: Graph, options: RematerialiseOptions = RematerialiseOptions()) -> Graph:
    """Return the training graph that keeps fewest bytes of its forward part; the same object if that is all of them.

    Input: primitives with static shapes, after the other passes and before fusion. The values that stay in memory and
    the nodes computed again are the minimum, over all choices, of bytes kept plus ``price`` times work done twice.
    """
    parts = parts_of(graph)
    again = nodes_to_repeat(parts, Costs(), options.price, options.heavy, options.segments)
    return _Rebuild(graph, parts, again).run() if again else graph


class _Rebuild:
    """Copies a graph; later nodes read barriers behind what is kept, and copies of what is computed again."""

    def __init__(self, graph: Graph, parts: Parts, again: set[Node]) -> None:
        self.graph, self.again = graph, again
        self.made_by = parts.made_by
        self.forward, self.later = set(parts.forward), set(parts.later)
        self.stored = gradients_to_store(parts)
        self.nodes: list[Node] = []
        self.seen_later: dict[Value, Value] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if node in self.later:
                self._provide(node.inputs)
                if is_update(node):
                    self._store_gradients(node)
                node = self._reading_later(node, node.outputs, node.origins)
            self.nodes.append(node)
        return self.graph.with_nodes(self.nodes)

    def _provide(self, values: Sequence[Value]) -> None:
        """Place what makes forward ``values`` available later, operands before their users."""
        pending = [v for v in reversed(values) if self._is_missing(v)]
        while pending:
            value = pending[-1]
            maker = self.made_by[value]
            if not self._is_missing(value):
                pending.pop()
            elif maker not in self.again:
                pending.pop()
                self._add(_barrier(value, _late(maker)), (value,))
            elif missing := [v for v in maker.inputs if self._is_missing(v)]:
                pending += reversed(missing)
            else:
                pending.pop()
                results = tuple(_like(v) for v in maker.outputs)
                self._add(self._reading_later(maker, results, _late(maker)), maker.outputs)

    def _store_gradients(self, node: Node) -> None:
        for value in node.inputs:
            if value in self.stored and value not in self.seen_later:
                self._add(_barrier(value, self.made_by[value].origins), (value,))

    def _is_missing(self, value: Value) -> bool:
        return self.made_by.get(value) in self.forward and value not in self.seen_later

    def _add(self, node: Node, values: Sequence[Value]) -> None:
        self.nodes.append(node)
        self.seen_later.update(zip(values, node.outputs, strict=True))

    def _reading_later(self, node: Node, outputs: tuple[Value, ...], origins: tuple[Origin, ...]) -> Node:
        inputs = tuple(self.seen_later.get(v, v) for v in node.inputs)
        return Node(node.op, inputs, node.attributes, outputs, origins)


def _barrier(value: Value, origins: tuple[Origin, ...]) -> Node:
    return Node(find_op("barrier"), (value,), Attributes({}), (_like(value),), origins)


def _like(value: Value) -> Value:
    return Value(value.type, value.hint)


def _late(node: Node) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(Origin(o.name, Phase.BACKWARD) for o in node.origins))
