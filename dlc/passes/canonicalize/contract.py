"""Rewrite rules on contractions.

Transposes become part of the specification, fixed scales part of the weights; what is cropped is not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlc.ir.builder import Builder
from dlc.ir.contraction import ContractSpec, DimIndex, Group, WindowTerm, parse_spec
from dlc.ir.dims import Dim
from dlc.ir.graph import Node, Value
from dlc.ir.ops.contract import contract_extents
from dlc.ir.ops.contract_gradient import emit_contract
from dlc.passes.respec import has_windows, reshape_side, sides, with_side
from dlc.passes.rewrite import Context, Replacement, Rule, rule


def _parts(node: Node) -> tuple[ContractSpec, dict[str, Dim]]:
    return parse_spec(node.attributes["spec"]), contract_extents(node.input_types, node.attributes)


@rule("contract")
def transposed_operand(builder: Builder, node: Node, context: Context) -> Replacement:
    """contract(transpose(x), y) -> contract(x, y) with permuted dimensions; also through a reshape of a transpose.

    Contractions with windows keep their operands' layouts: the layout pass chose them.
    """
    spec, extents = _parts(node)
    if has_windows(spec):
        return None
    for position, name in enumerate(("lhs", "rhs")):
        new_spec, new_extents, source = spec, extents, node.inputs[position]
        reshape = context.producer(source, "reshape")
        if reshape is not None:
            inner = reshape.inputs[0]
            if context.producer(inner, "transpose") is None:
                continue
            changed = reshape_side(spec, extents, name, source.type.shape, inner.type.shape)
            if changed is None:
                continue
            (new_spec, new_extents), source = changed, inner
        transpose = context.producer(source, "transpose")
        if transpose is None:
            continue
        permutation = transpose.attributes["permutation"]
        side = sides(new_spec)[name]
        before = tuple(side[permutation.index(k)] for k in range(len(side)))
        operands = [*node.inputs]
        operands[position] = transpose.inputs[0]
        new_spec = with_side(new_spec, name, before)
        return emit_contract(builder, new_spec, operands[0], operands[1], new_extents, node.outputs[0].type.dtype)
    return None


@rule("transpose")
def transposed_result(builder: Builder, node: Node, context: Context) -> Replacement:
    """transpose(contract(x, y)) -> contract(x, y) with permuted output; also through a reshape of the contraction."""
    source = node.inputs[0]
    reshape = context.producer(source, "reshape")
    inner = source if reshape is None else reshape.inputs[0]
    contract = context.producer(inner, "contract")
    if contract is None or not context.has_one_use(source) or not context.has_one_use(inner):
        return None
    spec, extents = _parts(contract)
    if has_windows(spec):
        return None
    if reshape is not None:
        changed = reshape_side(spec, extents, "output", inner.type.shape, source.type.shape)
        if changed is None:
            return None
        spec, extents = changed
    output = tuple(spec.output[k] for k in node.attributes["permutation"])
    new_spec = with_side(spec, "output", output)
    lhs, rhs = contract.inputs
    return emit_contract(builder, new_spec, lhs, rhs, extents, node.outputs[0].type.dtype)


@rule("pad")
def cropped_result(builder: Builder, node: Node, context: Context) -> Replacement:
    """crop(contract(pad(x), y)) -> contract(pad(x) by less, y): what falls off is not computed.

    Gradients of padded convolutions have this form. Crops are pads by negative amounts; they stay where an operand
    would have to be copied to be cropped.
    """
    contract = context.producer(node.inputs[0], "contract")
    low, high = node.attributes["low"], node.attributes["high"]
    if contract is None or not context.has_one_use(node.inputs[0]) or any(node.attributes["interior"]):
        return None
    if max((*low, *high), default=0) > 0:
        return None
    spec, extents = _parts(contract)
    crops: dict[str, tuple[int, int]] = {}
    for index, first, last in zip(spec.output, low, high, strict=True):
        if first or last:
            if len(index.axes) != 1:
                return None
            crops[index.axes[0]] = (int(first), int(last))
    operands: list[Value] = []
    for side, value in ((spec.lhs, contract.inputs[0]), (spec.rhs, contract.inputs[1])):
        groups = [index.axes for index in side if isinstance(index, Group) and len(index.axes) > 1]
        if not all(crops.keys().isdisjoint(axes) for axes in groups):
            return None  # fewer of one axis of a group is not the group with less at its ends
        amounts = [_crop_of(index, crops) for index in side]
        if any(any(amount) for amount in amounts):
            inner = context.producer(value, "pad")
            if inner is None or not _covers(inner, amounts):
                return None
            value = builder.pad(
                inner.inputs[0],
                inner.inputs[1],
                low=tuple(have + amount[0] for have, amount in zip(inner.attributes["low"], amounts, strict=True)),
                high=tuple(have + amount[1] for have, amount in zip(inner.attributes["high"], amounts, strict=True)),
                interior=inner.attributes["interior"],
            )
        operands.append(value)
    kept = {axis: extent + sum(crops.get(axis, (0, 0))) for axis, extent in extents.items()}
    return emit_contract(builder, spec, operands[0], operands[1], kept, contract.attributes["dtype"])


def _crop_of(index: DimIndex, crops: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the (negative) amounts by which cropped axes narrow a dimension at its two ends."""
    terms = index.terms if isinstance(index, WindowTerm) else tuple((axis, 1) for axis in index.axes)
    found = [(crops[axis], coefficient) for axis, coefficient in terms if axis in crops]
    return sum(crop[0] * c for crop, c in found), sum(crop[1] * c for crop, c in found)


