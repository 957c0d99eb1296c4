"""The pass manager: runs a list of passes and verifies, times, records and dumps around each.

It knows nothing of what a pass does; a pass that changed nothing returns the
same object.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlc.ir.graph import Graph
from dlc.ir.text_graph import print_graph
from dlc.ir.verify_graph import verify_graph


@dataclass(frozen=True)
class Pass:
    """A named function ``graph -> graph``; with ``options`` it is called as ``function(graph, options)``."""

    name: str
    function: Callable[..., Graph]
    options: Any = None

    def __call__(self, graph: Graph) -> Graph:
        return self.function(graph) if self.options is None else self.function(graph, self.options)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: wall time in milliseconds and the number of nodes before and after."""

    name: str
    milliseconds: float
    nodes_before: int
    nodes_after: int
    changed: bool


@dataclass(frozen=True)
class Instruments:
    """What happens around passes.

    ``verify``: 0 checks the graph before the first and after the last pass; 1 after every pass, running type
    rules for new nodes; 2 after every pass, running all type rules. ``dump`` is a directory for one
    ``NN-name.txt`` per changed graph. ``observe`` is called with a pass's name and result.
    """

    verify: int = 1
    dump: Path | None = None
    observe: Callable[[str, Graph], None] | None = None


def run_pipeline(
    graph: Graph, passes: Sequence[Pass], instruments: Instruments = Instruments()
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """Run ``passes`` in order; return the last graph and one record per pass.

    Any exception gets a note that names the failing pass and those that ran before it.
    """
    records: list[PassRecord] = []
    verify_graph(graph)
    _dump(instruments, 0, "input", graph)
    for number, step in enumerate(passes, start=1):
        before, begin = graph, time.perf_counter()
        try:
            graph = step(before)
            elapsed = time.perf_counter() - begin
            if graph is not before and (instruments.verify >= 1 or number == len(passes)):
                verify_graph(graph, frozenset(before.nodes) if instruments.verify == 1 else ())
        except Exception as error:
            done = ", ".join(r.name for r in records) or "none"
            error.add_note(f"in pass {step.name!r} on {before}; passes that ran before it: {done}")
            raise
        records.append(PassRecord(step.name, elapsed * 1e3, len(before.nodes), len(graph.nodes), graph is not before))
        if graph is not before:
            _dump(instruments, number, step.name, graph)
        if instruments.observe is not None:
            instruments.observe(step.name, graph)
    if instruments.verify == 0 and passes:
        verify_graph(graph)
    return graph, tuple(records)


def _dump(instruments: Instruments, number: int, name: str, graph: Graph) -> None:
    if instruments.dump is not None:
        instruments.dump.mkdir(parents=True, exist_ok=True)
        (instruments.dump / f"{number:02d}-{name}.txt").write_text(print_graph(graph), encoding="utf-8")
