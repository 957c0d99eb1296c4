"""Which row problems are windows, and how lines are cut into tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.places import whole
from dlc.codegen.rows.group import row_problem
from dlc.codegen.rows.windows import Windows, cut_line, find_windows
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.types import float32, tensor_type


def windows_of(function: Callable[..., Value], *shapes: tuple[int, ...]) -> Windows | None:
    b = Builder("test")
    inputs = [b.input(f"i{k}", tensor_type(float32, shape)) for k, shape in enumerate(shapes)]
    result = function(b, *inputs)
    group = ComputeGroup(tuple(inputs), b.nodes)
    sources = {k: whole(f"x{k}", v.type) for k, v in enumerate(inputs)}
    problem = row_problem(group, [result], {result: whole("y", result.type)}, sources)
    assert problem is not None
    return find_windows(problem.normalized())


def pad(b: Builder, x: Value, value: float = 0.0, width: int = 1) -> Value:
    edge = (0, width, width, 0)
    return b.pad(x, b.constant(value, float32), low=edge, high=edge, interior=(0, 0, 0, 0))


def pool(b: Builder, x: Value, window: int, stride: int, combiner: str = "maximum") -> Value:
    sizes = {"window": (1, window, window, 1), "strides": (1, stride, stride, 1), "dilations": (1, 1, 1, 1)}
    return b.reduce_window(x, combiner=combiner, **sizes)


def test_depthwise_convolution() -> None:
    spec = "n h*2+r w*2+s c, r s c -> n h w c"
    found = windows_of(lambda b, x, w: b.contract(pad(b, x), w, spec=spec), (1, 9, 9, 32), (3, 3, 32))
    assert found is not None and found.line.extent == 5 and found.taps.extent == 3
    assert [[found.inside(x, s) for s in range(3)] for x in (0, 1, 4)] == [
        [False, True, True],
        [True, True, True],
        [True, True, False],
    ]


def test_taps_that_overlap_are_innermost() -> None:
    """The inputs of a group are summed over, too: neighbours share taps, not inputs."""
    spec = "n h+r w+s (g c), r s c (g o) -> n h w (g o)"
    shapes = (1, 9, 9, 64), (3, 5, 4, 64)
    found = windows_of(lambda b, x, w: b.contract(pad(b, x), w, spec=spec, sizes=(("g", 16),)), *shapes)
    assert found is not None and found.inner.extent == 64 and found.line.extent == 7
    assert [axis.extent for axis in found.problem.reduced] == [3, 4, 5] and found.steps == (64, 64)


@pytest.mark.parametrize("window, stride, found", [(3, 1, True), (3, 2, True), (2, 2, False), (3, 3, False)])
def test_pooling_pays_where_windows_overlap(window: int, stride: int, found: bool) -> None:
    assert (windows_of(lambda b, x: pool(b, pad(b, x, -np.inf), window, stride), (1, 10, 10, 16)) is not None) is found


def test_padding_that_changes_the_result_is_no_bound() -> None:
    assert windows_of(lambda b, x: pool(b, pad(b, x, -np.inf), 3, 1), (1, 12, 12, 16)) is not None
    assert windows_of(lambda b, x: pool(b, pad(b, x, 1.0), 3, 1), (1, 12, 12, 16)) is None


def test_whole_reductions_are_no_windows() -> None:
    assert windows_of(lambda b, x: b.reduce_sum(x, axes=(1,)), (8, 12, 16)) is None


def test_spread_operands_are_no_windows() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        zero = b.constant(0.0, float32)
        spread = b.pad(x, zero, low=(0, 2, 2, 0), high=(0, 2, 2, 0), interior=(0, 1, 1, 0))
        return b.contract(spread, w, spec="n h+r w+s c, r s c -> n h w c")

    assert windows_of(function, (1, 6, 6, 32), (3, 3, 32)) is None


@pytest.mark.parametrize("most", [3, 7, 8])
@pytest.mark.parametrize("extent", [1, 2, 7, 8, 14, 15, 28, 29, 56, 112, 131])
@pytest.mark.parametrize("before, after", [(0, 0), (1, 1), (3, 0), (2, 5)])
def test_lines_are_covered_once(extent: int, before: int, after: int, most: int) -> None:
    low, high = before, extent - 1 - after
    covered: list[int] = []
    for tiles in cut_line(extent, low, high, most):
        assert 1 <= tiles.size <= most and tiles.count >= 1
        places = range(tiles.start, tiles.start + tiles.size * tiles.count)
        covered += places
        assert tiles.count == 1 or (low <= places[0] and places[-1] <= high)
    assert covered == list(range(extent))


def test_long_lines_are_mostly_one_loop() -> None:
    assert [(t.size, t.count) for t in cut_line(112, 0, 111, 8)] == [(8, 14)]
    assert max(t.count for t in cut_line(112, 1, 110, 8)) >= 12
    assert all(t.count == 1 for t in cut_line(14, 1, 12, 8))
