"""Measures starting: from the start of a process to the first answer, with dlc's cache empty and full.

    python -m bench.start resnet50 bert_base --threads 2 --rounds 3

Cold, warm and onnxruntime's starts alternate; printed are medians in milliseconds since the process was spawned. The
models are those that ``python -m bench.run --prepare`` wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.prepare import FILES

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("python", "imports", "load", "compile", "answer")


def start(contender: str, case: str, threads: int, cache: str) -> dict[str, Any]:
    """Start a process and return what it printed."""
    folder = FILES / case
    # Installed packages have their bytecode; so shall dlc, which is run from its sources.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(FILES.parent / "bytecode")}
    environment = {**os.environ, **bytecode, "DLC_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.start_child", contender, str(folder / "model.onnx")]
    command += [str(folder / "inputs.npz"), str(threads), repr(time.time())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def measure(case: str, threads: int, rounds: int, kinds: Mapping[str, str]) -> None:
    """Print the medians of a case for every kind of start."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="dlc-start-") as warm:
        if "warm" in kinds:
            start("dlc", case, threads, warm)
        for _ in range(rounds):
            for kind, contender in kinds.items():
                with tempfile.TemporaryDirectory(prefix="dlc-start-") as empty:
                    found[kind].append(start(contender, case, threads, warm if kind == "warm" else empty))
    for kind, starts in found.items():
        marks = "  ".join(f"{mark} {statistics.median(s[mark] for s in starts):6.0f}" for mark in MARKS)
        best = min(starts, key=lambda s: s["answer"])
        print(f"{case:16s} {kind:12s} {marks}  {best['cache']} {best['phases'] or ''}", flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="cold,warm,onnxruntime")
    options = parser.parse_args()
    kinds = {kind: kind if kind == "onnxruntime" else "dlc" for kind in options.kinds.split(",")}
    for case in options.cases:
        measure(case, options.threads, options.rounds, kinds)


if __name__ == "__main__":
    main()
