"""The contraction: a sum of products under affine reads.

Matmul, einsum, convolution and the gradients of all three are this one op; its
gradients are contractions again. Padding is never part of it: pad first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import Axis, Compute
from dlc.ir.contraction import (
    ContractSpec,
    DimIndex,
    Group,
    WindowTerm,
    group_shape,
    infer_extents,
    parse_spec,
    side_axes,
)
from dlc.ir.dims import Dim
from dlc.ir.expr import Expr, Read, Var, apply, const
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Attribute, OpDef, Trait, Types, register
from dlc.ir.types import TensorType, bool_


def contract_extents(inputs: Types, attributes: Attributes) -> dict[str, Dim]:
    """Return the extent of every axis of a contraction node."""
    spec = parse_spec(attributes["spec"])
    return infer_extents(spec, inputs[0].shape, inputs[1].shape, dict(attributes["sizes"]))


def contract_type(inputs: Types, attributes: Attributes) -> Types:
    """Two operands of one numeric dtype -> that dtype, shaped by the output side."""
    lhs, rhs = inputs
    if lhs.dtype is not rhs.dtype or lhs.dtype is bool_:
        raise TypeRuleError("takes two operands of one numeric dtype; cast them first")
    spec = parse_spec(attributes["spec"])
    extents = contract_extents(inputs, attributes)
    left, right, kept = side_axes(spec.lhs), side_axes(spec.rhs), set(spec.output_axes)
    if missing := kept - left - right:
        raise TypeRuleError(f"'{spec}': no operand reads the output axes {', '.join(sorted(missing))}")
    if alone := (left ^ right) - kept:
        raise TypeRuleError(f"'{spec}': {', '.join(sorted(alone))} is summed over one operand only; reduce it first")
    return (TensorType(lhs.dtype, group_shape(spec.output, extents)),)


def _view(array: np.ndarray, side: tuple[DimIndex, ...], extents: Mapping[str, int]) -> tuple[np.ndarray, list[str]]:
    """Return a strided view with one dimension per axis, and the axes' names."""
    shape: list[int] = []
    strides: list[int] = []
    names: list[str] = []
    for index, stride in zip(side, array.strides, strict=True):
        if isinstance(index, Group):
            step, reverse = stride, []
            for axis in reversed(index.axes):
                reverse.append((axis, step))
                step *= extents[axis]
            terms = reverse[::-1]
        else:
            terms = [(axis, stride * coefficient) for axis, coefficient in index.terms]
        for axis, step in terms:
            names.append(axis)
            shape.append(extents[axis])
            strides.append(step)
    return np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False), names


