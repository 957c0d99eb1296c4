"""The top of the ladder: op samples, and their gradients, through the whole compiler and its runtime."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.driver.compile import compile_graph
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode, Trait, all_ops
from tests.ir.ops.samples import samples_of
from tests.ir.ops.test_op_gradients import DIFFERENTIABLE, Objective, usable
from tests.test_ladder import COMPILED, assert_close, wanted_results


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLC_CACHE", "0")


@pytest.mark.parametrize("name", [name for name in COMPILED if name != "fused"])
def test_compiled(name: str) -> None:
    samples = samples_of(name)
    for sample in samples[:: max(1, len(samples) // 2)]:
        executable = compile_graph(sample.graph(), threads=2)
        results = executable.run(sample.feeds())
        for actual, array in zip(results.values(), wanted_results(sample), strict=True):
            assert_close(sample, np.asarray(actual), array)


@pytest.mark.parametrize(
    "name", [n for n in DIFFERENTIABLE if n in COMPILED and not all_ops()[n].has(Trait.ELEMENTWISE)]
)
def test_compiled_gradient(name: str) -> None:
    for sample, arrays, floats in usable(name)[:1]:
        objective = Objective(sample, arrays, floats, Mode.TRAINING)
        graph = objective.first
        feeds = {f"x{k}": a for k, a in enumerate(arrays)}
        results = compile_graph(graph, threads=2, mode=Mode.TRAINING).run(feeds)
        for key, wanted in interpret(graph, feeds, Mode.TRAINING).items():
            np.testing.assert_allclose(results[key], wanted, rtol=1e-9, atol=1e-9, err_msg=f"{sample.label} {key}")
