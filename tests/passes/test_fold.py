"""Constant folding and its budgets."""

from __future__ import annotations

import numpy as np

from dlc.passes.cleanup import cleanup
from dlc.passes.fold import FoldOptions, fold
from tests.passes.pass_text import assert_becomes, graph_of

SUM = (
    "%1 = constant() {value=float32[2]{1.0, 2.0}}\n%2 = constant() {value=float32[2]{3.0, 4.0}}\n"
    '%3 = add(%1, %2)\noutput "y" = %3'
)


def tidy(graph, **options):
    return cleanup(fold(graph, FoldOptions(**options)))


def test_nodes_over_constants_are_computed():
    assert_becomes(tidy, SUM, '%1 = constant() {value=float32[2]{4.0, 6.0}}\noutput "y" = %1')


def test_not_above_the_byte_limit():
    graph = graph_of(SUM)
    assert fold(graph, FoldOptions(max_bytes=7)) is graph
    assert fold(graph, FoldOptions(max_bytes=8)) is not graph


def test_not_above_the_work_limit():
    graph = graph_of(SUM)
    assert fold(graph, FoldOptions(max_work=1)) is graph


def test_small_constant_inputs_are_known_and_large_ones_are_not():
    text = 'input %t: int64[2] constant initial int64[2]{1, 2}\n%1 = neg(%t)\noutput "y" = %1'
    assert tidy(graph_of(text)).nodes[0].op.name == "constant"
    assert tidy(graph_of(text), max_bytes=8).nodes[0].op.name == "neg"


def test_broadcasts_stay_but_their_users_fold():
    text = (
        "%1 = constant() {value=float32[]{2.0}}\n%2 = broadcast(%1) {shape=(1000,), dims=()}\n"
        '%3 = reduce_sum(%2) {axes=(0,)}\noutput "y" = %3\noutput "z" = %2'
    )
    folded = tidy(graph_of(text))
    assert sorted(n.op.name for n in folded.nodes) == ["broadcast", "constant", "constant"]
    assert folded.output("y").type.shape == ()


def test_folding_reaches_into_regions():
    text = (
        'input %x: float32[2] data\n%1 = scan(%x) {body=graph "b" { input %i: float32[2] data '
        "%0 = constant() {value=float32[2]{1.0, 2.0}} %1 = neg(%0) %2 = add(%i, %1) "
        'output "o" = %2 }, carries=1, sequences=0, length=2}\noutput "y" = %1'
    )
    body = fold(graph_of(text)).nodes[0].attributes["body"]
    assert [n.op.name for n in body.nodes] == ["constant", "constant", "add"]
    np.testing.assert_array_equal(body.nodes[1].attributes["value"].array, [-1, -2])


def test_work_is_bounded_for_contractions():
    text = (
        "%1 = iota() {shape=(64, 64), axis=0, dtype=float32}\n"
        '%2 = contract(%1, %1) {spec="m k, k n -> m n"}\noutput "y" = %2'
    )
    graph = graph_of(text)
    assert fold(graph, FoldOptions(max_work=64**3)) is graph  # iota's own steps come on top
    assert fold(graph, FoldOptions(max_work=2 * 64**3)) is not graph
