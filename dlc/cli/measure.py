"""Measuring contenders: each in a process of its own, rounds alternating, the same inputs and threads for all."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dlc import errors
from dlc.cli.arrays import write_arrays
from dlc.cli.common import find_model, generated_inputs
from dlc.cli.contenders import DLC, Request
from dlc.cli.output import notes
from dlc.driver.diagnose import difference
from dlc.driver.host import processor_name
from dlc.tools import save_onnx

INPUT_SETS = 4  # runs cycle through these, so that none is fed what the one before it was


@dataclass
class Worker:
    """One contender's process and what it reported."""

    name: str
    process: subprocess.Popen
    messages: IO[bytes]  # its standard error
    limit: float | None = None  # seconds that one order may take
    ready: dict[str, Any] = field(default_factory=dict)
    rounds: list[list[float]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send one order (none: just wait) and return the answer; raise the DlcError that the worker met."""
        assert self.process.stdin is not None and self.process.stdout is not None
        line = ""
        guard = threading.Timer(self.limit or threading.TIMEOUT_MAX, self.process.kill)
        guard.daemon = True
        guard.start()
        try:
            if order:
                self.process.stdin.write(json.dumps(order) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            pass  # it died; its last words say why
        finally:
            guard.cancel()
        if not line:
            self.process.wait()
            self.messages.seek(0)
            words = self.messages.read().decode(errors="replace").strip().splitlines()
            reason = words[-1] if words else f"exit status {self.process.returncode}"
            raise errors.CompileError(f"the process of {self.name} ended early: {reason}")
        answer = json.loads(line)
        if "error" in answer:
            error = getattr(errors, answer["error"], errors.DlcError)(answer["message"])
            for text in answer["notes"]:
                error.add_note(text)
            raise error
        return answer

    @property
    def times(self) -> np.ndarray:
        """Milliseconds of all runs."""
        return np.array([t for times in self.rounds for t in times])


@contextmanager
def working_process(
    name: str, inputs: Path, request: Request, limit: float | None = None, **variables: str
) -> Iterator[Worker]:
    """Start a contender and wait until it has given its first answer; it ends with the block.

    A contender that takes more than ``limit`` seconds for an order is ended, which raises CompileError.
    """
    order = {"contender": name, "inputs": str(inputs), "request": asdict(request), "spawned": time.time()}
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "dlc.cli.worker", json.dumps(order)],
            stdin=pipe, stdout=pipe, stderr=messages, text=True, env={**os.environ, **variables},
        )  # fmt: skip
        worker = Worker(name, process, messages, limit)
        try:
            worker.ready = worker.ask()
            yield worker
        finally:
            process.kill()
            process.communicate()


def run_benchmark(
    model: str,
    shapes: Mapping[str, tuple[int, ...]],
    threads: int,
    seed: int,
    peer: str | None,
    rounds: int,
    seconds: float,
    precision: str = "float32",
) -> dict[str, Any]:
    """Measure and return the report that ``--json`` writes.

    With a peer, both load the same ONNX file: the one given, or one written from the built-in model. ``precision``
    is dlc's; a peer computes in float32.
    """
    with tempfile.TemporaryDirectory(prefix="dlc-bench-") as folder, _progress() as progress:
        task = progress.add_task("reading the model", total=rounds * (2 if peer else 1) + 2)
        name, requests, inputs = _prepare(model, shapes, threads, seed, precision, peer, Path(folder))
        progress.update(task, description="compiling without the cache")
        with working_process(DLC, inputs, requests[DLC], DLC_CACHE="0") as worker:
            cold = worker.ready
        progress.update(task, advance=1, description="filling the cache")
        with working_process(DLC, inputs, requests[DLC]):
            pass
        progress.update(task, advance=1)
        workers, results = _alternate(requests, inputs, rounds, seconds, Path(folder), progress)
    report: dict[str, Any] = {"model": name, "precision": precision, "threads": threads, "rounds": rounds}
    report["machine"] = machine()
    report["contenders"] = {worker.name: summary(worker) for worker in workers}
    report["contenders"][DLC]["compile_ms"] = cold["setup_ms"]
    report["contenders"][DLC]["cold_first_answer_ms"] = cold["first_answer_ms"]
    if peer is not None:
        ratios = [np.median(b) / np.median(a) for a, b in zip(workers[0].rounds, workers[1].rounds, strict=True)]
        report["peer"] = peer
        report["speedup"] = float(np.median(ratios))
        report["speedup_rounds"] = [float(r) for r in ratios]
        report["relative_error"] = relative_error(*results)
    return report


def _prepare(
    model: str,
    shapes: Mapping[str, tuple[int, ...]],
    threads: int,
    seed: int,
    precision: str,
    peer: str | None,
    folder: Path,
) -> tuple[str, dict[str, Request], Path]:
    """Write the inputs and, if need be, the model to ``folder``; return the model's name, requests, inputs' path."""
    found = find_model(model, shapes, seed)
    if peer is not None and found.path is None:
        model = str(folder / f"{found.name}.onnx")
        save_onnx(found.graph, model)
    sets = [generated_inputs(found.graph, seed + k) for k in range(INPUT_SETS)]
    inputs = folder / "inputs.npz"
    write_arrays(inputs, {f"{k}/{name}": array for k, feeds in enumerate(sets) for name, array in feeds.items()})
    request = Request(model, threads, seed, {name: list(array.shape) for name, array in sets[0].items()})
    requests = {DLC: replace(request, options={"precision": precision})}
    if peer is not None:
        requests[peer] = request
    return found.name, requests, inputs


def _alternate(
    requests: Mapping[str, Request], inputs: Path, rounds: int, seconds: float, folder: Path, progress: Progress
) -> tuple[list[Worker], list[dict[str, np.ndarray]]]:
    """Let the contenders run in turn: A, B, A, B; return them with their outputs for the first set of inputs."""
    task = progress.task_ids[0]
    first, *others = requests
    with working_process(first, inputs, requests[first]) as worker:
        if others:
            with working_process(others[0], inputs, requests[others[0]]) as peer:
                return _rounds([worker, peer], rounds, seconds, folder, progress, task)
        return _rounds([worker], rounds, seconds, folder, progress, task)


def _rounds(
    workers: list[Worker], rounds: int, seconds: float, folder: Path, progress: Progress, task: Any
) -> tuple[list[Worker], list[dict[str, np.ndarray]]]:
    for number in range(rounds):
        for worker in workers:
            progress.update(task, description=f"round {number + 1} of {rounds}: {worker.name}")
            worker.rounds.append(worker.ask(run=seconds)["times"])
            progress.advance(task)
    results = []
    for worker in workers:
        target = folder / f"outputs-{worker.name}.npz"
        names = worker.ask(outputs=str(target))["names"]
        with np.load(target, allow_pickle=False) as archive:
            results.append({name: archive[str(number)] for number, name in enumerate(names)})
        worker.memory = worker.ask(stop=True)
    return workers, results


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn())
    return Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)


def relative_error(mine: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Return the worst output's largest difference relative to its largest value; infinite if shapes differ."""
    names: Sequence[tuple[str, str]] = list(zip(mine, theirs, strict=True))
    return max((difference(mine[a], theirs[b]).relative for a, b in names), default=0.0)


def machine() -> dict[str, Any]:
    """Describe the machine, for the report."""
    return {
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def summary(worker: Worker) -> dict[str, Any]:
    """Return the statistics of one contender; ``compile_ms`` is loading and compiling, ``bytes`` are resident ones."""
    times = worker.times
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return {
        "settings": worker.ready["settings"],
        "cache": worker.ready["cache"],
        "runs": len(times),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "minimum_ms": float(times.min()),
        "runs_per_second": float(1e3 / times.mean()),
        "compile_ms": worker.ready["setup_ms"],
        "first_answer_ms": worker.ready["first_answer_ms"],
        **worker.memory,
        "round_p50_ms": [float(np.median(r)) for r in worker.rounds],
    }
