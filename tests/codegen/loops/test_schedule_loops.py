"""Loop building blocks: every index once, whatever the tails and tasks."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.codegen.llvm.target import host_target
from dlc.codegen.loops.blocks import (
    TASKS_PER_THREAD,
    chunk_loop,
    parallel,
    split_tasks,
    vector_axis,
    vector_chunk,
    vector_lanes,
    wanted_tasks,
)
from dlc.ir.compute import axis
from dlc.ir.expr import Load, Var, apply, const
from dlc.ir.kernel import Accumulate, Buffer, Kernel
from dlc.ir.types import float32

I, TASK = Var("i"), Var("task")
COUNT = Accumulate("y", I, "add", Load("one", const(0), float32))


def counted(body, size: int) -> np.ndarray:
    """Run ``body``, which adds one to y[i] for every i that it meets."""
    buffers = (Buffer("one", float32, 1), Buffer("y", float32, size, writable=True))
    y = np.zeros(size, np.float32)
    emulate(Kernel("count", buffers, (), tuple(body)), [np.ones(1, np.float32), y])
    return y


@pytest.mark.parametrize("extent", [1, 2, 3, 5, 8, 9, 16, 17, 31, 64, 65, 100])
@pytest.mark.parametrize("lanes, unroll", [(4, 1), (8, 2), (16, 4)])
def test_vectors_and_tails_meet_every_index_once(extent: int, lanes: int, unroll: int) -> None:
    np.testing.assert_array_equal(counted(vector_axis(I, const(0), extent, lanes, unroll, [COUNT]), extent), 1)


@pytest.mark.parametrize("extent", [40, 64, 100, 129])
@pytest.mark.parametrize("tasks", [2, 3])
def test_chunks_of_a_vector_axis_meet_every_index_once(extent: int, tasks: int) -> None:
    split = split_tasks([extent], [8], tasks, tasks)
    assert split.tasks > 1 and split.chunk % 8 == 0
    body = vector_chunk(I, TASK, split.chunk, split.tasks, extent, 4, 2, [COUNT])
    np.testing.assert_array_equal(counted(parallel([axis("i", extent)], split, TASK, body), extent), 1)


@pytest.mark.parametrize("extents", [(7,), (3, 5), (2, 3, 11), (40, 2)])
@pytest.mark.parametrize("wanted", [1, 2, 4, 16])
def test_task_loops_meet_every_index_once(extents: tuple[int, ...], wanted: int) -> None:
    axes = [axis(f"a{n}", e) for n, e in enumerate(extents)]
    place = const(0)
    for a in axes:
        place = apply("add", apply("mul", place, const(a.extent)), a.var)
    split = split_tasks(extents, [1] * len(extents), wanted, 2)
    body = [Accumulate("y", place, "add", Load("one", const(0), float32))]
    from dlc.codegen.loops.blocks import serial

    for a in reversed(axes[split.full + (1 if split.tasks > 1 else 0) :]):
        body = [serial(a, body)]
    if split.tasks > 1:
        body = chunk_loop(axes[split.full], TASK, split, body)
    size = int(np.prod(extents))
    np.testing.assert_array_equal(counted(parallel(axes, split, TASK, body), size), 1)
    assert split.total(extents) <= max(2 * wanted, 2)


def test_small_work_is_not_cut() -> None:
    assert wanted_tasks(1000, 8) == 1 and wanted_tasks(1e12, 1) == 1
    assert wanted_tasks(1e12, 8) == 8 * TASKS_PER_THREAD


@pytest.mark.parametrize("units", [8, 12, 50, 1000])
def test_tasks_are_a_multiple_of_the_threads_where_they_can_be(units: int) -> None:
    assert split_tasks([units], [1], 8, 4).tasks % 4 == 0 or units < 16


def test_lanes_fit_the_axis_and_the_register() -> None:
    target = host_target("avx2")
    assert vector_lanes(target, [4], 1000) == target.vector_bytes // 4
    assert vector_lanes(target, [8], 1000) == target.vector_bytes // 8
    assert vector_lanes(target, [4], 3) == 4 and vector_lanes(target, [4], 1) == 1
