"""Step times and traces."""

import json

from native import long_steps, row, state_executable, step

from dlc.ir.plan import LoopBegin, LoopEnd
from dlc.runtime.profile import profile


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
