"""Batches in parts, end to end: the same bits with less memory, and nothing else where caches hold the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dlc
from dlc import config, nn
from dlc.codegen.llvm.target import host_target
from dlc.driver import build
from dlc.driver.batches import machine_of
from dlc.driver.compile import compile_graph
from dlc.ir.plan import LoopBegin

LEVELS = ["", "avx2", "generic", *(["amx-emulated"] if host_target().has_masks else [])]


def network() -> dlc.Graph:
    """Separable convolutions with a residual, of 12 images, and a linear layer over pooled channels."""
    with dlc.Graph("network", seed=1) as graph:
        h = dlc.relu(nn.Conv2d(3, 16, 3, stride=2, padding=1)(dlc.input("x", (12, 3, 48, 48))))
        r = dlc.relu(nn.Conv2d(16, 64, 1)(h))
        r = dlc.relu(nn.Conv2d(64, 64, 3, padding=1, groups=64)(r))
        h = nn.Conv2d(64, 16, 1)(r) + h
        dlc.output("y", nn.Linear(16, 10)(dlc.mean(h, (2, 3))))
    return graph


def compiled(monkeypatch, features: str, threads: int, **machine):
    """Compile for a machine of which some facts are given."""
    monkeypatch.setattr(build, "machine_of", lambda *a: replace(machine_of(*a), **machine))
    with config.override(cpu_features=features, cache=False):
        return compile_graph(network().ir, threads=threads)


def loops(executable) -> int:
    return sum(isinstance(step, LoopBegin) for step in executable.plan.steps)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("features", LEVELS)
def test_parts_give_the_same_answer_and_take_less_memory(monkeypatch, rng, features, threads):
    x = rng.normal(size=(12, 3, 48, 48)).astype("f")
    whole = compiled(monkeypatch, features, threads)
    parts = compiled(monkeypatch, features, threads, cache_bytes=1 << 20, step=10.0)
    assert (loops(whole), loops(parts)) == (0, 1)
    assert parts.report.arena_bytes < whole.report.arena_bytes / 2
    expected = whole(x)
    np.testing.assert_allclose(parts(x), expected, atol=2e-6 * np.abs(expected).max())


def test_training_steps_are_left_whole(monkeypatch):
    monkeypatch.setattr(build, "machine_of", lambda *a: pytest.fail("training asked for parts"))
    step = dlc.compile_training(
        network(), loss=dlc.losses.cross_entropy("y", "label"), optimizer=dlc.optim.SGD(0.1), threads=1
    )
    assert step is not None
