"""The table of importers: op name -> since-version -> function.

An importer takes a Call and returns what the node computes; ``ops_*`` modules
hold one short function per ONNX op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Importer = Callable[[Any], Any]

_TABLE: dict[tuple[str, str], list[tuple[int, Importer]]] = {}


def onnx_op(*names: str, since: int = 1, domain: str = "") -> Callable[[Importer], Importer]:
    """Register the decorated function as importer of ``names`` from opset ``since`` on."""

    def decorate(function: Importer) -> Importer:
        for name in names:
            versions = _TABLE.setdefault((domain, name), [])
            versions.append((since, function))
            versions.sort(key=lambda entry: -entry[0])
        return function

    return decorate


def find_importer(domain: str, name: str, version: int) -> Importer | None:
    """Return the importer of ``name`` at opset ``version``, or None."""
    for since, function in _TABLE.get((domain, name), ()):
        if since <= version:
            return function
    return None


def begins_at(domain: str, name: str, version: int) -> bool:
    """Return whether an importer of ``name`` was written for ``version`` itself, not only for earlier ones."""
    return any(since == version for since, _ in _TABLE.get((domain, name), ()))


def known_ops(domain: str = "") -> list[str]:
    """Return the names that have an importer."""
    return sorted(name for known, name in _TABLE if known == domain)
