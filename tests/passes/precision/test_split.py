"""Operands in two bfloat16 parts: three products, about 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir.interpret import interpret
from dlc.ir.verify_graph import verify_graph
from dlc.passes.precision.lower import LowerPrecisionOptions, lower_precision
from dlc.passes.precision.split import split_operands
from tests.passes.pass_text import graph_of

CASES = {
    "matmul": ("m k, k n -> m n", (9, 64), (64, 7), "()"),
    "batched": ("b m k, b n k -> b m n", (2, 5, 40), (2, 6, 40), "()"),
    "conv": (
        "n h+r w+s c, r s c k -> n h w k",
        (1, 6, 6, 32),
        (3, 3, 32, 5),
        '(("h", 4), ("w", 4), ("r", 3), ("s", 3))',
    ),
}


def product(name):
    spec, lhs, rhs, sizes = CASES[name]
    return graph_of(
        f"""
  input %x: float32[{", ".join(map(str, lhs))}] data
  input %w: float32[{", ".join(map(str, rhs))}] data
  %0 = contract(%x, %w) {{sizes={sizes}, spec="{spec}"}}
  output "y" = %0
"""
    )


@pytest.mark.parametrize("name", CASES)
def test_three_products_keep_about_sixteen_bits(name: str) -> None:
    graph = product(name)
    rng = np.random.default_rng(0)
    feeds = {k: rng.normal(size=s).astype("f") for k, s in zip(("x", "w"), CASES[name][1:3], strict=True)}
    split = split_operands(graph)
    verify_graph(split)
    bound = interpret(graph, {k: np.abs(a) for k, a in feeds.items()})["y"]
    error = np.abs(interpret(split, feeds)["y"] - interpret(graph, feeds)["y"]) / bound
    assert 2.0**-24 < error.max() < 2.0**-15
    rounded = lower_precision(graph, LowerPrecisionOptions(parts=1))
    assert 2.0**-15 < (np.abs(interpret(rounded, feeds)["y"] - interpret(graph, feeds)["y"]) / bound).max()


def test_a_value_is_split_once() -> None:
    graph = graph_of(
        """
  input %x: float32[9, 64] data
  input %w: float32[64, 7] data
  input %v: float32[64, 8] data
  %0 = contract(%x, %w) {spec="m k, k n -> m n"}
  %1 = contract(%x, %v) {spec="m k, k n -> m n"}
  output "y" = %0
  output "z" = %1
"""
    )
    assert sum(n.op.name == "concat" for n in split_operands(graph).nodes) == 3


@pytest.mark.parametrize(
    ("spec", "lhs", "rhs"),
    [("m k, k n -> m n", "9, 8", "8, 7"), ("n h+r c, r c -> n h c", "1, 9, 64", "3, 64")],
    ids=["short", "depthwise"],
)
def test_what_does_not_pay_stays_float32(spec: str, lhs: str, rhs: str) -> None:
    graph = graph_of(
        f"""
  input %x: float32[{lhs}] data
  input %w: float32[{rhs}] data
  %0 = contract(%x, %w) {{sizes=(), spec="{spec}"}}
  output "y" = %0
""".replace("sizes=()", 'sizes=(("h", 7), ("r", 3))' if "+" in spec else "sizes=()")
    )
    assert split_operands(graph) is graph


def test_without_a_unit_for_parts_float32_stays() -> None:
    graph = product("matmul")
    assert lower_precision(graph, LowerPrecisionOptions(parts=2, stored=False)) is graph
    assert lower_precision(graph, LowerPrecisionOptions(parts=2)) is not graph
