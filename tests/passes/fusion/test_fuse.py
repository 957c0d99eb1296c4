"""What fusion groups, what it leaves apart, and that it never changes values or makes cycles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.interpret import interpret
from dlc.ir.types import DType, float32, int64, tensor_type
from dlc.ir.verify_graph import verify_graph
from dlc.passes.fusion.fuse import fuse
from dlc.passes.fusion.state import FuseOptions

FREE = {"broadcast", "constant", "reshape", "slice", "iota"}


def make(function: Callable[..., Value | tuple[Value, ...]], *shapes: tuple, dtypes: tuple[DType, ...] = ()) -> Graph:
    """Build the graph of ``function`` of float32 inputs."""
    b = Builder("test")
    kinds = dtypes or (float32,) * len(shapes)
    inputs = [b.input(f"i{k}", tensor_type(d, s)) for k, (s, d) in enumerate(zip(shapes, kinds, strict=True))]
    results = function(b, *inputs)
    for number, value in enumerate(results if isinstance(results, tuple) else (results,)):
        b.output(f"o{number}", value)
    return b.finish()


def fused(graph: Graph, options: FuseOptions | None = None) -> list[list[str]]:
    """Fuse, check that values are the same, and list the ops of every node that is left (free ops left out)."""
    result = fuse(graph, options)
    verify_graph(result)
    rng = np.random.default_rng(7)
    feeds = {}
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        shape, dtype = value.type.shape, value.type.dtype.numpy
        feeds[spec.name] = (
            (rng.standard_normal(shape) * 2).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
        )
    wanted = interpret(graph, feeds)
    for name, array in interpret(result, feeds).items():
        np.testing.assert_array_equal(array, wanted[name])
    return [found for node in result.nodes if (found := ops_of(node))]


def ops_of(node: Node) -> list[str]:
    body = node.attributes.get("body")
    nodes = body.nodes if isinstance(body, Graph) else (node,)
    return [n.op.name for n in nodes if n.op.name not in FREE]


def product(b: Builder, x: Value, w: Value) -> Value:
    return b.contract(x, w, spec="m k, k n -> m n")


def softmax(b: Builder, x: Value, axis: int) -> Value:
    e = b.exp(b.sub(x, b.reduce_max(x, axes=(axis,), keepdims=True)))
    return b.div(e, b.reduce_sum(e, axes=(axis,), keepdims=True))


def normalise(b: Builder, x: Value, axes: tuple[int, ...], count: float) -> Value:
    centred = b.sub(x, b.div(b.reduce_sum(x, axes=axes, keepdims=True), count))
    variance = b.div(b.reduce_sum(b.mul(centred, centred), axes=axes, keepdims=True), count)
    return b.mul(centred, b.rsqrt(b.add(variance, 1e-5)))


# -- pointwise ---------------------------------------------------------------------------------


def test_chain_is_one_group() -> None:
    graph = make(lambda b, x, y: b.tanh(b.mul(b.add(x, y), 2.0)), (4, 8), (8,))
    assert fused(graph) == [["add", "mul", "tanh"]]


def test_single_node_stays_as_it_is() -> None:
    graph = make(lambda b, x: b.exp(x), (4, 8))
    assert fuse(graph) is graph


def test_values_of_one_shape_leave_together() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        y = b.exp(x)
        return y, b.add(y, 1.0)

    assert fused(make(function, (4, 8))) == [["exp", "add"]]


def test_broadcast_is_copied_to_its_readers() -> None:
    def function(b: Builder, x: Value, s: Value) -> tuple[Value, Value]:
        wide = b.broadcast_to(s, (4, 8))
        return b.exp(wide), product(b, b.add(x, wide), b.reshape_to(x, (8, 4)))

    result = fuse(make(function, (4, 8), (8,)))
    assert not any(n.op.name == "broadcast" for n in result.nodes)


def test_costly_value_is_not_repeated_by_a_broadcast() -> None:
    graph = make(lambda b, s, x: b.add(x, b.exp(s)), (8,), (64, 8))
    assert fused(graph) == [["exp"], ["add"]]


def test_transpose_at_the_end_joins_its_producer() -> None:
    graph = make(lambda b, x: b.transpose(b.exp(x), permutation=(1, 0)), (4, 8))
    assert fused(graph) == [["exp", "transpose"]]


def test_value_wanted_in_two_orders_is_computed_once() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        y = b.exp(x)
        return b.add(y, 1.0), b.mul(b.transpose(y, permutation=(1, 0)), 2.0)

    groups = fused(make(function, (4, 8)))
    assert sum(group.count("exp") for group in groups) == 1 and len(groups) == 2


def test_reshape_alone_stays_free_at_the_borders() -> None:
    graph = make(lambda b, x: b.reshape_to(b.exp(b.neg(b.reshape_to(x, (32,)))), (2, 16)), (4, 8))
    result = fuse(graph)
    assert [n.op.name for n in result.nodes] == ["reshape", "fused", "reshape"]


def test_reshape_between_pointwise_nodes_is_fused() -> None:
    graph = make(lambda b, x: b.exp(b.reshape_to(b.neg(x), (32,))), (4, 8))
    assert fused(graph) == [["neg", "exp"]]


def test_pad_and_concat_join_cheap_producers() -> None:
    def function(b: Builder, x: Value, y: Value) -> Value:
        joined = b.concat(b.maximum(x, 0.0), b.neg(y), axis=1)
        return b.pad(joined, b.constant(0.0, float32), low=(1, 0), high=(0, 2), interior=(0, 0))

    assert fused(make(function, (4, 8), (4, 3))) == [["maximum", "neg", "concat", "pad"]]


def test_groups_are_capped() -> None:
    def function(b: Builder, x: Value) -> Value:
        for _ in range(100):
            x = b.add(x, 1.0)
        return x

    groups = fused(make(function, (4,)), FuseOptions(most_nodes=16))
    assert max(map(len, groups)) == 16 and sum(map(len, groups)) == 100


def test_no_cycle_through_a_contraction() -> None:
    def function(b: Builder, x: Value) -> Value:
        y = b.exp(x)
        return b.add(y, b.sin(b.reduce_sum(product(b, y, y), axes=(0, 1))))

    groups = fused(make(function, (4, 4)))
    assert ["exp", "add"] not in groups


def test_no_cycle_between_groups_that_need_each_other() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        a, c = b.exp(x), b.neg(x)
        first = product(b, a, w)  # a -> first -> joined with c -> second -> joined with a
        second = product(b, b.add(b.add(c, first), first), w)
        return b.mul(b.add(a, second), second)

    fused(make(function, (4, 4), (4, 4)))  # verifies order and values


def test_terms_of_one_tensor_share_its_transpose() -> None:
    def function(b: Builder, g: Value, m: Value, v: Value) -> tuple[Value, Value]:
        first = b.transpose(b.mul(g, 0.1), permutation=(1, 0))
        second = b.transpose(b.mul(b.mul(g, g), 0.001), permutation=(1, 0))
        return b.add(b.mul(m, 0.9), first), b.add(b.mul(v, 0.999), second)

    groups = fused(make(function, (40, 50), (50, 40), (50, 40)))
    assert groups.count(["transpose"]) == 1 and sum(g.count("transpose") for g in groups) == 1


def test_transpose_does_not_join_what_reads_along() -> None:
    graph = make(lambda b, x, y: b.add(b.transpose(x, permutation=(1, 0)), y), (40, 50), (50, 40))
    assert fused(graph) == [["transpose"], ["add"]]


def test_cheap_steps_are_computed_again_where_they_are_read() -> None:
    def function(b: Builder, x: Value, dy: Value) -> tuple[Value, Value]:
        mean = b.div(b.reduce_sum(x, axes=(0,), keepdims=True), 9000.0)
        centred = b.sub(x, mean)
        return b.exp(centred), b.reduce_sum(b.mul(dy, centred), axes=(0,))

    result = fuse(make(function, (9000, 16), (9000, 16)))
    large = [v for n in result.nodes for v in n.outputs if v.type.shape == (9000, 16)]
    assert large == [result.outputs[0]]


# -- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_is_one_group(axis: int) -> None:
    assert len(fused(make(lambda b, x: softmax(b, x, axis), (6, 5, 7)))) == 1


def test_normalisation_with_what_comes_before_and_after_is_one_group() -> None:
    def function(b: Builder, x: Value, y: Value, scale: Value, bias: Value) -> tuple[Value, Value]:
        total = b.add(x, y)
        return total, b.add(b.mul(normalise(b, total, (1,), 8.0), scale), bias)

    assert len(fused(make(function, (4, 8), (4, 8), (8,), (8,)))) == 1


def test_gradient_of_softmax_is_one_group() -> None:
    def function(b: Builder, y: Value, dy: Value) -> Value:
        return b.mul(b.sub(dy, b.reduce_sum(b.mul(dy, y), axes=(1,), keepdims=True)), y)

    assert len(fused(make(function, (64, 80), (64, 80)))) == 1


def test_picking_from_log_softmax_stays_in_the_row() -> None:
    def function(b: Builder, x: Value, labels: Value) -> Value:
        shifted = b.sub(x, b.reduce_max(x, axes=(1,), keepdims=True))
        scores = b.sub(shifted, b.log(b.reduce_sum(b.exp(shifted), axes=(1,), keepdims=True)))
        return b.neg(b.gather_elements(scores, b.reshape_to(labels, (6, 1)), axis=1))

    assert len(fused(make(function, (6, 9), (6,), dtypes=(float32, int64)))) == 1


def test_sums_of_one_tensor_share_a_pass() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        return b.reduce_sum(x, axes=(0, 1)), b.reduce_sum(b.mul(x, x), axes=(0, 1))

    assert len(fused(make(function, (40, 30, 16)))) == 1


def test_long_columns_are_finished_before_they_are_used() -> None:
    graph = make(lambda b, x: b.mul(x, b.reduce_sum(x, axes=(0,), keepdims=True)), (9000, 16))
    assert fused(graph) == [["reduce_sum"], ["mul"]]


def test_rows_reach_values_of_their_producer_before_a_reshape() -> None:
    def function(b: Builder, x: Value) -> Value:
        before = b.add(b.reshape_to(b.tanh(x), (3, 18, 2)), 1.0)
        rows = b.mul(b.reshape_to(before, (3, 18, 1, 2)), 0.5)
        total = b.reduce_sum(rows, axes=(3,), keepdims=True)
        return b.mul(total, b.reshape_to(before, (3, 18, 1, 2)))

    assert len(fused(make(function, (3, 18, 1, 2)))) == 1


def test_rows_reach_values_through_dimensions_of_extent_one() -> None:
    def function(b: Builder, x: Value) -> Value:
        before = b.tanh(x)
        total = b.reduce_sum(before, axes=(1,), keepdims=True)
        again = b.broadcast(b.reshape_to(before, (3,)), shape=(1, 3), dims=(1,))
        return b.mul(total, again)

    assert len(fused(make(function, (1, 3)))) == 1


def test_different_rows_stay_apart() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        y = b.exp(x)
        return b.reduce_sum(y, axes=(0,)), b.reduce_sum(y, axes=(1,))

    assert len(fused(make(function, (40, 50)))) == 2


@pytest.mark.parametrize("narrow", [False, True], ids=["depthwise", "narrow groups"])
def test_transposes_do_not_join_windows(narrow: bool) -> None:
    """Every element would be read across memory once per window that it is in."""

    def function(b: Builder, x: Value, w: Value) -> Value:
        edge = {"low": (0, 1, 1, 0), "high": (0, 1, 1, 0), "interior": (0, 0, 0, 0)}
        padded = b.pad(b.transpose(x, permutation=(0, 2, 3, 1)), b.constant(0.0, float32), **edge)
        spec = "n h+r w+s (g c), r s c (g o) -> n h w (g o)"
        return b.maximum(b.contract(padded, w, spec=spec, sizes=(("g", 4),)), 0.0)

    channels = 4 if narrow else 1
    graph = make(function, (1, 4 * channels, 7, 6), (3, 3, channels, 4 * channels))
    assert fused(graph) == [["transpose", "pad"], ["contract", "maximum"]]


def test_padding_joins_pooling() -> None:
    def function(b: Builder, x: Value) -> Value:
        padded = b.pad(x, b.constant(-np.inf, float32), low=(0, 1, 0), high=(0, 1, 0), interior=(0, 0, 0))
        return b.maximum(
            b.reduce_window(padded, combiner="maximum", window=(1, 3, 1), strides=(1, 2, 1), dilations=(1, 1, 1)), 0.0
        )

    assert fused(make(function, (2, 9, 8))) == [["pad", "reduce_window", "maximum"]]


# -- contractions ---------------------------------------------------------------------------------


def test_bias_residual_and_activation_are_an_epilogue() -> None:
    def function(b: Builder, x: Value, w: Value, bias: Value, residual: Value) -> Value:
        return b.maximum(b.add(b.add(product(b, x, w), bias), residual), 0.0)

    assert fused(make(function, (4, 8), (8, 6), (6,), (4, 6))) == [["contract", "add", "add", "maximum"]]


def test_epilogue_may_read_its_value_several_times() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        y = product(b, x, w)
        return b.add(b.mul(y, b.sigmoid(y)), 1.0)

    assert fused(make(function, (4, 8), (8, 6))) == [["contract", "sigmoid", "mul", "add"]]


def test_epilogue_reads_an_operand_of_its_contraction() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        part = b.slice(x, starts=(8, 0), limits=(15, 4))
        return b.mul(b.tanh(product(b, part, w)), part)

    assert ["contract", "tanh", "mul"] in fused(make(function, (15, 4), (4, 4)))


def test_result_with_other_readers_ends_the_epilogue() -> None:
    def function(b: Builder, x: Value, w: Value) -> tuple[Value, Value]:
        y = b.add(product(b, x, w), 1.0)
        return y, b.exp(y)

    assert fused(make(function, (4, 8), (8, 6))) == [["contract", "add"], ["exp"]]


def test_readers_of_two_products_that_meet_are_epilogue_of_one() -> None:
    def function(b: Builder, x: Value, w: Value, z: Value, v: Value) -> Value:
        first, second = product(b, x, w), product(b, z, v)
        gate = b.tanh(first)
        return b.add(b.mul(first, b.sigmoid(second)), b.mul(gate, second))

    found = fused(make(function, (4, 8), (8, 16), (4, 8), (8, 16)))
    assert [len(nodes) for nodes in sorted(found, key=len)] == [1, 6]


def test_what_only_the_epilogue_reads_joins_it() -> None:
    def function(b: Builder, x: Value, w: Value, y: Value) -> Value:
        return b.where(b.greater(y, 0.0), product(b, x, w), 0.0)

    assert fused(make(function, (4, 8), (8, 6), (4, 6))) == [["greater", "contract", "where"]]


def test_two_contractions_are_two_groups() -> None:
    def function(b: Builder, x: Value, w: Value, v: Value) -> Value:
        return b.add(product(b, x, w), product(b, x, v))

    groups = fused(make(function, (4, 8), (8, 6), (8, 6)))
    assert sorted(groups) == [["contract"], ["contract", "add"]]


def test_softmax_is_no_epilogue() -> None:
    groups = fused(make(lambda b, x, w: softmax(b, product(b, x, w), 1), (6, 8), (8, 40)))
    assert groups[0] == ["contract"] and len(groups) == 2


def test_fusing_again_changes_nothing() -> None:
    once = fuse(make(lambda b, x: softmax(b, b.mul(x, 2.0), 1), (6, 8)))
    assert fuse(once) is once


def test_bodies_of_loops_are_fused() -> None:
    b = Builder("body")
    carry, step = b.input("c", tensor_type(float32, (8,))), b.input("x", tensor_type(float32, (8,)))
    new = b.tanh(b.add(carry, step))
    b.output("o0", new)
    b.output("o1", b.mul(new, 2.0))
    body = b.finish()
    outer = Builder("outer")
    start, steps = outer.input("c", tensor_type(float32, (8,))), outer.input("xs", tensor_type(float32, (5, 8)))
    last, ys = outer.scan(start, steps, body=body, carries=1, sequences=1, length=5)
    outer.output("last", last)
    outer.output("ys", ys)
    result = fuse(outer.finish())
    (scan,) = result.nodes
    assert [ops_of(n) for n in scan.attributes["body"].nodes] == [["add", "tanh", "mul"]]


# -- size -------------------------------------------------------------------------------------------


def test_deep_chains_do_not_recurse() -> None:
    b = Builder("deep")
    x = value = b.input("x", tensor_type(float32, (8,)))
    for number in range(20_000):
        value = b.add(value, x) if number % 2 else b.neg(value)
    b.output("y", value)
    result = fuse(b.finish())
    assert len(result.nodes) < 1000
    verify_graph(result)


def gates(b: Builder, made: Value, count: int) -> list[Value]:
    """Cut the columns of a product into gates."""
    rows, columns = made.type.shape
    width = columns // count
    return [b.slice(made, starts=(0, k * width), limits=(rows, (k + 1) * width)) for k in range(count)]


def gated(b: Builder, x: Value, w: Value) -> Value:
    i, f = gates(b, product(b, x, w), 2)
    return b.mul(b.sigmoid(i), b.tanh(f))


def test_what_reads_slices_of_few_rows_joins_the_contraction() -> None:
    assert fused(make(gated, (8, 24), (24, 64))) == [["contract", "sigmoid", "tanh", "mul"]]


def test_what_reads_slices_of_many_rows_stays_apart() -> None:
    rows = FuseOptions().most_sliced_rows + 1
    assert fused(make(gated, (rows, 24), (24, 64))) == [["contract"], ["sigmoid", "tanh", "mul"]]


def test_a_contraction_that_others_read_whole_is_not_joined() -> None:
    def function(b: Builder, x: Value, w: Value) -> tuple[Value, ...]:
        made = product(b, x, w)
        i, f = gates(b, made, 2)
        return b.mul(b.sigmoid(i), f), made

    assert fused(make(function, (8, 24), (24, 64))) == [["contract"], ["sigmoid", "mul"]]


def test_slices_join_with_what_is_added_to_the_product() -> None:
    def function(b: Builder, x: Value, w: Value, shift: Value, c: Value) -> tuple[Value, ...]:
        i, f, g, o = gates(b, b.add(product(b, x, w), shift), 4)
        c = b.add(b.mul(b.sigmoid(f), c), b.mul(b.sigmoid(i), b.tanh(g)))
        return b.mul(b.sigmoid(o), b.tanh(c)), c

    found = fused(make(function, (8, 24), (24, 64), (8, 64), (8, 16)))
    assert len(found) == 1 and found[0][:2] == ["contract", "add"]


def test_slices_of_two_contractions_join_both() -> None:
    def function(b: Builder, x: Value, w: Value, h: Value, u: Value) -> Value:
        (r, n), (hr, hn) = gates(b, product(b, x, w), 2), gates(b, product(b, h, u), 2)
        return b.tanh(b.add(n, b.mul(b.sigmoid(b.add(r, hr)), hn)))

    found = fused(make(function, (8, 24), (24, 64), (8, 32), (32, 64)))
    assert len(found) == 1 and found[0][:2] == ["contract", "contract"]


def test_slices_of_a_sum_of_contractions_join_both() -> None:
    def function(b: Builder, x: Value, w: Value, h: Value, u: Value, shift: Value) -> Value:
        i, f = gates(b, b.add(b.add(product(b, x, w), shift), product(b, h, u)), 2)
        return b.mul(b.sigmoid(i), b.tanh(f))

    found = fused(make(function, (8, 24), (24, 64), (8, 32), (32, 64), (8, 64)))
    assert len(found) == 1 and found[0].count("contract") == 2


def test_of_two_contractions_one_that_others_read_stays_apart() -> None:
    def function(b: Builder, x: Value, w: Value, h: Value, u: Value) -> tuple[Value, ...]:
        first = product(b, x, w)
        (r, n), (hr, hn) = gates(b, first, 2), gates(b, product(b, h, u), 2)
        return b.mul(b.sigmoid(b.add(r, hr)), b.add(n, hn)), first

    found = fused(make(function, (8, 24), (24, 64), (8, 32), (32, 64)))
    assert sorted(nodes.count("contract") for nodes in found) == [1, 1]


def test_a_product_that_is_one_number_has_no_slices() -> None:
    def function(b: Builder, x: Value, y: Value, scale: Value) -> tuple[Value, ...]:
        made = b.contract(x, y, spec="k, k -> ")
        return b.cast_to(b.cast_to(b.mul(made, scale), int64), float32), b.tanh(scale), made

    assert fused(make(function, (8,), (8,), ()))[0] == ["contract"]
