"""What nodes do along their first dimension, told from index forms."""

from __future__ import annotations

import pytest

from dlc.passes.batch.rows import Rows
from tests.passes.pass_text import graph_of

IMAGES = "input %x: float32[4, 6, 6, 8] data\ninput %w: float32[3, 3, 8, 5] data\ninput %b: float32[8] data\n"


def rows_of(line: str) -> tuple[object, Rows]:
    node = graph_of(f'{IMAGES}%0 = {line}\noutput "y" = %0').nodes[0]
    return node, Rows(node)


@pytest.mark.parametrize(
    ("line", "sliced", "operations"),
    [
        ('contract(%x, %w) {spec="n h+r w+s c, r s c k -> n h w k"}', {0}, 2 * 4 * 4 * 4 * 5 * 9 * 8),
        ("tanh(%x)", {0}, 0),
        ("add(%x, %x)", {0, 1}, 0),
        ("reshape(%x) {shape=(4, 288)}", {0}, 0),
        ("transpose(%x) {permutation=(0, 3, 1, 2)}", {0}, 0),
        ("reduce_sum(%x) {axes=(1, 2)}", {0}, 4 * 8 * 36 * 2),
        ("broadcast(%b) {shape=(4, 6, 6, 8), dims=(3,)}", set(), 0),
        ("slice(%x) {starts=(0, 1, 0, 0), limits=(4, 5, 6, 8), strides=(1, 1, 1, 1)}", {0}, 0),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_part_of_the_rows_is_made_in_the_same_way(line, sliced, operations, count):
    node, rows = rows_of(line)
    assert (rows.extent, rows.sliced, rows.operations) == (4, sliced, operations)
    attributes = rows.attributes_for(node, count)
    assert attributes is not None
    if "shape" in attributes:
        assert attributes["shape"][0] == count


def test_axes_that_look_like_a_shape_stay():
    node = graph_of('input %x: float32[2, 5, 4, 4] data\n%0 = reduce_sum(%x) {axes=(2, 3)}\noutput "y" = %0').nodes[0]
    attributes = Rows(node).attributes_for(node, 1)
    assert attributes is not None and attributes["axes"] == (2, 3)


@pytest.mark.parametrize(
    "line",
    [
        "transpose(%x) {permutation=(1, 0, 2, 3)}",
        "reshape(%x) {shape=(24, 48)}",
        "reduce_sum(%x) {axes=(0,)}",
        "reverse(%x) {axes=(0,)}",
        'contract(%x, %x) {spec="n h w c, m h w c -> n m"}',
        "iota() {shape=(4, 3), axis=0, dtype=float32}",
        "concat(%x, %x) {axis=0}",
        "slice(%x) {starts=(1, 0, 0, 0), limits=(4, 6, 6, 8), strides=(1, 1, 1, 1)}",
    ],
)
def test_nodes_that_mix_or_number_rows_do_not_work_row_by_row(line):
    _, rows = rows_of(line)
    contracted = line.startswith("contract")
    assert rows.extent == (4 if contracted else 0)
    assert rows.sliced == ({0} if contracted else frozenset())
