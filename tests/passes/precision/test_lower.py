"""Rounding operands of contractions to bfloat16: where it is put, and what other readers see."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dlc.ir.interpret import interpret
from dlc.ir.structure import same_graph
from dlc.ir.text_graph import print_graph
from dlc.passes.precision.lower import LowerPrecisionOptions, lower_precision
from tests.passes.pass_text import graph_of

STORED = LowerPrecisionOptions(parts=1)
EMULATED = LowerPrecisionOptions(parts=1, stored=False)


def stored(graph):
    return lower_precision(graph, STORED)


def half(array):
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


CHAIN = """
  input %x: float32[3, 4] data
  input %w: float32[4, 5] data
  input %v: float32[5, 5] data
  %0 = contract(%x, %w) {spec="m k, k n -> m n"}
  %1 = tanh(%0)
  %2 = contract(%1, %v) {spec="m k, k n -> m n"}
  %3 = add(%1, %2)
  output "y" = %3
"""


def test_nothing_happens_unless_asked() -> None:
    graph = graph_of(CHAIN)
    assert lower_precision(graph) is graph


def test_a_graph_without_contractions_stays() -> None:
    graph = graph_of('input %x: float32[3] data\n%0 = exp(%x)\noutput "y" = %0')
    assert lower_precision(graph, STORED) is graph


def test_operands_are_rounded_once_and_other_readers_see_the_rounded_value() -> None:
    wanted = graph_of(
        """
  input %x: float32[3, 4] data
  input %w: float32[4, 5] data
  input %v: float32[5, 5] data
  %0 = flush_subnormal(%x)
  %1 = cast(%0) {dtype=bfloat16}
  %2 = flush_subnormal(%w)
  %3 = cast(%2) {dtype=bfloat16}
  %4 = contract(%1, %3) {dtype=float32, spec="m k, k n -> m n"}
  %5 = tanh(%4)
  %6 = flush_subnormal(%5)
  %7 = cast(%6) {dtype=bfloat16}
  %8 = flush_subnormal(%v)
  %9 = cast(%8) {dtype=bfloat16}
  %10 = contract(%7, %9) {dtype=float32, spec="m k, k n -> m n"}
  %11 = cast(%7) {dtype=float32}
  %12 = add(%11, %10)
  output "y" = %12
"""
    )
    found = stored(graph_of(CHAIN))
    assert same_graph(found, wanted, origins=False), print_graph(found)


def test_a_node_that_reads_a_rounded_value_twice_widens_it_once() -> None:
    text = """
  input %x: float32[3, 4] data
  %0 = tanh(%x)
  %1 = contract(%0, %0) {spec="m k, n k -> m n"}
  %2 = mul(%0, %0)
  output "y" = %1
  output "z" = %2
"""
    found = stored(graph_of(text))
    assert [n.op.name for n in found.nodes] == ["tanh", "flush_subnormal", "cast", "contract", "cast", "mul"]


def test_both_forms_mean_the_same() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(CHAIN)
    feeds = {k: rng.normal(size=s).astype("f") for k, s in (("x", (3, 4)), ("w", (4, 5)), ("v", (5, 5)))}
    hidden = half(np.tanh(half(feeds["x"]) @ half(feeds["w"])))
    wanted = hidden + hidden @ half(feeds["v"])
    for options in (STORED, EMULATED):
        found = interpret(lower_precision(graph, options), feeds)["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_rounding_moves_up_through_what_only_moves_or_chooses() -> None:
    graph = graph_of(
        """
  input %x: float32[1, 6, 6, 2] data
  input %w: float32[3, 3, 2, 4] data
  %0 = exp(%x)
  %1 = constant() {value=float32[]{-inf}}
  %2 = pad(%0, %1) {high=(0, 1, 1, 0), low=(0, 1, 1, 0)}
  %3 = reduce_window(%2) {combiner="maximum", window=(1, 3, 3, 1)}
  %4 = contract(%3, %w) {sizes=(("h", 4), ("w", 4), ("r", 3), ("s", 3)), spec="n h+r w+s c, r s c k -> n h w k"}
  output "y" = %4
