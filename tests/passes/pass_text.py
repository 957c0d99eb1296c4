"""Before-text -> after-text: the shortest way to say what a pass does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph
from dlc.ir.interpret import interpret
from dlc.ir.parse_graph import parse_graph
from dlc.ir.structure import same_graph
from dlc.ir.text_graph import print_graph
from dlc.ir.types import bool_, tensor_type
from dlc.ir.verify_graph import verify_graph


def graph_of(body: str, name: str = "g") -> Graph:
    """Parse the lines of a graph; result types may be left out."""
    graph = parse_graph(f'graph "{name}" {{\n{body}\n}}')
    verify_graph(graph)
    return graph


def chain(op: str, length: int) -> Graph:
    """Return ``length`` nodes of ``op``, one after the other, on float32[3]."""
    builder = Builder("chain")
    value = builder.input("x", tensor_type("float32", (3,)))
    for _ in range(length):
        value = builder.call(op, value)
    builder.output("y", value)
    return builder.finish()


def assert_becomes(function: Callable[[Graph], Graph], before: str, after: str, exact: bool = True) -> None:
    """Assert that ``function`` turns the graph ``before`` into ``after``, that it keeps values and then rests."""
    start, wanted = graph_of(before), graph_of(after)
    found = function(start)
    verify_graph(found)
    assert same_graph(found, wanted, origins=False), f"got\n{print_graph(found)}\nwanted\n{print_graph(wanted)}"
    assert_same_values(start, found, exact)


def assert_same_values(before: Graph, after: Graph, exact: bool = True, seed: int = 0) -> None:
    """Assert equal results on random inputs that include zeros of both signs, infinities and NaN."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value, spec in zip(before.inputs, before.signature.inputs, strict=True):
        if spec.initial is not None:
            continue
        array = rng.normal(size=value.type.shape) * 3
        if value.type.dtype is bool_:
            array = array > 0
        elif value.type.dtype.is_float and exact and array.size > 4:
            array.reshape(-1)[:4] = (0.0, -0.0, np.inf, -np.inf)
        feeds[spec.name] = array.astype(value.type.dtype.numpy)
    want, got = interpret(before, feeds), interpret(after, feeds)
    for name in want:
        if exact:
            np.testing.assert_array_equal(got[name], want[name])
            if want[name].dtype.kind == "f":
                number = ~np.isnan(want[name])
                np.testing.assert_array_equal(np.signbit(got[name])[number], np.signbit(want[name])[number])
        else:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)
