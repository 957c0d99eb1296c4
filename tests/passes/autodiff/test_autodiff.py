"""Gradients against central differences in float64, along one random direction per input."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.errors import GraphError, NotDifferentiableError
from dlc.ir.builder import Builder
from dlc.ir.graph import Origin, Phase, region_signature
from dlc.ir.interpret import interpret
from dlc.ir.opdef import NOT_DIFFERENTIABLE, Mode, OpDef
from dlc.ir.types import tensor_type
from dlc.ir.verify_graph import verify_graph
from dlc.passes.autodiff.autodiff import grad
from dlc.passes.cleanup import cleanup
from dlc.passes.manager import run_pipeline
from dlc.passes.pipeline import TRAINING
from tests.passes.pass_fuzz import RandomGraph, random_feeds
from tests.passes.pass_text import chain, graph_of


def f64(*shape):
    return tensor_type("float64", shape)


def check_gradients(graph, feeds, of="loss", wrt=None, mode=Mode.TRAINING, tolerance=1e-6):
    """Compare every gradient with (f(x + ed) - f(x - ed)) / 2e, before and after the training pipeline."""
    wrt = wrt or [s.name for v, s in zip(graph.inputs, graph.signature.inputs) if v.type.dtype.is_float]
    gradient = grad(graph, of, wrt, mode)
    verify_graph(gradient)
    optimised, _ = run_pipeline(gradient, TRAINING)
    initial = {s.name: s.initial for s in graph.signature.inputs if s.initial is not None}
    feeds = {**initial, **feeds}
    plain, quick = interpret(gradient, feeds, mode), interpret(optimised, feeds, mode)
    rng, step = np.random.default_rng(7), 1e-6
    for name in wrt:
        key = f"grad_{name}" if f"grad_{of}_{name}" not in plain else f"grad_{of}_{name}"
        direction = rng.normal(size=np.shape(feeds[name]))
        ends = [interpret(graph, {**feeds, name: feeds[name] + s * step * direction}, mode)[of] for s in (1, -1)]
        numeric = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(
            (plain[key] * direction).sum(), numeric, rtol=tolerance, atol=tolerance, err_msg=name
        )
        np.testing.assert_allclose(quick[key], plain[key], rtol=1e-8, atol=1e-10, err_msg=name)


def loss_of(b, *values):
    total = None
    for value in values:
        term = b.reduce_sum(b.mul(value, b.sin(value)), axes=tuple(range(value.type.rank)))
        total = term if total is None else b.add(total, term)
    b.output("loss", total)
    return b.finish()


def draw(graph, seed=0):
    rng = np.random.default_rng(seed)
    return {s.name: rng.normal(size=v.type.shape) for v, s in zip(graph.inputs, graph.signature.inputs)
            if v.type.dtype.is_float and s.initial is None}  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs(seed):
    random = RandomGraph(seed, steps=15)
    values = [v for v in random.pool[-4:] if v.type.dtype.is_float]
    graph = loss_of(random.b, *values)
    check_gradients(graph, random_feeds(graph, seed), tolerance=2e-5)


def test_a_value_used_often_adds_its_cotangents():
    b = Builder()
    x = b.input("x", f64(3))
    graph = loss_of(b, b.add(b.mul(x, x), b.exp(x)), x)
    check_gradients(graph, draw(graph))


def test_one_operand_twice():
    b = Builder()
    x = b.input("x", f64(3, 3))
    graph = loss_of(b, b.matmul(x, x), b.cross_entropy(x, b.constant(np.array([0, 2, 1])), reduction="mean"))
    check_gradients(graph, draw(graph))


def test_unused_inputs_have_zero_gradients():
    b = Builder()
    x, z = b.input("x", f64(3)), b.input("z", f64(2, 2))
    b.output("other", b.exp(z))
    gradient = grad(loss_of(b, x), "loss", ["x", "z"])
    result = interpret(gradient, {"x": np.ones(3), "z": np.ones((2, 2))})
    np.testing.assert_array_equal(result["grad_z"], np.zeros((2, 2)))
    assert gradient.signature.outputs == ("other", "loss", "grad_x", "grad_z")


def test_integer_paths_carry_none():
    b = Builder()
    x = b.input("x", f64(4))
    graph = loss_of(b, b.mul(x, b.cast(b.cast(x, dtype=tensor_type("int64").dtype), dtype=x.type.dtype)))
    feeds = {"x": np.array([1.5, -2.25, 0.75, 3.5])}
    whole = np.trunc(feeds["x"])
    result = interpret(grad(graph, "loss", ["x"]), feeds)["grad_x"]
    y = feeds["x"] * whole
    np.testing.assert_allclose(result, (np.sin(y) + y * np.cos(y)) * whole)


def test_a_float_path_without_derivative_names_the_node():
    b = Builder()
    hard = OpDef("hard", 1, lambda t, a: t, lambda a, x: x, compute=lambda *a: None, vjp=NOT_DIFFERENTIABLE)
    x = b.input("x", f64(3))
    with b.origin(Origin("model.py:7")):
        (y,) = b.emit(hard, (x,))
    graph = loss_of(b, y)
    with pytest.raises(NotDifferentiableError, match=r"hard \(model.py:7\).*no derivative"):
        grad(graph, "loss", ["x"])


@pytest.mark.parametrize(("of", "wrt", "error"), [
    ("nothing", "x", GraphError), ("loss", "nothing", GraphError), ("y", "x", NotDifferentiableError),
    ("loss", "i", NotDifferentiableError),
])  # fmt: skip
def test_bad_requests_are_refused(of, wrt, error):
    b = Builder()
    x = b.input("x", f64(3))
    b.input("i", tensor_type("int64", (3,)))
    b.output("y", x)
    with pytest.raises(error):
        grad(loss_of(b, x), of, [wrt])


def test_gradients_of_gradients():
    b = Builder()
    x, w = b.input("x", f64(2, 3)), b.input("w", f64(3, 4))
    first = grad(loss_of(b, b.softmax(b.tanh(b.matmul(x, w)), axis=1)), "loss", ["x", "w"])
    b = Builder.reopen(first)
    value = first.output("grad_w")
    b.output("norm", b.reduce_sum(b.mul(value, value), axes=(0, 1)))
    check_gradients(b.finish(), draw(first), of="norm", tolerance=1e-5)


def test_a_third_derivative():
    b = Builder()
    x = b.input("x", f64())
    b.output("f", b.exp(b.mul(x, 2.0)))
    graph = b.finish()
    for order, name in enumerate(["f", "grad_x", "grad_grad_x_x"]):
        graph = grad(graph, name, ["x"])
        found = interpret(graph, {"x": np.float64(0.3)})[graph.signature.outputs[-1]]
        np.testing.assert_allclose(found, 2 ** (order + 1) * np.exp(0.6))


def test_backward_nodes_say_so():
    gradient = grad(graph_of('input %x: float64[] data\n%1 = exp(%x) @ "layer"\noutput "loss" = %1'), "loss", ["x"])
    assert {(o.name, o.phase) for n in gradient.nodes[1:] for o in n.origins} == {
        ("gradient", Phase.BACKWARD), ("layer", Phase.BACKWARD)
    }  # fmt: skip


def test_a_chain_of_50000_nodes():
    b = Builder.reopen(chain("sin", 50000))
    b.output("loss", b.reduce_sum(b.finish().outputs[0], axes=(0,)))
    gradient = grad(b.finish(), "loss", ["x"])
    assert len(cleanup(gradient).nodes) > 150000
    result = interpret(gradient, {"x": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(result["grad_x"], np.ones(3))


# -- control flow ------------------------------------------------------------------------


def region(build, types, name="body"):
    b = Builder(name)
    inputs = [b.input(f"i{k}", t) for k, t in enumerate(types)]
    for k, value in enumerate(build(b, *inputs)):
        b.output(f"o{k}", value)
    graph = b.finish()
    object.__setattr__(graph, "signature", region_signature(len(graph.inputs), len(graph.outputs)))
    return graph


def recurrent(reverse=False, length=4):
    """h' = tanh(x W + h U + b), the step number as an integer carry, W and b constants."""

    def step(b, h, n, x, w, u, bias):
        new = b.tanh(b.add(b.add(b.matmul(x, w), b.matmul(h, u)), bias))
        scaled = b.mul(new, b.add(b.cast(n, dtype=h.type.dtype), 0.5))
        return new, b.add(n, 1), scaled

    b = Builder("recurrent")
    x, h = b.input("x", f64(length, 2, 3)), b.input("h", f64(2, 4))
    w, u, bias = b.input("w", f64(3, 4)), b.input("u", f64(4, 4)), b.input("b", f64(2, 4))
    counter = b.constant(0)
    body = region(step, [h.type, counter.type, f64(2, 3), w.type, u.type, bias.type])
    last, _, ys = b.call("scan", h, counter, x, w, u, bias, body=body, carries=2, sequences=1, reverse=reverse)
    return b, last, ys


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("used", ["last", "steps", "both"])
def test_scan(reverse, used):
    b, last, ys = recurrent(reverse)
    graph = loss_of(b, *{"last": (last,), "steps": (ys,), "both": (last, ys)}[used])
    check_gradients(graph, draw(graph))