def _covers(pad: Node, amounts: Sequence[tuple[int, int]]) -> bool:
    """Tell whether a pad adds at least what is cropped."""
    ends = zip(pad.attributes["low"], pad.attributes["high"], amounts, strict=True)
    return all(not any(crop) or (low + crop[0] >= 0 and high + crop[1] >= 0) for low, high, crop in ends)


@rule("mul")
def scale_into_weights(builder: Builder, node: Node, context: Context) -> Replacement:
    """contract(x, w) * s -> contract(x, w * s) for fixed w and s, s varying along dimensions that w has."""
    for value, factor in (node.inputs, node.inputs[::-1]):
        contract = context.producer(value, "contract")
        if contract is None or not context.has_one_use(value) or not context.is_fixed(factor):
            continue
        spec, extents = _parts(contract)
        for position, name in ((1, "rhs"), (0, "lhs")):
            weight = contract.inputs[position]
            if not context.is_fixed(weight) or context.is_fixed(contract.inputs[1 - position]):
                continue
            if weight.type.dtype is not node.outputs[0].type.dtype:
                continue
            scale = _spread(builder, context, factor, spec.output, sides(spec)[name], weight)
            if scale is None:
                continue
            operands = [*contract.inputs]
            operands[position] = builder.mul(weight, scale)
            return emit_contract(builder, spec, operands[0], operands[1], extents, contract.attributes["dtype"])
    return None


@rule("contract")
def scaled_operand(builder: Builder, node: Node, context: Context) -> Replacement:
    """contract(x * s, w) -> contract(x, w * s) for fixed w, s varying along dimensions that w has.

    Where s is not fixed, as the gates of squeeze and excitation, only if it is bounded, so that w * s is finite, and
    that saves a pass over many more elements than w has.
    """
    spec, extents = _parts(node)
    for position, name, other in ((0, "lhs", "rhs"), (1, "rhs", "lhs")):
        scaled, weight = node.inputs[position], node.inputs[1 - position]
        product = context.producer(scaled, "mul")
        if product is None or not context.has_one_use(scaled) or not context.is_fixed(weight):
            continue
        if scaled.type.dtype is not weight.type.dtype:
            continue
        for value, factor in (product.inputs, product.inputs[::-1]):
            pays = context.is_fixed(factor) or (_much_smaller(weight, scaled) and _is_bounded(context, factor))
            if context.is_fixed(value) or not pays:
                continue
            scale = _spread(builder, context, factor, sides(spec)[name], sides(spec)[other], weight)
            if scale is None:
                continue
            operands = [*node.inputs]
            operands[position], operands[1 - position] = value, builder.mul(weight, scale)
            return emit_contract(builder, spec, operands[0], operands[1], extents, node.attributes["dtype"])
    return None


