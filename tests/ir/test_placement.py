"""Layouts: strides of a tensor's dimensions inside a larger tensor, under every shape that fits."""

import numpy as np
import pytest

from dlc.ir.placement import Layout, row_major, span


@pytest.mark.parametrize(
    ("whole", "part", "start"),
    [
        ((2, 3, 8), (2, 3, 5), (0, 0, 2)),
        ((2, 9, 4), (2, 3, 4), (0, 4, 0)),
        ((7, 3, 4), (2, 3, 4), (5, 0, 0)),
        ((2, 5, 6, 4), (2, 3, 4, 4), (0, 1, 1, 0)),
        ((1, 5, 6, 8), (1, 3, 4, 3), (0, 1, 1, 4)),
        ((3, 4), (1, 1), (2, 3)),
    ],
)
def test_steps_lead_to_the_part(whole, part, start):
    array = np.arange(np.prod(whole)).reshape(whole)
    strides = row_major(whole)
    layout = Layout.of(part, strides)
    steps = layout.steps(part)
    assert steps is not None
    first = sum(i * s for i, s in zip(start, strides))
    box = tuple(slice(i, i + n) for i, n in zip(start, part))
    for index in np.ndindex(part):
        assert array[box][index] == array.reshape(-1)[first + sum(i * s for i, s in zip(index, steps))]
    assert first + span(part, steps) - 1 == array[box].max()


def test_a_layout_is_that_of_the_elements_order_whatever_the_shape():
    layout = Layout.of((2, 3, 4, 5), row_major((2, 3, 4, 8)))
    assert layout == Layout.of((24, 5), (8, 1)) == Layout((24, 5), (8, 1))
    assert layout.steps((24, 5)) == (8, 1)
    assert layout.steps((6, 2, 2, 5)) == (32, 16, 8, 1)
    assert layout.steps((2, 1, 12, 5)) == (96, 0, 8, 1)
    assert layout.steps((24, 5, 1)) == (8, 1, 0)
    assert layout.steps((12, 10)) is None
    assert layout.steps((24, 4)) is None


def test_a_contiguous_tensor_is_one_run():
    assert Layout.of((2, 3, 4), row_major((2, 3, 4))) == Layout((24,), (1,))
    assert Layout((24,), (1,)).steps((4, 6)) == (6, 1)
    assert Layout.of((1, 1), (5, 7)) == Layout((), ()) and Layout((), ()).steps((1, 1, 1)) == (0, 0, 0)
