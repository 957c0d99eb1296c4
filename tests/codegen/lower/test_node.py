"""Lowering of single nodes and hand-made groups: every form, dtype and border case, against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.codegen.llvm.target import host_target
from dlc.codegen.loops import blocks as schedule_loops
from dlc.codegen.lower import group as lower_group
from dlc.codegen.lower import node as lower_module
from dlc.codegen.lower.node import lower, structure
from dlc.codegen.rows import split as schedule_split
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Value
from dlc.ir.interpret import interpret_all
from dlc.ir.kernel import For, If, LoopKind, statements
from dlc.ir.lowering import Lowered
from dlc.ir.types import as_dtype, float32, tensor_type
from dlc.passes.fusion.fuse import fuse
from tests.codegen.lowering import HOST, check_node

RNG = np.random.default_rng(5)


def numbers(*shape: int, dtype: object = np.float32) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return RNG.random(shape) < 0.5
    if kind.kind in "iu":
        return RNG.integers(0 if kind.kind == "u" else -9, 10, shape).astype(kind)
    return RNG.standard_normal(shape).astype(kind)


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even small work into tasks."""
    monkeypatch.setattr(lower_module, "_known", {})
    for module in (schedule_loops, schedule_split, lower_group):
        monkeypatch.setattr(module, "TASK_WORK", 100)


def check(
    function: Callable[..., Value | tuple[Value, ...]],
    *arrays: np.ndarray,
    threads: int = 2,
    emulated: bool = True,
    target: CpuTarget = HOST,
    tolerance: float = 2e-5,
) -> list[Lowered]:
    """Build, fuse and lower ``function``; compare every node of the result with its definition."""
    b = Builder("test")
    inputs = [b.input(f"i{k}", tensor_type(as_dtype(a.dtype), a.shape)) for k, a in enumerate(arrays)]
    results = function(b, *inputs)
    for number, value in enumerate(results if isinstance(results, tuple) else (results,)):
        b.output(f"o{number}", value)
    graph = fuse(b.finish())
    values = interpret_all(graph, {f"i{k}": a for k, a in enumerate(arrays)})
    checked = []
    for node in graph.nodes:
        if node.inputs and (node.op.name != "reshape" or len(graph.nodes) == 1):
            operands = [values[v] for v in node.inputs]
            checked.append(check_node(node, operands, threads, emulated, target, tolerance))
    return checked


FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
INTEGERS = [np.int8, np.int32, np.int64, np.uint8, np.uint16]


# -- reductions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (2,), (0, 2)])
def test_sums_of_every_dtype(dtype: object, axes: tuple[int, ...]) -> None:
    check(lambda b, x: b.reduce_sum(x, axes=axes), numbers(3, 5, 37, dtype=dtype))


@pytest.mark.parametrize("op", ["reduce_max", "reduce_min", "reduce_prod"])
@pytest.mark.parametrize("axes", [(0,), (1,)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, np.float16])
def test_other_combiners(op: str, axes: tuple[int, ...], dtype: object) -> None:
    x = numbers(6, 21, dtype=dtype)
    check(lambda b, x: b.call(op, x, axes=axes), np.clip(x, 0, 2) if op == "reduce_prod" else x)


