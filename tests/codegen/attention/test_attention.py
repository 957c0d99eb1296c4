"""Attention as one kernel: against the interpreter, in the emulator and natively on every level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.attention.analysis import analyze_attention
from dlc.codegen.attention.blocking import choose_attention_blocking
from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower.node import lower
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node
from dlc.ir.interpret import interpret, interpret_all
from dlc.ir.types import float32, float64
from dlc.ir.verify_kernel import verify
from dlc.passes.attention.fuse import fuse_attention
from tests.attention_graphs import CAUSAL, Shape, attention, feeds_of, guarded_softmax, kept_softmax, softmax
from tests.codegen.lowering import run_lowered
from tests.codegen.plain_targets import AVX2, AVX512

TARGETS = {level: host_target(level) for level in ("generic", "avx2", "avx512")}
CASES: dict[str, Graph] = {
    "plain": attention(Shape()),
    "batch": attention(Shape(batch=2, heads=3)),
    "whole panels": attention(Shape(queries=28, keys=64, depth=64, columns=64)),
    "wide values": attention(Shape(columns=72, depth=8)),
    "narrow values": attention(Shape(columns=5, depth=5)),
    "long": attention(Shape(queries=9, keys=300, depth=8)),
    "few keys": attention(Shape(queries=40, keys=8, depth=8)),
    "grouped queries": attention(Shape(heads=6, shared=3)),
    "one head of keys": attention(Shape(heads=4, shared=4, batch=2)),
    "merged": attention(Shape(keys=23), merged=True),
    "merged, grouped": attention(Shape(keys=23, heads=4, shared=2), merged=True),
    "factors first": attention(Shape(), factor_first=True),
    "masked keys": attention(Shape(batch=2), mask="keys"),
    "bias": attention(Shape(), mask="bias", normalize=guarded_softmax),
    "where": attention(Shape(), mask="where"),
    "causal, merged": attention(Shape(keys=33), mask="causal", merged=True, normalize=guarded_softmax),
    **{name: attention(Shape(queries=45, keys=70), mask=name) for name in CAUSAL},
    "causal, more queries": attention(Shape(queries=70, keys=33, heads=4, shared=2), mask="causal table"),
    "kept": attention(Shape(), normalize=kept_softmax),
    "float64": attention(Shape(heads=4, shared=2), mask="bias", normalize=guarded_softmax, dtype=float64),
}


def fused_node(graph: Graph) -> Node:
    """Return the one fused node of a graph."""
    result = fuse_attention(graph)
    (node,) = [n for n in result.nodes if n.op.name == "fused"]
    return node


def operands_of(graph: Graph, node: Node, feeds: dict[str, np.ndarray] | None = None) -> list[np.ndarray]:
    """Return what the fused node reads."""
    values = interpret_all(graph, feeds_of(graph) if feeds is None else feeds)
    return [values[v] for v in node.inputs]


def wanted_of(graph: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return what the definitions of the graph's ops give."""
    with np.errstate(invalid="ignore"):
        return interpret(graph, feeds)["y"]


