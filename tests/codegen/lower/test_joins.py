"""Which inputs of a node are parts of its outputs: by index expressions, whatever the node is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.codegen.lower.joins import find_parts, reads_anywhere
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Graph, Node, Value, region_signature
from dlc.ir.opdef import find_op
from dlc.ir.types import float32, tensor_type


def node_of(function: Callable[..., Value | Sequence[Value]], *shapes: tuple) -> Node:
    """What ``function`` builds as one fused node, or the one node that it builds."""
    b = Builder("test")
    inputs = [b.input(f"i{k}", tensor_type(float32, shape)) for k, shape in enumerate(shapes)]
    found = function(b, *inputs)
    outputs = tuple(found) if isinstance(found, list | tuple) else (found,)
    if len(b.nodes) == 1:
        return b.nodes[0]
    body = Graph("fused", tuple(inputs), tuple(b.nodes), outputs, region_signature(len(inputs), len(outputs)))
    outside = tuple(Value(v.type) for v in inputs)
    return Node(find_op("fused"), outside, Attributes({"body": body}), tuple(Value(v.type) for v in outputs), ())


def parts(function: Callable[..., Value | Sequence[Value]], *shapes: tuple) -> dict[int, tuple]:
    return {p.input: (p.output, p.start) for p in find_parts(node_of(function, *shapes))}


def test_concatenations_along_every_axis() -> None:
    shapes = [(2, 3, 4), (2, 3, 4), (2, 3, 4)]
    for axis in range(3):
        starts = [tuple(length * k if d == axis else 0 for d, length in enumerate((2, 3, 4))) for k in range(3)]
        found = parts(lambda b, *x: b.concat(*x, axis=axis), *shapes)  # noqa: B023
        assert found == {k: (0, start) for k, start in enumerate(starts)}


def test_parts_of_one_element_and_of_one_dimension() -> None:
    assert parts(lambda b, x, y: b.concat(x, y, axis=0), (5,), (1,)) == {0: (0, (0,)), 1: (0, (5,))}
    assert parts(lambda b, x, y: b.concat(x, y, axis=1), (1, 2), (1, 3)) == {0: (0, (0, 0)), 1: (0, (0, 2))}


def test_the_middle_of_a_padded_image() -> None:
    def padded(b: Builder, x: Value) -> Value:
        zero = b.constant(np.float32(0))
        return b.pad(x, zero, low=(0, 1, 2, 0), high=(0, 1, 0, 0), interior=(0, 0, 0, 0))

    assert parts(padded, (2, 5, 6, 3)) == {0: (0, (0, 1, 2, 0))}


def test_what_is_cropped_spread_or_transposed_is_no_part() -> None:
    def padded(low: tuple, high: tuple, interior: tuple) -> Callable[[Builder, Value], Value]:
        return lambda b, x: b.pad(x, b.constant(np.float32(0)), low=low, high=high, interior=interior)

    assert not parts(padded((0, 1), (-1, 0), (0, 0)), (4, 5))
    assert not parts(padded((0, 1), (0, 0), (1, 0)), (4, 5))

    def turned(b: Builder, x: Value, y: Value) -> Value:
        return b.concat(b.transpose(x, permutation=(1, 0)), y, axis=1)

    assert parts(turned, (4, 5), (5, 6)) == {1: (0, (0, 4))}


def test_a_concatenation_in_a_padded_image() -> None:
    def both(b: Builder, x: Value, y: Value) -> Value:
        joined = b.concat(x, y, axis=3)
        return b.pad(joined, b.constant(np.float32(0)), low=(0, 1, 1, 0), high=(0, 1, 1, 0), interior=(0, 0, 0, 0))

    assert parts(both, (1, 4, 4, 3), (1, 4, 4, 5)) == {0: (0, (0, 1, 1, 0)), 1: (0, (0, 1, 1, 3))}


def test_what_else_a_node_makes_of_them_does_not_matter() -> None:
    def more(b: Builder, x: Value, y: Value) -> list[Value]:
        joined = b.concat(x, y, axis=1)
        return [b.tanh(joined), joined]

    assert parts(more, (3, 4), (3, 2)) == {0: (1, (0, 0)), 1: (1, (0, 4))}
    assert not parts(lambda b, x, y: b.tanh(b.concat(x, y, axis=1)), (3, 4), (3, 2))


def test_an_input_read_twice_lies_in_one_place() -> None:
    found = parts(lambda b, x, y: b.concat(x, y, x, axis=0), (2, 3), (4, 3))
    assert found == {0: (0, (0, 0)), 1: (0, (2, 0))}


def test_a_piece_of_an_input_is_no_part() -> None:
    def replaced(b: Builder, x: Value, y: Value) -> Value:
        first = b.slice(x, starts=(0, 0), limits=(1, 4), strides=(1, 1))
        return b.concat(first, y, axis=0)

    assert parts(replaced, (3, 4), (2, 4)) == {1: (0, (1, 0))}


def test_contractions_and_symbols_have_no_parts() -> None:
    product = node_of(lambda b, x, y: b.matmul(x, y), (3, 4), (4, 5))
    assert not reads_anywhere(product) and not find_parts(product)
    b = Builder("test")
    x = b.input("x", tensor_type(float32, (symbol("n"), 4)))
    b.concat(x, x, axis=0)
    assert not find_parts(b.nodes[-1])
