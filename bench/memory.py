"""Measures steady memory: what is resident after runs, less that of a process that only imported dlc.

    python -m bench.memory resnet50 bert_base gpt2 --threads 2

For every case with dlc's cache empty and full, and for onnxruntime. The floor is what a run reads: the constants of
the executable (packed weights) and one arena. Anonymous memory is the process's own; pages of files are the system's
to take back. The models are those that ``python -m bench.run --prepare`` wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.prepare import FILES

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1e6


def measure(contender: str, case: str, threads: int, cache: str) -> dict[str, Any]:
    """Start a process that runs a case and return what it printed."""
    folder = FILES / case
    environment = {**os.environ, "DLC_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.memory_child", contender, str(folder / "model.onnx")]
    command += [str(folder / "inputs.npz"), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def line(case: str, kind: str, facts: dict[str, Any]) -> str:
    """Return the row of a measurement, in megabytes."""
    grown = {name: (facts["steady"][name] - facts["idle"][name]) / MEGABYTE for name in facts["steady"]}
    text = f"{case:16s} {kind:12s} grown {grown['Rss']:7.1f}  of it anonymous {grown['Anonymous']:7.1f}"
    if facts["needed"]:
        needed = facts["needed"] / MEGABYTE
        text += f"  needed {needed:7.1f} ({facts['arena'] / MEGABYTE:.1f} arena)  ratio {grown['Rss'] / needed:.2f}"
    return f"{text}  peak {facts['peak'] / MEGABYTE:7.1f}"


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for case in options.cases:
        with tempfile.TemporaryDirectory(prefix="dlc-memory-") as cache:
            for kind, contender in (("cold", "dlc"), ("warm", "dlc"), ("onnxruntime", "onnxruntime")):
                print(line(case, kind, measure(contender, case, options.threads, cache)), flush=True)


if __name__ == "__main__":
    main()
