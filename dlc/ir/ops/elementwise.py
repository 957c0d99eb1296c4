"""Elementwise ops: every scalar function as an op, ``where`` and ``cast``, with their gradients.

Operands have equal shapes and dtypes (``where``'s condition is bool); the builder
broadcasts and casts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import Compute, output_axes, pointwise
from dlc.ir.expr import Read, apply, select
from dlc.ir.expr import cast as cast_expr
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import NOT_DIFFERENTIABLE, Attribute, OpDef, Trait, Types, VjpRule, register
from dlc.ir.scalar import SCALAR_OPS, ScalarOp, cast_array
from dlc.ir.types import DType, TensorType, bool_


def same_shapes(inputs: Types) -> None:
    """Raise TypeRuleError unless all operands have one shape."""
    if any(t.shape != inputs[0].shape for t in inputs):
        raise TypeRuleError("operand shapes differ; broadcast them first")


def _infer(entry: ScalarOp) -> Callable[[Types, Attributes], Types]:
    def infer(inputs: Types, attributes: Attributes) -> Types:
        same_shapes(inputs)
        dtype = inputs[0].dtype
        if any(t.dtype is not dtype for t in inputs):
            raise TypeRuleError("operand dtypes differ; cast them first")
        if dtype.kind not in entry.domain:
            raise TypeRuleError(f"takes {', '.join(sorted(entry.domain))} operands, not {dtype}; cast first")
        return (TensorType(bool_ if entry.result == "bool" else dtype, inputs[0].shape),)

    return infer


def _compute(name: str) -> Callable[[Types, Types, Attributes], Compute]:
    def compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
        axes = output_axes(outputs[0].shape)
        index = tuple(a.var for a in axes)
        reads = (Read(number, index, t.dtype) for number, t in enumerate(inputs))
        return pointwise(outputs[0].shape, outputs[0].dtype, axes, apply(name, *reads))

    return compute


def _vjp_rule(partials: Callable[..., tuple[Value | None, ...]]) -> VjpRule:
    """Lift ``partials(b, dy, y, *operands)``, which gives the operands' gradients, to a vjp rule."""

    def vjp(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
        if cotangents[0] is None:
            return (None,) * len(node.inputs)
        return partials(b, cotangents[0], node.outputs[0], *node.inputs)

    return vjp


_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

# Gradients: name -> rule(b, dy, y, operands...). Ops not listed are not differentiable.
_GRADIENTS: dict[str, Callable[..., tuple[Value | None, ...]]] = {
    "neg": lambda b, dy, y, x: (b.neg(dy),),
    "abs": lambda b, dy, y, x: (b.mul(dy, b.sign(x)),),
    "add": lambda b, dy, y, x, z: (dy, dy),
    "sub": lambda b, dy, y, x, z: (dy, b.neg(dy)),
    "mul": lambda b, dy, y, x, z: (b.mul(dy, z), b.mul(dy, x)),
    "div": lambda b, dy, y, x, z: (b.div(dy, z), b.neg(b.div(b.mul(dy, y), z))),
    "pow": lambda b, dy, y, x, z: (
        b.mul(dy, b.where(b.equal(z, 0.0), 0.0, b.mul(z, b.pow(x, b.sub(z, 1.0))))),
        b.mul(dy, b.where(b.greater(x, 0.0), b.mul(y, b.log(b.where(b.greater(x, 0.0), x, 1.0))), 0.0)),
    ),
    # Ties share the gradient equally, as PyTorch's maximum and minimum do.
    "maximum": lambda b, dy, y, x, z: _extreme_gradient(b, dy, x, z, "greater"),
    "minimum": lambda b, dy, y, x, z: _extreme_gradient(b, dy, x, z, "less"),
    "flush_subnormal": lambda b, dy, y, x: (dy,),
    "floor_mod": lambda b, dy, y, x, z: (dy, b.neg(b.mul(dy, b.floor(b.div(x, z))))),
    "trunc_mod": lambda b, dy, y, x, z: (dy, b.neg(b.mul(dy, b.trunc(b.div(x, z))))),
    "exp": lambda b, dy, y, x: (b.mul(dy, y),),
    "expm1": lambda b, dy, y, x: (b.mul(dy, b.add(y, 1.0)),),
    "log": lambda b, dy, y, x: (b.div(dy, x),),
    "log1p": lambda b, dy, y, x: (b.div(dy, b.add(x, 1.0)),),
    "sqrt": lambda b, dy, y, x: (b.div(b.mul(dy, 0.5), y),),
    "rsqrt": lambda b, dy, y, x: (b.mul(b.mul(dy, -0.5), b.div(y, x)),),
    "reciprocal": lambda b, dy, y, x: (b.neg(b.mul(dy, b.mul(y, y))),),
    "sin": lambda b, dy, y, x: (b.mul(dy, b.cos(x)),),
    "cos": lambda b, dy, y, x: (b.neg(b.mul(dy, b.sin(x))),),
    "tan": lambda b, dy, y, x: (b.mul(dy, b.add(b.mul(y, y), 1.0)),),
    "asin": lambda b, dy, y, x: (b.mul(dy, b.rsqrt(b.sub(1.0, b.mul(x, x)))),),
    "acos": lambda b, dy, y, x: (b.neg(b.mul(dy, b.rsqrt(b.sub(1.0, b.mul(x, x))))),),
    "atan": lambda b, dy, y, x: (b.div(dy, b.add(b.mul(x, x), 1.0)),),
    "atan2": lambda b, dy, y, x, z: (
        b.div(b.mul(dy, z), b.add(b.mul(x, x), b.mul(z, z))),
        b.neg(b.div(b.mul(dy, x), b.add(b.mul(x, x), b.mul(z, z)))),
    ),
    "sinh": lambda b, dy, y, x: (b.mul(dy, b.cosh(x)),),
    "cosh": lambda b, dy, y, x: (b.mul(dy, b.sinh(x)),),
    "tanh": lambda b, dy, y, x: (b.mul(dy, b.sub(1.0, b.mul(y, y))),),
    "asinh": lambda b, dy, y, x: (b.mul(dy, b.rsqrt(b.add(b.mul(x, x), 1.0))),),
    "acosh": lambda b, dy, y, x: (b.mul(dy, b.rsqrt(b.sub(b.mul(x, x), 1.0))),),
    "atanh": lambda b, dy, y, x: (b.div(dy, b.sub(1.0, b.mul(x, x))),),
    "erf": lambda b, dy, y, x: (b.mul(dy, b.mul(b.exp(b.neg(b.mul(x, x))), _TWO_OVER_SQRT_PI)),),
    "sigmoid": lambda b, dy, y, x: (b.mul(dy, b.mul(y, b.sub(1.0, y))),),
}


def _extreme_gradient(b: Builder, dy: Value, x: Value, z: Value, wins: str) -> tuple[Value, Value]:
    half = b.where(b.equal(x, z), b.mul(dy, 0.5), 0.0)
    left = b.where(b.call(wins, x, z), dy, half)
    right = b.where(b.call(wins, z, x), dy, half)
    return left, right


_COMMUTATIVE = {"add", "mul", "maximum", "minimum", "equal", "not_equal", "bit_and", "bit_or", "bit_xor"}


def _zero_gradient(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """Piecewise constant functions: the gradient is zero almost everywhere."""
    return (None,) * len(node.inputs)


def _scalar_vjp(name: str) -> Any:
    if name in _GRADIENTS:
        return _vjp_rule(_GRADIENTS[name])
    if name in ("floor", "ceil", "round", "trunc", "sign", "floor_div"):
        return _zero_gradient
    return NOT_DIFFERENTIABLE


for _entry in SCALAR_OPS.values():
    register(
        OpDef(
            name=_entry.name,
            arity=_entry.arity,
            infer=_infer(_entry),
            evaluate=lambda attributes, *arrays, _function=_entry.evaluate: _function(*arrays),
            compute=_compute(_entry.name),
            vjp=_scalar_vjp(_entry.name),
            traits=frozenset({Trait.ELEMENTWISE, *([Trait.COMMUTATIVE] if _entry.name in _COMMUTATIVE else [])}),
            doc=f"Elementwise {_entry.name.replace('_', ' ')}.",
        )
    )


def where_type(inputs: Types, attributes: Attributes) -> Types:
    """(bool, T, T) of one shape -> T."""
    same_shapes(inputs)
    condition, a, b = inputs
    if condition.dtype is not bool_ or a.dtype is not b.dtype:
        raise TypeRuleError("takes a bool condition and two operands of one dtype")
    return (a,)


def where_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """``select(condition, a, b)`` at every index."""
    axes = output_axes(outputs[0].shape)
    index = tuple(a.var for a in axes)
    condition, a, b = (Read(number, index, t.dtype) for number, t in enumerate(inputs))
    return pointwise(outputs[0].shape, outputs[0].dtype, axes, select(condition, a, b))


def where_vjp(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """The gradient goes to the operand that was chosen."""
    dy, condition = cotangents[0], node.inputs[0]
    if dy is None:
        return (None, None, None)
    zero = b.zeros_like(dy)
    return (None, b.where(condition, dy, zero), b.where(condition, zero, dy))


register(
    OpDef(
        name="where",
        arity=3,
        infer=where_type,
        evaluate=lambda attributes, condition, a, b: np.where(condition, a, b),
        compute=where_compute,
        vjp=where_vjp,
        traits=frozenset({Trait.ELEMENTWISE}),
        doc="Elementwise choice: operand 1 where operand 0 is true, else operand 2.",
    )
)


def cast_type(inputs: Types, attributes: Attributes) -> Types:
    """Any dtype -> ``dtype``."""
    if "string" in (inputs[0].dtype.kind, attributes["dtype"].kind) or "complex" in (
        inputs[0].dtype.kind,
        attributes["dtype"].kind,
    ):
        raise TypeRuleError(f"cannot cast {inputs[0].dtype} to {attributes['dtype']}")
    return (TensorType(attributes["dtype"], inputs[0].shape),)


def cast_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Convert every element."""
    axes = output_axes(outputs[0].shape)
    read = Read(0, tuple(a.var for a in axes), inputs[0].dtype)
    return pointwise(outputs[0].shape, outputs[0].dtype, axes, cast_expr(read, attributes["dtype"]))


def cast_vjp(b: Builder, node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """Cast back; integers and bools carry no gradient."""
    dy, source = cotangents[0], node.inputs[0].type.dtype
    return (b.cast_to(dy, source) if dy is not None and source.is_float else None,)


register(
    OpDef(
        name="cast",
        arity=1,
        infer=cast_type,
        evaluate=lambda attributes, x: cast_array(x, attributes["dtype"].numpy),
        attributes={"dtype": Attribute((DType,), doc="the dtype to convert to")},
        compute=cast_compute,
        vjp=cast_vjp,
        doc="Convert the dtype: saturating from float to integer (NaN to 0), wrapping among integers.",
    )
)
