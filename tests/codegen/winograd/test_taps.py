"""Winograd's filtering of weight gradients: accuracy on every kind of data, the way around, emulation, the choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.contract.analysis import analyze
from dlc.codegen.contract.blocking import LOCAL, PACKED
from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower import contraction as contract_schedule
from dlc.codegen.lower.contraction import lower_contraction
from dlc.codegen.winograd.taps_blocking import best_taps_blocking, choose_taps
from dlc.codegen.winograd.taps_problem import TapsProblem, recognise_taps
from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.epilogue import no_epilogue
from dlc.ir.lowering import Lowered
from dlc.ir.ops.contract import contract_evaluate
from dlc.ir.types import float32, tensor_type
from dlc.ir.verify_kernel import verify
from tests.codegen.contract_native import Native, aligned, run_emulated, type_of
from tests.codegen.operand_kinds import fill
from tests.codegen.plain_targets import AVX512

TARGETS = {level: host_target(level) for level in ("generic", "avx2", "avx512")}
BEST = TARGETS["avx512"]
GRADIENT = "n h+r w+s c, n h w k -> r s c k"
SMALL = replace(BEST, l2_bytes=260 << 10)
"""A cache that holds few channels at a time."""


def _problem(spec_text, lhs, rhs, sizes=()):
    spec = parse_spec(spec_text)
    extents = infer_extents(spec, lhs, rhs, dict(sizes))
    return analyze(spec, extents, tensor_type(float32, lhs), tensor_type(float32, rhs), no_epilogue(float32))


def _found(size: int, channels: int, filters: int, images: int) -> TapsProblem:
    lhs, rhs = (images, size + 2, size + 2, channels), (images, size, size, filters)
    found = recognise_taps(_problem(GRADIENT, lhs, rhs))
    assert found is not None
    return found


def _forced(found, target, threads, _):
    best = best_taps_blocking(found, target, threads)
    assert best is not None
    return best[1]


def _lower(monkeypatch, arrays, target, threads=1, direct=False, spec=GRADIENT) -> Lowered:
    """Lower to Winograd, or the direct way."""
    monkeypatch.setattr(contract_schedule, "choose_taps", (lambda *_: None) if direct else _forced)
    parsed, types = parse_spec(spec), [type_of(a) for a in arrays]
    extents = infer_extents(parsed, types[0].shape, types[1].shape, {})
    lowered = lower_contraction(parsed, extents, *types, no_epilogue(float32), target, threads)
    for call in lowered.calls:
        verify(call.kernel)
    return lowered


_natives: dict[tuple, Native] = {}


def _native(monkeypatch, arrays, direct=False, target=BEST, threads=1) -> Native:
    """Return the compiled gradient, once for each size and way."""
    key = (arrays[0].shape, arrays[1].shape, direct, target, threads)
    if key not in _natives:
        _natives[key] = Native(_lower(monkeypatch, arrays, target, threads, direct), target, threads)
    return _natives[key]


def _run(native: Native, arrays) -> np.ndarray:
    shape = (3, 3, arrays[0].shape[-1], arrays[1].shape[-1])
    return native(arrays, aligned(shape, np.float32, np.nan))


def _products(x, y):
    """Yield for every position the pixels that the taps see and the values."""
    _, high, wide, _ = y.shape
    for image in range(y.shape[0]):
        for i in range(high):
            for j in range(wide):
                yield x[image, i : i + 3, j : j + 3, :, None], y[image, i, j]


def _exact(x, y):
    high, wide = y.shape[1:3]
    views = [[x[:, r : r + high, s : s + wide] for s in range(3)] for r in range(3)]
    return np.array([[np.einsum("nhwc,nhwk->ck", view, y) for view in line] for line in views])


def _errors(result, arrays):
    """Return largest and RMS error relative to |A||B|, element by element; any error of an exact zero is infinite."""
    wide = [a.astype(np.float64) for a in arrays]
    bound = _exact(*(np.abs(a) for a in wide))
    error = np.abs(result - _exact(*wide))
    error = np.where(error == 0, 0, error / np.where(bound == 0, np.finfo(np.float64).tiny, bound))
    return error.max(), float(np.sqrt((error**2).mean()))


def _chain(x, y) -> np.ndarray:
    """One chain of multiply-adds over all positions."""
    total = np.zeros((3, 3, x.shape[-1], y.shape[-1]), np.float32)
    for pixels, values in _products(x.astype(np.float64), y.astype(np.float64)):
        total = (total + pixels * values).astype(np.float32)
    return total


def _pair(images, high, wide, channels, filters, left="random", right="random", seed=1):
    rng = np.random.default_rng(seed)
    shapes = (images, high + 2, wide + 2, channels), (images, high, wide, filters)
    return [aligned(s, np.float32, fill(kind, s, rng)) for kind, s in zip((left, right), shapes, strict=True)]


SHAPES = {
    "even": (2, 12, 14, 32, 32),
    "odd": (3, 11, 13, 32, 48),
    "odd height": (2, 13, 16, 16, 64),
    "odd width": (4, 8, 15, 64, 16),
    "one image": (1, 18, 20, 48, 32),
    "many images": (40, 3, 4, 32, 32),
    "wide": (1, 6, 90, 32, 32),
    "many channels": (3, 10, 12, 96, 80),
}


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", SHAPES)
def test_as_accurate_as_fused_multiply_adds(monkeypatch, name, level):
    arrays = _pair(*SHAPES[name])
    most, rms = _errors(_chain(*arrays), arrays)
    plain = _run(_native(monkeypatch, arrays, True, TARGETS[level]), arrays)
    for target, threads in ((TARGETS[level], 1), (replace(TARGETS[level], l2_bytes=SMALL.l2_bytes), 3)):
        result = _run(_native(monkeypatch, arrays, False, target, threads), arrays)
        found = _errors(result, arrays)
        assert found[0] <= most and found[1] <= rms, (threads, found, most, rms)
        assert not np.array_equal(result, plain)


_KINDS = [
    *("random", "positive", "relu", "relu 1", "relu 1.5", "relu 2", "sparse 0.3", "sparse 0.1", "sparse 0.02"),
    *("wide 4", "wide 10", "wide 30", "heavy 3", "scaled 1e-15", "scaled 1e-20", "scaled 1e-40", "scaled 1e15"),
    *("pixel 1e4", "pixel 1e20", "plane 1e3", "plane 1e10", "one", "constant", "smooth", "partly", "subnormal"),
]


@pytest.mark.parametrize("size", [14, 28])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        *((kind, "random") for kind in _KINDS),
        *(("relu", kind) for kind in _KINDS),
        ("positive", "positive"),
        ("relu 1", "sparse 0.1"),
        ("sparse 0.3", "sparse 0.3"),
        ("sparse 0.1", "sparse 0.1"),
        ("sparse 0.02", "sparse 0.02"),
        ("heavy 2", "heavy 2"),
        ("wide 10", "wide 10"),
        ("wide 30", "wide 30"),
        ("partly", "partly"),
        ("scaled 1e-20", "scaled 1e-20"),
        ("scaled 1e15", "scaled 1e-15"),
    ],
)
def test_accuracy_holds_for_every_distribution(monkeypatch, left, right, size):
    arrays = _pair(3, size, size, 32, 32, left, right, seed=5)
    most, rms = _errors(_run(_native(monkeypatch, arrays), arrays), arrays)
    references = _errors(_run(_native(monkeypatch, arrays, True), arrays), arrays), _errors(_chain(*arrays), arrays)
    assert most <= max(e[0] for e in references), (most, references)
    assert rms <= max(e[1] for e in references), (rms, references)


def test_channels_active_apart_from_one_another_go_the_direct_way(monkeypatch):
    arrays = _pair(2, 28, 28, 32, 32)
    arrays[0][:, :16, :, 5] = 0
    arrays[1][:, 14:, :, 7] = 0
    arrays[1][:, 13, 3, 7] = 1.0
    found, plain = (_run(_native(monkeypatch, arrays, direct), arrays) for direct in (False, True))
    assert np.array_equal(found, plain)


@pytest.mark.parametrize("cut", [8, 13, 16, 20, 24])
def test_an_outlier_beside_values_that_end_there_goes_the_direct_way(monkeypatch, cut):
    arrays = _pair(2, 28, 28, 32, 32, seed=3)
    arrays[1][:, cut:] = 0
    arrays[0][:, cut : cut + 2, 4, 5] *= 1e4
    found, plain = (_run(_native(monkeypatch, arrays, direct), arrays) for direct in (False, True))
    assert np.array_equal(found, plain)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("density", [1.0, 0.6, 0.4, 0.25])
@pytest.mark.parametrize(("size", "images"), [(4, 64), (4, 160), (5, 40), (6, 28)])
def test_small_images_with_many_positions(monkeypatch, size, images, density, padded):
    rng = np.random.default_rng(int(100 * density) + size)
    arrays = _pair(images, size, size, 32, 32, seed=21)
    for array in arrays:
        array *= rng.random(array.shape) < density
    if padded:
        inside = arrays[0][:, 1:-1, 1:-1].copy()
        arrays[0][...] = 0
        arrays[0][:, 1:-1, 1:-1] = inside
    found = _errors(_run(_native(monkeypatch, arrays), arrays), arrays)
    plain = _errors(_run(_native(monkeypatch, arrays, True), arrays), arrays)
    assert found[0] <= plain[0] and found[1] <= plain[1], (found, plain)


def test_only_the_parts_concerned_go_around(monkeypatch):
    arrays = _pair(2, 14, 14, 64, 64)
    before = _run(_native(monkeypatch, arrays, False, SMALL, 2), arrays)
    arrays[0][..., 3] = 0
    arrays[0][0, 5, 5, 3] = 1.0
    found, plain = (_run(_native(monkeypatch, arrays, direct, SMALL, 2), arrays) for direct in (False, True))
    around = (found == plain).all((0, 1, 3))
    assert around[:16].all() and not around.all()
    assert np.array_equal(found[:, :, ~around], before[:, :, ~around])


def test_dead_channels_are_transformed(monkeypatch):
    arrays = _pair(2, 14, 14, 32, 32)
    arrays[0][..., 4] = 0
    arrays[1][..., 9] = 0
    found, plain = (_run(_native(monkeypatch, arrays, direct), arrays) for direct in (False, True))
    assert (found[:, :, 4] == 0).all() and (found[..., 9] == 0).all()
    assert (found != plain).any()


@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, 1e30])
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 5, 6), (-1, -1, -1)])
def test_extreme_operands_give_what_the_direct_way_gives(monkeypatch, operand, value, place):
    arrays = _pair(2, 13, 15, 32, 32, seed=7)
    arrays[operand][(*place, 3)] = value
    with np.errstate(invalid="ignore"):
        found, plain = (_run(_native(monkeypatch, arrays, direct, BEST, 2), arrays) for direct in (False, True))
    assert np.array_equal(np.isnan(found), np.isnan(plain))
    infinite = np.isinf(plain)
    assert np.array_equal(found[infinite], plain[infinite])
    finite = np.isfinite(plain)
    np.testing.assert_allclose(found[finite], plain[finite], rtol=1e-4, atol=1e-4)


def test_equal_inputs_give_equal_bits(monkeypatch):
    arrays = _pair(2, 20, 20, 64, 96, seed=11)
    native = _native(monkeypatch, arrays, False, SMALL, 2)
    first = _run(native, arrays)
    for _ in range(3):
        assert np.array_equal(first, _run(native, arrays))


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("shape", [(1, 10, 9, 16, 16), (3, 5, 7, 16, 48)])
def test_emulated_kernels(monkeypatch, shape, level, around):
    target = TARGETS[level]
    arrays = _pair(*shape, seed=13)
    if around:
        arrays[0][0, 1, 1, 2] = np.inf
    lowered = _lower(monkeypatch, arrays, target)
    native = _run(Native(lowered, target), arrays)
    out = run_emulated(lowered, arrays, np.full(native.shape, np.nan, np.float32))
    if target.has_fma:
        assert np.array_equal(out, native, equal_nan=True)
    else:
        np.testing.assert_allclose(out, native, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "lhs", "rhs"),
    [
        ("n h*2+r w*2+s c, n h w k -> r s c k", (2, 29, 29, 32), (2, 14, 14, 32)),
        ("n h+r*2 w+s*2 c, n h w k -> r s c k", (2, 18, 18, 32), (2, 14, 14, 32)),
        (GRADIENT, (2, 14, 14, 32), (2, 14, 14, 32)),
        (GRADIENT, (2, 18, 18, 32), (2, 14, 14, 32)),
        ("n h+r w+s c, n h w k -> r s k c", (2, 16, 16, 32), (2, 14, 14, 32)),
        ("n h+r w+s c, r s c k -> n h w k", (2, 16, 16, 32), (3, 3, 32, 32)),
        ("n h+r w+s g, n h w g -> r s g", (2, 16, 16, 32), (2, 14, 14, 32)),
        ("n c h+r w+s, n k h w -> k c r s", (2, 32, 16, 16), (2, 32, 14, 14)),
        ("n h+r c, n h k -> r c k", (20, 16, 32), (20, 14, 32)),
        ("k m, k n -> m n", (500, 96), (500, 75)),
    ],
)
def test_other_contractions_are_not_taken(spec, lhs, rhs):
    assert recognise_taps(_problem(spec, lhs, rhs)) is None


@pytest.mark.parametrize("spec", [GRADIENT, "n h+r w+s c, n h w k -> c r s k", "n h+r w+s c, n h w k -> s r c k"])
def test_any_order_of_taps_is_taken(monkeypatch, spec):
    arrays = _pair(2, 12, 13, 32, 32, seed=14)
    lowered = _lower(monkeypatch, arrays, BEST, spec=spec)
    expected = contract_evaluate({"spec": spec, "sizes": ()}, *[a.astype(np.float64) for a in arrays])
    out = Native(lowered, BEST)(arrays, aligned(expected.shape, np.float32, np.nan))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)
    assert len(lowered.calls) == 1


def test_cost_model():
    assert choose_taps(_found(56, 64, 64, 8), AVX512, 2, LOCAL)
    assert choose_taps(_found(14, 256, 256, 8), AVX512, 2, LOCAL)
    assert choose_taps(_found(8, 64, 128, 64), AVX512, 1, LOCAL)
    # Too few positions for ordinary data to have terms enough.
    assert not choose_taps(_found(7, 512, 512, 8), AVX512, 2, LOCAL)
    assert not choose_taps(_found(14, 256, 256, 1), AVX512, 2, LOCAL)
    # Values known ahead, which are better packed ahead.
    assert not choose_taps(_found(56, 64, 64, 8), AVX512, 2, PACKED)
    # Images whose corner taps see few positions.
    assert not choose_taps(_found(2, 64, 64, 512), AVX512, 2, LOCAL)
    assert choose_taps(_found(4, 64, 64, 512), AVX512, 2, LOCAL)
    # Channels that are no whole vectors, and more threads than parts of channels.
    assert not choose_taps(_found(56, 60, 64, 8), AVX512, 2, LOCAL)
    assert not choose_taps(_found(56, 16, 16, 8), AVX512, 16, LOCAL)


def test_parts_stay_in_the_cache():
    for size, channels in ((56, 64), (28, 128), (14, 256), (8, 512)):
        for threads in (1, 2, 16):
            best = best_taps_blocking(_found(size, channels, channels, 8), AVX512, threads)
            assert best is not None and best[1].scratch_bytes <= AVX512.l2_bytes
