"""Float32 contractions on AMX: accuracy, awkward operands, emulation, and the choice of the path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contract_native import Native, aligned, run_emulated, type_of

from dlc.codegen import contract_schedule
from dlc.codegen.amx_blocking import fits_amx
from dlc.codegen.contract_schedule import lower_contraction
from dlc.codegen.llvm_target import host_target
from dlc.codegen.target import CpuTarget
from dlc.ir.contraction import group_shape, infer_extents, parse_spec
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.expr import Read, Var, apply, const
from dlc.ir.kernel import TileMultiply, statements
from dlc.ir.lowering import Lowered
from dlc.ir.ops.contract import contract_evaluate
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import float32, tensor_type
from dlc.ir.verify_kernel import verify

HOST = host_target()
FMA = host_target("avx512")
needs_amx = pytest.mark.skipif(not HOST.has("amx-bf16"), reason="this processor has no AMX")

AMX = CpuTarget(
    name="x86-64 amx",
    triple="x86_64-unknown-linux-gnu",
    cpu="x86-64",
    features=("amx-bf16", "amx-tile", "avx512bw", "avx512dq", "avx512f", "avx512vl"),
    vector_bytes=64,
    vector_registers=32,
    has_fma=True,
    has_masks=True,
    l1_bytes=48 << 10,
    l2_bytes=2 << 20,
    l3_bytes=8 << 20,
)
"""A processor with AMX, wherever the tests run."""


MATMUL = "m k, k n -> m n"
CONV = "n h+r w+s c, r s c k -> n h w k"
SPECS = {
    "matmul": (MATMUL, (37, 100), (100, 70), {}),
    "whole blocks": (MATMUL, (64, 128), (128, 64), {}),
    "one block": (MATMUL, (20, 128), (128, 100), {}),
    "several groups": (MATMUL, (1100, 128), (128, 100), {}),
    "transposed rhs": ("m k, n k -> m n", (50, 96), (75, 96), {}),
    "transposed lhs": ("k m, k n -> m n", (100, 45), (100, 40), {}),
    "transposed output": ("m k, k n -> n m", (45, 70), (70, 33), {}),
    "deep": (MATMUL, (33, 1500), (1500, 40), {}),
    "many rows": (MATMUL, (1200, 70), (70, 40), {}),
    "batched": ("b m k, b k n -> b m n", (3, 40, 80), (3, 80, 33), {}),
    "heads": ("b m h d, b n h d -> b h m n", (2, 34, 2, 64), (2, 40, 2, 64), {}),
    "conv": (CONV, (2, 9, 11, 24), (3, 3, 24, 40), {}),
    "conv deep": (CONV, (1, 9, 9, 400), (3, 3, 400, 40), {}),
    "conv strided": ("n h*2+r w*2+s c, r s c k -> n h w k", (1, 29, 29, 3), (7, 7, 3, 40), {}),
    "conv weight gradient": ("n h+r w+s c, n h w k -> r s c k", (2, 12, 12, 9), (2, 10, 10, 40), {}),
}


def _lower(monkeypatch, spec_text, arrays, sizes, target, threads=1, epilogue=None, constants=(1,)) -> Lowered:
    """Lower to AMX by three parts wherever that is possible."""
    monkeypatch.setattr(contract_schedule, "fixed_pays", lambda *_: False)
    monkeypatch.setattr(contract_schedule, "choose_winograd", lambda *_: None)
    monkeypatch.setattr(contract_schedule, "amx_pays", lambda p, t, threads, source: fits_amx(p, t, source))
    spec = parse_spec(spec_text)
    extents = infer_extents(spec, arrays[0].shape, arrays[1].shape, sizes)
    lowered = lower_contraction(
        spec,
        extents,
        type_of(arrays[0]),
        type_of(arrays[1]),
        epilogue or no_epilogue(float32),
        target,
        threads,
        frozenset(constants),
    )
    for call in lowered.calls:
        verify(call.kernel)
    return lowered


def _uses_tiles(lowered: Lowered) -> bool:
    return any("tile_multiply" in print_kernel(call.kernel) for call in lowered.calls)


def _evaluate(spec_text, arrays, sizes):
    return contract_evaluate({"spec": spec_text, "sizes": tuple(sizes.items())}, *arrays)


def _shape(spec_text, arrays, sizes):
    spec = parse_spec(spec_text)
    return group_shape(spec.output, infer_extents(spec, arrays[0].shape, arrays[1].shape, sizes))


def _errors(result, spec_text, arrays, sizes):
    """Return largest and RMS error relative to |A||B|, element by element."""
    wide = [a.astype(np.float64) for a in arrays]
    bound = _evaluate(spec_text, [np.abs(a) for a in wide], sizes)
    error = np.abs(result - _evaluate(spec_text, wide, sizes)) / np.where(bound == 0, 1, bound)
    return error.max(), float(np.sqrt((error**2).mean()))


def _random(rng, shape):
    return aligned(shape, np.float32, rng.standard_normal(shape))


@needs_amx
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_amx_is_as_accurate_as_fused_multiply_adds(monkeypatch, name, small):
    spec, lhs, rhs, sizes = SPECS[name]
    target = replace(HOST, l2_bytes=64 << 10) if small else HOST
    rng = np.random.default_rng(3)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    shape = _shape(spec, arrays, sizes)
    plain = _lower(monkeypatch, spec, arrays, sizes, FMA)
    assert not _uses_tiles(plain)
    most, rms = _errors(Native(plain, FMA)(arrays, aligned(shape, np.float32, np.nan)), spec, arrays, sizes)
    used = 0
    for constants, threads in (((1,), 3),) if small else (((1,), 1), ((), 2)):
        lowered = _lower(monkeypatch, spec, arrays, sizes, target, threads, constants=constants)
        used += _uses_tiles(lowered)
        out = Native(lowered, target, threads)(arrays, aligned(shape, np.float32, np.nan))
        found = _errors(out, spec, arrays, sizes)
        assert found[0] <= most and found[1] <= rms, (constants, threads, found, most, rms)
    assert used


def _fill(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal(shape)
    match kind:
        case "positive":
            return np.abs(x)
        case "relu":
            return np.maximum(x, 0)
        case "wide":
            return x * 2.0 ** rng.integers(-30, 31, shape)
        case "very wide":
            return x * 2.0 ** rng.integers(-75, 60, shape)
        case "small":
            return x * 1e-20
        case "subnormal":
            return x * 1e-40
        case "some subnormal":
            x.flat[::7] *= 1e-40
        case "small row":
            x[2] *= 1e-35
        case "one of many":
            return np.eye(*shape)
    return x


_matmuls: dict[tuple, Native] = {}


def _matmul(monkeypatch, arrays, target, threads=1) -> Native:
    """Return the compiled product, once for each size, target and number of threads."""
    key = (arrays[0].shape, arrays[1].shape, target, threads)
    if key not in _matmuls:
        lowered = _lower(monkeypatch, MATMUL, arrays, {}, target, threads)
        assert _uses_tiles(lowered) == (target is HOST)
        _matmuls[key] = Native(lowered, target, threads)
    return _matmuls[key]


@needs_amx
@pytest.mark.parametrize("depth", [64, 100, 768])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("random", "random"),
        ("positive", "positive"),
        ("relu", "random"),
        ("wide", "wide"),
        ("very wide", "very wide"),
        ("small", "small"),
        ("subnormal", "random"),
        ("some subnormal", "random"),
        ("some subnormal", "some subnormal"),
        ("small row", "random"),
        ("one of many", "subnormal"),
        ("one of many", "some subnormal"),
        ("one of many", "wide"),
    ],
)
def test_accuracy_holds_for_every_distribution(monkeypatch, left, right, depth):
    rng = np.random.default_rng(11)
    arrays = [aligned(s, np.float32, _fill(k, s, rng)) for k, s in ((left, (70, depth)), (right, (depth, 80)))]
    results = []
    for target in (HOST, FMA):
        out = _matmul(monkeypatch, arrays, target)(arrays, aligned((70, 80), np.float32, np.nan))
        results.append(_errors(out, MATMUL, arrays, {}))
    (most, rms), (plain_most, plain_rms) = results
    assert most <= plain_most and rms <= plain_rms, results


@needs_amx
def test_cancelling_products(monkeypatch):
    rng = np.random.default_rng(12)
    lhs, rhs = rng.standard_normal((70, 512)), rng.standard_normal((512, 80))
    lhs[:, 256:] = lhs[:, :256]
    rhs[256:] = -rhs[:256] * (1 + 1e-6 * rng.standard_normal((256, 80)))
    arrays = [aligned(x.shape, np.float32, x) for x in (lhs, rhs)]
    found = []
    for target in (HOST, FMA):
        out = _matmul(monkeypatch, arrays, target)(arrays, aligned((70, 80), np.float32, np.nan))
        found.append(_errors(out, MATMUL, arrays, {}))
    assert found[0][0] <= found[1][0] and found[0][1] <= found[1][1], found


@needs_amx
@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, 1e30])
@pytest.mark.parametrize("threads", [1, 2])
def test_extreme_operands_give_what_fused_multiply_adds_give(monkeypatch, operand, value, threads):
    rng = np.random.default_rng(13)
    arrays = [_random(rng, (150, 200)), _random(rng, (200, 170))]
    arrays[operand][3, 5] = value
    results = []
    for target in (HOST, FMA):
        results.append(_matmul(monkeypatch, arrays, target, threads)(arrays, aligned((150, 170), np.float32, 7)))
    with np.errstate(all="ignore"):
        exact = arrays[0].astype(np.float64) @ arrays[1].astype(np.float64)
    for result in results:
        assert np.array_equal(np.isnan(result), np.isnan(exact))
    infinite = np.isinf(results[1])
    assert np.array_equal(results[0][infinite], results[1][infinite])
    finite = np.isfinite(results[1])
    np.testing.assert_allclose(results[0][finite], results[1][finite], rtol=1e-4, atol=1e-4)


@needs_amx
def test_equal_inputs_give_equal_bits(monkeypatch):
    rng = np.random.default_rng(14)
    arrays = [_random(rng, (100, 300)), _random(rng, (300, 200))]
    native = Native(_lower(monkeypatch, MATMUL, arrays, {}, HOST, 2), HOST, 2)
    first = native(arrays, aligned((100, 200), np.float32, np.nan)).copy()
    for _ in range(3):
        assert np.array_equal(first, native(arrays, aligned((100, 200), np.float32, np.nan)))


def _epilogue(names: str, shape: tuple[int, ...]) -> Epilogue:
    axes = tuple(Var(name) for name in names)
    total = apply("add", Var("acc", float32), Read(0, (axes[-1],), float32))
    total = apply("add", total, Read(1, axes, float32))
    body = apply("maximum", total, const(0.0, float32))
    return Epilogue(body, float32, (tensor_type(float32, shape[-1:]), tensor_type(float32, shape)))


@needs_amx
@pytest.mark.parametrize("name", ["matmul", "deep", "conv", "conv deep"])
def test_epilogue(monkeypatch, name):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(15)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    shape = _shape(spec, arrays, sizes)
    bias, residual = _random(rng, shape[-1:]), _random(rng, shape)
    epilogue = _epilogue("mn" if len(shape) == 2 else "nhwk", shape)
    lowered = _lower(monkeypatch, spec, arrays, sizes, HOST, 2, epilogue)
    assert _uses_tiles(lowered)
    out = Native(lowered, HOST, 2)([*arrays, bias, residual], aligned(shape, np.float32, np.nan))
    product = _evaluate(spec, [a.astype(np.float64) for a in arrays], sizes)
    np.testing.assert_allclose(out, np.maximum(product + bias + residual, 0), rtol=1e-5, atol=1e-4)


@needs_amx
def test_random_matmuls(monkeypatch):
    seed = int(np.random.SeedSequence().entropy % (1 << 32))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        m, n, k = int(rng.integers(1, 150)), int(rng.integers(17, 150)), int(rng.integers(64, 400))
        target = replace(HOST, l2_bytes=int(rng.choice([32, 256, 2048])) << 10)
        threads = int(rng.choice([1, 2, 4]))
        arrays = [_random(rng, (m, k)), _random(rng, (k, n))]
        lowered = _lower(monkeypatch, MATMUL, arrays, {}, target, threads)
        out = Native(lowered, target, threads)(arrays, aligned((m, n), np.float32, np.nan))
        assert _errors(out, MATMUL, arrays, {})[0] < 3e-7, (m, n, k, threads, target.l2_bytes)


@pytest.mark.parametrize("name", ["two passes", "ragged", "conv"])
def test_emulated_kernels(monkeypatch, name):
    spec, lhs, rhs = {
        "two passes": (MATMUL, (20, 160), (160, 34)),
        "ragged": (MATMUL, (35, 69), (69, 20)),
        "conv": (CONV, (1, 5, 6, 8), (3, 3, 8, 18)),
    }[name]
    rng = np.random.default_rng(16)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    target = replace(AMX, l2_bytes=16 << 10) if name == "two passes" else AMX
    lowered = _lower(monkeypatch, spec, arrays, {}, target)
    assert _uses_tiles(lowered)
    out = run_emulated(lowered, arrays, np.full(_shape(spec, arrays, {}), np.nan, np.float32))
    assert _errors(out, spec, arrays, {})[0] < 1.5e-7


def test_emulated_way_back(monkeypatch):
    rng = np.random.default_rng(17)
    arrays = [_random(rng, (17, 64)), _random(rng, (64, 18))]
    arrays[0][2, 3] = np.inf
    lowered = _lower(monkeypatch, MATMUL, arrays, {}, AMX)
    out = run_emulated(lowered, arrays, np.full((17, 18), np.nan, np.float32))
    assert np.isinf(out[2]).all()
    rest = np.arange(17) != 2
    np.testing.assert_allclose(out[rest], arrays[0][rest] @ arrays[1], rtol=1e-4, atol=1e-4)


def _pays(m: int, k: int, n: int, target: CpuTarget, constants=frozenset()) -> bool:
    spec = parse_spec(MATMUL)
    types = tensor_type(float32, (m, k)), tensor_type(float32, (k, n))
    lowered = lower_contraction(
        spec, {"m": m, "k": k, "n": n}, *types, no_epilogue(float32), target, 1, frozenset(constants)
    )
    return any(isinstance(s, TileMultiply) for c in lowered.calls for s in _all_statements(c.kernel))


def _all_statements(kernel):
    pending = [kernel]
    while pending:
        for statement in statements(pending.pop().body):
            yield statement
            if hasattr(statement, "kernel"):
                pending.append(statement.kernel)


def test_cost_model():
    assert _pays(1024, 1024, 1024, AMX)
    assert _pays(128, 768, 768, AMX)
    assert not _pays(1024, 1024, 1024, replace(AMX, features=("avx512f",)))
    assert not _pays(1024, 48, 1024, AMX)
    assert not _pays(1, 4096, 4096, AMX)
    assert not _pays(1024, 1024, 8, AMX)


def test_restrictions_turn_it_off():
    assert not host_target("avx512").has("amx-bf16")
    assert not host_target("-amx-bf16").has("amx-bf16")
