"""What fusion must know of a node: its kind and how it reads its operands, from its index form alone.

It must not know op names nor groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Union

from dlc.ir.attributes import Attributes, Literal
from dlc.ir.compute import Compute, is_lanewise_product
from dlc.ir.cost import cost, distinct
from dlc.ir.expr import Apply, Const, Expr, Read, Var, children
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import OpDef, Trait
from dlc.ir.simplify import Simplifier, linear_index
from dlc.ir.types import TensorType

_LARGEST_FREE_BODY = 8


class NodeKind(StrEnum):
    """How a node takes part in groups."""

    POINTWISE = "pointwise"  # one result element from reads at its own index
    REDUCTION = "reduction"
    CONTRACTION = "contraction"
    FREE = "free"  # only says where to read, or gives a formula of the index: readers take a copy
    OPAQUE = "opaque"  # a kernel of its own, control flow, tables


class Place(StrEnum):
    """Index of an operand's dimension where it is no axis of the reader."""

    UNIT = "unit"  # the only element of a dimension of extent 1
    OTHER = "other"


DimMap = tuple[Union[int, Place], ...]
"""Per dimension of an operand: the number of the reader's axis that indexes it, or a Place.

Axes of a reduction count its output dimensions first, then the reduced axes."""


@dataclass(frozen=True)
class NodeFacts:
    """``maps`` has one entry per operand, None where it is read in several ways or behind a selection.

    ``alias`` says that the result has the operand's elements in the operand's order. ``axes`` counts the
    output dimensions. ``weight`` is the work per element. ``crosses`` says that a movement reads along another
    dimension than it writes.
    """

    kind: NodeKind
    maps: tuple[DimMap | None, ...] = ()
    alias: bool = False
    axes: int = 0
    weight: int = 0
    crosses: bool = False


_OPAQUE = NodeFacts(NodeKind.OPAQUE)
_elementwise: dict[object, int] = {}


def facts_of(node: Node) -> NodeFacts:
    """Return what fusion must know of ``node``; layers repeat, and equal nodes are looked at once."""
    if node.op.compute is None or len(node.outputs) != 1:
        return _OPAQUE
    literals = [value for value in node.attributes.values() if isinstance(value, Literal)]
    if any(len(literal.run_starts()) > _LARGEST_FREE_BODY for literal in literals):
        return _OPAQUE
    if literals:
        return _find_facts(node)  # not kept: it may be large
    return _known_facts(node.op, node.input_types, node.attributes, node.output_types)


@lru_cache(maxsize=4096)
def _known_facts(
    op: OpDef, inputs: tuple[TensorType, ...], attributes: Attributes, outputs: tuple[TensorType, ...]
) -> NodeFacts:
    return _find_facts(Node(op, tuple(map(Value, inputs)), attributes, tuple(map(Value, outputs))))


def _find_facts(node: Node) -> NodeFacts:
    op = node.op
    types = (*node.input_types, *node.output_types)
    if any(t.dtype.kind in ("complex", "string") or not t.is_static or t.size == 0 for t in types):
        return _OPAQUE
    if op.has(Trait.CONTRACTION) and not is_lanewise_product(_compute(node)):
        return NodeFacts(NodeKind.CONTRACTION)
    if op.has(Trait.ELEMENTWISE):
        weight = _elementwise.get(op)
        if weight is None:
            weight = _elementwise[op] = cost([_compute(node).body])
        identity = tuple(range(node.outputs[0].type.rank))
        return NodeFacts(NodeKind.POINTWISE, (identity,) * len(node.inputs), False, len(identity), weight)
    return _from_compute(node, _compute(node))


def _compute(node: Node) -> Compute:
    assert node.op.compute is not None
    return node.op.compute(node.input_types, node.output_types, node.attributes)


