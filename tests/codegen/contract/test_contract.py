"""The contraction code path against float64 references, on every feature level, natively and emulated."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower.contraction import lower_contraction
from dlc.ir.contraction import group_shape, infer_extents, parse_spec
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.expr import Read, Var, apply, cast, const
from dlc.ir.kernel import Call, statements
from dlc.ir.ops.contract import contract_evaluate, dim_expression
from dlc.ir.types import as_dtype, float32, float64, tensor_type
from dlc.ir.verify_kernel import verify
from tests.codegen.contract_native import Native, aligned, run_emulated, type_of

TARGETS = {level: replace(host_target(level), double_pumped=False) for level in ("generic", "avx2", "avx512")}
if TARGETS["avx512"].vector_bytes == 64:
    TARGETS["double pumped"] = replace(TARGETS["avx512"], double_pumped=True)

SPECS = {
    "matmul": ("m k, k n -> m n", (37, 45), (45, 70), {}),
    "transposed rhs": ("m k, n k -> m n", (37, 45), (70, 45), {}),
    "transposed lhs": ("k m, k n -> m n", (45, 37), (45, 70), {}),
    "transposed output": ("m k, k n -> n m", (37, 45), (45, 20), {}),
    "long rows": ("m k, k n -> m n", (300, 17), (17, 33), {}),
    "one row": ("m k, k n -> m n", (1, 65), (65, 130), {}),
    "one column": ("m k, k n -> m n", (65, 33), (33, 1), {}),
    "matrix vector": ("m k, k -> m", (65, 33), (33,), {}),
    "vector matrix": ("k, k n -> n", (33,), (33, 65), {}),
    "dot": ("k, k -> ", (133,), (133,), {}),
    "short dot": ("k, k -> ", (5,), (5,), {}),
    "dots over heads": ("h d, t h d -> h t", (3, 40), (19, 3, 40), {}),
    "dots over windows": ("h+r c, r c -> h", (30, 21), (3, 21), {}),
    "two rows, transposed rhs": ("m k, n k -> m n", (2, 130), (27, 130), {}),
    "outer": ("m, n -> m n", (13,), (37,), {}),
    "batched": ("b m k, b k n -> b m n", (3, 17, 20), (3, 20, 35), {}),
    "attention scores": ("b h m d, b h n d -> b h m n", (2, 3, 9, 16), (2, 3, 18, 16), {}),
    "heads inside": ("b m h d, b n h d -> b h m n", (2, 9, 3, 16), (2, 18, 3, 16), {}),
    "context": ("b h m n, b n h d -> b m h d", (2, 3, 9, 18), (2, 18, 3, 16), {}),
    "batch innermost": ("m k b, k n b -> m n b", (5, 6, 20), (6, 4, 20), {}),
    "shared weight": ("b s k, k n -> b s n", (3, 7, 24), (24, 40), {}),
    "two column axes": ("m k, a k n -> a m n", (15, 11), (3, 11, 20), {}),
    "two row axes": ("a k b, k n -> b a n", (5, 11, 7), (11, 20), {}),
    "diagonal": ("m m k, k n -> m n", (6, 6, 5), (5, 20), {}),
    "conv": ("n h+r w+s c, r s c k -> n h w k", (2, 9, 11, 6), (3, 3, 6, 40), {}),
    "conv strided": ("n h*2+r w*2+s c, r s c k -> n h w k", (1, 15, 17, 3), (7, 7, 3, 20), {}),
    "conv dilated": ("n h+r*2 w+s*3 c, r s c k -> n h w k", (1, 9, 15, 4), (3, 3, 4, 18), {}),
    "conv narrow image": ("n h+r w+s c, r s c k -> n h w k", (2, 7, 7, 8), (3, 3, 8, 18), {}),
    "conv oihw": ("n c h+r w+s, k c r s -> n k h w", (2, 4, 9, 20), (5, 4, 3, 3), {}),
    "conv groups": ("n h+r w+s (g c), r s c (g k) -> n h w (g k)", (2, 9, 9, 8), (3, 3, 2, 80), {"g": 4}),
    "depthwise": ("n h+r w+s g, r s g -> n h w g", (2, 9, 12, 37), (3, 3, 37), {}),
    "depthwise strided": ("n h*2+r w*2+s g, r s g -> n h w g", (2, 9, 13, 32), (3, 3, 32), {}),
    "depthwise multiplier": ("n h+r w+s g, r s g m -> n h w g m", (1, 5, 6, 7), (3, 3, 7, 2), {}),
    "conv weight gradient": ("n h+r w+s c, n h w k -> r s c k", (2, 10, 10, 5), (2, 8, 8, 20), {}),
    "conv strided weight gradient": ("n h*2+r w*2+s c, n h w k -> r s c k", (2, 11, 11, 5), (2, 5, 5, 20), {}),
    "depthwise weight gradient": ("n h+r w+s g, n h w g -> r s g", (2, 9, 9, 21), (2, 7, 7, 21), {}),
    "conv1d": ("n h+r c, r c k -> n h k", (3, 20, 5), (4, 5, 17), {}),
    "conv3d": ("n d+q h+r w+s c, q r s c k -> n d h w k", (1, 5, 6, 7, 4), (2, 3, 3, 4, 18), {}),
}


def _arrays(rng, spec_text, lhs, rhs, dtype):
    arrays = [aligned(shape, dtype, rng.standard_normal(shape)) for shape in (lhs, rhs)]
    reference = [np.abs(a.astype(np.float64)) for a in arrays]
    return arrays, reference


def _lower(spec_text, arrays, sizes, target, threads=1, epilogue=None, constants=()):
    spec = parse_spec(spec_text)
    extents = infer_extents(spec, arrays[0].shape, arrays[1].shape, sizes)
    epilogue = epilogue or no_epilogue(as_dtype(arrays[0].dtype))
    lowered = lower_contraction(
        spec, extents, type_of(arrays[0]), type_of(arrays[1]), epilogue, target, threads, frozenset(constants)
    )
    for call in lowered.calls:
        verify(call.kernel)
    return lowered, group_shape(spec.output, extents)


def _evaluate(spec_text, arrays, sizes):
    return contract_evaluate({"spec": spec_text, "sizes": tuple(sizes.items())}, *arrays)


def _check(result, spec_text, arrays, sizes, scale=None):
    """Compare with float64, element by element, relative to the sum of the products' magnitudes."""
    wide = [a.astype(np.float64) for a in arrays]
    expected = _evaluate(spec_text, wide, sizes)
    bound = _evaluate(spec_text, [np.abs(a) for a in wide], sizes) + 1e-30
    assert np.isfinite(result).all()
    error = np.abs(result - expected) / bound
    assert error.max(initial=0) < 16 * np.finfo(result.dtype).eps, error.max()


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", SPECS)
def test_contraction_matches_reference(name, level):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(5)
    for constants, threads in (((), 4), ((0, 1), 1), ((1,), 2)):
        arrays, _ = _arrays(rng, spec, lhs, rhs, np.float32)
        lowered, shape = _lower(spec, arrays, sizes, TARGETS[level], threads, constants=constants)
        out = aligned(shape, np.float32, np.nan)
        _check(Native(lowered, TARGETS[level], threads)(arrays, out), spec, arrays, sizes)


