"""Which nodes run in parts: those whose results would go to memory, where that costs more than further steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlc.ir.graph import Graph
from dlc.passes.batch.rows import Rows
from dlc.passes.batch.stretch import Machine, Stretch, _Choice, choose_stretch
from tests.passes.pass_text import graph_of

MACHINE = Machine(cache_bytes=40_000, near=20.0, far=8.0, operations=64.0, step=100.0)
CONV = '{spec="n h+r w+s c, r s c -> n h w c"}'


def chain(middle: str = "") -> Graph:
    """Three depthwise convolutions of 8 images, with something after each; 65 to 100 KB go in and out of each."""
    lines = "input %x: float32[8, 22, 22, 8] data\ninput %a: float32[3, 3, 8] data\ninput %b: float32[3, 3, 8] data\n"
    lines += f"%0 = contract(%x, %a) {CONV}\n%1 = tanh(%0)\n%2 = contract(%1, %b) {CONV}\n%3 = tanh(%2)\n"
    lines += middle or "%4 = neg(%3)\n"
    return graph_of(lines + f'%5 = contract(%4, %a) {CONV}\n%6 = tanh(%5)\noutput "y" = %6')


def chosen(graph: Graph, machine: Machine = MACHINE) -> Stretch | None:
    return choose_stretch(graph, {n: rows for n in graph.nodes if (rows := Rows(n)).extent > 1}, machine)


def names(stretch: Stretch | None) -> list[str]:
    return [node.op.name for node in stretch.nodes] if stretch is not None else []


def test_a_part_is_the_largest_divisor_that_stays_in_cache():
    graph = chain()
    stretch = chosen(graph)
    assert stretch is not None
    assert (stretch.extent, stretch.part) == (8, 1)
    assert chosen(graph, replace(MACHINE, cache_bytes=120_000)) == replace(stretch, part=4)
    assert names(stretch) == ["contract", "tanh"] * 2 + ["neg", "contract", "tanh"]


def test_nothing_is_split_where_caches_hold_everything():
    assert chosen(chain(), replace(MACHINE, cache_bytes=1 << 20)) is None


def test_steps_and_weights_are_weighed_against_memory():
    assert chosen(chain(), replace(MACHINE, step=1e6)) is None
    assert chosen(chain(), replace(MACHINE, far=19.9)) is None


def test_memory_that_arithmetic_hides_saves_nothing():
    assert chosen(chain(), replace(MACHINE, operations=0.01)) is None


def test_a_stretch_ends_where_images_are_mixed():
    mixing = (
        "%m = reduce_sum(%3) {axes=(0,)}\n%n = broadcast(%m) {shape=(8, 18, 18, 8), dims=(1, 2, 3)}\n%4 = add(%3, %n)\n"
    )
    assert names(chosen(chain(mixing))) == ["contract", "tanh", "contract", "tanh"]


def test_a_stretch_leaves_out_what_needs_others():
    beside = "%r = reverse(%3) {axes=(0,)}\n%4 = add(%3, %r)\n"
    assert names(chosen(chain(beside))) == ["contract", "tanh", "contract", "tanh"]


@pytest.mark.parametrize(
    ("between", "step"), [("tanh(%x)", 1e6), ("reverse(%x) {axes=(0,)}", 100.0)], ids=["not worth it", "nodes that mix"]
)
def test_long_graphs_are_walked_about_once(monkeypatch, between, step):
    lines = "input %x: float32[8, 22, 22, 8] data\ninput %w: float32[1, 1, 8] data\n"
    last = "x"
    for k in range(0, 200, 2):
        lines += f"%{k} = contract(%{last}, %w) {CONV}\n%{k + 1} = {between.replace('%x', f'%{k}')}\n"
        last = str(k + 1)
    walk, visits = _Choice._walk, []

    def counted(self, begin):
        for pair in walk(self, begin):
            visits.append(pair)
            yield pair

    monkeypatch.setattr(_Choice, "_walk", counted)
    chosen(graph_of(f'{lines}output "y" = %{last}'), replace(MACHINE, step=step))
    assert 100 <= len(visits) < 500
