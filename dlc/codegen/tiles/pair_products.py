"""Kernels on tiles of bfloat16 pairs: copies of rows, and products. They must not know how tiles are scheduled."""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract.depth_levels import level_scalars, nested_levels
from dlc.codegen.contract.index import ZERO, scaled, total
from dlc.codegen.tiles.pair_runs import PAIRS
from dlc.codegen.tiles.sizes import BLOCK, LINE, STEP, TILE, TILE_ELEMENTS
from dlc.ir.expr import Load, Var, apply, const
from dlc.ir.kernel import (
    Buffer,
    For,
    Kernel,
    Let,
    LoopKind,
    Prefetch,
    Stmt,
    Store,
    TileLoad,
    TileMultiply,
    TileStore,
    TileZero,
)
from dlc.ir.types import float32, uint16, uint32


@lru_cache(maxsize=64)
def copy_row_kernel(levels: int, ragged: bool) -> Kernel:
    """Return the kernel (source, target) that copies one row to its place in the tiles of all steps.

    Scalars: extent and stride of each level of runs, then the elements of a run: whole steps, or filled up with
    zeros where ``ragged``.
    """
    lane, at, elements = Var("lane"), Var(f"at{levels}"), Var("elements")

    def copied(chunk: Var, tail: bool) -> list[Stmt]:
        where = total(scaled(total(Var("first"), chunk), TILE_ELEMENTS), lane)
        value = Load("source", total(at, scaled(chunk, STEP), lane), uint16)
        if not tail:
            return [For(lane, const(STEP), LoopKind.VECTOR, (Store("target", where, value),))]
        empty = For(lane, const(STEP), LoopKind.VECTOR, (Store("target", where, const(0, uint16)),))
        active = apply("less", lane, Var("tail"))
        return [empty, For(lane, const(STEP), LoopKind.VECTOR, (Store("target", where, value),), active)]

    chunks = Var("chunks")
    steps = total(chunks, const(1)) if ragged else chunks
    body: list[Stmt] = [
        Let(Var("first"), apply("mul", Var(f"step{levels}"), steps)),
        For(Var("c"), chunks, LoopKind.SERIAL, tuple(copied(Var("c"), False))),
    ]
    head: list[Stmt] = [Let(chunks, apply("floor_div", elements, const(STEP)))]
    if ragged:
        head.append(Let(Var("tail"), apply("sub", elements, scaled(chunks, STEP))))
        body += copied(chunks, True)
    buffers = (Buffer("source", uint16, None), Buffer("target", uint16, None, writable=True))
    name = f"copy_row_d{levels}" + ("_ragged" if ragged else "")
    return Kernel(name, buffers, (*level_scalars(levels), elements), (*head, *nested_levels(body, levels)))


@lru_cache(maxsize=32)
def pair_tiles_kernel(row_tiles: int, halves: int, levels: int) -> Kernel:
    """Return the kernel (rows, panel, block) that multiplies row tiles with a packed panel of ``halves`` tiles.

    Scalars: extent and stride of each level of runs; ``steps`` of a run and elements of rows from one to the next
    (``stride``); elements from row to row; elements from the first row tile to the second (``apart``) and where in
    the block that is stored; where of the panel's buffer the first line lies that should be in the second-level
    cache soon, and how many lines each step asks for; the same of the rows' buffer. The block has BLOCK columns.
    """
    step, width = Var("k"), halves * TILE
    where = total(Var(f"at{levels}"), apply("mul", step, Var("stride")))
    number = total(apply("mul", Var(f"step{levels}"), Var("steps")), step)

    def ask(buffer: str, start: str, lines: str, size: int) -> Stmt:
        line = total(apply("mul", Var("number"), Var(lines)), Var("line"))
        fetch = Prefetch(buffer, total(Var(start), scaled(line, size)), 2)
        return For(Var("line"), Var(lines), LoopKind.SERIAL, (fetch,))

    def row(tile: int) -> Stmt:
        index = total(where, Var("apart")) if tile else where
        return TileLoad(4 + tile, "rows", index, Var("row_stride"))

    def column(half: int) -> Stmt:
        index = total(scaled(Var("number"), PAIRS * width), const(half * TILE))
        return TileLoad(6 + half, "panel", index, const(width))

    products: list[Stmt] = [row(0)]
    for half in range(halves):
        products += [column(half), TileMultiply(half, 4, 6 + half)]
    if row_tiles > 1:
        products += [row(1), *(TileMultiply(2 + half, 5, 6 + half) for half in range(halves))]
    asks = (ask("panel", "ahead", "lines", LINE), ask("rows", "rows_ahead", "row_lines", 2 * LINE))
    loop = For(step, Var("steps"), LoopKind.SERIAL, (Let(Var("number"), number), *products, *asks))
    tiles = [2 * tile + half for tile in range(row_tiles) for half in range(halves)]
    body: list[Stmt] = [TileZero(tile) for tile in tiles]
    body += nested_levels([loop], levels)
    for tile in tiles:
        place = total(Var("second") if tile > 1 else ZERO, const(tile % 2 * TILE))
        body.append(TileStore(tile, "block", place, const(BLOCK)))
    buffers = (
        Buffer("rows", uint16, None),
        Buffer("panel", uint32, None),
        Buffer("block", float32, None, writable=True),
    )
    names = ("steps", "stride", "row_stride", "apart", "second", "ahead", "lines", "rows_ahead", "row_lines")
    scalars = (*level_scalars(levels), *(Var(name) for name in names))
    return Kernel(f"pair_tiles_{row_tiles}x{halves}_d{levels}", buffers, scalars, tuple(body))
