"""Products over whole sequences move into the loop that reads them, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dlc.ir.graph import Graph
from dlc.ir.interpret import interpret
from dlc.passes.sink_products import SinkOptions, sink_products
from tests.passes.pass_text import assert_becomes, graph_of

INPUTS = (
    "input %h: float32[3, 4] data\ninput %x: float32[5, 3, 2] data\ninput %w: float32[4, 2] data\n"
    "input %b: float32[4] data\ninput %r: float32[4, 4] data\n"
)
STEP = (
    "input %h: float32[3, 4] data input %s: float32[3, 4] data input %r: float32[4, 4] data "
    '%0 = contract(%h, %r) {spec="n h, g h -> n g"} %1 = add(%s, %0) %2 = tanh(%1) output "o0" = %2 output "o1" = %2'
)
PRODUCT = '%0 = contract(%x, %w) {spec="t n i, g i -> t n g"}\n'
BIASED = PRODUCT + "%1 = broadcast(%b) {shape=(5, 3, 4), dims=(2,)}\n%2 = add(%0, %1)\n"


def scan(operands: str, body: str, results: str, counts: str = "carries=1, sequences=1") -> str:
    return f'{results} = scan({operands}) {{body=graph "step" {{ {body} }}, {counts}, length=5}}\n'


def always(graph: Graph) -> Graph:
    return sink_products(graph, SinkOptions(lambda before, after, changing: True))


def test_a_product_and_its_bias_are_made_step_by_step() -> None:
    inside = (
        "input %i0: float32[3, 4] data input %i1: float32[3, 2] data input %i2: float32[4, 4] data "
        "input %i3: float32[4] data input %i4: float32[4, 2] data "
        '%0 = contract(%i1, %i4) {spec="n i, g i -> n g"} %1 = broadcast(%i3) {shape=(3, 4), dims=(1,)} '
        '%2 = add(%0, %1) %3 = contract(%i0, %i2) {spec="n h, g h -> n g"} %4 = add(%2, %3) %5 = tanh(%4) '
        'output "o0" = %5 output "o1" = %5'
    )
    before = INPUTS + BIASED + scan("%h, %2, %r", STEP, "%3, %4") + 'output "y" = %4\noutput "h" = %3'
    after = INPUTS + scan("%h, %x, %r, %b, %w", inside, "%0, %1") + 'output "y" = %1\noutput "h" = %0'
    assert_becomes(always, before, after, exact=False)


@pytest.mark.parametrize(
    ("product", "shape"),
    [
        ('contract(%v, %w) {spec="n t i, g i -> t n g"}', (3, 5, 2)),
        ('contract(%w, %v) {spec="g i, n i t -> t n g"}', (3, 2, 5)),
    ],
)
def test_operands_are_brought_into_the_order_of_steps(product: str, shape: tuple[int, ...]) -> None:
    kept = INPUTS + f"input %v: float32{list(shape)} data\n"
    graph = graph_of(f"{kept}%0 = {product}\n" + scan("%h, %0, %r", STEP, "%1, %2") + 'output "y" = %2')
    found = always(graph)
    assert [node.op.name for node in found.nodes] == ["transpose", "scan"]
    assert found.nodes[0].outputs[0].type.shape[0] == 5


@pytest.mark.parametrize("spec", ["a k, t k -> t a", "t k, a k -> t a", "t a, q a -> t q"])
def test_a_product_of_a_value_with_itself(spec: str) -> None:
    lines = f'input %v: float32[5, 5] data\ninput %c: float32[5] data\n%0 = contract(%v, %v) {{spec="{spec}"}}\n'
    body = 'input %h: float32[5] data input %s: float32[5] data %0 = add(%h, %s) output "o0" = %0 output "o1" = %0'
    graph = graph_of(lines + scan("%c, %0", body, "%1, %2") + 'output "y" = %2')
    found = always(graph)
    assert "scan" in [node.op.name for node in found.nodes] and found is not graph
    rng = np.random.default_rng(1)
    feeds = {"v": rng.standard_normal((5, 5)).astype(np.float32), "c": rng.standard_normal(5).astype(np.float32)}
    np.testing.assert_allclose(interpret(found, feeds)["y"], interpret(graph, feeds)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (PRODUCT, "a product that an output reads, too"),
        ('%0 = contract(%x, %x) {spec="t n i, t m i -> t n m"}\n', "both operands run through the steps"),
        (
            '%0 = contract(%x, %w) {spec="t n i, g i -> (t) n g"}\n%9 = reverse(%0) {axes=(0,)}\n',
            "steps in another order",
        ),
        ("%0 = broadcast(%b) {shape=(5, 3, 4), dims=(2,)}\n", "no product"),
    ],
)
def test_other_sequences_stay(lines: str, reason: str) -> None:
    made = "%9" if "%9" in lines else "%0"
    step = STEP
    extra = 'output "z" = %0' if "output" in reason else ""
    if "both" in reason:
        step = STEP.replace("%s: float32[3, 4]", "%s: float32[3, 3]").replace("%1 = add(%s, %0)", "%1 = neg(%0)")
    text = INPUTS + lines + scan(f"%h, {made}, %r", step, "%10, %11") + f'output "y" = %11\n{extra}'
    graph = graph_of(text)
    assert always(graph) is graph, reason


def test_whether_it_pays_is_asked_with_both_bodies() -> None:
    graph = graph_of(INPUTS + BIASED + scan("%h, %2, %r", STEP, "%3, %4") + 'output "y" = %4')
    asked: list[tuple[int, int, int]] = []

    def pays(before: Graph, after: Graph, changing: int) -> bool:
        asked.append((len(before.nodes), len(after.nodes), changing))
        return False

    assert sink_products(graph, SinkOptions(pays)) is graph and asked == [(3, 6, 2)]
    assert sink_products(graph) is graph


def test_loops_within_loops() -> None:
    inner = STEP.replace('output "o1" = %2', "")
    body = (
        "input %h: float32[3, 4] data input %x: float32[5, 3, 2] data input %w: float32[4, 2] data "
        f'input %r: float32[4, 4] data {PRODUCT.strip()} {scan("%h, %0, %r", inner, "%1").strip()} output "o0" = %1'
    )
    outer = scan("%h, %x, %w, %r", body, "%0", "carries=1, sequences=0")
    found = always(graph_of(INPUTS + outer + 'output "h" = %0'))
    (loop,) = found.nodes
    assert [node.op.name for node in loop.attributes["body"].nodes] == ["scan"]


def names(graph: Graph, of: Callable[[Graph], Graph]) -> list[str]:
    return [node.op.name for node in of(graph).nodes]


def test_two_sequences_of_one_loop_move_together() -> None:
    step = STEP.replace("input %r", "input %s2: float32[3, 4] data input %r").replace("tanh(%1)", "mul(%1, %s2)")
    second = '%1 = contract(%x, %w) {spec="t n i, g i -> t n g"}\n'
    text = INPUTS + PRODUCT + second + scan("%h, %0, %1, %r", step, "%2, %3", "carries=1, sequences=2")
    graph = graph_of(text + 'output "y" = %3')
    assert names(graph, always) == ["scan"]
    (loop,) = always(graph).nodes
    assert loop.attributes["sequences"] == 1, "they read one sequence"
