"""Outputs written inside larger tensors, and inputs read there: values, and nothing else touched, on every target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower import contraction as contract_schedule
from dlc.codegen.lower.contraction import lower_contraction
from dlc.codegen.lower.node import lower
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.fixed_blocking import fixed_form
from dlc.codegen.winograd.blocking import best_blocking
from dlc.ir.builder import Builder
from dlc.ir.contraction import group_shape, infer_extents, parse_spec
from dlc.ir.epilogue import ACCUMULATOR, Epilogue, no_epilogue
from dlc.ir.expr import Read, Var, apply, const
from dlc.ir.graph import Node, Value
from dlc.ir.lowering import Lowered, OperandKind
from dlc.ir.ops.contract import contract_evaluate
from dlc.ir.placement import Inside, Layout, Placement, row_major, span
from dlc.ir.types import float32
from dlc.ir.verify_kernel import verify
from tests.codegen.contract.test_pairs import halves
from tests.codegen.contract_native import Native, aligned, run_emulated, type_of
from tests.codegen.kernel_native import Function
from tests.codegen.lower.test_joins import node_of
from tests.codegen.lowering import close, expected_of
from tests.codegen.plain_targets import AMX

TARGETS = {level: host_target(level) for level in ("generic", "avx2", "avx512")}
CONV = "n h+r w+s c, r s c k -> n h w k"
UNTOUCHED = 77


class Whole:
    """A tensor of ``UNTOUCHED`` that is wider than a part by ``before`` and ``after`` in each dimension."""

    def __init__(self, shape: Sequence[int], before: Sequence[int], after: Sequence[int], dtype: np.dtype) -> None:
        self.array = aligned(tuple(b + n + a for b, n, a in zip(before, shape, after, strict=True)), dtype, UNTOUCHED)
        steps = row_major(self.array.shape)
        self.layout = Layout.of(shape, steps)
        self.first = sum(b * s for b, s in zip(before, steps, strict=True))
        self.end = self.first + span(shape, steps)
        self.box = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))

    @property
    def part(self) -> np.ndarray:
        return self.array[self.box]

    @property
    def memory(self) -> np.ndarray:
        """What a kernel is given: the memory from the part's first element to its last one."""
        return self.array.reshape(-1)[self.first : self.end]

    def check_rest(self) -> None:
        """Nothing around the part was written."""
        rest = np.ones(self.array.shape, bool)
        rest[self.box] = False
        assert (self.array[rest] == UNTOUCHED).all()


def along(axis: int, rank: int, before: int, after: int) -> tuple[list[int], list[int]]:
    return [before if d == axis else 0 for d in range(rank)], [after if d == axis else 0 for d in range(rank)]


# -- contractions -------------------------------------------------------------------------------------

SPECS = {
    "matmul": ("m k, k n -> m n", (37, 40), (40, 50)),
    "many panels": ("m k, k n -> m n", (65, 70), (70, 130)),
    "few columns": ("m k, k n -> m n", (50, 30), (30, 5)),
    "few rows": ("m k, n k -> m n", (2, 64), (48, 64)),
    "depth split": ("m k, k n -> m n", (5, 4096), (4096, 16)),
    "batched": ("b m k, b k n -> b m n", (3, 20, 17), (3, 17, 33)),
    "rows of two axes": ("n h w c, c k -> n h w k", (2, 5, 7, 24), (24, 20)),
    "grouped": ("n h w (g c), (g o) c -> n h w (g o)", (1, 4, 5, 24), (20, 6)),
    "convolution": (CONV, (2, 9, 11, 8), (3, 3, 8, 20)),
    "depthwise": ("n h+r w+s g, r s g -> n h w g", (1, 7, 9, 20), (3, 3, 20)),
}


