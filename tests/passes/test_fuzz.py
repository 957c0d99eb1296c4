"""Random graphs through every pass: the interpreter's results stay."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.parse_graph import parse_graph
from dlc.ir.structure import difference
from dlc.ir.text_graph import print_graph
from dlc.ir.verify_graph import verify_graph
from dlc.passes.canonicalize.canonicalize import canonicalize
from dlc.passes.cleanup import cleanup, prune_state
from dlc.passes.expand import ExpandOptions, expand
from dlc.passes.fold import fold
from dlc.passes.hoist import lift_constants, split
from dlc.passes.layout.layout import layout
from dlc.passes.manager import Instruments, run_pipeline
from dlc.passes.pipeline import INFERENCE, TRAINING
from tests.passes.pass_fuzz import assert_same_results, random_feeds, random_graph

SEEDS = range(40)
EXACT = {"cleanup": cleanup, "fold": fold, "prune_state": prune_state, "lift_constants": lift_constants}


def expanded(seed):
    return cleanup(expand(random_graph(seed)))


@pytest.mark.parametrize("seed", SEEDS)
def test_text_round_trip(seed):
    graph = random_graph(seed)
    again = parse_graph(print_graph(graph, initials=True))
    assert difference(graph, again, values=True) == ""


@pytest.mark.parametrize("seed", SEEDS)
def test_exact_passes_keep_every_bit(seed):
    graph = random_graph(seed)
    for name, function in EXACT.items():
        after = function(graph)
        verify_graph(after)
        assert_same_results(graph, after, seed)
        assert function(after) is after, f"{name} changes its own result"


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("seed", SEEDS)
def test_expand(seed, mode):
    graph = random_graph(seed)
    after = expand(graph, ExpandOptions(mode))
    verify_graph(after)
    assert not any(n.op.is_composite for n in after.nodes)
    assert_same_results(graph, after, seed, mode, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_canonicalize(seed):
    graph = expanded(seed)
    after = canonicalize(graph)
    verify_graph(after)
    assert_same_results(graph, after, seed, rtol=1e-9)
    assert canonicalize(after) is after


@pytest.mark.parametrize("seed", SEEDS)
def test_layout(seed):
    graph = expanded(seed)
    after = layout(graph)
    verify_graph(after)
    assert_same_results(graph, after, seed, rtol=1e-9)


@pytest.mark.parametrize("passes", [INFERENCE, TRAINING], ids=["inference", "training"])
@pytest.mark.parametrize("seed", SEEDS)
def test_pipelines(seed, passes):
    graph = random_graph(seed, steps=40)
    after, _ = run_pipeline(graph, passes, Instruments(verify=2))
    mode = Mode.INFERENCE if passes is INFERENCE else Mode.TRAINING
    assert_same_results(graph, after, seed, mode, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_split_computes_the_same(seed):
    graph = canonicalize(expanded(seed))
    halves = split(graph)
    feeds = random_feeds(graph, seed)
    hoisted = {} if halves.init is None else interpret(halves.init, {})
    data = {s.name: feeds[s.name] for s in halves.main.signature.inputs if s.name in feeds}
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_array_equal(interpret(halves.main, {**data, **hoisted})[name], want)
