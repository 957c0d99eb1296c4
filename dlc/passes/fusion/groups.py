"""Groups under construction: union-find with reachability, so that merging never makes a cycle.

It must not decide what belongs together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from dlc.ir.graph import Node, Value
from dlc.passes.node_facts import Place

MOST_VISITS = 300
"""Groups looked at by one search for a path; where that does not decide, groups stay apart."""

ValueMap = tuple[int | Place, ...]
"""Per dimension of a value: the dimension of the group's space that it runs along, or a Place."""


class GroupKind(StrEnum):
    """What a group becomes: pointwise nest, row problem, contraction, or a node by itself."""

    POINTWISE = "pointwise"
    ROWS = "rows"
    CONTRACTION = "contraction"
    OPAQUE = "opaque"


@dataclass
class Group:
    """Nodes that are computed together.

    ``shape`` is the index space of pointwise values, of a contraction's result, or the tensor that ROWS reduce;
    ``reduced`` its dimensions that go, ``kept`` those that stay (of extent above 1). ``maps`` places values of
    ROWS groups in that space; ``dependent`` are those that need a reduction's result. ``sealed`` values are
    computed at other indices than the group's space and never leave it. A group that ``crosses`` reads along
    another dimension than it writes: nothing that reads along should join it.
    """

    kind: GroupKind
    nodes: list[Node]
    first: int
    last: int
    shape: tuple[int, ...] = ()
    reduced: frozenset[int] = frozenset()
    kept: tuple[int, ...] = ()
    window: bool = False
    maps: dict[Value, ValueMap] = field(default_factory=dict)
    dependent: set[Value] = field(default_factory=set)
    sealed: set[Value] = field(default_factory=set)
    weight: int = 0
    crosses: bool = False
    inputs: set[int] = field(default_factory=set)


class GroupForest:
    """All groups; numbers stay valid after merges through ``find``."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._parent: list[int] = []

    def add(self, group: Group) -> int:
        """Add a group and return its number."""
        self.groups.append(group)
        self._parent.append(len(self.groups) - 1)
        return len(self.groups) - 1

    def find(self, number: int) -> int:
        """Return the number under which the group is known now."""
        root = number
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[number] != root:
            self._parent[number], number = root, self._parent[number]
        return root

    def group(self, number: int) -> Group:
        """Return the group known by ``number``."""
        return self.groups[self.find(number)]

    def merge(self, into: int, other: int) -> int:
        """Make one group of two; ``into`` says what kind it is. Returns its number."""
        into, other = self.find(into), self.find(other)
        if into == other:
            return into
        a, b = self.groups[into], self.groups[other]
        a.nodes += b.nodes
        a.first, a.last = min(a.first, b.first), max(a.last, b.last)
        a.maps.update(b.maps)
        a.dependent |= b.dependent
        a.sealed |= b.sealed
        a.weight += b.weight
        a.inputs |= b.inputs
        a.crosses = a.crosses or b.crosses
        self._parent[other] = into
        b.nodes = []
        return into

    def reaches(self, targets: Collection[int], starts: Iterable[int]) -> bool:
        """Tell whether a group of ``starts``, none of them a target, depends on one of ``targets``.

        Also true where the search grows too large: whoever asks must then leave the groups apart.
        """
        wanted = {self.find(t) for t in targets}
        oldest = min(self.groups[t].first for t in wanted)
        pending = [s for s in {self.find(s) for s in starts} if s not in wanted]
        seen: set[int] = set(pending)
        while pending:
            current = pending.pop()
            if self.groups[current].last < oldest:
                continue
            for source in {self.find(i) for i in self.groups[current].inputs}:
                if source in wanted:
                    return True
                if source not in seen and source != current:
                    seen.add(source)
                    pending.append(source)
            if len(seen) > MOST_VISITS:
                return True
        return False
