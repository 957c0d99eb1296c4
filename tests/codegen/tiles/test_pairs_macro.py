"""Contractions of bfloat16 operands on AMX: emulated anywhere, native where the processor has it, and their choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.llvm.emit import emit_module
from dlc.codegen.llvm.jit import compile_module
from dlc.ir.epilogue import Epilogue
from dlc.ir.expr import Read, Var, apply, cast, const
from dlc.ir.ops.contract import contract_evaluate
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import bfloat16, float32, tensor_type
from tests.codegen.contract.test_pairs import check, halves, lowered_halves
from tests.codegen.contract_native import Native, aligned, run_emulated
from tests.codegen.plain_targets import AMX, TILES, needs_tiles

TARGET = replace(AMX, features=tuple(sorted((*AMX.features, "avx512bf16"))))
MATMUL = "m k, k n -> m n"
SPECS = {
    "ragged": (MATMUL, (37, 96), (96, 70), {}),
    "whole blocks": (MATMUL, (64, 128), (128, 64), {}),
    "words already": ("m k, n k -> m n", (50, 96), (75, 96), {}),
    "conv": ("n h+r w+s c, r s c k -> n h w k", (1, 7, 9, 64), (3, 3, 64, 40), {}),
    "heads": ("b m h d, b n h d -> b h m n", (2, 34, 2, 64), (2, 40, 2, 64), {}),
    "several groups": (MATMUL, (300, 64), (64, 33), {}),
    "run of no whole tiles": (MATMUL, (40, 40), (40, 50), {}),
    "odd runs": ("n h*2+r w*2+s c, r s c k -> n h w k", (1, 23, 23, 3), (7, 7, 3, 40), {}),
    "runs of several axes": ("n h+r w+s c, k r s c -> n h w k", (1, 8, 9, 12), (40, 3, 3, 12), {}),
    "few columns": (MATMUL, (40, 64), (64, 12), {}),
    "lines of several images": ("n h+r w+s c, r s c k -> n h w k", (3, 6, 6, 32), (3, 3, 32, 40), {}),
    "short last chunk": (MATMUL, (33, 64), (64, 40), {}),
    "short lines": ("h+r w+s c, r s c k -> h w k", (9, 7, 32), (3, 3, 32, 600), {}),
    "rows of two axes": ("a b d, d n -> b a n", (5, 20, 64), (64, 48), {}),
}


def uses_tiles(lowered):
    return any("tile_multiply" in print_kernel(call.kernel) for call in lowered.calls)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_tiles_multiply_halves_in_the_emulator(name, small):
    spec, lhs, rhs, sizes = SPECS[name]
    target = replace(TARGET, l2_bytes=32 << 10) if small else TARGET
    arrays = halves(np.random.default_rng(0), lhs, rhs)
    for constants, threads in (((1,), 1), ((), 2)):
        lowered, shape = lowered_halves(spec, arrays, sizes, target, threads, constants=constants)
        assert uses_tiles(lowered)
        check(run_emulated(lowered, arrays, aligned(shape, np.float32, np.nan)), spec, arrays, sizes)


@needs_tiles
@pytest.mark.parametrize("name", SPECS)
def test_tiles_multiply_halves_natively(name):
    spec, lhs, rhs, sizes = SPECS[name]
    arrays = halves(np.random.default_rng(1), lhs, rhs)
    for constants, threads in (((1,), 1), ((), 2)):
        lowered, shape = lowered_halves(spec, arrays, sizes, TILES, threads, constants=constants)
        assert uses_tiles(lowered)
        check(Native(lowered, TILES, threads)(arrays, aligned(shape, np.float32, np.nan)), spec, arrays, sizes)


def test_tiles_become_machine_code():
    spec, lhs, rhs, sizes = SPECS["conv"]
    lowered, _ = lowered_halves(spec, halves(np.random.default_rng(2), lhs, rhs), sizes, TARGET, constants=(1,))
    module = emit_module(tuple({call.kernel: None for call in lowered.calls}), TARGET)
    assert compile_module(module.text, TARGET)


def test_epilogues_store_halves():
    arrays = halves(np.random.default_rng(3), (40, 64), (64, 50))
    arrays.append(aligned((40, 50), bfloat16.numpy, np.random.default_rng(4).standard_normal((40, 50))))
    other = cast(Read(0, (Var("m"), Var("n")), bfloat16), float32)
    body = cast(apply("maximum", apply("add", Var("acc", float32), other), const(0.0, float32)), bfloat16)
    epilogue = Epilogue(body, bfloat16, (tensor_type(bfloat16.numpy, (40, 50)),))
    lowered, shape = lowered_halves(MATMUL, arrays, {}, TARGET, 1, epilogue, (1,))
    assert uses_tiles(lowered)
    wide = [a.astype(np.float64) for a in arrays]
    found = run_emulated(lowered, arrays, aligned(shape, bfloat16.numpy)).astype(np.float64)
    np.testing.assert_allclose(found, np.maximum(wide[0] @ wide[1] + wide[2], 0), atol=0.1, rtol=2.0**-8)


@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [((40, 2), (2, 50)), ((4, 64), (64, 50))],
    ids=["short depth", "few rows"],
)
def test_what_does_not_fill_tiles_goes_by_vectors(lhs, rhs):
    arrays = halves(np.random.default_rng(5), lhs, rhs)
    lowered, _ = lowered_halves(MATMUL, arrays, {}, TARGET, constants=(1,))
    assert not uses_tiles(lowered) and "fma_pairs" in print_kernel(lowered.calls[-1].kernel)


@pytest.mark.parametrize("name", ["odd runs", "lines of several images", "short lines"])
def test_infinity_reaches_only_the_windows_that_hold_it(name):
    spec, lhs, rhs, sizes = SPECS[name]
    arrays = halves(np.random.default_rng(6), lhs, rhs)
    arrays[0].reshape(-1, lhs[-1])[lhs[-2] + 2, 1] = np.inf
    lowered, shape = lowered_halves(spec, arrays, sizes, TARGET, constants=(1,))
    found = run_emulated(lowered, arrays, aligned(shape, np.float32, np.nan))
    attributes = {"spec": spec, "sizes": tuple(sizes.items())}
    expected = contract_evaluate(attributes, *(a.astype(np.float64) for a in arrays))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
