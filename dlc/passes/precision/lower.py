"""Lower precision on request: operands of contractions are rounded to bfloat16, or split into two such parts.

Runs last, on primitives. A value that a contraction reads is rounded where it is made, and every other reader
takes the rounded value too, so that one copy is stored; inputs, weights and outputs of the graph keep their values
for everybody else, and so do normed values with each element of which contractions do so much that storing another
copy costs little: the sums that run through a transformer lose most by rounding. Rounding moves up through nodes
that only move or choose elements. It must not know targets: its options say whether rounded values are kept as bfloat16
or, where that has no unit of its own, as float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from dlc.ir.builder import Builder
from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Const
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.opdef import Trait
from dlc.ir.types import bfloat16, float32
from dlc.passes.precision.split import split_operands
from dlc.passes.regions import in_regions
from dlc.passes.rewrite import with_inputs

_CHOOSING = (None, "maximum", "minimum")
"""Combiners whose result is one of their operands."""


MUCH_WORK = 4096
"""Operations of contractions with an element beside which a float32 copy of it costs a few percent at most."""


@dataclass(frozen=True)
class LowerPrecisionOptions:
    """``parts``: bfloat16 numbers that stand for an operand of a contraction: 0 (float32 as it is), 1 or 2.

    ``stored``: keep rounded operands as bfloat16, else as rounded float32. Two parts are never made unless they are
    multiplied as such: float32 itself is more precise.
    """

    parts: int = 0
    stored: bool = True


def lower_precision(graph: Graph, options: LowerPrecisionOptions = LowerPrecisionOptions()) -> Graph:
    """Round the float32 operands of every contraction, in regions too; the same object if there is nothing to do."""
    if options.parts == 2 and options.stored:
        return split_operands(graph)
    if options.parts != 1:
        return graph
    graph = in_regions(graph, lambda region: lower_precision(region, options))
    rounded = _rounded_values(graph)
    return _Rounding(graph, options, rounded).run() if rounded else graph


def _is_contraction(node: Node) -> bool:
    return node.op.has(Trait.CONTRACTION) and node.outputs[0].type.dtype is float32


def _rounded_values(graph: Graph) -> set[Value]:
    """Return the values that contractions read, directly or through nodes that only move or choose elements."""
    found: set[Value] = set()
    for node in reversed(graph.nodes):
        if _is_contraction(node) or (node.outputs[0] in found and _only_chooses(node)):
            found.update(_floats(node))
    return found


def _worked_values(graph: Graph) -> set[Value]:
    """Return the normed values with each element of which contractions do much work."""
    work: dict[Value, float] = {}
    for node in reversed(graph.nodes):
        if not all(t.is_static for t in (*node.input_types, *node.output_types)):
            continue
        if _is_contraction(node):
            done = _operations(node)
        elif node.outputs[0] in work and _only_chooses(node):
            done = work[node.outputs[0]]
        else:
            continue
        for value in _floats(node):
            work[value] = work.get(value, 0.0) + done
    much = {value for value, done in work.items() if done >= MUCH_WORK * int(value.type.size)}  # type: ignore[arg-type]
    return much & _normed_values(graph) if much else much


def _normed_values(graph: Graph) -> set[Value]:
    """Return the values made of reductions, and of nothing after them but such: norms along rows, for instance.

    Their kernels store another copy in passing; the epilogue of a contraction stores one result only.
    """
    found: set[Value] = set()
    for node in graph.nodes:
        if node.op.has(Trait.CONTRACTION) or node.op.compute is None or len(node.outputs) != 1:
            continue
        if not all(t.is_static for t in (*node.input_types, *node.output_types)):
            continue
        compute = node.op.compute(node.input_types, node.output_types, node.attributes)
        if compute.combiner is not None or any(v in found for v in node.inputs):
            found.add(node.outputs[0])
    return found


def _operations(node: Node) -> float:
    """Return the multiplications and additions of a contraction of static shape."""
    lhs, rhs = node.input_types
    extents = infer_extents(parse_spec(node.attributes["spec"]), lhs.shape, rhs.shape, dict(node.attributes["sizes"]))
    return 2.0 * prod(int(extent) for extent in extents.values())  # type: ignore[call-overload]


def _floats(node: Node) -> Iterator[Value]:
    return (v for v in node.inputs if v.type.dtype is float32)


def _only_chooses(node: Node) -> bool:
    """Tell whether every element of the result is an element of an operand: then rounding may come first."""
    if node.op.compute is None or len(node.outputs) != 1 or not node.inputs:
        return False
    if node.outputs[0].type.dtype is not float32 or not all(
        t.is_static for t in (*node.input_types, *node.output_types)
    ):
        return False
    compute = node.op.compute(node.input_types, node.output_types, node.attributes)
    if compute.combiner not in _CHOOSING:
        return False
    computed = [e for e in distinct([compute.body]) if isinstance(e, Apply | Const) and e.dtype.is_float]
    return all(isinstance(e, Apply) and e.op == "select" for e in computed)


class _Rounding:
    """Rebuilds a graph; ``narrow`` holds the rounded form of each value that has one."""

    def __init__(self, graph: Graph, options: LowerPrecisionOptions, rounded: set[Value]) -> None:
        self.graph = graph
        self.options = options
        self.rounded = rounded
        self.builder = Builder(graph.name)
        self.kept = {*graph.inputs, *graph.outputs}
        self.worked = _worked_values(graph)
        self.wide: set[Value] = set()
        """Values that are there in float32 beside their rounded form."""
        self.narrow: dict[Value, Value] = {}
        self.makers: dict[Value, Node] = {}

    def run(self) -> Graph:
        """Return the graph with contractions on rounded operands."""
        for node in self.graph.nodes:
            self.makers.update((v, node) for v in node.outputs)
            with self.builder.origin(*node.origins):
                self.emit(node)
        return replace(self.graph, nodes=tuple(self.builder.nodes))

    def emit(self, node: Node) -> None:
        """Add ``node``, reading rounded values, and the rounded form of its result where that is wanted."""
        if _is_contraction(node) and all(v.type.dtype is float32 for v in node.inputs):
            self.contraction(node)
        elif node.outputs[0] in self.rounded and node.outputs[0] not in self.kept and _only_chooses(node):
            operands = [self.narrowed(v) if v.type.dtype is float32 else v for v in node.inputs]
            self.narrow[node.outputs[0]] = self.builder.emit(node.op, operands, node.attributes)[0]
        else:
            self.builder.append(with_inputs(node, {v: self.read(v) for v in dict.fromkeys(_floats(node))}))
            self.wide.update(v for v in node.outputs if v in self.worked)
        for value in node.outputs:
            if value in self.rounded and value not in self.kept:
                self.narrowed(value)

    def contraction(self, node: Node) -> None:
        """Add a contraction of rounded operands, under the result that the graph knows."""
        operands = tuple(self.narrowed(v) for v in node.inputs)
        dtype = float32 if self.options.stored else None
        self.builder.append(Node(node.op, operands, node.attributes.updated(dtype=dtype), node.outputs, node.origins))

    def narrowed(self, value: Value) -> Value:
        """Return the rounded form of ``value``."""
        if value not in self.narrow:
            self.narrow[value] = self.round(value)
        return self.narrow[value]

    def round(self, value: Value) -> Value:
        """Emit the rounding of a value, once: a literal at once, what was widened from bfloat16 as it was."""
        maker = self.makers.get(value)
        if maker is not None and maker.op.name == "constant":
            with np.errstate(all="ignore"):
                array = maker.attributes["value"].array.astype(bfloat16.numpy)
            return self.builder.constant(array if self.options.stored else array.astype(np.float32))
        if maker is not None and maker.op.name == "cast" and maker.inputs[0].type.dtype is bfloat16:
            return maker.inputs[0] if self.options.stored else value
        if self.options.stored:
            return self.builder.cast_to(self.builder.flush_subnormal(value), bfloat16)
        return self.builder.cast_to(self.builder.cast_to(value, bfloat16), float32)

    def read(self, value: Value) -> Value:
        """Return what nodes other than contractions read for ``value``: each its own widening, to fuse with it."""
        if value in self.kept or value in self.wide or value not in self.narrow or self.is_literal(value):
            return value
        return self.builder.cast_to(self.narrow[value], float32)

    def is_literal(self, value: Value) -> bool:
        """Tell whether ``value`` is a constant: nothing is stored for it."""
        return value in self.makers and self.makers[value].op.name == "constant"
