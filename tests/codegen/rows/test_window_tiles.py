"""Window reductions in tiles of neighbours: the emulator and native code at every level against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.codegen.llvm.emit import emit_module
from dlc.codegen.llvm.target import host_target
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.kernel import Alloc, For, If, LoopKind, Store, statements
from dlc.ir.lowering import Lowered
from dlc.ir.types import as_dtype, float32
from tests.codegen.lower.test_node import check, numbers, small_tasks  # noqa: F401 - the fixture

LEVELS = ["", "avx512", "avx2", "generic"]


def depthwise(b: Builder, x: Value, w: Value, low: int, high: int, stride: int = 1, dilation: int = 1) -> Value:
    edges = {"low": (0, 1, low, 0), "high": (0, 1, high, 0), "interior": (0, 0, 0, 0)}
    spec = f"n h*{stride}+r*{dilation} w*{stride}+s*{dilation} c, r s c -> n h w c"
    return b.contract(b.pad(x, b.constant(0.0, float32), **edges), w, spec=spec)


def grouped(b: Builder, x: Value, w: Value, groups: int, edge: int = 1, stride: int = 1) -> Value:
    edges = {"low": (0, edge, edge, 0), "high": (0, edge, edge, 0), "interior": (0, 0, 0, 0)}
    spec = f"n h*{stride}+r w*{stride}+s (g c), r s c (g o) -> n h w (g o)"
    return b.contract(b.pad(x, b.constant(0.0, float32), **edges), w, spec=spec, sizes=(("g", groups),))


def tiled(lowered: Lowered) -> bool:
    """Whether the sums of several neighbours are kept side by side."""
    body = lowered.calls[0].kernel.body
    return any(isinstance(s, Alloc) and s.buffer.name == "sums" for s in statements(body))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [4, 5, 7, 11, 23, 40])
@pytest.mark.parametrize("low, high", [(0, 0), (1, 1), (3, 0)])
def test_depthwise_convolutions(width: int, low: int, high: int, level: str) -> None:
    def function(b: Builder, x: Value, w: Value, bias: Value) -> Value:
        return b.maximum(b.add(depthwise(b, x, w, low, high), bias), 0.0)

    arrays = numbers(1, 5, width, 20), numbers(3, 3, 20), numbers(20)
    (lowered,) = check(function, *arrays, emulated=width == 7, target=host_target(level))
    assert tiled(lowered) and len(lowered.calls) == 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "groups, inputs, outputs", [(16, 4, 4), (9, 8, 8), (5, 4, 4), (10, 2, 2), (6, 1, 4), (6, 8, 4)]
)
def test_convolutions_of_narrow_groups(groups: int, inputs: int, outputs: int, level: str) -> None:
    def function(b: Builder, x: Value, w: Value, bias: Value, residual: Value) -> Value:
        return b.maximum(b.add(b.add(grouped(b, x, w, groups), bias), residual), 0.0)

    channels = groups * outputs
    arrays = numbers(1, 5, 11, groups * inputs), numbers(3, 3, inputs, channels), numbers(channels)
    residual = numbers(1, 5, 11, channels)
    (lowered,) = check(function, *arrays, residual, emulated=groups < 7, target=host_target(level))
    assert tiled(lowered) and len(lowered.calls) == 1 and lowered.temporaries == ()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size, edge, stride", [(3, 1, 2), (5, 2, 1), (1, 0, 1), (2, 0, 1), (2, 1, 2)])
def test_other_windows_of_narrow_groups(size: int, edge: int, stride: int, level: str) -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        return grouped(b, x, w, 12, edge, stride)

    arrays = numbers(2, 9, 13, 48), numbers(size, size, 4, 48)
    (lowered,) = check(function, *arrays, emulated=False, target=host_target(level))
    assert len(lowered.calls) == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.int8])
def test_narrow_groups_of_other_dtypes(dtype: object) -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        spec = "n h+r w+s (g c), r s c (g o) -> n h w (g o)"
        return b.contract(x, w, spec=spec, sizes=(("g", 6),))

    arrays = numbers(1, 4, 9, 24, dtype=dtype), numbers(3, 3, 4, 24, dtype=dtype)
    check(function, *arrays, tolerance=3e-2 if np.dtype(dtype).itemsize == 2 else 2e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_tasks_of_narrow_groups(threads: int, small_tasks: None) -> None:  # noqa: F811
    arrays = numbers(1, 6, 9, 256), numbers(3, 3, 8, 256)
    (lowered,) = check(lambda b, x, w: grouped(b, x, w, 32), *arrays, threads=threads, emulated=False)
    assert tiled(lowered) and lowered.calls[0].kernel.tasks >= threads


def test_inputs_of_narrow_groups_are_not_gathered() -> None:
    (lowered,) = check(lambda b, x, w: grouped(b, x, w, 16), numbers(1, 5, 11, 64), numbers(3, 3, 4, 64))
    for level in LEVELS:
        assert "masked.gather" not in emit_module([lowered.calls[0].kernel], host_target(level)).text


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 33, 50, 96])
def test_channels_that_fill_no_vectors(channels: int) -> None:
    arrays = numbers(1, 6, 9, channels), numbers(3, 3, channels)
    check(lambda b, x, w: depthwise(b, x, w, 1, 1), *arrays, emulated=channels < 20)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size, stride, dilation", [(5, 1, 1), (7, 1, 1), (3, 2, 1), (3, 1, 2), (5, 2, 2), (7, 3, 1)])
def test_large_strided_and_dilated_windows(size: int, stride: int, dilation: int, level: str) -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        return depthwise(b, x, w, size // 2, size // 2, stride, dilation)

    (lowered,) = check(
        function, numbers(2, 12, 31, 34), numbers(size, size, 34), emulated=False, target=host_target(level)
    )
    assert tiled(lowered)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 2, 9, 200), (1, 7, 7, 96), (3, 4, 20, 16), (1, 30, 5, 40)])
def test_tasks_are_lines_and_blocks_of_channels(shape: tuple[int, ...], threads: int, small_tasks: None) -> None:  # noqa: F811
    arrays = numbers(*shape), numbers(3, 3, shape[-1])
    (lowered,) = check(lambda b, x, w: depthwise(b, x, w, 1, 1), *arrays, threads=threads, emulated=False)
    assert lowered.calls[0].kernel.tasks >= threads


@pytest.mark.parametrize("combiner", ["maximum", "minimum", "add"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
def test_overlapping_pools(combiner: str, dtype: object) -> None:
    kind = np.dtype(dtype)
    info = np.iinfo(kind) if kind.kind == "i" else None
    lowest, highest = (info.min, info.max) if info else (-np.inf, np.inf)
    neutral = {"maximum": lowest, "minimum": highest, "add": 0}[combiner]

    def pool(b: Builder, x: Value) -> Value:
        edge = (0, 1, 1, 0)
        padded = b.pad(x, b.constant(neutral, as_dtype(kind)), low=edge, high=edge, interior=(0, 0, 0, 0))
        window = {"window": (1, 3, 3, 1), "strides": (1, 1, 1, 1), "dilations": (1, 1, 1, 1)}
        return b.reduce_window(padded, combiner=combiner, **window)

    (lowered,) = check(pool, numbers(1, 7, 8, 16, dtype=dtype), tolerance=2e-3 if kind.itemsize == 2 else 2e-5)
    assert tiled(lowered)


def test_windows_over_three_axes() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        edge = (0, 1, 1, 1, 0)
        padded = b.pad(x, b.constant(0.0, float32), low=edge, high=edge, interior=(0,) * 5)
        return b.contract(padded, w, spec="n d+q h+r w+s c, q r s c -> n d h w c")

    (lowered,) = check(function, numbers(1, 3, 4, 9, 20), numbers(3, 3, 3, 20), emulated=False)
    assert tiled(lowered)


def test_windows_along_one_axis() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        padded = b.pad(x, b.constant(0.0, float32), low=(0, 2, 0), high=(0, 2, 0), interior=(0, 0, 0))
        return b.contract(padded, w, spec="n w+s c, s c -> n w c")

    (lowered,) = check(function, numbers(1, 19, 20), numbers(5, 20))
    assert tiled(lowered)


def test_no_tap_is_tested() -> None:
    (lowered,) = check(lambda b, x, w: depthwise(b, x, w, 1, 1), numbers(1, 7, 30, 32), numbers(3, 3, 32))
    body = lowered.calls[0].kernel.body
    assert "select" not in repr(body) and not any(isinstance(s, If) for s in statements(body))


def test_a_tile_clears_every_sum_and_writes_every_result() -> None:
    (lowered,) = check(lambda b, x, w: depthwise(b, x, w, 1, 1), numbers(1, 4, 5, 16), numbers(3, 3, 16))
    vectors = [s for s in statements(lowered.calls[0].kernel.body) if isinstance(s, For) and s.kind is LoopKind.VECTOR]
    stores = [s.buffer for v in vectors for s in v.body if isinstance(s, Store)]
    assert stores.count("sums") == 5 and len(stores) == 10


@pytest.mark.parametrize("first", [False, True], ids=["second", "first"])
@pytest.mark.parametrize("window", ["maximum", "add", "depthwise"])
def test_lines_read_at_halves_of_their_position_beside_others(window: str, first: bool) -> None:
    """A sum with an image enlarged twice: one operand is read at a quotient, which neighbours do not shift."""

    def function(b: Builder, x: Value, y: Value, w: Value) -> Value:
        large = b.reshape(b.broadcast(x, shape=(1, 8, 2, 10, 2, 16), dims=(0, 1, 3, 5)), shape=(1, 16, 20, 16))
        both = b.add(large, y) if first else b.add(y, large)
        if window == "depthwise":
            return depthwise(b, both, w, 0, 0)
        return b.reduce_window(both, combiner=window, window=(1, 3, 3, 1), strides=1, dilations=1)

    check(function, numbers(1, 8, 10, 16), numbers(1, 16, 20, 16), numbers(3, 3, 16), emulated=False)
