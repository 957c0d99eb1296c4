"""Batches in parts: the scan that stands for a stretch computes what the stretch did."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlc.ir.verify_graph import verify_graph
from dlc.passes.batch.split import split_batch
from dlc.passes.batch.stretch import Machine
from dlc.passes.canonicalize.canonicalize import canonicalize
from dlc.passes.cleanup import cleanup
from dlc.passes.expand import expand
from dlc.passes.layout.layout import layout
from tests.passes.pass_fuzz import assert_same_results, random_graph
from tests.passes.pass_text import assert_becomes, assert_same_values, graph_of

EAGER = Machine(cache_bytes=1, near=1e9, far=1e-6, operations=1e9, step=0.0)
"""A machine without cache, on which every split pays."""
CONV = '{spec="n h+r w+s c, r s c -> n h w c"}'


def eager(graph):
    return split_batch(graph, EAGER)


def test_a_stretch_becomes_a_scan_over_parts():
    inputs = "input %x: float32[4, 6, 6, 8] data\ninput %w: float32[3, 3, 8] data\ninput %b: float32[8] data\n"
    before = (
        f"{inputs}%0 = contract(%x, %w) {CONV}\n%1 = broadcast(%b) {{shape=(4, 4, 4, 8), dims=(3,)}}\n"
        '%2 = add(%0, %1)\noutput "y" = %2'
    )
    body = (
        "input %i0: float32[2, 6, 6, 8] data input %i1: float32[3, 3, 8] data input %i2: float32[8] data "
        f"%0 = contract(%i0, %i1) {CONV} %1 = broadcast(%i2) {{shape=(2, 4, 4, 8), dims=(3,)}} "
        '%2 = add(%0, %1) output "o0" = %2'
    )
    after = (
        f"{inputs}%0 = reshape(%x) {{shape=(2, 2, 6, 6, 8)}}\n"
        f'%1 = scan(%0, %w, %b) {{body=graph "part" {{ {body} }}, carries=0, sequences=1, length=2}}\n'
        '%2 = reshape(%1) {shape=(4, 4, 4, 8)}\noutput "y" = %2'
    )
    halves = replace(EAGER, cache_bytes=2 * 4 * 8 * (36 + 16))
    assert_becomes(lambda graph: split_batch(graph, halves), before, after)


@pytest.mark.parametrize(
    "rest",
    [
        "%2 = reduce_sum(%0) {{axes=(1, 2)}}\n%3 = broadcast(%b) {{shape=(4, 8), dims=(1,)}}\n%4 = add(%2, %3)\n"
        '%5 = contract(%4, %3) {{spec="m k, n k -> m n"}}\noutput "y" = %5',
        '%3 = tanh(%0)\n%4 = contract(%3, %w) {0}\noutput "y" = %4\noutput "inside" = %3\noutput "first" = %0',
        "%3 = reverse(%0) {{axes=(0,)}}\n%4 = contract(%0, %w) {0}\n%5 = contract(%3, %w) {0}\n"
        'output "y" = %4\noutput "z" = %5',
        '%3 = contract(%0, %0) {{spec="n h w c, m h w c -> n m"}}\noutput "y" = %3',
        '%3 = contract(%x, %w) {0}\n%4 = sub(%0, %3)\n%5 = contract(%4, %w) {0}\noutput "y" = %5',
    ],
    ids=[
        "equal rows, and all of them",
        "results on the way",
        "a reader before the scan",
        "rows with all rows",
        "two branches",
    ],
)
def test_readers_find_what_they_read(rest):
    inputs = "input %x: float32[4, 8, 8, 8] data\ninput %w: float32[3, 3, 8] data\ninput %b: float32[8] data\n"
    start = f"{inputs}%0 = contract(%x, %w) {CONV}\n"
    graph = graph_of(start + rest.format(CONV))
    found = eager(graph)
    verify_graph(found)
    assert any(node.op.name == "scan" for node in found.nodes)
    assert_same_values(graph, found, exact=False)


def test_a_batch_of_one_stays():
    graph = graph_of(
        "input %x: float32[1, 8, 8, 8] data\ninput %w: float32[3, 3, 8] data\n"
        f'%0 = contract(%x, %w) {CONV}\noutput "y" = %0'
    )
    assert eager(graph) is graph


@pytest.mark.parametrize("cache_bytes", [1, 2000])
@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_keep_their_results(seed, cache_bytes):
    expanded = cleanup(expand(random_graph(seed)))
    for graph in (expanded, layout(canonicalize(expanded))):
        found = split_batch(graph, replace(EAGER, cache_bytes=cache_bytes))
        verify_graph(found)
        assert_same_results(graph, found, seed, rtol=1e-9)


def test_numbers_become_part_of_the_body():
    graph = graph_of(
        "input %x: float32[4, 8, 8, 8] data\ninput %w: float32[3, 3, 8] data\n%z = constant() {value=float32[]{0.0}}\n"
        "%0 = pad(%x, %z) {low=(0, 1, 1, 0), high=(0, 1, 1, 0), interior=(0, 0, 0, 0)}\n"
        f'%1 = contract(%0, %w) {CONV}\noutput "y" = %1'
    )
    (scan,) = [node for node in eager(graph).nodes if node.op.name == "scan"]
    assert [node.op.name for node in scan.attributes["body"].nodes] == ["constant", "pad", "contract"]
    assert len(scan.inputs) == 2
