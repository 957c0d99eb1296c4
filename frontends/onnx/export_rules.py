"""The table of export rules: op of the graph -> function that writes ONNX nodes.

A rule gets the writer and the node and returns the name, or names, of its results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.frontends.onnx.export_writer import Writer
from dlc.ir.graph import Node

Rule = Callable[[Writer, Node], Any]
RULES: dict[str, Rule] = {}


class NotExpressible(Exception):
    """Raised by the rule of a composite that must be expanded instead, for these attributes."""


def exports(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the export rule of ops."""

    def decorate(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return decorate
