"""Homes of values inside others: parts of concatenations and of padded images, which their producers write in place.

Decides who may live where from what nodes read and make; whether a producer writes there is found when it is lowered.
It must not know kernels nor memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dlc.codegen.lower.joins import Part, body_of, find_parts, reads_anywhere
from dlc.codegen.places import static_shape
from dlc.driver.live_bytes import LiveBytes
from dlc.ir.graph import Graph, Node, Value, producers
from dlc.ir.placement import Inside, Layout, Placement, row_major
from dlc.ir.program import View
from dlc.ir.types import TensorType

ALIASES = ("reshape", "barrier")
"""Nodes whose result is the same bytes, under another shape or at another time."""
WITHOUT_STEPS = ("constant", *ALIASES)


@dataclass(frozen=True)
class Home:
    """A value's place in ``holder``, the result of a join that is part of nothing itself: from element ``first`` on.

    ``node`` is the join that has the value as its ``part``; its result may live in the holder as well.
    """

    holder: Value
    first: int
    layout: Layout
    node: Node
    part: Part


@dataclass
class Residents:
    """Homes of a graph's values by the values that producers make, and which of them have moved in so far.

    ``holders`` gives the buffers of values that others have moved into.
    """

    homes: Mapping[Value, Home]
    bases: Mapping[Value, Value]
    settled: dict[Value, Home] = field(default_factory=dict)
    holders: dict[Value, View] = field(default_factory=dict)

    def home(self, value: Value) -> Home | None:
        """Return the home of a value that has moved in, or that is another shape of one that has."""
        return self.settled.get(self.bases.get(value, value))

    def placement(self, node: Node, wished: bool) -> Placement:
        """Return where a node finds its inputs and, if ``wished``, where its outputs should be written."""
        inputs: list[tuple[int, Layout]] = []
        inside: list[tuple[int, Inside]] = []
        for value in dict.fromkeys(node.inputs):
            number, home = node.inputs.index(value), self.home(value)
            if home is not None and home.node is node:
                inside.append((number, Inside(home.part.output, home.part.start)))
            elif home is not None:
                inputs.append((number, home.layout))
        outputs = [(k, self.homes[v].layout) for k, v in enumerate(node.outputs) if wished and v in self.homes]
        return Placement(tuple(inputs), tuple(outputs), tuple(inside))

    def places(
        self, node: Node, placement: Placement, placed: Sequence[int], make: Callable[[Home], View]
    ) -> dict[int, View]:
        """Let the results that a node writes at home move in; return the views of results that others live in, too.

        ``make`` makes the buffer of a holder, which begins to exist with the first value that moves in.
        """
        views: dict[int, View] = {}
        for number in placed:
            value = node.outputs[number]
            home = self.settled[value] = self.homes[value]
            if home.holder not in self.holders:
                self.holders[home.holder] = make(home)
            views[number] = replace(self.holders[home.holder], offset=home.first * value.type.dtype.itemsize)
        for _, inside in placement.inside:
            if inside.output not in views:
                views[inside.output] = self.holders[node.outputs[inside.output]]
        return views


def find_homes(graph: Graph) -> Residents:
    """Return the values that may live inside others: made by kernels, read by a join and by others that can follow.

    The last join comes first, so that parts of parts live in the whole. Outputs of the graph have places of their own.
    A whole is alive from its first part on: parts that are made early stay outside where that would need much memory.
    """
    search = _Search(graph)
    for node in reversed(graph.nodes):
        for part in sorted(find_parts(node), key=lambda p: -search.made_at(node.inputs[p.input])):
            search.add(node, part)
    return Residents(search.homes, search.bases)


class _Search:
    def __init__(self, graph: Graph) -> None:
        self.made_by = producers(graph)
        self.bases: dict[Value, Value] = {}
        self.readers: dict[Value, list[tuple[Node, TensorType]]] = {}
        self.homes: dict[Value, Home] = {}
        for node in graph.nodes:
            if node.op.name in ALIASES:
                self.bases[node.outputs[0]] = self.base(node.inputs[0])
                continue
            for value in dict.fromkeys(node.inputs):
                self.readers.setdefault(self.base(value), []).append((node, value.type))
        self.wanted_whole = {self.base(value) for value in graph.outputs}
        self.live = LiveBytes(graph, self.bases)

    def base(self, value: Value) -> Value:
        return self.bases.get(value, value)

    def made_at(self, value: Value) -> int:
        return self.live.ranges[self.base(value)][0]

    def add(self, node: Node, part: Part) -> None:
        """Note the home of a part, if it can have one."""
        seen, result = node.inputs[part.input], node.outputs[part.output]
        value, around = self.base(seen), self.homes.get(result)
        maker = self.made_by.get(value)
        if value in self.homes or value in self.wanted_whole or maker is None:
            return
        if body_of(maker) is None or maker.op.name in WITHOUT_STEPS:
            return
        shape, whole = static_shape(seen.type), static_shape(result.type)
        steps = row_major(whole) if around is None else around.layout.steps(whole)
        if steps is None or 0 in shape:
            return
        layout = Layout.of(shape, steps)
        first = sum(start * step for start, step in zip(part.start, steps, strict=True))
        readers = self.readers[value]
        others = [(reader, type_) for reader, type_ in readers if reader is not node]
        if len(others) + 1 == len(readers) and all(_follows(reader, type_, layout) for reader, type_ in others):
            holder, before = (result, 0) if around is None else (around.holder, around.first)
            if not self.live.moves_in(value, holder):
                return
            self.homes[value] = Home(holder, before + first, layout, node, part)


def _follows(reader: Node, type_: TensorType, layout: Layout) -> bool:
    """Tell whether a reader finds what it sees as ``type_`` in ``layout``."""
    return reads_anywhere(reader) and layout.steps(static_shape(type_)) is not None
