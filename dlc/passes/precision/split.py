"""Splits the operands of contractions into two bfloat16 parts each, about 16 bits together.

x * w becomes hi(x) hi(w) + hi(x) lo(w) + lo(x) hi(w): one contraction over three times the depth, its operands the
parts one after the other along an axis that both have as a dimension. It must not know targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dlc.ir.builder import Builder
from dlc.ir.compute import is_lanewise_product
from dlc.ir.contraction import ContractSpec, DimIndex, Group, parse_spec
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.opdef import Trait
from dlc.ir.ops.contract import contract_extents
from dlc.ir.ops.contract_gradient import sizes_attribute
from dlc.ir.types import bfloat16, float32
from dlc.passes.regions import in_regions

LEAST_DEPTH = 32
"""Axes shorter than this are not worth three copies."""


def split_operands(graph: Graph) -> Graph:
    """Return ``graph`` with float32 contractions on split operands, in regions too; others stay float32."""
    graph = in_regions(graph, split_operands)
    builder = Builder(graph.name)
    places = {node: found for node in graph.nodes if (found := _shared_axis(node)) is not None}
    if not places:
        return graph
    known: dict[tuple[Value, int, bool], Value] = {}
    for node in graph.nodes:
        if node not in places:
            builder.append(node)
            continue
        with builder.origin(*node.origins):
            operands = []
            for number, (value, axis) in enumerate(zip(node.inputs, places[node], strict=True)):
                key = (value, axis, number == 1)
                if key not in known:
                    known[key] = _parts(builder, *key)
                operands.append(known[key])
        sizes = _sizes(node, places[node][0])
        attributes = node.attributes.updated(dtype=float32, sizes=sizes)
        builder.append(Node(node.op, tuple(operands), attributes, node.outputs, node.origins))
    return replace(graph, nodes=tuple(builder.nodes))


def _shared_axis(node: Node) -> tuple[int, int] | None:
    """Return the dimension of each operand that is one summed axis, the longest; None where there is none."""
    if not node.op.has(Trait.CONTRACTION) or node.op.compute is None:
        return None
    if any(t.dtype is not float32 or not t.is_static for t in (*node.input_types, *node.output_types)):
        return None
    if is_lanewise_product(node.op.compute(node.input_types, node.output_types, node.attributes)):
        return None
    spec, extents = parse_spec(node.attributes["spec"]), _extents(node)
    shared = [
        a for a in spec.reduce_axes if _dimension(spec.lhs, a) is not None and _dimension(spec.rhs, a) is not None
    ]
    axis = max(shared, key=lambda a: extents[a], default=None)
    if axis is None or extents[axis] < LEAST_DEPTH:
        return None
    left, right = _dimension(spec.lhs, axis), _dimension(spec.rhs, axis)
    assert left is not None and right is not None
    return left, right


def _extents(node: Node) -> dict[str, int]:
    return {k: int(v) for k, v in contract_extents(node.input_types, node.attributes).items()}  # type: ignore[call-overload]


def _dimension(side: tuple[DimIndex, ...], axis: str) -> int | None:
    """Return the dimension that is ``axis`` alone, if that is all the side has of it."""
    found = [k for k, index in enumerate(side) if axis in index.axes]
    return found[0] if len(found) == 1 and side[found[0]] == Group((axis,)) else None


def _sizes(node: Node, dimension: int) -> tuple[tuple[str, object], ...]:
    """Return the extents that the new shapes leave open."""
    spec: ContractSpec = parse_spec(node.attributes["spec"])
    extents: Mapping[str, int] = _extents(node)
    axis = spec.lhs[dimension].axes[0]
    return sizes_attribute(spec, {**extents, axis: 3 * extents[axis]})


def _parts(builder: Builder, value: Value, axis: int, right: bool) -> Value:
    """Emit (hi, hi, lo) of a left operand, (hi, lo, hi) of a right one, one after the other along ``axis``."""
    high = builder.cast_to(builder.flush_subnormal(value), bfloat16)
    rest = builder.sub(value, builder.cast_to(high, float32))
    low = builder.cast_to(builder.flush_subnormal(rest), bfloat16)
    return builder.concat(*((high, low, high) if right else (high, high, low)), axis=axis)
