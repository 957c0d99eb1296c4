"""Counts the floating-point operations of a graph: those of its contractions, a multiply-add counting two.

Counted after dlc's passes over the graph, which drop what is multiplied by padding, and before any method that
needs fewer multiplications.
"""

from __future__ import annotations

from math import prod

from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.graph import Graph
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
        elif node.op.name == "scan":
            total += int(node.attributes["length"]) * _count(node.attributes["body"])
    return total