def contract_evaluate(attributes: Attributes, lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Sum of products over strided views, through np.einsum."""
    spec = parse_spec(attributes["spec"])
    extents = {k: int(v) for k, v in infer_extents(spec, lhs.shape, rhs.shape, dict(attributes["sizes"])).items()}
    shape = group_shape(spec.output, extents)
    if lhs.size == 0 or rhs.size == 0 or 0 in extents.values():
        return np.zeros(shape, lhs.dtype)
    left, left_names = _view(np.asarray(lhs, order="C"), spec.lhs, extents)
    right, right_names = _view(np.asarray(rhs, order="C"), spec.rhs, extents)
    number = {axis: position for position, axis in enumerate(spec.axes)}
    wide = lhs.dtype if lhs.dtype.kind in "iuc" or lhs.dtype.itemsize >= 4 else np.dtype(np.float32)
    result = np.einsum(
        left.astype(wide, copy=False),
        [number[a] for a in left_names],
        right.astype(wide, copy=False),
        [number[a] for a in right_names],
        [number[a] for a in spec.output_axes],
        optimize=True,
    )
    return np.asarray(result, dtype=lhs.dtype).reshape(shape)


def dim_expression(index: DimIndex, extents: Mapping[str, Dim]) -> Expr:
    """Return the affine index expression of one dimension over axis variables of the same names."""
    if isinstance(index, Group):
        expression: Expr = Var(index.axes[0])
        for axis in index.axes[1:]:
            expression = apply("add", apply("mul", expression, const(int(extents[axis]))), Var(axis))
        return expression
    terms = [Var(a) if c == 1 else apply("mul", Var(a), const(c)) for a, c in index.terms]
    expression = terms[0]
    for term in terms[1:]:
        expression = apply("add", expression, term)
    return expression


def contract_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Product of two affine reads, added over the reduced axes."""
    spec = parse_spec(attributes["spec"])
    extents = contract_extents(inputs, attributes)
    axes = tuple(Axis(Var(a), int(extents[a])) for a in spec.output_axes)
    reduce_axes = tuple(Axis(Var(a), int(extents[a])) for a in spec.reduce_axes)
    lhs = Read(0, tuple(dim_expression(d, extents) for d in spec.lhs), inputs[0].dtype)
    rhs = Read(1, tuple(dim_expression(d, extents) for d in spec.rhs), inputs[1].dtype)
    store = tuple(dim_expression(d, extents) for d in spec.output)
    shape = tuple(int(d) for d in outputs[0].shape)
    combiner = "add" if reduce_axes else None
    return Compute(axes, reduce_axes, combiner, apply("mul", lhs, rhs), store, shape, outputs[0].dtype)


def sizes_attribute(spec: ContractSpec, extents: Mapping[str, Dim]) -> tuple[tuple[str, Dim], ...]:
    """Return the extents that shapes alone may leave open: axes in groups of several and in windows."""
    open_axes = {
        axis
        for side in (spec.lhs, spec.rhs, spec.output)
        for index in side
        if isinstance(index, WindowTerm) or len(index.axes) > 1
        for axis in index.axes
    }
    return tuple((axis, extents[axis]) for axis in spec.axes if axis in open_axes)


def emit_contract(b: Builder, spec: ContractSpec, lhs: Value, rhs: Value, extents: Mapping[str, Dim]) -> Value:
    """Emit a contraction whose extents are all known."""
    return b.contract(lhs, rhs, spec=str(spec), sizes=sizes_attribute(spec, extents))


def _ungroup(b: Builder, value: Value, side: tuple[DimIndex, ...], extents: Mapping[str, Dim]) -> Value:
    """Reshape a tensor whose dimensions are groups to one dimension per axis."""
    return b.reshape_to(value, tuple(extents[a] for d in side for a in d.axes))


def _singles(side: tuple[DimIndex, ...]) -> tuple[DimIndex, ...]:
    return tuple(Group((a,)) for d in side for a in d.axes)


def _longer(a: str, c: str, extents: Mapping[str, Dim]) -> str:
    """Choose the axis to dilate: the symbolic or longer one (a convolution's output positions)."""
    left, right = extents[a], extents[c]
    if not isinstance(right, int):
        return c
    if not isinstance(left, int):
        return a
    return a if left >= right else c


def operand_gradient(
    b: Builder,
    spec: ContractSpec,
    extents: Mapping[str, Dim],
    wanted: tuple[DimIndex, ...],
    shape: tuple[Dim, ...],
    other_side: tuple[DimIndex, ...],
    other: Value,
    dy: Value,
) -> Value:
    """Gradient of the operand with dimensions ``wanted``: a contraction of ``dy`` with the other operand.

    A window ``h*a + r*c`` is inverted by dilating and padding the tensor that has ``h`` and reversing the one
    that has ``r``: ``p = h*a + r*c`` is met by reading it at ``p + r'*c``.
    """
    windows = [(position, index) for position, index in enumerate(wanted) if isinstance(index, WindowTerm)]
    if not windows:
        new = ContractSpec(other_side, spec.output, wanted)
        return emit_contract(b, new, other, dy, extents)
    known = dict(extents)
    sides = {"other": other_side, "dy": spec.output}
    values = {"other": other, "dy": dy}
    if any(isinstance(d, WindowTerm) for d in other_side):
        raise TypeRuleError(f"'{spec}' has windows in both operands; its gradient is not defined")
    values = {name: _ungroup(b, values[name], sides[name], known) for name in values}
    sides = {name: _singles(side) for name, side in sides.items()}
    result = list(wanted)
    for position, window in windows:
        owner = {axis: name for name, side in sides.items() for axis in side_axes(side) if axis in window.axes}
        target = f"p{position}_{window.axes[0]}"
        known[target] = shape[position]
        result[position] = Group((target,))
        if len(window.terms) == 2 and owner[window.axes[0]] != owner[window.axes[1]]:
            _invert_window(b, window, target, shape[position], sides, values, owner, known)
        else:
            _scatter_window(b, window, target, shape[position], sides, values, known)
    new = ContractSpec(sides["other"], sides["dy"], tuple(result))
    return emit_contract(b, new, values["other"], values["dy"], known)


def _invert_window(
    b: Builder,
    window: WindowTerm,
    target: str,
    length: Dim,
    sides: dict[str, tuple[DimIndex, ...]],
    values: dict[str, Value],
    owner: Mapping[str, str],
    extents: Mapping[str, Dim],
) -> None:
    coefficient = dict(window.terms)
    first, second = window.axes
    dilated = _longer(first, second, extents)
    tap = next(a for a in window.axes if a != dilated)
    reach = (extents[tap] - 1) * coefficient[tap]
    where = sides[owner[dilated]].index(Group((dilated,)))
    tensor = values[owner[dilated]]
    low = tuple(reach if k == where else 0 for k in range(tensor.type.rank))
    high = tuple(
        length - (extents[dilated] - 1) * coefficient[dilated] - 1 if k == where else 0 for k in range(tensor.type.rank)
    )
    interior = tuple(coefficient[dilated] - 1 if k == where else 0 for k in range(tensor.type.rank))
    zero = b.constant(0, tensor.type.dtype)
    values[owner[dilated]] = b.pad(tensor, zero, low=low, high=high, interior=interior)
    side = list(sides[owner[dilated]])
    side[where] = WindowTerm(((target, 1), (tap, coefficient[tap])))
    sides[owner[dilated]] = tuple(side)
    flipped = sides[owner[tap]].index(Group((tap,)))
    values[owner[tap]] = b.reverse(values[owner[tap]], axes=(flipped,))


def _scatter_window(
    b: Builder,
    window: WindowTerm,
    target: str,
    length: Dim,
    sides: dict[str, tuple[DimIndex, ...]],
    values: dict[str, Value],
    extents: Mapping[str, Dim],
) -> None:
    """Route a window whose axes one tensor holds alone through a one-hot table of its positions."""
    shape = (*(extents[a] for a in window.axes), length)
    dtype = values["dy"].type.dtype
    int64_ = b.constant(0).type.dtype
    position: Value = b.full(shape, 0, int64_)
    for k, (_, coefficient) in enumerate(window.terms):
        position = b.add(position, b.mul(b.iota(shape=shape, axis=k, dtype=int64_), coefficient))
    table = b.cast_to(b.equal(position, b.iota(shape=shape, axis=len(shape) - 1, dtype=int64_)), dtype)
    table_side = (*(Group((a,)) for a in window.axes), Group((target,)))
    name = next(n for n, side in sides.items() if set(window.axes) & side_axes(side))
    kept = tuple(d for d in sides[name] if d.axes[0] not in window.axes or _shared(d.axes[0], name, sides))
    output = (*kept, Group((target,)))
    spec = ContractSpec(sides[name], table_side, output)
    values[name] = emit_contract(b, spec, values[name], table, {**extents, target: length})
    sides[name] = output


def _shared(axis: str, name: str, sides: Mapping[str, tuple[DimIndex, ...]]) -> bool:
    return any(axis in side_axes(side) for other, side in sides.items() if other != name)


def contract_vjp(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """Both gradients are contractions of the cotangent with the other operand."""
    dy = cotangents[0]
    if dy is None:
        return (None, None)
    spec = parse_spec(node.attributes["spec"])
    extents = contract_extents(node.input_types, node.attributes)
    lhs, rhs = node.inputs
    return (
        operand_gradient(b, spec, extents, spec.lhs, lhs.type.shape, spec.rhs, rhs, dy),
        operand_gradient(b, spec, extents, spec.rhs, rhs.type.shape, spec.lhs, lhs, dy),
    )


register(
    OpDef(
        name="contract",
        arity=2,
        infer=contract_type,
        evaluate=contract_evaluate,
        attributes={
            "spec": Attribute((str,), doc="'lhs dims, rhs dims -> output dims', see dlc.ir.contraction"),
            "sizes": Attribute((tuple,), default=(), required=False, doc="(axis, extent) pairs that shapes leave open"),
        },
        compute=contract_compute,
        vjp=contract_vjp,
        traits=frozenset({Trait.CONTRACTION}),
        doc="Sum of products of two operands under affine reads.",
    )
)
