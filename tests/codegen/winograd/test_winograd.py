"""Winograd's filtering: accuracy on every kind of data, the way around, emulation, and the choice of the path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.contract.analysis import analyze
from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower import contraction as contract_schedule
from dlc.codegen.lower.contraction import lower_contraction
from dlc.codegen.winograd.blocking import best_blocking, choose_winograd, fits_tiles
from dlc.codegen.winograd.problem import WinogradProblem, recognise
from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.expr import Read, Var, apply, const
from dlc.ir.lowering import Lowered
from dlc.ir.ops.contract import contract_evaluate
from dlc.ir.types import float32, tensor_type
from dlc.ir.verify_kernel import verify
from tests.codegen.contract_native import Native, aligned, run_emulated, type_of
from tests.codegen.operand_kinds import fill
from tests.codegen.plain_targets import AVX512, TILES, needs_tiles

TARGETS = {level: host_target(level) for level in ("generic", "avx2", "avx512")}
# Half vectors of narrow products must not reach panels that Winograd's blocks share.
TARGETS["avx512"] = replace(TARGETS["avx512"], double_pumped=TARGETS["avx512"].vector_bytes == 64)
TARGETS["tiles"] = TILES
LEVELS = [*(level for level in TARGETS if level != "tiles"), pytest.param("tiles", marks=needs_tiles)]
BEST = TARGETS["avx512"]
CONV = "n h+r w+s c, r s c k -> n h w k"
SMALL = replace(BEST, l2_bytes=96 << 10)
"""Caches that hold few tiles at a time."""

AMX = replace(AVX512, features=("amx-bf16", "amx-int8", "amx-tile", *AVX512.features))


def _problem(spec_text, lhs, rhs, sizes=(), epilogue=None):
    spec = parse_spec(spec_text)
    types = tensor_type(float32, lhs), tensor_type(float32, rhs)
    extents = infer_extents(spec, lhs, rhs, dict(sizes))
    return analyze(spec, extents, *types, epilogue or no_epilogue(float32))


def _found(size: int, channels: int, filters: int, images: int = 1) -> WinogradProblem:
    problem = _problem(CONV, (images, size + 2, size + 2, channels), (3, 3, channels, filters))
    found = recognise(problem)
    assert found is not None
    return found


def _lower(monkeypatch, arrays, target, threads=1, epilogue=None, direct=False, spec=CONV, constants=(1,)) -> Lowered:
    """Lower to Winograd wherever that is possible, on tiles if they can be used, or to direct multiply-adds."""

    def choose(found, target, threads, constant):
        return best_blocking(found, target, threads, constant and fits_tiles(found, target))[1]

    monkeypatch.setattr(contract_schedule, "choose_winograd", (lambda *_: None) if direct else choose)
    monkeypatch.setattr(contract_schedule, "choose_fixed", lambda *_: None)
    parsed = parse_spec(spec)
    types = [type_of(a) for a in arrays[:2]]
    extents = infer_extents(parsed, types[0].shape, types[1].shape, {})
    lowered = lower_contraction(
        parsed, extents, *types, epilogue or no_epilogue(float32), target, threads, frozenset(constants)
    )
    for call in lowered.calls:
        verify(call.kernel)
    assert _is_winograd(lowered) is not direct
    return lowered


def _is_winograd(lowered: Lowered) -> bool:
    return any(call.kernel.name.startswith("transform_") for call in lowered.calls)


def _outputs(arrays) -> tuple[int, ...]:
    (images, high, wide, _), filters = arrays[0].shape, arrays[1].shape[-1]
    return (images, high - 2, wide - 2, filters)


def _run(native: Native, arrays) -> np.ndarray:
    return native(arrays, aligned(_outputs(arrays), np.float32, np.nan))


def _errors(result, arrays):
    """Return largest and RMS error relative to |A||B|, element by element."""
    wide = [a.astype(np.float64) for a in arrays]
    attributes = {"spec": CONV, "sizes": ()}
    bound = contract_evaluate(attributes, *[np.abs(a) for a in wide])
    error = np.abs(result - contract_evaluate(attributes, *wide)) / np.where(bound == 0, 1, bound)
    return error.max(), float(np.sqrt((error**2).mean()))


def _random(rng, *shapes):
    return [aligned(shape, np.float32, rng.standard_normal(shape)) for shape in shapes]


SHAPES = {
    "even": ((1, 10, 14, 32), (3, 3, 32, 32)),
    "odd": ((1, 9, 13, 40), (3, 3, 40, 40)),
    "odd height": ((1, 11, 12, 64), (3, 3, 64, 48)),
    "odd width": ((1, 12, 11, 64), (3, 3, 64, 33)),
    "two lines": ((1, 4, 21, 48), (3, 3, 48, 20)),
    "one tile": ((1, 4, 4, 64), (3, 3, 64, 17)),
    "three chains": ((1, 8, 8, 150), (3, 3, 150, 70)),
    "images": ((3, 9, 10, 64), (3, 3, 64, 64)),
    "wide": ((1, 6, 60, 32), (3, 3, 32, 80)),
    "few filters": ((1, 12, 12, 64), (3, 3, 64, 5)),
    "half pages": ((1, 6, 7, 512), (3, 3, 512, 32)),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SHAPES)
def test_as_accurate_as_fused_multiply_adds(monkeypatch, name, level):
    arrays = _random(np.random.default_rng(1), *SHAPES[name])
    target = TARGETS[level]
    most, rms = _errors(_run(Native(_lower(monkeypatch, arrays, target, direct=True), target), arrays), arrays)
    for blocks, threads in ((target, 1), (replace(target, l2_bytes=64 << 10), 3)):
        native = Native(_lower(monkeypatch, arrays, blocks, threads), blocks, threads)
        found = _errors(_run(native, arrays), arrays)
        assert found[0] <= most and found[1] <= rms, (threads, found, most, rms)


_ON_TILES = [pytest.param(channels, "tiles", marks=needs_tiles) for channels in (64, 160)]
_KINDS = [
    *("random", "positive", "relu", "relu 1", "relu 1.5", "relu 2", "sparse 0.3", "sparse 0.1", "sparse 0.02"),
    *("wide 4", "wide 10", "wide 30", "heavy 3", "scaled 1e-15", "scaled 1e-20", "scaled 1e-40", "scaled 1e15"),
    *("pixel 1e4", "pixel 1e20", "plane 1e3", "plane 1e10", "one", "constant", "smooth", "partly", "subnormal"),
]


@pytest.mark.parametrize(("channels", "level"), [(48, "avx512"), (160, "avx512"), *_ON_TILES])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        *((kind, "random") for kind in _KINDS),
        *(("random", kind) for kind in _KINDS if kind.split()[0] not in ("positive", "constant", "smooth", "partly")),
        ("positive", "positive"),
        ("relu 1", "sparse 0.1"),
        ("relu", "heavy 3"),
        ("heavy 2", "heavy 2"),
        ("wide 10", "wide 10"),
        ("wide 30", "wide 30"),
        ("scaled 1e-20", "scaled 1e-20"),
    ],
)
def test_accuracy_holds_for_every_distribution(monkeypatch, left, right, channels, level):
    rng = np.random.default_rng(5)
    shapes = (1, 14, 16, channels), (3, 3, channels, 32)
    arrays = [aligned(s, np.float32, fill(kind, s, rng)) for kind, s in zip((left, right), shapes, strict=True)]
    (most, rms), (plain_most, plain_rms) = (
        _errors(_run(_conv(monkeypatch, arrays, d, TARGETS[level]), arrays), arrays) for d in (0, 1)
    )
    assert most <= plain_most and rms <= plain_rms, (most, rms, plain_most, plain_rms)


_convs: dict[tuple, Native] = {}


def _conv(monkeypatch, arrays, direct, target=BEST, threads=1) -> Native:
    """Return the compiled convolution, once for each size and way."""
    key = (arrays[0].shape, arrays[1].shape, bool(direct), target, threads)
    if key not in _convs:
        _convs[key] = Native(_lower(monkeypatch, arrays, target, threads, direct=bool(direct)), target, threads)
    return _convs[key]


def _chain(arrays) -> np.ndarray:
    """One chain of multiply-adds over the whole depth, the channels outermost."""
    (x, w), shape = arrays, _outputs(arrays)
    total = np.zeros(shape, np.float32)
    for c in range(x.shape[-1]):
        for r in range(3):
            for s in range(3):
                pixels = x[:, r : r + shape[1], s : s + shape[2], c, None].astype(np.float64)
                total = (total + pixels * w[r, s, c].astype(np.float64)).astype(np.float32)
    return total


def test_halves_of_the_depth_that_cancel(monkeypatch):
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((1, 18, 20, 64)), rng.standard_normal((3, 3, 64, 48))
    x[..., 32:] = x[..., :32]
    w[:, :, 32:] = -w[:, :, :32] * (1 + 1e-6 * rng.standard_normal((3, 3, 32, 48)))
    arrays = [aligned(a.shape, np.float32, a) for a in (x, w)]
    found, plain = _errors(_run(_conv(monkeypatch, arrays, 0), arrays), arrays), _errors(_chain(arrays), arrays)
    assert found[0] <= plain[0] and found[1] <= plain[1], (found, plain)


@pytest.mark.parametrize("kind", ["constant", "smooth"])
def test_windows_that_cancel(monkeypatch, kind):
    rng = np.random.default_rng(6)
    x, w = fill(kind, (1, 18, 20, 64), rng), rng.standard_normal((3, 3, 64, 48))
    w -= w.mean((0, 1))
    arrays = [aligned(a.shape, np.float32, a) for a in (x, w)]
    found, plain = (_errors(_run(_conv(monkeypatch, arrays, d), arrays), arrays) for d in (0, 1))
    assert found[0] <= plain[0] and found[1] <= plain[1], (found, plain)


@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, 1e30])
@pytest.mark.parametrize("threads", [1, 2])
def test_extreme_operands_give_what_the_direct_way_gives(monkeypatch, operand, value, threads):
    rng = np.random.default_rng(7)
    arrays = _random(rng, (1, 15, 16, 64), (3, 3, 64, 48))
    arrays[operand][0, 2, 5, 3] = value if operand == 0 else 0
    if operand == 1:
        arrays[1][1, 2, 5, 3] = value
    found, plain = (_run(_conv(monkeypatch, arrays, d, BEST, threads), arrays) for d in (0, 1))
    assert np.array_equal(np.isnan(found), np.isnan(plain))
    infinite = np.isinf(plain)
    assert np.array_equal(found[infinite], plain[infinite])
    finite = np.isfinite(plain)
    np.testing.assert_allclose(found[finite], plain[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_only_the_blocks_concerned_go_around(monkeypatch, level):
    target = replace(TARGETS[level], l2_bytes=SMALL.l2_bytes)
    arrays = _random(np.random.default_rng(8), (1, 26, 26, 64), (3, 3, 64, 40))
    plain_values = _run(_conv(monkeypatch, arrays, 0, target), arrays)
    arrays[0][0, 12, 12] = 0
    arrays[0][0, 12, 12, 3] = 1e25
    found, plain = (_run(_conv(monkeypatch, arrays, d, target), arrays) for d in (0, 1))
    around = (found == plain).all(axis=-1)[0]
    assert around[10:13, 10:13].all()
    assert not around.all()
    assert np.array_equal(found[0][~around], plain_values[0][~around])


def test_zeros_are_transformed(monkeypatch):
    arrays = _random(np.random.default_rng(9), (1, 12, 12, 64), (3, 3, 64, 40))
    arrays[0][:, :6] = 0
    found, plain = (_run(_conv(monkeypatch, arrays, d), arrays) for d in (0, 1))
    assert (found[0, :4] == 0).all()
    assert (found != plain).any()


def test_weights_out_of_range_go_the_direct_way(monkeypatch):
    arrays = _random(np.random.default_rng(10), (1, 12, 12, 64), (3, 3, 64, 40))
    for scale in (1e25, 1e-25, np.nan):
        scaled = [arrays[0], aligned(arrays[1].shape, np.float32, arrays[1])]
        scaled[1][..., 7] *= np.float32(scale)
        native = _conv(monkeypatch, scaled, 0)
        found, plain = _run(native, scaled), _run(_conv(monkeypatch, scaled, 1), scaled)
        assert np.array_equal(found, plain, equal_nan=True)


@needs_tiles
def test_what_scales_do_not_hold_goes_around(monkeypatch):
    arrays = _random(np.random.default_rng(18), (1, 26, 26, 64), (3, 3, 64, 40))
    target = replace(TILES, l2_bytes=2 * SMALL.l2_bytes)
    ordinary = _run(_conv(monkeypatch, arrays, 0, target), arrays)
    # Where all channels but one are constant, a transform leaves nothing but that one, of many terms before.
    arrays[0][0, 12:16, 12:16, 1:] = arrays[0][0, 12, 12, 1:]
    found, plain = (_run(_conv(monkeypatch, arrays, d, target), arrays) for d in (0, 1))
    around = (found == plain).all(axis=-1)[0]
    assert around[12:14, 12:14].all() and not around.all()
    assert np.array_equal(found[0][~around], ordinary[0][~around])


@needs_tiles
def test_products_on_tiles_have_errors_of_their_own(monkeypatch):
    arrays = _random(np.random.default_rng(19), (1, 20, 22, 128), (3, 3, 128, 64))
    tiles, vectors = (_run(_conv(monkeypatch, arrays, 0, target), arrays) for target in (TILES, BEST))
    assert (tiles != vectors).mean() > 0.5
    assert _errors(tiles, arrays)[1] < 2e-8


def test_equal_inputs_give_equal_bits(monkeypatch):
    arrays = _random(np.random.default_rng(11), (2, 20, 20, 64), (3, 3, 64, 96))
    native = Native(_lower(monkeypatch, arrays, SMALL, 2), SMALL, 2)
    first = _run(native, arrays)
    for _ in range(3):
        assert np.array_equal(first, _run(native, arrays))


def _epilogue(shape: tuple[int, ...]) -> Epilogue:
    axes = tuple(Var(name) for name in "nhwk")
    total = apply("add", Var("acc", float32), Read(0, (axes[-1],), float32))
    total = apply("add", total, Read(1, axes, float32))
    scale = Read(2, axes[:3], float32)
    body = apply("maximum", apply("mul", total, scale), const(0.0, float32))
    types = (tensor_type(float32, shape[-1:]), tensor_type(float32, shape), tensor_type(float32, shape[:3]))
    return Epilogue(body, float32, types)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["odd", "images", "wide", "three chains"])
def test_epilogue_with_residual_in_place(monkeypatch, name, level, around):
    rng = np.random.default_rng(12)
    target = replace(TARGETS[level], l2_bytes=128 << 10)
    arrays = _random(rng, *SHAPES[name])
    if around:
        arrays[0][..., 1:] = 0
    shape = _outputs(arrays)
    bias, residual, scale = _random(rng, shape[-1:], shape, shape[:3])
    lowered = _lower(monkeypatch, arrays, target, 2, _epilogue(shape))
    assert lowered.in_place == ((0, 3),)
    product = contract_evaluate({"spec": CONV, "sizes": ()}, *[a.astype(np.float64) for a in arrays])
    expected = np.maximum((product + bias + residual) * scale[..., None], 0)
    out = Native(lowered, target, 2)([*arrays, bias, residual, scale], residual)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["odd", "chains", "steps"])
def test_emulated_kernels(monkeypatch, name, level, around):
    shapes = {
        "odd": ((1, 5, 6, 34), (3, 3, 34, 18)),
        "chains": ((2, 4, 5, 65), (3, 3, 65, 9)),
        "steps": ((1, 11, 6, 70), (3, 3, 70, 40)),
    }[name]
    target = TARGETS[level]
    arrays = _random(np.random.default_rng(13), *shapes)
    if around:
        arrays[0][0, 1, 1, 2] = np.inf
    lowered = _lower(monkeypatch, arrays, target)
    native = _run(Native(lowered, target), arrays)
    out = run_emulated(lowered, arrays, np.full(_outputs(arrays), np.nan, np.float32))
    if target.has_fma:
        assert np.array_equal(out, native, equal_nan=True)
    else:
        np.testing.assert_allclose(out, native, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "lhs", "rhs", "sizes"),
    [
        ("n h*2+r w*2+s c, r s c k -> n h w k", (1, 15, 15, 64), (3, 3, 64, 32), {}),
        ("n h+r*2 w+s*2 c, r s c k -> n h w k", (1, 15, 15, 64), (3, 3, 64, 32), {}),
        (CONV, (1, 15, 15, 64), (1, 1, 64, 32), {}),
        (CONV, (1, 15, 15, 64), (5, 5, 64, 32), {}),
        (CONV, (1, 15, 15, 64), (3, 1, 64, 32), {}),
        (CONV, (1, 15, 15, 16), (3, 3, 16, 32), {}),
        ("n h+r w+s g, r s g -> n h w g", (1, 15, 15, 64), (3, 3, 64), {}),
        ("n h+r w+s (g c), r s c (g k) -> n h w (g k)", (1, 9, 9, 64), (3, 3, 32, 64), {"g": 2}),
        ("n h+r w+s c, n h w k -> r s c k", (1, 5, 5, 64), (1, 3, 3, 32), {}),
        ("n c h+r w+s, k c r s -> n k h w", (1, 64, 15, 15), (32, 64, 3, 3), {}),
        ("n h+r c, r c k -> n h k", (1, 15, 64), (3, 64, 32), {}),
        ("m k, k n -> m n", (50, 96), (96, 75), {}),
    ],
)
def test_other_contractions_are_not_taken(spec, lhs, rhs, sizes):
    assert recognise(_problem(spec, lhs, rhs, sizes)) is None


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("n h+r w+s c, r s c k -> n h w k", (3, 3, 64, 32)),
        ("n h+r w+s c, k r s c -> n h w k", (32, 3, 3, 64)),
        ("n h+r w+s c, k c r s -> n h w k", (32, 64, 3, 3)),
        ("n h+r w+s c, r s c k -> h n w k", (3, 3, 64, 32)),
    ],
)
def test_any_order_of_weights_is_taken(monkeypatch, spec, shape):
    arrays = _random(np.random.default_rng(14), (2, 8, 9, 64), shape)
    lowered = _lower(monkeypatch, arrays, BEST, spec=spec)
    parsed = parse_spec(spec)
    expected = contract_evaluate({"spec": spec, "sizes": ()}, *[a.astype(np.float64) for a in arrays])
    assert str(parsed) == spec
    out = Native(lowered, BEST)(arrays, aligned(expected.shape, np.float32, np.nan))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["odd", "images", "half pages"])
def test_weights_that_change(monkeypatch, name, level, around):
    arrays = _random(np.random.default_rng(15), *SHAPES[name])
    target = replace(TARGETS[level], l2_bytes=128 << 10)
    native = Native(_lower(monkeypatch, arrays, target, 2, constants=()), target, 2)
    for _ in range(2):
        arrays[1][...] = np.random.default_rng(16).standard_normal(arrays[1].shape)
        if around:
            arrays[0][:, 1:3, 1:3, 1:] = 0
        most, _ = _errors(_run(native, arrays), arrays)
        assert most < 3e-7


def test_gradients_of_inputs_are_taken(monkeypatch):
    spec = "r s k c, n h+r w+s k -> n h w c"
    arrays = _random(np.random.default_rng(17), (3, 3, 48, 64), (2, 12, 13, 48))
    lowered = _lower(monkeypatch, arrays, BEST, 2, spec=spec, constants=())
    expected = contract_evaluate({"spec": spec, "sizes": ()}, *[a.astype(np.float64) for a in arrays])
    out = Native(lowered, BEST, 2)(arrays, aligned(expected.shape, np.float32, np.nan))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


def test_epilogues_across_the_columns_are_not_taken():
    axes = tuple(Var(name) for name in "nhwk")
    turned = Read(0, (axes[3], axes[1]), float32)
    body = apply("add", Var("acc", float32), turned)
    epilogue = Epilogue(body, float32, (tensor_type(float32, (32, 8)),))
    assert recognise(_problem(CONV, (1, 10, 10, 64), (3, 3, 64, 32), epilogue=epilogue)) is None


def test_cost_model():
    assert choose_winograd(_found(56, 64, 64), AVX512, 2, True)
    assert choose_winograd(_found(14, 256, 256), AVX512, 2, True)
    assert choose_winograd(_found(14, 256, 256), AMX, 2, True)
    # Deep products repay splitting what is transformed, if it is split once and for all of the weights.
    assert [choose_winograd(_found(7, 512, 512), target, 2, True).fixed for target in (AMX, AVX512)] == [True, False]
    assert not choose_winograd(_found(32, 256, 256, images=8), AMX, 2, False).fixed
    # Products of bytes of so many channels would not fit sums of 32 bits.
    assert fits_tiles(_found(7, 16384, 64), AMX) and not fits_tiles(_found(7, 44000, 64), AMX)
    # Weights that change from run to run are worth transforming where many tiles use them.
    assert choose_winograd(_found(56, 64, 64), AVX512, 2, False)
    assert choose_winograd(_found(14, 256, 256, images=8), AVX512, 2, False)
    assert not choose_winograd(_found(7, 512, 512), AVX512, 2, False)
    assert not choose_winograd(_found(2, 64, 64), AVX512, 1, True)
    assert not choose_winograd(_found(112, 32, 32), AVX512, 2, True)


def test_blocks_stay_in_the_cache():
    for size, channels in ((56, 64), (28, 128), (14, 256), (128, 512), (7, 512), (28, 129)):
        for threads in (1, 2, 16):
            for fixed in (False, True):
                _, blocking = best_blocking(_found(size, channels, channels), AMX, threads, fixed)
                assert blocking.scratch_bytes <= AMX.l2_bytes
                covered = sum(part.outputs * count for part, count in blocking.rows.parts)
                assert covered == size