def _from_compute(node: Node, compute: Compute) -> NodeFacts:
    axes = (*compute.axes, *compute.reduce_axes)
    simplify = Simplifier({a.var: (0, max(a.extent - 1, 0)) for a in axes})
    if any(not isinstance(simplify(s), Var | Const) for s in compute.store):
        return _OPAQUE
    body = simplify(compute.body)
    number = {a.var: n for n, a in enumerate(axes)}
    maps = _operand_maps(node, body, number)
    kind = NodeKind.REDUCTION if compute.combiner is not None else NodeKind.POINTWISE
    alias = False
    if kind is NodeKind.POINTWISE and isinstance(body, Read) and len(node.inputs) == 1:
        shape = tuple(int(d) for d in node.inputs[0].type.shape)  # type: ignore[call-overload]
        here = linear_index(tuple(a.var for a in compute.axes), compute.shape, simplify)
        alias = shape_size(shape) == shape_size(compute.shape) and linear_index(body.indices, shape, simplify) == here
        if alias or _keeps_order(body, number):
            kind = NodeKind.FREE
    elif kind is NodeKind.POINTWISE and not any(isinstance(e, Read) for e in distinct([body])):
        small = len(distinct([body])) <= _LARGEST_FREE_BODY
        kind = NodeKind.FREE if small else NodeKind.OPAQUE
    crosses = kind is NodeKind.POINTWISE and isinstance(body, Read) and _crosses(body, node, number)
    return NodeFacts(kind, maps, alias, len(compute.axes), cost([body]), crosses)


def shape_size(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a static shape."""
    size = 1
    for extent in shape:
        size *= extent
    return size


def _crosses(body: Read, node: Node, number: dict[Var, int]) -> bool:
    """Tell whether the operand's fastest dimension is not indexed by the result's fastest dimension."""
    wide = [k for k, d in enumerate(node.outputs[0].type.shape) if d != 1]
    read = [
        number[v]
        for index, extent in zip(body.indices, node.inputs[body.input].type.shape, strict=True)
        for v in distinct([index])
        if extent != 1 and isinstance(v, Var) and v in number
    ]
    return bool(wide and read) and read[-1] != wide[-1]


def _keeps_order(body: Read, number: dict[Var, int]) -> bool:
    """Tell whether a pure movement reads along its own order: broadcasts and slices, no transposes."""
    last = -1
    for index in body.indices:
        match index:
            case Const():
                continue
            case Var() if index in number:
                axis = number[index]
            case Apply(op="add", args=(Var() as var, Const())) if var in number:
                axis = number[var]
            case _:
                return False
        if axis <= last:
            return False
        last = axis
    return True


def _operand_maps(node: Node, body: Expr, number: dict[Var, int]) -> tuple[DimMap | None, ...]:
    maps: list[DimMap | None] = [None] * len(node.inputs)
    seen: set[int] = set()
    guarded = _behind_selections(body)
    for expr in distinct([body]):
        if not isinstance(expr, Read):
            continue
        shape = node.inputs[expr.input].type.shape
        entries = tuple(_place(i, d, number) for i, d in zip(expr.indices, shape, strict=True))
        if expr.input in seen or id(expr) in guarded:
            maps[expr.input] = None
        else:
            maps[expr.input] = _own_position(entries, node)
        seen.add(expr.input)
    return tuple(maps)


def _own_position(entries: DimMap, node: Node) -> DimMap:
    """Name the axes of extent 1, too, where an operand is read at the result's own index."""
    shape = node.outputs[0].type.shape
    if len(entries) != len(shape):
        return entries
    same = all(e == k or (e is Place.UNIT and d == 1) for k, (e, d) in enumerate(zip(entries, shape, strict=True)))
    return tuple(range(len(entries))) if same else entries


def _place(index: Expr, extent: object, number: dict[Var, int]) -> int | Place:
    if isinstance(index, Var) and index in number:
        return number[index]
    return Place.UNIT if extent == 1 else Place.OTHER


def _behind_selections(body: Expr) -> set[int]:
    """Return the ids of nodes that only some selection's branch computes."""
    always: set[int] = set()
    pending = [body]
    while pending:
        current = pending.pop()
        if id(current) in always:
            continue
        always.add(id(current))
        operands = children(current)
        pending += operands[:1] if isinstance(current, Apply) and current.op == "select" else operands
    return {id(e) for e in distinct([body])} - always
