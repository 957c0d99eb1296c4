"""Runs small models on tiles and saves what they answer: ``python -m tests.tile_traps.child RESULTS [LIBRARY]``.

With a library of traps dlc's code has tile instructions, without it what ``DLC_CPU_FEATURES`` says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import dlc
from dlc import losses, nn, optim
from tests.tile_traps.traps import install


def network() -> dlc.Graph:
    """Every way to tiles: windows of few planes, plain products, rows split ahead, deep windows of 3x3."""
    with dlc.Graph("network", seed=1) as graph:
        h = dlc.relu(nn.Conv2d(3, 64, 7, stride=2, padding=3)(dlc.input("x", (1, 3, 32, 32))))
        h = dlc.relu(nn.Conv2d(64, 128, 3, stride=2, padding=1)(dlc.relu(nn.Conv2d(64, 64, 1)(h)) + h))
        rows = dlc.reshape(dlc.transpose(h, (0, 2, 3, 1)), (-1, 128))
        h = dlc.reshape(nn.Linear(768, 512)(dlc.gelu(nn.Linear(128, 768)(rows))), (1, 8, 8, 512))
        dlc.output("y", nn.Conv2d(512, 512, 3, padding=1)(dlc.transpose(h, (0, 3, 1, 2))))
    return graph


def answers() -> dict[str, np.ndarray]:
    """Answers to ordinary inputs and to an infinite one, and losses of training steps, by precision."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 3, 32, 32)).astype("f")
    spoilt = np.where(np.arange(x.size).reshape(x.shape) == 77, np.float32(np.inf), x)
    feeds = {"x": rng.normal(size=(256, 128)).astype("f"), "label": rng.integers(0, 256, 256)}
    found = {}
    for precision in ("float32", "bf16x3", "bfloat16"):
        executable = dlc.compile(network(), threads=2, precision=precision)
        found[precision], found[f"{precision} infinite"] = executable(x), executable(spoilt)
        with dlc.Graph("perceptron", seed=2) as graph:
            hidden = dlc.relu(nn.Linear(128, 256)(dlc.input("x", (256, 128))))
            dlc.output("y", nn.Linear(256, 256)(hidden))
        loss = losses.cross_entropy("y", "label")
        step = dlc.compile_training(graph, loss=loss, optimizer=optim.Adam(), precision=precision, threads=2)
        found[f"{precision} losses"] = np.array([step.run(feeds) for _ in range(3)])
    return found


def main(results: str, library: str = "") -> None:
    handler = install(Path(library)) if library else None
    found = answers()
    executed = handler.executed_tile_instructions() if handler else 0
    np.savez(results, executed=executed, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
