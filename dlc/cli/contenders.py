"""Contenders: what a benchmark or a comparison runs, each behind the same few methods and in a module of its own.

A contender's module is imported where it is used only: a peer's process must not pay for importing dlc's compiler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from dlc.errors import ConfigError

DLC = "dlc"
MODULES = {DLC: "dlc.cli.contender_dlc", "onnxruntime": "dlc.cli.contender_onnxruntime"}
PEERS = tuple(name for name in MODULES if name != DLC)


@dataclass(frozen=True)
class Request:
    """What a contender is asked to open: a file's path (or, for dlc, a built-in model) with input shapes.

    ``options`` are the contender's own.
    """

    model: str
    threads: int
    seed: int = 0
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class Contender(Protocol):
    """A model that is ready to be run again and again."""

    settings: str
    cache: str

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        ...


class ContenderModule(Protocol):
    """What a contender's module defines."""

    def open_model(self, request: Request) -> Contender:
        """Load and compile the model."""
        ...


def find_contender(name: str) -> ContenderModule:
    """Import the contender ``name``, one of ``MODULES`` or a module's dotted name.

    Raises ConfigError if it is unknown or not installed.
    """
    if name not in MODULES and "." not in name:
        raise ConfigError(f"{name!r} is not a peer that dlc can measure; it knows {', '.join(PEERS)}")
    try:
        return import_module(MODULES.get(name, name))  # type: ignore[return-value]
    except ModuleNotFoundError as error:
        raise ConfigError(f"the contender {name!r} cannot be imported: {error}") from error
