"""Contenders: what a benchmark or a comparison runs, each behind the same few methods."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from dlc.cli.optional import onnxruntime
from dlc.errors import ConfigError
from dlc.facade import compile as compile_model
from dlc.ir.graph import Graph


class Contender(Protocol):
    """A compiled model that can be run again and again."""

    settings: str

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        ...


class Dlc:
    """This compiler."""

    def __init__(self, graph: Graph, threads: int) -> None:
        self.executable = compile_model(graph, threads=threads)
        self.settings = f"float32, {threads} threads, cache {self.executable.report.cache}"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        return self.executable.run(feeds)


class OnnxRuntime:
    """onnxruntime's CPU provider, all graph optimisations on, sequential execution."""

    def __init__(self, path: Path, threads: int) -> None:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.settings = f"onnxruntime {ort.__version__}, CPU provider, all optimisations, {threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        return dict(zip(self.names, self.session.run(None, feeds), strict=True))


PEERS = {"onnxruntime": OnnxRuntime}


def check_peer(name: str) -> None:
    """Raise ConfigError unless the peer ``name`` is known and installed."""
    if name not in PEERS:
        raise ConfigError(f"{name!r} is not a peer that dlc can measure; it knows {', '.join(PEERS)}")
    onnxruntime()
