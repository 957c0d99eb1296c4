"""Values that do not depend on data: evaluated on demand with the ops' own definitions.

Used where an importer needs numbers that the model computes from constants.
"""

from __future__ import annotations

import numpy as np

from dlc.errors import DlcError
from dlc.frontends.onnx.values import Region
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Trait

_MOST_NODES = 10_000
_MOST_BYTES = 1 << 28


def evaluate_constant(region: Region, value: Value) -> np.ndarray | None:
    """Return the array of ``value`` if it depends on constants only and is small enough to work out, else None."""
    order = _needed(region, value)
    if order is None:
        return None
    arrays = dict(region.constants)
    for node in order:
        try:
            results = node.op.evaluate(node.attributes, *(arrays[v] for v in node.inputs))
        except (DlcError, ArithmeticError, ValueError, IndexError):
            return None
        if len(node.outputs) == 1 and not isinstance(results, tuple | list):
            results = (results,)
        arrays.update((v, np.asarray(r)) for v, r in zip(node.outputs, results, strict=True))
    return arrays.get(value)


def _needed(region: Region, value: Value) -> list[Node] | None:
    """Return the nodes that ``value`` needs, in order, or None if it depends on data or costs too much."""
    order: list[Node] = []
    done: set[Value] = set(region.constants)
    pending: list[tuple[Value, bool]] = [(value, False)]
    cost = 0
    while pending:
        current, ready = pending.pop()
        if current in done:
            continue
        node = region.producer(current)
        if node is None or any(node.op.has(t) for t in (Trait.MODAL, Trait.HOST, Trait.STATEFUL_KEY)):
            return None
        if not ready:
            pending.append((current, True))
            pending.extend((v, False) for v in node.inputs if v not in done)
            continue
        for out in node.outputs:
            if not out.type.is_static:
                return None
            cost += int(out.type.nbytes)  # type: ignore[arg-type]
        if cost > _MOST_BYTES or len(order) > _MOST_NODES:
            return None
        order.append(node)
        done.update(node.outputs)
    return order
