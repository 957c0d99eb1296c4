"""Random small graphs of primitives: the food of the fusion and lowering fuzz tests."""

from __future__ import annotations

import random

import numpy as np

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Value
from dlc.ir.types import bool_, float32, int32, int64, tensor_type

EXTENTS = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 40)
UNARY = ("neg", "abs", "exp", "tanh", "sigmoid", "sqrt", "floor", "sign", "erf")
BINARY = ("add", "sub", "mul", "maximum", "minimum")
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min")


class GraphMaker:
    """Grows one graph from a seeded generator."""

    def __init__(self, seed: int, most_elements: int = 4000, more: tuple[str, ...] = ()) -> None:
        self.random = random.Random(seed)
        self.builder = Builder(f"seed{seed}")
        self.most = most_elements
        self.more = more
        self.values: list[Value] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.numbers = np.random.default_rng(seed)

    def shape(self) -> tuple[int, ...]:
        while True:
            shape = tuple(self.random.choice(EXTENTS) for _ in range(self.random.randint(0, 4)))
            if np.prod(shape) <= self.most:
                return shape

    def input(self, shape: tuple[int, ...]) -> Value:
        name = f"i{len(self.feeds)}"
        self.feeds[name] = self.numbers.standard_normal(shape).astype(np.float32)
        value = self.builder.input(name, tensor_type(float32, shape))
        self.values.append(value)
        return value

    def pick(self) -> Value:
        """Prefer recent values: chains are what fusion is about."""
        if self.random.random() < 0.15:
            return self.input(self.shape())
        return self.random.choice(self.values[-4:] if self.random.random() < 0.7 else self.values)

    def add(self, value: Value) -> None:
        if value.type.dtype is not float32:
            value = self.builder.cast_to(value, float32)
        if 0 < int(value.type.size) <= self.most:
            self.values.append(value)

    def step(self) -> None:
        b, r = self.builder, self.random
        x = self.pick()
        shape, rank = x.type.shape, x.type.rank
        kinds = ("unary", "binary", "binary", "binary", "reduce", "reduce", "move", "move", "where", "other", "row")
        match r.choice((*kinds, *self.more)):
            case "contract" if rank:
                self.contract(x, shape)
            case "unary":
                self.add(self.unary(x))
            case "binary":
                self.add(b.call(r.choice(BINARY), x, self.partner(x)))
            case "reduce" if rank:
                axes = tuple(sorted(r.sample(range(rank), r.randint(1, rank))))
                self.add(b.call(r.choice(REDUCTIONS), x, axes=axes, keepdims=r.random() < 0.4))
            case "row" if rank:
                self.row(x, r.randrange(rank))
            case "where":
                y = self.partner(x)
                self.add(b.where(b.greater(x, y), x, b.mul(y, 0.5)))
            case "move" if rank:
                self.move(x, shape, rank)
            case "other" if rank:
                self.other(x, shape, rank)

    def contract(self, x: Value, shape: tuple) -> None:
        """A product with a new matrix over the last axis, with or without something right behind it."""
        b, depth, width = self.builder, int(shape[-1]), self.random.choice((1, 4, 8, 20))
        rows = int(x.type.size) // depth  # type: ignore[call-overload]
        weights = b.mul(self.input((depth, width)), float(depth) ** -0.5)
        y = b.contract(b.reshape_to(x, (rows, depth)), weights, spec="m k, k n -> m n")
        if self.random.random() < 0.6:
            y = b.add(y, self.input((width,)))
        if self.random.random() < 0.4:
            y = b.mul(y, b.sigmoid(y))
        self.add(y if self.random.random() < 0.5 else b.reshape_to(y, (*shape[:-1], width)))

    def unary(self, x: Value) -> Value:
        name = self.random.choice(UNARY)
        if name == "exp":
            return self.builder.exp(self.builder.minimum(x, 3.0))
        return self.builder.sqrt(self.builder.abs(x)) if name == "sqrt" else self.builder.call(name, x)

    def partner(self, x: Value) -> Value:
        """Something that broadcasts against ``x``."""
        r = self.random
        same = [v for v in self.values if v.type.shape == x.type.shape and v is not x]
        if same and r.random() < 0.7:
            return r.choice(same)
        shape = tuple(d if r.random() < 0.6 else 1 for d in x.type.shape)
        return self.input(shape[r.randint(0, len(shape)) :] if shape else ())

    def row(self, x: Value, axis: int) -> None:
        """Something per row: softmax or a normalisation, spelt out."""
        b, axes = self.builder, (axis,)
        if self.random.random() < 0.5:
            e = b.exp(b.sub(x, b.reduce_max(x, axes=axes, keepdims=True)))
            self.add(b.div(e, b.reduce_sum(e, axes=axes, keepdims=True)))
            return
        count = float(x.type.shape[axis])  # type: ignore[arg-type]
        centred = b.sub(x, b.div(b.reduce_sum(x, axes=axes, keepdims=True), count))
        variance = b.div(b.reduce_sum(b.mul(centred, centred), axes=axes, keepdims=True), count)
        self.add(b.mul(centred, b.rsqrt(b.add(variance, 0.1))))

    def move(self, x: Value, shape: tuple, rank: int) -> None:
        b, r = self.builder, self.random
        axis = r.randrange(rank)
        match r.choice(("reshape", "transpose", "slice", "pad", "concat", "reverse")):
            case "reshape":
                self.add(b.reshape_to(x, self.other_shape(int(x.type.size))))  # type: ignore[call-overload]
            case "transpose":
                self.add(b.transpose_to(x, r.sample(range(rank), rank)))
            case "slice":
                starts = tuple(r.randrange(d) for d in shape)
                limits = tuple(r.randint(s + 1, d) for s, d in zip(starts, shape))
                self.add(b.slice(x, starts=starts, limits=limits, strides=tuple(r.choice((1, 1, 2)) for _ in shape)))
            case "pad":
                low = tuple(r.choice((0, 0, 1, 2)) for _ in shape)
                high = tuple(r.choice((0, 0, 1)) for _ in shape)
                interior = tuple(r.choice((0, 0, 0, 1)) for _ in shape)
                self.add(b.pad(x, b.constant(0.25, float32), low=low, high=high, interior=interior))
            case "concat":
                self.add(b.concat(x, self.unary(x), axis=axis))
            case "reverse":
                self.add(b.reverse(x, axes=(axis,)))

    def other_shape(self, size: int) -> tuple[int, ...]:
        shape, rest = [], size
        for factor in (2, 3, 4, 5, 7, 8, 16):
            if rest % factor == 0 and self.random.random() < 0.4:
                shape.append(factor)
                rest //= factor
        shape.append(rest)
        self.random.shuffle(shape)
        return tuple(shape)

    def other(self, x: Value, shape: tuple, rank: int) -> None:
        b, r = self.builder, self.random
        axis = r.randrange(rank)
        match r.choice(("argmax", "gather", "cast", "compare", "iota")):
            case "argmax":
                self.add(b.call(r.choice(("argmax", "argmin")), x, axis=axis, keepdims=r.random() < 0.3))
            case "gather":
                count = r.randint(1, 6)
                indices = b.constant(self.numbers.integers(0, shape[axis], count).astype(np.int64))
                self.add(b.gather(x, indices, axis=axis))
            case "cast":
                self.add(b.add(b.cast_to(b.cast_to(x, int32), float32), x))
            case "compare":
                flags = b.greater(x, 0.0)
                if r.random() < 0.5:
                    flags = b.call(r.choice(("reduce_or", "reduce_and")), flags, axes=(axis,))
                assert flags.type.dtype is bool_
                self.add(flags)
            case "iota":
                self.add(b.add(x, b.cast_to(b.iota(shape=shape, axis=axis, dtype=int64), float32)))

    def graph(self, steps: int) -> Graph:
        self.input(self.shape())
        for _ in range(steps):
            self.step()
        outputs = dict.fromkeys([self.values[-1], *self.random.sample(self.values, min(2, len(self.values)))])
        for number, value in enumerate(outputs):
            self.builder.output(f"o{number}", value)
        return self.builder.finish()
