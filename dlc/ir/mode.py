"""The mode in which a graph is compiled. In a module of its own, since a warm start needs it and no ops."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Which form of mode-dependent composites (dropout, batch norm) is expanded."""

    INFERENCE = "inference"
    TRAINING = "training"