@pytest.mark.parametrize(
    "name", ["matmul", "transposed rhs", "conv strided", "depthwise", "dot", "conv weight gradient"]
)
def test_float64(name):
    spec, lhs, rhs, sizes = SPECS[name]
    arrays, _ = _arrays(np.random.default_rng(6), spec, lhs, rhs, np.float64)
    lowered, shape = _lower(spec, arrays, sizes, TARGETS["avx512"])
    out = aligned(shape, np.float64, np.nan)
    Native(lowered, TARGETS["avx512"])(arrays, out)
    np.testing.assert_allclose(out, _evaluate(spec, arrays, sizes), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float16", "bfloat16"])
def test_other_dtypes_take_the_loop_nest(dtype):
    rng = np.random.default_rng(7)
    arrays = [aligned(s, as_dtype(dtype).numpy, rng.integers(0, 5, s)) for s in ((7, 9), (9, 21))]
    lowered, shape = _lower("m k, k n -> m n", arrays, {}, TARGETS["avx512"])
    out = aligned(shape, as_dtype(dtype).numpy)
    Native(lowered, TARGETS["avx512"])(arrays, out)
    assert np.array_equal(out.astype(np.float64), _evaluate("m k, k n -> m n", arrays, {}).astype(np.float64))


def test_random_matmuls():
    seed = int(np.random.SeedSequence().entropy % (1 << 32))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    target = TARGETS["avx512"]
    forms = ["m k, k n -> m n", "m k, n k -> m n", "k m, k n -> m n", "m k, k n -> n m"]
    for _ in range(12):
        m, n, k = (int(x) for x in rng.integers(1, 71, 3))
        spec = forms[int(rng.integers(len(forms)))]
        extents = {"m": m, "n": n, "k": k}
        lhs, rhs = (tuple(extents[a] for a in side.split()) for side in spec.split("->")[0].split(","))
        threads = int(rng.choice([1, 2, 4]))
        arrays, _ = _arrays(rng, spec, lhs, rhs, np.float32)
        lowered, shape = _lower(spec, arrays, {}, target, threads)
        out = aligned(shape, np.float32, np.nan)
        _check(Native(lowered, target, threads)(arrays, out), spec, arrays, {})


@pytest.mark.parametrize(
    "name", ["matmul", "transposed rhs", "batched", "conv narrow image", "depthwise", "matrix vector", "one row"]
)
def test_emulator_and_machine_code_agree(name):
    spec, lhs, rhs, sizes = SPECS[name]
    small = {"matmul": ((7, 9), (9, 21)), "transposed rhs": ((5, 9), (18, 9)), "batched": ((2, 3, 5), (2, 5, 17))}
    lhs, rhs = small.get(name, (lhs, rhs))
    if name == "conv narrow image":
        lhs, rhs = (1, 5, 5, 3), (3, 3, 3, 17)
    if name == "depthwise":
        lhs, rhs = (1, 5, 6, 19), (3, 3, 19)
    if name == "one row":
        lhs, rhs = (1, 5), (5, 105)
    arrays, _ = _arrays(np.random.default_rng(8), spec, lhs, rhs, np.float32)
    target = TARGETS["avx512"]
    lowered, shape = _lower(spec, arrays, sizes, target)
    native = Native(lowered, target)(arrays, aligned(shape, np.float32, np.nan))
    emulated = run_emulated(lowered, arrays, np.full(shape, np.nan, np.float32))
    assert np.array_equal(native, emulated)


def _random_convolution(rng):
    """Return a random forward, weight-gradient or depthwise convolution: spec, lhs, rhs, sizes."""
    n, height, width, channels, filters = (int(x) for x in rng.integers((1, 1, 1, 1, 1), (4, 20, 20, 40, 70)))
    r, s = (int(x) for x in rng.integers(1, 4, 2))
    stride, dilation = (int(x) for x in rng.integers(1, 3, 2))
    h, w = f"h*{stride}+r*{dilation}", f"w*{stride}+s*{dilation}"
    # Rows and columns that no window reads are legal.
    rows = (height - 1) * stride + (r - 1) * dilation + 1 + int(rng.integers(2))
    columns = (width - 1) * stride + (s - 1) * dilation + 1 + int(rng.integers(2))
    sizes = {"h": height, "w": width, "r": r, "s": s}
    match int(rng.integers(5)):
        case 0:
            return f"n {h} {w} c, r s c k -> n h w k", (n, rows, columns, channels), (r, s, channels, filters), sizes
        case 1:
            lhs, rhs = (n, rows, columns, 2 * channels), (r, s, channels, 2 * filters)
            return f"n {h} {w} (g c), r s c (g k) -> n h w (g k)", lhs, rhs, sizes | {"g": 2}
        case 2:
            lhs, rhs = (n, rows, columns, channels), (n, height, width, filters)
            return f"n {h} {w} c, n h w k -> r s c k", lhs, rhs, sizes
        case 3:
            return f"n {h} {w} g, r s g -> n h w g", (n, rows, columns, channels), (r, s, channels), sizes
        case _:
            lhs, rhs = (n, rows, columns, channels), (n, height, width, channels)
            return f"n {h} {w} g, n h w g -> r s g", lhs, rhs, sizes


def test_random_convolutions():
    seed = int(np.random.SeedSequence().entropy % (1 << 32))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    for _ in range(15):
        spec, lhs, rhs, sizes = _random_convolution(rng)
        target = TARGETS[str(rng.choice(list(TARGETS)))]
        threads = int(rng.choice([1, 2, 4]))
        constants = [(), (1,)][int(rng.integers(2))]
        arrays, _ = _arrays(rng, spec, lhs, rhs, np.float32)
        lowered, shape = _lower(spec, arrays, sizes, target, threads, constants=constants)
        out = aligned(shape, np.float32, np.nan)
        _check(Native(lowered, target, threads)(arrays, out), spec, arrays, sizes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_staged_rows_local_panels_and_passes_over_the_depth(dtype):
    """Shapes large enough for every branch, all ragged."""
    cases = [
        ("b k, b n -> k n", (700, 260), (700, 143), {}),
        ("m k, n k -> m n", (67, 2500), (71, 2500), {}),
        ("n h+r w+s c, n h w k -> r s c k", (3, 24, 24, 130), (3, 22, 22, 70), {}),
    ]
    rng = np.random.default_rng(12)
    for spec, lhs, rhs, sizes in cases:
        arrays, _ = _arrays(rng, spec, lhs, rhs, dtype)
        lowered, shape = _lower(spec, arrays, sizes, TARGETS["avx512"], 2)
        out = aligned(shape, dtype, np.nan)
        _check(Native(lowered, TARGETS["avx512"], 2)(arrays, out), spec, arrays, sizes)


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("sizes", [(300, 252, 512), (530, 384, 96), (300, 258, 256), (1100, 34, 560)], ids=str)
def test_scattered_operands_are_copied_in_whole_lines(sizes, level):
    """Both operands have a depth step in each line, as in gradients of weights: whole tiles and panels, and rests."""
    depth, rows, columns = sizes
    spec, target, threads = "b k, b n -> k n", TARGETS[level], 2
    arrays, _ = _arrays(np.random.default_rng(16), spec, (depth, rows), (depth, columns), np.float32)
    lowered, shape = _lower(spec, arrays, {}, target, threads)
    out = aligned(shape, np.float32, np.nan)
    _check(Native(lowered, target, threads)(arrays, out), spec, arrays, {})


CONFLICTING = [
    ("m k, k n -> m n", (45, 3072), (3072, 130), {}),
    ("m k, n k -> m n", (45, 2048), (97, 2048), {}),
    ("b m k, b n k -> b m n", (2, 60, 1024), (2, 97, 1024), {}),
    ("n h*2+r w*2+s c, r s c k -> n h w k", (2, 11, 11, 512), (3, 3, 512, 97), {}),
    ("n h*2+r w*2+s c, r s c k -> n h w k", (1, 29, 29, 512), (1, 1, 512, 97), {"r": 1, "s": 1}),
    ("m a k, a k n -> m n", (20, 2, 512), (2, 512, 97), {}),
    ("n h+r w+s (g c), r s c (g k) -> n h w (g k)", (1, 7, 9, 1024), (3, 3, 32, 1024), {"g": 32}),
]
"""Rows a multiple of 4 KiB apart."""


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_that_share_a_cache_set_are_few_per_tile(threads):
    rng = np.random.default_rng(13)
    target = TARGETS["avx512"]
    for spec, lhs, rhs, sizes in CONFLICTING:
        arrays, _ = _arrays(rng, spec, lhs, rhs, np.float32)
        for constants in ((), (1,)):
            lowered, shape = _lower(spec, arrays, sizes, target, threads, constants=constants)
            called = [s.kernel.name for s in statements(lowered.calls[-1].kernel.body) if isinstance(s, Call)]
            assert not any(re.match(r"outer_float32_(8|9|1\d)x", name) for name in called)
            out = aligned(shape, np.float32, np.nan)
            _check(Native(lowered, target, threads)(arrays, out), spec, arrays, sizes)


DEEP = [
    ("k, k -> ", (300_000,), (300_000,), {}),
    ("m k, k -> m", (3, 60_000), (60_000,), {}),
    ("m k, n k -> m n", (2, 30_000), (9, 30_000), {}),
    ("k m, k n -> m n", (20_000, 5), (20_000, 11), {}),
    ("m k, k n -> m n", (13, 9_000), (9_000, 33), {}),
    ("n h+r w+s c, n h w k -> r s c k", (4, 34, 34, 3), (4, 32, 32, 8), {}),
    ("n h+r w+s g, n h w g -> r s g", (16, 34, 34, 20), (16, 32, 32, 20), {"r": 1, "s": 1}),
]
"""Small outputs with deep sums."""


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("case", DEEP, ids=[case[0] for case in DEEP])
def test_deep_sums_are_split_over_threads(case, level):
    """With an epilogue, in parts that are added in the same order every time."""
    spec, lhs, rhs, sizes = case
    arrays, _ = _arrays(np.random.default_rng(15), spec, lhs, rhs, np.float32)
    doubled = Epilogue(apply("mul", Var("acc", float32), const(2.0, float32)), float32)
    lowered, shape = _lower(spec, arrays, sizes, TARGETS[level], 4, doubled, (1,))
    if TARGETS[level].vector_bytes == 64:  # smaller register tiles are more of them
        assert any(call.kernel.name.startswith("sum_") for call in lowered.calls)
    native = Native(lowered, TARGETS[level], 4)
    out = native(arrays, aligned(shape, np.float32, np.nan))
    _check(out / 2, spec, arrays, sizes)
    assert np.array_equal(out, native(arrays, aligned(shape, np.float32, np.nan)))


def test_partial_sums_emulated():
    spec, lhs, rhs, sizes = DEEP[0]
    arrays, _ = _arrays(np.random.default_rng(16), spec, lhs, rhs, np.float32)
    lowered, shape = _lower(spec, arrays, sizes, TARGETS["avx512"], 2)
    native = Native(lowered, TARGETS["avx512"])(arrays, aligned(shape, np.float32, np.nan))
    assert np.array_equal(native, run_emulated(lowered, arrays, np.full(shape, np.nan, np.float32)))


def test_depth_is_split_only_where_threads_would_be_idle():
    target = TARGETS["avx512"]
    arrays = [np.zeros(shape, np.float32) for shape in ((64, 4096), (4096, 64))]
    wide = [np.zeros(shape, np.float32) for shape in ((4096, 512), (512,))]
    assert len(_lower("m k, k n -> m n", arrays, {}, target, 2)[0].calls) == 1
    assert len(_lower("m k, k -> m", wide, {}, target, 2)[0].calls) == 1
    assert len(_lower("k, k -> ", [wide[1], wide[1]], {}, target, 8)[0].calls) == 1
    assert len(_lower("m k, k n -> m n", arrays, {}, target, 32)[0].calls) == 2


def _bias_residual_relu(rank, shape, columns):
    axes = [Var(name) for name in "mn"] if rank == 2 else [Var(name) for name in "nhwk"]
    total = apply("add", Var("acc", float32), Read(0, (axes[-1],), float32))
    total = apply("add", total, Read(1, tuple(axes), float32))
    total = apply("maximum", total, const(0.0, float32))
    return Epilogue(total, float32, (tensor_type(float32, (columns,)), tensor_type(float32, shape)))


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", ["matmul", "conv narrow image"])
def test_epilogue_of_bias_residual_and_relu(name, level):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(9)
    arrays, _ = _arrays(rng, spec, lhs, rhs, np.float32)
    product = _evaluate(spec, [a.astype(np.float64) for a in arrays], sizes)
    bias = aligned(product.shape[-1:], np.float32, rng.standard_normal(product.shape[-1:]))
    residual = aligned(product.shape, np.float32, rng.standard_normal(product.shape))
    epilogue = _bias_residual_relu(product.ndim, product.shape, product.shape[-1])
    lowered, shape = _lower(spec, arrays, sizes, TARGETS[level], 2, epilogue)
    assert len(lowered.calls) <= 2 and len(lowered.temporaries) <= 1
    out = Native(lowered, TARGETS[level], 2)([*arrays, bias, residual], aligned(shape, np.float32, np.nan))
    expected = np.maximum(product + bias + residual, 0)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    assert lowered.in_place == ((0, 3),)
    in_place = Native(lowered, TARGETS[level], 2)([*arrays, bias, residual], residual)
    assert np.array_equal(in_place, out)


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", ["matmul", "conv narrow image", "one row", "conv groups", "depthwise"])
def test_long_epilogue(name, level):
    spec, lhs, rhs, sizes = SPECS[name]
    rng = np.random.default_rng(13)
    arrays, _ = _arrays(rng, spec, lhs, rhs, np.float32)
    product = _evaluate(spec, [a.astype(np.float64) for a in arrays], sizes)
    residual = aligned(product.shape, np.float32, rng.standard_normal(product.shape))
    extents = infer_extents(parse_spec(spec), lhs, rhs, sizes)
    place = tuple(dim_expression(d, extents) for d in parse_spec(spec).output)
    x = apply("add", Var("acc", float32), Read(0, place, float32))
    body = apply("mul", apply("sigmoid", x), apply("tanh", x))
    epilogue = Epilogue(body, float32, (tensor_type(float32, product.shape),))
    lowered, shape = _lower(spec, arrays, sizes, TARGETS[level], 2, epilogue, (1,))
    out = Native(lowered, TARGETS[level], 2)([*arrays, residual], aligned(shape, np.float32, np.nan))
    x = product + residual
    np.testing.assert_allclose(out, np.tanh(x) / (1 + np.exp(-x)), rtol=1e-4, atol=1e-5)


def test_epilogue_that_uses_positions_runs_apart():
    m, n = Var("m"), Var("n")
    later = apply("select", apply("less_equal", n, m), Var("acc", float32), const(-1.0, float32))
    flipped = Read(0, (apply("sub", const(69), n),), float32)
    epilogue = Epilogue(cast(apply("add", later, flipped), float64), float64, (tensor_type(float32, (70,)),))
    rng = np.random.default_rng(10)
    spec, lhs, rhs, _ = SPECS["matmul"]
    arrays, _ = _arrays(rng, spec, lhs, rhs, np.float32)
    extra = aligned((70,), np.float32, rng.standard_normal(70))
    lowered, shape = _lower(spec, arrays, {}, TARGETS["avx512"], 1, epilogue)
    out = Native(lowered, TARGETS["avx512"])([*arrays, extra], aligned(shape, np.float64, np.nan))
    product = arrays[0] @ arrays[1]
    mask = np.arange(70)[None, :] <= np.arange(37)[:, None]
    np.testing.assert_allclose(out, np.where(mask, product, -1) + extra[::-1], rtol=1e-4, atol=1e-4)


def test_partial_sums_in_the_output_forbid_overwriting():
    arrays = [aligned((200, 9000), np.float32), aligned((9000, 40), np.float32)]
    body = apply("add", Var("acc", float32), Read(0, (Var("m"), Var("n")), float32))
    epilogue = Epilogue(body, float32, (tensor_type(float32, (200, 40)),))
    lowered, _ = _lower("m k, k n -> m n", arrays, {}, TARGETS["avx512"], 1, epilogue)
    assert lowered.in_place == ()


def test_packing_reads_one_operand_only():
    arrays, _ = _arrays(np.random.default_rng(11), "m k, n k -> m n", (40, 30), (50, 30), np.float32)
    lowered, _ = _lower("m k, n k -> m n", arrays, {}, TARGETS["avx512"], constants=(1,))
    pack, multiply = lowered.calls
    assert [o.kind.value for o in pack.operands] == ["input", "temporary"]
    assert pack.operands[0].index == 1
    assert pack.operands[1] in multiply.operands


def test_empty_depth_gives_zeros():
    arrays = [aligned((4, 0), np.float32), aligned((0, 20), np.float32)]
    lowered, shape = _lower("m k, k n -> m n", arrays, {}, TARGETS["avx512"])
    out = Native(lowered, TARGETS["avx512"])(arrays, aligned(shape, np.float32, np.nan))
    assert np.array_equal(out, np.zeros((4, 20), np.float32))


def test_layers_of_one_structure_share_micro_kernels():
    found = []
    for channels in (64, 128):
        arrays = [aligned((1, 16, 16, channels), np.float32), aligned((3, 3, channels, 64), np.float32)]
        lowered, _ = _lower("n h+r w+s c, r s c k -> n h w k", arrays, {}, TARGETS["avx512"], constants=(1,))
        found.append({s.kernel for s in statements(lowered.calls[-1].kernel.body) if isinstance(s, Call)})
    assert found[0] == found[1]
