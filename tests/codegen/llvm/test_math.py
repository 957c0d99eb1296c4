"""Vector math against float64 (or extended) references, in ULP of the result, on every instruction set."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlc.codegen.llvm.target import host_target
from dlc.ir.expr import Load, apply, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.types import DType, float32, float64
from tests.codegen.kernel_native import Function, index, targets, variables

COUNT = 1 << 14
LIMIT = 4.0
NAMES = [
    *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"),
    *("asinh", "acosh", "atanh", "erf", "sigmoid", "pow", "rsqrt", "sqrt"),
]
SPECIAL = [
    *(0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, 1e-45, -1e-45, 1.17549435e-38),
    *(3.4e38, -3.4e38, 88.7, 88.73, -87.3, -103.9, -104.1, 89.4, 89.5, 9.01, 0.9999999, 1.0000001, -0.9999999),
    *(1e-20, 1e-5, 1e5, 1e10, 1e20, math.pi, math.pi / 2, 16777216.0, 16777215.0, 8388607.5, 4194305.0, 2.5, -3.0),
    *(709.7, -745.2, 710.5, 1e-300, 5e-324, 1.7e308, -1e300),
]
_erf = np.frompyfunc(math.erf, 1, 1)


def kernel_of(name: str, dtype: DType, lanes: int) -> Kernel:
    i, l = variables("i l")
    at = index((i, lanes), l) if lanes else i
    arity = SCALAR_OPS[name].arity
    body = Store("o", at, apply(name, *(Load(f"x{n}", at, dtype) for n in range(arity))))
    inner = For(l, const(lanes), LoopKind.VECTOR, (body,)) if lanes else body
    buffers = (*(Buffer(f"x{n}", dtype, COUNT) for n in range(arity)), Buffer("o", dtype, COUNT, writable=True))
    return Kernel(name, buffers, (), (For(i, const(COUNT // max(1, lanes)), LoopKind.SERIAL, (inner,)),))


SMALLEST_SIGMOID = 1.175497e-38
"""Below the smallest normal float32, and a bit above, sigmoid is zero: subnormal numbers are slow."""


def arguments(name: str, dtype: DType) -> list[np.ndarray]:
    """Random bit patterns, moderate values and special values, these at every lane position."""
    rng = np.random.default_rng(sum(map(ord, name)) + dtype.bits)
    kind = dtype.numpy
    word = np.uint32 if dtype is float32 else np.uint64
    x = rng.integers(0, np.iinfo(word).max, COUNT, dtype=word, endpoint=True).view(kind).copy()
    quarter = COUNT // 4
    x[quarter : 2 * quarter] = rng.standard_normal(quarter) * np.exp(rng.uniform(-20, 6, quarter))
    x[2 * quarter : 3 * quarter] = rng.uniform(-1, 1, quarter)
    x[3 * quarter :] = rng.uniform(-110, 110, quarter) if dtype is float32 else rng.uniform(-750, 750, quarter)
    if name in ("log", "acosh"):
        x[: quarter // 2] = 1 + np.abs(rng.standard_normal(quarter // 2) * np.exp(rng.uniform(-15, 1, quarter // 2)))
    with np.errstate(over="ignore"):
        special = np.array(SPECIAL).astype(kind)
    if SCALAR_OPS[name].arity == 1:
        repeated = np.resize(special, 17 * len(special))  # 17: every special value meets every lane
        x[: len(repeated)] = repeated
        return [x]
    y = rng.permutation(x)
    y[quarter : 2 * quarter] = rng.uniform(-20, 20, quarter)
    x[quarter : 2 * quarter] = np.abs(x[quarter : 2 * quarter])
    left, right = np.meshgrid(special, special)
    x[: left.size], y[: left.size] = left.ravel(), right.ravel()
    return [x, y]


def reference(name: str, args: list[np.ndarray]) -> np.ndarray:
    """The function in a wider type."""
    wide = [a.astype(np.float64 if a.dtype == np.float32 else np.longdouble) for a in args]
    x = wide[0]
    if name == "erf":
        return _erf(args[0].astype(np.float64)).astype(x.dtype)
    if name == "sigmoid":
        e = np.exp(-np.abs(x))
        result = np.where(x < 0, e, 1) / (1 + e)
        return np.where(result < SMALLEST_SIGMOID, 0, result) if args[0].dtype == np.float32 else result
    if name == "rsqrt":
        return 1 / np.sqrt(x)
    return SCALAR_OPS[name].evaluate(*wide)


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_error_in_ulp(name: str, dtype: DType) -> None:
    args = arguments(name, dtype)
    with np.errstate(all="ignore"):
        exact = reference(name, args)
        rounded = exact.astype(dtype.numpy)
    finite = np.isfinite(rounded)
    spacing = np.spacing(np.abs(np.where(finite, rounded, 1)))
    for target in targets():
        for lanes in (target.lanes(dtype.itemsize), 0):
            out = np.zeros(COUNT, dtype.numpy)
            Function(kernel_of(name, dtype, lanes), target)(*args, out)
            both = finite & np.isfinite(out)
            error = np.where(both, np.abs(np.where(both, out, 0) - np.where(both, exact, 0)) / spacing, 0)
            worst = int(error.argmax())
            where = f"{target.name}, {lanes} lanes"
            assert error[worst] <= LIMIT, f"{where}: {error[worst]} ULP at {[float(a[worst]) for a in args]}"
            # Values that are not finite agree, but for a finite result half a unit below overflow.
            special = ~(finite & np.isfinite(out))
            agree = (np.isnan(out) & np.isnan(rounded)) | (out == rounded)
            wrong = np.nonzero(special & ~agree)[0][:3]
            assert not wrong.size, f"{where}: {[([float(a[w]) for a in args], out[w], rounded[w]) for w in wrong]}"


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize(
    "name", ["sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "erf", "expm1", "log1p"]
)
def test_odd_functions_keep_the_sign_of_zero(name: str, dtype: DType) -> None:
    x = np.full(COUNT, -0.0, dtype.numpy)
    x[1::2] = 0.0
    for target in targets():
        out = np.ones(COUNT, dtype.numpy)
        Function(kernel_of(name, dtype, target.lanes(dtype.itemsize)), target)(x, out)
        assert np.array_equal(np.signbit(out), np.signbit(x)), target.name
        assert not out.any()


@pytest.mark.parametrize("level", ["avx2", "avx512", "generic"])
@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_quotients_by_literals_are_exact(dtype: DType, level: str) -> None:
    """The products that replace a division round as it does, but for tiny numbers, of which the last bit may differ."""
    target = host_target(level)
    lanes = target.lanes(dtype.itemsize)
    (x,) = arguments("exp", dtype)
    i, l = variables("i l")
    at = index((i, lanes), l)
    rng = np.random.default_rng(3)
    factors = [1.4142135, 3.0, -7.25, 768.0, 1.9999999, 2.0, 0.3, float("inf"), *rng.uniform(1, 1e6, 6)]
    for factor in (float(dtype.numpy.type(f)) for f in factors):
        store = Store("o", at, apply("div", Load("x0", at, dtype), const(factor, dtype)))
        inner = For(l, const(lanes), LoopKind.VECTOR, (store,))
        buffers = (Buffer("x0", dtype, COUNT), Buffer("o", dtype, COUNT, writable=True))
        kernel = Kernel("by", buffers, (), (For(i, const(COUNT // lanes), LoopKind.SERIAL, (inner,)),))
        out = np.empty_like(x)
        Function(kernel, target)(x, out)
        with np.errstate(all="ignore"):
            wanted = x / dtype.numpy.type(factor)
        limits = np.finfo(x.dtype)
        tiny = np.abs(wanted) < 2 * limits.tiny / limits.eps
        np.testing.assert_array_equal(out[~tiny], wanted[~tiny])
        np.testing.assert_allclose(out[tiny], wanted[tiny], rtol=limits.eps, atol=limits.smallest_subnormal)


def test_tanh_is_odd_and_never_beyond_one() -> None:
    x = np.sort(np.abs(arguments("tanh", float32)[0]))
    x = x[np.isfinite(x)]
    x = np.resize(x, COUNT)
    for target in targets():
        for lanes in (target.lanes(4), 0):
            function, sides = Function(kernel_of("tanh", float32, lanes), target), []
            for values in (x, -x):
                out = np.zeros(COUNT, np.float32)
                function(values, out)
                sides.append(out)
            assert np.array_equal(sides[0], -sides[1]) and sides[0].max() <= 1