@pytest.mark.parametrize("op", ["reduce_or", "reduce_and"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_truth_values(op: str, axes: tuple[int, ...]) -> None:
    check(lambda b, x: b.call(op, x, axes=axes), numbers(4, 70, dtype=bool))


@pytest.mark.parametrize("op", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64])
def test_positions_are_of_the_first_extreme(op: str, axis: int, dtype: object) -> None:
    x = np.round(numbers(7, 33, 18, dtype=dtype) * (2 if np.dtype(dtype).kind == "f" else 1)).astype(dtype)
    check(lambda b, x: b.call(op, x, axis=axis), x, emulated=False)


def test_position_of_nan_and_of_infinities() -> None:
    x = numbers(5, 40)
    x[0, 17] = x[0, 30] = np.nan
    x[1] = -np.inf
    x[2, 3] = np.inf
    x[3] = np.nan
    check(lambda b, x: b.argmax(x, axis=1), x)
    check(lambda b, x: b.argmin(x, axis=1), x)
    check(lambda b, x: b.argmax(x, axis=0), x)


def test_extremes_propagate_nan() -> None:
    x = numbers(4, 50)
    x[1, 3] = np.nan
    check(lambda b, x: b.reduce_max(x, axes=(1,)), x)
    check(lambda b, x: b.reduce_max(x, axes=(0,)), x)


def test_reduction_over_nothing_is_the_identity() -> None:
    x = numbers(3, 0, 4)
    check(lambda b, x: b.reduce_sum(x, axes=(1,)), x)
    check(lambda b, x: b.reduce_max(x, axes=(1,)), x)
    check(lambda b, x: b.reduce_prod(x, axes=(1, 2)), x)


def test_empty_results_need_no_work() -> None:
    assert check(lambda b, x: b.exp(x), numbers(0, 4))[0].calls == ()
    assert check(lambda b, x: b.reduce_sum(x, axes=(1,)), numbers(0, 4))[0].calls == ()


def test_scalars() -> None:
    check(lambda b, x: b.exp(x), numbers())
    check(lambda b, x: b.reduce_sum(x, axes=()), numbers())
    check(lambda b, x: b.reduce_sum(x, axes=(0,)), numbers(1))


def test_long_sums_keep_their_digits() -> None:
    x = (np.random.default_rng(1).random((300_000,)) + 1).astype(np.float32)
    check(lambda b, x: b.reduce_sum(x, axes=(0,)), x, emulated=False, tolerance=3e-7)
    check(lambda b, x: b.reduce_sum(x, axes=(0,)), x.reshape(-1, 20), emulated=False, tolerance=1e-5)
    b = Builder("columns")
    value = b.input("x", tensor_type(float32, (15_000, 20)))
    b.reduce_sum(value, axes=(0,))
    columns = x.reshape(-1, 20)
    from tests.codegen.lowering import run_lowered

    node = b.nodes[-1]
    (total,) = run_lowered(lower(node, HOST, 1), node, [columns], HOST)
    np.testing.assert_allclose(total, columns.sum(0, dtype=np.float64), rtol=1e-6)


def test_sums_of_halves_are_made_in_single_precision() -> None:
    x = np.full((1, 5000), 0.1, np.float16)
    check(lambda b, x: b.reduce_sum(x, axes=(1,)), x, emulated=False)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_tasks_of_reductions(axes: tuple[int, ...], threads: int, small_tasks: None) -> None:
    check(lambda b, x: b.reduce_sum(b.mul(x, x), axes=axes), numbers(67, 53), threads=threads, emulated=threads == 3)


def test_few_rows_are_split_and_combined(small_tasks: None) -> None:
    (lowered,) = check(lambda b, x: b.reduce_sum(x, axes=(0,)), numbers(1000, 16), threads=4)
    assert [c.kernel.name for c in lowered.calls] == ["partial_reduction", "combine"]
    assert lowered.calls[0].kernel.tasks >= 4


@pytest.mark.parametrize("threads", [1, 2])
def test_split_depends_on_threads_only(threads: int, small_tasks: None) -> None:
    x = numbers(999, 7)
    b = Builder("twice")
    value = b.input("x", tensor_type(float32, x.shape))
    b.reduce_sum(value, axes=(0,))
    first = lower(b.nodes[-1], HOST, threads)
    lower_module._known.clear()
    assert lower(b.nodes[-1], HOST, threads) == first


# -- pooling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combiner", ["maximum", "minimum", "add"])
@pytest.mark.parametrize("channels", [1, 5, 16, 70])
def test_padded_windows(combiner: str, channels: int) -> None:
    neutral = {"maximum": -np.inf, "minimum": np.inf, "add": 0.0}[combiner]

    def pool(b: Builder, x: Value) -> Value:
        edge = (0, 1, 1, 0)
        padded = b.pad(x, b.constant(neutral, float32), low=edge, high=edge, interior=(0, 0, 0, 0))
        window = {"window": (1, 3, 2, 1), "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 1)}
        return b.mul(b.reduce_window(padded, combiner=combiner, **window), 2.0)

    (lowered,) = check(pool, numbers(2, 7, 6, channels), emulated=channels < 20)
    assert len(lowered.calls) == 1


def test_windows_over_contiguous_axes() -> None:
    window = {"window": (1, 1, 3, 3), "strides": (1, 1, 2, 2), "dilations": (1, 1, 1, 1)}
    check(lambda b, x: b.reduce_window(x, combiner="maximum", **window), numbers(2, 3, 9, 9))


# -- movement -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(48, 64), (33, 17), (5, 3), (2, 32, 48), (3, 2, 16, 16), (20, 18, 3, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.float16])
def test_transposes(shape: tuple[int, ...], dtype: object, small_tasks: None) -> None:
    rank = len(shape)
    for permutation in {tuple(reversed(range(rank))), (*range(1, rank), 0), (rank - 1, *range(rank - 1))}:
        x = numbers(*shape, dtype=dtype)
        check(lambda b, x, p=permutation: b.transpose(x, permutation=p), x, emulated=x.size < 600)


def test_transposed_sums_keep_their_other_operands() -> None:
    def function(b: Builder, x: Value, row: Value) -> tuple[Value, Value]:
        turned = b.transpose(b.mul(x, 2.0), permutation=(2, 0, 1))
        return turned, b.add(turned, row)

    check(function, numbers(18, 20, 33), numbers(20))


def test_padding_tests_nothing_per_element() -> None:
    def pad(b: Builder, x: Value) -> Value:
        zero = b.constant(0.0, float32)
        return b.pad(x, zero, low=(0, 1, 2, 0), high=(0, 1, 0, 0), interior=(0, 0, 0, 0))

    (lowered,) = check(pad, numbers(2, 5, 6, 16))
    for statement in statements(lowered.calls[0].kernel.body):
        if isinstance(statement, For) and statement.kind is LoopKind.VECTOR:
            assert "select" not in repr(statement) and statement.active is None


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_interior_padding_and_cropping(channels: int) -> None:
    def pad(b: Builder, x: Value) -> Value:
        return b.pad(x, b.constant(1.5, float32), low=(2, -1, 0), high=(-1, 3, 0), interior=(1, 2, 0))

    check(pad, numbers(4, 5, channels))


def test_concatenation_of_channels_and_of_rows(small_tasks: None) -> None:
    x, y, z = numbers(2, 3, 16), numbers(2, 3, 5), numbers(2, 3, 32)
    check(lambda b, x, y, z: b.concat(x, y, z, axis=2), x, y, z)
    (lowered,) = check(lambda b, x, y: b.concat(x, y, axis=0), numbers(40, 9), numbers(30, 9), threads=3)
    assert any(isinstance(s, If) for s in statements(lowered.calls[0].kernel.body))


@pytest.mark.parametrize("axis", [0, 1])
def test_concatenation_of_many(axis: int, small_tasks: None) -> None:
    arrays = [numbers(3, 5) for _ in range(300)]
    check(lambda b, *xs: b.concat(*xs, axis=axis), *arrays, emulated=False)


def test_heads_of_attention() -> None:
    check(lambda b, x: b.transpose(b.reshape_to(x, (6, 4, 16)), permutation=(1, 0, 2)), numbers(6, 64))
    check(lambda b, x: b.reshape_to(b.transpose(b.mul(x, 2.0), permutation=(1, 0, 2)), (6, 64)), numbers(4, 6, 16))


def test_gathered_rows_join_what_follows() -> None:
    def embed(b: Builder, table: Value, tokens: Value, positions: Value) -> Value:
        total = b.add(b.gather(table, tokens, axis=0), positions)
        return b.sub(total, b.div(b.reduce_sum(total, axes=(1,), keepdims=True), 20.0))

    (lowered,) = check(embed, numbers(50, 20), RNG.integers(-50, 50, (8,)), numbers(8, 20))
    assert len(lowered.calls) == 1


def test_interleaved_halves() -> None:
    def rotate(b: Builder, x: Value) -> Value:
        pairs = b.reshape_to(x, (6, 8, 2))
        even = b.slice(pairs, starts=(0, 0, 0), limits=(6, 8, 1), strides=(1, 1, 1))
        odd = b.slice(pairs, starts=(0, 0, 1), limits=(6, 8, 2), strides=(1, 1, 1))
        return b.reshape_to(b.concat(b.neg(odd), even, axis=2), (6, 16))

    check(rotate, numbers(6, 16))


# -- mixed dtypes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_dtype", ["int8", "int64", "bool", "float16", "bfloat16", "float64", "uint8"])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16, bool])
def test_casts(dtype: object, target_dtype: str) -> None:
    check(lambda b, x: b.cast(x, dtype=as_dtype(target_dtype)), numbers(5, 19, dtype=dtype))


def test_mixed_widths_in_one_group() -> None:
    def function(b: Builder, x: Value, labels: Value) -> tuple[Value, Value]:
        hit = b.equal(b.cast_to(b.argmax(x, axis=1), labels.type.dtype), labels)
        return hit, b.reduce_sum(b.cast_to(hit, float32), axes=(0,))

    check(function, numbers(30, 10), RNG.integers(0, 10, (30,)).astype(np.int32))


# -- in place and tasks --------------------------------------------------------------------------------------


def test_elementwise_nodes_may_overwrite_an_operand() -> None:
    (lowered,) = check(lambda b, x, y: b.add(b.exp(x), y), numbers(4, 40), numbers(4, 40))
    assert lowered.in_place == ((0, 0), (0, 1))


def test_operands_read_elsewhere_are_not_overwritten() -> None:
    (lowered,) = check(lambda b, x: b.add(x, b.reverse(x, axes=(0,))), numbers(40))
    assert lowered.in_place == ()
    (lowered,) = check(lambda b, x, y: b.add(x, y), numbers(40), numbers(1))
    assert lowered.in_place == ((0, 0),)


def test_optimizer_updates_overwrite_their_state() -> None:
    def momentum(b: Builder, p: Value, m: Value, g: Value) -> tuple[Value, Value]:
        new = b.add(b.mul(m, 0.9), g)
        return new, b.sub(p, b.mul(new, 0.1))

    (lowered,) = check(momentum, numbers(333), numbers(333), numbers(333))
    assert set(lowered.in_place) == {(new, old) for new in (0, 1) for old in (0, 1, 2)}


@pytest.mark.parametrize("shape", [(5000,), (70, 70), (7, 9, 11), (3, 2000), (1, 1, 999)])
@pytest.mark.parametrize("threads", [2, 5])
def test_tasks_of_pointwise_groups(shape: tuple[int, ...], threads: int, small_tasks: None) -> None:
    row = numbers(shape[-1])
    (lowered,) = check(lambda b, x, r: b.add(b.mul(x, 2.0), r), numbers(*shape), row, threads=threads, emulated=False)
    assert lowered.calls[0].kernel.tasks > 1


def test_small_work_is_one_task() -> None:
    (lowered,) = check(lambda b, x: b.add(x, 1.0), numbers(64, 16), threads=8)
    assert lowered.calls[0].kernel.tasks == 1


def test_costly_values_of_a_row_are_computed_once() -> None:
    def softmax(b: Builder, x: Value) -> Value:
        e = b.exp(b.sub(x, b.reduce_max(x, axes=(1,), keepdims=True)))
        return b.div(e, b.reduce_sum(e, axes=(1,), keepdims=True))

    (lowered,) = check(softmax, numbers(4, 64))  # whole rounds of vectors: one loop
    text = repr(lowered.calls[0].kernel)
    assert text.count("op='exp'") == 1


# -- other targets and errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["generic", "avx2"])
def test_other_targets(level: str) -> None:
    target = host_target(level)

    def normalise(b: Builder, x: Value, s: Value) -> Value:
        centred = b.sub(x, b.div(b.reduce_sum(x, axes=(1,), keepdims=True), 37.0))
        variance = b.reduce_sum(b.mul(centred, centred), axes=(1,), keepdims=True)
        return b.mul(b.mul(centred, b.rsqrt(b.add(variance, 1e-5))), s)

    check(normalise, numbers(6, 37), numbers(37), target=target)
    check(lambda b, x: b.reduce_sum(x, axes=(0,)), numbers(40, 37), target=target)
    check(lambda b, x: b.argmax(x, axis=1), numbers(6, 37), target=target)


def test_nodes_of_one_structure_are_lowered_once() -> None:
    b = Builder("layers")
    x = b.input("x", tensor_type(float32, (4, 8)))
    y = b.exp(x)
    b.exp(y)
    first, second = b.nodes
    assert structure(first) == structure(second)
    assert lower(first, HOST, 2) is lower(second, HOST, 2)


def test_symbolic_and_composite_nodes_are_refused() -> None:
    b = Builder("test")
    b.exp(b.input("x", tensor_type(float32, (symbol("n"),))))
    with pytest.raises(CompileError, match="symbolic"):
        lower(b.nodes[-1], HOST, 1)
    b = Builder("test")
    b.relu(b.input("x", tensor_type(float32, (4,))))
    with pytest.raises(CompileError, match="primitive"):
        lower(b.nodes[-1], HOST, 1)
