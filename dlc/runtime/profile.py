"""Where the time of a run goes: one record per step, beside the least time that its work can take.

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

from dlc.ir.plan import KernelStep, Plan, SlotKind
from dlc.runtime.executable import Executable
from dlc.runtime.profile_html import report_page
from dlc.runtime.roofline import Roofline

ARITHMETIC, MEMORY = "arithmetic", "memory"

EXPLANATION = (
    "The floor of a step is the least time that its work can take on this machine: the larger of its operations over "
    "the peak of float32 multiply-adds and its bytes over the bandwidth of memory or cache, both measured on all "
    "threads of the run. Operations are those of matrix products, convolutions and attention; of other steps, "
    "convolutions of narrow groups among them, bytes alone count. Weights come from where the whole run's data fits, "
    "the rest from where the step's fits. A few percent above 100 are the processor's clock, which changes."
)
ABOVE_FLOOR = {
    ARITHMETIC: "more operations per second than float32 multiply-adds: the direct way's are counted, of which "
    "Winograd's filtering needs 2.25 times fewer, and bfloat16 or tile (AMX) units are faster",
    MEMORY: "fewer bytes moved than counted: operands were still in a nearer cache, or a part of one was read only",
}
_NOISE = 5.0  # percent by which a clock that changes may lift a step above the floor


@dataclass(frozen=True)
class StepTime:
    """One kernel step: milliseconds per run (all its calls), share of the run, rates; rates are 0 if unknown.

    ``floor`` is the least milliseconds per run on the profile's roofline, ``bound`` what decides it: "arithmetic",
    "memory", or "" where there is no roofline or the work is not known.
    """

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
    floor: float = 0.0
    bound: str = ""

    @property
    def percent_of_floor(self) -> float:
        """100 for a step as fast as the roofline allows, less for a slower one; 0 if the floor is not known."""
        return 100 * self.floor / self.milliseconds

    @property
    def note(self) -> str:
        """Why the step is faster than its floor, or nothing."""
        return ABOVE_FLOOR[self.bound] if self.percent_of_floor > 100 + _NOISE else ""

    @property
    def floor_text(self) -> str:
        """Percent of the floor for tables; a star refers to ``note``."""
        return f"{self.percent_of_floor:.0f}{'*' if self.note else ''}" if self.bound else "-"


@dataclass(frozen=True)
class Profile:
    """The steps of a plan in order, with the medians of ``runs`` runs; ``milliseconds`` is their sum."""

    steps: tuple[StepTime, ...]
    runs: int
    threads: int
    roofline: Roofline | None = None

    @property
    def milliseconds(self) -> float:
        return sum(step.milliseconds for step in self.steps)

    @property
    def floor(self) -> float:
        """The sum of the steps' floors, in milliseconds."""
        return sum(step.floor for step in self.steps)

    @property
    def percent_of_floor(self) -> float:
        """100 if all steps together take as long as their floors; 0 if those are not known."""
        return 100 * self.floor / self.milliseconds if self.steps else 0.0

    @property
    def notes(self) -> list[str]:
        """What the percentages of the floor mean, and why some are above 100; nothing without a roofline."""
        if self.roofline is None:
            return []
        found = dict.fromkeys(step.note for step in sorted(self.steps, key=lambda step: step.bound) if step.note)
        return [EXPLANATION, *(f"* above 100 %: {note}." for note in found)]

    def slowest(self, count: int = 20) -> list[StepTime]:
        """Return the ``count`` steps that take longest, longest first."""
        return sorted(self.steps, key=lambda step: -step.milliseconds)[:count]

    def table(self, count: int = 20) -> str:
        """Return the slowest steps as text."""
        lines = [f"{'ms':>9} {'%':>5} {'% of floor':>10} {'GFLOP/s':>8} {'GB/s':>6} {'calls':>5}  step"]
        for step in self.slowest(count):
            lines.append(
                f"{step.milliseconds:9.4f} {step.percent:5.1f} {step.floor_text:>10} {step.gflops:8.1f} "
                f"{step.gigabytes:6.1f} {step.calls:5}  {step.label or step.symbol}"
            )
        share = f"{self.percent_of_floor:.0f}" if self.floor else "-"
        total = f"{self.milliseconds:9.4f} {100 if self.steps else 0:5.1f} {share:>10}"
        lines.append(f"{total} {'':8} {'':6} {'':5}  all {len(self.steps)} steps")
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
                    **({"% of floor": round(step.percent_of_floor, 1), "bound": step.bound} if step.bound else {}),
                },
            }
            for step in self.steps
        ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write ``trace()`` as JSON to ``path``."""
        Path(path).write_text(json.dumps(self.trace()), encoding="utf-8")

    def write_html(self, path: str | os.PathLike[str], model: str = "model") -> None:
        """Write a page for browsers to ``path``, one file that needs nothing else; ``model`` names what was run."""
        Path(path).write_text(report_page(self, model), encoding="utf-8")


def profile(
    executable: Executable,
    feeds: Mapping[str, object],
    runs: int = 10,
    warmup: int = 2,
    roofline: Roofline | None = None,
) -> Profile:
    """Run ``executable`` on ``feeds`` ``warmup + runs`` times and return the median time of every step.

    With a ``roofline`` of as many threads, steps also have their floor. State is updated by every run, as by any other.
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
        floor, bound = (0.0, "") if roofline is None else step_floor(executable.plan, step, count, roofline)
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
                floor=floor,
                bound=bound,
            )
        )
    return Profile(tuple(records), runs, executable.threads, roofline)


def step_floor(plan: Plan, step: KernelStep, calls: int, roofline: Roofline) -> tuple[float, str]:
    """Return the least milliseconds for ``calls`` calls of ``step`` in a run, and what decides it.

    Weights and state are touched once a run, and between two runs all its data passes through the caches: they come
    from where that fits. Everything else may still be where a working set of the step's size fits.
    """
    arithmetic = roofline.arithmetic_seconds(step.flops * calls)
    memory = calls * roofline.memory_seconds(step.nbytes)
    slots = [plan.slots[number] for number in {argument.slot for argument in step.arguments}]
    cold = sum(slot.nbytes for slot in slots if slot.kind in (SlotKind.CONSTANT, SlotKind.STATE))
    everything = sum(slot.nbytes for slot in plan.slots)
    memory = max(memory, roofline.memory_seconds(min(cold, step.nbytes * calls), everything))
    if arithmetic == memory == 0:
        return 0.0, ""
    return 1e3 * max(arithmetic, memory), ARITHMETIC if arithmetic >= memory else MEMORY