def test_weights_of_a_scan_get_one_contraction_after_the_loop():
    b, last, ys = recurrent()
    gradient, _ = run_pipeline(grad(loss_of(b, last, ys), "loss", ["w", "u"]), TRAINING)
    backward = [n for n in gradient.nodes if n.op.name == "scan"][-1]
    assert backward.attributes["carries"] == 1  # the cotangent of h alone: no sums of weights' gradients
    assert backward.attributes["reverse"]


def test_scan_gradients_of_gradients():
    b, last, ys = recurrent(length=3)
    first = grad(loss_of(b, last, ys), "loss", ["u"])
    b = Builder.reopen(first)
    value = first.output("grad_u")
    b.output("norm", b.reduce_sum(b.mul(value, value), axes=(0, 1)))
    check_gradients(b.finish(), draw(first), of="norm", wrt=["x", "h", "u"], tolerance=1e-5)


def test_a_scan_in_a_scan():
    def inner(b, h, w):
        return (b.tanh(b.matmul(h, w)),)

    def outer(b, h, x, w):
        body = region(inner, [h.type, w.type], "inner")
        new = b.call("scan", b.add(h, x), w, body=body, carries=1, sequences=0, length=2)
        return new, b.mul(new, new)

    b = Builder()
    h, x, w = b.input("h", f64(2, 3)), b.input("x", f64(4, 2, 3)), b.input("w", f64(3, 3))
    body = region(outer, [h.type, f64(2, 3), w.type])
    last, ys = b.call("scan", h, x, w, body=body, carries=1, sequences=1)
    graph = loss_of(b, last, ys)
    check_gradients(graph, draw(graph))


