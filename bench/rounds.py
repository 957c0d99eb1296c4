"""Runs the contenders of one case in turn, A B C A B C, each in a process of its own, and sums up what they did."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.floor import floor_ms
from bench.prepare import FILES, SEED, folder_of
from bench.suite import NARROW, NARROW_RIVAL, RIVALS, TRAINING, Case, Peer
from dlc.cli.arrays import read_arrays
from dlc.cli.contenders import Request
from dlc.cli.measure import Worker, summary, working_process
from dlc.errors import DlcError

REST = 0.03  # seconds between turns: a contender's threads may spin for a while after its last run


@dataclass(frozen=True)
class Settings:
    """How a case is measured: threads, rounds, seconds of a turn, seconds that a contender may take for an order."""

    threads: int
    rounds: int
    seconds: float
    limit: float


def measure_case(
    case: Case, peers: Sequence[Peer], facts: Mapping[str, Any], settings: Settings, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure one case; a contender that fails is reported with its error, the others go on."""
    report: dict[str, Any] = {
        "case": case.to_json(),
        "reference": facts["reference"],
        "gflop": facts["flops"] / 1e9,
        "megabytes": facts["bytes"] / 1e6,
        "floor_ms": floor_ms(facts["flops"], facts["bytes"], machine),
        "contenders": {},
    }
    with tempfile.TemporaryDirectory(prefix="dlc-bench-") as scratch, ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for peer in peers:
            try:
                workers[peer.name] = stack.enter_context(_start(case, peer, facts, settings))
            except DlcError as error:
                report["contenders"][peer.name] = {"failed": _one_line(error)}
        for _ in range(settings.rounds):
            for name in list(workers):
                _try(report, workers, name, partial(_turn, seconds=settings.seconds))
        reference = read_arrays(folder_of(case) / "reference.npz")
        for name in list(workers):
            finish = partial(_finish, name=name, case=case, reference=reference, report=report, scratch=Path(scratch))
            _try(report, workers, name, finish)
    report["contenders"] = {p.name: report["contenders"][p.name] for p in peers}
    report["speeds"] = speeds(case, report["contenders"])
    return report


def _start(case: Case, peer: Peer, facts: Mapping[str, Any], settings: Settings) -> Any:
    folder = folder_of(case)
    options = {**peer.options, "case": case.name, "weights": str(folder / "weights.npz")}
    request = Request(str(folder / "model.onnx"), settings.threads, SEED, facts["shapes"], options)
    threads = str(settings.threads)
    return working_process(
        peer.module,
        folder / "inputs.npz",
        request,
        settings.limit,
        OMP_NUM_THREADS=threads,
        MKL_NUM_THREADS=threads,
        TORCHINDUCTOR_CACHE_DIR=str(FILES / "inductor"),
        HF_HUB_OFFLINE="1",
        PYTHONPATH=str(Path(__file__).resolve().parent.parent),
        **peer.environment,
    )


def _turn(worker: Worker, seconds: float) -> None:
    time.sleep(REST)
    worker.rounds.append(worker.ask(run=seconds)["times"])


def _try(report: dict[str, Any], workers: dict[str, Worker], name: str, do: Callable[[Worker], None]) -> None:
    """Do something with a contender; if it fails, note why and leave the contender out."""
    try:
        do(workers[name])
    except DlcError as error:
        report["contenders"][name] = {"failed": _one_line(error)}
        del workers[name]


def _one_line(error: DlcError) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _finish(
    worker: Worker, name: str, case: Case, reference: Mapping[str, np.ndarray], report: dict[str, Any], scratch: Path
) -> None:
    target = scratch / f"{name}.npz"
    names = worker.ask(outputs=str(target))["names"]
    results = read_arrays(target)
    outputs = [results[str(number)] for number in range(len(names))]
    worker.memory = worker.ask(stop=True)
    facts = summary(worker)
    facts["setup_ms"] = facts.pop("compile_ms")
    compare = loss_error if case.kind == TRAINING else output_error
    facts["error"] = compare(outputs, list(reference.values()))
    report["contenders"][name] = facts


def output_error(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Return the worst output's largest difference relative to its largest value; infinite if shapes differ."""
    if [a.shape for a in found] != [a.shape for a in wanted]:
        return float("inf")
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        difference = np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()
        worst = max(worst, float(difference) if np.isfinite(difference) else float("inf"))
    return worst


def loss_error(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Return the largest relative difference of the losses of the first steps."""
    if found[0].shape != wanted[0].shape:
        return float("inf")
    difference = float(np.max(np.abs(found[0] - wanted[0]) / np.abs(wanted[0])))
    return difference if np.isfinite(difference) else float("inf")


def speeds(case: Case, contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return how often faster dlc is than each contender: the median of the rounds' ratios, and their extremes.

    ``bfloat16`` compares the two contenders of that precision with each other.
    """
    rounds = {name: facts["round_p50_ms"] for name, facts in contenders.items() if "round_p50_ms" in facts}
    made = {}
    if NARROW in rounds and NARROW_RIVAL in rounds:
        made["bfloat16"] = _speed(rounds[NARROW_RIVAL], rounds[NARROW])
    if "dlc" not in rounds:
        return made
    made.update({name: _speed(theirs, rounds["dlc"]) for name, theirs in rounds.items() if name != "dlc"})
    rivals = [made[name] for name in RIVALS[case.kind] if name in made]
    if rivals:
        made["best rival"] = min(rivals, key=lambda speed: speed["median"])
    return made


def _speed(theirs: Sequence[float], mine: Sequence[float]) -> dict[str, float]:
    ratios = np.array(theirs) / np.array(mine)
    return {"median": float(np.median(ratios)), "low": float(ratios.min()), "high": float(ratios.max())}
