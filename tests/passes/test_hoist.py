"""Splitting off what depends on weights alone; large constants as inputs."""

from __future__ import annotations

import numpy as np

from dlc.ir.graph import Role
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.verify_graph import verify_graph
from dlc.passes.hoist import lift_constants, split
from tests.passes.pass_text import graph_of

TEXT = (
    "input %x: float32[2, 3] data\ninput %w: float32[3, 4] parameter trainable\ninput %s: float32[4] state\n"
    'input %m: float32[4] state replaced_by "m:next"\n'
    "%1 = exp(%s)\n%2 = broadcast(%1) {shape=(3, 4), dims=(1,)}\n%3 = mul(%w, %2)\n"
    '%4 = contract(%x, %3) {spec="m k, k n -> m n"}\n%5 = broadcast(%1) {shape=(2, 4), dims=(1,)}\n%6 = add(%4, %5)\n'
    '%7 = neg(%m)\noutput "y" = %6\noutput "m:next" = %7'
)


def ops(graph):
    return [n.op.name for n in graph.nodes]


def test_inference_hoists_work_on_weights_and_unreplaced_state():
    halves = split(graph_of(TEXT))
    verify_graph(halves.init)
    verify_graph(halves.main)
    assert ops(halves.init) == ["exp", "broadcast", "mul"]
    assert ops(halves.main) == [
        "contract",
        "broadcast",
        "add",
        "neg",
    ]  # the broadcast stays: it is larger than its operand
    assert [s.name for s in halves.init.signature.inputs] == ["w", "s"]
    assert [(s.name, s.role) for s in halves.main.signature.inputs if s.name.startswith("hoisted")] == [
        ("hoisted:0", Role.CONSTANT),
        ("hoisted:1", Role.CONSTANT),
    ]
    assert "w" not in [s.name for s in halves.main.signature.inputs]


def test_both_halves_compute_what_the_whole_does():
    graph, rng = graph_of(TEXT), np.random.default_rng(0)
    feeds = {s.name: rng.normal(size=v.type.shape).astype(np.float32) for v, s in graph.inputs_with(*Role)}
    halves = split(graph)
    hoisted = interpret(halves.init, {name: feeds[name] for name in ("w", "s")})
    got = interpret(halves.main, {"x": feeds["x"], "m": feeds["m"], **hoisted})
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_array_equal(got[name], want)


def test_training_hoists_constants_only():
    graph = graph_of(TEXT)
    halves = split(graph, Mode.TRAINING)
    assert halves.init is None and halves.main is graph


def test_names_do_not_collide():
    halves = split(
        graph_of(
            "input %hoisted:0: float32[3] data\ninput %w: float32[3] constant\n%1 = exp(%w)\n"
            '%2 = add(%hoisted:0, %1)\noutput "y" = %2'
        )
    )
    assert [s.name for s in halves.main.signature.inputs] == ["hoisted:0", "hoisted:1"]


def test_outputs_may_be_hoisted():
    halves = split(graph_of('input %w: float32[3] constant\n%1 = exp(%w)\noutput "y" = %1'))
    assert ops(halves.main) == [] and halves.main.outputs[0] is halves.main.inputs[0]


def test_large_constants_become_inputs():
    text = (
        "%1 = constant() {value=float32[3]{1.0, 2.0, 3.0}}\n%2 = constant() {value=float32[2]{1.0, 2.0}}\n"
        'output "a" = %1\noutput "b" = %2'
    )
    lifted = lift_constants(graph_of(text), max_elements=2)
    verify_graph(lifted)
    assert [n.op.name for n in lifted.nodes] == ["constant"]
    (spec,) = lifted.signature.inputs
    np.testing.assert_array_equal(spec.initial, [1, 2, 3])
    assert lift_constants(lifted, max_elements=2) is lifted
