"""Contractions joined by what reads slices of their columns: one kernel, right in every form, refused where unfit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.codegen.llvm.target import host_target
from dlc.codegen.target import CpuTarget
from dlc.ir.builder import Builder
from dlc.ir.graph import Node, Value
from dlc.ir.lowering import Lowered
from dlc.ir.types import float32, tensor_type
from dlc.passes.fusion.fuse import fuse
from tests.codegen.lower.test_node import numbers
from tests.codegen.lowering import HOST, check_node

TARGETS = [HOST, *(host_target(level) for level, needs in (("avx2", "avx2"), ("avx512", "avx512f")) if HOST.has(needs))]


def slices(b: Builder, made: Value, count: int) -> list[Value]:
    rows, columns = made.type.shape
    width = columns // count
    return [b.slice(made, starts=(0, k * width), limits=(rows, (k + 1) * width)) for k in range(count)]


def lstm(b: Builder, h: Value, w: Value, shift: Value, c: Value) -> tuple[Value, ...]:
    made = b.contract(h, w, spec="n h, g h -> n g")
    i, f, g, o = slices(b, b.add(shift, made), 4)
    c = b.add(b.mul(b.sigmoid(f), c), b.mul(b.sigmoid(i), b.tanh(g)))
    return b.mul(b.sigmoid(o), b.tanh(c)), c


def gru(b: Builder, h: Value, w: Value, shift: Value, bias: Value) -> Value:
    made = b.contract(h, w, spec="n h, g h -> n g")
    made = b.add(made, b.broadcast_to(bias, made.type.shape))
    (r, z, n), (hr, hz, hn) = slices(b, shift, 3), slices(b, made, 3)
    z = b.sigmoid(b.add(z, hz))
    n = b.tanh(b.add(n, b.mul(b.sigmoid(b.add(r, hr)), hn)))
    return b.add(b.mul(b.sub(1.0, z), n), b.mul(z, h))


def lstm_of_both(b: Builder, x: Value, w: Value, h: Value, u: Value, bias: Value, c: Value) -> tuple[Value, ...]:
    made = b.contract(x, w, spec="n i, g i -> n g")
    return lstm(b, h, u, b.add(made, b.broadcast_to(bias, made.type.shape)), c)


def gru_of_both(b: Builder, x: Value, w: Value, h: Value, u: Value, bias: Value) -> Value:
    return gru(b, h, u, b.contract(x, w, spec="n i, g i -> n g"), bias)


def node_of(function: Callable[..., Value | tuple[Value, ...]], arrays: Sequence[np.ndarray]) -> Node:
    """Fuse ``function`` of float32 arrays, which must become one node."""
    b = Builder("test")
    inputs = [b.input(f"i{k}", tensor_type(float32, a.shape)) for k, a in enumerate(arrays)]
    results = function(b, *inputs)
    for number, value in enumerate(results if isinstance(results, tuple) else (results,)):
        b.output(f"o{number}", value)
    (node,) = fuse(b.finish()).nodes
    return node


def check(
    function: Callable[..., Value | tuple[Value, ...]],
    arrays: Sequence[np.ndarray],
    target: CpuTarget,
    weights: int | tuple[int, ...] = 1,
    emulated: bool = False,
    threads: int = 2,
    alone: bool = False,
) -> Lowered:
    node = node_of(function, arrays)
    operands = [arrays[int(v.hint[1:])] for v in node.inputs]
    names = {f"i{k}" for k in (weights if isinstance(weights, tuple) else (weights,))}
    constants = [k for k, v in enumerate(node.inputs) if v.hint in names]
    return check_node(node, operands, threads, emulated, target, constants=constants, alone=alone)


def is_joined(lowered: Lowered) -> bool:
    return lowered.calls[-1].kernel.name == "contract_slices"


@pytest.mark.parametrize("target", TARGETS, ids=["host", "avx2", "avx512"][: len(TARGETS)])
@pytest.mark.parametrize("rows", [1, 8, 20])
def test_gates_of_an_lstm(target: CpuTarget, rows: int) -> None:
    hidden = 128
    arrays = numbers(rows, hidden), numbers(4 * hidden, hidden), numbers(rows, 4 * hidden), numbers(rows, hidden)
    lowered = check(lstm, arrays, target)
    assert is_joined(lowered) and lowered.calls[-1].kernel.tasks >= 2
    assert lowered.in_place, "the cell state can be updated where it is"


@pytest.mark.parametrize("target", TARGETS, ids=["host", "avx2", "avx512"][: len(TARGETS)])
def test_gates_of_a_gru(target: CpuTarget) -> None:
    hidden = 128
    arrays = numbers(8, hidden), numbers(3 * hidden, hidden), numbers(8, 3 * hidden), numbers(3 * hidden)
    lowered = check(gru, arrays, target)
    assert is_joined(lowered) and not lowered.in_place, "other tasks still multiply the state that one updates"


ROWS = HOST.lanes(4) // 2
"""Rows that a task needs so that it does not wait for weights."""


def parted(lowered: Lowered, hidden: int, threads: int) -> set[int]:
    """Check that tasks are rows, and return the kinds of sizes, in multiples of the state's, that they cut."""
    call = lowered.calls[-1]
    assert call.kernel.tasks == threads and call.split
    shared = [b.size for k, b in enumerate(call.kernel.buffers) if k not in call.split]
    assert all(not b.writable for k, b in enumerate(call.kernel.buffers) if k not in call.split)
    assert all(size is not None and size != ROWS * threads * hidden for size in shared)
    return {(call.kernel.buffers[k].size or 0) // (ROWS * threads * hidden) for k in call.split}


@pytest.mark.parametrize("emulated", [False, True], ids=["native", "emulated"])
@pytest.mark.parametrize("hidden", [64, 128])
def test_alone_in_a_loop_an_lstm_gives_rows_to_tasks(hidden: int, emulated: bool) -> None:
    rows = 2 * ROWS
    arrays = numbers(rows, hidden), numbers(4 * hidden, hidden), numbers(rows, 4 * hidden), numbers(rows, hidden)
    lowered = check(lstm, arrays, HOST, alone=True, emulated=emulated)
    assert is_joined(lowered) and parted(lowered, hidden, 2) == {1, 4} and lowered.in_place


def test_alone_in_a_loop_a_gru_gives_rows_to_tasks() -> None:
    hidden, rows = 128, 3 * ROWS
    arrays = numbers(rows, hidden), numbers(3 * hidden, hidden), numbers(rows, 3 * hidden), numbers(3 * hidden)
    lowered = check(gru, arrays, HOST, alone=True, threads=3)
    assert is_joined(lowered) and parted(lowered, hidden, 3) == {1, 3}


def test_wide_states_are_computed_in_groups_of_columns_within_a_task() -> None:
    hidden, rows = HOST.l1_bytes // (4 * ROWS * 4), 2 * ROWS
    arrays = numbers(rows, hidden), numbers(4 * hidden, hidden), numbers(rows, 4 * hidden), numbers(rows, hidden)
    lowered = check(lstm, arrays, HOST, alone=True)
    assert is_joined(lowered) and lowered.calls[-1].kernel.tasks == 2 and lowered.calls[-1].split


@pytest.mark.parametrize(("rows", "threads"), [(2 * ROWS - 1, 2), (2 * ROWS, 3), (2 * ROWS, 1), (ROWS, 2)])
def test_rows_that_are_few_or_uneven_are_not_given_to_tasks(rows: int, threads: int) -> None:
    arrays = numbers(rows, 128), numbers(4 * 128, 128), numbers(rows, 4 * 128), numbers(rows, 128)
    lowered = check(lstm, arrays, HOST, alone=True, threads=threads)
    assert is_joined(lowered) and not lowered.calls[-1].split


def test_rows_that_all_read_one_row_are_not_given_to_tasks() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        i, f = slices(b, b.contract(x, w, spec="n h, g h -> n g"), 2)
        first = b.slice(x, starts=(0, 0), limits=(1, 128))
        return b.sub(b.mul(b.sigmoid(i), b.tanh(f)), b.broadcast_to(first, x.type.shape))

    lowered = check(function, (numbers(2 * ROWS, 128), numbers(256, 128)), HOST, alone=True)
    assert not any(call.split for call in lowered.calls)


def test_rows_that_read_other_rows_are_not_given_to_tasks() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        i, f = slices(b, b.contract(x, w, spec="n h, g h -> n g"), 2)
        return b.mul(b.mul(i, f), b.reverse(x, axes=(0,)))

    lowered = check(function, (numbers(2 * ROWS, 128), numbers(256, 128)), HOST, alone=True)
    assert not any(call.split for call in lowered.calls)


def both(rows: int, gates: int, hidden: int, features: int) -> list[np.ndarray]:
    """Return step, its weights, state, its weights and the bias of ``gates`` gates."""
    shapes = (rows, features), (gates * hidden, features), (rows, hidden), (gates * hidden, hidden), (gates * hidden,)
    return [numbers(*shape) for shape in shapes]


@pytest.mark.parametrize("target", TARGETS, ids=["host", "avx2", "avx512"][: len(TARGETS)])
@pytest.mark.parametrize(("rows", "features"), [(8, 40), (3, 128), (20, 7)])
def test_gates_of_an_lstm_from_two_products(target: CpuTarget, rows: int, features: int) -> None:
    lowered = check(lstm_of_both, (*both(rows, 4, 128, features), numbers(rows, 128)), target, (1, 3))
    assert is_joined(lowered) and lowered.calls[-1].kernel.tasks >= 2 and lowered.in_place
    assert lowered.calls[-1].flops == 2 * rows * 4 * 128 * (features + 128)


@pytest.mark.parametrize("target", TARGETS, ids=["host", "avx2", "avx512"][: len(TARGETS)])
def test_gates_of_a_gru_from_two_products(target: CpuTarget) -> None:
    lowered = check(gru_of_both, both(8, 3, 128, 40), target, (1, 3))
    assert is_joined(lowered) and not lowered.in_place


@pytest.mark.parametrize("emulated", [False, True], ids=["native", "emulated"])
def test_two_products_alone_in_a_loop_give_rows_to_tasks(emulated: bool) -> None:
    rows, hidden = 2 * ROWS, 64
    arrays = (*both(rows, 4, hidden, 2 * hidden), numbers(rows, hidden))
    lowered = check(lstm_of_both, arrays, HOST, (1, 3), alone=True, emulated=emulated)
    assert is_joined(lowered) and parted(lowered, hidden, 2) == {1, 2}


def test_two_products_of_different_numbers_of_slices() -> None:
    def function(b: Builder, x: Value, w: Value, h: Value, u: Value) -> Value:
        r, z, n = slices(b, b.contract(x, w, spec="n i, g i -> n g"), 3)
        hr, hz = slices(b, b.contract(h, u, spec="n i, g i -> n g"), 2)
        return b.add(b.mul(b.sigmoid(b.add(r, hr)), n), b.sub(z, hz))

    arrays = numbers(8, 40), numbers(3 * 128, 40), numbers(8, 128), numbers(2 * 128, 128)
    assert is_joined(check(function, arrays, HOST, (1, 3)))


@pytest.mark.parametrize("weights", [(1,), (3,), ()])
def test_two_products_of_weights_that_change_are_computed_apart(weights: tuple[int, ...]) -> None:
    arrays = (*both(8, 4, 128, 40), numbers(8, 128))
    lowered = check(lstm_of_both, arrays, HOST, weights)
    assert not is_joined(lowered) and sum(call.flops > 0 for call in lowered.calls) == 2


def test_emulated() -> None:
    arrays = numbers(3, 64), numbers(4 * 64, 64), numbers(3, 4 * 64), numbers(3, 64)
    assert is_joined(check(lstm, arrays, HOST, emulated=True))


def test_many_steps_of_depth_on_tiles() -> None:
    hidden = 256
    arrays = numbers(16, hidden), numbers(4 * hidden, hidden), numbers(16, 4 * hidden), numbers(16, hidden)
    assert is_joined(check(lstm, arrays, HOST))


@pytest.mark.parametrize("hidden", [10, 5 * HOST.lanes(4) // 2])
def test_slices_of_no_whole_panels_are_computed_apart(hidden: int) -> None:
    arrays = numbers(8, hidden), numbers(4 * hidden, hidden), numbers(8, 4 * hidden), numbers(8, hidden)
    assert not is_joined(check(lstm, arrays, HOST))


def test_weights_that_change_are_multiplied_apart() -> None:
    arrays = numbers(8, 64), numbers(4 * 64, 64), numbers(8, 4 * 64), numbers(8, 64)
    assert not is_joined(check(lstm, arrays, HOST, weights=99))


def test_slices_that_begin_within_another_are_computed_apart() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        made = b.contract(x, w, spec="n h, g h -> n g")
        return b.mul(*(b.slice(made, starts=(0, k), limits=(8, k + 128)) for k in (0, 64)))

    assert not is_joined(check(function, (numbers(8, 64), numbers(256, 64)), HOST))


def test_columns_that_are_not_first_in_weights_are_computed_apart() -> None:
    def function(b: Builder, x: Value, w: Value) -> Value:
        i, f = slices(b, b.contract(x, w, spec="n h, h g -> n g"), 2)
        return b.mul(b.sigmoid(i), f)

    assert not is_joined(check(function, (numbers(8, 64), numbers(64, 256)), HOST))
