"""Samples of ops that move, reduce, index and multiply tensors, and of control flow."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from dlc.ir.attributes import Literal
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph
from dlc.ir.types import TensorType, bool_, float32, float64, int32, int64, tensor_type
from tests.ir.ops.samples import Draw, Sample, both, sampler


@sampler("constant")
def constant(name: str, draw: Draw) -> Iterator[Sample]:
    arrays = (
        draw.normal(), draw.normal(5), draw.normal(2, 3), np.zeros((3, 4)), draw.integers(-9, 9, 7), draw.bools(3, 3),
        np.zeros((0, 2)),
    )  # fmt: skip
    for array in arrays:
        yield Sample(name, (), {"value": Literal(array)})


@sampler("iota")
def iota(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, axis in (((5,), 0), ((2, 3, 4), 1), ((3, 0), 0), ((2, 7), -1)):
        for dtype in (int64, float32, int32):
            yield Sample(name, (), {"shape": shape, "axis": axis, "dtype": dtype})


@sampler("dimension")
def dimension(name: str, draw: Draw) -> Iterator[Sample]:
    yield Sample(name, (), {"size": 12})


@sampler("reshape")
def reshape(name: str, draw: Draw) -> Iterator[Sample]:
    for before, after in (
        ((6, 4), (3, 8)), ((6, 4), (24,)), ((5,), (5, 1)), ((1, 1), ()), ((), (1, 1)), ((0, 3), (3, 0)),
        ((2, 6), (-1, 3)),
    ):  # fmt: skip
        yield from both(name, draw.normal(*before), shape=after)
    yield Sample(name, (draw.bools(4, 3),), {"shape": (2, 6)})


@sampler("barrier")
def barrier(name: str, draw: Draw) -> Iterator[Sample]:
    for shape in ((), (0, 3), (5,), (6, 40)):
        yield from both(name, draw.normal(*shape))
    yield Sample(name, (draw.bools(4, 3),))


@sampler("transpose")
def transpose(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, permutation in (((3, 5), (1, 0)), ((2, 3, 4, 5), (0, 2, 3, 1)), ((2, 3, 4), (2, 0, 1)), ((), ())):
        yield from both(name, draw.normal(*shape), permutation=permutation)
    yield Sample(name, (draw.integers(-9, 9, 20, 17),))
    yield Sample(name, (draw.bools(2, 0, 3),))


@sampler("broadcast")
def broadcast(name: str, draw: Draw) -> Iterator[Sample]:
    for before, after, dims in (
        ((), (3, 4), ()), ((5,), (5, 3), (0,)), ((5,), (2, 3, 5), (2,)), ((2, 4), (2, 3, 4), (0, 2)),
        ((3,), (3, 0), (0,)),
    ):  # fmt: skip
        yield from both(name, draw.normal(*before), shape=after, dims=dims)
    yield Sample(name, (draw.integers(0, 9, 3),), {"shape": (3, 3), "dims": (1,)})


@sampler("slice")
def slice_(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(7, 9), starts=(1, 2), limits=(6, 9), strides=(2, 3))
    yield from both(name, draw.normal(7, 9), starts=(0, 0), limits=(7, 4))
    yield from both(name, draw.normal(5), starts=2, limits=2)
    yield Sample(
        name, (draw.integers(0, 99, 3, 4, 5),), {"starts": (1, 0, 4), "limits": (3, 4, 5), "strides": (1, 2, 1)}
    )
    yield from both(name, draw.normal(), starts=(), limits=())


@sampler("reverse")
def reverse(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 5, 2), axes=(0, 2))
    yield from both(name, draw.normal(7), axes=-1)
    yield Sample(name, (draw.bools(3, 0),), {"axes": (0,)})


@sampler("pad")
def pad(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 5), draw.normal(), low=(1, 0), high=(2, 3), interior=0)
    yield from both(name, draw.normal(3, 5), draw.normal(), low=(1, -2), high=(-1, 2), interior=(2, 1))
    yield from both(name, draw.normal(4), draw.normal(), low=-1, high=-1)
    yield from both(name, draw.normal(0, 2), draw.normal(), low=(2, 0), high=(1, 0), interior=(3, 0))
    yield from both(name, draw.normal(2, 3, 4), draw.normal(), low=0, high=0, interior=(0, 2, 0))
    yield Sample(name, (draw.integers(0, 9, 3), np.array(7)), {"low": 2, "high": 0})
    yield from both(name, draw.normal(), draw.normal(), low=(), high=(), interior=())


@sampler("concat")
def concat(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 3), draw.normal(2, 1), draw.normal(2, 4), axis=1)
    yield from both(name, draw.normal(2, 3), draw.normal(0, 3), draw.normal(1, 3), axis=0)
    yield from both(name, draw.normal(5), axis=0)
    yield Sample(name, (draw.bools(3, 2), draw.bools(3, 2)), {"axis": -1})
    yield Sample(name, (draw.integers(0, 9, 0), draw.integers(0, 9, 0)), {"axis": 0})


@sampler("stop_gradient")
def stop_gradient(name: str, draw: Draw) -> Iterator[Sample]:
    yield Sample(name, (draw.normal(3, 4),), differentiable=())


_REDUCTIONS = [((3, 5), None), ((3, 5, 4), (1,)), ((3, 5, 4), (0, 2)), ((3, 33), (-1,)), ((4, 0, 3), (1,)), ((), None)]


@sampler("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")
def reductions(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, axes in _REDUCTIONS:
        yield from both(name, draw.normal(*shape), axes=axes)
    yield from both(name, draw.normal(2, 3, 4), axes=(0, 1), keepdims=True)
    yield from both(name, draw.normal(2, 3), axes=())
    for dtype in (np.int32, np.int64, np.uint8):
        yield Sample(name, (draw.integers(0, 5, 4, 6, dtype=dtype),), {"axes": 1})
    if name in ("reduce_max", "reduce_min"):
        yield Sample(name, (draw.bools(4, 5),), {"axes": 0})
        yield Sample(
            name, (np.array([[1.0, np.nan, 2.0], [3.0, 1.0, -np.inf]], np.float32),), {"axes": 1}, differentiable=()
        )


@sampler("reduce_and", "reduce_or")
def truths(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, axes in _REDUCTIONS:
        yield Sample(name, (draw.bools(*shape),), {"axes": axes})


@sampler("argmax", "argmin")
def positions(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, axis in (((7,), 0), ((3, 33), 1), ((3, 5, 4), 1), ((3, 5, 4), 0), ((0, 3), 1)):
        yield from both(name, draw.normal(*shape), axis=axis)
        yield Sample(name, (draw.integers(0, 3, *shape),), {"axis": axis})
    yield Sample(name, (draw.normal(3, 4),), {"axis": -1, "keepdims": True})


@sampler("cumsum")
def cumsum(name: str, draw: Draw) -> Iterator[Sample]:
    for axis in (0, 1, 2):
        yield from both(name, draw.normal(3, 4, 19), axis=axis)
    for exclusive, backwards in ((True, False), (False, True), (True, True)):
        yield from both(name, draw.normal(5, 3), axis=0, exclusive=exclusive, reverse=backwards)
    yield Sample(name, (draw.integers(-9, 9, 7),), {"axis": 0})
    yield Sample(name, (draw.normal(0, 2),), {"axis": 0})


@sampler("reduce_window")
def reduce_window(name: str, draw: Draw) -> Iterator[Sample]:
    for combiner in ("add", "maximum", "minimum"):
        yield from both(name, draw.normal(2, 7, 8, 3), combiner=combiner, window=(1, 3, 2, 1), strides=(1, 2, 2, 1))
        yield from both(name, draw.normal(9), combiner=combiner, window=3, strides=2, dilations=2)
        yield from both(name, draw.normal(6, 4), combiner=combiner, window=1, strides=(2, 1))
        yield Sample(name, (draw.integers(0, 9, 5, 5),), {"combiner": combiner, "window": 2})


@sampler("contract")
def contract(name: str, draw: Draw) -> Iterator[Sample]:
    def one(spec: str, left: tuple, right: tuple, sizes: tuple = ()) -> Iterator[Sample]:
        return both(name, draw.normal(*left), draw.normal(*right), spec=spec, sizes=sizes)

    yield from one("m k, k n -> m n", (5, 7), (7, 3))
    yield from one("b m k, b n k -> b n m", (2, 3, 4), (2, 5, 4))
    yield from one("m, n -> m n", (3,), (4,))
    yield from one("k, k -> ", (9,), (9,))
    yield from one("m k, k n -> m n", (3, 0), (0, 4))
    yield from one("n h*2+r w+s c, r s c k -> n h w k", (2, 7, 6, 3), (3, 2, 3, 4))
    yield from one("n h+r*2 (g c), r c (g k) -> n h (g k)", (2, 8, 6), (3, 3, 4), (("g", 2),))
    yield from one("n h+r c, r c -> n h c", (1, 6, 5), (3, 5))
    yield Sample(name, (draw.integers(-5, 5, 3, 4), draw.integers(-5, 5, 4, 2)), {"spec": "m k, k n -> m n"})
    for spec, left, right in (
        ("m k, k n -> m n", (9, 7), (7, 33)),
        ("m k, n k -> n m", (40, 8), (5, 8)),
        ("n h+r w+s c, r s c k -> n h w k", (1, 6, 6, 4), (3, 3, 4, 17)),
        ("n h+r c, r c -> n h c", (1, 6, 5), (3, 5)),
        ("m k, k n -> m n", (3, 0), (0, 4)),
    ):
        halves = tuple(draw.normal(*shape).astype(ml_dtypes.bfloat16) for shape in (left, right))
        yield Sample(name, halves, {"spec": spec, "dtype": float32}, differentiable=())


@sampler("matmul")
def matmul(name: str, draw: Draw) -> Iterator[Sample]:
    for left, right in (
        ((3, 4), (4, 5)), ((4,), (4,)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((2, 1, 3, 4), (5, 4, 2)),
        ((0, 3), (3, 2)),
        ((1, 1), (1, 1)), ((2, 3, 4), (4, 5)),
    ):  # fmt: skip
        yield from both(name, draw.normal(*left), draw.normal(*right))
    yield Sample(name, (draw.integers(-9, 9, 3, 4), draw.integers(-9, 9, 4, 2)))


@sampler("einsum")
def einsum(name: str, draw: Draw) -> Iterator[Sample]:
    for equation, *shapes in (
        ("ij,jk->ik", (2, 3), (3, 4)), ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
        ("...ij,...jk", (2, 3, 4), (4, 5)),
        ("ii->i", (3, 3)), ("ii", (3, 3)), ("ij->ji", (2, 3)), ("ij,j,k->k", (2, 3), (3,), (4,)),
        ("ij,ij,ij->i", (2, 3), (1, 3), (2, 1)), ("abA,bA->", (2, 3, 4), (3, 4)),
        ("iij,jii->ij", (3, 3, 2), (2, 3, 3)),
    ):  # fmt: skip
        yield from both(name, *(draw.normal(*s) for s in shapes), equation=equation)


@sampler("conv")
def conv(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 3, 5, 6), draw.normal(4, 3, 3, 3), padding=1)
    yield from both(
        name, draw.normal(2, 4, 7, 8), draw.normal(6, 2, 3, 2), strides=(2, 3), dilations=(2, 1),
        padding=((1, 2), (0, 1)), groups=2,
    )  # fmt: skip
    yield from both(name, draw.normal(2, 4, 7), draw.normal(4, 1, 3), groups=4, padding=1)
    yield from both(name, draw.normal(2, 3, 7), draw.normal(6, 1, 3), groups=3, strides=2)
    yield from both(name, draw.normal(1, 4, 5, 5), draw.normal(3, 4, 1, 1))
    yield from both(name, draw.normal(1, 4, 5, 5), draw.normal(3, 4, 1, 1), strides=2)
    yield from both(name, draw.normal(2, 5, 5, 4), draw.normal(3, 3, 4, 6), input="nhwc", kernel="hwio", output="nhwc")
    yield from both(name, draw.normal(1, 2, 3, 4, 5), draw.normal(2, 2, 2, 2, 2))
    yield from both(name, draw.normal(0, 2, 4), draw.normal(3, 2, 2))


@sampler("conv_transpose")
def conv_transpose(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 3, 4, 5), draw.normal(3, 4, 3, 3))
    yield from both(
        name, draw.normal(2, 4, 4, 5), draw.normal(4, 3, 3, 2), groups=2, strides=(2, 3), dilations=(2, 1),
        padding=((1, 2), (0, 1)), output_padding=(1, 2),
    )  # fmt: skip
    yield from both(name, draw.normal(2, 4, 4), draw.normal(4, 1, 3), groups=4, strides=2, padding=1)
    yield from both(name, draw.normal(1, 4, 3, 3), draw.normal(4, 2, 1, 1), strides=2)
    yield from both(name, draw.normal(2, 4, 3, 4), draw.normal(4, 5, 2, 2), strides=2)
    yield from both(name, draw.normal(1, 4, 3, 4), draw.normal(4, 3, 4, 3), strides=(2, 1), padding=1, groups=2)
    yield from both(
        name, draw.normal(1, 3, 4, 3), draw.normal(5, 3, 3, 4), strides=(2, 3), output_padding=(1, 2),
        padding=((0, 1), (2, 0)), input="nhwc", kernel="ohiw", output="nchw",
    )  # fmt: skip


@sampler("gather")
def gather(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, indices, axis in (
        ((5, 3), (4,), 0),
        ((2, 5, 3), (2, 2), 1),
        ((4, 6), (), 1),
        ((7,), (0,), 0),
        ((3, 2), (3,), -1),
    ):
        extent = shape[axis]
        yield from both(name, draw.normal(*shape), draw.integers(-extent, extent, *indices), axis=axis)
    yield from both(name, draw.normal(4, 3), np.array([-99, 99, 2], np.int32), axis=0)
    yield Sample(name, (draw.bools(5), draw.integers(0, 5, 3, dtype=np.int32)), {"axis": 0})


@sampler("gather_elements")
def gather_elements(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 4), draw.integers(-4, 4, 3, 6), axis=1)
    yield from both(name, draw.normal(3, 4, 2), draw.integers(-3, 3, 2, 4, 2, dtype=np.int32), axis=0)
    yield from both(name, draw.normal(3, 4), draw.integers(0, 4, 3, 0), axis=1)


@sampler("gather_nd")
def gather_nd(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 4, 5), draw.integers(-3, 3, 6, 2))
    yield from both(name, draw.normal(3, 4), draw.integers(0, 3, 2, 3, 2))
    yield from both(name, draw.normal(2, 3, 4), draw.integers(0, 3, 2, 5, 1), batch_dims=1)
    yield from both(name, draw.normal(4), draw.integers(0, 4, 1))


@sampler("scatter_add")
def scatter_add(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(4, 19), draw.integers(-4, 4, 7), draw.normal(7, 19), axis=0)
    yield from both(name, draw.normal(2, 4, 3), draw.integers(0, 4, 2, 2), draw.normal(2, 2, 2, 3), axis=1)
    yield from both(name, draw.normal(2, 5), draw.integers(0, 5, 6), draw.normal(2, 6), axis=1)
    yield from both(name, draw.normal(3, 70), draw.integers(0, 3, 0), draw.normal(0, 70), axis=0)
    # Rows that are whole vectors and no whole chunks of a task: what is beyond a row belongs to the next one.
    yield from both(name, draw.normal(2, 3, 80), draw.integers(-3, 3, 4), draw.normal(2, 4, 80), axis=1)
    yield Sample(name, (draw.integers(0, 9, 4), draw.integers(0, 4, 9), draw.integers(0, 9, 9)), {"axis": 0})


@sampler("scatter_elements")
def scatter_elements(name: str, draw: Draw) -> Iterator[Sample]:
    places = np.array([[2, 0, 1], [1, 3, 0]])
    yield from both(name, draw.normal(3, 4), places, draw.normal(2, 3), axis=1)
    for combiner in ("add", "maximum", "minimum"):
        yield from both(
            name, draw.normal(3, 4, 2), draw.integers(-3, 3, 5, 4, 2), draw.normal(5, 4, 2), combiner=combiner
        )
    yield Sample(
        name, (draw.normal(3, 4), draw.integers(0, 4, 3, 6), draw.normal(3, 6)), {"axis": 1, "combiner": "mul"},
        differentiable=(),
    )  # fmt: skip


@sampler("scatter_nd")
def scatter_nd(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 4, 5), np.array([[0, 1], [2, 3], [-1, 0]]), draw.normal(3, 5))
    yield from both(name, draw.normal(3, 160), draw.integers(-3, 3, 4, 1), draw.normal(4, 160), combiner="add")
    for combiner in ("add", "maximum", "minimum"):
        yield from both(name, draw.normal(4, 3), draw.integers(-4, 4, 6, 1), draw.normal(6, 3), combiner=combiner)
    yield Sample(
        name, (draw.normal(4), draw.integers(0, 4, 6, 1), draw.normal(6)), {"combiner": "mul"}, differentiable=()
    )


@sampler("one_hot")
def one_hot(name: str, draw: Draw) -> Iterator[Sample]:
    yield Sample(name, (draw.integers(-3, 5, 2, 3),), {"depth": 4})
    yield Sample(name, (draw.integers(0, 3, 5, dtype=np.int32),), {"depth": 3, "axis": 0, "dtype": float64})
    yield Sample(name, (np.array(2),), {"depth": 3, "dtype": int64})


# -- control flow ------------------------------------------------------------------------


def _region(name: str, types: list[TensorType], build: object) -> Graph:
    b = Builder(name)
    values = [b.input(f"i{k}", t) for k, t in enumerate(types)]
    for k, value in enumerate(build(b, *values)):  # type: ignore[operator]
        b.output(f"o{k}", value)
    return b.finish()


def _types(*arrays: np.ndarray) -> list[TensorType]:
    return [tensor_type(a.dtype, a.shape) for a in arrays]


@sampler("scan")
def scan(name: str, draw: Draw) -> Iterator[Sample]:
    for dtype, backwards in ((np.float32, False), (np.float64, True)):
        carry, xs, weight = draw.normal(3, dtype=dtype), draw.normal(4, 3, dtype=dtype), draw.normal(3, 3, dtype=dtype)

        def step(b: Builder, c: object, x: object, w: object) -> tuple:
            new = b.tanh(b.add(b.contract(c, w, spec="k, k n -> n"), x))
            return new, b.mul(new, x)

        body = _region("step", _types(carry, xs[0], weight), step)
        yield Sample(name, (carry, xs, weight), {"body": body, "carries": 1, "sequences": 1, "reverse": backwards})
    total = draw.normal()
    doubled = _region("double", _types(total), lambda b, c: (b.mul(c, 2.0), b.add(c, 1.0)))
    yield Sample(name, (total,), {"body": doubled, "carries": 1, "sequences": 0, "length": 5})
    yield Sample(name, (total,), {"body": doubled, "carries": 1, "sequences": 0, "length": 0})


@sampler("if_")
def if_(name: str, draw: Draw) -> Iterator[Sample]:
    for dtype in (np.float32, np.float64):
        x, y = draw.normal(3, dtype=dtype), draw.normal(3, dtype=dtype)
        branches = {
            "then_graph": _region("then", _types(x, y), lambda b, p, q: (b.mul(p, q), p)),
            "else_graph": _region("otherwise", _types(x, y), lambda b, p, q: (b.sub(p, q), q)),
        }
        for condition in (True, False):
            yield Sample(name, (np.array(condition), x, y), branches)


@sampler("loop")
def loop(name: str, draw: Draw) -> Iterator[Sample]:
    x = draw.normal(3)
    body = _region(
        "until", [tensor_type(int64), tensor_type(bool_), *_types(x)],
        lambda b, step, go, c: (b.less(b.reduce_sum(b.abs(c)), 50.0), b.mul(c, 2.0)),
    )  # fmt: skip
    for trip in (0, 3, 100):
        yield Sample(name, (np.array(trip), np.array(True), x), {"body": body, "carries": 1}, differentiable=())


@sampler("fused")
def fused(name: str, draw: Draw) -> Iterator[Sample]:
    x, y = draw.normal(4, 9), draw.normal(4, 9)
    body = _region("body", _types(x, y), lambda b, p, q: (b.exp(b.mul(p, q)), b.reduce_sum(b.add(p, q), axes=1)))
    yield Sample(name, (x, y), {"body": body}, differentiable=())
