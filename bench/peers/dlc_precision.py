"""dlc at a precision other than float32 as a contender."""

from __future__ import annotations

import numpy as np

import dlc
from dlc.cli.contenders import Request


class DlcAtPrecision:
    """A model compiled with ``precision=``."""

    cache = "on"

    def __init__(self, request: Request) -> None:
        precision = request.options["precision"]
        graph = dlc.load(request.model, shapes=request.shapes)
        self.executable = dlc.compile(graph, precision=precision, threads=request.threads, shapes=request.shapes)
        self.settings = f"dlc, {precision}, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        return self.executable.run(feeds)


def open_model(request: Request) -> DlcAtPrecision:
    """Load and compile the model."""
    return DlcAtPrecision(request)
