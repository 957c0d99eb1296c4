"""The emulator: exact dtypes, checked indices, lazy selects, called kernels."""

from __future__ import annotations

import traceback

import ml_dtypes
import numpy as np
import pytest

from dlc.codegen.emulate import emulate, fma
from dlc.errors import VerificationError
from dlc.ir import types
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select
from dlc.ir.kernel import Alloc, Buffer, For, Kernel, LoopKind, Space, Store
from dlc.ir.types import DType, float16, float32, float64, int8, int64

I = Var("i")


def pointwise(value: Expr, source: DType, result: DType, size: int) -> Kernel:
    buffers = (Buffer("x", source, size), Buffer("o", result, size, writable=True))
    return Kernel("pointwise", buffers, (), (For(I, const(size), LoopKind.SERIAL, (Store("o", I, value),)),))


def run(value: Expr, x: np.ndarray, source: DType, result: DType) -> np.ndarray:
    out = np.zeros(x.size, result.numpy)
    emulate(pointwise(value, source, result, x.size), [x, out])
    return out


def test_float32_arithmetic_stays_float32() -> None:
    x = np.array([1.0, 3.0, 16777216.0], np.float32)
    value = apply("add", apply("div", Load("x", I, float32), const(3.0, float32)), const(1.0, float32))
    expected = x / np.float32(3) + np.float32(1)
    assert expected.dtype == np.float32
    assert np.array_equal(run(value, x, float32, float32), expected)


def test_integers_wrap() -> None:
    x = np.array([100, -128, 127], np.int8)
    value = apply("add", Load("x", I, int8), const(100, int8))
    assert run(value, x, int8, int8).tolist() == [-56, -28, -29]
    assert run(apply("floor_div", Load("x", I, int8), const(0, int8)), x, int8, int8).tolist() == [0, 0, 0]


def test_half_precision_rounds_where_it_is_stored() -> None:
    x = np.array([2048.0], np.float16)
    load = Load("x", I, float16)
    one = const(1.0, float16)
    twice = apply("add", apply("add", load, one), one)
    assert run(twice, x, float16, float16)[0] == 2050.0  # rounding after each addition would give 2048
    rounded = cast(cast(apply("add", load, one), float64), float16)
    assert run(cast(rounded, float32), x, float16, float32)[0] == 2048.0
    y = np.array([1.0], ml_dtypes.bfloat16)
    assert run(Load("x", I, types.bfloat16), y, types.bfloat16, types.bfloat16)[0] == 1.0


@pytest.mark.parametrize("shift", [-1, 4])
def test_indices_are_checked(shift: int) -> None:
    x = np.zeros(4, np.float32)
    value = Load("x", apply("add", I, const(shift)), float32)
    with pytest.raises(VerificationError, match=f"index {shift} is outside x, which has 4 elements") as caught:
        run(value, x, float32, float32)
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert any("o[i] = x[" in (line or "") for line in lines), "the kernel's own line is in the traceback"


def test_select_reads_only_what_it_takes() -> None:
    x = np.arange(4, dtype=np.float32)
    shifted = apply("sub", I, const(2))
    value = select(apply("less_equal", const(0), shifted), Load("x", shifted, float32), const(-1.0, float32))
    assert run(value, x, float32, float32).tolist() == [-1, -1, 0, 1]


def test_local_arrays_start_without_values() -> None:
    alloc = Alloc(Buffer("t", float32, 2, Space.LOCAL, True))
    kernel = Kernel(
        "fresh",
        (Buffer("o", float32, 1, writable=True),),
        (),
        (alloc, Store("o", const(0), Load("t", const(1), float32))),
    )
    out = np.zeros(1, np.float32)
    emulate(kernel, [out])
    assert np.isnan(out[0])


def test_arrays_must_fit() -> None:
    kernel = pointwise(Load("x", I, float32), float32, float32, 4)
    with pytest.raises(VerificationError, match="wants 2 arrays"):
        emulate(kernel, [np.zeros(4, np.float32)])
    with pytest.raises(VerificationError, match="x wants contiguous float32, not float64"):
        emulate(kernel, [np.zeros(4), np.zeros(4, np.float32)])
    with pytest.raises(VerificationError, match="x has 4 elements, not 5"):
        emulate(kernel, [np.zeros(5, np.float32), np.zeros(4, np.float32)])


def test_fma_rounds_once() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2000)).astype(np.float32)
    c = (-(a.astype(np.float64) * b) * (1 + rng.choice([-1, 0, 1], 2000) * 2.0**-25)).astype(np.float32)
    exact = a.astype(np.longdouble) * b + c  # 48 bits and 24 bits: exact enough in 64 to round once here
    got = np.array([fma(*row) for row in zip(a, b, c, strict=True)])
    assert np.array_equal(got, exact.astype(np.float32))
    big = fma(np.float64(1e308), np.float64(10.0), np.float64(-np.inf))
    assert big == -np.inf
    assert fma(np.float64(1.0) + 2.0**-52, np.float64(1.0) - 2.0**-52, np.float64(-1.0)) == -(2.0**-104)


def test_index_arithmetic_is_int64() -> None:
    x = np.array([2**62, -(2**63), 5], np.int64)
    value = apply("add", Load("x", I, int64), Load("x", I, int64))
    assert run(value, x, int64, int64).tolist() == [-(2**63), 0, 10]
