"""Finds attention: scores by a contraction, reductions along their rows, a contraction over the rows.

Decides by the kinds of nodes, by who reads what and by which axes are summed,
never by names. It must not rewrite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dlc.ir.compute import Compute
from dlc.ir.contraction import ContractSpec, Group, parse_spec
from dlc.ir.expr import Expr, Read, Var, substitute
from dlc.ir.graph import Graph, Node, Role, Value, producers, users
from dlc.ir.ops.contract import contract_extents
from dlc.ir.simplify import Simplifier
from dlc.ir.types import float32, float64
from dlc.passes.node_facts import NodeFacts, NodeKind, facts_of
from dlc.passes.respec import has_windows

LEAST_ROWS, LEAST_KEYS = 8, 8
"""Fewer rows do not repay packing keys and values; for fewer keys, no scores are worth keeping in cache."""
_MOST_NODES = 32
_LONGEST_FORMULA = 8


@dataclass(frozen=True)
class AttentionPattern:
    """``first`` makes scores, ``between`` (in order) turns them into ``weights``, which ``second`` reads."""

    first: Node
    between: tuple[Node, ...]
    second: Node
    weights: Value


class Scope:
    """A graph and what finding patterns asks of it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made_by: Mapping[Value, Node] = producers(graph)
        self.users = users(graph)
        self.outputs = set(graph.outputs)
        self.position = {node: k for k, node in enumerate(graph.nodes)}
        self.fixed = _fixed(graph)
        self.constants = _constants(graph)
        self._facts: dict[Node, NodeFacts] = {}

    def facts(self, node: Node) -> NodeFacts:
        """Return what fusion knows of ``node``."""
        known = self._facts.get(node)
        if known is None:
            known = self._facts[node] = facts_of(node)
        return known

    def free(self, value: Value) -> Node | None:
        """Return the producer of ``value`` if it only says where to read, or gives a formula of the index."""
        node = self.made_by.get(value)
        return node if node is not None and self.facts(node).kind is NodeKind.FREE else None

    def formula(self, value: Value) -> Node | None:
        """Return the producer of ``value`` if a few operations make it of the index alone."""
        seen: dict[Node, None] = {}
        pending = [value]
        while pending:
            node = self.made_by.get(pending.pop())
            if node is None or self.facts(node).kind not in (NodeKind.FREE, NodeKind.POINTWISE):
                return None
            seen[node] = None
            if len(seen) > _LONGEST_FORMULA:
                return None
            pending += node.inputs
        return next(iter(seen))

    def movement(self, value: Value) -> Node | None:
        """Return the producer of ``value`` if it only moves elements of its one operand."""
        node = self.made_by.get(value)
        if node is None or len(node.inputs) != 1 or node.op.compute is None:
            return None
        if self.facts(node).kind not in (NodeKind.FREE, NodeKind.POINTWISE):
            return None
        return node if isinstance(simplified_body(node), Read) else None

    def source_of(self, value: Value, stop: set[Value]) -> tuple[Value, tuple[Expr, ...]]:
        """Follow movements from ``value`` to one of ``stop``, or as far as they go; return its indices there.

        Indices are over the axes of ``value``, ``i<k>`` for dimension k.
        """
        node = self.movement(value)
        if node is None:
            return value, tuple(Var(f"i{k}") for k in range(value.type.rank))
        compute = compute_of(node)
        simplify = Simplifier({a.var: (0, max(a.extent - 1, 0)) for a in compute.axes})
        indices: tuple[Expr, ...] = tuple(a.var for a in compute.axes)
        named: dict[Expr, Expr] = {a.var: Var(f"i{k}") for k, a in enumerate(compute.axes)}
        while value not in stop and (node := self.movement(value)) is not None:
            body = simplified_body(node)
            assert isinstance(body, Read)
            mapping: dict[Expr, Expr] = {a.var: i for a, i in zip(compute_of(node).axes, indices, strict=True)}
            indices = tuple(simplify(substitute(i, mapping)) for i in body.indices)
            value = node.inputs[0]
        return value, tuple(substitute(i, named) for i in indices)


def _fixed(graph: Graph) -> set[Value]:
    """Return the values that are the same in every run: weights and what is made of them."""
    pairs = zip(graph.inputs, graph.signature.inputs, strict=True)
    fixed = {v for v, spec in pairs if spec.role not in (Role.DATA, Role.TARGET)}
    for node in graph.nodes:
        if all(v in fixed for v in node.inputs):
            fixed.update(node.outputs)
    return fixed


def _constants(graph: Graph) -> dict[Value, np.ndarray]:
    """Return the values that are known now: constants of the graph."""
    known = {v: s.initial for v, s in graph.inputs_with(Role.CONSTANT) if s.initial is not None}
    return known | {n.outputs[0]: n.attributes["value"].array for n in graph.nodes if n.op.name == "constant"}


def compute_of(node: Node) -> Compute:
    """Return the index form of a primitive."""
    assert node.op.compute is not None
    return node.op.compute(node.input_types, node.output_types, node.attributes)


def simplified_body(node: Node) -> Expr:
    """Return the simplified body of a node's index form."""
    compute = compute_of(node)
    axes = (*compute.axes, *compute.reduce_axes)
    return Simplifier({a.var: (0, max(a.extent - 1, 0)) for a in axes})(compute.body)


