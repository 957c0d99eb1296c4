"""Integers in compiled code: data wraps around like NumPy's, whatever the index algebra does to expressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.driver.compile import compile_graph
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.interpret import interpret
from dlc.ir.types import int64, tensor_type

EXTREMES = np.array([-(2**63), 1 - 2**63, -5, -1, 0, 1, 2, 7, 2**40, 2**62, 2**63 - 2, 2**63 - 1], np.int64)


def agree(body: Callable[[Builder, Value, Value], Value]) -> None:
    x, y = (np.ascontiguousarray(grid) for grid in np.meshgrid(EXTREMES, EXTREMES, indexing="ij"))
    b = Builder("integers")
    b.output("z", body(b, *(b.input(name, tensor_type(int64, x.shape)) for name in "xy")))
    graph = b.finish()
    expected = interpret(graph, {"x": x, "y": y})["z"]
    np.testing.assert_array_equal(compile_graph(graph, threads=1)(x, y), expected)


@pytest.mark.parametrize("op", ["less", "less_equal", "greater", "greater_equal", "equal", "minimum", "maximum"])
def test_order_of_data(op: str) -> None:
    agree(lambda b, x, y: b.call(op, x, y))
    agree(lambda b, x, y: b.call(op, b.add(x, 1), b.add(x, 2)))


@pytest.mark.parametrize("op", ["less", "greater_equal", "equal"])
@pytest.mark.parametrize("bound", [-(2**63), 0, 5, 2**63 - 1])
def test_order_of_indices_and_data(op: str, bound: int) -> None:
    b = Builder("indices")
    scalar = b.input("x", tensor_type(int64, ()))
    b.output("z", b.call(op, b.iota(shape=(40,), dtype=int64), scalar))
    found = compile_graph(b.finish(), threads=1)(np.array(bound))
    np.testing.assert_array_equal(found, getattr(np, op)(np.arange(40), bound))


@pytest.mark.parametrize("op", ["floor_div", "floor_mod", "div", "trunc_mod"])
@pytest.mark.parametrize("divisor", [3, 4, 2**62])
def test_division_of_sums_of_data(op: str, divisor: int) -> None:
    agree(lambda b, x, y: b.call(op, b.mul(x, divisor), b.constant(divisor)))
    agree(lambda b, x, y: b.call(op, b.floor_div(b.add(b.mul(x, 3), 5), b.constant(12)), b.constant(divisor)))
