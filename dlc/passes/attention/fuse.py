"""Makes one ``fused`` node of attention: two contractions and what lies between them.

The node reads queries, keys and values where they lie: movements before the
contractions become part of it, factors of queries and keys are applied to the
scores, and the division by a row's sum to the product. It must not know how the
node is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.contraction import Group
from dlc.ir.expr import Apply, Const, Read, Var
from dlc.ir.graph import Graph, Node, Value, region_signature
from dlc.ir.opdef import find_op
from dlc.passes.attention.mask import Diagonal, diagonal_of
from dlc.passes.attention.pattern import (
    AttentionPattern,
    Scope,
    compute_of,
    contraction,
    find_attention,
    simplified_body,
)
from dlc.passes.cleanup import remove_dead
from dlc.passes.node_facts import NodeKind


def fuse_attention(graph: Graph) -> Graph:
    """Return ``graph`` with every attention outside of regions as one ``fused`` node; shapes must be static."""
    scope = Scope(graph)
    patterns = find_attention(scope)
    if not patterns:
        return graph
    fused = {pattern.second: _Fusion(scope, pattern).node() for pattern in patterns}
    return remove_dead(graph.with_nodes(fused.get(node, node) for node in graph.nodes))


class _Fusion:
    """Builds the body of one pattern. ``inner`` maps values of the graph to those of the body."""

    def __init__(self, scope: Scope, pattern: AttentionPattern) -> None:
        self.scope = scope
        self.pattern = pattern
        self.builder = Builder("fused")
        self.inputs: dict[Value, Value] = {}
        self.inner: dict[Value, Value] = {}

    def node(self) -> Node:
        """Return the fused node that takes the place of the second contraction."""
        pattern = self.pattern
        first, second = pattern.first, pattern.second
        operands, factors = [], []
        for value in first.inputs:
            source, found = self._peeled(value)
            operands.append(source)
            factors += found
        scores = self._copy(first, operands)[0]
        self.inner[first.outputs[0]] = self._scaled(scores, factors)
        made = {first.outputs[0]}
        for node in pattern.between:
            masks = node.outputs[0].type.shape == scores.type.shape
            diagonal = diagonal_of(self.scope, node, made) if masks else None
            made.update(node.outputs)
            if diagonal is not None:
                self.inner[node.outputs[0]] = self._cut(node, diagonal)
                continue
            self.inner.update(zip(node.outputs, self._copy(node, [self._value(v) for v in node.inputs]), strict=True))
        divisor = self._divisor()
        weights = self.inner[pattern.weights if divisor is None else divisor.numerator]
        values = [weights if v is pattern.weights else self._moved(v, []) for v in second.inputs]
        product = self._copy(second, values)[0]
        if divisor is not None:
            product = self._divided(product, divisor)
        origins = tuple(dict.fromkeys(o for n in (first, *pattern.between, second) for o in n.origins))
        body = self._body(product)
        return Node(find_op("fused"), tuple(self.inputs), Attributes({"body": body}), second.outputs, origins)

    def _body(self, result: Value) -> Graph:
        inputs = tuple(self.inputs.values())
        graph = Graph("fused", inputs, tuple(self.builder.nodes), (result,), region_signature(len(inputs), 1))
        graph = remove_dead(graph)
        read = {v for n in graph.nodes for v in n.inputs}
        self.inputs = {outer: inner for outer, inner in self.inputs.items() if inner in read}
        kept = tuple(self.inputs.values())
        return Graph("fused", kept, graph.nodes, graph.outputs, region_signature(len(kept), 1))

    # -- values of the body ----------------------------------------------------------------------

    def _copy(self, node: Node, operands: Sequence[Value]) -> tuple[Value, ...]:
        results = tuple(Value(v.type, v.hint) for v in node.outputs)
        self.builder.append(Node(node.op, tuple(operands), node.attributes, results, node.origins))
        return results

    def _value(self, value: Value) -> Value:
        """Return a value in the body: made there, copied with the free nodes that it is read through, or an input."""
        pending = [value]
        while pending:
            current = pending[-1]
            if current in self.inner:
                pending.pop()
                continue
            node = self.scope.free(current) or self.scope.formula(current)
            if node is None:
                self.inner[current] = self.inputs[current] = Value(current.type, current.hint)
                continue
            missing = [v for v in node.inputs if v not in self.inner]
            if missing:
                pending += missing
                continue
            self.inner.update(zip(node.outputs, self._copy(node, [self.inner[v] for v in node.inputs]), strict=True))
        return self.inner[value]

    def _peeled(self, value: Value) -> tuple[Value, list[Value]]:
        """Return an operand of the scores without the factors on its way, and the factors, each of one element."""
        factors: list[Value] = []
        return self._moved(value, factors), [self._value(f) for f in factors]

    def _moved(self, value: Value, factors: list[Value] | None) -> Value:
        """Return ``value`` with the movements on its way in the body; with ``factors``, those are taken out."""
        path: list[Node] = []
        while value not in self.inner:
            node = self.scope.movement(value)
            if node is not None:
                path.append(node)
                value = node.inputs[0]
                continue
            found = self._factor(value) if factors is not None else None
            if found is None or factors is None:
                break
            value, factor = found
            factors.append(factor)
        current = self._value(value)
        for node in reversed(path):
            current = self._copy(node, [current])[0]
        return current

    def _factor(self, value: Value) -> tuple[Value, Value] | None:
        """Return (tensor, factor of one element) if ``value`` is their product."""
        node = self.scope.made_by.get(value)
        if node is None or self.scope.facts(node).kind is not NodeKind.POINTWISE or len(node.inputs) != 2:
            return None
        body = compute_of(node).body
        if not isinstance(body, Apply) or body.op != "mul" or not all(isinstance(a, Read) for a in body.args):
            return None
        for tensor, other in (node.inputs, node.inputs[::-1]):
            source, _ = self.scope.source_of(other, set())
            if source.type.size == 1 and tensor.type.size != 1:
                return tensor, source
        return None

    def _scaled(self, scores: Value, factors: Sequence[Value]) -> Value:
        """Return the scores times all factors, of which constants are multiplied first."""
        makers = {v: n for n in self.builder.nodes for v in n.outputs}
        literals = [makers[f].attributes["value"].array for f in factors if f in makers and not makers[f].inputs]
        others = [f for f in factors if f not in makers or makers[f].inputs]
        if literals:
            product = np.prod([a.reshape(()) for a in literals], dtype=literals[0].dtype)
            others.append(self.builder.constant(product))
        for factor in others:
            scalar = self.builder.reshape_to(factor, ())
            scores = self.builder.mul(scores, self.builder.broadcast_to(scalar, scores.type.shape))
        return scores

    def _cut(self, node: Node, diagonal: Diagonal) -> Value:
        """Return a mask's result with what lies beyond the diagonal hidden by the index."""
        if diagonal.exact:
            masked = self.inner[diagonal.masked]
        else:
            masked = self._copy(node, [self._value(v) for v in node.inputs])[0]
        builder, shape = self.builder, masked.type.shape
        rows, keys = (builder.iota(shape=shape, axis=len(shape) - k) for k in (2, 1))
        if diagonal.offset:
            rows = builder.add(rows, diagonal.offset)
        hidden = builder.full(shape, diagonal.hidden, masked.type.dtype)
        result: Value = builder.where(builder.greater_equal(rows, keys), masked, hidden)
        return result

    # -- the division by a row's sum ---------------------------------------------------------------

    def _divisor(self) -> _Divisor | None:
        """Return what the weights are divided by, if that is the same along a row, so that the product can be."""
        division = self.scope.made_by[self.pattern.weights]
        guarded = False
        body = simplified_body(division)
        if isinstance(body, Apply) and body.op == "select":
            inner = self._guarded(division, body)
            if inner is None:
                return None
            division, guarded = inner, True
            body = simplified_body(division)
        if not isinstance(body, Apply) or body.op != "div" or not all(isinstance(a, Read) for a in body.args):
            return None
        numerator, spread = (division.inputs[a.input] for a in body.args if isinstance(a, Read))
        row = self._row_value(spread)
        if row is None or numerator.type.shape != self.pattern.weights.type.shape or numerator not in self.inner:
            return None
        if guarded and not self._is_softmax(numerator, row):
            return None
        places = self._places()
        return None if places is None else _Divisor(numerator, row, places, guarded)

    def _guarded(self, node: Node, body: Apply) -> Node | None:
        """Return the node that makes x in ``where(is_nan(x), 0, x)``."""
        if not all(isinstance(a, Read) for a in body.args):
            return None
        condition, then, otherwise = (node.inputs[a.input] for a in body.args if isinstance(a, Read))
        test = self.scope.made_by.get(condition)
        value = self.scope.made_by.get(otherwise)
        if test is None or value is None or value not in self.pattern.between or test not in self.pattern.between:
            return None
        tested = simplified_body(test)
        is_test = isinstance(tested, Apply) and tested.op == "is_nan" and isinstance(tested.args[0], Read)
        source, _ = self.scope.source_of(then, set())
        maker = self.scope.made_by.get(source)
        zero = maker is not None and maker.op.compute is not None and simplified_body(maker)
        if not is_test or test.inputs != (otherwise,) or not isinstance(zero, Const) or zero.value != 0:
            return None
        return value

    def _row_value(self, spread: Value) -> Value | None:
        """Return the result per row of which ``spread`` has a copy for every element of the row."""
        rows = {v for n in self.pattern.between for v in n.outputs if self.scope.facts(n).kind is NodeKind.REDUCTION}
        value, indices = self.scope.source_of(spread, rows)
        if value not in rows or spread.type.shape != self.pattern.weights.type.shape:
            return None
        wide = [i for i, d in zip(indices, value.type.shape, strict=True) if d != 1]
        return value if wide == [Var(f"i{k}") for k, d in enumerate(spread.type.shape[:-1]) if d != 1] else None

    def _is_softmax(self, numerator: Value, row: Value) -> bool:
        """Tell whether ``row`` sums ``numerator``, the exponentials of differences from their maximum.

        Then not-a-number in one element of a row is in all of them and in the sum.
        """
        total = self.scope.made_by[row]
        power = self.scope.made_by[numerator]
        body = simplified_body(power)
        if compute_of(total).combiner != "add" or total.inputs[0] is not numerator:
            return False
        if not isinstance(body, Apply) or body.op != "exp" or not isinstance(body.args[0], Read):
            return False
        shifted = self.scope.made_by.get(power.inputs[0])
        difference = simplified_body(shifted) if shifted in self.pattern.between and shifted is not None else None
        if shifted is None or not isinstance(difference, Apply) or difference.op != "sub":
            return False
        if [a.input for a in difference.args if isinstance(a, Read)] != [0, 1]:
            return False
        top = self._row_value(shifted.inputs[1])
        if top is None:
            return False
        maximum = self.scope.made_by[top]
        return compute_of(maximum).combiner == "maximum" and maximum.inputs[0] is shifted.inputs[0]

    def _places(self) -> list[int] | None:
        """Return, per dimension of a row's result with more than one element, its dimension in the product."""
        spec, extents = contraction(self.pattern.second)
        side = spec.lhs if self.pattern.second.inputs[0] is self.pattern.weights else spec.rhs
        wide = [d for d in side[:-1] if extents[d.axes[0]] != 1]
        if any(not isinstance(d, Group) or d not in spec.output for d in wide):
            return None
        return [spec.output.index(d) for d in wide]

    def _divided(self, product: Value, divisor: _Divisor) -> Value:
        builder = self.builder
        row = self.inner[divisor.row]
        row = builder.reshape_to(row, [d for d in row.type.shape if d != 1])
        order = sorted(range(len(divisor.places)), key=divisor.places.__getitem__)
        row = builder.transpose_to(row, order)
        spread = builder.broadcast(row, shape=product.type.shape, dims=tuple(sorted(divisor.places)))
        result: Value = builder.div(product, spread)
        if divisor.guarded:
            result = builder.where(builder.is_nan(spread), builder.zeros_like(result), result)
        return result


class _Divisor:
    """``numerator`` divided by ``row``, whose dimensions are ``places`` of the product; ``guarded``: NaN gives 0."""

    def __init__(self, numerator: Value, row: Value, places: list[int], guarded: bool) -> None:
        self.numerator = numerator
        self.row = row
        self.places = places
        self.guarded = guarded
