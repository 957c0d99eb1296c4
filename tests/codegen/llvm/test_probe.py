"""The probes do the work that their rates are computed from: every float is read, every multiply-add is done."""

import ctypes

import numpy as np
import pytest

from dlc.codegen.llvm.jit import compile_module, load_objects
from dlc.codegen.llvm.probe import PEAK, READ, peak_chains, peak_flops, probe_text, read_stride
from dlc.codegen.llvm.target import host_target

FEATURES = ["", "avx2", "generic", "-fma"]


def call(features, symbol, count, iterations, data):
    target = host_target(features)
    code = load_objects([compile_module(probe_text(target), target)])
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(code.address(symbol))
    function(count, iterations, data.ctypes.data)
    lanes = target.lanes(4)
    return data[lanes : 2 * lanes]


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("passes", [1, 3])
def test_reading_goes_over_all_the_data_again_and_again(features, passes):
    stride = read_stride(host_target(features))
    data = np.random.default_rng(0).integers(-8, 8, 5 * stride).astype(np.float32)
    expected = passes * data.sum()
    assert call(features, READ, 5 * stride, 5 * passes, data).sum() == expected


@pytest.mark.parametrize("features", FEATURES)
def test_the_peak_multiplies_and_adds_in_every_chain(features):
    target = host_target(features)
    done = call(features, PEAK, 1, 4, np.full(64, 0.5, np.float32))
    assert (done == peak_chains(target) * (1 - 0.5**4)).all()  # x <- 0.5 x + 0.5, from 0
    assert peak_flops(target) == 2 * peak_chains(target) * len(done)
