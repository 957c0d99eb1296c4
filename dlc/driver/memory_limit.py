"""Making a training step fit into memory: the least work done twice for which the memory plan is small enough.

Every candidate is planned as it would run, for fusion and lowering have their say in
what is in memory. Loaded only where a limit was given, because networkx takes long to
import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlc.errors import ResourceLimitError
from dlc.ir.graph import Graph
from dlc.passes.rematerialise.facts import work_of
from dlc.passes.rematerialise.rematerialise import RematerialiseOptions, rematerialise

CHEAP = tuple(
    RematerialiseOptions(price, segments=segments)
    for price, segments in ((1.0, 1), (1 / 4, 1), (1 / 64, 1), (1 / 64, 4), (1 / 64, 8))
)
HEAVY = tuple(RematerialiseOptions(1 / 1024, heavy=True, segments=segments) for segments in (2, 3, 4, 6, 8, 12, 16))
"""What is tried: cheap work at growing willingness to repeat it, then contractions too, in segments of many sizes."""


@dataclass(frozen=True)
class Fitted:
    """The graph that fits; ``full_bytes`` is the arena without a limit, ``repeated`` the share of work done twice."""

    graph: Graph
    full_bytes: int
    repeated: float


def fit(graph: Graph, limit: int, arena_bytes: Callable[[Graph, bool], int]) -> Fitted:
    """Return the training graph that repeats least among those whose arena has at most ``limit`` bytes.

    ``arena_bytes`` plans a graph, tightly if its second argument says so. Contractions are repeated only where cheap
    work does not suffice. Raises ResourceLimitError with the smallest arena that was reached.
    """
    full = arena_bytes(graph, False)
    if full <= limit or arena_bytes(graph, True) <= limit:
        return Fitted(graph, full, 0.0)
    work, smallest = work_of(graph), full
    for family in (CHEAP, HEAVY):
        candidates = {work_of(found): found for found in (rematerialise(graph, options) for options in family)}
        for repeated in sorted(candidates):
            reached = arena_bytes(candidates[repeated], True)
            if reached <= limit:
                return Fitted(candidates[repeated], full, repeated / max(work, 1) - 1)
            smallest = min(smallest, reached)
    raise ResourceLimitError(
        f"graph {graph.name!r}: no plan of a training step fits into memory_limit={limit} bytes; the smallest arena "
        f"that was reached, by computing again instead of keeping, has {smallest} bytes, without that it has {full}. "
        f"Give memory_limit={smallest} or more, or train on smaller batches"
    )
