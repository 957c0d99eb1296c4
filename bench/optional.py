"""Packages that only some measurements need: imported when these begin, here and nowhere else inside functions."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def optional(name: str) -> Any:
    """Import a module that needs a package of the bench extra, or PyTorch; exit saying what to install.

    Every measurement names what it needs: a run that compares with onnxruntime alone needs no PyTorch.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise SystemExit(f"bench needs {error.name}: pip install -e '.[bench]' and, for its models, torch") from error
