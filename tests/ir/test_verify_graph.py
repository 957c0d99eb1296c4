"""The verifier finds each kind of damage and shows where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.errors import VerificationError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, InputSpec, Node, Role, Signature, Value
from dlc.ir.types import tensor_type
from dlc.ir.verify_graph import verify_graph

VECTOR = tensor_type("float32", (3,))


def graph(length=20):
    b = Builder("g")
    x = b.input("x", VECTOR)
    state = b.input("s", VECTOR, Role.STATE, np.zeros(3, np.float32))
    for _ in range(length):
        x = b.neg(x)
    b.output("y", x)
    b.replace("s", b.add(state, x))
    return b.finish()


def with_spec(start, number, **changes):
    specs = list(start.signature.inputs)
    specs[number] = replace(specs[number], **changes)
    return replace(start, signature=Signature(tuple(specs), start.signature.outputs))


def changed_node(start, position, **changes):
    node = start.nodes[position]
    fields = {name: getattr(node, name) for name in ("op", "inputs", "attributes", "outputs", "origins")}
    nodes = list(start.nodes)
    nodes[position] = Node(**{**fields, **changes})
    return start.with_nodes(nodes)


def test_a_sound_graph_passes():
    verify_graph(graph())


def test_the_neighbourhood_is_shown():
    start = graph()
    with pytest.raises(VerificationError, match=r"node 10, neg.*operand 0 .*not defined before it is used") as caught:
        verify_graph(changed_node(start, 10, inputs=(Value(VECTOR),)))
    lines = caught.value.__notes__[0].splitlines()
    assert len(lines) == 17
    assert [line.startswith("-->") for line in lines].index(True) == 8
    assert lines[8].split() == ["-->", "10", "%10", "=", "neg(%?):", "float32[3]"]


def nodes_swapped(start):
    return start.with_nodes((start.nodes[1], start.nodes[0], *start.nodes[2:]))


def region_broken(start):
    b = Builder("r")
    x = b.input("x", VECTOR)
    body = Builder("body")
    value = body.input("i0", VECTOR)
    body.output("o0", body.neg(body.neg(value)))
    b.output("y", b.call("scan", x, body=body.finish(), carries=1, sequences=0, length=2))
    outer = b.finish()
    broken = outer.nodes[0].attributes["body"]
    attributes = outer.nodes[0].attributes.updated(body=broken.with_nodes(broken.nodes[1:]))
    return changed_node(outer, 0, attributes=attributes)


def with_outputs(start, outputs, names):
    return replace(start, outputs=outputs, signature=Signature(start.signature.inputs, names))


WIDE = tensor_type("float32", (4,))
DAMAGE = {
    "order": (nodes_swapped, "not defined before it is used"),
    "wrong type": (lambda g: changed_node(g, 3, outputs=(Value(WIDE),)), "type rule gives float32[3]"),
    "twice defined": (lambda g: changed_node(g, 3, outputs=g.nodes[2].outputs), "defined twice"),
    "arity": (lambda g: changed_node(g, 3, inputs=g.nodes[2].outputs * 2), "takes 1 operands, has 2"),
    "attributes": (lambda g: changed_node(g, 3, attributes=Attributes(axis=1)), "has attributes ['axis'], wants []"),
    "rule broken": (lambda g: changed_node(g, 20, inputs=(g.inputs[0], Value(VECTOR))), "not defined"),
    "output undefined": (lambda g: replace(g, outputs=(Value(VECTOR), g.outputs[1])), "output 'y' (float32[3]) is not"),
    "counts": (lambda g: replace(g, outputs=g.outputs[:1]), "other counts"),
    "input name": (lambda g: with_spec(g, 1, name="x"), "input name 'x' is taken twice"),
    "output name": (lambda g: with_outputs(g, g.outputs, ("y", "y")), "output name 'y' is taken twice"),
    "replacement missing": (lambda g: with_spec(g, 1, replaced_by="nothing"), "replaced by 'nothing', no output"),
    "replaces two": (lambda g: with_spec(g, 0, replaced_by="s:next"), "replaces two inputs"),
    "initial dtype": (lambda g: with_spec(g, 1, initial=np.zeros(3)), "initial array is float64[3]"),
    "initial shape": (lambda g: with_spec(g, 1, initial=np.zeros(4, np.float32)), "initial array is float32[4]"),
    "region": (region_broken, "not defined before it is used"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(what):
    damage, reason = DAMAGE[what]
    with pytest.raises(VerificationError) as caught:
        verify_graph(damage(graph()))
    assert reason in str(caught.value)


def test_a_replacement_has_the_type_of_its_input():
    b = Builder("g")
    x = b.input("x", VECTOR)
    b.output("y", b.reduce_sum(x, axes=(0,)))
    start = b.finish()
    broken = Graph("g", start.inputs, start.nodes, start.outputs, Signature((InputSpec("x", replaced_by="y"),), ("y",)))
    with pytest.raises(VerificationError, match=r"'x' is float32\[3\]; its replacement is float32\[\]"):
        verify_graph(broken)


def test_regions_are_named_in_a_note():
    with pytest.raises(VerificationError) as caught:
        verify_graph(region_broken(None))
    assert any("in a region of node 0 of graph 'r'" in note for note in caught.value.__notes__)


def test_trusted_nodes_skip_the_type_rules():
    broken = changed_node(graph(), 19, outputs=(Value(WIDE),))
    broken = replace(broken, nodes=broken.nodes[:20], outputs=broken.nodes[19].outputs,
                     signature=Signature((InputSpec("x"), InputSpec("s")), ("y",)))  # fmt: skip
    with pytest.raises(VerificationError):
        verify_graph(broken)
    verify_graph(broken, trusted=set(broken.nodes))
