"""The native dispatcher against a Python walk of the same plan."""

import random

import numpy as np
import pytest
from native import WIDTH, row, state_executable, step

from dlc.ir.plan import KernelStep, LoopBegin, LoopEnd

ROWS = 12


def interpret(steps, state):
    """Run ``steps`` on ``state`` as the plan's definition says."""
    position, stack = 0, []
    while position < len(steps):
        match steps[position]:
            case LoopBegin(count=count):
                stack.append([position, 0, count])
            case LoopEnd():
                stack[-1][1] += 1
                if stack[-1][1] < stack[-1][2]:
                    position = stack[-1][0]
                else:
                    stack.pop()
            case KernelStep(symbol=symbol, arguments=arguments):
                rows = [
                    (a.offset + sum(stride * stack[k][1] for k, stride in enumerate(a.strides))) // (8 * WIDTH)
                    for a in arguments
                ]
                if symbol == "count":
                    state[rows[0]] += 1
                elif symbol != "nothing":
                    state[rows[1]] += 3 * state[rows[0]][::-1]
        position += 1


def random_steps(rng: random.Random):
    """Random loops and steps that read one half of the rows and write the other, at most one stride advancing."""
    steps, depth = [], 0
    for _ in range(rng.randrange(1, 25)):
        choice = rng.random()
        if choice < 0.08 and depth < 4:
            body = [step("count", row(0, index, *[0] * depth, 1)) for index in range(rng.randrange(1, 3))]
            steps += [LoopBegin(rng.randrange(1, 5), chains=True), *body, LoopEnd()]
        elif choice < 0.15 and depth < 4:
            steps += [LoopBegin(rng.randrange(1, 5)), step("nothing", tasks=rng.choice((1, 3)))]
            depth += 1
        elif choice < 0.3 and depth:
            steps.append(LoopEnd())
            depth -= 1
        else:
            halves = rng.sample((0, ROWS // 2), 2)
            operands = []
            for half in halves:
                strides = [0] * depth
                if depth:
                    strides[rng.randrange(depth)] = rng.choice((0, 1))
                operands.append(row(0, half + rng.randrange(3), *strides))
            kind = rng.choice(("mix", "mix_all", "count"))
            tasks = 1 if kind == "mix_all" else WIDTH
            steps.append(step(kind, *(operands[1:] if kind == "count" else operands), tasks=tasks))
    return tuple(steps + [LoopEnd()] * depth)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_random_programs(threads):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(60):
        steps = random_steps(rng)
        exe = state_executable(steps, ROWS, threads)
        start = np.random.default_rng(rng.randrange(1 << 30)).integers(-5, 5, (ROWS, WIDTH))
        expected = start.copy()
        with np.errstate(over="ignore"):
            interpret(steps, expected)
        for _ in range(3):
            exe.state["s"][...] = start
            exe.run({})
            assert np.array_equal(exe.state["s"], expected), steps


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 7, 31, 63, 64])
def test_every_task_runs_exactly_once(threads, tasks):
    exe = state_executable((step("count", row(0, 0), tasks=tasks),), 1, threads)
    for turn in range(1, 20):
        exe.run({})
        assert exe.state["s"][0].tolist() == [turn] * tasks + [0] * (WIDTH - tasks)


def test_every_other_step_begins_where_the_one_before_ended():
    executable = state_executable((step("note", row(0, 0), tasks=8), step("note", row(0, 1), tasks=8)), 2, 1)
    executable.run({})
    first, second = executable.state["s"]
    upward = [0, 2, 4, 6]
    assert first[0] == second[0] == 4
    assert sorted((first[1:5].tolist(), second[1:5].tolist())) == [upward, upward[::-1]]


@pytest.mark.parametrize("threads", [1, 2])
def test_many_tasks(threads):
    tasks = 100_003
    exe = state_executable((step("count", row(0, 0), tasks=tasks, flops=10**14),), 1600, threads)
    exe.run({})
    flat = exe.state["s"].ravel()
    assert flat[:tasks].tolist() == [1] * tasks
    assert not flat[tasks:].any()


@pytest.mark.parametrize("threads", [1, 2])
def test_fifty_thousand_steps(threads):
    steps = tuple(step("count", row(0, index % 3), tasks=1 if index % 5 else 2) for index in range(50_000))
    exe = state_executable(steps, 3, threads)
    exe.run({})
    first = [sum(1 for i in range(50_000) if i % 3 == r) for r in range(3)]
    second = [sum(1 for i in range(0, 50_000, 5) if i % 3 == r) for r in range(3)]
    assert exe.state["s"][:, :2].tolist() == [list(pair) for pair in zip(first, second)]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_four_nested_loops_with_strides(threads):
    body = step("count", row(0, 0, 24, 6, 2, 1))
    steps = (*[LoopBegin(n) for n in (2, 4, 3, 2)], body, *[LoopEnd()] * 4)
    exe = state_executable(steps, 48, threads)
    exe.run({})
    assert (exe.state["s"] == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_scratch_is_private_aligned_and_grows(threads):
    small = state_executable((step("count", row(0, 0)),), 1, threads, scratch_bytes=64)
    small.run({})
    exe = state_executable((step("fill_scratch", row(0, 0)),) * 3, 1, threads, scratch_bytes=65536)
    exe.run({})
    assert exe.state["s"][0].tolist() == [3] * WIDTH