"""
    )
    lowered = stored(graph)
    dtypes = [(node.op.name, str(node.outputs[0].type.dtype)) for node in lowered.nodes]
    moved = [entry for entry in dtypes if entry[0] in ("pad", "reduce_window", "cast")]
    assert moved == [("cast", "bfloat16"), ("pad", "bfloat16"), ("reduce_window", "bfloat16"), ("cast", "bfloat16")]


def test_outputs_and_inputs_keep_their_values() -> None:
    graph = graph_of(
        """
  input %x: float32[3, 4] data
  input %w: float32[4, 4] data
  %0 = exp(%x)
  %1 = contract(%0, %w) {spec="m k, k n -> m n"}
  %2 = add(%x, %1)
  output "h" = %0
  output "y" = %2
"""
    )
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("f")
    for options in (STORED, EMULATED):
        found = interpret(lower_precision(graph, options), {"x": x, "w": np.zeros((4, 4), "f")})
        np.testing.assert_array_equal(found["h"], np.exp(x))
        np.testing.assert_array_equal(found["y"], x)


@pytest.mark.parametrize("dtype", ["float64", "int32", "bfloat16"])
def test_other_dtypes_are_left_alone(dtype: str) -> None:
    graph = graph_of(
        f"""
  input %x: {dtype}[3, 4] data
  input %w: {dtype}[4, 4] data
  %0 = contract(%x, %w) {{spec="m k, k n -> m n"}}
  output "y" = %0
"""
    )
    assert same_graph(stored(graph), graph)


def test_what_was_widened_is_not_rounded_again() -> None:
    graph = graph_of(
        """
  input %x: bfloat16[3, 4] data
  input %w: float32[4, 4] data
  %0 = cast(%x) {dtype=float32}
  %1 = contract(%0, %w) {spec="m k, k n -> m n"}
  output "y" = %1
"""
    )
    contraction = stored(graph).nodes[-1]
    assert contraction.inputs[0] is graph.inputs[0]


def test_regions_are_lowered_too() -> None:
    graph = graph_of(
        """
  input %h: float32[4] data
  input %x: float32[5, 4] data
  input %w: float32[4, 4] data
  %0 = scan(%h, %x, %w) {body=graph "step" {
      input %a: float32[4] data
      input %b: float32[4] data
      input %c: float32[4, 4] data
      %0 = contract(%a, %c) {spec="k, k n -> n"}
      %1 = add(%0, %b)
      output "o" = %1
    }, carries=1, sequences=1}
  output "last" = %0
"""
    )
    body = stored(graph).nodes[-1].attributes["body"]
    assert [str(n.outputs[0].type.dtype) for n in body.nodes] == [
        *("float32", "bfloat16") * 2,
        *("float32", "float32"),
    ]


@pytest.mark.parametrize(("columns", "normed", "kept"), [(2000, True, False), (3000, True, True), (3000, False, False)])
def test_normed_values_that_contractions_do_much_work_with_stay_float32_for_others(columns, normed, kept) -> None:
    graph = graph_of(
        f"""
  input %x: float32[8, 16] data
  input %w: float32[16, {columns}] data
  %a = reduce_sum(%x) {{axes=(1,)}}
  %b = broadcast(%a) {{dims=(0,), shape=(8, 16)}}
  %0 = {"div(%x, %b)" if normed else "tanh(%x)"}
  %1 = reshape(%0) {{shape=(16, 8)}}
  %2 = contract(%1, %w) {{spec="k m, k n -> m n"}}
  %3 = exp(%0)
  output "y" = %2
  output "z" = %3
  output "b" = %b
"""
    )
    rounded = stored(graph)
    exp = next(node for node in rounded.nodes if node.op.name == "exp")
    made = {node.outputs[0]: node.op.name for node in rounded.nodes}
    assert (made[exp.inputs[0]] != "cast") == kept
    x, w = np.linspace(1, 2, 128, dtype=np.float32).reshape(8, 16), np.ones((16, columns), np.float32)
    value = x / x.sum(1, keepdims=True) if normed else np.tanh(x)
    z = interpret(rounded, {"x": x, "w": w})["z"]
    np.testing.assert_allclose(z, np.exp(value if kept else half(value)), rtol=1e-6)
