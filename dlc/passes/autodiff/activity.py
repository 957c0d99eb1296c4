"""Activity: which values a gradient flows through."""

from __future__ import annotations

from collections.abc import Iterable

from dlc.ir.graph import Node, Value


def active_values(nodes: Iterable[Node], wrt: Iterable[Value]) -> set[Value]:
    """Return the float values that depend on ``wrt`` through float values, ``wrt`` included."""
    active = set(wrt)
    for node in nodes:
        if any(v in active for v in node.inputs):
            active.update(v for v in node.outputs if v.type.dtype.is_float)
    return active
