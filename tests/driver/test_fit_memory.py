"""Fitting a training step into a limit: the order of what is tried, and what is said where nothing fits."""

import pytest

from dlc.driver import memory_limit
from dlc.driver.memory_limit import fit
from dlc.errors import ResourceLimitError
from dlc.frontends import models
from dlc.frontends.graph import losses, optim
from dlc.passes.manager import run_pipeline
from dlc.passes.pipeline import TRAINING
from dlc.passes.rematerialise.facts import Costs, parts_of, work_of
from dlc.passes.train_step import TrainOptions, train_step


@pytest.fixture(scope="module")
def step():
    graph = models.build("digits_cnn", batch=16)
    composed = train_step(graph, TrainOptions(losses.cross_entropy("logits", "label"), optim.Adam(1e-3)))
    return run_pipeline(composed, TRAINING)[0]


def kept_bytes(graph, tight):
    """A plan that holds what later nodes read, and a little more if it is not tight."""
    return sum(v.type.nbytes for v in parts_of(graph).wanted) + (0 if tight else 8)


def heavy_work(graph):
    costs = Costs()
    return sum(costs.of(n).cost for n in graph.nodes if costs.of(n).heavy)


def test_a_limit_that_is_met_changes_nothing(step):
    full = kept_bytes(step, False)
    assert fit(step, full, kept_bytes).graph is step
    found = fit(step, full - 8, kept_bytes)  # a tight plan suffices
    assert found.graph is step and found.full_bytes == full and found.repeated == 0


def test_the_least_work_that_fits_is_repeated_and_contractions_last(step):
    full = kept_bytes(step, False)
    limits = [int(full * share) for share in (0.9, 0.6, 0.4, 0.3, 0.2)]
    found = []
    for limit in limits:
        try:
            found.append(fit(step, limit, kept_bytes))
        except ResourceLimitError:
            break
    assert len(found) >= 3
    assert all(kept_bytes(f.graph, True) <= limit for f, limit in zip(found, limits, strict=False))
    assert [f.repeated for f in found] == sorted(f.repeated for f in found)
    assert heavy_work(found[0].graph) == heavy_work(step)
    assert all(f.repeated == pytest.approx(work_of(f.graph) / work_of(step) - 1) for f in found)


def test_the_error_names_the_smallest_arena(step):
    tried = []

    def arena_bytes(graph, tight):
        tried.append(kept_bytes(graph, tight))
        return tried[-1]

    with pytest.raises(ResourceLimitError) as caught:
        fit(step, 10, arena_bytes)
    text = str(caught.value)
    assert f"memory_limit={min(tried)} or more" in text and f"without that it has {tried[0]}" in text
    assert step.name in text and "10 bytes" in text
    assert len(tried) <= 2 + len(memory_limit.CHEAP) + len(memory_limit.HEAVY)
    assert kept_bytes(fit(step, min(tried), kept_bytes).graph, True) == min(tried)
