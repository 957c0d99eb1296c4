"""Binding symbols in types, attributes and regions."""

from __future__ import annotations

import pytest

from dlc.errors import GraphError, TypeRuleError
from dlc.ir.structure import same_graph
from dlc.passes.bind import bind, free_symbols
from tests.passes.pass_text import graph_of

TEXT = (
    "input %x: float32[n, 4] data\n%1 = reshape(%x) {shape=(<n*2>, 2)}\n"
    '%2 = iota() {shape=(<n*2>, 2), axis=0, dtype=float32}\n%3 = add(%1, %2)\noutput "y" = %3'
)


def test_symbols_of_types_and_attributes_are_found():
    assert free_symbols(graph_of(TEXT)) == {"n"}


def test_symbols_become_ints_everywhere():
    bound = bind(graph_of(TEXT), {"n": 3})
    wanted = graph_of(TEXT.replace("<n*2>", "6").replace("n, 4", "3, 4"))
    assert same_graph(bound, wanted) and free_symbols(bound) == set()


def test_a_graph_without_symbols_is_the_same_object():
    graph = bind(graph_of(TEXT), {"n": 3})
    assert bind(graph, {"n": 5}) is graph


def test_open_symbols_are_named():
    with pytest.raises(GraphError, match=r"dimensions n open \(inputs: x float32\[n, 4\]\).*shapes="):
        bind(graph_of(TEXT), {"m": 3})


def test_regions_are_bound():
    text = (
        "input %x: float32[t, n] data\ninput %h: float32[n] data\n"
        '%1 = scan(%h, %x) {body=graph "b" { input %i: float32[n] data input %j: float32[n] data %0 = add(%i, %j) '
        'output "o" = %0 }, carries=1, sequences=1, length=<t>}\noutput "y" = %1'
    )
    bound = bind(graph_of(text), {"t": 2, "n": 3})
    attributes = bound.nodes[0].attributes
    assert attributes["length"] == 2 and attributes["body"].inputs[0].type.shape == (3,)
    assert free_symbols(bound) == set()


def test_shapes_that_do_not_fit_name_the_node():
    text = 'input %x: float32[n] data\n%1 = slice(%x) {starts=(0,), limits=(4,)} @ "cut"\noutput "y" = %1'
    graph = graph_of(text)
    assert bind(graph, {"n": 4}).nodes[0].output_types[0].shape == (4,)
    with pytest.raises(TypeRuleError, match=r"slice \(cut\)\(float32\[3\]\) with n=3"):
        bind(graph, {"n": 3})
