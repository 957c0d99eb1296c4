"""Casts in native code against ``cast_array``: every 16-bit float, limits of every integer, both widths."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from dlc.codegen.llvm.target import host_target
from dlc.ir import types
from dlc.ir.expr import Load, apply, cast, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.scalar import cast_array
from dlc.ir.types import DType, bfloat16, float16, float32, float64
from tests.codegen.kernel_native import Function, index, same, targets, variables

HALVES = [float16, bfloat16]
FLOATS = [float16, bfloat16, float32, float64]
INTEGERS = [types.int8, types.int16, types.int32, types.int64, types.uint8, types.uint16, types.uint32, types.uint64]


def converter(source: DType, result: DType, size: int, lanes: int) -> Kernel:
    i, l = variables("i l")
    at = index((i, lanes), l) if lanes else i
    body = Store("o", at, cast(Load("x", at, source), result))
    inner = For(l, const(lanes), LoopKind.VECTOR, (body,)) if lanes else body
    loop = For(i, const(size // max(1, lanes)), LoopKind.SERIAL, (inner,))
    return Kernel("convert", (Buffer("x", source, size), Buffer("o", result, size, writable=True)), (), (loop,))


def check(x: np.ndarray, source: DType, result: DType, expected: np.ndarray | None = None) -> None:
    if expected is None:
        with np.errstate(all="ignore"):
            expected = cast_array(x, result.numpy)
    for target in targets():
        for lanes in (16, 0):
            out = np.zeros(x.size, result.numpy)
            Function(converter(source, result, x.size, lanes), target)(x, out)
            if not same(out, expected):
                wrong = np.nonzero(~((out == expected) | (np.isnan(out) & np.isnan(expected))))[0][:5]
                detail = [(x[w], out[w], expected[w]) for w in wrong]
                raise AssertionError(f"{source} to {result}, {target.name}, {lanes} lanes: {detail}")


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_every_half_widens_exactly(half: DType) -> None:
    x = np.arange(65536, dtype=np.uint16).view(half.numpy)
    check(x, half, float32, x.astype(np.float32))
    out = np.zeros(65536, half.numpy)
    for target in targets():
        Function(converter(half, half, 65536, 16), target)(x, out)
        assert same(out, x)


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_halves_round_to_nearest_even(half: DType) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 1 << 15, dtype=np.uint32)
    near = np.arange(65536, dtype=np.uint16).view(half.numpy).astype(np.float32)
    with np.errstate(all="ignore"):
        middle = np.sort(near[np.isfinite(near)])
        middle = ((middle[1:].astype(np.float64) + middle[:-1]) / 2).astype(np.float32)  # exact ties
        around = np.nextafter(middle[: len(middle) // 2], np.float32(np.inf))
    x = np.concatenate([bits.view(np.float32), middle, around])
    x = x[: len(x) // 16 * 16].copy()
    with np.errstate(all="ignore"):
        check(x, float32, half, x.astype(half.numpy))


@pytest.mark.parametrize(("source", "result"), list(itertools.product(FLOATS, INTEGERS)), ids=str)
def test_floats_saturate(source: DType, result: DType) -> None:
    limits = [
        b + d
        for i in INTEGERS
        for b in (ml_dtypes.iinfo(i.numpy).min, ml_dtypes.iinfo(i.numpy).max)
        for d in (-1, 0, 1)
    ]
    fractions = [0.5, -0.5, 1.5, -1.5, 0.999, 127.5, 255.9, -128.9, 2147483647.5, 0.0, -0.0, 1e30, -1e30]
    special = [float("inf"), float("-inf"), float("nan")]
    values = np.array([float(v) for v in limits] + fractions + special, np.float64)
    values = np.concatenate([values, np.random.default_rng(1).standard_normal(200) * 1e3])
    with np.errstate(all="ignore"):
        x = np.resize(values.astype(source.numpy), 304)
    check(x, source, result)


@pytest.mark.parametrize("source", [types.bool_, *INTEGERS], ids=str)
def test_integers_convert_to_everything(source: DType) -> None:
    rng = np.random.default_rng(2)
    if source is types.bool_:
        x = rng.integers(0, 2, 64).astype(bool)
    else:
        info = ml_dtypes.iinfo(source.numpy)
        x = rng.integers(info.min, info.max, 64, dtype=source.numpy, endpoint=True)
        x[:4] = [info.min, info.max, 0, 1]
    for result in (types.bool_, *INTEGERS, float32, float64):
        check(x, source, result)


def test_rounding_without_subnormal_numbers() -> None:
    """An instruction may do it where one flushes subnormal numbers by itself: the result is the same everywhere."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, 1 << 14, dtype=np.uint32).view(np.float32).copy()
    x[::3] *= np.float32(1e-38)
    i, l = variables("i l")
    at = index((i, 16), l)
    value = cast(apply("flush_subnormal", Load("x", at, float32)), bfloat16)
    inner = For(l, const(16), LoopKind.VECTOR, (Store("o", at, value),))
    loop = For(i, const(x.size // 16), LoopKind.SERIAL, (inner,))
    buffers = (Buffer("x", float32, x.size), Buffer("o", bfloat16, x.size, writable=True))
    kernel = Kernel("convert", buffers, (), (loop,))
    with np.errstate(all="ignore"):
        wanted = np.where(np.abs(x) < np.float32(2.0**-126), x * 0, x).astype(bfloat16.numpy)
    for target in (*targets(), host_target()):
        out = np.zeros(x.size, bfloat16.numpy)
        Function(kernel, target)(x, out)
        assert same(out, wanted)