def lowered_into(
    spec_text: str,
    arrays: Sequence[np.ndarray],
    layout: Layout | None,
    target: CpuTarget,
    threads: int = 1,
    epilogue: Epilogue | None = None,
    sizes: dict[str, int] | None = None,
) -> Lowered:
    spec = parse_spec(spec_text)
    types = [type_of(a) for a in arrays[:2]]
    extents = infer_extents(spec, types[0].shape, types[1].shape, sizes or {})
    result = float32 if types[0].dtype.itemsize == 2 else types[0].dtype
    chosen = epilogue or no_epilogue(result)
    lowered = lower_contraction(spec, extents, *types, chosen, target, threads, frozenset({1}), result, layout)
    for call in lowered.calls:
        verify(call.kernel)
    return lowered


def operands(name: str, dtype: type = np.float32) -> tuple[str, list[np.ndarray], dict[str, int]]:
    spec, lhs, rhs = SPECS[name]
    rng = np.random.default_rng(3)
    draw = rng.normal if np.dtype(dtype).kind == "f" else lambda size: rng.integers(-9, 9, size)
    arrays = [aligned(shape, dtype) for shape in (lhs, rhs)]
    for array in arrays:
        array[...] = draw(size=array.shape)
    return spec, arrays, {"g": 4, "o": 5} if name == "grouped" else {}


def output_shape(spec_text: str, arrays: Sequence[np.ndarray], sizes: dict[str, int]) -> tuple[int, ...]:
    spec = parse_spec(spec_text)
    return tuple(group_shape(spec.output, infer_extents(spec, arrays[0].shape, arrays[1].shape, sizes)))


def evaluated(spec: str, arrays: Sequence[np.ndarray], sizes: dict[str, int]) -> np.ndarray:
    return contract_evaluate({"spec": spec, "sizes": tuple(sizes.items())}, *arrays[:2])


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", SPECS)
def test_contractions_write_parts_of_a_concatenation(name: str, level: str) -> None:
    spec, arrays, sizes = operands(name)
    shape, target = output_shape(spec, arrays, sizes), TARGETS[level]
    wanted = evaluated(spec, arrays, sizes)
    for axis, threads in ((len(shape) - 1, 1), (len(shape) - 1, 2), (0, 1)):
        whole = Whole(shape, *along(axis, len(shape), 3, 18), np.dtype(np.float32))
        lowered = lowered_into(spec, arrays, whole.layout, target, threads, sizes=sizes)
        assert lowered.placed == (0,)
        Native(lowered, target, threads)(arrays, whole.memory)
        close(whole.part, wanted)
        whole.check_rest()
        dense = Native(lowered_into(spec, arrays, None, target, threads, sizes=sizes), target, threads)
        np.testing.assert_array_equal(whole.part, dense(arrays, aligned(shape, np.float32)))


@pytest.mark.parametrize("name", ["matmul", "few rows", "depth split", "convolution"])
def test_contractions_write_parts_in_the_emulator(name: str) -> None:
    spec, arrays, sizes = operands(name)
    shape = output_shape(spec, arrays, sizes)
    whole = Whole(shape, *along(len(shape) - 1, len(shape), 3, 18), np.dtype(np.float32))
    lowered = lowered_into(spec, arrays, whole.layout, TARGETS["avx512"], 2, sizes=sizes)
    run_emulated(lowered, arrays, whole.memory)
    close(whole.part, evaluated(spec, arrays, sizes))
    whole.check_rest()


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_every_dtype_is_written_in_parts(dtype: type) -> None:
    spec, arrays, sizes = operands("matmul", dtype)
    shape = output_shape(spec, arrays, sizes)
    whole = Whole(shape, (0, 2), (0, 3), np.dtype(dtype))
    lowered = lowered_into(spec, arrays, whole.layout, TARGETS["avx512"])
    assert lowered.placed == (0,)
    Native(lowered, TARGETS["avx512"])(arrays, whole.memory)
    close(whole.part, evaluated(spec, arrays, sizes))
    whole.check_rest()


