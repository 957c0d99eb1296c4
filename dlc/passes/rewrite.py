"""The rewrite driver: applies local rules, rebuilding the graph once per sweep.

A rule is a small function anchored on op names. The driver keeps node order,
checks that a replacement has the replaced type, and carries origins; rules do
not. Dead nodes are left to ``cleanup``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlc.errors import GraphError
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Value
from dlc.passes.cleanup import remove_dead
from dlc.passes.regions import in_regions

Replacement = Value | Sequence[Value] | None
RuleFunction = Callable[[Builder, Node, "Context"], Replacement]
MAX_SWEEPS = 16
MAX_ORIGINS = 8


@dataclass(frozen=True)
class Rule:
    """A rewrite anchored on ``ops``: returns the values that replace the node's results, or None.

    The function's first docstring line says "before -> after".
    """

    ops: tuple[str, ...]
    function: RuleFunction

    @property
    def name(self) -> str:
        return self.function.__name__


def rule(*ops: str) -> Callable[[RuleFunction], Rule]:
    """Make a function a rule on the ops named ``ops``."""
    return lambda function: Rule(ops, function)


class Context:
    """What a rule may ask about the graph being rebuilt.

    ``fixed`` holds the values that are the same in every run: computed from weights and constants alone.
    """

    def __init__(self, graph: Graph, builder: Builder, fixed: Collection[Value] = ()) -> None:
        self._builder = builder
        self._producers: dict[Value, Node] = {}
        self._synced = 0
        self._fixed = set(fixed)
        self.looked_up: dict[Node, None] = {}
        self._uses: Counter[Value] = Counter(graph.outputs)
        for node in graph.nodes:
            self._uses.update(node.inputs)

    def sync(self) -> None:
        """Take note of nodes emitted since the last call."""
        nodes = self._builder.nodes
        for position in range(self._synced, len(nodes)):
            node = nodes[position]
            for value in node.outputs:
                self._producers[value] = node
            if all(v in self._fixed for v in node.inputs):
                self._fixed.update(node.outputs)
        self._synced = len(nodes)

    def forget(self, position: int) -> None:
        """Undo the nodes emitted from ``position`` on."""
        for node in self._builder.nodes[position:]:
            for value in node.outputs:
                self._producers.pop(value, None)
                self._fixed.discard(value)
        del self._builder.nodes[position:]
        self._synced = min(self._synced, position)

    def resync(self, position: int) -> None:
        """Look again at the nodes from ``position`` on: they were exchanged for equal ones."""
        self._synced = min(self._synced, position)

    def replaced(self, node: Node, values: Sequence[Value], position: int) -> None:
        """Keep count of uses when ``values`` take the place of the results of ``node``."""
        for emitted in self._builder.nodes[position:]:
            self._uses.update(emitted.inputs)
        self._uses.subtract(node.inputs)
        for old, new in zip(node.outputs, values, strict=True):
            self._uses[new] += self._uses[old]

    def producer(self, value: Value, *ops: str) -> Node | None:
        """Return the node that makes ``value`` if it is one of ``ops`` (any, if none are named)."""
        if self._synced != len(self._builder.nodes):
            self.sync()
        node = self._producers.get(value)
        if node is None or (ops and node.op.name not in ops):
            return None
        self.looked_up[node] = None
        return node

    def has_one_use(self, value: Value) -> bool:
        """Tell whether exactly one node (or graph output) reads ``value``, once."""
        return self._uses[value] <= 1

    def is_fixed(self, value: Value) -> bool:
        """Tell whether ``value`` is the same in every run."""
        self.sync()
        return value in self._fixed

    def constant(self, value: Value) -> np.ndarray | None:
        """Return the array of a ``constant`` node, else None."""
        node = self.producer(value, "constant")
        return None if node is None else node.attributes["value"].array

    def uniform(self, value: Value) -> np.generic | None:
        """Return the one element that all elements of ``value`` equal: a constant seen through movements."""
        while (node := self.producer(value, "broadcast", "reshape", "transpose", "slice", "reverse")) is not None:
            value = node.inputs[0]
        array = self.constant(value)
        if array is None or array.size == 0 or array.dtype == object:
            return None
        first = array.reshape(-1)[:1]
        return first[0] if array.tobytes() == first.tobytes() * array.size else None


def rewrite(
    graph: Graph,
    rules: Sequence[Rule],
    fixed: Callable[[Graph], Collection[Value]] = lambda graph: (),
    max_sweeps: int = MAX_SWEEPS,
    hits: Counter[str] | None = None,
) -> Graph:
    """Apply ``rules``, in regions too, until none matches or ``max_sweeps`` sweeps are done.

    ``fixed`` gives the inputs of a graph that are the same in every run. ``hits`` counts matches by rule name.
    Returns the same object if nothing matched. Raises GraphError naming a rule that changes a type.
    """
    anchored: dict[str, list[Rule]] = {}
    for entry in rules:
        for op in entry.ops:
            anchored.setdefault(op, []).append(entry)

    def apply(graph: Graph, fixed: Callable[[Graph], Collection[Value]]) -> Graph:
        graph = in_regions(graph, lambda region: apply(region, lambda _: ()))
        for _ in range(max_sweeps):
            swept = _sweep(graph, anchored, fixed(graph), hits)
            if swept is graph:
                break
            graph = remove_dead(swept)
        return graph

    return apply(graph, fixed)


def _sweep(
    graph: Graph, anchored: Mapping[str, list[Rule]], fixed: Collection[Value], hits: Counter[str] | None
) -> Graph:
    """Rebuild the graph once, offering every node to its rules; the same object if none matched."""
    builder = Builder(graph.name)
    context = Context(graph, builder, fixed)
    mapping: dict[Value, Value] = {}
    for original in graph.nodes:
        node = with_inputs(original, mapping)
        rules = anchored.get(node.op.name)
        matched = None
        if rules:
            with builder.origin(*node.origins):
                matched = _first_match(rules, builder, node, context)
        if matched is None:
            builder.append(node)
            continue
        entry, values = matched
        mapping.update(zip(node.outputs, values, strict=True))
        if hits is not None:
            hits[entry.name] += 1
    if not mapping:
        return graph
    outputs = tuple(mapping.get(v, v) for v in graph.outputs)
    return replace(graph, nodes=tuple(builder.nodes), outputs=outputs)


def with_inputs(node: Node, mapping: Mapping[Value, Value]) -> Node:
    """Return ``node`` reading ``mapping``'s values; it keeps its results, so nothing after it changes."""
    if not any(v in mapping for v in node.inputs):
        return node
    inputs = tuple(mapping.get(v, v) for v in node.inputs)
    return Node(node.op, inputs, node.attributes, node.outputs, node.origins)


