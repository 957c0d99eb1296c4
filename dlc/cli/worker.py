"""A benchmark's worker process: one contender, asked over standard input, answering in JSON lines.

Imports no more than its contender needs, so that the time to its first answer is the contender's.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from dlc.cli.arrays import write_arrays
from dlc.cli.contenders import Contender, Request, find_contender
from dlc.errors import DlcError


def resident_bytes(peak: bool = False) -> int:
    """Return the resident set size of this process, now or at its highest."""
    # Not from getrusage: its highest includes that of the process this one was started from.
    field = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def read_feeds(path: str) -> list[dict[str, np.ndarray]]:
    """Read the numbered sets of inputs that the parent wrote: ``<set>/<input name>``."""
    sets: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            number, _, name = key.partition("/")
            sets.setdefault(int(number), {})[name] = archive[key]
    return [sets[number] for number in sorted(sets)]


def answer(**facts: Any) -> None:
    """Write one line to the parent."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def serve(order: dict[str, Any]) -> None:
    """Set up the contender, then serve ``run``, ``outputs`` and ``stop``."""
    opening = find_contender(order["contender"])
    feeds = read_feeds(order["inputs"])
    idle = resident_bytes()
    begin = time.perf_counter()
    contender = opening.open_model(Request(**order["request"]))
    setup = time.perf_counter() - begin
    contender.run(feeds[0])
    first = time.time() - order["spawned"]
    answer(setup_ms=setup * 1e3, first_answer_ms=first * 1e3, settings=contender.settings, cache=contender.cache)
    for line in sys.stdin:
        order = json.loads(line)
        if "run" in order:
            answer(times=measure(contender, feeds, order["run"]))
        elif "outputs" in order:
            results = contender.run(feeds[0])
            write_arrays(Path(order["outputs"]), {str(k): array for k, array in enumerate(results.values())})
            answer(names=list(results))
        else:
            answer(peak_bytes=resident_bytes(peak=True), steady_bytes=resident_bytes(), idle_bytes=idle)
            return


def measure(contender: Contender, feeds: list[dict[str, np.ndarray]], seconds: float) -> list[float]:
    """Run for ``seconds``, at least three times, after one uncounted run; return milliseconds of each run."""
    contender.run(feeds[0])
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < deadline:
        fed = feeds[len(times) % len(feeds)]
        begin = time.perf_counter()
        contender.run(fed)
        times.append((time.perf_counter() - begin) * 1e3)
    return times


def main(text: str) -> None:
    """Serve the order in ``text``; a DlcError goes to the parent, which raises it again."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says what was interrupted
    try:
        serve(json.loads(text))
    except DlcError as error:
        answer(error=type(error).__name__, message=str(error), notes=list(getattr(error, "__notes__", ())))


if __name__ == "__main__":
    main(sys.argv[1])
