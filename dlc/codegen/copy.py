"""The copy kernel: moves what the memory plan could not leave where it is, or converts what is stored."""

from __future__ import annotations

from dlc.codegen.target import CpuTarget
from dlc.ir.expr import Expr, Load, Var, apply, cast, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Stmt, Store
from dlc.ir.types import DType

BYTES_PER_TASK = 1 << 18


def copy_kernel(dtype: DType, size: int, target: CpuTarget, into: DType | None = None) -> Kernel:
    """Return a kernel that copies ``size`` elements of ``dtype`` from its first buffer to its second, of ``into``."""
    into = into or dtype
    lanes = max(target.vector_bytes // max(dtype.itemsize, into.itemsize), 1)
    per_task = max(BYTES_PER_TASK // dtype.itemsize // lanes, 1) * lanes
    tasks, whole = divmod(size, per_task)
    body: list[Stmt] = []
    if tasks:
        start = apply("mul", Var("task"), const(per_task))
        body.append(_block(start, per_task, lanes, (dtype, into), "a"))
    buffers = (Buffer("source", dtype, size), Buffer("target", into, size, writable=True))
    name = f"copy_{dtype}_{size}" if into is dtype else f"copy_{dtype}_{into}_{size}"
    if not whole:
        loop = For(Var("task"), const(tasks), LoopKind.PARALLEL, tuple(body)) if tasks else None
        return Kernel(name, buffers, (), (loop,) if loop else ())
    if not tasks:
        return Kernel(name, buffers, (), _ragged(const(0), whole, lanes, (dtype, into)))
    tail_start = const(tasks * per_task)
    tail = For(Var("last"), _is_last(tasks), LoopKind.SERIAL, _ragged(tail_start, whole, lanes, (dtype, into)))
    return Kernel(name, buffers, (), (For(Var("task"), const(tasks), LoopKind.PARALLEL, (*body, tail)),))


def _is_last(tasks: int) -> Expr:
    """1 in the last task, else 0: the extent of the loop that copies what is left over."""
    from_last = apply("equal", Var("task"), const(tasks - 1))
    return apply("select", from_last, const(1), const(0))


def _block(start: Expr, count: int, lanes: int, dtypes: tuple[DType, DType], prefix: str) -> Stmt:
    index = apply("add", start, apply("add", apply("mul", Var(prefix), const(lanes)), Var("lane")))
    store = Store("target", index, cast(Load("source", index, dtypes[0]), dtypes[1]))
    inner = For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,))
    return For(Var(prefix), const(count // lanes), LoopKind.SERIAL, (inner,))


def _ragged(start: Expr, count: int, lanes: int, dtypes: tuple[DType, DType]) -> tuple[Stmt, ...]:
    """Copy ``count`` elements, the last vector masked."""
    body: list[Stmt] = []
    if count >= lanes:
        body.append(_block(start, count, lanes, dtypes, "b"))
    if count % lanes:
        index = apply("add", start, apply("add", const(count // lanes * lanes), Var("lane")))
        store = Store("target", index, cast(Load("source", index, dtypes[0]), dtypes[1]))
        body.append(
            For(
                Var("lane"),
                const(lanes),
                LoopKind.VECTOR,
                (store,),
                active=apply("less", Var("lane"), const(count % lanes)),
            )
        )
    return tuple(body)
