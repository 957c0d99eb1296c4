"""Contraction specifications: text, extents, and what is refused."""

from __future__ import annotations

import pytest

from dlc.errors import TypeRuleError
from dlc.ir.contraction import Group, WindowTerm, group_shape, infer_extents, parse_spec
from dlc.ir.dims import symbol
from dlc.ir.shapes import reshape_blocks

CONV = "n h*2+r w*2+s*3 (g c), r s c (g k) -> n h w (g k)"
N = symbol("n")


@pytest.mark.parametrize("text", ["m k, k n -> m n", "k, k -> ", CONV, "b h q d, b h k d -> b h q k", "m, n -> (m n)"])
def test_text_reads_back(text):
    assert str(parse_spec(text)) == text.rstrip() or str(parse_spec(text)) == text


def test_the_parts():
    spec = parse_spec(CONV)
    assert spec.lhs[1] == WindowTerm((("h", 2), ("r", 1))) and spec.lhs[3] == Group(("g", "c"))
    assert spec.output_axes == ("n", "h", "w", "g", "k")
    assert spec.reduce_axes == ("r", "s", "c")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("m k -> m", "must read"), ("m k, k n", "must read"), ("m, k -> m+k", "output has a window"),
        ("m, n -> m m", "output axis twice"), ("(m, n -> m", "unclosed"), ("() m, n -> m", "empty or unopened"),
    ],
)  # fmt: skip
def test_malformed_text(text, reason):
    with pytest.raises(TypeRuleError, match=reason):
        parse_spec(text)


def test_extents_of_a_convolution():
    spec = parse_spec(CONV)
    extents = infer_extents(spec, (N, 9, 11, 8), (3, 2, 4, 6), {"g": 2})
    assert extents == {"n": N, "h": 4, "w": 4, "g": 2, "c": 4, "r": 3, "s": 2, "k": 3}
    assert group_shape(spec.output, extents) == (N, 4, 4, 6)


@pytest.mark.parametrize(
    ("text", "lhs", "rhs", "sizes", "reason"),
    [
        ("m k, k n -> m n", (2, 3), (4, 5), {}, "extent 3 from one operand and 4|extent .* 4"),
        ("m k, k n -> m n", (2, 3, 4), (3, 5), {}, "rank 3"),
        ("(a b), c -> a b c", (6,), (2,), {}, "not determined"),
        ("(a b), c -> a b c", (6,), (2,), {"a": 4}, "not a multiple"),
        ("h+r, r -> h", (3,), (5,), {}, "larger than its dimension"),
        ("h+r, r -> h", (5,), (3,), {"h": 4, "r": 3}, "reads up to 6 in a dimension of 5"),
    ],
)
def test_extents_that_do_not_fit(text, lhs, rhs, sizes, reason):
    with pytest.raises(TypeRuleError, match=reason):
        infer_extents(parse_spec(text), lhs, rhs, sizes)


@pytest.mark.parametrize(
    ("old", "new", "blocks"),
    [
        ((2, 3), (2, 3), [((0,), (0,)), ((1,), (1,))]),
        ((2, 3, 4), (6, 4), [((0, 1), (0,)), ((2,), (1,))]),
        ((6, 4), (2, 3, 4), [((0,), (0, 1)), ((1,), (2,))]),
        ((2, 6), (3, 4), [((0, 1), (0, 1))]),
        ((1, 4), (4,), [((0, 1), (0,))]),
        ((4,), (4, 1, 1), [((0,), (0, 1, 2))]),
        ((N, 4, 2), (N, 8), [((0,), (0,)), ((1, 2), (1,))]),
        ((), (), []),
        ((0, 3), (3, 0), None),
        ((N, 4), (N * 4,), None),
    ],
)
def test_reshape_blocks(old, new, blocks):
    assert reshape_blocks(old, new) == blocks


def test_a_window_that_does_not_cover_its_dimension_leaves_its_axis_to_the_groups():
    spec = parse_spec("n h*2+r c, n h k -> r c k")
    extents = infer_extents(spec, (1, 12, 3), (1, 5, 4), {})
    assert (extents["h"], extents["r"]) == (5, 4)
    assert infer_extents(parse_spec("h*2+r, h -> r"), (12,), (5,), {"r": 3})["r"] == 3
