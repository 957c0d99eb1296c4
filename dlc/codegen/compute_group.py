"""Inlining: the Computes of a group of nodes as expressions over the group's sources.

A source is an input of the group or a value that the schedule materialises.
Everything else is substituted into its readers. It must not know loops, memory
order or targets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dlc.errors import CompileError
from dlc.ir.compute import Axis, Compute
from dlc.ir.expr import Expr, Read, Var, substitute, transform
from dlc.ir.graph import Node, Value
from dlc.ir.simplify import Simplifier
from dlc.ir.types import TensorType


def axis_bounds(axes: Sequence[Axis]) -> dict[Var, tuple[int, int]]:
    """Return the inclusive bounds of axis variables (empty axes count as one element)."""
    return {a.var: (0, max(a.extent - 1, 0)) for a in axes}


class ComputeGroup:
    """The Computes of ``nodes`` (in order) over ``inputs``.

    ``sources`` are numbered as the Reads of inlined expressions number them: the group's inputs first,
    then what ``inline`` was told to keep.
    """

    def __init__(self, inputs: Sequence[Value], nodes: Sequence[Node]) -> None:
        self.inputs = tuple(inputs)
        self.nodes = tuple(nodes)
        self.computes: dict[Value, Compute] = {}
        self.operands: dict[Value, tuple[Value, ...]] = {}
        self.sources: list[Value] = list(inputs)
        self.number: dict[Value, int] = {v: k for k, v in enumerate(inputs)}
        self._reads: dict[Read, Read] = {}  # one object per read: comparing expressions stays cheap
        for node in nodes:
            if node.op.compute is None or len(node.outputs) != 1:
                raise CompileError(f"{node!r} has no index form and cannot be part of a fused kernel")
            types = [*node.input_types, *node.output_types]
            if not all(t.is_static for t in types):
                raise CompileError(f"{node!r} has symbolic dimensions; bind them before code generation")
            value = node.outputs[0]
            self.computes[value] = node.op.compute(node.input_types, node.output_types, node.attributes)
            self.operands[value] = node.inputs

    @property
    def reductions(self) -> list[Value]:
        """The values that combine over reduction axes, in order."""
        return [v for v, c in self.computes.items() if c.combiner is not None]

    def source(self, value: Value) -> int:
        """Return the source number of ``value``, adding it if it is new."""
        number = self.number.get(value)
        if number is None:
            number = self.number[value] = len(self.sources)
            self.sources.append(value)
        return number

    def source_type(self, number: int) -> TensorType:
        """Return the type of source ``number``."""
        return self.sources[number].type

    def inline(self, keep: Collection[Value], wanted: Collection[Value] | None = None) -> dict[Value, Compute]:
        """Return every wanted value's Compute (all by default) over sources only.

        Values in ``keep`` become sources for their readers; reductions are always kept.
        """
        kept = {v for v in self.computes if v in keep or self.computes[v].combiner is not None}
        needed = self._needed(kept, wanted)
        result: dict[Value, Compute] = {}
        instances: dict[tuple, Expr] = {}
        for value, compute in self.computes.items():
            if value in needed:
                result[value] = self._inlined(value, compute, kept, result, instances)
        return result if wanted is None else {v: result[v] for v in wanted}

    def _needed(self, kept: Collection[Value], wanted: Collection[Value] | None) -> set[Value]:
        if wanted is None:
            return set(self.computes)
        needed: set[Value] = set(wanted)
        for value in reversed(self.computes):
            if value in needed:
                needed.update(v for v in self.operands[value] if v in self.computes and v not in kept)
        return needed

    def _inlined(
        self,
        value: Value,
        compute: Compute,
        kept: Collection[Value],
        done: Mapping[Value, Compute],
        instances: dict[tuple, Expr],
    ) -> Compute:
        operands = self.operands[value]
        bounds = axis_bounds((*compute.axes, *compute.reduce_axes))
        simplify = Simplifier(bounds)
        extents = tuple(bounds.items())

        def rule(expr: Expr) -> Expr | None:
            if not isinstance(expr, Read):
                return None
            operand = operands[expr.input]
            if operand in kept or operand not in self.computes:
                read = Read(self.source(operand), expr.indices, expr.dtype)
                return self._reads.setdefault(read, read)
            key = (operand, expr.indices, extents)
            known = instances.get(key)
            if known is None:
                known = instances[key] = instantiate(done[operand], expr.indices, simplify)
            return known

        body = transform(compute.body, rule)
        return Compute(
            compute.axes, compute.reduce_axes, compute.combiner, body, compute.store, compute.shape, compute.dtype
        )


def instantiate(compute: Compute, indices: Sequence[Expr], simplify: Simplifier) -> Expr:
    """Return the body of a pointwise Compute at ``indices``, simplified under the reader's bounds."""
    if all(i is a.var or i == a.var for i, a in zip(indices, compute.axes, strict=True)):
        return compute.body
    mapping: dict[Expr, Expr] = {a.var: i for a, i in zip(compute.axes, indices, strict=True)}
    return simplify(substitute(compute.body, mapping))