def test_a_carry_that_only_becomes_active_inside():
    def step(b, total, x):
        return (b.add(total, b.reduce_sum(b.mul(x, x), axes=(0,))),)

    b = Builder()
    x = b.input("x", f64(5, 3))
    total = b.call("scan", b.constant(0.0, x.type.dtype), x, body=region(step, [f64(), f64(3)]), carries=1, sequences=1)
    graph = loss_of(b, total)
    check_gradients(graph, draw(graph))


def test_a_constant_used_elementwise_in_every_step():
    def step(b, h, w):
        return (b.mul(b.sin(h), w),)

    b = Builder()
    h, w = b.input("h", f64(3)), b.input("w", f64(3))
    last = b.call("scan", h, w, body=region(step, [f64(3), f64(3)]), carries=1, sequences=0, length=3)
    graph = loss_of(b, last)
    check_gradients(graph, draw(graph))


@pytest.mark.parametrize("condition", [True, False])
def test_if(condition):
    types = [f64(3), f64(3)]
    then_graph = region(lambda b, x, z: (b.mul(x, b.exp(z)), x), types, "then")
    else_graph = region(lambda b, x, z: (b.sin(x), b.mul(x, x)), types, "else")
    b = Builder()
    c, x, z = b.input("c", tensor_type("bool")), b.input("x", f64(3)), b.input("z", f64(3))
    one, two = b.call("if_", c, x, z, then_graph=then_graph, else_graph=else_graph)
    graph = loss_of(b, one, two)
    check_gradients(graph, {**draw(graph), "c": np.array(condition)})


@pytest.mark.parametrize(("op", "gates", "biases", "states"), [("lstm", 4, 1, 2), ("gru", 3, 2, 1), ("rnn", 1, 1, 1)])
def test_recurrent_layers(op, gates, biases, states):
    rows = gates * 3
    shapes = [(4, 2, 3), (rows, 3), (rows, 3), *[(rows,)] * biases, *[(2, 3)] * states]
    b = Builder()
    inputs = [b.input(f"x{k}", f64(*shape)) for k, shape in enumerate(shapes)]
    graph = loss_of(b, *b.call(op, *inputs))
    check_gradients(graph, draw(graph))
