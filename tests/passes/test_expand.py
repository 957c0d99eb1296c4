"""Expansion of composites by mode, in regions, with exceptions, and with origins."""

from __future__ import annotations

import pytest

from dlc.errors import GraphError
from dlc.ir.builder import Builder
from dlc.ir.opdef import Mode, OpDef
from dlc.passes.expand import ExpandOptions, expand, expand_node
from tests.passes.pass_text import assert_same_values, chain, graph_of

SOFTMAX = 'input %x: float32[2, 3] data\n%1 = softmax(%x) {axis=1} @ "probs"\noutput "y" = %1'


def test_composites_become_primitives_with_origins():
    graph = graph_of(SOFTMAX)
    after = expand(graph)
    assert not any(n.op.is_composite for n in after.nodes)
    assert all([o.name for o in n.origins] == ["probs"] for n in after.nodes)
    assert_same_values(graph, after, exact=False)


def test_keep_decides():
    graph = graph_of(SOFTMAX)
    assert expand(graph, ExpandOptions(keep=lambda node: node.op.name == "softmax")) is graph


def test_primitives_are_the_same_object():
    graph = chain("neg", 3)
    assert expand(graph) is graph


@pytest.mark.parametrize(("mode", "random"), [(Mode.INFERENCE, False), (Mode.TRAINING, True)])
def test_modes_differ(mode, random):
    text = (
        "input %x: float32[8] data\ninput %k: uint32[2] state\n"
        '%1 = dropout(%x, %k) {rate=0.5, stream=1}\noutput "y" = %1'
    )
    ops = {n.op.name for n in expand(graph_of(text), ExpandOptions(mode)).nodes}
    assert ("where" in ops or "mul" in ops) == random


def test_regions_expand():
    text = (
        'input %x: float32[3] data\n%1 = scan(%x) {body=graph "b" { input %i: float32[3] data %0 = relu(%i) '
        'output "o" = %0 }, carries=1, sequences=0, length=2}\noutput "y" = %1'
    )
    body = expand(graph_of(text)).nodes[0].attributes["body"]
    assert "relu" not in [n.op.name for n in body.nodes]


def test_an_expansion_of_another_type_is_refused():
    bad = OpDef(
        "bad_composite", 1, lambda types, attributes: types, lambda attributes, x: x,
        expand=lambda b, inputs, attributes, mode: [b.greater(inputs[0], inputs[0])],
    )  # fmt: skip
    builder = Builder()
    source = chain("neg", 1)
    builder.emit(bad, source.inputs)
    with pytest.raises(GraphError, match=r"bad_composite.*expands to values of types bool\[3\]"):
        expand_node(builder, builder.nodes[0], Mode.INFERENCE)


def test_strided_transposed_convolutions_multiply_no_zeros():
    text = (
        "input %x: float32[1, 4, 5, 6] data\ninput %w: float32[4, 8, 2, 2] parameter\n"
        '%1 = conv_transpose(%x, %w) {strides=(2, 2)}\noutput "y" = %1'
    )
    nodes = expand(graph_of(text)).nodes
    assert not [n for n in nodes if n.op.name == "pad" and any(n.attributes["interior"])]
    (contract,) = (n for n in nodes if n.op.name == "contract")
    assert contract.attributes["spec"] == "n c h w, c o ph pw -> n o (h ph) (w pw)"