def _first_match(
    rules: Sequence[Rule], builder: Builder, node: Node, context: Context
) -> tuple[Rule, tuple[Value, ...]] | None:
    """Offer ``node`` to ``rules`` in order; what a rule emitted stays only if it matched."""
    position = len(builder.nodes)
    for entry in rules:
        context.looked_up.clear()
        result = entry.function(builder, node, context)
        if result is None:
            if len(builder.nodes) != position:
                context.forget(position)
            continue
        values = (result,) if isinstance(result, Value) else tuple(result)
        if tuple(v.type for v in values) != node.output_types:
            found = ", ".join(str(v.type) for v in values)
            raise GraphError(f"rewrite rule {entry.name!r} replaces {node!r} by values of types {found}")
        _carry_origins(builder, node, context, position)
        context.replaced(node, values, position)
        return entry, values
    return None


def _carry_origins(builder: Builder, node: Node, context: Context, position: int) -> None:
    """Give emitted nodes the origins of the producers that the rule absorbed, besides those of ``node``."""
    emitted = builder.nodes[position:]
    read = {v for e in emitted for v in e.inputs}
    absorbed = [n for n in context.looked_up if n.op.arity != 0 and not any(v in read for v in n.outputs)]
    origins = tuple(dict.fromkeys(o for n in (*absorbed, node) for o in n.origins))[:MAX_ORIGINS]
    if origins == node.origins:
        return
    for offset, e in enumerate(emitted):
        builder.nodes[position + offset] = Node(e.op, e.inputs, e.attributes, e.outputs, origins)
    context.resync(position)
