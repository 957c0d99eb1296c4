"""What becomes one node of attention, what its body reads and where the division goes; what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Role, Value
from dlc.ir.interpret import interpret
from dlc.ir.types import float32, tensor_type
from dlc.ir.verify_graph import verify_graph
from dlc.passes.attention.fuse import fuse_attention
from dlc.passes.fusion.fuse import fuse
from tests.attention_graphs import Shape, attention, feeds_of, guarded_softmax, kept_softmax, softmax

MOVES = {"broadcast", "constant", "reshape", "slice", "transpose", "iota"}


def fused(graph: Graph) -> list[Node]:
    """Fuse attention, check that values stay, and return the fused nodes."""
    result = fuse_attention(graph)
    verify_graph(result)
    feeds = feeds_of(graph)
    with np.errstate(invalid="ignore"):
        wanted, found = interpret(graph, feeds), interpret(result, feeds)
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=2e-6)
    return [n for n in result.nodes if n.op.name == "fused"]


def ops(node: Node) -> list[str]:
    """Return the ops of a body without movements."""
    body = node.attributes["body"]
    return [n.op.name for n in body.nodes if n.op.name not in MOVES]


def test_body_reads_projections_in_place_and_divides_the_product() -> None:
    graph = attention(Shape(heads=4, shared=2))
    (node,) = fused(graph)
    assert [v.hint for v in node.inputs] == [v.hint for v in graph.inputs]
    assert ops(node) == ["contract", "mul", "reduce_max", "sub", "exp", "reduce_sum", "contract", "div"]
    assert [n.op.name for n in fuse_attention(graph).nodes] == ["fused", "reshape"]


def test_one_tensor_of_three_is_read_once() -> None:
    graph = attention(Shape(keys=19), merged=True)
    (node,) = fused(graph)
    assert node.inputs == graph.inputs
    assert [n.op.name for n in fuse_attention(graph).nodes] == ["fused", "reshape"]


def test_factors_of_queries_and_keys_become_one_of_the_scores() -> None:
    (node,) = fused(attention(Shape(), factor_first=True))
    assert ops(node) == ["contract", "mul", "reduce_max", "sub", "exp", "reduce_sum", "contract", "div"]
    constants = [n.attributes["value"].array for n in node.attributes["body"].nodes if n.op.name == "constant"]
    assert [float(c) for c in constants] == [pytest.approx(0.25)]


def test_guard_of_masked_rows_moves_with_the_division() -> None:
    (node,) = fused(attention(Shape(), mask="bias", normalize=guarded_softmax))
    assert ops(node)[-4:] == ["contract", "div", "is_nan", "where"]


def test_division_stays_where_weights_change_after_it() -> None:
    (node,) = fused(attention(Shape(), normalize=kept_softmax))
    assert ops(node)[-4:] == ["div", "greater", "where", "contract"]


def test_guard_stays_where_one_element_alone_may_be_nan() -> None:
    def unusual(b: Builder, x: Value) -> Value:
        power = b.exp(x)  # may overflow: infinity over infinity, while other elements are zero
        result = b.div(power, b.reduce_sum(power, axes=(3,), keepdims=True))
        return b.where(b.is_nan(result), 0.0, result)

    (node,) = fused(attention(Shape(), normalize=unusual))
    assert ops(node)[-3:] == ["is_nan", "where", "contract"]


def test_masks_are_read_where_they_lie() -> None:
    graph = attention(Shape(batch=2), mask="keys")
    (node,) = fused(graph)
    assert len(node.inputs) == 4
    assert [n.op.name for n in fuse_attention(graph).nodes] == ["fused", "reshape"]


def test_tables_of_a_diagonal_become_a_comparison_of_indices() -> None:
    for mask in ("causal table", "causal bool table"):
        graph = attention(Shape(queries=20, keys=20), mask=mask)
        (node,) = fused(graph)
        assert ops(node)[:4] == ["contract", "mul", "greater_equal", "where"]
        assert len(node.inputs) == 3


def test_other_contents_of_a_table_with_a_diagonal_are_still_added() -> None:
    (node,) = fused(attention(Shape(queries=20, keys=20), mask="causal bias table"))
    assert ops(node)[:5] == ["contract", "mul", "add", "add", "greater_equal"]
    assert ops(node)[5] == "where"


def test_formulas_of_the_index_are_computed_in_the_body() -> None:
    graph = attention(Shape(), mask="causal")
    (node,) = fused(graph)
    assert len(node.inputs) == 3 and "greater_equal" in ops(node)


def test_short_tables_keep_their_form() -> None:
    """Most keys are seen by all rows: nothing is worth leaving out."""
    (node,) = fused(attention(Shape(queries=8, keys=60), mask="causal table"))
    assert "where" in ops(node)
    b = Builder("late")
    q, k, v = (b.input(n, tensor_type(float32, (16, 16))) for n in "qkv")
    table = np.where(np.tri(16, 16, 12, dtype=np.bool_), 0.0, -np.inf).astype(np.float32)
    scores = b.add(b.contract(q, k, spec="m k, n k -> m n"), b.constant(table))
    b.output("y", b.contract(softmax(b, scores), v, spec="m k, k n -> m n"))
    (node,) = fused(b.finish())
    assert "where" not in ops(node)


def test_fusion_leaves_the_node_alone() -> None:
    graph = attention(Shape())
    once = fuse_attention(graph)
    assert [n.op.name for n in fuse(once).nodes] == ["fused", "reshape"]
    assert fuse_attention(once) is once


def chain(weight_role: Role, rows: int = 16, results: int = 1) -> Graph:
    """x w1 -> softmax -> w2, with the weights in the role given; with two ``results`` the weights are one, too."""
    b = Builder("chain")
    x = b.input("x", tensor_type(float32, (rows, 24)))
    weights = []
    for name, shape in (("w1", (24, 32)), ("w2", (32, 20))):
        array = np.zeros(shape, np.float32) if weight_role is not Role.DATA else None
        weights.append(b.input(name, tensor_type(float32, shape), weight_role, array))
    hidden = softmax(b, b.contract(x, weights[0], spec="m k, k n -> m n"))
    b.output("y", b.contract(hidden, weights[1], spec="m k, k n -> m n"))
    if results == 2:
        b.output("hidden", hidden)
    return b.finish()


def test_products_with_weights_are_left_alone() -> None:
    """Weights are packed once, at load; as attention they would be packed in every run."""
    assert len(fused(chain(Role.DATA))) == 1
    for role in (Role.PARAMETER, Role.CONSTANT):
        graph = chain(role)
        assert fuse_attention(graph) is graph


def test_weights_that_somebody_else_reads_are_left_alone() -> None:
    graph = chain(Role.DATA, results=2)
    assert fuse_attention(graph) is graph


def test_few_rows_are_left_alone() -> None:
    graph = chain(Role.DATA, rows=2)
    assert fuse_attention(graph) is graph


def test_reductions_along_another_axis_are_left_alone() -> None:
    b = Builder("columns")
    x, y, z = (b.input(n, tensor_type(float32, (16, 16))) for n in "xyz")
    scores = b.contract(x, y, spec="m k, n k -> m n")
    shifted = b.sub(scores, b.reduce_max(scores, axes=(0,), keepdims=True))
    b.output("y", b.contract(shifted, z, spec="m k, k n -> m n"))
    graph = b.finish()
    assert fuse_attention(graph) is graph
