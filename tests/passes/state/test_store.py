"""State in the order that kernels read: which state, that values stay, and that no transposes are left."""

from __future__ import annotations

import numpy as np
import pytest

import dlc.frontends.graph as g
from dlc.frontends.graph import losses, nn, optim
from dlc.ir.graph import Role
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.text_graph import print_graph
from dlc.ir.verify_graph import verify_graph
from dlc.passes.manager import run_pipeline
from dlc.passes.pipeline import TRAINING
from dlc.passes.state.orders import state_orders
from dlc.passes.state.store import StoreStateOptions, inverse, store_state
from dlc.passes.train_step import TrainOptions, train_step
from dlc.training.step import Measured
from tests.passes.pass_text import graph_of

TAPS_FIRST = (2, 3, 1, 0)


def _composed(optimizer=None, groups=1):
    with g.Graph("net", seed=3) as graph:
        x = g.input("x", (4, 3, 8, 8))
        h = g.relu(nn.Conv2d(3, 8, 3, padding=1)(x))
        h = g.relu(nn.BatchNorm2d(8)(nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)(h)))
        g.output("logits", nn.Linear(8, 5)(g.mean(h, axis=(2, 3))))
    loss = Measured(losses.cross_entropy("logits", "label"), ())
    return train_step(graph.ir, TrainOptions(loss, optimizer or optim.Adam(1e-2)))


def _feeds():
    rng = np.random.default_rng(4)
    return {"x": rng.standard_normal((4, 3, 8, 8)).astype(np.float32), "label": rng.integers(0, 5, 4)}


def _run(graph, mode=Mode.TRAINING):
    held = {s.name: s.initial for s in graph.signature.inputs if s.initial is not None}
    return interpret(graph, {**held, **_feeds()}, mode)


def test_weights_of_convolutions_and_what_the_optimizer_keeps_of_them_follow_the_kernels():
    graph = _composed()
    orders = state_orders(graph)
    weights = [
        s.name for s in graph.signature.inputs if s.role is Role.PARAMETER and graph.input(s.name).type.rank == 4
    ]
    assert len(weights) == 2
    assert orders == {f"{w}{slot}": TAPS_FIRST for w in weights for slot in ("", ":exp_avg", ":exp_avg_sq")}


def test_groups_and_graphs_without_convolutions_stay_as_they_are():
    assert len(state_orders(_composed(groups=4))) == 3  # the first convolution alone
    graph = train_step(*_linear())
    assert state_orders(graph) == {}
    assert store_state(graph, StoreStateOptions({})) is graph


def _linear():
    with g.Graph("linear", seed=3) as graph:
        g.output("logits", nn.Linear(6, 5)(g.input("x", (4, 6))))
    return graph.ir, TrainOptions(Measured(losses.cross_entropy("logits", "label"), ()), optim.SGD(0.1, momentum=0.9))


def test_inverse_undoes_an_order():
    order = (2, 0, 3, 1)
    assert np.transpose(np.empty((2, 3, 4, 5)), order).transpose(inverse(order)).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("optimizer", [optim.Adam(1e-2), optim.SGD(0.1), optim.AdamW(1e-2, weight_decay=0.1)])
def test_values_stay(optimizer):
    graph = _composed(optimizer)
    orders = state_orders(graph)
    turned = store_state(graph, StoreStateOptions(orders))
    verify_graph(turned)
    expected = _run(graph)
    compiled, _ = run_pipeline(turned, TRAINING)
    for candidate in (turned, compiled):
        found = _run(candidate)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            order = orders.get(graph.signature.replacements.get(name, ""))
            there = array if order is None else array.transpose(inverse(order))
            np.testing.assert_allclose(there, expected[name], rtol=2e-4, atol=2e-5, err_msg=name)


def test_no_weight_is_transposed_for_the_forward_kernel_or_the_update():
    graph = _composed()
    before, _ = run_pipeline(graph, TRAINING)
    after, _ = run_pipeline(store_state(graph, StoreStateOptions(state_orders(graph))), TRAINING)

    def transposed(found):
        return [n for n in found.nodes if n.op.name == "transpose" and n.inputs[0].type.size in (8 * 8 * 9, 8 * 3 * 9)]

    # What is left: the reversed weights of an input gradient, and the stem's, which reads planes.
    assert len(transposed(before)) >= 6
    assert len(transposed(after)) <= 2


def test_initial_arrays_are_not_copied():
    graph = _composed()
    turned = store_state(graph, StoreStateOptions(state_orders(graph)))
    for before, after in zip(graph.signature.inputs, turned.signature.inputs, strict=True):
        if before.initial is not None:
            assert after.initial is not None and np.shares_memory(before.initial, after.initial)


def test_before_and_after():
    before = (
        'input %x: float32[1, 4, 6, 6] data\ninput %w: float32[5, 4, 3, 3] state replaced_by "w:next"\n'
        '%1 = contract(%x, %w) {spec="n c h+r w+s, o c r s -> n o h w"}\n%2 = mul(%w, %w)\n'
        'output "y" = %1\noutput "w:next" = %2'
    )
    after = (
        'input %x: float32[1, 4, 6, 6] data\ninput %w: float32[3, 3, 4, 5] state replaced_by "w:next"\n'
        "%1 = transpose(%w) {permutation=(3, 2, 0, 1)}\n"
        '%2 = contract(%x, %1) {spec="n c h+r w+s, o c r s -> n o h w"}\n%3 = mul(%1, %1)\n'
        "%4 = transpose(%3) {permutation=(2, 3, 1, 0)}\n"
        'output "y" = %2\noutput "w:next" = %4'
    )
    graph = graph_of(before)
    assert state_orders(graph) == {"w": TAPS_FIRST}
    assert print_graph(store_state(graph, StoreStateOptions(state_orders(graph)))) == print_graph(graph_of(after))


def test_state_that_replaces_itself_unchanged():
    graph = graph_of(
        'input %x: float32[1, 4, 6, 6] data\ninput %w: float32[5, 4, 3, 3] state replaced_by "w:next"\n'
        '%1 = contract(%x, %w) {spec="n c h+r w+s, o c r s -> n o h w"}\noutput "y" = %1\noutput "w:next" = %w'
    )
    turned = store_state(graph, StoreStateOptions(state_orders(graph)))
    verify_graph(turned)
    compiled, _ = run_pipeline(turned, TRAINING)
    x, w = (np.random.default_rng(1).standard_normal(s).astype(np.float32) for s in ((1, 4, 6, 6), (5, 4, 3, 3)))
    expected = interpret(graph, {"x": x, "w": w}, Mode.TRAINING)
    found = interpret(compiled, {"x": x, "w": np.ascontiguousarray(w.transpose(TAPS_FIRST))}, Mode.TRAINING)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-4, atol=1e-5)
    assert np.array_equal(found["w:next"].transpose(inverse(TAPS_FIRST)), w)
