"""Scans lose what nothing reads."""

from __future__ import annotations

from dlc.passes.trim_scans import trim_scans
from tests.passes.pass_text import assert_becomes, graph_of

INPUTS = (
    "input %h: float32[3] data\ninput %g: float32[3] data\ninput %x: float32[4, 3] data\ninput %c: float32[3] data\n"
)


def scan(operands, body, counts, results):
    return f'{results} = scan({operands}) {{body=graph "b" {{ {body} }}, {counts}, length=4}}'


def test_unused_results_operands_and_carries_go():
    before = scan(
        "%h, %g, %x, %c",
        "input %i0: float32[3] data input %i1: float32[3] data input %i2: float32[3] data input %i3: float32[3] data "
        '%0 = add(%i0, %i2) %1 = mul(%i1, %i3) %2 = neg(%0) output "o0" = %0 output "o1" = %1 output "o2" = %2 '
        'output "o3" = %1',
        "carries=2, sequences=1",
        "%1, %2, %3, %4",
    )
    after = scan(
        "%h, %x",
        "input %i0: float32[3] data input %i1: float32[3] data %0 = add(%i0, %i1) %1 = neg(%0) "
        'output "o0" = %0 output "o1" = %1',
        "carries=1, sequences=1",
        "%1, %2",
    )
    assert_becomes(trim_scans, INPUTS + before + '\noutput "y" = %3', INPUTS + after + '\noutput "y" = %2')


def test_a_result_given_twice_is_given_once():
    body = 'input %i0: float32[3] data %0 = neg(%i0) output "o0" = %0 output "o1" = %0'
    before = scan("%h", body + ' output "o2" = %0', "carries=1, sequences=0", "%1, %2, %3")
    after = scan("%h", body, "carries=1, sequences=0", "%1, %2")
    assert_becomes(
        trim_scans,
        INPUTS + before + '\n%4 = add(%2, %3)\noutput "y" = %4\noutput "h" = %1',
        INPUTS + after + '\n%3 = add(%2, %2)\noutput "y" = %3\noutput "h" = %1',
    )


def test_a_carry_that_feeds_another_stays():
    text = INPUTS + scan(
        "%h, %g",
        'input %i0: float32[3] data input %i1: float32[3] data %0 = add(%i0, %i1) output "o0" = %0 output "o1" = %0',
        "carries=2, sequences=0",
        "%1, %2",
    )
    graph = graph_of(text + '\noutput "y" = %1')
    assert trim_scans(graph) is graph


def test_scans_in_a_row_are_trimmed_from_the_end():
    body = 'input %i0: float32[3] data %0 = neg(%i0) output "o0" = %0 output "o1" = %i0'
    first = scan("%h", body, "carries=1, sequences=0", "%1, %2")
    second = scan(
        "%g, %2",
        'input %i0: float32[3] data input %i1: float32[3] data %0 = exp(%i0) output "o0" = %0',
        "carries=1, sequences=1",
        "%3",
    )
    after = trim_scans(graph_of(f'{INPUTS}{first}\n{second}\noutput "y" = %3\noutput "z" = %1'))
    assert [len(n.outputs) for n in after.nodes] == [1, 1] and [len(n.inputs) for n in after.nodes] == [1, 1]
