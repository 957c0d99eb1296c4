"""The layout pass: activations of convolutional networks become channels-last.

Every value of the old graph gets a layout, the order in which its dimensions are
stored. Convolutions ask for channels last; all other ops follow their operands,
so that transposes remain where data enters and leaves. Logical shapes of inputs
and outputs do not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Role, Value, producers, users
from dlc.ir.opdef import Trait
from dlc.passes.layout.contract import contract_layouts, permuted_contract
from dlc.passes.layout.reshape import Layout, identity, reshape_layouts
from dlc.passes.layout.wanted import wanted_layouts
from dlc.passes.regions import in_regions


def layout(graph: Graph) -> Graph:
    """Return ``graph``, whose composites are expanded, with channels-last convolutions; the same object if it has none.

    Inserts transposes only; ``canonicalize`` and ``hoist`` then merge them and move those of weights to load time.
    """
    graph = in_regions(graph, layout)
    state = _Layouts(graph)
    for node in graph.nodes:
        with state.builder.origin(*node.origins):
            _RULES.get(node.op.name, _follow if node.op.has(Trait.ELEMENTWISE) else _plain)(state, node)
    if not state.changed:
        return graph
    outputs = tuple(state.get(v, identity(v)) for v in graph.outputs)
    return replace(graph, nodes=tuple(state.builder.nodes), outputs=outputs)


class _Layouts:
    """The new graph under construction: for every old value the forms of it that exist, by layout."""

    def __init__(self, graph: Graph) -> None:
        self.builder = Builder(graph.name)
        self.changed = False
        self._forms: dict[Value, dict[Layout, Value]] = {v: {identity(v): v} for v in graph.inputs}
        self._primary: dict[Value, Layout] = {v: identity(v) for v in graph.inputs}
        self._broadcasts: dict[Value, Node] = {}
        # Values stored from step to step, and what is computed from them elementwise, keep their layout.
        self.anchored = {
            v for v, s in zip(graph.inputs, graph.signature.inputs, strict=True) if s.replaced_by is not None
        }
        # Those of them that are stored in another order than they are computed with.
        self.reordered = _reordered(graph)
        # Transposed values and what follows them: they may be as good in the order before.
        self.turned: set[Value] = set()
        # The layouts in which windows will read values.
        self.wanted = wanted_layouts(graph)
        # What depends on no data: weights and, because ops without operands are among these, constants.
        self.weights = {v for v, _ in graph.inputs_with(Role.PARAMETER, Role.STATE, Role.CONSTANT)}

    def layout_of(self, value: Value) -> Layout | None:
        """Return the layout that ``value`` was computed in; None for a broadcast, which takes any."""
        return None if value in self._broadcasts else self._primary[value]

    def get(self, value: Value, wanted: Layout) -> Value:
        """Return ``value`` in the layout ``wanted``, transposing it if need be."""
        if value in self._broadcasts:
            forms = self._forms.setdefault(value, {})
            if wanted not in forms:
                forms[wanted] = self._broadcast(self._broadcasts[value], wanted)
            return forms[wanted]
        forms, stored = self._forms[value], self._primary[value]
        if wanted not in forms:
            self.changed = True
            forms[wanted] = self.builder.transpose_to(forms[stored], [stored.index(d) for d in wanted])
        return forms[wanted]

    def put(self, value: Value, new: Value, layout: Layout) -> None:
        """Record that ``new`` holds ``value`` in ``layout``."""
        self._forms[value] = {layout: new}
        self._primary[value] = layout
        self.changed |= new is not value

    def defer(self, node: Node) -> None:
        """Leave a broadcast to be made in the layouts that its users ask for."""
        self._broadcasts[node.outputs[0]] = node

    def keep(self, node: Node) -> None:
        """Emit ``node`` as it is, on operands in their logical order."""
        inputs = tuple(self.get(v, identity(v)) for v in node.inputs)
        self.builder.append(Node(node.op, inputs, node.attributes, node.outputs, node.origins))
        for value in node.outputs:
            self.put(value, value, identity(value))
        if all(v in self.weights for v in node.inputs):
            self.weights.update(node.outputs)
        if node.op.name == "transpose" or any(v in self.turned for v in node.inputs):
            self.turned.update(node.outputs)

    def _broadcast(self, node: Node, wanted: Layout) -> Value:
        value, operand = node.outputs[0], node.inputs[0]
        source = self.get(operand, identity(operand))
        if wanted == identity(value):
            self.builder.append(Node(node.op, (source,), node.attributes, node.outputs, node.origins))
            return value
        self.changed = True
        places = [wanted.index(d) for d in node.attributes["dims"]]
        order = sorted(range(len(places)), key=places.__getitem__)
        source = self.builder.transpose_to(source, order)
        shape = tuple(value.type.shape[d] for d in wanted)
        return self.builder.broadcast(source, shape=shape, dims=tuple(places[k] for k in order))


def _reordered(graph: Graph) -> set[Value]:
    """Return the inputs that outputs replace which are transposed for nothing else (see ``store_state``)."""
    made, read = producers(graph), users(graph)
    found = set()
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        result = graph.output(spec.replaced_by) if spec.replaced_by is not None else None
        if result is not None and result in made and made[result].op.name == "transpose" and result not in read:
            found.add(value)
    return found


def _plain(state: _Layouts, node: Node) -> None:
    """An op that knows nothing of layouts."""
    state.keep(node)


def _broadcast(state: _Layouts, node: Node) -> None:
    state.defer(node)
    if node.inputs[0] in state.weights:
        state.weights.add(node.outputs[0])


def _follow(state: _Layouts, node: Node) -> None:
    """Elementwise: the layout of most operands, or the stored order if one operand is kept from step to step."""
    anchor = next((v for v in node.inputs if v in state.anchored), None)
    if anchor is not None:
        state.anchored.update(node.outputs)
        stored = state.layout_of(anchor)
        if stored is None or stored == identity(node.outputs[0]):
            state.keep(node)
        else:
            _emit(state, node, [state.get(v, stored) for v in node.inputs], {}, stored)
        return
    votes = Counter(found for v in node.inputs if (found := state.layout_of(v)) is not None)
    others = [(count, found) for found, count in votes.items() if found != identity(node.outputs[0])]
    if not others:
        state.keep(node)
        return
    chosen = max(others, key=lambda vote: vote[0])[1]
    _emit(state, node, [state.get(v, chosen) for v in node.inputs], {}, chosen)


def _emit(state: _Layouts, node: Node, inputs: Sequence[Value], changes: Mapping[str, object], result: Layout) -> None:
    """Emit ``node`` on operands of other layouts, with ``changes`` to its attributes; its result has ``result``."""
    new = state.builder.emit(node.op, inputs, {**node.attributes, **changes})[0]
    state.put(node.outputs[0], new, result)
    if all(v in state.weights for v in node.inputs):
        state.weights.update(node.outputs)


def _permuted(*names: str) -> Callable[[_Layouts, Node], None]:
    """Build the rule of an op whose attributes ``names`` have one element per dimension."""

    def rule(state: _Layouts, node: Node) -> None:
        found = state.layout_of(node.inputs[0])
        if found is None or found == identity(node.inputs[0]):
            state.keep(node)
            return
        changes = {name: tuple(node.attributes[name][d] for d in found) for name in names}
        others = [state.get(v, identity(v)) for v in node.inputs[1:]]
        _emit(state, node, [state.get(node.inputs[0], found), *others], changes, found)

    return rule


def _reduced(state: _Layouts, node: Node) -> None:
    """Reductions: axes are renamed; the dimensions that stay keep their order."""
    operand, a = node.inputs[0], node.attributes
    found = state.layout_of(operand)
    if found is None or found == identity(operand):
        state.keep(node)
        return
    axes = a["axes"] if "axes" in a else (a["axis"],)
    places = tuple(sorted(found.index(axis) for axis in axes))
    if a.get("keepdims", False):
        result = found
    else:
        kept = [d for d in range(len(found)) if d not in axes]
        result = tuple(kept.index(d) for d in found if d not in axes)
    _emit(state, node, [state.get(operand, found)], {"axes": places} if "axes" in a else {"axis": places[0]}, result)


def _along_axis(state: _Layouts, node: Node) -> None:
    """Ops with one ``axis`` and results shaped like their operands: concat, cumsum."""
    votes = Counter(found for v in node.inputs if (found := state.layout_of(v)) is not None)
    others = [(count, found) for found, count in votes.items() if found != identity(node.outputs[0])]
    if not others:
        state.keep(node)
        return
    chosen = max(others, key=lambda vote: vote[0])[1]
    axis = chosen.index(node.attributes["axis"])
    _emit(state, node, [state.get(v, chosen) for v in node.inputs], {"axis": axis}, chosen)


def _reversed(state: _Layouts, node: Node) -> None:
    found = state.layout_of(node.inputs[0])
    if found is None or found == identity(node.inputs[0]):
        state.keep(node)
        return
    axes = tuple(sorted(found.index(axis) for axis in node.attributes["axes"]))
    _emit(state, node, [state.get(node.inputs[0], found)], {"axes": axes}, found)


def _transposed(state: _Layouts, node: Node) -> None:
    """A transpose of a value in another layout, or of one that is stored, moves nothing: it only renames dimensions."""
    operand, permutation = node.inputs[0], node.attributes["permutation"]
    found = state.layout_of(operand)
    if operand in state.reordered:
        state.anchored.update(node.outputs)
    elif found is None or found == identity(operand):
        state.keep(node)
        return
    assert found is not None
    result = tuple(permutation.index(d) for d in found)
    state.put(node.outputs[0], state.get(operand, found), result)
    if operand in state.weights:
        state.weights.update(node.outputs)


def _reshaped(state: _Layouts, node: Node) -> None:
    operand, result = node.inputs[0], node.outputs[0]
    found = state.layout_of(operand)
    layouts = None
    if found is not None and found != identity(operand):
        layouts = reshape_layouts(operand.type.shape, result.type.shape, found)
    if layouts is None:
        state.keep(node)
        return
    before, after = layouts
    shape = tuple(result.type.shape[d] for d in after)
    state.put(result, state.builder.reshape_to(state.get(operand, before), shape), after)


def _contracted(state: _Layouts, node: Node) -> None:
    found = [state.layout_of(v) for v in node.inputs]
    layouts = contract_layouts(
        node,
        found,
        [v in state.weights for v in node.inputs],
        [v in state.turned for v in node.inputs],
        state.wanted.get(node.outputs[0]),
    )
    if layouts is None:
        state.keep(node)
        return
    operands = [state.get(v, wanted) for v, wanted in zip(node.inputs, layouts[:2], strict=True)]
    if all(wanted == identity(v) for v, wanted in zip((*node.inputs, node.outputs[0]), layouts, strict=True)):
        state.keep(node)
        return
    state.put(node.outputs[0], permuted_contract(state.builder, node, operands, layouts), layouts[2])


_RULES: dict[str, Callable[[_Layouts, Node], None]] = {
    "broadcast": _broadcast,
    "cast": _follow,
    "transpose": _transposed,
    "reshape": _reshaped,
    "contract": _contracted,
    "pad": _permuted("low", "high", "interior"),
    "slice": _permuted("starts", "limits", "strides"),
    "reduce_window": _permuted("window", "strides", "dilations"),
    "reverse": _reversed,
    "concat": _along_axis,
    "cumsum": _along_axis,
    **dict.fromkeys(("argmax", "argmin"), _reduced),
    **{f"reduce_{name}": _reduced for name in ("sum", "prod", "max", "min", "and", "or")},
}
