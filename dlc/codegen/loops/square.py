"""Squares of elements turned in registers, by one kernel for all who turn squares of a size.

A square of sixteen is a hundred instructions, most of them shuffles, which take LLVM long; a call costs a few cycles.
It must not know what the squares are parts of.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.ir.expr import Expr, Var, const
from dlc.ir.kernel import Buffer, Call, Kernel, Stmt, Transpose, Window
from dlc.ir.types import DType

SHORTEST_CALLED = 8
"""Smaller squares are few instructions: they are turned in place."""


def turn(
    dtype: DType,
    size: int,
    target: Window,
    target_stride: Expr,
    source: Window,
    source_stride: Expr,
    rows: Expr | None = None,
) -> Stmt:
    """Return the statement that copies a square, transposed, as ``ir.kernel.Transpose`` does."""
    if size < SHORTEST_CALLED:
        return Transpose(target, target_stride, source, source_stride, size, rows)
    strides = (target_stride, source_stride)
    if rows is None:
        return Call(square_kernel(dtype, size, False), (target, source), strides)
    return Call(square_kernel(dtype, size, True), (target, source), (*strides, rows))


@lru_cache(maxsize=64)
def square_kernel(dtype: DType, size: int, ragged: bool) -> Kernel:
    """Return the kernel (target, source): scalars are the strides of both, and ``rows`` of the source if ragged."""
    names = ("target_stride", "source_stride", *(("rows",) if ragged else ()))
    target_stride, source_stride, *rows = (Var(name) for name in names)
    begin = const(0)
    square = Transpose(Window("target", begin), target_stride, Window("source", begin), source_stride, size, *rows)
    buffers = (Buffer("target", dtype, None, writable=True), Buffer("source", dtype, None))
    name = "_".join(["square", str(dtype), str(size), *(["ragged"] if ragged else [])])
    return Kernel(name, buffers, tuple(Var(name) for name in names), (square,))
