"""Squares turned by a shared kernel: the result, who calls, and what users are told of it."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.codegen.kernel_builder import used_buffers
from dlc.codegen.llvm.target import host_target
from dlc.codegen.loops.square import SHORTEST_CALLED, turn
from dlc.ir.expr import const
from dlc.ir.kernel import Buffer, Call, Kernel, Transpose, Window
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind
from dlc.ir.types import float32
from dlc.ir.verify_kernel import verify
from tests.codegen.contract_native import Native, aligned


def square(size, rows=None):
    """Return the statement that turns a square of ``x``, rows 20 apart, into ``y``, rows 24 apart."""
    limit = const(rows) if rows is not None else None
    return turn(float32, size, Window("y", const(1)), const(24), Window("x", const(2)), const(20), limit)


@pytest.mark.parametrize("level", ["generic", "avx512"])
@pytest.mark.parametrize("size, rows", [(4, None), (4, 3), (8, None), (8, 5), (16, None), (16, 1)])
def test_squares_are_turned(size, rows, level):
    buffers = (Buffer("x", float32, 16 * 20), Buffer("y", float32, 16 * 24, writable=True))
    kernel = Kernel("turned", buffers, (), (square(size, rows),))
    verify(kernel)
    x = aligned((16, 20), np.float32, np.arange(320).reshape(16, 20))
    flat = x.reshape(-1)
    expected = np.zeros(16 * 24, np.float32)
    for i in range(size):
        source = 2 + min(i, (rows or size) - 1) * 20
        expected[1 + i : 1 + i + 24 * size : 24][:size] = flat[source : source + size]
    emulated = np.zeros(16 * 24, np.float32)
    emulate(kernel, [x, emulated])
    call = KernelCall(kernel, (Operand(OperandKind.INPUT, 0), Operand(OperandKind.OUTPUT, 0)))
    native = Native(Lowered((call,)), host_target(level))([x], aligned((16 * 24,), np.float32))
    assert np.array_equal(emulated, expected)
    assert np.array_equal(native, expected)


def test_large_squares_of_a_size_share_one_kernel():
    one, other, limited = square(SHORTEST_CALLED), square(SHORTEST_CALLED), square(SHORTEST_CALLED, 3)
    assert isinstance(one, Call) and one.kernel is other.kernel and one.kernel is not limited.kernel
    assert isinstance(square(SHORTEST_CALLED // 2), Transpose)


@pytest.mark.parametrize("size", [4, 16])
def test_what_a_square_reads_and_writes_is_known(size):
    assert used_buffers([square(size)]) == ({"x"}, {"y"})
