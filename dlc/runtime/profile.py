"""Where the time of a run goes: one record per step, and a trace for viewers.

Runs a second program of the same plan, in which the dispatcher notes the time of
every step; barriers that a normal run leaves out at the end are kept, so that the
sum is slightly more than a run takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlc.ir.plan import KernelStep
from dlc.runtime.executable import Executable


@dataclass(frozen=True)
class StepTime:
    """One kernel step: milliseconds per run (all its calls), share of the run, rates; rates are 0 if unknown."""

    step: int
    label: str
    symbol: str
    tasks: int
    calls: int
    milliseconds: float
    percent: float
    gflops: float
    gigabytes: float
    start: float  # milliseconds from the run's first step to this one's first call


@dataclass(frozen=True)
class Profile:
    """The steps of a plan in order, with the medians of ``runs`` runs; ``milliseconds`` is their sum."""

    steps: tuple[StepTime, ...]
    runs: int
    threads: int

    @property
    def milliseconds(self) -> float:
        return sum(step.milliseconds for step in self.steps)

    def slowest(self, count: int = 20) -> list[StepTime]:
        """Return the ``count`` steps that take longest, longest first."""
        return sorted(self.steps, key=lambda step: -step.milliseconds)[:count]

    def table(self, count: int = 20) -> str:
        """Return the slowest steps as text."""
        lines = [f"{'ms':>9} {'%':>5} {'GFLOP/s':>8} {'GB/s':>6} {'calls':>5}  step"]
        for step in self.slowest(count):
            lines.append(
                f"{step.milliseconds:9.4f} {step.percent:5.1f} {step.gflops:8.1f} {step.gigabytes:6.1f} "
                f"{step.calls:5}  {step.label or step.symbol}"
            )
        lines.append(f"{self.milliseconds:9.4f} {100 if self.steps else 0:5.1f}  all {len(self.steps)} steps")
        return "\n".join(lines)

    def trace(self) -> dict[str, object]:
        """Return Chrome's trace format, which Perfetto reads: one slice per step, at its first call."""
        events = [
            {
                "name": step.label or step.symbol,
                "cat": "step",
                "ph": "X",
                "ts": step.start * 1000,
                "dur": step.milliseconds * 1000 / max(step.calls, 1),
                "pid": os.getpid(),
                "tid": 0,
                "args": {
                    "symbol": step.symbol,
                    "tasks": step.tasks,
                    "calls": step.calls,
                    "GFLOP/s": round(step.gflops, 3),
                    "GB/s": round(step.gigabytes, 3),
                },
            }
            for step in self.steps
        ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write ``trace()`` as JSON to ``path``."""
        Path(path).write_text(json.dumps(self.trace()))


def profile(executable: Executable, feeds: Mapping[str, object], runs: int = 10, warmup: int = 2) -> Profile:
    """Run ``executable`` on ``feeds`` ``warmup + runs`` times and return the median time of every step.

    State is updated by every run, as by any other.
    """
    steps = executable.plan.steps
    timing = np.zeros((max(len(steps), 1), 3), np.int64)
    program = executable.timed_program(timing)
    samples = []
    for run in range(warmup + runs):
        timing[:] = 0
        executable.run_program(program, feeds)
        if run >= warmup:
            samples.append(timing.copy())
    nanoseconds = np.median([sample[:, 0] for sample in samples], axis=0)
    calls, starts = samples[-1][:, 1], samples[-1][:, 2]
    total = max(float(nanoseconds.sum()), 1.0)
    origin = int(starts[calls > 0].min()) if (calls > 0).any() else 0
    records = []
    for index, step in enumerate(steps):
        if not isinstance(step, KernelStep) or calls[index] == 0:
            continue
        spent, count = max(float(nanoseconds[index]), 1.0), int(calls[index])
        records.append(
            StepTime(
                step=index,
                label=step.label,
                symbol=step.symbol,
                tasks=step.tasks,
                calls=count,
                milliseconds=spent / 1e6,
                percent=100 * spent / total,
                gflops=step.flops * count / spent,
                gigabytes=step.nbytes * count / spent,
                start=(int(starts[index]) - origin) / 1e6,
            )
        )
    return Profile(tuple(records), runs, executable.threads)
