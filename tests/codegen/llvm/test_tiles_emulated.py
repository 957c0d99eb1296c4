"""Tile instructions done by vector code: the same bits as their definition, as the processor's where it has them."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.codegen.llvm.target import host_target
from dlc.ir.expr import const
from dlc.ir.kernel import (
    Buffer,
    Call,
    Kernel,
    TileConfigure,
    TileLoad,
    TileMultiply,
    TileRelease,
    TileStore,
    TileZero,
    Window,
)
from dlc.ir.types import bfloat16, float32, int8, int32, uint32
from dlc.ir.verify_kernel import verify
from tests.codegen.kernel_native import Function
from tests.codegen.plain_targets import HOST

pytestmark = pytest.mark.skipif(not HOST.has_masks, reason="tiles are emulated with AVX-512")
HELD = {int8: (uint32, int32), bfloat16: (bfloat16, float32)}
"""What is multiplied -> what buffers hold: operands (bytes as words), results."""


def product(dtype) -> Kernel:
    """Add the product of two tiles, made by a kernel that is called, to what the result holds."""
    operand, result = HELD[dtype]
    width, size = 64 // operand.itemsize, 1024 // operand.itemsize
    left, right = Buffer("left", operand, size), Buffer("right", operand, size)
    out = Buffer("out", result, 256, writable=True)
    inner = Kernel(
        "inner",
        (left, right),
        (),
        (
            TileLoad(6, "left", const(0), const(width)),
            TileLoad(7, "right", const(0), const(width)),
            TileMultiply(0, 6, 7, dtype),
        ),
    )
    body = (
        TileConfigure(),
        TileZero(1),
        TileLoad(0, "out", const(0), const(16)),
        Call(inner, (Window("left", const(0)), Window("right", const(0))), ()),
        TileStore(0, "out", const(0), const(16)),
        TileRelease(),
    )
    kernel = Kernel("product", (left, right, out), (), body)
    verify(kernel)
    return kernel


def halves(rng, count) -> np.ndarray:
    """Numbers of all sizes, infinities, NaN, zeros and subnormals among them."""
    x = rng.standard_normal(count) * 2.0 ** rng.integers(-70, 60, count)
    x[rng.random(count) < 0.1] = 0
    x[rng.integers(0, count, 3)] = 1e-39
    if rng.random() < 0.3:
        x[rng.integers(0, count, 2)] = [np.inf, np.nan]
    return x.astype(bfloat16.numpy)


@pytest.mark.parametrize("dtype", [int8, bfloat16], ids=str)
def test_products_have_the_bits_of_the_definition(dtype) -> None:
    kernel, rng = product(dtype), np.random.default_rng(4)
    targets = [host_target("amx-emulated"), *([HOST] if HOST.has("amx-int8") else [])]
    functions = [Function(kernel, target) for target in targets]
    for _ in range(20):
        if dtype is int8:
            operands = [rng.integers(-128, 128, 1024).astype(np.int8).view(np.uint32) for _ in range(2)]
            start = rng.integers(-(2**30), 2**30, 256).astype(np.int32)
        else:
            operands = [halves(rng, 512) for _ in range(2)]
            start = halves(rng, 256).astype(np.float32)
        expected = start.copy()
        with np.errstate(all="ignore"):
            emulate(kernel, [*operands, expected])
        for function in functions:
            found = start.copy()
            function(*operands, found)
            np.testing.assert_array_equal(found, expected)
