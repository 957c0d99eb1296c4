"""Graphs, signatures, attributes and the builder."""

from __future__ import annotations

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.errors import DlcError, GraphError, TypeRuleError
from dlc.ir.attributes import Attributes, Literal
from dlc.ir.builder import Builder, broadcast_shapes, promote
from dlc.ir.dims import symbol
from dlc.ir.graph import Origin, Phase, Role, producers, users
from dlc.ir.types import as_dtype, bool_, float32, float64, int32, int64, tensor_type

VECTOR = tensor_type("float32", (3,))
N = symbol("n")


def sample():
    b = Builder("g")
    x = b.input("x", VECTOR)
    s = b.input("s", VECTOR, Role.STATE, np.zeros(3, np.float32))
    y = b.add(x, s)
    b.output("y", y)
    b.replace("s", y)
    return b.finish()


def test_the_signature():
    graph = sample()
    assert graph.signature.replacements == {"s:next": "s"}
    assert graph.signature.results == ("y",)
    assert graph.input("x") is graph.inputs[0] and graph.output("s:next") is graph.output("y")
    assert [s.name for _, s in graph.inputs_with(Role.STATE, Role.CONSTANT)] == ["s"]
    for look_up in (graph.input, graph.output, graph.spec):
        with pytest.raises(GraphError, match="nothing"):
            look_up("nothing")


def test_producers_and_users():
    graph = sample()
    (node,) = graph.nodes
    assert producers(graph) == {graph.outputs[0]: node}
    assert users(graph) == {graph.inputs[0]: [node], graph.inputs[1]: [node]}


def test_names_are_taken_once():
    b = Builder("g")
    x = b.input("x", VECTOR)
    b.output("y", x)
    with pytest.raises(GraphError, match="input 'x'"):
        b.input("x", VECTOR)
    with pytest.raises(GraphError, match="output 'y'"):
        b.output("y", x)
    with pytest.raises(GraphError, match="no input 'z'"):
        b.replace("z", x)
    with pytest.raises(GraphError, match=r"float32\[3\]; its replacement is float32\[\]"):
        b.replace("x", b.reduce_sum(x, axes=(0,)))


def test_reopened_graphs_continue():
    b = Builder.reopen(sample())
    b.output("z", b.neg(b.inputs[0]))
    graph = b.finish()
    assert graph.signature.outputs == ("y", "s:next", "z") and graph.signature.replacements == {"s:next": "s"}
    with pytest.raises(GraphError):
        b.input("x", VECTOR)


def test_inlining_copies_nodes():
    graph = sample()
    b = Builder("outer")
    x = b.input("a", VECTOR)
    outputs = b.inline(graph, (x, x))
    assert outputs[0] is outputs[1] is b.nodes[0].outputs[0] is not graph.outputs[0]
    assert b.nodes[0].inputs == (x, x)


# -- the builder's help with operands ------------------------------------------------------


def test_numbers_take_the_dtype_of_their_partner():
    b = Builder("g")
    x = b.input("x", tensor_type("float64", (2,)))
    i = b.input("i", tensor_type("int32", (2,)))
    assert b.add(x, 1).type == tensor_type("float64", (2,))
    assert b.add(2, i).type == tensor_type("int32", (2,))
    assert b.mul(i, 0.5).type.dtype is float64  # int32 and float32 promote as in NumPy
    assert b.where(b.greater(x, 0.0), x, 0.0).type == x.type


def test_shapes_broadcast_explicitly():
    b = Builder("g")
    n = symbol("n")
    x = b.input("x", tensor_type("float32", (n, 1, 4)))
    y = b.input("y", tensor_type("float32", (3, 1)))
    z = b.add(x, y)
    assert z.type.shape == (n, 3, 4)
    assert [node.op.name for node in b.nodes] == ["reshape", "broadcast", "reshape", "broadcast", "add"]


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        ([(3,), ()], (3,)),
        ([(2, 1), (3,)], (2, 3)),
        ([(0,), (1,)], (0,)),
        ([(symbol("n"), 1), (1, 4)], (symbol("n"), 4)),
    ],
)
def test_broadcast_shapes(shapes, result):
    assert broadcast_shapes(*shapes) == result


@pytest.mark.parametrize("shapes", [[(2,), (3,)], [(symbol("n"),), (symbol("m"),)], [(symbol("n"),), (3,)]])
def test_shapes_that_do_not_broadcast(shapes):
    with pytest.raises(TypeRuleError, match="do not broadcast"):
        broadcast_shapes(*shapes)


def test_promotion_is_numpys():
    assert promote(int32, int64) is int64 and promote(float32, int64) is float64 and promote(bool_, int32) is int32
    assert as_dtype(np.dtype(">f4")) is float32


def test_faults_name_op_origin_and_types():
    b = Builder("g")
    x = b.input("x", VECTOR)
    with b.origin(Origin("net.py:9")), pytest.raises(TypeRuleError, match=r"reshape\(float32\[3\]\) at net.py:9: "):
        b.reshape(x, shape=(2,))
    with pytest.raises(TypeRuleError, match="has no attribute axes"):
        b.neg(x, axes=1)
    with pytest.raises(TypeRuleError, match="needs the attribute"):
        b.reshape(x)
    with pytest.raises(TypeRuleError, match="attribute axes is 'a'"):
        b.reduce_sum(x, axes="a")
    with pytest.raises(TypeRuleError, match="takes 1 operands, got 2"):
        b.neg(x, x)
    with pytest.raises(AttributeError, match="no op or method 'frobnicate'"):
        b.frobnicate(x)
    with pytest.raises(DlcError, match="neither a tensor"):
        b.add(x, "one")


def test_origins_show_their_phase():
    assert str(Origin("a")) == "a" and str(Origin("a", Phase.BACKWARD)) == "a/backward"
    b = Builder("g")
    with b.origin(Origin("a"), Origin("b")):
        b.neg(b.input("x", VECTOR))
    assert b.nodes[0].label == "neg (a, b)"


# -- attributes ----------------------------------------------------------------------------


def test_attributes_tell_numbers_apart():
    values = [1, 1.0, True, 0, 0.0, -0.0, False, (1,), (1.0,), "1", None]
    made = [Attributes(x=v) for v in values]
    for i, a in enumerate(made):
        for j, b in enumerate(made):
            assert (a == b) == (i == j), (values[i], values[j])
    assert Attributes(x=float("nan")) == Attributes(x=float("nan"))
    assert hash(Attributes(a=1, b=2)) == hash(Attributes(b=2, a=1))


def test_literals_compare_by_bytes():
    assert Literal(np.array([1.0, np.nan])) == Literal(np.array([1.0, np.nan]))
    assert Literal(np.array(0.0)) != Literal(np.array(-0.0))
    assert Literal(np.zeros(2)) != Literal(np.zeros((2, 1))) != Literal(np.zeros((2, 1), np.float32))
    assert Literal(np.array(["a"], object)) == Literal(np.array(["a"], object)) != Literal(np.array(["b"], object))
    source = np.zeros(2)
    literal = Literal(source)
    source[0] = 1
    assert literal.array[0] == 0 and not literal.array.flags.writeable
