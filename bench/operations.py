"""Counts what a graph must do at least: operations of its contractions, and bytes of its weights.

A multiply-add counts two. Operations are counted after dlc's passes over the graph, which drop what is multiplied by
padding, and before any method that needs fewer multiplications.
"""

from __future__ import annotations

from math import prod

import numpy as np

from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.graph import Graph, Role
from dlc.passes.manager import Instruments, Pass, run_pipeline


def count_flops(graph: Graph, passes: tuple[Pass, ...]) -> int:
    """Return the operations of one run of ``graph``, whose dimensions are bound."""
    found, _ = run_pipeline(graph, passes, Instruments(verify=0))
    return _count(found)


def _count(graph: Graph) -> int:
    total = 0
    for node in graph.nodes:
        if node.op.name == "contract":
            spec = parse_spec(node.attributes["spec"])
            lhs, rhs = (value.type.shape for value in node.inputs)
            extents = infer_extents(spec, lhs, rhs, dict(node.attributes["sizes"]))
            total += 2 * prod(int(extent) for extent in extents.values())
        elif node.op.name == "fused":
            total += _count(node.attributes["body"])
        elif node.op.name == "scan":
            total += int(node.attributes["length"]) * _count(node.attributes["body"])
    return total


def weight_bytes(graph: Graph) -> int:
    """Return the bytes of parameters and state that a run reads: of a table, the rows that it looks up."""
    readers: dict[object, list] = {value: [] for value in graph.inputs}
    for node in graph.nodes:
        for position, value in enumerate(node.inputs):
            if value in readers:
                readers[value].append((node, position))
    total = 0
    for value, spec in graph.inputs_with(Role.PARAMETER, Role.STATE):
        picks = all(node.op.name in ("gather", "slice") and position == 0 for node, position in readers[value])
        read = sum(int(node.outputs[0].type.size) for node, _ in readers[value])
        count = min(read, spec.initial.size) if picks else spec.initial.size
        total += count * np.dtype(spec.initial.dtype).itemsize
    return total
