"""One process whose memory is measured: it imports a contender, then loads a model and runs it a few times.

Imports nothing that the contender would not.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

import numpy as np

RUNS = 5


def resident() -> dict[str, int]:
    """Return the bytes of this process that are in memory, and how many of them belong to no file."""
    found = {}
    with open("/proc/self/smaps_rollup") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in ("Rss", "Anonymous"):
                found[name] = int(rest.split()[0]) * 1024
    return found


def highest() -> int:
    """Return the most bytes that were in memory at once."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(contender: str, model: str, inputs: str, threads: int) -> None:
    """Print the bytes before a model is loaded and after runs, and what the executable needs."""
    with np.load(inputs) as archive:
        feeds = {key[2:]: archive[key] for key in archive.files if key.startswith("0/")}
    needed = arena = 0
    if contender == "dlc":
        dlc = import_module("dlc")
        _ = dlc.load, dlc.compile
        idle = resident()
        shapes = {name: array.shape for name, array in feeds.items()}
        executable = dlc.compile(dlc.load(model, shapes=shapes), shapes=shapes, threads=threads)
        for _ in range(RUNS):
            executable.run(feeds)
        memory = executable.memory
        needed, arena = memory.total, memory.arena
    else:
        ort = import_module("onnxruntime")
        idle = resident()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, feeds)
    print(json.dumps({"idle": idle, "steady": resident(), "needed": needed, "arena": arena, "peak": highest()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
