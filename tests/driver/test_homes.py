"""Parts that live in what joins them: results, which copies are left, and when parts stay outside."""

from __future__ import annotations

import random

import numpy as np
import pytest

import dlc
from dlc import config, losses, optim
from dlc.driver.compile import compile_graph
from dlc.driver.homes import find_homes
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Graph, Role, Value
from dlc.ir.interpret import interpret
from dlc.ir.plan import KernelStep
from dlc.ir.types import tensor_type
from dlc.passes.bind import bind

LEVELS = ["", "avx2", "generic"]
RELU6 = 6.0


class Net:
    """Layers of channels-last images."""

    def __init__(self, name: str = "net", seed: int = 1) -> None:
        self.b = Builder(name)
        self.rng = np.random.default_rng(seed)

    def input(self, *shape) -> Value:
        return self.b.input(f"x{len(self.b.inputs)}", tensor_type("float32", shape))

    def weight(self, *shape: int) -> Value:
        array = (self.rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype("f")
        return self.b.input(f"w{len(self.b.inputs)}", tensor_type("float32", shape), Role.PARAMETER, array, True)

    def conv(self, x: Value, filters: int, width: int = 1) -> Value:
        """A convolution that keeps the image's size, and a nonlinearity."""
        b, channels = self.b, x.type.shape[-1]
        if width == 1:
            y = b.contract(x, self.weight(channels, filters), spec="n h w c, c k -> n h w k")
        else:
            spec = "n h+r w+s c, r s c k -> n h w k"
            y = b.contract(self.pad(x, width // 2), self.weight(width, width, channels, filters), spec=spec)
        return self.act(y)

    def act(self, x: Value) -> Value:
        return self.b.minimum(x, self.b.broadcast_to(self.b.constant(np.float32(RELU6)), x.type.shape))

    def pad(self, x: Value, width: int = 1) -> Value:
        sides = (0, width, width, 0)
        return self.b.pad(x, self.b.constant(np.float32(0)), low=sides, high=sides, interior=(0, 0, 0, 0))

    def pool(self, x: Value, stride: int = 2) -> Value:
        window, strides = (1, 2, 2, 1), (1, stride, stride, 1)
        return self.b.reduce_window(x, combiner="maximum", window=window, strides=strides, dilations=(1, 1, 1, 1))

    def window(self, x: Value) -> Value:
        """A pooling that keeps the image's size."""
        low, high, none = (0, 1, 1, 0), (0, 0, 0, 0), (0, 0, 0, 0)
        return self.pool(self.b.pad(x, self.b.constant(np.float32(-9)), low=low, high=high, interior=none), 1)

    def done(self, *outputs: Value) -> Graph:
        for k, value in enumerate(outputs):
            self.b.output(f"y{k}", value)
        return self.b.finish()


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        s.name: rng.normal(size=v.type.shape).astype("f")
        for v, s in zip(graph.inputs, graph.signature.inputs, strict=True)
        if s.role is Role.DATA
    }


def check(graph: Graph, threads: int = 2, features: str = "", precision: str = "float32", loose: float = 1e-4):
    """Compile, compare two runs with the interpreter, return the executable."""
    with config.override(cpu_features=features):
        executable = compile_graph(graph, threads=threads, precision=precision)
        for seed in (0, 1):
            feeds = feeds_of(graph, seed)
            got, wanted = executable.run(feeds), interpret(graph, feeds)
            for name, array in wanted.items():
                scale = np.abs(array).max() if array.size else 1.0
                np.testing.assert_allclose(got[name], array, rtol=loose, atol=loose * scale, err_msg=name)
    return executable


def copies(executable) -> list[str]:
    """Kernels that compute no contraction, reduction or whatever else is worth a pass over memory, but copy."""
    steps = [s for s in executable.plan.steps if isinstance(s, KernelStep)]
    return [s.symbol for s in steps if "pointwise" in s.symbol or "copy" in s.symbol]


def fire(net: Net, x: Value, squeeze: int, expand: int) -> Value:
    s = net.conv(x, squeeze)
    return net.b.concat(net.conv(s, expand), net.conv(s, expand, 3), axis=3)


@pytest.mark.parametrize("features", LEVELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_expanding_layers_write_their_concatenation(features, threads):
    net = Net()
    x = net.conv(net.input(1, 11, 13, 16), 16)
    for _ in range(3):
        x = fire(net, x, 7, 20)
    executable = check(net.done(net.conv(x, 5)), threads, features)
    # What is left: the squeezed image, which two convolutions read, is copied into a padded one.
    assert len(copies(executable)) == 3


@pytest.mark.parametrize("features", LEVELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_branches_of_every_kind_write_their_concatenation(features, threads):
    """Products, windows with and without filtering, a pooling before a product, a pooling, pointwise work."""
    net = Net()
    x = net.conv(net.input(2, 9, 10, 24), 32)
    branches = [
        net.conv(x, 20),
        net.conv(net.conv(x, 33), 36, 3),
        net.conv(net.conv(x, 6), 10, 5),
        net.conv(net.window(x), 8),
        net.b.mul(net.b.tanh(x), x),
    ]
    joined = net.b.concat(*branches, axis=3)
    graph = net.done(net.conv(joined, 8), net.pool(joined))
    homes = find_homes(fused(graph)).homes
    assert sorted(home.part.start[3] for home in homes.values() if home.part.start[3]) == [20, 56, 66, 74]
    executable = check(graph, threads, features)
    left = [s for s in executable.plan.steps if isinstance(s, KernelStep) and s.symbol in copies(executable)]
    assert left and all(len(step.arguments) <= 2 for step in left)  # paddings, and the branch of pointwise work


def test_the_middle_of_an_image_is_written_where_it_is_padded():
    net = Net()
    x = net.conv(net.input(1, 12, 14, 8), 8, 3)
    graph = net.done(net.conv(net.conv(x, 8, 3), 8, 3))
    executable = check(graph)
    homes = find_homes(fused(graph))
    assert len(homes.homes) == 2 and len(copies(executable)) == 3  # the input's, and two that write margins alone


def fused(graph: Graph) -> Graph:
    from dlc.passes.fusion.fuse import fuse

    return fuse(graph)


def grown(net: Net, x: Value, layers: int) -> Value:
    """Every layer sees the ones before: concatenations of concatenations."""
    for _ in range(layers):
        normed = net.b.mul(x, net.b.broadcast_to(net.weight(x.type.shape[-1]), x.type.shape))
        x = net.b.concat(x, net.conv(net.conv(net.act(normed), 24), 8, 3), axis=3)
    return x


@pytest.mark.parametrize("threads", [1, 2])
def test_concatenations_of_concatenations_are_one(threads):
    net = Net()
    x = grown(net, net.conv(net.input(1, 8, 8, 16), 16), 4)
    graph = net.done(net.conv(x, 4))
    homes = find_homes(fused(graph)).homes
    assert len({home.holder for home in homes.values() if home.holder.type.shape[-1] == 48}) == 1
    check(graph, threads)


def test_a_part_that_is_read_elsewhere_is_read_where_it_lies():
    net = Net()
    skip = net.conv(net.input(1, 12, 12, 8), 16, 3)
    low = net.conv(net.pool(skip), 16, 3)
    up = net.b.reshape(net.b.broadcast(low, shape=(1, 6, 2, 6, 2, 16), dims=(0, 1, 3, 5)), shape=(1, 12, 12, 16))
    joined = net.b.concat(net.conv(up, 16), skip, axis=3)
    graph = net.done(net.conv(joined, 8))
    check(graph)
    check(graph, threads=1, features="generic")


def test_a_part_that_a_contraction_reads_too_stays_outside():
    net = Net()
    part = net.conv(net.input(1, 6, 6, 8), 12)
    joined = net.b.concat(part, net.conv(part, 20), axis=3)
    graph = net.done(net.conv(joined, 4))
    homes = find_homes(fused(graph)).homes
    assert [home.part.start for home in homes.values()] == [(0, 0, 0, 12)]
    check(graph)


def test_outputs_inputs_and_constants_are_copied_into_a_concatenation():
    net = Net()
    x = net.input(1, 6, 6, 8)
    part, other = net.conv(x, 12), net.conv(x, 4)
    table = net.b.constant(np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype("f"))
    joined = net.b.concat(part, x, table, other, axis=3)
    graph = net.done(part, joined)
    assert [home.part.start for home in find_homes(fused(graph)).homes.values()] == [(0, 0, 0, 23)]
    check(graph)


def test_a_value_twice_in_one_concatenation():
    net = Net()
    part, other = net.conv(net.input(1, 6, 6, 8), 12), net.conv(net.input(1, 6, 6, 8), 20)
    check(net.done(net.conv(net.b.concat(part, other, part, axis=3), 4)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_concatenations_along_outer_dimensions(axis, threads):
    net = Net()
    shape = [2, 5, 6, 8]
    parts = [net.conv(net.input(*shape[:axis], n, *shape[axis + 1 :]), 12, width) for n, width in ((3, 1), (4, 3))]
    graph = net.done(net.b.tanh(net.b.concat(*parts, axis=axis)), net.pool(net.b.concat(*parts[::-1], axis=axis)))
    check(graph, threads)
    net = Net()
    parts = [net.conv(net.input(*shape[:axis], n, *shape[axis + 1 :]), 12, width) for n, width in ((3, 1), (4, 3))]
    graph = net.done(net.conv(net.b.concat(*parts, axis=axis), 4))
    assert find_homes(fused(graph)).homes
    check(graph, threads)


def test_a_concatenation_that_is_an_output():
    net = Net()
    x = net.input(1, 7, 7, 8)
    executable = check(net.done(net.b.concat(net.conv(x, 12), net.conv(x, 20), axis=3)))
    assert copies(executable) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_concatenation_inside_a_scan(threads):
    b = Builder("scanned")
    x, start = b.input("x", tensor_type("float32", (5, 4, 8))), b.input("start", tensor_type("float32", (4, 12)))
    w, v = (b.constant(np.random.default_rng(k).normal(size=(12, 6)).astype("f") / 4) for k in range(2))
    u = b.constant(np.random.default_rng(3).normal(size=(8, 4)).astype("f") / 4)
    inner = Builder("body")
    h, row = inner.input("h", start.type), inner.input("row", tensor_type("float32", (4, 8)))
    left, right, below = (inner.input(n, t.type) for n, t in (("w", w), ("v", v), ("u", u)))
    parts = [
        inner.tanh(inner.contract(h, left, spec="m k, k n -> m n")),
        inner.contract(row, below, spec="m k, k n -> m n"),
        inner.sin(inner.contract(h, right, spec="m k, k n -> m n")),
    ]
    joined = inner.concat(*parts, axis=1)
    inner.output("h", inner.slice(joined, starts=(0, 2), limits=(4, 14), strides=(1, 1)))
    inner.output("joined", joined)
    inner.output("sum", inner.reduce_sum(joined, axes=(1,)))
    attributes = {"body": inner.finish(), "carries": 1, "sequences": 1, "reverse": False}
    for k, value in enumerate(b.emit("scan", [start, x, w, v, u], attributes)):
        b.output(f"y{k}", value)
    check(b.finish(), threads)


def test_parts_that_are_known_before_a_run_are_not_made_in_it():
    net = Net()
    table = net.conv(net.b.constant(np.ones((1, 6, 6, 8), "f")), 12)
    graph = net.done(net.conv(net.b.concat(table, net.conv(net.input(1, 6, 6, 8), 20), axis=3), 4))
    check(graph)


def test_symbols_are_bound_before():
    net = Net()
    x = net.b.input("x", tensor_type("float32", (symbol("n"), 6, 6, 8)))
    joined = net.b.concat(net.conv(x, 12), net.conv(x, 20), axis=3)
    graph = net.done(net.conv(joined, 4))
    executable = compile_graph(graph, threads=2)
    for n in (1, 3):
        feeds = {"x": np.random.default_rng(n).normal(size=(n, 6, 6, 8)).astype("f")}
        np.testing.assert_allclose(
            executable.run(feeds)["y0"], interpret(bind(graph, {"n": n}), feeds)["y0"], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("features", LEVELS)
def test_bfloat16_parts(features):
    net = Net()
    x = net.conv(net.input(1, 9, 9, 32), 32)
    x = fire(net, fire(net, x, 16, 32), 16, 32)
    check(net.done(net.conv(x, 8)), features=features, precision="bfloat16", loose=3e-2)


def test_training_steps_join_as_well():
    with dlc.Graph("branches") as graph:
        x = dlc.input("x", (4, 3, 8, 8))
        h = dlc.relu(dlc.nn.Conv2d(3, 8, 3, padding=1)(x))
        h = dlc.concatenate(
            [dlc.relu(dlc.nn.Conv2d(8, 8, 1)(h)), dlc.relu(dlc.nn.Conv2d(8, 8, 3, padding=1)(h))], axis=1
        )
        dlc.output("logits", dlc.nn.Linear(16, 5)(dlc.mean(h, axis=(2, 3))))
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(4, 3, 8, 8)).astype("f"), "label": rng.integers(0, 5, 4)}
    step = dlc.compile_training(
        graph, loss=losses.cross_entropy("logits", "label"), optimizer=optim.SGD(0.1), threads=2
    )
    found = [float(step.run(batch)) for _ in range(12)]
    assert np.isfinite(found).all() and found[-1] < found[0]


def test_early_parts_stay_outside_where_the_whole_would_need_more_memory():
    def moved(between: int) -> tuple[bool, bool]:
        """Whether the early and the late part live in the whole, around a layer of so many channels."""
        net = Net()
        skip = net.conv(net.input(1, 64, 64, 8), 8, 3)
        y = net.conv(net.pool(skip), between, 3)
        y = net.conv(y, 4, 3)
        y = net.b.reshape(net.b.broadcast(y, shape=(1, 32, 2, 32, 2, 4), dims=(0, 1, 3, 5)), shape=(1, 64, 64, 4))
        joined = net.b.concat(skip, net.conv(y, 120, 3), axis=3)
        graph = net.done(net.conv(joined, 4))
        check(graph)
        starts = {home.part.start for home in find_homes(fused(graph)).homes.values()}
        return (0, 0, 0, 0) in starts, (0, 0, 0, 8) in starts

    assert moved(8) == (True, True) and moved(1000) == (False, True)


# -- random graphs ------------------------------------------------------------------------------------------


def random_net(seed: int) -> Graph:
    """Joins of joins, values with several readers, other shapes of them, outputs among them."""
    choose = random.Random(seed)
    net = Net(seed=seed)
    values = [net.input(choose.choice((1, 2)), 6, 6, choose.choice((4, 7)))]
    b = net.b

    def another(x: Value) -> Value:
        same = [v for v in values if v.type.shape == x.type.shape]
        return choose.choice(same)

    def join(x: Value) -> Value:
        axis = choose.choice((0, 1, 2, 3, 3, 3))
        fits = [
            v
            for v in values
            if all(a == c for d, (a, c) in enumerate(zip(v.type.shape, x.type.shape, strict=True)) if d != axis)
        ]
        parts = [choose.choice(fits) for _ in range(choose.choice((1, 1, 2)))]
        found = b.concat(x, *parts, axis=axis)
        return found if found.type.size < 20000 else x

    def flat(x: Value) -> Value:
        n, h, w, c = x.type.shape
        return b.reshape(b.tanh(b.reshape(x, shape=(n * h * w, c))), shape=(n, h, w, c))

    def cropped(x: Value) -> Value:
        n, h, w, c = x.type.shape
        return b.slice(x, starts=(0, 1, 1, 0), limits=(n, h - 1, w - 1, c), strides=(1, 1, 1, 1)) if h > 4 else x

    kinds = [
        lambda x: net.conv(x, choose.choice((3, 8, 20))),
        lambda x: net.conv(x, choose.choice((5, 16)), 3),
        lambda x: net.b.tanh(x),
        lambda x: b.add(x, another(x)),
        lambda x: net.pool(net.pad(x), 1) if x.type.shape[1] < 12 else net.pool(x),
        lambda x: net.pad(x) if x.type.shape[1] < 12 else x,
        join,
        join,
        join,
        flat,
        cropped,
    ]
    for _ in range(14):
        x = choose.choice(values[-4:])
        values.append(choose.choice(kinds)(x))
    made = list(dict.fromkeys(v for v in values[1:] if v is not values[0]))
    return net.done(*dict.fromkeys([made[-1], *choose.sample(made, min(2, len(made)))]))


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs(seed):
    graph = random_net(seed)
    check(graph, threads=1 + seed % 2, features=LEVELS[seed % 3] if seed % 4 else "")
