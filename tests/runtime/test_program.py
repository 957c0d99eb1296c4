"""Where barriers go and how the table is built."""

import numpy as np
import pytest
from native import ROW, kernels, native_runtime, row, state_executable, step

from dlc.errors import DlcError
from dlc.ir.plan import LoopBegin, LoopEnd, Plan
from dlc.runtime.program import build_program

P = step("mix", row(0, 0), row(0, 1))
S = step("mix_all", row(0, 0), row(0, 1), tasks=1)


def barriers(*steps) -> int:
    """Count the barriers that one run passes, that at the end included, from the table's own flags."""
    program = build_program(Plan((), tuple(steps), 0), kernels().address, threads=2)
    words = program.records.tolist()
    position, count, stack = 0, 0, []
    while words[position] & 255:
        operation, flags = words[position] & 255, words[position] >> 8
        size = words[position + 1]
        if operation == 1:
            count += flags & 1
        elif operation == 2:
            stack.append([position + size, words[position + 2]])
        elif operation == 3:
            stack[-1][1] -= 1
            if stack[-1][1]:
                position = stack[-1][0]
                continue
            stack.pop()
        elif operation == 4:
            count += 1
        position += size
    return count + 1


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), 1),
        ((S,), 1),
        ((S, S, S), 1),
        ((P,), 1),
        ((P, P), 2),
        ((S, P), 2),
        ((P, S), 2),
        ((S, S, P, S, S, P), 4),
        ((LoopBegin(10), S, S, LoopEnd()), 1),
        ((LoopBegin(10), S, S, LoopEnd(), P), 2),
        ((P, LoopBegin(10), LoopBegin(3), S, LoopEnd(), S, LoopEnd(), P), 3),
        ((LoopBegin(5), P, LoopEnd()), 6),
        ((LoopBegin(5), S, P, LoopEnd()), 11),
        ((LoopBegin(5), P, S, LoopEnd()), 11),
        ((LoopBegin(5), P, LoopBegin(7), S, LoopEnd(), LoopEnd()), 11),
        ((LoopBegin(0), P, LoopEnd(), S), 1),
        ((LoopBegin(5, chains=True), P, P, LoopEnd()), 1),
        ((LoopBegin(5, chains=True), P, LoopEnd(), S), 2),
        ((P, LoopBegin(5, chains=True), P, LoopEnd(), P), 3),
        ((LoopBegin(3), LoopBegin(5, chains=True), P, LoopEnd(), LoopEnd()), 4),
        ((LoopBegin(3), S, LoopBegin(5, chains=True), P, LoopEnd(), LoopEnd(), P), 7),
        ((LoopBegin(5), LoopBegin(3), LoopEnd(), LoopEnd(), P, P), 2),
    ],
)
def test_number_of_barriers(steps, expected):
    assert barriers(*steps) == expected


def test_loops_deeper_than_four_are_refused():
    with pytest.raises(DlcError, match="limit"):
        state_executable((LoopBegin(1),) * 5 + (P,) + (LoopEnd(),) * 5, 2, 1)


@pytest.mark.parametrize("steps", [(LoopEnd(),), (LoopBegin(2), P), (P, LoopEnd())])
def test_unbalanced_loops_are_refused(steps):
    with pytest.raises(DlcError, match="loop"):
        state_executable(steps, 2, 1)


def test_strides_without_a_loop_are_refused():
    with pytest.raises(DlcError, match="strides"):
        state_executable((step("count", row(0, 0, 1)),), 2, 1)


def test_steps_without_tasks_do_nothing():
    exe = state_executable((step("count", row(0, 0), tasks=0), step("count", row(0, 1))), 2, 2)
    exe.run({})
    assert exe.state["s"][0].sum() == 0
    assert exe.state["s"][1].tolist() == [1] * 64


def test_tiny_known_work_wakes_no_thread():
    tiny = step("count", row(0, 0), flops=64, nbytes=2 * ROW)
    assert not state_executable((tiny,), 1, 2).program.parallel
    big = step("count", row(0, 0), flops=10**9, nbytes=2 * ROW)
    assert state_executable((big,), 1, 2).program.parallel
    assert not state_executable((big,), 1, 1).program.parallel


def test_timing_counts_calls():
    exe = state_executable((LoopBegin(3), step("count", row(0, 0)), LoopEnd(), step("nap", tasks=1)), 1, 2)
    timing = np.zeros((4, 3), np.int64)
    program = exe.timed_program(timing)
    exe.run_program(program, {})
    assert timing[:, 1].tolist() == [0, 3, 0, 1]
    assert timing[3, 0] > 0
    assert native_runtime().pools.shared(2).size == 2
