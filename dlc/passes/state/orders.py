"""In which order the dimensions of state are best stored: as the contractions that read it want them.

Parameters come as frameworks define them, a convolution's output channels first; its kernels want taps first and
output channels last. It must not rewrite.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlc.ir.contraction import Group, WindowTerm, parse_spec, side_axes
from dlc.ir.graph import Graph, Node, Value, producers
from dlc.ir.opdef import Trait
from dlc.passes.layout.contract import kernel_order
from dlc.passes.layout.reshape import Layout


def state_orders(graph: Graph) -> Mapping[str, Layout]:
    """Return, by name, the dimensions in stored order of inputs that a run replaces; the others keep theirs.

    The first windowed contraction that reads an input decides; what elementwise ops combine with it to make the value
    that replaces it (an optimizer's moments) follows.
    """
    names = {v: s.name for v, s in zip(graph.inputs, graph.signature.inputs, strict=True) if s.replaced_by is not None}
    following = {s.name: graph.output(s.replaced_by) for s in graph.signature.inputs if s.replaced_by is not None}
    made = producers(graph)
    orders: dict[str, Layout] = {}
    for node in graph.nodes:
        found = _wanted(node)
        if found is None or found[0] not in names or names[found[0]] in orders:
            continue
        value, order = found
        for other in _combined(following[names[value]], made):
            if other in names and other.type.shape == value.type.shape:
                orders.setdefault(names[other], order)
        orders[names[value]] = order
    return orders


def _wanted(node: Node) -> tuple[Value, Layout] | None:
    """Return the kernel of a windowed contraction, if any, and the order that it is read in."""
    if not node.op.has(Trait.CONTRACTION):
        return None
    spec = parse_spec(node.attributes["spec"])
    sides = spec.lhs, spec.rhs
    windowed = [k for k, side in enumerate(sides) if any(isinstance(d, WindowTerm) for d in side)]
    if len(windowed) != 1:
        return None
    kernel = sides[1 - windowed[0]]
    shared = side_axes(spec.lhs) & side_axes(spec.rhs) & set(spec.output_axes)
    if shared or any(not isinstance(d, Group) or len(d.axes) != 1 for d in kernel):
        return None
    order = kernel_order(spec, windowed[0])
    return None if order == tuple(range(len(kernel))) else (node.inputs[1 - windowed[0]], order)


def _combined(value: Value, made: Mapping[Value, Node]) -> list[Value]:
    """Return what elementwise ops make ``value`` of, as far as no node makes it."""
    found: list[Value] = []
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        node = made.get(here)
        if node is None:
            found.append(here)
        elif node.op.has(Trait.ELEMENTWISE):
            waiting += node.inputs
    return found
