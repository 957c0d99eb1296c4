"""Which runs are left to one thread, and that their kernels are not cut."""

from __future__ import annotations

import numpy as np
import pytest

import dlc
from dlc import nn
from dlc.driver.short_runs import takes_less
from dlc.ir.parse_graph import parse_graph
from dlc.ir.plan import KernelStep


def _network(width: int, batch: int = 4) -> dlc.Graph:
    with dlc.Graph("network", seed=0) as graph:
        x = dlc.input("x", (batch, width))
        dlc.output("y", nn.Linear(width, width)(dlc.relu(nn.Linear(width, width)(x))))
    return graph


def _most_tasks(graph: dlc.Graph, **options) -> int:
    exe = dlc.compile(graph, **options)
    return max(step.tasks for step in exe.plan.steps if isinstance(step, KernelStep))


def test_one_thread_for_a_short_run_and_several_for_a_long_one(monkeypatch):
    monkeypatch.setenv("DLC_SHORT_RUN", "50")
    assert _most_tasks(_network(64), threads=3) == 1
    assert _most_tasks(_network(1024, 64), threads=3) > 1
    monkeypatch.setenv("DLC_SHORT_RUN", "0")
    assert _most_tasks(_network(256, 64), threads=3) > 1


def test_results_and_the_number_of_threads_stay(monkeypatch):
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    answers = []
    for limit in ("0", "50"):
        monkeypatch.setenv("DLC_SHORT_RUN", limit)
        exe = dlc.compile(_network(64), threads=3)
        assert exe.threads == 3
        answers.append(exe(x))
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("length", "short"), [(4, True), (4000, False)])
def test_loops_count_every_iteration(length, short):
    with dlc.Graph("loop", seed=0) as graph:
        dlc.output("y", nn.LSTM(32, 32)(dlc.input("x", (length, 1, 32)))[0])
    assert takes_less(_fused(graph), 100) is short


def test_bytes_count_beside_operations():
    with dlc.Graph("large", seed=0) as graph:
        dlc.output("y", dlc.relu(dlc.input("x", (1 << 20,))))
    assert not takes_less(_fused(graph), 100)
    assert takes_less(_fused(graph), 1000)


def test_what_is_not_known_counts_as_long():
    text = """graph "open" {
input %x: float32[n, 4] data
input %w: float32[4, 5] data
%1 = contract(%x, %w) {spec="m k, k n -> m n"}
%2 = relu(%1)
output "y" = %2
}"""
    assert not takes_less(parse_graph(text), 1e9)


def _fused(graph: dlc.Graph):
    from dlc.driver.build import fused, prepare
    from dlc.driver.options import CompileOptions
    from dlc.ir.opdef import Mode

    options = CompileOptions.make(Mode.INFERENCE, "cpu", "float32", 2)
    return fused(prepare(graph.ir, options), options)[1]