def check(graph: Graph, level: str | None, threads: int) -> None:
    """Compare the fused kernel, native or (level None) emulated, with the graph's definition."""
    node = fused_node(graph)
    feeds = feeds_of(graph)
    target = TARGETS[level or "avx512"]
    lowered = lower(node, target, threads)
    assert [call.kernel.name for call in lowered.calls] == ["attention"]
    verify(lowered.calls[0].kernel)
    wanted = wanted_of(graph, feeds)
    (actual,) = run_lowered(lowered, node, operands_of(graph, node), None if level is None else target)
    tolerance = 1e-12 if actual.dtype == np.float64 else 2e-5
    np.testing.assert_allclose(actual.reshape(wanted.shape), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_emulated(name: str) -> None:
    check(CASES[name], None, 2)


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_native(name: str, level: str) -> None:
    check(CASES[name], level, 2)


@pytest.mark.parametrize("seed", range(24))
def test_random(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def pick(*values: int) -> int:
        return int(rng.choice(values))

    shared = pick(1, 1, 2, 3)
    extents = {name: int(rng.integers(8, 70)) for name in ("queries", "keys")}
    extents |= {name: pick(3, 8, 16, 20, 32, 64) for name in ("depth", "columns")}
    shape = Shape(batch=pick(1, 2), heads=shared * pick(1, 2, 3), shared=shared, **extents)
    merged = bool(rng.random() < 0.4)
    if merged:
        shape = replace(shape, queries=shape.keys)
    graph = attention(
        shape,
        mask=str(rng.choice(["", "keys", "bias", "where", *CAUSAL])),
        normalize=(softmax, guarded_softmax, kept_softmax)[pick(0, 1, 2)],
        merged=merged,
        dtype=float64 if rng.random() < 0.2 else float32,
        factor_first=bool(rng.random() < 0.5),
    )
    check(graph, str(rng.choice(list(TARGETS))), pick(1, 2, 7))


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_threads_share_heads_and_rows(threads: int) -> None:
    check(CASES["grouped queries"], "avx2", threads)
    check(CASES["long"], "avx512", threads)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    graph = CASES["grouped queries"]
    node = fused_node(graph)
    arrays = operands_of(graph, node)
    results = [run_lowered(lower(node, TARGETS["avx512"], t), node, arrays, TARGETS["avx512"])[0] for t in (1, 16)]
    np.testing.assert_array_equal(results[0], results[1])


def test_grouped_queries_share_packed_keys() -> None:
    node = fused_node(attention(Shape(heads=12, shared=4, queries=64, keys=64, batch=4)))
    body = node.attributes["body"]
    problem = analyze_attention(body.nodes, body.inputs, body.outputs[0])
    assert problem is not None
    assert choose_attention_blocking(problem, TARGETS["avx512"], 2).shared == 4
    # Many threads want more, smaller tasks.
    assert choose_attention_blocking(problem, TARGETS["avx512"], 48).shared == 1


def test_rows_of_scratch_do_not_share_cache_sets() -> None:
    node = fused_node(attention(Shape(queries=16, keys=1024, depth=8, columns=8)))
    body = node.attributes["body"]
    problem = analyze_attention(body.nodes, body.inputs, body.outputs[0])
    assert problem is not None
    for target in (AVX512, AVX2):
        pitch = choose_attention_blocking(problem, target, 2).pitch
        assert pitch > 1024 and pitch * float32.itemsize % target.vector_bytes == 0


def test_rows_without_a_key_average_all_values() -> None:
    graph = CASES["where"]
    node, feeds = fused_node(graph), feeds_of(graph)
    arrays = operands_of(graph, node)
    (actual,) = run_lowered(lower(node, TARGETS["avx512"], 1), node, arrays, TARGETS["avx512"])
    mean = feeds["v"].mean(axis=1).reshape(-1)
    np.testing.assert_allclose(actual.reshape(1, 19, -1)[0, 2], mean, atol=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_keys_that_no_row_of_a_tile_sees_are_left_out(name: str) -> None:
    """Not even numbers that are none are noticed there."""
    graph = CASES[name]
    node = fused_node(graph)
    body = node.attributes["body"]
    problem = analyze_attention(body.nodes, body.inputs, body.outputs[0])
    assert problem is not None and problem.rows.horizon is not None
    assert problem.rows.horizon.offset == (2 if name == "causal bias table" else 0)
    if name == "causal, keys hidden":
        return  # a row in which no key is left averages all values
    feeds = feeds_of(graph)
    wanted = wanted_of(graph, feeds)
    feeds["v"][:, 64:] = np.nan  # the last of 45 rows sees keys up to 46
    arrays = operands_of(graph, node, feeds)
    (actual,) = run_lowered(lower(node, TARGETS["avx512"], 1), node, arrays, TARGETS["avx512"])
    np.testing.assert_allclose(actual.reshape(wanted.shape), wanted, atol=2e-5)


def test_masks_without_a_diagonal_have_no_horizon() -> None:
    for name in ("plain", "where", "bias"):
        body = fused_node(CASES[name]).attributes["body"]
        problem = analyze_attention(body.nodes, body.inputs, body.outputs[0])
        assert problem is not None and problem.rows.horizon is None


def test_what_does_not_fit_runs_part_by_part() -> None:
    """Reversed keys are no matrix with strides: the parts become kernels of their own."""
    graph = CASES["plain"]
    node = fused_node(graph)
    body = node.attributes["body"]
    first = next(n for n in body.nodes if n.op.name == "contract")
    from_end = _reversed(body, first)
    changed = Node(node.op, node.inputs, node.attributes.updated(body=from_end), node.outputs)
    lowered = lower(changed, TARGETS["avx512"], 2)
    assert len(lowered.calls) > 2
    feeds = feeds_of(graph)
    feeds["k"] = feeds["k"][:, ::-1]
    wanted = wanted_of(graph, feeds)
    arrays = operands_of(graph, node)
    (actual,) = run_lowered(lowered, changed, arrays, TARGETS["avx512"])
    np.testing.assert_allclose(actual.reshape(wanted.shape), wanted, atol=4e-6)


def _reversed(body: Graph, first: Node) -> Graph:
    """Return the body with the keys read from the last to the first."""

    builder = Builder("fused")
    nodes = []
    for node in body.nodes:
        if node is first:
            keys = builder.reverse(node.inputs[1], axes=(2,))
            nodes += builder.nodes
            node = Node(node.op, (node.inputs[0], keys), node.attributes, node.outputs)
        nodes.append(node)
    return replace(body, nodes=tuple(nodes))
