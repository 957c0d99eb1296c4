"""Random graphs for pass tests: every pass must keep what the interpreter computes."""

from __future__ import annotations

import numpy as np

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Role, Value
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.types import tensor_type

SHAPES = [(), (3,), (4,), (2, 3), (3, 4), (2, 3, 4), (2, 3, 6, 6), (2, 4, 6, 6)]
UNARY = ("neg", "abs", "tanh", "sin", "sigmoid", "relu", "gelu")
BINARY = ("add", "sub", "mul", "maximum", "minimum")


class RandomGraph:
    """Grows a float64 graph whose values stay bounded; images are (2, c, 6, 6) in NCHW."""

    def __init__(self, seed: int, steps: int = 30) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder(f"fuzz{seed}")
        self.count = 0
        self.pool: list[Value] = [self.b.input(f"x{k}", tensor_type("float64", s)) for k, s in enumerate(SHAPES)]
        self.pool += [self.parameter(s) for s in ((3,), (3, 4), (2, 3, 6, 6))]
        for _ in range(steps):
            step = self.rng.choice([
                self.unary, self.binary, self.binary, self.constant_operand, self.move, self.move, self.reduce,
                self.matmul, self.conv, self.norm, self.window, self.decide,
            ])  # fmt: skip
            made = step()
            if made is not None and made.type.size <= 4096:
                self.pool.append(made)

    def graph(self) -> Graph:
        floats = [v for v in self.pool[-6:] if v.type.dtype.is_float]
        for number, value in enumerate(floats):
            self.b.output(f"y{number}", value)
        return self.b.finish()

    def parameter(self, shape: tuple[int, ...], trainable: bool = True) -> Value:
        self.count += 1
        array = self.rng.normal(size=shape) * 0.5
        return self.b.input(f"p{self.count}", tensor_type("float64", shape), Role.PARAMETER, array, trainable)

    def pick(self, *ranks: int) -> Value | None:
        found = [v for v in self.pool if not ranks or v.type.rank in ranks]
        # Late values more often, so that graphs grow deep.
        return found[-1 - int(self.rng.integers(0, min(len(found), 6)))] if found else None

    def unary(self) -> Value | None:
        return self.b.call(str(self.rng.choice(UNARY)), self.pick())

    def binary(self) -> Value | None:
        x = self.pick()
        partners = [v for v in self.pool if v.type.shape in (x.type.shape, ())]
        return self.b.call(str(self.rng.choice(BINARY)), x, partners[int(self.rng.integers(len(partners)))])

    def constant_operand(self) -> Value | None:
        x = self.pick()
        op, number = [("mul", 1.0), ("mul", -1.0), ("add", 0.0), ("add", -0.0), ("sub", 0.0), ("div", 4.0),
                      ("pow", 2.0), ("mul", 0.5), ("add", 1.0)][int(self.rng.integers(9))]  # fmt: skip
        return self.b.call(op, self.b.tanh(x), number)

    def move(self) -> Value | None:
        x, rng, b = self.pick(1, 2, 3, 4), self.rng, self.b
        shape = x.type.shape
        match rng.integers(8):
            case 0:
                return b.transpose(x, permutation=tuple(int(k) for k in rng.permutation(len(shape))))
            case 1:
                return b.reshape(x, shape=(-1,) if rng.random() < 0.5 else (*shape[:-2], -1))
            case 2 if shape[-1] >= 2:
                return b.slice(x, starts=(0,) * (len(shape) - 1) + (1,), limits=shape)
            case 3:
                return b.reverse(x, axes=(int(rng.integers(len(shape))),))
            case 4:
                low = tuple(int(k) for k in rng.integers(0, 2, len(shape)))
                return b.pad(x, b.constant(np.float64(0)), low=low, high=low[::-1], interior=0)
            case 5:
                return b.concat(x, b.neg(x), axis=int(rng.integers(len(shape))))
            case 6:
                return b.broadcast_to(x, (2, *shape)) if len(shape) < 4 else None
            case _:
                halves = (shape[0], shape[1] // 2, 2, *shape[2:]) if len(shape) > 1 and shape[1] % 2 == 0 else None
                return b.reshape(x, shape=halves) if halves else None

    def reduce(self) -> Value | None:
        x = self.pick(1, 2, 3, 4)
        axes = tuple(
            sorted(self.rng.choice(x.type.rank, size=int(self.rng.integers(1, x.type.rank + 1)), replace=False))
        )
        op = str(self.rng.choice(["reduce_sum", "reduce_max", "reduce_min"]))
        y = self.b.call(op, x, axes=tuple(int(a) for a in axes), keepdims=bool(self.rng.integers(2)))
        return self.b.tanh(y)

    def matmul(self) -> Value | None:
        x = self.pick(2, 3)
        if x is None:
            return None
        w = self.parameter((x.type.shape[-1], 4) if self.rng.random() < 0.5 else (4, x.type.shape[-1]))
        if w.type.shape[0] != x.type.shape[-1]:
            w = self.b.transpose(w, permutation=(1, 0))
        y = self.b.matmul(x, w)
        return self.b.tanh(self.b.add(self.b.mul(y, self.parameter((4,))), self.parameter((4,))))

    def conv(self) -> Value | None:
        x = self.pick(4)
        if x is None or min(x.type.shape) < 1:
            return None
        channels = x.type.shape[1]
        groups = channels if self.rng.random() < 0.3 else 1
        taps = int(self.rng.integers(1, 4))
        w = self.parameter((2 * channels if groups > 1 else 4, channels // groups, taps, taps))
        y = self.b.conv(x, w, strides=int(self.rng.integers(1, 3)), padding=1, groups=groups)
        return self.b.tanh(y)

    def norm(self) -> Value | None:
        x = self.pick(3, 4)
        if x is None:
            return None
        channels = x.type.shape[1]
        scale, bias, mean = (self.parameter((channels,)) for _ in range(3))
        variance = self.b.add(self.b.abs(self.parameter((channels,))), 1.0)
        y, _, _ = self.b.batch_norm(x, scale, bias, mean, variance, axis=1, epsilon=1e-3, momentum=0.1)
        return y

    def window(self) -> Value | None:
        x = self.pick(4)
        if x is None or x.type.shape[2] < 2 or x.type.shape[3] < 2:
            return None
        return self.b.max_pool(x, window=(2, 2), strides=(1, 1), padding=0)

    def decide(self) -> Value | None:
        x = self.pick()
        return self.b.where(self.b.greater(x, 0.1), x, self.b.mul(x, 0.25))


def random_graph(seed: int, steps: int = 30) -> Graph:
    """Return a random graph; equal seeds give equal graphs."""
    print(f"fuzz seed {seed}")
    return RandomGraph(seed, steps).graph()


def random_feeds(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Return arrays of both signs for the inputs without an initial array."""
    rng = np.random.default_rng(seed + 1000)
    return {
        spec.name: rng.normal(size=value.type.shape).astype(value.type.dtype.numpy)
        for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True)
        if spec.initial is None
    }


def assert_same_results(before: Graph, after: Graph, seed: int = 0, mode: Mode = Mode.INFERENCE, **close) -> None:
    """Assert that two graphs with the same inputs give the same outputs; exactly, unless ``rtol`` is given."""
    feeds = random_feeds(before, seed)
    want, got = interpret(before, feeds, mode), interpret(after, feeds, mode)
    assert list(want) == list(got)
    for name in want:
        if close:
            np.testing.assert_allclose(got[name], want[name], atol=1e-10, **close)
        else:
            np.testing.assert_array_equal(got[name], want[name])
