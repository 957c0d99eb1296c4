"""Measures dlc beside its peers, for inference and for training steps; one command, from the repository's root:

    python -m bench.run                       # the whole suite
    python -m bench.run --models resnet50,train_cnn --peers dlc,onnxruntime
    python -m bench.run --prepare             # only write models and fill caches, beforehand

Results are written after every model to bench/results/<name>.json, .md and .png; --resume keeps those already there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.prepare import prepared
from bench.report import markdown, plot
from bench.rounds import Settings, measure_case
from bench.suite import BATCHES, PEER_NAMES, Case, cases, peers_of
from dlc.cli.measure import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
QUICK = ("mlp", "mobilenet_v2", "lstm", "light_squeezenet", "train_mlp")
PREPARE_LIMIT = 600


def listed(known: Mapping[str, Any] | tuple[str, ...], what: str) -> Any:
    """Return a parser of comma-separated names."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name)
        wrong = [name for name in names if name not in known]
        if wrong or not names:
            raise argparse.ArgumentTypeError(f"unknown {what}: {', '.join(wrong)}; known are {', '.join(known)}")
        return names

    return parse


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = cases()
    kinds = {case.kind: None for case in known.values()}
    parser.add_argument("--models", type=listed(known, "model"), help="default: all but batches")
    parser.add_argument("--kind", choices=list(kinds), help="only inference or only training")
    parser.add_argument("--no-light", action="store_true", help="without the light topologies")
    parser.add_argument("--batches", action="store_true", help="only inference of larger batches")
    parser.add_argument("--peers", type=listed(PEER_NAMES, "peer"), default=PEER_NAMES, help="default: all")
    parser.add_argument("--compile-all", action="store_true", help="torch.compile for every model, not only for some")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.25, help="of a contender's turn; it runs at least 3 times")
    parser.add_argument("--minutes", type=float, help="start no further model after this time; --resume goes on")
    parser.add_argument("--limit", type=float, default=120, help="seconds that a contender may take for one answer")
    parser.add_argument("--quick", action="store_true", help="few models, two short rounds: a check that all works")
    parser.add_argument("--resume", action="store_true", help="keep the models that the results already have")
    parser.add_argument("--prepare", action="store_true", help="write models, fill caches, measure nothing")
    parser.add_argument("--report", action="store_true", help="only write table and plot again from the JSON")
    parser.add_argument("--name", default=None, help="of the results (default: suite, or quick)")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 0.05
    options.name = options.name or ("quick" if options.quick else "suite")
    usual = tuple(name for name in known if name not in BATCHES)
    chosen = options.models or (QUICK if options.quick else BATCHES if options.batches else usual)
    options.cases = [
        known[name]
        for name in chosen
        if options.kind in (None, known[name].kind) and not (options.no_light and known[name].light)
    ]
    return options


def subprocess_json(*arguments: str) -> Any:
    """Run a module of the benchmark in a process of its own and return what it prints."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PREPARE_LIMIT, cwd=ROOT)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{' '.join(arguments)}: {words[-1]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


def ready(case: Case, threads: int) -> dict[str, Any]:
    """Return the facts of a prepared case, preparing it if need be."""
    facts = prepared(case)
    if facts is None:
        subprocess_json("bench.prepare", case.name, "--threads", str(threads))
        facts = prepared(case)
    if facts is None:
        raise RuntimeError(f"{case.name} could not be prepared")
    return facts


def load_results(path: Path, settings: Settings) -> dict[str, Any]:
    """Return the cases that an earlier run of the same settings wrote."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())
    return found["cases"] if found["settings"] == asdict(settings) else {}


def write_results(results: Mapping[str, Any], name: str) -> None:
    """Write the JSON (whole or not at all) and the table."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)
    path.with_suffix(".md").write_text(markdown(results))


def revision() -> str:
    """Return the revision of the source, or "unknown"."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def line(report: Mapping[str, Any]) -> str:
    """Return a summary of one case."""
    parts = []
    for name, facts in report["contenders"].items():
        parts.append(f"{name} {facts['p50_ms']:.3f} ({facts['error']:.0e})" if "p50_ms" in facts else f"{name} failed")
    best = report["speeds"].get("best rival")
    return f"{', '.join(parts)}" + (f"; speed {best['median']:.2f}" if best else "")


def run(options: argparse.Namespace) -> None:
    settings = Settings(options.threads, options.rounds, options.seconds, options.limit)
    path = RESULTS / f"{options.name}.json"
    if options.prepare:  # one short round fills the caches of dlc and of torch.compile
        settings = Settings(options.threads, 1, 0.01, PREPARE_LIMIT)
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "revision": revision(),
        "machine": machine(),
        "settings": asdict(settings),
        "floor": subprocess_json("bench.floor", "--threads", str(options.threads)),
        "cases": load_results(path, settings) if options.resume else {},
        "skipped": {},
    }
    begin = time.monotonic()
    for case in options.cases:
        peers = peers_of(case, options.peers, options.compile_all)
        if case.name in results["cases"] or not peers:
            continue
        if options.minutes is not None and time.monotonic() - begin > 60 * options.minutes:
            results["skipped"][case.name] = "no time left"
            continue
        try:
            report = measure_case(case, peers, ready(case, options.threads), settings, results["floor"])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            results["skipped"][case.name] = str(error)
            print(f"{time.monotonic() - begin:6.0f} s  {case.name}: skipped: {error}", flush=True)
            continue
        print(f"{time.monotonic() - begin:6.0f} s  {case.name}: {line(report)}", flush=True)
        if not options.prepare:
            results["cases"][case.name] = report
            write_results(results, options.name)
    if not options.prepare:
        plot(results, path.with_suffix(".png"))


def main() -> None:
    options = parse_options()
    if options.report:
        path = RESULTS / f"{options.name}.json"
        results = json.loads(path.read_text())
        write_results(results, options.name)
        plot(results, path.with_suffix(".png"))
        return
    run(options)


if __name__ == "__main__":
    main()
