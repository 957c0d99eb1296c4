"""The layouts that convolutions will ask for, passed back to what computes their operands.

A product that could store its result in any order then stores it as it is read: otherwise the result would be
transposed, which moves more bytes than the product itself where it has more channels than its operand.
It must not know in which layouts values are stored.
"""

from __future__ import annotations

from dlc.ir.contraction import parse_spec
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.opdef import Trait
from dlc.passes.layout.contract import windowed_layout
from dlc.passes.layout.reshape import Layout

_FOLLOWING = frozenset({"cast", "pad", "slice", "reduce_window", "concat"})
"""Ops beside elementwise ones whose operands of the result's rank have its layout."""


def wanted_layouts(graph: Graph) -> dict[Value, Layout]:
    """Return the layouts of values that windows read, directly or behind ops that keep the order of dimensions."""
    wanted: dict[Value, Layout] = {}
    for node in reversed(graph.nodes):
        for value, layout in _asked(node, wanted):
            wanted.setdefault(value, layout)
    return wanted


def _asked(node: Node, wanted: dict[Value, Layout]) -> list[tuple[Value, Layout]]:
    """Return the operands that ``node`` wants in some layout, given what is wanted of its results."""
    if node.op.name == "contract":
        found = windowed_layout(node, parse_spec(node.attributes["spec"]))
        return [] if found is None else [(node.inputs[found[0]], found[1])]
    if len(node.outputs) != 1 or not (node.op.has(Trait.ELEMENTWISE) or node.op.name in _FOLLOWING):
        return []
    layout = wanted.get(node.outputs[0])
    return [] if layout is None else [(v, layout) for v in node.inputs if v.type.rank == len(layout)]
