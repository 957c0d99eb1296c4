"""``dlc bench``: measure a model, alone or beside a peer, each in a process of its own, rounds alternating."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import Progress, SpinnerColumn, TextColumn

from dlc import config
from dlc.cli.common import console, find_model, generated_inputs, model_options, parse_shapes, size_text, table, write_json
from dlc.cli.contenders import check_peer
from dlc.errors import DlcError
from dlc.facade import save_onnx

INPUT_SETS = 4


@dataclass
class Worker:
    """One contender's process and what it reported."""

    name: str
    process: subprocess.Popen
    ready: dict[str, Any] = field(default_factory=dict)
    rounds: list[list[float]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send one order (none: just wait) and return the answer; DlcError with the worker's last words if it died."""
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        if order:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            words = self.process.stderr.read().strip().splitlines()
            raise DlcError(f"the process of {self.name} ended early: {words[-1] if words else 'no message'}")
        return json.loads(line)

    @property
    def times(self) -> np.ndarray:
        """Milliseconds of all runs."""
        return np.array([t for times in self.rounds for t in times])


def start(name: str, request: dict[str, Any]) -> Worker:
    """Start the process of one contender."""
    payload = json.dumps({**request, "contender": name, "spawned": time.time()})
    command_line = [sys.executable, "-m", "dlc.cli.worker", payload]
    pipe = subprocess.PIPE
    return Worker(name, subprocess.Popen(command_line, stdin=pipe, stdout=pipe, stderr=pipe, text=True))


def measure(workers: list[Worker], rounds: int, seconds: float) -> None:
    """Let the contenders run in turn: A, B, A, B."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("compiling")
        for worker in workers:
            worker.ready = worker.ask()
        for number in range(rounds):
            for worker in workers:
                progress.update(task, description=f"round {number + 1} of {rounds}: {worker.name}")
                worker.rounds.append(worker.ask(run=seconds)["times"])


def relative_error(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Return the largest difference of any output relative to that output's largest value."""
    worst = 0.0
    for (name, a), b in zip(mine.items(), theirs.values(), strict=True):
        if a.shape != b.shape:
            raise DlcError(f"output {name!r} has shape {list(a.shape)}, the peer's has {list(b.shape)}")
        if a.size:
            scale = max(float(np.abs(b.astype(np.float64)).max()), 1e-30)
            worst = max(worst, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) / scale)
    return worst


def machine() -> dict[str, Any]:
    """Describe the machine, for the report."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"processor": model, "processors": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version()}  # fmt: skip


def summary(worker: Worker) -> dict[str, Any]:
    """Return the statistics of one contender."""
    times = worker.times
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return {
        "settings": worker.ready["settings"],
        "runs": len(times),
        "p50_ms": float(p50), "p90_ms": float(p90), "p99_ms": float(p99),
        "minimum_ms": float(times.min()),
        "runs_per_second": float(1e3 / times.mean()),
        "compile_ms": worker.ready["setup_ms"],
        "first_answer_ms": worker.ready["first_answer_ms"],
        **worker.memory,
        "round_p50_ms": [float(np.median(r)) for r in worker.rounds],
    }  # fmt: skip


@click.command("bench")
@model_options
@click.option("--vs", "peer", metavar="PEER", help="Also measure onnxruntime, in alternating rounds.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds per contender.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Length of a round.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON ('-': standard output).")
def command(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int, peer: str | None, rounds: int, seconds: float, json_path: str | None) -> None:
    """Measure MODEL: latency, throughput, compile time, time to the first answer, memory, error against the peer."""
    if peer is not None:
        check_peer(peer)
    report = run_benchmark(model, parse_shapes(shape_texts), threads or config.num_threads(), seed, peer, rounds, seconds)
    if json_path != "-":
        show(report)
    write_json(json_path, report)


def run_benchmark(model: str, shapes: dict[str, tuple[int, ...]], threads: int, seed: int, peer: str | None, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure and return the report that ``--json`` writes."""
    found = find_model(model, shapes, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = found.path or Path(folder) / f"{found.name}.onnx"
        if found.path is None and peer is not None:
            save_onnx(found.graph, path)
        sets = [generated_inputs(found.graph, seed + k) for k in range(INPUT_SETS)]
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **{f"{k}/{name}": array for k, feeds in enumerate(sets) for name, array in feeds.items()})
        own_shapes = {name: list(array.shape) for name, array in sets[0].items()}
        request = {"inputs": str(inputs), "threads": threads, "seed": seed, "shapes": own_shapes}
        requests = [("dlc", {**request, "model": model})]
        requests += [(peer, {**request, "model": str(path)})] if peer is not None else []
        workers: list[Worker] = []
        try:
            for name, each in requests:
                workers.append(start(name, each))
                workers[-1].ready = {}
            measure(workers, rounds, seconds)
            results = []
            for worker in workers:
                target = Path(folder) / f"{worker.name}.npz"
                worker.ask(outputs=str(target))
                with np.load(target, allow_pickle=False) as archive:
                    results.append({name: archive[name] for name in archive.files})
                worker.memory = worker.ask(stop=True)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.communicate()
    report: dict[str, Any] = {"model": found.name, "threads": threads, "rounds": rounds, "machine": machine()}
    report["contenders"] = {worker.name: summary(worker) for worker in workers}
    if peer is not None:
        ratios = [np.median(b) / np.median(a) for a, b in zip(workers[0].rounds, workers[1].rounds, strict=True)]
        report["speedup"] = float(np.median(ratios))
        report["speedup_rounds"] = [float(r) for r in ratios]
        report["relative_error"] = relative_error(*results)
    return report


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    rows = []
    for name, facts in report["contenders"].items():
        rows.append([
            name, *(f"{facts[key]:.3f}" for key in ("p50_ms", "p90_ms", "p99_ms")), f"{facts['runs_per_second']:.1f}",
            f"{facts['compile_ms']:.0f}", f"{facts['first_answer_ms']:.0f}", size_text(facts["peak_bytes"]),
            size_text(facts["steady_bytes"] - facts["idle_bytes"]),
        ])  # fmt: skip
    columns = ["contender", "p50 ms#", "p90 ms#", "p99 ms#", "runs/s#", "compile ms#", "first answer ms#", "peak memory#", "steady over idle#"]
    table(f"{report['model']}, {report['threads']} threads, {report['machine']['processor']}", columns, rows)
    if "speedup" in report:
        low, high = min(report["speedup_rounds"]), max(report["speedup_rounds"])
        console.print(f"speed against the peer: {report['speedup']:.2f}x (rounds {low:.2f} to {high:.2f}); largest relative error {report['relative_error']:.1e}")
