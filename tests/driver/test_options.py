"""What a caller passes to compile: faults are typed and named before anything is compiled."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.driver.options import CompileOptions, binding_from_shapes
from dlc.errors import CompileError, InputError
from dlc.ir.opdef import Mode


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "2"])
def test_bad_threads(threads):
    with pytest.raises(CompileError, match="threads"):
        CompileOptions.make(Mode.INFERENCE, "cpu", "float32", threads)


@pytest.mark.parametrize("device", ["cuda:0", "gpu", None, 0])
def test_bad_device(device):
    with pytest.raises(CompileError, match="device"):
        CompileOptions.make(Mode.INFERENCE, device, "float32", 1)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"x": 5}, "5 for input 'x'"),
        ({"x": ("a", 12)}, "'a'.* for input 'x'"),
        ({"x": (2.0, 12)}, "tuple of integers"),
        ([(2, 12)], "not a list"),
        ({"x": (-1, 12)}, "negative extent"),
        ({"x": (2, 12, 1)}, "shape"),
        ({"z": (2, 12)}, "input 'z'"),
    ],
)
def test_bad_shapes(perceptron, shapes, words):
    with pytest.raises(InputError, match=words):
        binding_from_shapes(perceptron(), shapes)


def test_shapes_of_numpy_integers(perceptron):
    assert binding_from_shapes(perceptron(), {"x": np.array([3, 12])}) == {"batch": 3}
