"""The segments' polynomials against the exact functions, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from dlc.codegen.segment_tables import ERF_SEGMENT, ERF_TABLE, TANH_SEGMENT, TANH_TABLE, Table

CASES = {"erf": (math.erf, ERF_SEGMENT, ERF_TABLE), "tanh": (math.tanh, TANH_SEGMENT, TANH_TABLE)}


@pytest.mark.parametrize("name", CASES)
def test_polynomials_hold_over_their_segments(name: str) -> None:
    function: Callable[[float], float]
    table: Table
    function, width, table = CASES[name]
    offsets = np.linspace(-width / 2, width / 2, 65)
    for segment in range(len(table[0])):
        coefficients = [row[segment] for row in table]
        for t in offsets if segment else offsets[offsets > 0]:
            wanted = function(segment * width + t)
            found = sum(c * t**k for k, c in enumerate(coefficients))
            assert abs(found / wanted - 1) < 8e-8


@pytest.mark.parametrize("name", CASES)
def test_small_arguments_keep_their_digits(name: str) -> None:
    assert [row[0] for row in CASES[name][2]][::2] == [0.0] * 4
