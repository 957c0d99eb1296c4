"""Random graphs: fused and lowered at several thread counts, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.loops import blocks as schedule_loops
from dlc.codegen.lower import group as lower_group
from dlc.codegen.lower import node as lower
from dlc.codegen.rows import split as schedule_split
from dlc.ir.interpret import interpret, interpret_all
from dlc.passes.cleanup import cleanup
from dlc.passes.fusion.fuse import fuse
from tests.codegen.lowering import check_node
from tests.codegen.random_graphs import GraphMaker


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even small work into tasks."""
    monkeypatch.setattr(lower, "_known", {})
    for module in (schedule_loops, schedule_split, lower_group):
        monkeypatch.setattr(module, "TASK_WORK", 200)


def check_seed(seed: int, most_elements: int, emulated: bool, more: tuple[str, ...] = ()) -> None:
    print(f"seed {seed}")
    maker = GraphMaker(seed, most_elements, more)
    graph = cleanup(maker.graph(maker.random.randint(3, 14)))
    fused = fuse(graph)
    wanted = interpret(graph, maker.feeds)
    for name, array in interpret(fused, maker.feeds).items():
        np.testing.assert_array_equal(array, wanted[name])
    values = interpret_all(fused, maker.feeds)
    for node in fused.nodes:
        if node.op.arity != 0:
            threads = maker.random.choice((1, 2, 4))
            check_node(node, [values[v] for v in node.inputs], threads, emulated, tolerance=1e-4)


@pytest.mark.parametrize("seed", range(0, 24))
def test_random_graph(seed: int) -> None:
    check_seed(seed, 4000, emulated=False)


@pytest.mark.parametrize("seed", range(1000, 1016))
def test_random_graph_in_many_tasks(seed: int, small_tasks: None) -> None:
    check_seed(seed, 4000, emulated=False)


@pytest.mark.parametrize("seed", range(2000, 2010))
def test_random_graph_in_the_emulator(seed: int) -> None:
    check_seed(seed, 300, emulated=True)


@pytest.mark.parametrize("seed", range(3000, 3016))
def test_random_graph_with_contractions(seed: int) -> None:
    check_seed(seed, 4000, emulated=False, more=("contract",) * 4)
