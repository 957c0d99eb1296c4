"""Small graphs that the driver's tests compile, and a cache folder of their own."""

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401
from dlc import config
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Role
from dlc.ir.types import tensor_type


@pytest.fixture(autouse=True)
def own_cache(tmp_path):
    with config.override(cache_dir=tmp_path / "cache", cache=True):
        yield tmp_path / "cache"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def perceptron(rng):
    """y = relu(x @ w + c) @ v and its row sums, batch symbolic."""

    def build(batch="batch", width=24):
        b = Builder("perceptron")
        extent = symbol(batch) if isinstance(batch, str) else batch
        x = b.input("x", tensor_type("float32", (extent, 12)))
        w = b.input(
            "w", tensor_type("float32", (12, width)), Role.PARAMETER, rng.normal(size=(12, width)).astype("f"), True
        )
        c = b.input("c", tensor_type("float32", (width,)), Role.PARAMETER, rng.normal(size=width).astype("f"), True)
        v = b.input(
            "v", tensor_type("float32", (width, 5)), Role.PARAMETER, rng.normal(size=(width, 5)).astype("f"), True
        )
        h = b.relu(b.add(b.matmul(x, w), c))
        y = b.matmul(h, v)
        b.output("y", y)
        b.output("sums", b.reduce_sum(h, axes=(1,)))
        return b.finish()

    return build


@pytest.fixture
def counter(rng):
    """State that a run replaces: total' = total + sum(x), and the result is the old total."""
    b = Builder("counter")
    x = b.input("x", tensor_type("float32", (6,)))
    total = b.input("total", tensor_type("float32", ()), Role.STATE, np.float32(10).reshape(()))
    b.output("before", total)
    b.replace("total", b.add(total, b.reduce_sum(x, axes=(0,))))
    return b.finish()