def test_epilogues_read_whole_tensors_beside_a_part() -> None:
    spec, arrays, sizes = operands("matmul")
    shape = output_shape(spec, arrays, sizes)
    arrays.append(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    here = (Var("m"), Var("n"))
    body = apply("maximum", apply("add", Var(ACCUMULATOR, float32), Read(0, here, float32)), const(0, float32))
    whole = Whole(shape, (0, 5), (0, 2), np.dtype(np.float32))
    epilogue = Epilogue(body, float32, (type_of(arrays[2]),))
    lowered = lowered_into(spec, arrays, whole.layout, TARGETS["avx512"], epilogue=epilogue)
    assert lowered.placed == (0,) and not lowered.in_place
    Native(lowered, TARGETS["avx512"])(arrays, whole.memory)
    close(whole.part, np.maximum(evaluated(spec, arrays, sizes) + arrays[2], 0))
    whole.check_rest()


def test_an_epilogue_of_its_own_kernel_writes_the_part() -> None:
    spec, arrays, sizes = operands("matmul")
    shape = output_shape(spec, arrays, sizes)
    row = Read(0, (apply("floor_mod", Var("m"), const(2)),), float32)
    arrays.append(np.array([2.0, -1.0], np.float32))
    epilogue = Epilogue(apply("mul", Var(ACCUMULATOR, float32), row), float32, (type_of(arrays[2]),))
    whole = Whole(shape, (0, 5), (0, 2), np.dtype(np.float32))
    lowered = lowered_into(spec, arrays, whole.layout, TARGETS["avx512"], epilogue=epilogue)
    assert lowered.placed == (0,)
    Native(lowered, TARGETS["avx512"])(arrays, whole.memory)
    close(whole.part, evaluated(spec, arrays, sizes) * arrays[2][np.arange(shape[0]) % 2, None])
    whole.check_rest()


@pytest.mark.parametrize("level", TARGETS)
def test_filtering_writes_parts_and_the_middle_of_images(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setattr(contract_schedule, "choose_winograd", lambda found, t, n, _: best_blocking(found, t, n)[1])
    rng, target = np.random.default_rng(5), TARGETS[level]
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((1, 11, 13, 32), (3, 3, 32, 40))]
    shape = output_shape(CONV, arrays, {})
    for before, after in (((0, 0, 0, 8), (0, 0, 0, 3)), ((0, 1, 1, 0), (0, 1, 1, 0)), ((0, 1, 1, 4), (0, 0, 2, 6))):
        whole = Whole(shape, before, after, np.dtype(np.float32))
        lowered = lowered_into(CONV, arrays, whole.layout, target)
        assert lowered.placed == (0,) and any(c.kernel.name.startswith("transform_") for c in lowered.calls)
        Native(lowered, target)(arrays, whole.memory)
        close(whole.part, evaluated(CONV, arrays, {}), 1e-4)
        whole.check_rest()


def test_products_on_tiles_write_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed point and pairs of bfloat16 on AMX, in the emulator."""
    rng = np.random.default_rng(6)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((37, 300), (300, 70))]
    whole = Whole((37, 70), (0, 6), (0, 5), np.dtype(np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(contract_schedule, "choose_fixed", lambda problem, target, *_: fixed_form(problem, target))
        lowered = lowered_into("m k, k n -> m n", arrays, whole.layout, AMX)
    assert len(lowered.temporaries) > 1
    run_emulated(lowered, arrays, whole.memory)
    close(whole.part, arrays[0] @ arrays[1])
    whole.check_rest()
    target = replace(AMX, features=tuple(sorted((*AMX.features, "avx512bf16"))))
    pairs = halves(rng, (37, 96), (96, 70))
    whole = Whole((37, 70), (0, 6), (0, 5), np.dtype(np.float32))
    run_emulated(lowered_into("m k, k n -> m n", pairs, whole.layout, target), pairs, whole.memory)
    close(whole.part, pairs[0].astype(np.float32) @ pairs[1].astype(np.float32))
    whole.check_rest()


def test_rows_that_run_as_one_are_not_taken_apart() -> None:
    """A product of all pixels cannot leave the margins of a padded image out but line by line: it stays whole."""
    spec, arrays, sizes = operands("rows of two axes")
    shape = output_shape(spec, arrays, sizes)
    whole = Whole(shape, (0, 1, 1, 0), (0, 1, 1, 0), np.dtype(np.float32))
    assert lowered_into(spec, arrays, whole.layout, TARGETS["avx512"], sizes=sizes).placed == ()
    spec, arrays, sizes = operands("convolution")
    shape = output_shape(spec, arrays, sizes)
    whole = Whole(shape, (0, 1, 1, 0), (0, 1, 1, 0), np.dtype(np.float32))
    assert lowered_into(spec, arrays, whole.layout, TARGETS["avx512"], sizes=sizes).placed == (0,)


# -- groups ---------------------------------------------------------------------------------------------


def pooled(b: Builder, x: Value) -> Value:
    return b.reduce_window(x, combiner="maximum", window=(1, 3, 3, 1), strides=(1, 2, 2, 1), dilations=(1, 1, 1, 1))


def softmax(b: Builder, x: Value) -> Value:
    e = b.exp(b.sub(x, b.reduce_max(x, axes=(3,), keepdims=True)))
    return b.div(e, b.reduce_sum(e, axes=(3,), keepdims=True))


GROUPS: dict[str, Callable[..., Value | Sequence[Value]]] = {
    "elementwise": lambda b, x: b.tanh(b.add(x, x)),
    "window": pooled,
    "rows": softmax,
    "row sums": lambda b, x: b.reduce_sum(x, axes=(1, 2), keepdims=True),
    "columns": lambda b, x: b.reduce_max(x, axes=(3,), keepdims=False),
    "transposed": lambda b, x: b.tanh(b.transpose(x, permutation=(0, 3, 1, 2))),
    "reshaped": lambda b, x: b.reshape(b.tanh(x), shape=(2, 63, 20)),
    "several": lambda b, x: [b.tanh(x), b.reduce_sum(x, axes=(3,), keepdims=False), b.exp(b.neg(x))],
}
SHAPE = (2, 7, 9, 20)


def run_placed(
    lowered: Lowered, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], target: CpuTarget | None
) -> None:
    temporaries = [aligned(t.shape, t.dtype.numpy, 99) for t in lowered.temporaries]
    found = {OperandKind.INPUT: inputs, OperandKind.OUTPUT: outputs, OperandKind.TEMPORARY: temporaries}
    for call in lowered.calls:
        verify(call.kernel)
        arrays = [found[o.kind][o.index] for o in call.operands]
        if target is None:
            emulate(call.kernel, arrays)
            continue
        function = Function(call.kernel, target)
        for task in reversed(range(call.kernel.tasks)):
            function(*arrays, begin=task, end=task + 1)


@pytest.mark.parametrize("level", [*TARGETS, "emulator"])
@pytest.mark.parametrize("name", GROUPS)
def test_groups_read_and_write_inside_larger_tensors(name: str, level: str) -> None:
    node = node_of(GROUPS[name], SHAPE)
    x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    target = TARGETS.get(level)
    for axis, threads in ((-1, 1), (-1, 2), (1, 2), (0, 1)):
        source = Whole(SHAPE, *along(axis % 4, 4, 2, 3), np.dtype(np.float32))
        source.part[...] = x
        wanted = expected_of(node, [x])
        results = [Whole(w.shape, *along(axis % w.ndim, w.ndim, 1, 4), w.dtype) for w in wanted]
        outputs = tuple((k, whole.layout) for k, whole in enumerate(results))
        placement = Placement(inputs=((0, source.layout),), outputs=outputs)
        lowered = lower(node, target or TARGETS["avx512"], threads, placement=placement)
        assert lowered.placed == tuple(range(len(results))) and (axis != -1 or not lowered.in_place)
        run_placed(lowered, [source.memory], [whole.memory for whole in results], target)
        for whole, expected in zip(results, wanted, strict=True):
            close(whole.part, expected)
            whole.check_rest()
        source.check_rest()


def test_a_layout_that_cuts_a_dimension_is_refused() -> None:
    node = node_of(lambda b, x: b.tanh(x), (6, 10))
    lowered = lower(node, TARGETS["avx512"], 1, placement=Placement(outputs=((0, Layout.of((12, 5), (8, 1))),)))
    assert lowered.placed == ()


# -- joins ----------------------------------------------------------------------------------------------


def joined(node: Node, arrays: Sequence[np.ndarray], inside: dict[int, tuple[int, ...]], **options) -> list[np.ndarray]:
    """Results where some inputs lie in output 0 already, from the given indices on."""
    outputs = [aligned(t.shape, t.dtype.numpy, UNTOUCHED) for t in node.output_types]
    for k, start in inside.items():
        outputs[0][tuple(slice(i, i + n) for i, n in zip(start, arrays[k].shape, strict=True))] = arrays[k]
    given = tuple((k, Inside(0, start)) for k, start in inside.items())
    target = options.pop("target", TARGETS["avx512"])
    lowered = lower(node, target or TARGETS["avx512"], options.pop("threads", 1), placement=Placement(inside=given))
    run_placed(lowered, list(arrays), outputs, target)
    return [lowered, *outputs]


def padded(b: Builder, x: Value) -> Value:
    return b.pad(x, b.constant(np.float32(0)), low=(0, 1, 1, 0), high=(0, 1, 2, 0), interior=(0, 0, 0, 0))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", [*TARGETS, "emulator"])
def test_joins_write_what_does_not_lie_there(level: str, threads: int) -> None:
    rng, target = np.random.default_rng(4), TARGETS.get(level)
    shapes = [(2, 5, 6, 3), (2, 5, 6, 21), (2, 5, 6, 16)]
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    node = node_of(lambda b, *x: b.concat(*x, axis=3), *shapes)
    starts = {0: (0, 0, 0, 0), 1: (0, 0, 0, 3), 2: (0, 0, 0, 24)}
    for there in ((0, 1, 2), (1,), (0, 2), ()):
        inside = {k: starts[k] for k in there}
        lowered, whole = joined(node, arrays, inside, target=target, threads=threads)
        np.testing.assert_array_equal(whole, np.concatenate(arrays, 3))
        assert len(lowered.calls) == (len(there) < 3)
    image = node_of(padded, SHAPE)
    x = rng.normal(size=SHAPE).astype(np.float32)
    _, whole = joined(image, [x], {0: (0, 1, 1, 0)}, target=target, threads=threads)
    np.testing.assert_array_equal(whole, np.pad(x, ((0, 0), (1, 1), (1, 2), (0, 0))))


def test_what_else_is_made_of_a_join_reads_the_parts_there() -> None:
    def more(b: Builder, x: Value, y: Value) -> list[Value]:
        both = b.concat(x, y, axis=1)
        return [both, b.tanh(both), b.reduce_sum(both, axes=(1,), keepdims=False)]

    rng = np.random.default_rng(4)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((9, 20), (9, 13))]
    node = node_of(more, (9, 20), (9, 13))
    wanted = expected_of(node, arrays)
    for inside in ({0: (0, 0), 1: (0, 20)}, {1: (0, 20)}):
        for target in (TARGETS["avx512"], TARGETS["generic"], None):
            _, *results = joined(node, arrays, inside, target=target)
            for actual, expected in zip(results, wanted, strict=True):
                close(actual, expected)


def test_a_part_twice_in_one_join_is_copied_once() -> None:
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 2), np.float32)
    node = node_of(lambda b, x, y: b.concat(x, y, x, axis=1), (2, 3), (2, 2))
    _, whole = joined(node, [x, y], {0: (0, 0)})
    np.testing.assert_array_equal(whole, np.concatenate([x, y, x], 1))
