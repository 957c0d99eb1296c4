"""Finding where values change: after which pass, or at which node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dlc.driver.build import FUSION, pipeline
from dlc.driver.compile import compile_graph
from dlc.driver.options import CompileOptions
from dlc.ir.graph import Graph, Node, Signature
from dlc.ir.interpret import interpret, interpret_all
from dlc.ir.opdef import Mode
from dlc.passes.manager import Instruments, run_pipeline

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart: the largest difference, absolute and relative to the largest reference value."""

    absolute: float
    relative: float

    def exceeds(self, tolerance: float) -> bool:
        """Tell whether the relative difference is above ``tolerance`` (not a number counts as above)."""
        return not self.relative <= tolerance


def difference(mine: np.ndarray, reference: np.ndarray) -> Difference:
    """Compare two arrays; equal infinities and NaNs in the same places agree."""
    if mine.shape != reference.shape:
        return Difference(np.inf, np.inf)
    if mine.size == 0:
        return Difference(0.0, 0.0)
    a, b = mine.astype(np.float64), reference.astype(np.float64)
    agree = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gaps = np.where(agree, 0.0, np.abs(a - b))
    if np.isnan(gaps).any():
        return Difference(np.inf, np.inf)
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    absolute = float(gaps.max())
    return Difference(absolute, absolute / scale if scale else (0.0 if absolute == 0 else np.inf))


def after_each_pass(graph: Graph, feeds: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Arrays]]:
    """Yield the interpreter's results of the input graph and then after every pass that changed it."""
    options = CompileOptions.make(Mode.INFERENCE, "cpu", "float32", None)
    snapshots: list[tuple[str, Graph]] = []
    last = graph

    def keep(name: str, after: Graph) -> None:
        nonlocal last
        if after is not last:
            snapshots.append((name, after))
            last = after

    run_pipeline(graph, [*pipeline(options), *FUSION], Instruments(observe=keep))
    yield "input", interpret(graph, feeds)
    for name, snapshot in snapshots:
        yield name, interpret(snapshot, feeds)


def first_diverging_node(
    graph: Graph, feeds: Mapping[str, np.ndarray], tolerance: float, threads: int | None
) -> tuple[Node, Difference] | None:
    """Return the first node, in order, whose compiled result differs from the interpreter's; None if none does.

    Every value becomes an output, so the compiled graph fuses less than usual.
    """
    names = {}
    for number, node in enumerate(graph.nodes):
        for position, value in enumerate(node.outputs):
            if value.type.dtype.kind != "string":
                names[value] = f"node{number}.{position}"
    exposed = replace(
        graph, outputs=tuple(names), signature=Signature(
            tuple(replace(s, replaced_by=None) for s in graph.signature.inputs), tuple(names.values())
        ),
    )  # fmt: skip
    results = compile_graph(exposed, threads=threads).run(dict(feeds))
    reference = interpret_all(graph, feeds)
    for node in graph.nodes:
        for value in node.outputs:
            if value in names:
                gap = difference(results[names[value]], reference[value])
                if gap.exceeds(tolerance):
                    return node, gap
    return None
