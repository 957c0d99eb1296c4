"""Chooses which nodes run for a part of the batch at a time, and how large a part is. It must not change a graph.

A value that its reader finds in memory costs its bytes three times: to be written, for which its lines are read first,
and to be read. One of a part is found in cache. Against that stand further steps and weights that each part reads anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, islice

from dlc.ir.graph import Graph, Node, Value
from dlc.passes.batch.rows import Rows

PASSES = 3
"""How often the bytes of a value go between memory and a processor: line read, line written, read by its reader."""
OVERLAPPED = 0.5
"""The part of a node's arithmetic during which its memory traffic costs nothing."""
GAIN = 0.02
"""What must be saved, as a part of the time that the whole graph's arithmetic takes."""


@dataclass(frozen=True)
class Machine:
    """What all threads of a run have together, by cycles of one of them.

    ``cache_bytes`` are what a step can leave behind for the next; bytes per cycle come from there (``near``) and from
    memory (``far``); ``operations`` is the number of additions and multiplications, ``step`` what a further step costs
    in cycles.
    """

    cache_bytes: int
    near: float
    far: float
    operations: float
    step: float


@dataclass(frozen=True)
class Stretch:
    """Nodes, in order, that run for ``part`` of ``extent`` rows at a time."""

    nodes: tuple[Node, ...]
    extent: int
    part: int


def choose_stretch(graph: Graph, rows: Mapping[Node, Rows], machine: Machine) -> Stretch | None:
    """Return the stretch that saves most, None if none saves enough. ``rows`` has the nodes that work row by row."""
    choice = _Choice(graph, rows, machine)
    return choice.best() if choice.far and choice.part < choice.extent else None


def nbytes(*values: Value) -> int:
    """Return the bytes of values of static shape."""
    return sum(int(value.type.nbytes) for value in values)  # type: ignore[call-overload]


class _Choice:
    """Nodes that sum over something (``heavy``) and those of them whose results go to memory (``far``)."""

    def __init__(self, graph: Graph, rows: Mapping[Node, Rows], machine: Machine) -> None:
        self.graph, self.machine = graph, machine
        self.order = {node: k for k, node in enumerate(graph.nodes)}
        summing = [n for n in graph.nodes if n in rows and rows[n].operations and rows[n].sliced]
        moved = {n: nbytes(*n.outputs, *(n.inputs[k] for k in rows[n].sliced)) for n in summing}
        most = max(moved.values(), default=0)
        self.extent = next((rows[n].extent for n in summing if moved[n] == most), 0)
        self.rows = {n: r for n, r in rows.items() if r.extent == self.extent}
        self.heavy = [n for n in summing if n in self.rows]
        self.far = [n for n in self.heavy if moved[n] > machine.cache_bytes]
        self.part = _largest_divisor(self.extent, self.extent * machine.cache_bytes // max(most, 1))
        self.fitting = {n for n, r in self.rows.items() if self._fits(n, r)} if self.far else set()
        self.positions = [self.order[n] for n in self.heavy]
        self.costs = [0.0, *accumulate(map(self._cost, self.heavy))]
        self.readers = self._readers()

    def best(self) -> Stretch | None:
        """Add up what is saved node by node, and begin anew where that has come to cost or a node does not fit."""
        arithmetic = sum(rows.operations for rows in self.rows.values()) / self.machine.operations
        found: tuple[int, int] | None = None
        most, first = GAIN * arithmetic, 0
        while first < len(self.far):
            begin, end, saved = self._begin(self.far[first]), 0, 0.0
            walk = self._walk(begin)
            for number in range(first, len(self.far)):
                node = self.far[number]
                if not next(fits for passed, fits in walk if passed is node):
                    break
                first = number
                saved += self._saved(node)
                end = max(end, self.order[node], self.readers.get(node.outputs[0], 0))
                net = saved - self._between(begin, end)
                if net > most:
                    most, found = net, (begin, end)
                if net < 0:
                    break
            first += 1
        if found is None:
            return None
        begin, end = found
        after = bisect_right(self.positions, end)
        limit = self.positions[after] if after < len(self.positions) else len(self.order)
        nodes = tuple(node for node, fits in islice(self._walk(begin), limit - begin) if fits)
        return Stretch(nodes, self.extent, self.part)

    def _fits(self, node: Node, rows: Rows) -> bool:
        """Tell whether a node reads rows, and does the same to a part of them."""
        return bool(rows.sliced) and rows.attributes_for(node, self.part) is not None

    def _readers(self) -> dict[Value, int]:
        """Return the position of the last heavy node that reads a value, itself or what is made of it on the way."""
        readers: dict[Value, int] = {}
        heavy = set(self.heavy)
        for node in reversed(self.graph.nodes):
            place = self.order[node] if node in heavy else max(readers.get(v, 0) for v in node.outputs)
            for value in node.inputs:
                readers[value] = max(readers.get(value, 0), place)
        return readers

    def _begin(self, node: Node) -> int:
        """Return where a stretch for ``node`` begins: what comes before all heavy nodes goes with the first."""
        return 0 if node is self.heavy[0] else self.order[node]

    def _walk(self, begin: int) -> Iterator[tuple[Node, bool]]:
        """Yield each node from ``begin`` on, and whether it does to parts of its operands what it does to all of them.

        Nodes that need what only others make of those do not. Who needs few nodes must not pay for all.
        """
        inside, beyond = set[Value](), set[Value]()
        for place in range(begin, len(self.graph.nodes)):
            node = self.graph.nodes[place]
            fits = node in self.fitting and not any(v in beyond for v in node.inputs)
            if fits and not any(v in inside and k not in self.rows[node].sliced for k, v in enumerate(node.inputs)):
                inside.update(node.outputs)
                yield node, True
                continue
            if any(v in inside or v in beyond for v in node.inputs):
                beyond.update(node.outputs)
            yield node, False

    def _saved(self, node: Node) -> float:
        """Return the cycles that a node and the reader of its result wait less for memory."""
        waiting = PASSES * nbytes(*node.outputs) * (1 / self.machine.far - 1 / self.machine.near)
        return max(0.0, waiting - OVERLAPPED * self.rows[node].operations / self.machine.operations)

    def _cost(self, node: Node) -> float:
        """Return the cycles that a heavy node costs once more."""
        weights = (v for k, v in enumerate(node.inputs) if k not in self.rows[node].sliced)
        return self.machine.step + nbytes(*weights) / self.machine.near

    def _between(self, begin: int, end: int) -> float:
        """Return the cycles that the heavy nodes from ``begin`` to ``end`` cost for all parts but one."""
        first, last = bisect_left(self.positions, begin), bisect_right(self.positions, end)
        return (self.extent // self.part - 1) * (self.costs[last] - self.costs[first])


def _largest_divisor(number: int, most: int) -> int:
    return max((d for d in range(1, min(number, most) + 1) if number % d == 0), default=1)
