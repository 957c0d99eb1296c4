"""Expansion: composites become primitives, in the form that the mode asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dlc.errors import GraphError
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.opdef import Mode
from dlc.passes.regions import map_regions
from dlc.passes.rewrite import with_inputs

Keep = Callable[[Node], bool]
MAX_NESTING = 32


@dataclass(frozen=True)
class ExpandOptions:
    """``mode`` chooses the form of mode-dependent composites; composites for which ``keep`` is true stay."""

    mode: Mode = Mode.INFERENCE
    keep: Keep | None = None


def expand(graph: Graph, options: ExpandOptions = ExpandOptions()) -> Graph:
    """Replace every composite, also in regions, by what its ``expand`` emits, until none is left.

    Raises GraphError if an expansion has other types than its node, or expansions never end.
    """
    for _ in range(MAX_NESTING):
        expanded = _expand_once(graph, options)
        if expanded is graph:
            return graph
        graph = expanded
    stuck = next(n for n in graph.nodes if n.op.is_composite or n.op.region)
    raise GraphError(f"{stuck!r} still expands after {MAX_NESTING} rounds; its expansion must not contain itself")


def _expand_once(graph: Graph, options: ExpandOptions) -> Graph:
    builder = Builder(graph.name)
    mapping: dict[Value, Value] = {}
    changed = False
    for original in graph.nodes:
        node = with_inputs(original, mapping)
        if node.op.region:
            mapped = map_regions(node, lambda region: expand(region, options))
            changed |= mapped is not node
            node = mapped
        if not node.op.is_composite or (options.keep is not None and options.keep(node)):
            builder.append(node)
            continue
        mapping.update(zip(node.outputs, expand_node(builder, node, options.mode), strict=True))
        changed = True
    if not changed:
        return graph
    outputs = tuple(mapping.get(v, v) for v in graph.outputs)
    return replace(graph, nodes=tuple(builder.nodes), outputs=outputs)


def expand_node(builder: Builder, node: Node, mode: Mode) -> tuple[Value, ...]:
    """Emit the expansion of one composite with the node's origins; return the values that replace its results."""
    if node.op.expand is None:
        raise GraphError(f"{node!r} is no composite and has no expansion")
    with builder.origin(*node.origins):
        values = tuple(node.op.expand(builder, node.inputs, node.attributes, mode))
    types = tuple(v.type for v in values)
    if types != node.output_types:
        raise GraphError(f"{node!r} expands to values of types {', '.join(map(str, types))}")
    return values
