"""The segments' polynomials against the exact functions, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from dlc.codegen.llvm.segment_tables import ERF, SEGMENTS, TANH, Segments, segment_bounds

CASES: dict[str, tuple[Callable[[float], float], Segments]] = {"erf": (math.erf, ERF), "tanh": (math.tanh, TANH)}


def place_of(table: Segments, a: float) -> int:
    """The segment of ``a`` by the bits of 1 + a / unit, as it is looked up."""
    bits = np.float32(1 + a / table.unit).view(np.int32)
    return int(bits >> (23 - table.fraction_bits)) % SEGMENTS


@pytest.mark.parametrize("name", CASES)
def test_polynomials_hold_over_their_segments(name: str) -> None:
    function, table = CASES[name]
    for low, high in segment_bounds(table.unit, table.fraction_bits):
        place = place_of(table, (low + high) / 2)
        for a in np.linspace(max(low, 1e-3), min(high, table.last), 65):
            t = a - table.centres[place]
            found = sum(row[place] * t**k for k, row in enumerate(table.coefficients))
            assert abs(found / function(a) - 1) < 3e-8


@pytest.mark.parametrize("name", CASES)
def test_every_argument_has_its_segment(name: str) -> None:
    _, table = CASES[name]
    bounds = segment_bounds(table.unit, table.fraction_bits)
    assert len(bounds) == SEGMENTS and bounds[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert bounds[-1][0] < table.last < bounds[-1][1]  # beyond, bits would number the first segment again
    assert {place_of(table, (low + high) / 2) for low, high in bounds} == set(range(SEGMENTS))


@pytest.mark.parametrize("name", CASES)
def test_small_arguments_keep_their_digits(name: str) -> None:
    _, table = CASES[name]
    first = place_of(table, 0.0)
    assert table.centres[first] == table.coefficients[0][first] == 0.0


@pytest.mark.parametrize("name", CASES)
def test_the_end_is_one(name: str) -> None:
    function, table = CASES[name]
    end = place_of(table, table.last)
    assert np.float32(function(table.last)) == np.float32(table.coefficients[0][end]) == 1
    assert table.centres[end] == table.last
