"""Contractions with what is fused to them, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.codegen.lower.node import lower
from dlc.errors import CompileError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import is_lanewise_product
from dlc.ir.graph import Graph, Node, Value, region_signature
from dlc.ir.opdef import find_op
from dlc.ir.types import float32, tensor_type
from tests.codegen.lower.test_node import check, numbers
from tests.codegen.lowering import HOST, check_node


def product(b: Builder, x: Value, w: Value) -> Value:
    return b.contract(x, w, spec="m k, k n -> m n")


@pytest.mark.parametrize("threads", [1, 3])
def test_bias_residual_and_activation(threads: int) -> None:
    def function(b: Builder, x: Value, w: Value, bias: Value, residual: Value) -> Value:
        return b.tanh(b.add(b.add(product(b, x, w), bias), residual))

    arrays = numbers(19, 24), numbers(24, 40), numbers(40), numbers(19, 40)
    (lowered,) = check(function, *arrays, threads=threads, emulated=False)
    assert sum("epilogue" in c.kernel.name or c.kernel.name == "pointwise" for c in lowered.calls) == 0


def test_epilogue_behind_a_reshape() -> None:
    def function(b: Builder, x: Value, w: Value, scale: Value) -> Value:
        return b.mul(b.reshape_to(product(b, x, w), (3, 4, 10)), scale)

    check(function, numbers(12, 8), numbers(8, 10), numbers(3, 4, 10), emulated=False)


def test_epilogue_that_casts() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        return b.cast_to(b.greater(product(b, x, w), 0.5), float32)

    check(function, numbers(12, 8), numbers(8, 10), emulated=False)


def test_epilogue_of_one_number() -> None:
    def function(b: Builder, x: Value, y: Value) -> Value:
        return b.tanh(b.contract(x, y, spec="k, k -> "))

    check(function, numbers(12), numbers(12), emulated=False)


def test_operand_read_twice() -> None:
    check(lambda b, x: b.add(product(b, x, x), x), numbers(16, 16), emulated=False)


def test_convolution_with_normalisation_and_residual() -> None:
    def function(b: Builder, x: Value, w: Value, scale: Value, shift: Value, residual: Value) -> Value:
        y = b.contract(x, w, spec="n h+r w+s c, r s c k -> n h w k")
        return b.maximum(b.add(b.add(b.mul(y, scale), shift), residual), 0.0)

    arrays = numbers(2, 8, 7, 5), numbers(3, 3, 5, 20), numbers(20), numbers(20), numbers(2, 6, 5, 20)
    check(function, *arrays, emulated=False)


def fused(builder: Builder, inputs: list[Value], output: Value) -> Node:
    """A fused node made by hand, which fusion itself would not make."""
    body = Graph("body", tuple(inputs), tuple(builder.nodes), (output,), region_signature(len(inputs), 1))
    outer = tuple(Value(v.type) for v in inputs)
    return Node(find_op("fused"), outer, Attributes({"body": body}), (Value(output.type),))


def test_result_read_in_another_order_is_a_kernel_of_its_own() -> None:
    b = Builder("body")
    x, w = b.input("x", tensor_type(float32, (6, 8))), b.input("w", tensor_type(float32, (8, 10)))
    y = b.mul(b.transpose(product(b, x, w), permutation=(1, 0)), 2.0)
    lowered = check_node(fused(b, [x, w], y), [numbers(6, 8), numbers(8, 10)], emulated=False)
    assert len(lowered.calls) >= 2 and len(lowered.temporaries) >= 1


def test_reduction_after_a_contraction_is_a_kernel_of_its_own() -> None:
    b = Builder("body")
    x, w = b.input("x", tensor_type(float32, (6, 8))), b.input("w", tensor_type(float32, (8, 10)))
    y = b.reduce_sum(b.add(product(b, x, w), 1.0), axes=(1,))
    check_node(fused(b, [x, w], y), [numbers(6, 8), numbers(8, 10)], emulated=False)


def test_computed_operands_are_refused() -> None:
    b = Builder("body")
    x, w = b.input("x", tensor_type(float32, (6, 8))), b.input("w", tensor_type(float32, (8, 10)))
    node = fused(b, [x, w], product(b, b.exp(x), w))
    with pytest.raises(CompileError, match="operands as they are"):
        lower(node, HOST, 1)


def test_no_elements_need_no_kernel() -> None:
    b = Builder("empty")
    x, w = b.input("x", tensor_type(float32, (0, 8))), b.input("w", tensor_type(float32, (8, 10)))
    product(b, x, w)
    assert check_node(b.nodes[-1], [np.zeros((0, 8), np.float32), numbers(8, 10)]).calls == ()


@pytest.mark.parametrize("channels", [3, 16, 40])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_depthwise_convolution_is_one_kernel(channels: int, stride: int, dilation: int) -> None:
    def function(b: Builder, x: Value, w: Value, bias: Value) -> Value:
        edge = (0, dilation, dilation, 0)
        padded = b.pad(x, b.constant(0.0, float32), low=edge, high=edge, interior=(0, 0, 0, 0))
        spec = f"n h*{stride}+r*{dilation} w*{stride}+s*{dilation} c, r s c -> n h w c"
        return b.minimum(b.maximum(b.add(b.contract(padded, w, spec=spec), bias), 0.0), 6.0)

    arrays = numbers(2, 9, 8, channels), numbers(3, 3, channels), numbers(channels)
    (lowered,) = check(function, *arrays, emulated=channels < 20)
    assert len(lowered.calls) == 1 and lowered.temporaries == ()


def test_grouped_output_of_a_depthwise_convolution() -> None:
    def function(b: Builder, x: Value, w: Value, residual: Value) -> Value:
        spec = "n h+r w+s (g c), r s c (g k) -> n h w (g k)"
        return b.add(b.contract(x, w, spec=spec, sizes=(("g", 20),)), residual)

    (lowered,) = check(function, numbers(1, 6, 7, 20), numbers(3, 3, 1, 20), numbers(1, 4, 5, 20), emulated=False)
    assert [c.kernel.name for c in lowered.calls] == ["reduction"]


@pytest.mark.parametrize(
    "spec, lhs, rhs, lanewise",
    [
        ("n h+r w+s c, r s c -> n h w c", (1, 6, 6, 8), (3, 3, 8), True),
        ("m k, k n -> m n", (4, 5), (5, 6), False),
        ("n h+r w+s c, r s c k -> n h w k", (1, 6, 6, 8), (3, 3, 8, 4), False),
        ("n h+r w+s c, n h w c -> r s c", (1, 66, 66, 8), (1, 64, 64, 8), False),  # many terms
        ("n h+r w+s c, n h w c -> r s c", (2, 9, 9, 8), (2, 7, 7, 8), False),  # many for so few places
        ("n h+r w+s c, r s c -> n h w c", (1, 20, 20, 8), (9, 9, 8), True),
        ("b k, b k n -> b n", (3, 9), (3, 9, 16), False),
    ],
)
def test_lanewise_products(spec: str, lhs: tuple, rhs: tuple, lanewise: bool) -> None:
    b = Builder("test")
    b.contract(b.input("x", tensor_type(float32, lhs)), b.input("w", tensor_type(float32, rhs)), spec=spec)
    node = b.nodes[-1]
    assert is_lanewise_product(node.op.compute(node.input_types, node.output_types, node.attributes)) is lanewise
