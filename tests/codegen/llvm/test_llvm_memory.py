"""Reads whose lanes lie at known distances: the right elements, without gathers, and nothing beyond them is touched."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.ir.expr import Expr, Load, apply, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.types import DType, bfloat16, bool_, float16, float32, float64, int8, int64
from tests.codegen.kernel_native import Function, index, targets, variables

ROUNDS = 3
BEGIN = 3
block, lane = variables("block lane")


def reads_once_per_group(width: int, inputs: int, lanes: int, dtype: DType) -> Kernel:
    """Lane after lane, ``width`` of them read one element, the next ones that which lies ``inputs`` further."""
    place: Expr = index((block, lanes), lane)
    where = index((apply("floor_div", place, const(width)), inputs), BEGIN)
    store = Store("o", place, Load("x", where, dtype))
    body = For(block, const(ROUNDS), LoopKind.SERIAL, (For(lane, const(lanes), LoopKind.VECTOR, (store,)),))
    size = (ROUNDS * lanes - 1) // width * inputs + BEGIN + 1
    return Kernel("reads", (Buffer("x", dtype, size), Buffer("o", dtype, ROUNDS * lanes, writable=True)), (), (body,))


def before_a_wall(values: np.ndarray) -> tuple[np.ndarray, object]:
    """Return a copy that ends where readable memory ends, and what must be kept alive for it."""
    size = -(-values.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    area = mmap.mmap(-1, size + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), mmap.PAGESIZE, 0) == 0
    copy = np.frombuffer(area, values.dtype, values.size, size - values.nbytes)
    copy[:] = values
    return copy, area


def compare(kernel: Kernel, gathers: bool) -> None:
    source, result = kernel.buffers
    x = (np.arange(source.size) % 100 + 1).astype(source.dtype.numpy)
    expected = np.zeros(result.size, result.dtype.numpy)
    emulate(kernel, [x, expected])
    walled, area = before_a_wall(x)
    for target in targets():
        function = Function(kernel, target)
        got = np.zeros_like(expected)
        function(walled, got)
        assert np.array_equal(got, expected), target.name
        assert ("call" in function.text and "masked.gather" in function.text) is gathers, target.name
    del walled, area


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("width, inputs", [(2, 1), (2, 2), (4, 4), (8, 8), (4, 8), (4, 1), (2, 4), (8, 3), (4, 5)])
def test_near_elements_are_read_together(width: int, inputs: int, lanes: int) -> None:
    compare(reads_once_per_group(width, inputs, lanes, float32), gathers=False)


@pytest.mark.parametrize("dtype", [float64, float16, bfloat16, int8, int64, bool_])
def test_elements_of_other_sizes(dtype: DType) -> None:
    for width in (2, 4, 8):
        compare(reads_once_per_group(width, width, 16, dtype), gathers=False)


def test_two_distant_elements_are_broadcast_and_many_gathered() -> None:
    compare(reads_once_per_group(8, 1000, 16, float32), gathers=False)
    compare(reads_once_per_group(4, 1000, 16, float32), gathers=True)


def test_groups_that_vectors_cut_are_gathered() -> None:
    compare(reads_once_per_group(3, 3, 16, float32), gathers=True)
