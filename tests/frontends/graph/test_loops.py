"""scan: carries, sequences, captures, structures, nesting and errors."""

import numpy as np
import pytest

import dlc.frontends.graph as dlc
from dlc.errors import GraphError, TypeRuleError
from dlc.frontends.graph import nn
from dlc.ir.interpret import interpret
from tests.frontends.graph.graphs import random, run


def test_running_sums_with_a_capture():
    x, scale = random(5, 3), random(3, seed=1)

    def model(x, scale):
        last, sums = dlc.scan(lambda c, t: (c + t * scale, c), dlc.zeros((3,)), x)
        return last, sums

    last, sums = run(model, x, scale)
    wanted = np.concatenate([np.zeros((1, 3)), np.cumsum(x * scale, 0)])
    np.testing.assert_allclose(last, wanted[-1], rtol=1e-5)
    np.testing.assert_allclose(sums, wanted[:-1], rtol=1e-5, atol=1e-6)


def test_reverse_structures_and_length():
    x, y = random(4, 2), random(4, 2, seed=1)

    def body(carry, item):
        a, (b,) = carry
        return (a + item["x"], (b * 2,)), {"sum": a, "product": item["x"] * item["y"]}

    def model(x, y):
        (a, (b,)), out = dlc.scan(body, (dlc.zeros((2,)), (dlc.ones(()),)), {"x": x, "y": y}, reverse=True)
        count, _ = dlc.scan(lambda c, _: (c + 1, None), dlc.zeros((), "int64"), length=7)
        return a, b, out["sum"], out["product"], count

    a, b, sums, products, count = run(model, x, y)
    np.testing.assert_allclose(a, x.sum(0), rtol=1e-5)
    assert b == 16 and count == 7
    np.testing.assert_allclose(products, x * y, rtol=1e-6)
    np.testing.assert_allclose(sums[0], x[1:].sum(0), rtol=1e-5)


def test_nested_scans_capture_through_both_bodies():
    x, scale = random(3, 4), random(1, seed=1)

    def model(x, scale):
        def outer(total, row):
            inner, _ = dlc.scan(lambda c, v: (c + v * scale[0] + total * 0, None), dlc.zeros(()), row)
            return total + inner, inner

        return dlc.scan(outer, dlc.zeros(()), x)

    total, rows = run(model, x, scale)
    np.testing.assert_allclose(rows, (x * scale).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(total, (x * scale).sum(), rtol=1e-4)


def test_layers_inside_a_body_make_parameters_of_the_graph():
    with dlc.Graph("g") as graph:
        x = dlc.input("x", (5, 2, 3))
        cell = nn.Linear(3, 3)
        h, _ = dlc.scan(lambda h, t: (dlc.tanh(cell(h + t)), None), dlc.zeros((2, 3)), x)
        dlc.output("h", h)
    assert [s.name for s in graph.ir.signature.inputs] == ["x", "linear.weight", "linear.bias"]
    state, x = graph.state(), random(5, 2, 3)
    h = np.zeros((2, 3), np.float32)
    for t in x:
        h = np.tanh((h + t) @ state["linear.weight"].T + state["linear.bias"])
    np.testing.assert_allclose(interpret(graph.ir, {"x": x})["h"], h, rtol=1e-5, atol=1e-6)


def test_errors():
    x = random(5, 3)
    with pytest.raises(TypeRuleError, match="carry 0"):
        run(lambda t: dlc.scan(lambda c, v: (c.astype("float64"), None), dlc.zeros((3,)), t)[0], x)
    with pytest.raises(TypeRuleError, match="differ in length"):
        run(lambda t: dlc.scan(lambda c, v: (c, None), dlc.zeros((3,)), (t, t[:2]))[0], x)
    with pytest.raises(TypeRuleError, match="length"):
        run(lambda t: dlc.scan(lambda c, v: (c, None), t)[0], x)
    with pytest.raises(GraphError, match="pair"):
        run(lambda t: dlc.scan(lambda c, v: c, dlc.zeros((3,)), t)[0], x)
    kept = []

    def leaks(t):
        dlc.scan(lambda c, v: (kept.append(v) or c, None), dlc.zeros((3,)), t)
        return kept[0] + 1

    with pytest.raises(GraphError, match="inside the body"):
        run(leaks, x)
