"""This compiler as a contender. Imports what a program that loads and runs a model would, and no more."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np

from dlc.cli.contenders import Request
from dlc.facade import compile as compile_model
from dlc.facade import load
from dlc.ir.graph import Graph


class Dlc:
    """A compiled model."""

    def __init__(self, request: Request) -> None:
        precision = request.options.get("precision", "float32")
        self.executable = compile_model(
            find_graph(request), threads=request.threads, shapes=request.shapes, precision=precision
        )
        report = getattr(self.executable, "report", None)  # an executable for open shapes has none
        self.cache: str = report.cache if report is not None else "off"
        self.settings = f"dlc, {precision}, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        return self.executable.run(feeds)


def find_graph(request: Request) -> Graph:
    """Load the file, or build the model of that name; only the latter needs the graph API."""
    if Path(request.model).is_file():
        return load(request.model, shapes=request.shapes)
    graph: Graph = import_module("dlc.cli.common").find_model(request.model, {}, request.seed).declared
    return graph


def open_model(request: Request) -> Dlc:
    """Load and compile the model."""
    return Dlc(request)
