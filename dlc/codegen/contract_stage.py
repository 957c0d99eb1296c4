"""Copies row tiles to scratch memory where reading them in place would thrash the first-level cache.

Kernels of one tile each: gathered (rows contiguous at each depth step) or copied (each row contiguous along the
depth). It must not know when that pays.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract_index import ZERO, scaled, total
from dlc.ir.expr import Apply, Expr, Load, Var, apply, const
from dlc.ir.kernel import Buffer, For, If, Kernel, Let, LoopKind, Stmt, Store
from dlc.ir.types import DType

COPY_VECTORS = 4
"""Vectors copied per iteration."""


@lru_cache(maxsize=256)
def stage_kernel(dtype: DType, lanes: int, rows: int, pitch: int, levels: int) -> Kernel:
    """Return the kernel (source, target) that gathers a row tile: ``rows`` contiguous elements per depth step.

    Scalars: extent and stride of each depth level in the source; the target has ``pitch`` elements per step.
    """
    at, target = Var(f"at{levels}"), apply("mul", Var(f"step{levels}"), const(pitch))
    body: list[Stmt] = []
    for first in range(0, rows, lanes):
        lane = apply("add", const(first), Var("lane"))
        store = Store("target", apply("add", target, lane), Load("source", apply("add", at, lane), dtype))
        active = apply("less", Var("lane"), const(rows - first)) if rows - first < lanes else None
        body.append(For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,), active))
    for level in reversed(range(levels)):
        k = Var(f"k{level}")
        step = apply("add", apply("mul", Var(f"step{level}"), Var(f"n{level}")), k)
        source = apply("add", Var(f"at{level}"), apply("mul", k, Var(f"s{level}")))
        lets = [Let(Var(f"at{level + 1}"), source), Let(Var(f"step{level + 1}"), step)]
        body = [For(k, Var(f"n{level}"), LoopKind.SERIAL, (*lets, *body))]
    body = [Let(Var("at0"), const(0)), Let(Var("step0"), const(0)), *body]
    scalars = tuple(Var(name) for level in range(levels) for name in (f"n{level}", f"s{level}"))
    buffers = (Buffer("source", dtype, None), Buffer("target", dtype, None, writable=True))
    return Kernel(f"stage_{dtype}_{rows}_d{levels}", buffers, scalars, tuple(body))


@lru_cache(maxsize=64)
def copy_row_kernel(dtype: DType, lanes: int, levels: int) -> Kernel:
    """Return the kernel (source, target) that copies the depth of one row; the innermost level is contiguous.

    Scalars: extent of each depth level and, but for the innermost, its stride in the source.
    """
    deepest = levels - 1
    length = Var(f"n{deepest}")
    first = apply("mul", Var(f"step{deepest}"), length)

    def vector(start: Expr, active: Apply | None = None) -> For:
        at = total(start, Var("lane"))
        store = Store("target", total(Var("first"), at), Load("source", total(Var(f"at{deepest}"), at), dtype))
        return For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,), active)

    block = lanes * COPY_VECTORS
    blocks = apply("floor_div", length, const(block))
    done = scaled(blocks, block)
    vectors = apply("floor_div", apply("sub", length, done), const(lanes))
    whole = scaled(apply("floor_div", length, const(lanes)), lanes)
    run = tuple(vector(total(scaled(Var("block"), block), const(v * lanes))) for v in range(COPY_VECTORS))
    single = (vector(total(done, scaled(Var("vector"), lanes))),)
    rest = (vector(whole, apply("less", Var("lane"), Var("rest"))),)
    body: list[Stmt] = [
        Let(Var("first"), first),
        For(Var("block"), blocks, LoopKind.SERIAL, run),
        For(Var("vector"), vectors, LoopKind.SERIAL, single),
        Let(Var("rest"), apply("sub", length, whole)),
        If(apply("greater", Var("rest"), ZERO), rest),
    ]
    for level in reversed(range(deepest)):
        k = Var(f"k{level}")
        lets = (
            Let(Var(f"at{level + 1}"), apply("add", Var(f"at{level}"), apply("mul", k, Var(f"s{level}")))),
            Let(Var(f"step{level + 1}"), apply("add", apply("mul", Var(f"step{level}"), Var(f"n{level}")), k)),
        )
        body = [For(k, Var(f"n{level}"), LoopKind.SERIAL, (*lets, *body))]
    body = [Let(Var("at0"), ZERO), Let(Var("step0"), ZERO), *body]
    names = [name for level in range(deepest) for name in (f"n{level}", f"s{level}")] + [f"n{deepest}"]
    buffers = (Buffer("source", dtype, None), Buffer("target", dtype, None, writable=True))
    return Kernel(f"copy_row_{dtype}_d{levels}", buffers, tuple(Var(name) for name in names), tuple(body))
