"""The statement that transposes a square: machine code, emulator and verifier."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.codegen.llvm.target import host_target
from dlc.errors import VerificationError
from dlc.ir.expr import Var, apply, const
from dlc.ir.kernel import Buffer, Call, For, Kernel, LoopKind, Transpose, Window
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind
from dlc.ir.types import as_dtype
from dlc.ir.verify_kernel import verify
from tests.codegen.contract_native import Native, aligned


def _kernel(dtype, size, source="x", target="y"):
    i = Var("i")
    to, rows = apply("mul", i, const(size)), apply("mul", i, const(size * size))
    square = Transpose(Window(target, to), const(2 * size), Window(source, rows), const(size), size)
    buffers = (Buffer("x", dtype, 2 * size * size), Buffer("y", dtype, 2 * size * size, writable=True))
    return Kernel("squares", buffers, (), (For(i, const(2), LoopKind.SERIAL, (square,)),))


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "float16", "bool"])
@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_squares_are_transposed(size, dtype, level):
    kernel = _kernel(as_dtype(dtype), size)
    verify(kernel)
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2 if dtype == "bool" else 200, (2, size, size))
    x = aligned((2, size, size), as_dtype(dtype).numpy, values)
    expected = x.transpose(2, 0, 1)
    emulated = np.zeros((size, 2, size), x.dtype)
    emulate(kernel, [x, emulated])
    call = KernelCall(kernel, (Operand(OperandKind.INPUT, 0), Operand(OperandKind.OUTPUT, 0)))
    native = Native(Lowered((call,)), host_target(level))([x], aligned((size, 2, size), x.dtype))
    assert np.array_equal(emulated, expected)
    assert np.array_equal(native, expected)


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("rows", [1, 5, 8, 11])
def test_the_last_row_stands_for_missing_ones(rows, level):
    size, dtype = 8, as_dtype("float32")
    square = Transpose(Window("y", const(0)), const(size), Window("x", const(0)), const(size), size, Var("rows"))
    inner = Kernel(
        "square", (Buffer("x", dtype, None), Buffer("y", dtype, None, writable=True)), (Var("rows"),), (square,)
    )
    buffers = (Buffer("x", dtype, min(rows, size) * size), Buffer("y", dtype, size * size, writable=True))
    call = Call(inner, (Window("x", const(0)), Window("y", const(0))), (const(rows),))
    kernel = Kernel("squares", buffers, (), (call,))
    verify(kernel)
    x = aligned((min(rows, size), size), np.float32, np.random.default_rng(4).standard_normal((min(rows, size), size)))
    expected = x[np.minimum(np.arange(size), len(x) - 1)].T
    emulated = np.zeros((size, size), np.float32)
    emulate(kernel, [x, emulated])
    lowered = Lowered((KernelCall(kernel, (Operand(OperandKind.INPUT, 0), Operand(OperandKind.OUTPUT, 0))),))
    native = Native(lowered, host_target(level))([x], aligned((size, size), np.float32))
    assert np.array_equal(emulated, expected)
    assert np.array_equal(native, expected)


def test_a_square_is_not_transposed_onto_itself_nor_of_odd_size():
    with pytest.raises(VerificationError, match="cannot be transposed"):
        verify(_kernel(as_dtype("float32"), 4, source="y"))
    with pytest.raises(VerificationError, match="power of two"):
        verify(_kernel(as_dtype("float32"), 3))
