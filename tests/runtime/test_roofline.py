"""The least time of work on a given machine."""

import pytest

from dlc.runtime.roofline import Roofline

ROOF = Roofline("a processor", 1, 1e11, ((1000, 5e9), (100000, 6e9), (1000000, 2e9)))


def test_arithmetic_is_bound_by_the_peak():
    assert ROOF.arithmetic_seconds(1e9) == pytest.approx(0.01)


@pytest.mark.parametrize(("size", "rate"), [(0, 6e9), (1000, 6e9), (1001, 6e9), (100001, 2e9), (10**9, 2e9)])
def test_bandwidth_is_that_of_the_next_larger_working_set_and_never_grows(size, rate):
    assert ROOF.bandwidth_at(size) == rate
    assert ROOF.memory_seconds(size) == pytest.approx(size / rate)


def test_little_of_a_large_working_set_comes_from_where_that_fits():
    assert ROOF.memory_seconds(500, 500000) == pytest.approx(500 / 2e9)
