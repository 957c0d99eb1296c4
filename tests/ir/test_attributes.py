"""Literals: equality by content, and runs of equal elements."""

import numpy as np
import pytest

from dlc.ir.attributes import Literal


@pytest.mark.parametrize(
    ("array", "starts"),
    [
        (np.zeros((0, 3)), []),
        (np.array(5), [0]),
        (np.ones((4, 4), "f"), [0]),
        (np.array([[1, 1, 2], [2, 2, 1]]), [0, 2, 5]),
        (np.array([True, False, False]), [0, 1]),
        (np.array([0.0, -0.0, np.nan, np.nan]), [0, 1, 2]),
        (np.array([1 + 1j, 1 + 1j, 1 - 1j]), [0, 2]),
        (np.array(["a", "a", "b"], object), [0, 2]),
    ],
)
def test_runs_of_equal_elements(array: np.ndarray, starts: list[int]) -> None:
    assert Literal(array).run_starts() == starts


def test_equality_is_by_type_shape_and_bytes() -> None:
    zero = np.array([0.0])
    assert Literal(zero) == Literal(zero.copy()) and hash(Literal(zero)) == hash(Literal(zero.copy()))
    for other in (-zero, zero.astype("f"), zero.reshape(1, 1)):
        assert Literal(zero) != Literal(other)
