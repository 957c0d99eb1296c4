"""Float32 contractions in fixed point on AMX: accuracy, operands it must refuse, emulation, and the choice of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower import contraction as contract_schedule
from dlc.codegen.lower.contraction import Request, lower_contraction
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.fixed_blocking import choose_fixed_blocking, fixed_form
from dlc.ir.contraction import group_shape, infer_extents, parse_spec
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.expr import Read, Var, apply, const
from dlc.ir.lowering import Lowered
from dlc.ir.ops.contract import contract_evaluate
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import float32, tensor_type
from dlc.ir.verify_kernel import verify
from tests.codegen.contract_native import Native, aligned, run_emulated, type_of
from tests.codegen.plain_targets import AMX, FMA, TILES, needs_tiles

MATMUL = "m k, k n -> m n"
CONV = "n h+r w+s c, r s c k -> n h w k"
CROSSED = "k m, k n -> m n"
"""The depth is contiguous in no operand, as in gradients of weights."""
SPECS = {
    "matmul": (MATMUL, (37, 300), (300, 70), {}),
    "whole tiles": (MATMUL, (64, 256), (256, 64), {}),
    "few columns": (MATMUL, (50, 200), (200, 16), {}),
    "several groups": (MATMUL, (700, 260), (260, 100), {}),
    "transposed rhs": ("m k, n k -> m n", (50, 192), (75, 192), {}),
    "transposed output": ("m k, n k -> n m", (45, 200), (33, 200), {}),
    "deep": (MATMUL, (33, 3000), (3000, 40), {}),
    "two row axes": ("a b k, k n -> b a n", (5, 9, 256), (256, 40), {}),
    "batched": ("b m k, b k n -> b m n", (3, 40, 256), (3, 256, 33), {}),
    "conv": (CONV, (2, 9, 11, 24), (3, 3, 24, 40), {}),
    "rows turned": (CROSSED, (300, 37), (300, 70), {}),
    "rows turned, whole tiles": (CROSSED, (256, 64), (256, 64), {}),
    "rows turned, several groups": (CROSSED, (1000, 250), (1000, 100), {}),
    "gradient of a filter": ("n h+r w+s c, n h w k -> r s c k", (2, 12, 13, 32), (2, 10, 11, 40), {"r": 3, "s": 3}),
    "partial sums": (CROSSED, (9216, 36), (9216, 40), {}),
    "conv strided": ("n h*2+r w*2+s c, r s c k -> n h w k", (1, 19, 19, 40), (3, 3, 40, 40), {}),
}


def _lower(monkeypatch, spec_text, arrays, sizes, target, threads=1, epilogue=None) -> Lowered:
    """Lower to fixed point wherever that is possible."""
    monkeypatch.setattr(contract_schedule, "choose_fixed", lambda problem, target, *_: fixed_form(problem, target))
    monkeypatch.setattr(contract_schedule, "choose_winograd", lambda *_: None)
    spec = parse_spec(spec_text)
    extents = infer_extents(spec, arrays[0].shape, arrays[1].shape, sizes)
    types = type_of(arrays[0]), type_of(arrays[1])
    lowered = lower_contraction(
        spec, extents, *types, epilogue or no_epilogue(float32), target, threads, frozenset({0, 1})
    )
    for call in lowered.calls:
        verify(call.kernel)
    return lowered


def _in_fixed_point(lowered: Lowered) -> bool:
    return any("tile_multiply_int8" in print_kernel(call.kernel) for call in lowered.calls)


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


@needs_tiles
@pytest.mark.parametrize("name", SPECS)
def test_every_shape_is_as_accurate_as_fused_multiply_adds(monkeypatch, name):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(3)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    shape = _shape(spec, arrays, sizes)
    plain = _lower(monkeypatch, spec, arrays, sizes, FMA)
    most, rms = _errors(Native(plain, FMA)(arrays, aligned(shape, np.float32, np.nan)), spec, arrays, sizes)
    for threads, l2_bytes in ((1, TILES.l2_bytes), (3, 128 << 10)):
        target = replace(TILES, l2_bytes=l2_bytes)
        lowered = _lower(monkeypatch, spec, arrays, sizes, target, threads)
        assert _in_fixed_point(lowered)
        found = _errors(
            Native(lowered, target, threads)(arrays, aligned(shape, np.float32, np.nan)), spec, arrays, sizes
        )
        assert found[0] <= most and found[1] <= rms, (threads, found, most, rms)
        assert found != (most, rms), "the way back was taken"


def _fill(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal(shape)
    match kind:
        case "positive":
            return np.abs(x)
        case "relu":
            return np.maximum(x, 0)
        case "sparse":
            return np.maximum(x, 0) * (rng.random(shape) < 0.1)
        case "uniform":
            return rng.random(shape) - 0.5
        case "heavy tails":
            return rng.standard_t(3, shape)
        case "lognormal":
            return np.exp(2 * x) * np.sign(rng.standard_normal(shape))
        case "outliers":
            x[:, :3] *= 50
        case "whole numbers":
            return rng.integers(-8, 9, shape)
        case "thirds":
            return np.full(shape, 1 / 3)
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
        case "dead rows":
            x[::3] = 0
            x[1::3, 5:] = 0
        case "dead columns":
            x[:, ::3] = 0
        case "one of many":
            return np.eye(*shape)
        case "gradient of labels":
            x = np.exp(x) / np.exp(x).sum(1, keepdims=True)
            x[np.arange(len(x)), rng.integers(0, shape[1], len(x))] -= 1
        case "gradient of learnt labels":
            x = np.exp(x) / np.exp(x).sum(1, keepdims=True) * 0.01
            x[np.arange(len(x)), rng.integers(0, shape[1], len(x))] -= 0.01
            x[::7] = 0
        case "a large one last" | "a large one first":
            x = np.abs(x) * 0.15 / shape[1]
            x[:, -1 if "last" in kind else 0] = -1
        case "one and little":
            x *= 1e-7
            x[:, 3] = 1
    return x


def _filled(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return aligned(shape, np.float32, _fill(kind, (int(np.prod(shape[:-1])), shape[-1]), rng).reshape(shape))


_matmuls: dict[tuple, Native] = {}


def _matmul(monkeypatch, arrays, target, threads=1) -> Native:
    """Return the compiled product, once for each size, target and number of threads."""
    key = (arrays[0].shape, arrays[1].shape, target, threads)
    if key not in _matmuls:
        lowered = _lower(monkeypatch, MATMUL, arrays, {}, target, threads)
        assert _in_fixed_point(lowered) == (target is TILES)
        _matmuls[key] = Native(lowered, target, threads)
    return _matmuls[key]


def _both(monkeypatch, arrays):
    """Return the errors in fixed point and by fused multiply-adds."""
    shape = (arrays[0].shape[0], arrays[1].shape[1])
    return [
        _errors(_matmul(monkeypatch, arrays, target)(arrays, aligned(shape, np.float32, np.nan)), MATMUL, arrays, {})
        for target in (TILES, FMA)
    ]


PAIRS = [
    ("random", "random"),
    ("positive", "positive"),
    ("relu", "random"),
    ("relu", "heavy tails"),
    ("uniform", "uniform"),
    ("sparse", "random"),
    ("random", "sparse"),
    ("heavy tails", "heavy tails"),
    ("lognormal", "random"),
    ("outliers", "random"),
    ("outliers", "heavy tails"),
    ("whole numbers", "whole numbers"),
    ("random", "whole numbers"),
    ("thirds", "thirds"),
    ("wide", "wide"),
    ("very wide", "very wide"),
    ("small", "small"),
    ("subnormal", "random"),
    ("some subnormal", "random"),
    ("some subnormal", "some subnormal"),
    ("small row", "random"),
    ("dead rows", "random"),
    ("one and little", "random"),
    ("a large one last", "random"),
    ("a large one last", "relu"),
    ("a large one first", "random"),
    ("gradient of labels", "random"),
    ("gradient of learnt labels", "relu"),
    ("random", "dead columns"),
    ("one of many", "random"),
    ("one of many", "subnormal"),
    ("one of many", "wide"),
]


@needs_tiles
@pytest.mark.parametrize("depth", [96, 200, 768, 3072])
@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_accuracy_holds_for_every_distribution(monkeypatch, left, right, depth):
    rng = np.random.default_rng(11)
    arrays = [aligned(s, np.float32, _fill(k, s, rng)) for k, s in ((left, (70, depth)), (right, (depth, 80)))]
    (most, rms), (plain_most, plain_rms) = results = _both(monkeypatch, arrays)
    assert most <= plain_most and rms <= plain_rms, results


@needs_tiles
@pytest.mark.parametrize(("left", "right"), PAIRS[:11])
def test_usual_operands_are_not_refused(monkeypatch, left, right):
    rng = np.random.default_rng(12)
    arrays = [aligned(s, np.float32, _fill(k, s, rng)) for k, s in ((left, (70, 3072)), (right, (3072, 80)))]
    results = _both(monkeypatch, arrays)
    assert results[0] != results[1]


@needs_tiles
def test_cancelling_products(monkeypatch):
    rng = np.random.default_rng(12)
    lhs, rhs = rng.standard_normal((70, 512)), rng.standard_normal((512, 80))
    lhs[:, 256:] = lhs[:, :256]
    rhs[256:] = -rhs[:256] * (1 + 1e-6 * rng.standard_normal((256, 80)))
    found = _both(monkeypatch, [aligned(x.shape, np.float32, x) for x in (lhs, rhs)])
    assert found[0][0] <= found[1][0] and found[0][1] <= found[1][1], found


@needs_tiles
@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, 1e30])
@pytest.mark.parametrize("threads", [1, 2])
def test_extreme_operands_give_what_fused_multiply_adds_give(monkeypatch, operand, value, threads):
    rng = np.random.default_rng(13)
    arrays = [_random(rng, (150, 200)), _random(rng, (200, 170))]
    arrays[operand][3, 5] = value
    results = []
    for target in (TILES, FMA):
        results.append(_matmul(monkeypatch, arrays, target, threads)(arrays, aligned((150, 170), np.float32, 7)))
    with np.errstate(all="ignore"):
        exact = arrays[0].astype(np.float64) @ arrays[1].astype(np.float64)
    for result in results:
        assert np.array_equal(np.isnan(result), np.isnan(exact))
    infinite = np.isinf(results[1])
    assert np.array_equal(results[0][infinite], results[1][infinite])
    finite = np.isfinite(results[1])
    np.testing.assert_allclose(results[0][finite], results[1][finite], rtol=1e-4, atol=1e-4)


@needs_tiles
@pytest.mark.parametrize("name", ["rows turned", "rows turned, several groups", "gradient of a filter", "partial sums"])
@pytest.mark.parametrize("threads", [1, 2])
def test_turned_rows_go_back_to_fused_multiply_adds(monkeypatch, name, threads):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(18)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    arrays[0].flat[5] = 1e35
    arrays[1].flat[7] = np.inf
    shape = _shape(spec, arrays, sizes)
    results = []
    for target in (TILES, FMA):
        lowered = _lower(monkeypatch, spec, arrays, sizes, target, threads)
        assert _in_fixed_point(lowered) == (target is TILES)
        results.append(Native(lowered, target, threads)(arrays, aligned(shape, np.float32, np.nan)))
    assert not np.isfinite(results[1]).all()
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-3)


@needs_tiles
@pytest.mark.parametrize("zeros", [0, 1])
def test_not_a_number_beside_nothing_but_zeros(monkeypatch, zeros):
    arrays = [aligned((70, 200), np.float32, 0.0), aligned((200, 80), np.float32, 0.0)]
    arrays[1 - zeros][4, 4] = np.nan
    out = _matmul(monkeypatch, arrays, TILES)(arrays, aligned((70, 80), np.float32, 7))
    with np.errstate(all="ignore"):
        assert np.array_equal(out, arrays[0].astype(np.float64) @ arrays[1], equal_nan=True)


@needs_tiles
def test_equal_inputs_give_equal_bits(monkeypatch):
    rng = np.random.default_rng(14)
    arrays = [_random(rng, (100, 300)), _random(rng, (300, 200))]
    native = _matmul(monkeypatch, arrays, TILES, 2)
    first = native(arrays, aligned((100, 200), np.float32, np.nan)).copy()
    for _ in range(3):
        assert np.array_equal(first, native(arrays, aligned((100, 200), np.float32, np.nan)))


def _epilogue(names: str, shape: tuple[int, ...]) -> Epilogue:
    axes = tuple(Var(name) for name in names)
    value = apply("add", Var("acc", float32), Read(0, (axes[-1],), float32))
    value = apply("add", value, Read(1, axes, float32))
    body = apply("maximum", value, const(0.0, float32))
    return Epilogue(body, float32, (tensor_type(float32, shape[-1:]), tensor_type(float32, shape)))


@needs_tiles
@pytest.mark.parametrize("name", ["matmul", "deep", "two row axes", "conv"])
def test_epilogue(monkeypatch, name):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(15)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    shape = _shape(spec, arrays, sizes)
    bias, residual = _random(rng, shape[-1:]), _random(rng, shape)
    names = {2: "mn", 3: "ban", 4: "nhwk"}[len(shape)]
    lowered = _lower(monkeypatch, spec, arrays, sizes, TILES, 2, _epilogue(names, shape))
    assert _in_fixed_point(lowered)
    out = Native(lowered, TILES, 2)([*arrays, bias, residual], aligned(shape, np.float32, np.nan))
    product = _evaluate(spec, [a.astype(np.float64) for a in arrays], sizes)
    np.testing.assert_allclose(out, np.maximum(product + bias + residual, 0), rtol=1e-5, atol=1e-4)


@needs_tiles
def test_random_matmuls(monkeypatch):
    seed = int(np.random.SeedSequence().entropy % (1 << 32))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        m, n, k = int(rng.integers(8, 150)), int(rng.integers(16, 150)), int(rng.integers(96, 500))
        target = replace(TILES, l2_bytes=int(rng.choice([64, 256, 2048])) << 10)
        threads = int(rng.choice([1, 2, 4]))
        arrays = [_random(rng, (m, k)), _random(rng, (k, n))]
        lowered = _lower(monkeypatch, MATMUL, arrays, {}, target, threads)
        assert _in_fixed_point(lowered)
        out = Native(lowered, target, threads)(arrays, aligned((m, n), np.float32, np.nan))
        assert _errors(out, MATMUL, arrays, {})[0] < 3e-7, (m, n, k, threads, target.l2_bytes)


@pytest.mark.parametrize(
    "kinds", ["random random", "uniform relu", "heavy tails|heavy tails", "wide random", "dead rows|random"]
)
@pytest.mark.parametrize("name", ["ragged", "turned", "conv"])
def test_emulated_kernels(monkeypatch, name, kinds):
    spec, lhs, rhs = {
        "ragged": (MATMUL, (35, 131), (131, 40)),
        "turned": (CROSSED, (131, 35), (131, 40)),
        "conv": (CONV, (1, 5, 6, 16), (3, 3, 16, 18)),
    }[name]
    rng = np.random.default_rng(16)
    left, right = kinds.split("|") if "|" in kinds else kinds.split()
    arrays = [_filled(left, lhs, rng), _filled(right, rhs, rng)]
    lowered = _lower(monkeypatch, spec, arrays, {}, AMX)
    assert _in_fixed_point(lowered)
    out = run_emulated(lowered, arrays, np.full(_shape(spec, arrays, {}), np.nan, np.float32))
    assert _errors(out, spec, arrays, {})[0] < (1.5e-7 if kinds in ("random random", "uniform relu") else 4e-7)


@needs_tiles
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["matmul", "several groups", "two row axes", "batched", "deep"])
def test_only_tiles_with_refused_rows_go_the_way_back(monkeypatch, name, threads, ahead):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(21)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    shape, target = _shape(spec, arrays, sizes), replace(TILES, l2_bytes=128 << 10)
    if ahead:
        _ahead(monkeypatch)
    lowered = _lower(monkeypatch, spec, arrays, sizes, target, threads)
    native = Native(lowered, target, threads)
    usual = native(arrays, aligned(shape, np.float32, np.nan)).copy()
    arrays[0].reshape(-1, lhs[-1])[3, 5] = 1e9
    found = native(arrays, aligned(shape, np.float32, np.nan)).copy()
    product = _evaluate(spec, [a.astype(np.float64) for a in arrays], sizes)
    bound = _evaluate(spec, [np.abs(a).astype(np.float64) for a in arrays], sizes)
    assert np.abs((found - product) / bound).max() < 1e-6
    same = (found == usual).all(axis=-1).ravel()
    assert not same[15 if name == "two row axes" else 3] and same[32:].all()  # there, rows run over b first


@needs_tiles
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1e-32, 1e-41, np.inf, 1.0])
@pytest.mark.parametrize("name", ["matmul", "several groups", "transposed rhs", "batched", "conv"])
def test_only_panels_with_refused_columns_go_the_way_back(monkeypatch, name, size, threads):
    """Dead filters, as training leaves them, and columns of one weight."""
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(22)
    arrays = [_random(rng, lhs), _random(rng, rhs)]
    shape, target = _shape(spec, arrays, sizes), replace(TILES, l2_bytes=128 << 10)
    lowered = _lower(monkeypatch, spec, arrays, sizes, target, threads)
    native = Native(lowered, target, threads)
    usual = native(arrays, aligned(shape, np.float32, np.nan)).copy()
    columns = np.moveaxis(arrays[1], 0 if name == "transposed rhs" else -1, 0)
    if size == 1.0:
        columns[2] *= np.arange(columns[2].size).reshape(columns[2].shape) == 7
    else:
        columns[2] *= np.float32(size)
    found = native(arrays, aligned(shape, np.float32, np.nan)).copy()
    assert (found[..., 32:] == usual[..., 32:]).all() and not (found[..., 2] == usual[..., 2]).any()
    if np.isfinite(size):
        product = _evaluate(spec, [a.astype(np.float64) for a in arrays], sizes)
        bound = _evaluate(spec, [np.abs(a).astype(np.float64) for a in arrays], sizes)
        assert np.abs((found - product) / np.maximum(bound, 1e-36)).max() < 1e-6


def test_emulated_way_back(monkeypatch):
    rng = np.random.default_rng(17)
    arrays = [_random(rng, (17, 128)), _random(rng, (128, 18))]
    arrays[0][2, 3] = np.inf
    lowered = _lower(monkeypatch, MATMUL, arrays, {}, AMX)
    out = run_emulated(lowered, arrays, np.full((17, 18), np.nan, np.float32))
    assert np.isinf(out[2]).all()
    rest = np.arange(17) != 2
    np.testing.assert_allclose(out[rest], arrays[0][rest] @ arrays[1], rtol=1e-4, atol=1e-4)


def _ahead(monkeypatch):
    """Let rows be split by a kernel of their own wherever they can be."""
    choose = contract_schedule.choose_fixed_blocking
    monkeypatch.setattr(contract_schedule, "choose_fixed_blocking", lambda *a: replace(choose(*a), ahead=True))


AHEAD = {
    "ragged": (MATMUL, (37, 131), (131, 70), {}),
    "several groups": (MATMUL, (90, 100), (100, 33), {}),
    "two row axes": ("a b k, k n -> b a n", (5, 9, 128), (128, 40), {}),
    "batched": ("b m k, b k n -> b m n", (2, 20, 100), (2, 100, 33), {}),
}


@pytest.mark.parametrize("name", AHEAD)
def test_emulated_rows_split_ahead_give_the_same_bits(monkeypatch, name):
    spec, lhs, rhs, sizes = AHEAD[name]
    rng = np.random.default_rng(18)
    arrays = [_filled("dead rows", lhs, rng), _random(rng, rhs)]
    target = replace(AMX, l2_bytes=64 << 10)
    shape = _shape(spec, arrays, sizes)
    results = []
    for _ in range(2):
        lowered = _lower(monkeypatch, spec, arrays, sizes, target)
        results.append(run_emulated(lowered, arrays, np.full(shape, np.nan, np.float32)))
        _ahead(monkeypatch)
    assert [call.kernel.name.split("_")[0] for call in lowered.calls] == ["split", "rows", "contract"]
    assert np.array_equal(*results)


def test_emulated_way_back_with_rows_split_ahead(monkeypatch):
    _ahead(monkeypatch)
    rng = np.random.default_rng(19)
    arrays = [_random(rng, (40, 128)), _random(rng, (128, 70))]
    arrays[0][2, 3] = np.inf
    lowered = _lower(monkeypatch, MATMUL, arrays, {}, AMX, 2)
    out = run_emulated(lowered, arrays, np.full((40, 70), np.nan, np.float32))
    assert np.isinf(out[2]).all()
    rest = np.arange(40) != 2
    np.testing.assert_allclose(out[rest], arrays[0][rest] @ arrays[1], rtol=1e-4, atol=1e-4)


@needs_tiles
@pytest.mark.parametrize("kinds", ["random|random", "heavy tails|heavy tails", "dead rows|random"])
@pytest.mark.parametrize("name", SPECS)
def test_rows_split_ahead_give_the_same_bits(monkeypatch, name, kinds):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(20)
    arrays = [_filled(kind, shape, rng) for kind, shape in zip(kinds.split("|"), (lhs, rhs), strict=True)]
    shape, target = _shape(spec, arrays, sizes), replace(TILES, l2_bytes=128 << 10)
    results = []
    for _ in range(2):
        lowered = _lower(monkeypatch, spec, arrays, sizes, target, 3)
        results.append(Native(lowered, target, 3)(arrays, aligned(shape, np.float32, np.nan)).copy())
        if "turned" not in name and name not in ("gradient of a filter", "partial sums"):
            _ahead(monkeypatch)
    assert np.array_equal(*results)


def test_rows_are_split_ahead_where_tasks_share_them():
    def ahead(m: int, k: int, n: int, threads: int) -> bool:
        problem = Request(
            parse_spec(MATMUL),
            {"m": m, "k": k, "n": n},
            tensor_type(float32, (m, k)),
            tensor_type(float32, (k, n)),
            no_epilogue(float32),
            AMX,
            threads,
            frozenset({1}),
        ).analyzed()
        assert problem is not None
        return choose_fixed_blocking(problem, AMX, threads).ahead

    assert ahead(128, 3072, 768, 2)
    assert not ahead(128, 3072, 768, 1)
    assert not ahead(784, 512, 128, 2)


def _chosen(m: int, k: int, n: int, target: CpuTarget, constants=frozenset({1}), text=MATMUL) -> bool:
    spec = parse_spec(text)
    types = tensor_type(float32, (m, k) if text is MATMUL else (k, m)), tensor_type(float32, (k, n))
    extents = {"m": m, "k": k, "n": n}
    return _in_fixed_point(lower_contraction(spec, extents, *types, no_epilogue(float32), target, 1, constants))


def test_cost_model():
    assert _chosen(1024, 1024, 1024, AMX)
    assert _chosen(128, 768, 768, AMX)
    assert not _chosen(1024, 1024, 1024, replace(AMX, features=("amx-tile", "avx512f")))
    assert _chosen(1024, 1024, 1024, AMX, frozenset())
    assert _chosen(1024, 1024, 1024, AMX, frozenset(), CROSSED)
    assert _chosen(1024, 20480, 1024, AMX, frozenset(), CROSSED)
    assert not _chosen(32, 1024, 1024, AMX, frozenset())
    assert not _chosen(64, 1024, 16, AMX, frozenset(), CROSSED)
    assert not _chosen(1024, 48, 1024, AMX)
    assert not _chosen(1, 4096, 4096, AMX)
    assert not _chosen(1024, 1024, 8, AMX)


def test_restrictions_turn_it_off():
    assert not host_target("avx512").has("amx-int8")
    assert not host_target("-amx-int8").has("amx-int8")
