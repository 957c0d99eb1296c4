"""One start of one contender: a process that loads a model, runs it once and prints when each part was over.

Imports nothing that the contender would not.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module

import numpy as np


def main(contender: str, model: str, inputs: str, threads: int, spawned: float) -> None:
    """Print milliseconds since the process was spawned: Python started, ready to load, loaded, compiled, answered."""
    started = time.time()
    with np.load(inputs) as archive:
        feeds = {key[2:]: archive[key] for key in archive.files if key.startswith("0/")}
    if contender == "dlc":
        dlc = import_module("dlc")
        _ = dlc.load, dlc.compile
        ready = time.time()
        shapes = {name: array.shape for name, array in feeds.items()}
        graph = dlc.load(model, shapes=shapes)
        loaded = time.time()
        executable = dlc.compile(graph, shapes=shapes, threads=threads)
        run, report = executable.run, executable.report
    else:
        ort = import_module("onnxruntime")
        ready = time.time()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        loaded = time.time()
        run, report = (lambda arrays: session.run(None, arrays)), None
    compiled = time.time()
    run(feeds)
    marks = {"python": started, "imports": ready, "load": loaded, "compile": compiled, "answer": time.time()}
    facts = {name: round((mark - spawned) * 1e3, 1) for name, mark in marks.items()}
    phases = {name: round(value, 1) for name, value in report.phases.items()} if report is not None else {}
    print(json.dumps({**facts, "cache": report.cache if report is not None else "", "phases": phases}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
