"""Step times, floors and traces."""

import json

import pytest
from native import long_steps, row, rows_type, state_executable, step

from dlc.ir.plan import Argument, LoopBegin, LoopEnd, Plan, Slot, SlotKind
from dlc.runtime.profile import ARITHMETIC, EXPLANATION, MEMORY, Profile, StepTime, profile, step_floor
from dlc.runtime.roofline import Roofline

ROOF = Roofline("a processor", 1, 1e11, ((10_000, 8e9), (1_000_000, 2e9)))


def timed(milliseconds, floor=0.0, bound="", **fields):
    """Return a step's time, made by hand."""
    known = {"step": 0, "label": "conv", "symbol": "conv_1", "tasks": 1, "calls": 1, "percent": 50.0, "gflops": 1.0}
    known |= {"gigabytes": 2.0, "start": 0.0}
    return StepTime(milliseconds=milliseconds, floor=floor, bound=bound, **{**known, **fields})


def test_every_step_is_timed():
    steps = (
        step("count", row(0, 0), label="first", flops=64, nbytes=1024),
        LoopBegin(5),
        step("nap", tasks=2, label="slow", flops=1000),
        step("count", row(0, 0), tasks=1, label="inside"),
        LoopEnd(),
        step("count", row(0, 0), tasks=0, label="never"),
    )
    for threads in (1, 2):
        exe = state_executable(steps, 1, threads)
        result = profile(exe, {}, runs=3, warmup=1)
        assert [(s.step, s.label, s.calls) for s in result.steps] == [(0, "first", 1), (2, "slow", 5), (3, "inside", 5)]
        assert exe.state["s"][0, 1] == 4
        assert exe.state["s"][0, 0] == 4 * (1 + 5)
        slow = result.steps[1]
        assert [s.milliseconds for s in result.slowest()] == sorted(
            (s.milliseconds for s in result.steps), reverse=True
        )
        assert abs(sum(s.percent for s in result.steps) - 100) < 1e-6
        assert abs(slow.gflops * slow.milliseconds * 1e6 - 5000) < 1
        assert result.steps[0].start == 0 < slow.start < result.steps[2].start
        assert result.table().count("\n") == 4
        assert result.slowest(1)[0].label in result.table(1) and result.slowest()[2].label not in result.table(1)


def test_trace_is_json_of_complete_events(tmp_path):
    exe = state_executable((*long_steps(2), step("count", row(0, 0))), 1, 2)
    path = tmp_path / "trace.json"
    profile(exe, {}, runs=1, warmup=0).write_trace(path)
    events = json.loads(path.read_text())["traceEvents"]
    assert [event["name"] for event in events] == ["nap", "count"]
    assert all(event["ph"] == "X" and event["dur"] > 0 for event in events)


def test_an_empty_plan_has_an_empty_profile():
    result = profile(state_executable((), 1, 1), {}, runs=1)
    assert result.steps == () and result.milliseconds == 0
    assert result.trace()["traceEvents"] == []


def plan_with(kind, weight_bytes, arena_bytes, *steps):
    return Plan((Slot(SlotKind.ARENA, "arena", arena_bytes), Slot(kind, "w", weight_bytes)), steps, arena_bytes)


@pytest.mark.parametrize(
    ("flops", "nbytes", "expected"),
    [(10**9, 8000, (10.0, ARITHMETIC)), (1000, 8000, (0.001, MEMORY)), (0, 10**6, (0.5, MEMORY)), (0, 0, (0.0, ""))],
)
def test_the_floor_is_the_larger_of_arithmetic_and_memory(flops, nbytes, expected):
    one = step("k", Argument(0, 0), flops=flops, nbytes=nbytes)
    milliseconds, bound = step_floor(plan_with(SlotKind.INPUT, 8, 10**6, one), one, 1, ROOF)
    assert (pytest.approx(milliseconds), bound) == expected
    milliseconds, bound = step_floor(plan_with(SlotKind.INPUT, 8, 10**6, one), one, 7, ROOF)
    assert (pytest.approx(milliseconds), bound) == (7 * expected[0], expected[1])


@pytest.mark.parametrize(
    ("kind", "arena", "calls", "seconds"),
    [
        (SlotKind.CONSTANT, 10**6, 1, 4000 / 2e9),  # what the run moves does not fit near: weights come from far
        (SlotKind.STATE, 10**6, 1, 4000 / 2e9),
        (SlotKind.CONSTANT, 1000, 1, 6000 / 8e9),  # everything fits
        (SlotKind.INPUT, 10**6, 1, 6000 / 8e9),
        (SlotKind.CONSTANT, 10**6, 100, 100 * 6000 / 8e9),  # once from far, then from near
    ],
)
def test_weights_come_from_where_the_whole_run_fits(kind, arena, calls, seconds):
    one = step("k", Argument(0, 0), Argument(1, 0), nbytes=6000)
    floor = step_floor(plan_with(kind, 4000, arena, one), one, calls, ROOF)
    assert floor == (pytest.approx(1e3 * seconds), MEMORY)


def test_a_profile_with_a_roofline_has_floors():
    steps = (step("count", row(0, 0), flops=64, nbytes=1024, label="known"), step("count", row(0, 0), label="unknown"))
    known, unknown = (result := profile(state_executable(steps, 1, 1), {}, runs=1, roofline=ROOF)).steps
    assert rows_type(1).nbytes < ROOF.bandwidth[0][0]
    assert (known.bound, unknown.bound) == (MEMORY, "") and known.floor > 0 == unknown.floor
    assert known.percent_of_floor == pytest.approx(100 * known.floor / known.milliseconds)
    assert unknown.floor_text == "-" and result.floor == known.floor
    assert result.percent_of_floor == pytest.approx(100 * known.floor / result.milliseconds)
    first, second = result.trace()["traceEvents"]
    assert first["args"]["bound"] == MEMORY and "bound" not in second["args"]
    assert "% of floor" in result.table() and result.notes[0] == EXPLANATION


def test_steps_faster_than_their_floor_say_why():
    steps = (
        timed(1.0, 0.5, MEMORY),
        timed(1.0, 1.8, ARITHMETIC),
        timed(1.0, 2.5, MEMORY),
        timed(1.0, 1.02, ARITHMETIC),
    )
    assert [one.floor_text for one in steps] == ["50", "180*", "250*", "102"]
    assert [bool(one.note) for one in steps] == [False, True, True, False]
    result = Profile(steps, 1, 1, ROOF)
    explanation, arithmetic, memory = result.notes
    assert "Winograd" in arithmetic and "AMX" in arithmetic and "cache" in memory
    assert Profile(steps[:1], 1, 1, ROOF).notes == [explanation]
    assert Profile(steps, 1, 1).notes == []
