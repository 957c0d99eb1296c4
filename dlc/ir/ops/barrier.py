"""The barrier: an identity that computations do not move across.

Fusion joins what reads it with nothing before it, so that its operand exists in
memory and what follows is computed where it stands. It costs nothing: the result
is the operand's memory.
"""

from __future__ import annotations

from dlc.ir.attributes import Attributes
from dlc.ir.expr import Load, Var, apply, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.opdef import OpDef, Types, register
from dlc.ir.ops.rules import lanes_for, single_vjp, vector_lanes


def barrier_kernel(inputs: Types, outputs: Types, attributes: Attributes) -> Kernel:
    """A copy, for whoever runs the node by itself; whole programs read the operand."""
    dtype, size = inputs[0].dtype, int(inputs[0].size)  # type: ignore[call-overload]
    lanes = lanes_for(size)
    start = apply("mul", Var("v"), const(lanes))
    body = vector_lanes(size, start, lanes, lambda place: (Store("y", place, Load("x", place, dtype)),))
    buffers = (Buffer("x", dtype, size), Buffer("y", dtype, size, writable=True))
    loop = For(Var("v"), const(-(-size // lanes)), LoopKind.PARALLEL, body)
    return Kernel("barrier", buffers, (), (loop,))


register(
    OpDef(
        name="barrier",
        arity=1,
        infer=lambda types, attributes: (types[0],),
        evaluate=lambda attributes, x: x,
        kernel=barrier_kernel,
        vjp=single_vjp(lambda b, dy, node: dy),
        doc="The operand itself. What reads the result is not computed together with what makes the operand.",
    )
)
