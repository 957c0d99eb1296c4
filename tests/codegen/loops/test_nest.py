"""Axes are split where indices divide and collapsed where memory is contiguous; values stay the same."""

from __future__ import annotations

import itertools

import pytest

from dlc.codegen.loops.nest import Space, index_forms, index_roots, normalize
from dlc.ir.compute import Axis, axis
from dlc.ir.expr import Expr, Load, Var, apply, cast, const
from dlc.ir.simplify import linear_index
from dlc.ir.types import float32
from tests.ir.test_simplify import evaluate


def position(axes: list[Axis]) -> Expr:
    return linear_index(tuple(a.var for a in axes), tuple(a.extent for a in axes), lambda e: e)


def load(index: Expr, name: str = "x") -> Expr:
    return Load(name, index, float32)


def visited(space: Space, number: int) -> list[int]:
    """The values of index expression ``number`` in loop order."""
    ranges = [range(a.extent) for a in space.axes]
    index = space.exprs[number]
    return [evaluate(index, dict(zip([a.var for a in space.axes], point))) for point in itertools.product(*ranges)]


def test_contiguous_axes_become_one() -> None:
    axes = [axis("i", 4), axis("j", 5), axis("k", 6)]
    space = normalize(Space([axes], [position(axes), load(position(axes))]))
    assert [a.extent for a in space.axes] == [120]
    assert visited(space, 0) == list(range(120))


def test_broadcast_row_keeps_its_axis() -> None:
    axes = [axis("i", 4), axis("j", 5), axis("k", 6)]
    space = normalize(Space([axes], [position(axes), load(position(axes)), load(axes[2].var, "row")]))
    assert [a.extent for a in space.axes] == [20, 6]


def test_kept_and_reduced_axes_stay_apart() -> None:
    axes = [axis("i", 4), axis("j", 5)]
    space = normalize(Space([[axes[0]], [axes[1]]], [load(position(axes))]))
    assert [[a.extent for a in block] for block in space.blocks] == [[4], [5]]


def test_axes_of_one_element_vanish() -> None:
    axes = [axis("i", 1), axis("j", 5), axis("k", 1)]
    space = normalize(Space([axes], [position(axes)]))
    assert [a.extent for a in space.axes] == [5] and visited(space, 0) == list(range(5))


def test_axis_is_split_where_it_is_divided() -> None:
    i, j = axis("i", 6), axis("j", 64)
    head = apply("floor_div", j.var, const(16))
    inside = apply("floor_mod", j.var, const(16))
    index = linear_index((head, i.var, inside), (4, 6, 16), lambda e: e)
    before = Space([[i, j]], [position([i, j]), index])
    after = normalize(before)
    assert [a.extent for a in after.axes] == [6, 4, 16]
    assert "floor" not in repr(after.exprs)
    assert visited(after, 0) == visited(before, 0) and visited(after, 1) == visited(before, 1)


def test_short_splits_are_made_where_neighbours_lie_apart() -> None:
    """Windows of a max pooling's gradient in a channels-last tensor: pixels are summed, lanes are channels."""
    pixels, channels = axis("p", 16), axis("c", 8)
    window = apply("floor_div", pixels.var, const(2))
    index = linear_index((window, channels.var), (8, 8), lambda e: e)
    space = normalize(Space([[channels], [pixels]], [load(index)]))
    assert [[a.extent for a in block] for block in space.blocks] == [[8], [8, 2]]


def test_short_splits_of_the_innermost_axis_are_left() -> None:
    j = axis("j", 64)
    space = normalize(Space([[j]], [load(apply("floor_div", j.var, const(2))), load(j.var, "y")]))
    assert [a.extent for a in space.axes] == [64]


@pytest.mark.parametrize(("step", "extents"), [(8, [64]), (1, [64]), (1000, [8, 8])])
def test_runs_of_half_a_vector_stay_whole_where_what_breaks_them_lies_near(step: int, extents: list[int]) -> None:
    """Inputs of groups of eight channels, as lanes along all outputs read them."""
    j = axis("j", 64)
    once = apply("mul", apply("floor_div", j.var, const(8)), const(step))
    space = normalize(Space([[j]], [load(once), load(j.var, "y")]))
    assert [a.extent for a in space.axes] == extents


def test_tested_axes_do_not_collapse() -> None:
    axes = [axis("i", 4), axis("j", 6)]
    test = apply("less", axes[0].var, const(2))
    value = apply("select", test, load(position(axes)), load(position(axes), "y"))
    assert len(normalize(Space([axes], [position(axes), value])).axes) == 2


def test_outer_variables_stay_as_they_are() -> None:
    outer = Var("o")
    axes = [axis("i", 4), axis("j", 6)]
    index = apply("add", apply("mul", outer, const(24)), position(axes))
    space = normalize(Space([axes], [index], {outer: (0, 9)}))
    assert [a.extent for a in space.axes] == [24]
    assert outer in {e for e in index_roots(space.exprs)} or "Var(name='o'" in repr(space.exprs[0])


def test_positions_used_as_values_block_collapsing() -> None:
    axes = [axis("i", 4), axis("j", 6)]
    value = apply("add", load(position(axes)), cast(axes[1].var, float32))
    assert len(normalize(Space([axes], [position(axes), value])).axes) == 2


@pytest.mark.parametrize("divisor", [3, 4])
def test_divided_variables_are_blocked(divisor: int) -> None:
    i = axis("i", 12)
    space = Space([[i]], [apply("floor_div", i.var, const(divisor))])
    _, blocked = index_forms(space.exprs, space.simplifier)
    assert blocked == {i.var}
