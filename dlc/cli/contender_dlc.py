"""This compiler as a contender."""

from __future__ import annotations

import numpy as np

from dlc.cli.common import compiled, find_model
from dlc.cli.contenders import Request


class Dlc:
    """A compiled model."""

    def __init__(self, request: Request) -> None:
        found = find_model(request.model, {n: tuple(s) for n, s in request.shapes.items()}, request.seed)
        self.executable = compiled(found, request.threads)
        self.cache: str = self.executable.report.cache
        self.settings = f"dlc, float32, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        return self.executable.run(feeds)


def open_model(request: Request) -> Dlc:
    """Load and compile the model."""
    return Dlc(request)
