"""How many bytes of a graph's values are alive at each of its nodes, and whether one may live longer.

An estimate before memory is planned: what kernels need besides, and what takes over memory, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlc.ir.graph import Graph, Value

SPARE_BYTES = 1 << 20
"""So much more than there is without longer lives, or an eighth more, may be alive."""


class LiveBytes:
    """Bytes alive per node, and the first and last node at which each value made in the graph is.

    ``bases`` gives the values that others are only another sight of. What the graph returns lies elsewhere and counts
    nothing.
    """

    def __init__(self, graph: Graph, bases: Mapping[Value, Value]) -> None:
        self.ranges: dict[Value, tuple[int, int]] = {}
        for number, node in enumerate(graph.nodes):
            for value in (*node.inputs, *node.outputs):
                base = bases.get(value, value)
                self.ranges[base] = (self.ranges.get(base, (number, 0))[0], number)
        inputs = dict.fromkeys(graph.inputs)
        self.sizes = {v: int(v.type.nbytes) if v.type.is_static and v not in inputs else 0 for v in self.ranges}
        self.sizes.update((bases.get(v, v), 0) for v in graph.outputs)
        steps = [0] * (len(graph.nodes) + 1)
        for value, (first, last) in self.ranges.items():
            steps[first] += self.sizes[value]
            steps[last + 1] -= self.sizes[value]
        self.bytes: list[int] = []
        for step in steps[:-1]:
            self.bytes.append(step + (self.bytes[-1] if self.bytes else 0))
        most = max(self.bytes, default=0)
        self.most = most + max(SPARE_BYTES, most // 8)

    def moves_in(self, value: Value, holder: Value) -> bool:
        """Let ``value`` live in ``holder``, which then begins with it; False if too much would be alive."""
        (first, last), (begin, end) = self.ranges[value], self.ranges[holder]
        more = self.sizes[holder] - self.sizes[value]
        earlier = range(first, begin)
        if any(self.bytes[k] + (more if k <= last else self.sizes[holder]) > self.most for k in earlier):
            return False
        for k in range(first, last + 1):
            self.bytes[k] -= self.sizes[value]
        for k in (*earlier, *range(end + 1, last + 1)):
            self.bytes[k] += self.sizes[holder]
        self.ranges[holder] = (min(first, begin), max(last, end))
        return True
