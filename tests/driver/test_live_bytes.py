"""Bytes alive per node, and what they become where a value moves in with another."""

from __future__ import annotations

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.driver import live_bytes
from dlc.driver.live_bytes import LiveBytes
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph
from dlc.ir.types import float32, tensor_type

KIB = 1024


def chain() -> Graph:
    """x -> a (1 KiB), b (1 KiB) -> c (2 KiB) -> y, with the early a read at the end of b's making."""
    b = Builder("chain")
    x = b.input("x", tensor_type(float32, (16, 16)))
    first = b.tanh(x)
    second = b.exp(b.neg(b.sin(x)))
    joined = b.concat(first, second, axis=1)
    b.output("y", b.tanh(joined))
    return b.finish()


def test_inputs_and_outputs_count_nothing():
    graph = chain()
    live = LiveBytes(graph, {})
    assert live.bytes == [KIB, 2 * KIB, 3 * KIB, 3 * KIB, 4 * KIB, 2 * KIB]


def test_the_whole_lives_from_its_first_part_on(monkeypatch):
    monkeypatch.setattr(live_bytes, "SPARE_BYTES", 0)
    graph = chain()
    first, second, joined = (graph.nodes[k].outputs[0] for k in (0, 3, 4))
    live = LiveBytes(graph, {})
    assert live.moves_in(second, joined)
    assert live.bytes == [KIB, 2 * KIB, 3 * KIB, 4 * KIB, 3 * KIB, 2 * KIB] and live.ranges[joined] == (3, 5)
    assert live.moves_in(first, joined)
    assert live.bytes == [2 * KIB, 3 * KIB, 4 * KIB, 3 * KIB, 2 * KIB, 2 * KIB] and live.ranges[joined] == (0, 5)


def test_nothing_moves_in_where_too_much_would_be_alive(monkeypatch):
    monkeypatch.setattr(live_bytes, "SPARE_BYTES", 0)
    graph = chain()
    first, joined = graph.nodes[0].outputs[0], graph.nodes[4].outputs[0]
    live = LiveBytes(graph, {})
    live.most = 3 * KIB
    before = list(live.bytes)
    assert not live.moves_in(first, joined) and live.bytes == before and live.ranges[joined] == (4, 5)


def test_another_shape_of_a_value_keeps_it_alive():
    b = Builder("aliased")
    x = b.input("x", tensor_type(float32, (16, 16)))
    made = b.tanh(x)
    seen = b.reshape(made, shape=(256,))
    b.output("y", b.exp(b.exp(seen)))
    graph = b.finish()
    assert LiveBytes(graph, {seen: made}).bytes == [KIB, KIB, 2 * KIB, KIB]
