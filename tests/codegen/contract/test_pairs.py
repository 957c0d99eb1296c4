"""Contractions of bfloat16 operands by pairs: against float64, native, emulated and on targets without the unit."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower.contraction import lower_contraction
from dlc.ir.contraction import group_shape, infer_extents, parse_spec
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.expr import Read, Var, apply, cast, const
from dlc.ir.ops.contract import contract_evaluate
from dlc.ir.types import bfloat16, float32, tensor_type
from dlc.ir.verify_kernel import verify
from tests.codegen.contract.test_contract import SPECS, TARGETS
from tests.codegen.contract_native import Native, aligned, run_emulated, type_of
from tests.codegen.plain_targets import AVX512

HOST = host_target()
PAIRS = replace(AVX512, features=tuple(sorted({*AVX512.features, "avx512bf16"})))
"""Schedules by pairs, whatever this processor has."""
NATIVE = HOST.has("avx512bf16")
MORE = {
    "even conv": ("n h+r w+s c, r s c k -> n h w k", (1, 9, 11, 8), (3, 3, 8, 40), {}),
    "odd depth": ("m k, k n -> m n", (300, 33), (33, 70), {}),
    "even depth": ("m k, k n -> m n", (37, 34), (34, 70), {}),
    "words already": ("m k, n k -> m n", (37, 34), (70, 34), {}),
    "rows in one cache set": ("m k, k n -> m n", (30, 2048), (2048, 130), {}),
    "pixels in one cache set": ("n h+r w c, r c k -> n h w k", (1, 5, 7, 2048), (2, 2048, 130), {}),
    "deep": ("m k, k n -> m n", (40, 3000), (3000, 33), {}),
}


def lowered_halves(spec_text, arrays, sizes, target, threads=1, epilogue=None, constants=()):
    spec = parse_spec(spec_text)
    extents = infer_extents(spec, arrays[0].shape, arrays[1].shape, sizes)
    types = [type_of(a) for a in arrays[:2]]
    epilogue = epilogue or no_epilogue(float32)
    lowered = lower_contraction(spec, extents, *types, epilogue, target, threads, frozenset(constants), float32)
    for call in lowered.calls:
        verify(call.kernel)
    return lowered, group_shape(spec.output, extents)


def uses_pairs(lowered):
    return any("fma_pairs" in repr(call.kernel) for call in lowered.calls)


def check(result, spec, arrays, sizes, rounding=16 * 2.0**-24):
    attributes = {"spec": spec, "sizes": tuple(sizes.items())}
    wide = [a.astype(np.float64) for a in arrays[:2]]
    error = np.abs(result.astype(np.float64) - contract_evaluate(attributes, *wide))
    bound = contract_evaluate(attributes, *(np.abs(a) for a in wide)) + 1e-30
    assert np.isfinite(result.astype(np.float64)).all() and (error / bound).max(initial=0) < rounding


def halves(rng, *shapes):
    return [aligned(shape, ml_dtypes.bfloat16, rng.standard_normal(shape)) for shape in shapes]


@pytest.mark.parametrize("name", [*SPECS, *MORE])
def test_products_of_halves_are_added_in_float32(name):
    spec, lhs, rhs, sizes = {**SPECS, **MORE}[name]
    arrays = halves(np.random.default_rng(3), lhs, rhs)
    for target in (HOST, TARGETS["avx2"], TARGETS["generic"]):
        for constants, threads in (((), 4), ((0, 1), 1), ((1,), 2)):
            lowered, shape = lowered_halves(spec, arrays, sizes, target, threads, constants=constants)
            assert target is HOST or not uses_pairs(lowered)
            out = Native(lowered, target, threads)(arrays, aligned(shape, np.float32, np.nan))
            check(out, spec, arrays, sizes)


SMALL = ["matmul", "transposed rhs", "conv", "conv strided", "context", "even conv", "words already", "conv oihw"]


@pytest.mark.parametrize("name", SMALL)
def test_the_emulator_defines_pairs(name):
    spec, lhs, rhs, sizes = {**SPECS, **MORE}[name]
    arrays = halves(np.random.default_rng(4), lhs, rhs)
    for constants in ((), (1,)):
        lowered, shape = lowered_halves(spec, arrays, sizes, PAIRS, constants=constants)
        assert uses_pairs(lowered)
        check(run_emulated(lowered, arrays, aligned(shape, np.float32, np.nan)), spec, arrays, sizes)
        for target in (TARGETS["avx2"], TARGETS["generic"], HOST):
            if target.vector_bytes == PAIRS.vector_bytes or target is not HOST:
                out = Native(lowered, target)(arrays, aligned(shape, np.float32, np.nan))
                check(out, spec, arrays, sizes)


@pytest.mark.parametrize("name", ["even depth", "odd depth", "words already", "even conv"])
def test_weights_and_rows_go_by_pairs(name):
    spec, lhs, rhs, sizes = MORE[name]
    lowered, _ = lowered_halves(spec, halves(np.random.default_rng(5), lhs, rhs), sizes, PAIRS, constants=(1,))
    assert uses_pairs(lowered)


def test_tiles_are_smaller_where_rows_share_a_cache_set():
    spec, lhs, rhs, sizes = MORE["rows in one cache set"]
    lowered, _ = lowered_halves(spec, halves(np.random.default_rng(5), lhs, rhs), sizes, PAIRS, constants=(1,))
    assert "6x2x16" in repr(lowered.calls[-1].kernel) and "14x2x16" not in repr(lowered.calls[-1].kernel)


def test_what_has_no_neighbours_in_rows_is_widened():
    spec, lhs, rhs, sizes = SPECS["transposed lhs"]
    lowered, _ = lowered_halves(spec, halves(np.random.default_rng(5), lhs, rhs), sizes, PAIRS)
    assert not uses_pairs(lowered) and len(lowered.temporaries) >= 2


@pytest.mark.parametrize("out", [float32, bfloat16], ids=str)
@pytest.mark.parametrize("read", [float32, bfloat16], ids=str)
def test_epilogues_read_and_store_halves(out, read):
    rng = np.random.default_rng(6)
    m, k, n = 45, 34, 70
    arrays = halves(rng, (m, k), (k, n))
    arrays.append(aligned((m, n), read.numpy, rng.standard_normal((m, n))))
    other = cast(Read(0, (Var("m"), Var("n")), read), float32)
    body = cast(apply("maximum", apply("add", Var("acc", float32), other), const(0.0, float32)), out)
    epilogue = Epilogue(body, out, (tensor_type(read.numpy, (m, n)),))
    for constants in ((), (1,)):
        lowered, shape = lowered_halves("m k, k n -> m n", arrays, {}, PAIRS, 2, epilogue, constants)
        wide = [a.astype(np.float64) for a in arrays]
        wanted = np.maximum(wide[0] @ wide[1] + wide[2], 0)
        results = [run_emulated(lowered, arrays, aligned(shape, out.numpy))]
        results.append(Native(lowered, HOST if NATIVE else TARGETS["generic"], 2)(arrays, aligned(shape, out.numpy)))
        for result in results:
            atol = 1e-4 if out is float32 else 0.1
            np.testing.assert_allclose(result.astype(np.float64), wanted, atol=atol, rtol=2.0**-8)


def test_infinities_and_nan_pass_through():
    arrays = halves(np.random.default_rng(7), (20, 33), (33, 40))
    arrays[0][3, 32], arrays[0][5, 0], arrays[0][7, 1] = np.inf, np.nan, -np.inf
    for target in (HOST, TARGETS["avx2"]):
        lowered, shape = lowered_halves("m k, k n -> m n", arrays, {}, target, constants=(1,))
        out = Native(lowered, target)(arrays, aligned(shape, np.float32))
        assert np.isinf(out[3]).all() and np.isnan(out[5]).all() and np.isinf(out[7]).all()
        assert np.isfinite(np.delete(out, (3, 5, 7), axis=0)).all()


def test_equal_runs_give_equal_bits():
    arrays = halves(np.random.default_rng(8), (65, 130), (130, 90))
    for threads in (1, 2):
        lowered, shape = lowered_halves("m k, k n -> m n", arrays, {}, HOST, threads, constants=(1,))
        native = Native(lowered, HOST, threads)
        first = native(arrays, aligned(shape, np.float32)).tobytes()
        assert all(native(arrays, aligned(shape, np.float32)).tobytes() == first for _ in range(3))
