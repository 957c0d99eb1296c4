"""Loops: where carries live, that none is copied in vain, and that results stay right in every combination."""

import numpy as np
import pytest

from dlc.codegen.llvm.target import host_target
from dlc.driver.compile import compile_graph
from dlc.ir.builder import Builder
from dlc.ir.interpret import interpret
from dlc.ir.plan import KernelStep, LoopBegin, LoopEnd
from dlc.ir.types import tensor_type

LANES = host_target().lanes(4)
ROW = tensor_type("float32", (4, 8))
LENGTH = 5


def scanned(step, carries, reverse=False, nested=False):
    """A graph that scans ``step(builder, carries, x)`` -> outputs (new carries, then stacked) over x."""
    b = Builder("scanned")
    x = b.input("x", tensor_type("float32", (LENGTH, 4, 8)))
    starts = [b.input(f"start{k}", ROW) for k in range(carries)]
    inner = Builder("body")
    values = [inner.input(f"c{k}", ROW) for k in range(carries)]
    outputs = step(inner, values, inner.input("x", ROW))
    for number, value in enumerate(outputs):
        inner.output(f"o{number}", value)
    attributes = {"body": inner.finish(), "carries": carries, "sequences": 1, "reverse": reverse}
    if nested:
        outer = Builder("outer")
        held = [outer.input(f"c{k}", ROW) for k in range(carries)]
        ignored = outer.input("x", ROW)
        whole = outer.input("whole", x.type)
        found = outer.emit("scan", [*held, whole], attributes)
        for number, value in enumerate(
            [*found[:carries], outer.add(found[carries], outer.broadcast_to(ignored, x.type.shape))]
        ):
            outer.output(f"o{number}", value)
        around = {"body": outer.finish(), "carries": carries, "sequences": 1, "reverse": not reverse}
        results = b.emit("scan", [*starts, x, x], around)
    else:
        results = b.emit("scan", [*starts, x], attributes)
    for number, value in enumerate(results):
        b.output(f"y{number}", value)
    return b.finish()


def one(b, carries, x):
    (h,) = carries
    new = b.add(b.mul(h, 0.5), x)
    return [new, new]


def twice(b, carries, x):
    (h,) = carries
    new = b.tanh(b.add(h, x))
    return [new, new, new, h]


def crossed(b, carries, x):
    """The second carry takes the first one's old value; both new values are stacked."""
    h, g = carries
    new = b.add(b.mul(g, 0.25), x)
    return [new, h, new, h]


def both(b, carries, x):
    h, c = carries
    new = b.add(b.mul(c, 0.5), b.mul(h, x))
    return [b.tanh(new), new, b.tanh(new), new]


def same(b, carries, x):
    """Two carries with one new value, stacked once."""
    h, g = carries
    new = b.add(b.mul(h, 0.5), b.mul(g, x))
    return [new, new, new]


def old(b, carries, x):
    """Old values are stacked: of one carry alone, of the other with the new ones."""
    h, c = carries
    new = b.add(b.mul(c, 0.5), b.mul(h, x))
    return [b.tanh(new), new, h, c, new]


STEPS = {
    "one": (one, 1),
    "old": (old, 2),
    "twice": (twice, 1),
    "crossed": (crossed, 2),
    "both": (both, 2),
    "same": (same, 2),
}


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("threads", [1, 2])
def test_scans_agree_with_the_interpreter(name, reverse, nested, threads, rng):
    step, carries = STEPS[name]
    graph = scanned(step, carries, reverse, nested)
    feeds = {"x": rng.normal(size=(LENGTH, 4, 8)).astype("f")}
    feeds |= {f"start{k}": rng.normal(size=(4, 8)).astype("f") for k in range(carries)}
    got, expected = compile_graph(graph, threads=threads).run(feeds), interpret(graph, feeds)
    for key, array in expected.items():
        np.testing.assert_allclose(got[key], array, rtol=1e-5, atol=1e-5)


def steps_of_loop(executable):
    steps = executable.plan.steps
    begin = next(k for k, step in enumerate(steps) if isinstance(step, LoopBegin))
    end = next(k for k, step in enumerate(steps) if isinstance(step, LoopEnd))
    return [step for step in steps[begin:end] if isinstance(step, KernelStep)]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_carry_that_is_stacked_is_not_copied(reverse):
    (step,) = steps_of_loop(compile_graph(scanned(one, 1, reverse)))
    strides = [argument.strides[0] for argument in step.arguments if argument.strides]
    assert strides == [-128 if reverse else 128] * 3  # reads the old row and x, writes the next row


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_old_values_that_are_stacked_are_not_copied(reverse):
    names = [step.symbol for step in steps_of_loop(compile_graph(scanned(old, 2, reverse)))]
    assert names and not any("copy" in name for name in names)


@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_a_recurrent_layer_takes_at_most_two_steps_per_element(layer, rng):
    b = Builder(layer)
    gates, biases = {"lstm": (4, 1), "gru": (3, 2)}[layer]
    x = b.input("x", tensor_type("float32", (6, 8, 16)))
    w = [rng.normal(size=(gates * 32, n)).astype("f") / 8 for n in (16, 32)]
    bias = [rng.normal(size=gates * 32).astype("f") for _ in range(biases)]
    states = [np.zeros((8, 32), "f")] * (2 if layer == "lstm" else 1)
    y = getattr(b, layer)(x, *(b.constant(a) for a in (*w, *bias, *states)))[0]
    b.output("y", y)
    graph = b.finish()
    executable = compile_graph(graph, threads=2)
    assert len(steps_of_loop(executable)) <= 2
    assert next(s for s in executable.plan.steps if isinstance(s, LoopBegin)).chains == (LANES <= 8)
    feeds = {"x": rng.normal(size=(6, 8, 16)).astype("f")}
    np.testing.assert_allclose(executable.run(feeds)["y"], interpret(graph, feeds)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_loop_over_an_empty_sequence_gives_back_its_start(reverse):
    b = Builder("empty")
    start, x = b.input("start", ROW), b.input("x", tensor_type("float32", (0, 4, 8)))
    inner = Builder("body")
    carry, element = inner.input("c", ROW), inner.input("x", ROW)
    inner.output("o", inner.add(carry, element))
    inner.output("turned", inner.transpose(inner.reshape(element, shape=(8, 4)), permutation=(1, 0)))
    results = b.emit("scan", [start, x], {"body": inner.finish(), "carries": 1, "sequences": 1, "reverse": reverse})
    for number, value in enumerate(results):
        b.output(f"y{number}", value)
    feeds = {"start": np.ones((4, 8), "f"), "x": np.zeros((0, 4, 8), "f")}
    got = compile_graph(b.finish()).run(feeds)
    assert np.array_equal(got["y0"], feeds["start"]) and got["y1"].shape == (0, 4, 8)
