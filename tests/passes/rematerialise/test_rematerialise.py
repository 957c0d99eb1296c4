"""Rematerialisation: text before and after, values kept, and what is chosen at which price."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.frontends import models
from dlc.frontends.graph import Graph, input, losses, nn, optim, output
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.verify_graph import verify_graph
from dlc.passes.manager import run_pipeline
from dlc.passes.pipeline import TRAINING
from dlc.passes.rematerialise.cut import nodes_to_repeat
from dlc.passes.rematerialise.facts import Costs, frontiers, parts_of, work_of
from dlc.passes.rematerialise.rematerialise import RematerialiseOptions, rematerialise
from dlc.passes.train_step import TrainOptions, train_step
from tests.passes.pass_text import assert_becomes, graph_of

INPUTS = 'input %x: float32[64] data\ninput %w: float32[64] parameter trainable replaced_by "w:next"\n'
FORWARD = INPUTS + "%0 = mul(%x, %w)\n%1 = exp(%0)\n%2 = tanh(%1)\n%3 = reduce_sum(%2) {axes=(0,)}\n"
BEFORE = FORWARD + ('%4 = mul(%1, %2)\n%5 = mul(%4, %x)\n%6 = sub(%w, %5)\noutput "loss" = %3\noutput "w:next" = %6')


def at(**options):
    return lambda graph: rematerialise(graph, RematerialiseOptions(**options))


def test_values_are_computed_again_at_the_price_of_their_work():
    after = FORWARD + (
        "%4 = mul(%x, %w)\n%5 = exp(%4)\n%6 = tanh(%5)\n%7 = mul(%5, %6)\n%8 = mul(%7, %x)\n%9 = sub(%w, %8)\n"
        'output "loss" = %3\noutput "w:next" = %9'
    )
    graph = graph_of(BEFORE)
    assert_becomes(lambda g: rematerialise(g) if len(g.nodes) == len(graph.nodes) else g, BEFORE, after)


def test_what_is_kept_is_read_through_a_barrier():
    after = FORWARD + (
        "%4 = mul(%x, %w)\n%5 = exp(%4)\n%6 = barrier(%2)\n%7 = mul(%5, %6)\n%8 = mul(%7, %x)\n%9 = sub(%w, %8)\n"
        'output "loss" = %3\noutput "w:next" = %9'
    )
    graph = graph_of(BEFORE)
    assert_becomes(lambda g: at(price=1 / 6)(g) if len(g.nodes) == len(graph.nodes) else g, BEFORE, after)


def test_a_maximum_is_computed_again_with_the_sums_behind_its_elements():
    """Its gradient looks for the element that equals it: sums in another order would hide that."""
    graph = graph_of(
        "input %x: float32[64, 64] data\n"
        'input %w: float32[64, 64] parameter trainable replaced_by "w:next"\n'
        "%0 = mul(%x, %w)\n%1 = reduce_sum(%0) {axes=(1,)}\n%2 = broadcast(%1) {dims=(0,), shape=(64, 64)}\n"
        "%3 = sub(%0, %2)\n%4 = reduce_max(%3) {axes=(1,)}\n%5 = reduce_sum(%4) {axes=(0,)}\n"
        "%6 = broadcast(%4) {dims=(0,), shape=(64, 64)}\n%7 = equal(%3, %6)\n%8 = cast(%7) {dtype=float32}\n"
        '%9 = sub(%w, %8)\noutput "loss" = %5\noutput "w:next" = %9'
    )
    again = nodes_to_repeat(parts_of(graph), Costs(), 0.0, heavy=True, segments=1)
    names = [n.op.name for n in graph.nodes if n in again]
    assert names == ["mul", "reduce_sum", "broadcast", "sub", "reduce_max"]


def test_nothing_changes_where_work_is_dear_or_nothing_is_read_later():
    dear, plain = graph_of(BEFORE), graph_of(FORWARD + 'output "loss" = %3\noutput "w:next" = %w')
    assert at(price=1)(dear) is dear
    assert rematerialise(plain) is plain


CHAIN = (
    "input %x: float32[8, 32] data\n"
    'input %w: float32[32, 32] parameter trainable replaced_by "w:next"\n'
    '%0 = contract(%x, %w) {spec="m k, k n -> m n"}\n%1 = exp(%0)\n'
    '%2 = contract(%1, %w) {spec="m k, k n -> m n"}\n%3 = exp(%2)\n'
    "%4 = reduce_sum(%3) {axes=(0, 1)}\n"
    '%5 = contract(%1, %3) {spec="m k, m n -> k n"}\n%6 = contract(%x, %1) {spec="m k, m n -> k n"}\n'
    '%7 = add(%5, %6)\noutput "loss" = %4\noutput "w:next" = %7'
)


def repeated_ops(graph, after):
    names = [n.op.name for n in graph.nodes]
    found = [n.op.name for n in after.nodes]
    return {name: found.count(name) - names.count(name) for name in dict.fromkeys(found)}


def test_contractions_are_repeated_only_if_they_may_be():
    graph = graph_of(CHAIN)
    cheap, heavy = at(price=1 / 1024)(graph), at(price=1 / 1024, heavy=True)(graph)
    assert repeated_ops(graph, cheap)["contract"] == 0
    assert repeated_ops(graph, heavy) == {"contract": 2, "exp": 2, "reduce_sum": 0, "add": 0}
    for after in (cheap, heavy):
        verify_graph(after)
        feeds = {"x": np.full((8, 32), 0.1, np.float32), "w": np.full((32, 32), 0.01, np.float32)}
        assert all(
            np.array_equal(a, b) for a, b in zip(interpret(graph, feeds).values(), interpret(after, feeds).values())
        )


def test_what_crosses_segments_is_kept_and_heavy_work_of_the_last_is_not_repeated():
    parts, costs = (
        parts_of(composed(models.build("digits_cnn", batch=8), losses.cross_entropy("logits", "label"))),
        Costs(),
    )
    assert any(costs.of(n).heavy for n in nodes_to_repeat(parts, costs, 0.0, heavy=True, segments=1))
    for segments in (2, 3, 5):
        cuts = frontiers(parts, costs, segments)
        assert 1 <= len(cuts) < segments
        again = nodes_to_repeat(parts, costs, 0.0, heavy=True, segments=segments)
        assert not any(v in crossing for node in again for v in node.outputs for _, crossing in cuts)
        assert not any(costs.of(n).heavy for n in parts.forward[cuts[-1][0] :] if n in again)


def composed(graph, loss):
    step = train_step(graph, TrainOptions(loss, optim.Adam(1e-2)))
    return run_pipeline(step, TRAINING)[0]


def perceptron():
    with Graph("perceptron", seed=3) as graph:
        x = input("x", (6, 8))
        layers = (nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 4))
        output("logits", nn.Sequential(*layers)(x))
    return graph.ir


MODELS = {
    "perceptron": perceptron,
    "cnn": lambda: models.build("digits_cnn", batch=3),
    "gpt": lambda: models.gpt(models.GptConfig(11, 8, 16, 2, 2, dropout=0.1), batch=2, sequence=8).ir,
    "lstm": lambda: models.build("lstm", batch=2, sequence=5, features=4, hidden=6, layers=1),
}
OPTIONS = (
    {},
    {"price": 0.0, "heavy": True},
    {"price": 1 / 1024, "heavy": True, "segments": 3},
    {"price": 1 / 64, "segments": 4},
)


@pytest.mark.parametrize("name", MODELS)
def test_composed_steps_keep_their_values(name):
    graph = composed(MODELS[name](), losses.cross_entropy("logits", "label", axis=-1))
    rng = np.random.default_rng(1)
    feeds = {}
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        if spec.initial is None:
            fits = value.type.dtype.is_float
            drawn = rng.normal(size=value.type.shape) if fits else rng.integers(0, 4, value.type.shape)
            feeds[spec.name] = drawn.astype(value.type.dtype.numpy)
    wanted = interpret(graph, feeds, Mode.TRAINING)
    kept = sum(v.type.nbytes for v in parts_of(graph).wanted)
    for options in OPTIONS:
        after = at(**options)(graph)
        verify_graph(after)
        got = interpret(after, feeds, Mode.TRAINING)
        assert all(np.array_equal(got[n], wanted[n], equal_nan=True) for n in wanted)
        assert work_of(after) > work_of(graph)
        assert sum(v.type.nbytes for v in parts_of(after).wanted) < kept


def test_gradients_smaller_than_their_operands_are_stored_before_updates():
    wide = graph_of(CHAIN)
    assert not [n for n in wide.nodes if n.op.name == "barrier"]
    step = composed(perceptron(), losses.cross_entropy("logits", "label"))
    after = rematerialise(step)
    barriers = [n for n in after.nodes if n.op.name == "barrier"]
    assert {n.outputs[0].type.shape for n in barriers} >= {(16,), (4,)}  # of the biases: sums over the batch
