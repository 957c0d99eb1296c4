"""The rewrite driver: sweeps, origins, use counts, checks of what rules return."""

from __future__ import annotations

from collections import Counter

import pytest

from dlc.errors import GraphError
from dlc.passes.rewrite import rewrite, rule
from tests.passes.pass_text import chain, graph_of

CHAIN = (
    'input %x: float32[3] data\n%1 = exp(%x) @ "a"\n%2 = neg(%1) @ "b"\n'
    '%3 = neg(%2) @ "c"\n%4 = sin(%3) @ "d"\noutput "y" = %4'
)


@rule("neg")
def double_neg(builder, node, context):
    """neg(neg(x)) -> x."""
    inner = context.producer(node.inputs[0], "neg")
    return None if inner is None else inner.inputs[0]


@rule("neg")
def neg_to_sub(builder, node, context):
    """neg(x) -> 0 - x, in two nodes."""
    return builder.sub(builder.zeros_like(node.inputs[0]), node.inputs[0])


@rule("sin")
def sin_of_neg(builder, node, context):
    """sin(neg(x)) -> neg(sin(x))."""
    inner = context.producer(node.inputs[0], "neg")
    return None if inner is None else builder.neg(builder.sin(inner.inputs[0]))


def ops(graph):
    return [n.op.name for n in graph.nodes]


def test_rules_apply_until_none_matches_and_are_counted():
    hits = Counter()
    graph = rewrite(graph_of(CHAIN), [double_neg], hits=hits)
    assert ops(graph) == ["exp", "sin"] and hits == {"double_neg": 1}


def test_nothing_matched_is_the_same_object():
    graph = rewrite(graph_of(CHAIN), [double_neg])
    assert rewrite(graph, [double_neg]) is graph


def test_emitted_nodes_carry_the_origins_of_what_they_replace():
    graph = rewrite(graph_of(CHAIN), [neg_to_sub])
    assert [[o.name for o in n.origins] for n in graph.nodes if n.op.name == "sub"] == [["b"], ["c"]]


def test_absorbed_producers_hand_on_their_origins():
    text = 'input %x: float32[3] data\n%1 = neg(%x) @ "minus"\n%2 = sin(%1) @ "wave"\noutput "y" = %2'
    graph = rewrite(graph_of(text), [sin_of_neg])
    assert [[o.name for o in n.origins] for n in graph.nodes] == [["minus", "wave"]] * 2


def test_a_rule_must_keep_the_type():
    @rule("neg")
    def wrong(builder, node, context):
        """neg(x) -> x > x, of another dtype."""
        return builder.greater(node.inputs[0], node.inputs[0])

    with pytest.raises(GraphError, match=r"'wrong'.*neg.*bool"):
        rewrite(graph_of(CHAIN), [wrong])


def test_what_a_failed_match_emitted_is_forgotten():
    @rule("neg")
    def emits_and_declines(builder, node, context):
        """Emits a node, then declines."""
        builder.exp(node.inputs[0])

    graph = graph_of(CHAIN)
    assert rewrite(graph, [emits_and_declines]) is graph


def test_endless_rules_stop_at_the_limit():
    @rule("neg")
    def again(builder, node, context):
        """neg(x) -> neg(x)."""
        return builder.neg(node.inputs[0])

    hits = Counter()
    rewrite(graph_of(CHAIN), [again], max_sweeps=3, hits=hits)
    assert hits["again"] == 6


def test_use_counts_follow_replacements():
    seen = {}

    @rule("sin", "cos")
    def look(builder, node, context):
        """Looks at the uses of the operand."""
        seen[node.op.name] = context.has_one_use(node.inputs[0])

    rewrite(
        graph_of(
            "input %x: float32[3] data\n%1 = exp(%x)\n%2 = sin(%1)\n%3 = log(%x)\n%4 = cos(%3)\n"
            'output "a" = %2\noutput "b" = %4\noutput "c" = %3'
        ),
        [look],
    )
    assert seen == {"sin": True, "cos": False}


def test_a_chain_of_50000_nodes():
    assert rewrite(chain("neg", 50000), [double_neg]).nodes == ()
