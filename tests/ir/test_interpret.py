"""The interpreter: feeds, modes, hooks, regions, and what it reports of faulty ops."""

from __future__ import annotations

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.errors import GraphError, InputError
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Graph, Origin, Role, region_signature
from dlc.ir.interpret import interpret, interpret_all, interpret_region
from dlc.ir.opdef import NOT_DIFFERENTIABLE, Mode, OpDef
from dlc.ir.types import tensor_type

VECTOR = tensor_type("float32", (3,))


def affine():
    b = Builder("affine")
    x = b.input("x", tensor_type("float32", (symbol("n"), 3)))
    w = b.input("w", VECTOR, Role.PARAMETER, np.array([1, 2, 3], np.float32))
    b.output("y", b.reduce_sum(x, axes=(1,)))
    b.replace("w", b.neg(w))
    return b.finish()


def test_outputs_by_name_with_replacements():
    results = interpret(affine(), {"x": np.ones((2, 3), np.float32)})
    assert list(results) == ["y", "w:next"]
    np.testing.assert_array_equal(results["y"], [3, 3])
    np.testing.assert_array_equal(results["w:next"], [-1, -2, -3])


def test_a_feed_takes_the_place_of_an_initial_array():
    results = interpret(affine(), {"x": np.ones((2, 3), np.float32), "w": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(results["w:next"], [0, 0, 0])


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({}, "'x' .* is not fed"),
        ({"x": X, "z": X}, "no input z; it has w, x"),
        ({"x": X.astype(np.float64)}, "'x' is float32.*got float64.*dtype must be float32"),
        ({"x": X[0]}, "rank must be 2"),
        ({"x": [[1.0], [1.0, 2.0]]}, "'x' is no array"),
        ({"x": X[:, :2]}, r"shape must be \[n, 3\]"),
    ],
)
def test_bad_feeds_are_named(feeds, reason):
    with pytest.raises(InputError, match=reason):
        interpret(affine(), feeds)


def test_every_value_and_every_node():
    graph, seen = affine(), []
    interpret(graph, {"x": X}, hook=lambda node, operands, results: seen.append((node.op.name, len(operands))))
    assert seen == [("reduce_sum", 1), ("neg", 1)]
    values = interpret_all(graph, {"x": X})
    assert set(values) == {*graph.inputs, *graph.outputs}
    np.testing.assert_array_equal(values[graph.outputs[0]], [3, 3])


def test_modes_reach_composites_also_in_regions():
    body = Builder("body")
    x, key = body.input("x", VECTOR), body.input("k", tensor_type("uint32", (2,)))
    y = body.dropout(x, key, rate=0.75, stream=3)
    region = Graph("body", (x, key), tuple(body.nodes), (y,), region_signature(2, 1))
    b = Builder("g")
    x, key = b.input("x", VECTOR), b.input("k", tensor_type("uint32", (2,)))
    b.output("plain", b.dropout(x, key, rate=0.75, stream=3))
    b.output("scan", b.call("scan", x, key, body=region, carries=1, sequences=0, length=1))
    feeds = {"x": np.ones(3, np.float32), "k": np.array([1, 2], np.uint32)}
    inference, training = (interpret(b.finish(), feeds, mode) for mode in Mode)
    np.testing.assert_array_equal(inference["plain"], feeds["x"])
    np.testing.assert_array_equal(inference["scan"], feeds["x"])
    assert set(training["plain"]) <= {0.0, 4.0}
    np.testing.assert_array_equal(training["scan"], training["plain"])


def test_a_region_runs_on_positional_arrays():
    graph = affine()
    y, _ = interpret_region(graph, (X, np.ones(3, np.float32)))
    np.testing.assert_array_equal(y, [3, 3])


def with_op(evaluate):
    op = OpDef("odd", 1, lambda types, attributes: types, evaluate, compute=lambda *a: None, vjp=NOT_DIFFERENTIABLE)
    b = Builder("g")
    with b.origin(Origin("model.py:12")):
        (y,) = b.emit(op, (b.input("x", VECTOR),))
    b.output("y", y)
    return b.finish()


@pytest.mark.parametrize(
    ("evaluate", "reason"),
    [
        (lambda a, x: x.astype(np.float64), "result 0 is float64.*dtype must be float32"),
        (lambda a, x: x[:2], r"result 0 is float32\[2\].*shape must be \[3\]"),
        (lambda a, x: (x, x), "2 results for 1 outputs"),
        (lambda a, x: x.reshape(7), "evaluation failed"),
    ],
)
def test_faulty_ops_are_named(evaluate, reason):
    with pytest.raises(GraphError, match=rf"odd \(model.py:12\).*{reason}"):
        interpret(with_op(evaluate), {"x": np.ones(3, np.float32)})


def test_memory_of_dead_values_is_released():
    alive, most = 0, 0

    class Array(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def evaluate(a, x):
        nonlocal alive, most
        y = (np.asarray(x) + 1).view(Array)
        alive += 1
        most = max(most, alive)
        return np.asarray(y)  # a view that keeps the counted array alive

    op = OpDef("keep", 1, lambda types, attributes: types, evaluate, compute=lambda *a: None, vjp=NOT_DIFFERENTIABLE)
    b = Builder("g")
    value = b.input("x", VECTOR)
    for _ in range(50):
        (value,) = b.emit(op, (value,))
    b.output("y", value)
    np.testing.assert_array_equal(interpret(b.finish(), {"x": np.zeros(3, np.float32)})["y"], [50, 50, 50])
    assert 1 <= most <= 3