def find_attention(scope: Scope) -> list[AttentionPattern]:
    """Return all patterns, in order; no node is in two.

    Products with weights are none: those are packed once, at load.
    """
    found = []
    for node in scope.graph.nodes:
        if scope.facts(node).kind is not NodeKind.CONTRACTION or any(v in scope.fixed for v in node.inputs):
            continue
        if _makes_scores(node):
            pattern = _follow(scope, node)
            if pattern is not None and _sums_rows(pattern) and not any(v in scope.fixed for v in pattern.second.inputs):
                found.append(pattern)
    return found


def contraction(node: Node) -> tuple[ContractSpec, dict[str, int]]:
    """Return a contraction's specification and static extents."""
    spec = parse_spec(node.attributes["spec"])
    return spec, {k: int(v) for k, v in contract_extents(node.input_types, node.attributes).items()}  # type: ignore[call-overload]


def _axes(side: tuple[object, ...]) -> list[str] | None:
    """Return the axis of each dimension of a side; None where a dimension is no plain axis."""
    if any(not isinstance(d, Group) or len(d.axes) != 1 for d in side):
        return None
    return [d.axes[0] for d in side if isinstance(d, Group)]


def _makes_scores(node: Node) -> bool:
    """Tell whether the last axis of the result is one operand's and some other axis the other's."""
    spec, extents = contraction(node)
    output = _axes(spec.output)
    if output is None or len(output) < 2 or has_windows(spec):
        return False
    dtype = node.outputs[0].type.dtype
    if dtype not in (float32, float64) or node.inputs[0].type.dtype is not dtype:
        return False
    if sum(extents[a] != 1 for a in spec.reduce_axes) != 1:
        return False
    key = output[-1]
    sides = [{a for d in side for a in d.axes} for side in (spec.lhs, spec.rhs)]
    if (key in sides[0]) == (key in sides[1]) or extents[key] < LEAST_KEYS:
        return False
    keys, queries = (sides[0], sides[1]) if key in sides[0] else (sides[1], sides[0])
    rows = [a for a in output[:-1] if extents[a] != 1 and a in queries and a not in keys]
    return bool(rows) and extents[rows[-1]] >= LEAST_ROWS


def _follow(scope: Scope, first: Node) -> AttentionPattern | None:
    """Follow all readers of the scores to the one contraction where they meet."""
    scores = first.outputs[0]
    shape = scores.type.shape
    size, row_size = scores.type.size, scores.type.size // int(shape[-1])  # type: ignore[operator, call-overload]
    values = {scores}
    between: dict[Node, None] = {}
    seconds: dict[Node, None] = {}
    pending = [scores]
    while pending:
        value = pending.pop()
        if value in scope.outputs:
            return None
        for reader in scope.users.get(value, ()):
            if scope.facts(reader).kind is NodeKind.CONTRACTION:
                seconds[reader] = None
                continue
            if reader in between:
                continue
            if scope.facts(reader).kind is NodeKind.OPAQUE or len(between) == _MOST_NODES:
                return None
            result = reader.outputs[0]
            if result.type.shape != shape and result.type.size not in (row_size, 1) and result.type.size != size:
                return None
            between[reader] = None
            values.add(result)
            pending.append(result)
    if len(seconds) != 1:
        return None
    second = next(iter(seconds))
    read = [v for v in second.inputs if v in values]
    if len(read) != 1 or read[0] is scores or read[0].type.shape != shape:
        return None
    ordered = tuple(sorted(between, key=scope.position.__getitem__))
    reductions = [n for n in ordered if scope.facts(n).kind is NodeKind.REDUCTION]
    if not reductions or not all(_along_rows(n, shape) for n in reductions):
        return None
    return AttentionPattern(first, ordered, second, read[0])


def _along_rows(node: Node, shape: tuple[object, ...]) -> bool:
    """Tell whether a reduction runs over the last dimension of tensors of ``shape``, and over nothing else."""
    if len(node.inputs) != 1 or node.inputs[0].type.shape != shape:
        return False
    compute = compute_of(node)
    body = simplified_body(node)
    wide = [a.var for a in compute.reduce_axes if a.extent != 1]
    return isinstance(body, Read) and len(wide) == 1 and body.indices[-1] == wide[0]


def _sums_rows(pattern: AttentionPattern) -> bool:
    """Tell whether the second contraction sums over the rows of the weights alone, into columns of the output."""
    spec, extents = contraction(pattern.second)
    if has_windows(spec) or pattern.second.inputs[0].type.dtype is not pattern.first.outputs[0].type.dtype:
        return False
    left = pattern.second.inputs[0] is pattern.weights
    rows, other = (spec.lhs, spec.rhs) if left else (spec.rhs, spec.lhs)
    axes = _axes(rows)
    summed = [a for a in spec.reduce_axes if extents[a] != 1]
    if axes is None or summed != [axes[-1]]:
        return False
    columns = [a for a in spec.output_axes if extents[a] != 1 and a not in axes]
    return len(columns) == 1 and spec.output_axes[-1] == columns[0] and any(columns[0] in d.axes for d in other)
