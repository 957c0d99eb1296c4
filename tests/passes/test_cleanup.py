"""Dead nodes, equal nodes, and state that an inference does not need."""

from __future__ import annotations

from dlc.ir.builder import Builder
from dlc.passes.cleanup import cleanup, merge_equal, prune_state, remove_dead
from tests.passes.pass_text import assert_becomes, chain, graph_of

X = "input %x: float32[3] data\ninput %z: float32[3] data\n"


def test_dead_nodes_go_and_signature_outputs_stay():
    assert_becomes(
        remove_dead,
        X + '%1 = neg(%x)\n%2 = exp(%z)\n%3 = sin(%2)\noutput "y" = %1',
        X + '%1 = neg(%x)\noutput "y" = %1',
    )


def test_equal_nodes_merge():
    assert_becomes(
        merge_equal,
        X + '%1 = sub(%x, %z)\n%2 = sub(%x, %z)\n%3 = sub(%z, %x)\n%4 = mul(%1, %2)\noutput "a" = %4\noutput "b" = %3',
        X + '%1 = sub(%x, %z)\n%2 = sub(%z, %x)\n%3 = mul(%1, %1)\noutput "a" = %3\noutput "b" = %2',
    )


def test_commutative_operands_have_no_order():
    assert_becomes(
        merge_equal,
        X + '%1 = add(%x, %z)\n%2 = add(%z, %x)\n%3 = sub(%1, %2)\noutput "y" = %3',
        X + '%1 = add(%x, %z)\n%2 = sub(%1, %1)\noutput "y" = %2',
    )


def test_attributes_and_literals_tell_nodes_apart():
    text = X + (
        "%1 = constant() {value=float32[]{0.0}}\n%2 = constant() {value=float32[]{-0.0}}\n"
        '%3 = reverse(%x) {axes=(0,)}\noutput "a" = %1\noutput "b" = %2\noutput "c" = %3'
    )
    graph = graph_of(text)
    assert merge_equal(graph) is graph


def test_random_numbers_of_two_streams_stay_two():
    text = "input %k: uint32[2] state\n" + "".join(
        f"%{n} = random_uniform(%k) {{shape=(4,), dtype=float32, stream={n}}}\n" for n in (1, 2)
    )
    graph = graph_of(text + '%3 = sub(%1, %2)\noutput "y" = %3')
    assert merge_equal(graph) is graph


def test_nothing_to_do_is_the_same_object():
    graph = graph_of(X + '%1 = add(%x, %z)\noutput "y" = %1')
    assert cleanup(graph) is graph and prune_state(graph) is graph


def test_state_that_stays_is_no_state():
    after = prune_state(
        graph_of(
            'input %x: float32[3] data\ninput %m: float32[3] state replaced_by "m:next"\n'
            '%1 = add(%x, %m)\noutput "m:next" = %m\noutput "y" = %1'
        )
    )
    assert after.signature.outputs == ("y",) and after.spec("m").replaced_by is None


def test_state_that_no_result_needs_goes_with_its_update():
    after = prune_state(
        graph_of(
            'input %x: float32[3] data\ninput %k: float32[3] state replaced_by "k:next"\n'
            '%1 = neg(%k)\n%2 = exp(%x)\noutput "k:next" = %1\noutput "y" = %2'
        )
    )
    assert [s.name for s in after.signature.inputs] == ["x"]
    assert [n.op.name for n in after.nodes] == ["exp"]


def test_state_that_results_need_keeps_all_that_feeds_it():
    text = (
        'input %x: float32[3] data\ninput %a: float32[3] state replaced_by "a:next"\n'
        'input %b: float32[3] state replaced_by "b:next"\n%1 = add(%a, %b)\n%2 = neg(%b)\n%3 = mul(%x, %a)\n'
        'output "a:next" = %1\noutput "b:next" = %2\noutput "y" = %3'
    )
    graph = graph_of(text)
    assert prune_state(graph) is graph


def test_fed_inputs_stay_even_if_nothing_reads_them():
    graph = graph_of('input %x: float32[3] data\ninput %w: float32[3] parameter\n%1 = neg(%w)\noutput "y" = %1')
    assert prune_state(graph) is graph


def test_two_equal_chains_of_50000_nodes_become_one():
    builder = Builder.reopen(chain("neg", 50000))
    (twin,) = builder.inline(chain("neg", 50000), builder.inputs)
    builder.output("twin", twin)
    after = cleanup(builder.finish())
    assert len(after.nodes) == 50000 and after.output("y") is after.output("twin")
