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
    DimIndex,
    Group,
    group_shape,
    infer_extents,
    parse_spec,
    side_axes,
)
from dlc.ir.dims import Dim, SymbolicDim
from dlc.ir.expr import Expr, Read, Var, apply, cast, const
from dlc.ir.graph import Node, Value
from dlc.ir.narrow_groups import join_axes, narrow_groups
from dlc.ir.opdef import Attribute, OpDef, Trait, Types, register
from dlc.ir.ops.contract_gradient import operand_gradient
from dlc.ir.types import DType, TensorType, bool_


def normal_attributes(types: Types, attributes: Attributes) -> Attributes:
    """Raise TypeRuleError unless ``sizes`` is pairs of an axis name and an extent of at least 0.

    A ``dtype`` that is the operands' own says nothing and is left out.
    """
    for pair in attributes["sizes"]:
        known = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
        if not known or not isinstance(pair[1], int | SymbolicDim) or (isinstance(pair[1], int) and pair[1] < 0):
            raise TypeRuleError(f"sizes is {attributes['sizes']!r}; it must be pairs of an axis and its extent")
    return attributes.updated(dtype=None) if types and attributes["dtype"] is types[0].dtype else attributes


def contract_extents(inputs: Types, attributes: Attributes) -> dict[str, Dim]:
    """Return the extent of every axis of a contraction node."""
    spec = parse_spec(attributes["spec"])
    return infer_extents(spec, inputs[0].shape, inputs[1].shape, dict(attributes["sizes"]))


def contract_type(inputs: Types, attributes: Attributes) -> Types:
    """Two operands of one numeric dtype -> that dtype or the wider float ``dtype``, shaped by the output side."""
    lhs, rhs = inputs
    if lhs.dtype is not rhs.dtype or lhs.dtype is bool_:
        raise TypeRuleError("takes two operands of one numeric dtype; cast them first")
    result = attributes["dtype"] or lhs.dtype
    if result is not lhs.dtype and not (lhs.dtype.is_float and result.is_float and result.bits > lhs.dtype.bits):
        raise TypeRuleError(f"products of {lhs.dtype} cannot be added in {result}: it must be a wider float")
    spec = parse_spec(attributes["spec"])
    extents = contract_extents(inputs, attributes)
    left, right, kept = side_axes(spec.lhs), side_axes(spec.rhs), set(spec.output_axes)
    if missing := kept - left - right:
        raise TypeRuleError(f"'{spec}': no operand reads the output axes {', '.join(sorted(missing))}")
    if alone := (left ^ right) - kept:
        raise TypeRuleError(f"'{spec}': {', '.join(sorted(alone))} is summed over one operand only; reduce it first")
    return (TensorType(result, group_shape(spec.output, extents)),)


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
    result_dtype = attributes["dtype"].numpy if attributes.get("dtype") else lhs.dtype
    if lhs.size == 0 or rhs.size == 0 or 0 in extents.values():
        return np.zeros(shape, result_dtype)
    left, left_names = _view(np.asarray(lhs, order="C"), spec.lhs, extents)
    right, right_names = _view(np.asarray(rhs, order="C"), spec.rhs, extents)
    number = {axis: position for position, axis in enumerate(spec.axes)}
    wide = lhs.dtype if lhs.dtype.kind in "iuc" or lhs.dtype.itemsize >= 4 else np.dtype(np.float32)
    wide = np.promote_types(wide, result_dtype) if attributes.get("dtype") else wide
    result = np.einsum(
        left.astype(wide, copy=False),
        [number[a] for a in left_names],
        right.astype(wide, copy=False),
        [number[a] for a in right_names],
        [number[a] for a in spec.output_axes],
        optimize=True,
    )
    return np.asarray(result, dtype=result_dtype).reshape(shape)


def dim_expression(index: DimIndex, extents: Mapping[str, int]) -> Expr:
    """Return the affine index expression of one dimension over axis variables of the same names."""
    if isinstance(index, Group):
        expression: Expr = Var(index.axes[0])
        for axis in index.axes[1:]:
            expression = apply("add", apply("mul", expression, const(extents[axis])), Var(axis))
        return expression
    terms = [Var(a) if c == 1 else apply("mul", Var(a), const(c)) for a, c in index.terms]
    expression = terms[0]
    for term in terms[1:]:
        expression = apply("add", expression, term)
    return expression


def contract_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Product of two affine reads, widened to the result's dtype, added over the reduced axes."""
    spec = parse_spec(attributes["spec"])
    extents = {name: int(extent) for name, extent in contract_extents(inputs, attributes).items()}
    axes = tuple(Axis(Var(a), extents[a]) for a in spec.output_axes)
    reduce_axes = tuple(Axis(Var(a), extents[a]) for a in spec.reduce_axes)
    lhs = Read(0, tuple(dim_expression(d, extents) for d in spec.lhs), inputs[0].dtype)
    rhs = Read(1, tuple(dim_expression(d, extents) for d in spec.rhs), inputs[1].dtype)
    store = tuple(dim_expression(d, extents) for d in spec.output)
    shape = tuple(int(d) for d in outputs[0].shape)
    combiner = "add" if reduce_axes else None
    dtype = outputs[0].dtype
    body = apply("mul", cast(lhs, dtype), cast(rhs, dtype))
    compute = Compute(axes, reduce_axes, combiner, body, store, shape, dtype)
    narrow = narrow_groups(spec, extents)
    return join_axes(compute, *narrow) if narrow else compute


def contract_vjp(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """Both gradients are contractions of the cotangent with the other operand, in the dtype of the result."""
    dy = cotangents[0]
    if dy is None:
        return (None, None)
    spec = parse_spec(node.attributes["spec"])
    extents = contract_extents(node.input_types, node.attributes)
    lhs, rhs = (b.cast_to(v, dy.type.dtype) for v in node.inputs)
    gradients = (
        operand_gradient(b, spec, extents, spec.lhs, lhs.type.shape, spec.rhs, rhs, dy),
        operand_gradient(b, spec, extents, spec.rhs, rhs.type.shape, spec.lhs, lhs, dy),
    )
    return tuple(b.cast_to(gradient, node.inputs[0].type.dtype) for gradient in gradients)


register(
    OpDef(
        name="contract",
        arity=2,
        infer=contract_type,
        evaluate=contract_evaluate,
        attributes={
            "spec": Attribute((str,), doc="'lhs dims, rhs dims -> output dims', see dlc.ir.contraction"),
            "sizes": Attribute((tuple,), default=(), required=False, doc="(axis, extent) pairs that shapes leave open"),
            "dtype": Attribute(
                (DType, type(None)), default=None, required=False, doc="a wider float in which products are added"
            ),
        },
        compute=contract_compute,
        vjp=contract_vjp,
        normalize=normal_attributes,
        traits=frozenset({Trait.CONTRACTION}),
        doc="Sum of products of two operands under affine reads.",
    )
)