def _is_bounded(context: Context, value: Value) -> bool:
    """Tell whether ``value`` is a sigmoid, a tanh, or between two fixed limits."""
    maker = context.producer(value)
    while maker is not None and maker.op.name in ("broadcast", "reshape"):
        maker = context.producer(maker.inputs[0])
    if maker is None or maker.op.name in ("sigmoid", "tanh"):
        return maker is not None
    opposite = {"minimum": "maximum", "maximum": "minimum"}.get(maker.op.name)
    if opposite is None or not any(context.is_fixed(v) for v in maker.inputs):
        return False
    inner = [node for v in maker.inputs if (node := context.producer(v, opposite)) is not None]
    return any(context.is_fixed(v) for node in inner for v in node.inputs)


def _much_smaller(a: Value, b: Value) -> bool:
    return a.type.is_static and b.type.is_static and 4 * int(a.type.size) <= int(b.type.size)  # type: ignore[call-overload]


def _spread(
    builder: Builder,
    context: Context,
    factor: Value,
    own: Sequence[DimIndex],
    side: Sequence[DimIndex],
    weight: Value,
) -> Value | None:
    """Return ``factor``, a broadcast over dimensions ``own``, in the shape of the weight, of dimensions ``side``.

    None if it varies along dimensions that the weight lacks.
    """
    maker = context.producer(factor, "broadcast")
    if maker is None:
        return None
    source = maker.inputs[0]
    dims = [d for d, extent in zip(maker.attributes["dims"], source.type.shape, strict=True) if extent != 1]
    source = builder.reshape_to(source, [extent for extent in source.type.shape if extent != 1])
    indices = [own[d] for d in dims]
    if any(d not in side or not isinstance(d, Group) for d in indices):
        return None
    places = [side.index(d) for d in indices]
    order = sorted(range(len(places)), key=places.__getitem__)
    source = builder.transpose_to(source, order)
    return builder.broadcast_to(source, weight.type.shape) if not places else _place(builder, source, places, weight)


def _place(builder: Builder, source: Value, places: list[int], weight: Value) -> Value:
    if source.type.shape == weight.type.shape:
        return source
    return builder.broadcast(source, shape=weight.type.shape, dims=tuple(sorted(places)))


_COMBINE: Mapping[tuple[str, str], tuple[str, str]] = {
    # (outer, inner) -> (outer op left, op between the two fixed operands)
    ("add", "add"): ("add", "add"),
    ("add", "sub"): ("sub", "sub"),
    ("sub", "add"): ("add", "sub"),
    ("sub", "sub"): ("sub", "add"),
}


@rule("add", "sub")
def shift_after_shift(builder: Builder, node: Node, context: Context) -> Replacement:
    """(contract ± a) ± b -> contract ± (a ± b) for fixed a and b: one vector to add instead of two."""
    for value, outer in _first_and_fixed(node, context):
        inner = context.producer(value, "add", "sub")
        if inner is None or not context.has_one_use(value):
            continue
        for base, shift in _first_and_fixed(inner, context):
            if context.producer(base, "contract") is None:
                continue
            kept, between = _COMBINE[(node.op.name, inner.op.name)]
            return builder.call(kept, base, builder.call(between, shift, outer))
    return None


@rule("mul")
def scale_after_shift(builder: Builder, node: Node, context: Context) -> Replacement:
    """(contract ± a) * s -> contract * s ± a * s for fixed a and s, so that s can move into the weights."""
    for value, factor in _first_and_fixed(node, context):
        inner = context.producer(value, "add", "sub")
        if inner is None or not context.has_one_use(value):
            continue
        for base, shift in _first_and_fixed(inner, context):
            contract = context.producer(base, "contract")
            if contract is None or not any(context.is_fixed(v) for v in contract.inputs):
                continue
            return builder.call(inner.op.name, builder.mul(base, factor), builder.mul(shift, factor))
    return None


def _first_and_fixed(node: Node, context: Context) -> list[tuple[Value, Value]]:
    """Return (varying operand, fixed operand) pairs; only the second operand of ``sub`` may be fixed."""
    pairs = [node.inputs] if node.op.name == "sub" else [node.inputs, node.inputs[::-1]]
    return [(a, b) for a, b in pairs if context.is_fixed(b) and not context.is_fixed(a)]


CONTRACT_RULES: tuple[Rule, ...] = (
    transposed_operand,
    transposed_result,
    cropped_result,
    scale_into_weights,
    scaled_operand,
    shift_after_shift,
    scale_after_shift,
)
