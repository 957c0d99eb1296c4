"""Contractions of bfloat16 operands on AMX: one tile product where float32 takes six.

Packed panels of words are tiles as they are; rows are copied next to each other, so that a tile may hold any rows.
Sums stay in tiles over the whole depth. It must not know other paths but the loops that it shares with float32's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from dlc.codegen.amx_blocking import MOST_GROUP_TILES, AmxBlocking, choose_amx_blocking
from dlc.codegen.amx_macro import AmxKernel
from dlc.codegen.amx_micro import BLOCK, STEP, TILE, TILE_ELEMENTS
from dlc.codegen.contract_analysis import Problem, extent_of
from dlc.codegen.contract_blocking import LOCAL, PACKED
from dlc.codegen.contract_index import ZERO, least, scaled, total
from dlc.codegen.target import CpuTarget
from dlc.ir.expr import Expr, Load, Var, apply, const
from dlc.ir.kernel import (
    Alloc,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Space,
    Stmt,
    Store,
    TileConfigure,
    TileLoad,
    TileMultiply,
    TileRelease,
    TileStore,
    TileZero,
    Window,
)
from dlc.ir.types import float32, uint16, uint32

PAIRS = STEP // 2
"""Pairs of one tile product."""
FEWEST_ROWS = 8
"""A tile product takes as long for fewer rows: vectors of pairs do those as fast."""


def amx_takes_pairs(problem: Problem, target: CpuTarget, panels_from: str) -> bool:
    """Whether the contraction runs on AMX: innermost runs of the depth are whole tiles, and rows fill one by half."""
    return (
        target.has("amx-tile")
        and target.has("amx-bf16")
        and target.has_masks
        and problem.pairs
        and not problem.odd
        and panels_from in (PACKED, LOCAL)
        and problem.depth[-1].extent % PAIRS == 0
        and problem.columns[-1].extent > TILE
        and bool(problem.rows)
        and problem.row_count >= FEWEST_ROWS
    )


def choose_pairs_blocking(problem: Problem, target: CpuTarget, threads: int, panels_from: str) -> AmxBlocking:
    """Choose tasks as for float32, and row groups whose copies fill less than half of the second-level cache."""
    found = choose_amx_blocking(problem, target, threads, panels_from)
    blocking = found.blocking
    panels = -(-blocking.panels // blocking.column_chunks)
    blocking = replace(blocking, depth_level=0, depth_block=blocking.levels[0].extent, block_panels=panels)
    steps = extent_of(blocking.levels) // PAIRS
    row_tiles = -(-found.chunk_rows // TILE)
    most = max(2, min(MOST_GROUP_TILES, target.l2_bytes * 2 // 5 // (steps * TILE_ELEMENTS * 2)))
    group_tiles = -(-row_tiles // -(-row_tiles // most))
    group_tiles += group_tiles % 2
    return replace(found, blocking=blocking, group_tiles=group_tiles, pass_steps=steps)


class AmxPairsKernel(AmxKernel):
    """Builds the entry kernel of one contraction: buffers row operand, panels, output, epilogue inputs."""

    def __init__(self, problem: Problem, found: AmxBlocking) -> None:
        super().__init__(problem, found)
        self.tile_size = found.pass_steps * TILE_ELEMENTS

    def _task(self) -> list[Stmt]:
        blocking, found = self.blocking, self.found
        tiles = -(-blocking.tile_count // blocking.row_chunks)
        first = scaled(Var("rc"), tiles)
        group_rows = found.group_tiles * TILE
        group: tuple[Stmt, ...] = (
            Let(Var("row_first"), total(Var("chunk_first"), scaled(Var("rg"), group_rows))),
            If(
                apply("less", Var("row_first"), Var("chunk_end")),
                (
                    Let(Var("row_end"), least(total(Var("row_first"), const(group_rows)), Var("chunk_end"))),
                    *self._group(),
                ),
            ),
        )
        statements: list[Stmt] = [
            Alloc(Buffer("row_parts", uint16, found.group_tiles * self.tile_size, Space.LOCAL)),
            Alloc(Buffer("sums", float32, BLOCK * BLOCK, Space.LOCAL)),
        ]
        if blocking.panels_from == LOCAL:
            statements.append(Alloc(Buffer("packed", uint32, blocking.pass_depth * BLOCK, Space.LOCAL)))
        return [
            *statements,
            Let(Var("chunk_first"), self._start(first)),
            Let(Var("chunk_end"), self._start(least(total(first, const(tiles)), blocking.tile_count))),
            TileConfigure((TILE,) * 8),
            For(Var("rg"), const(-(-found.chunk_rows // group_rows)), LoopKind.SERIAL, group),
            TileRelease(),
        ]

    def _stage_rows(self) -> list[Stmt]:
        """Copy the group's rows; those that fill up the last tile repeat the last row."""
        tensor = self.problem.row_operand
        levels, row_depth, _ = self._depth()
        row = least(total(Var("row_first"), scaled(Var("t"), TILE), Var("i")), apply("sub", Var("row_end"), const(1)))
        where = total(self._group_offset(tensor), row_depth, self._row_offset(Var("row"), tensor))
        target = total(scaled(Var("t"), self.tile_size), scaled(Var("i"), STEP))
        call = Call(
            copy_row_kernel(len(levels)),
            (Window("rows", where), Window("row_parts", target)),
            tuple(value for level in levels for value in (level.extent, level.row_stride)),
        )
        loop = For(Var("i"), const(TILE), LoopKind.SERIAL, (Let(Var("row"), row), call))
        return [For(Var("t"), Var("row_tiles"), LoopKind.SERIAL, (loop,))]

    def _first_panel(self) -> list[Stmt]:
        return []

    def _panel(self) -> list[Stmt]:
        """Multiply all blocks of rows with a panel, packed first where it is no weight."""
        statements: list[Stmt] = [Let(Var("panel"), total(Var("panel0"), Var("p")))]
        if self.blocking.panels_from == LOCAL:
            statements.append(self._pack_one(ZERO))
        return [*statements, For(Var("b"), Var("row_blocks"), LoopKind.SERIAL, tuple(self._block()))]

    def _tiles(self, place: Expr) -> Stmt:
        """Multiply two row tiles or the last one."""
        local = self.blocking.panels_from == LOCAL
        windows = (
            Window("row_parts", scaled(Var("b"), 2 * self.tile_size)),
            Window("packed", ZERO) if local else self._panel_window(Var("panel")),
            Window("sums", place),
        )
        scalars = (const(self.found.pass_steps), const(self.tile_size))
        both, one = (Call(pair_tiles_kernel(count), windows, scalars) for count in (2, 1))
        return If(apply("greater", Var("block_rows"), const(TILE)), (both,), (one,))

    def _store_block(self, slot: Expr) -> list[Stmt]:
        full, tail = divmod(self.column.extent, BLOCK)
        if not tail:
            return self._epilogue_calls(slot, False)
        ragged = tuple(self._epilogue_calls(slot, True))
        if not full:
            return list(ragged)
        return [If(apply("less", Var("panel"), const(full)), tuple(self._epilogue_calls(slot, False)), ragged)]


@lru_cache(maxsize=64)
def copy_row_kernel(levels: int) -> Kernel:
    """Return the kernel (source, target) that copies one row to its place in the tiles of all steps.

    Scalars: extent and stride of each depth level, the innermost in whole steps of contiguous pairs.
    """
    last = levels - 1
    lane = Var("lane")
    at = total(Var(f"at{last}"), scaled(Var("c"), STEP), lane)
    where = total(scaled(total(Var("step"), Var("c")), TILE_ELEMENTS), lane)
    chunks = apply("floor_div", Var(f"n{last}"), const(PAIRS))
    copy = For(lane, const(STEP), LoopKind.VECTOR, (Store("target", where, Load("source", at, uint16)),))
    body: list[Stmt] = [
        Let(Var("chunks"), chunks),
        Let(Var("step"), apply("mul", Var(f"step{last}"), Var("chunks"))),
        For(Var("c"), Var("chunks"), LoopKind.SERIAL, (copy,)),
    ]
    for level in reversed(range(last)):
        k = Var(f"k{level}")
        step = apply("add", apply("mul", Var(f"step{level}"), Var(f"n{level}")), k)
        start = apply("add", Var(f"at{level}"), apply("mul", k, Var(f"s{level}")))
        lets = [Let(Var(f"at{level + 1}"), start), Let(Var(f"step{level + 1}"), step)]
        body = [For(k, Var(f"n{level}"), LoopKind.SERIAL, (*lets, *body))]
    body = [Let(Var("at0"), ZERO), Let(Var("step0"), ZERO), *body]
    scalars = tuple(Var(name) for level in range(levels) for name in (f"n{level}", f"s{level}"))
    buffers = (Buffer("source", uint16, None), Buffer("target", uint16, None, writable=True))
    return Kernel(f"copy_row_d{levels}", buffers, scalars, tuple(body))


@lru_cache(maxsize=2)
def pair_tiles_kernel(row_tiles: int) -> Kernel:
    """Return the kernel (rows, panel, block) that multiplies row tiles with a packed panel of BLOCK columns.

    Scalars: ``steps``; ``apart``, the elements from one row tile to the next. The block has BLOCK columns.
    """
    step = Var("k")
    where = scaled(step, TILE_ELEMENTS)
    loads: list[Stmt] = [TileLoad(4, "rows", where, const(STEP))]
    if row_tiles > 1:
        loads.append(TileLoad(5, "rows", apply("add", where, Var("apart")), const(STEP)))
    for half in range(2):
        loads.append(TileLoad(6 + half, "panel", total(scaled(step, PAIRS * BLOCK), const(half * TILE)), const(BLOCK)))
    products: list[Stmt] = [TileMultiply(2 * i + j, 4 + i, 6 + j) for i in range(row_tiles) for j in range(2)]
    body: list[Stmt] = [TileZero(2 * i + j) for i in range(row_tiles) for j in range(2)]
    body.append(For(step, Var("steps"), LoopKind.SERIAL, (*loads, *products)))
    for i in range(row_tiles):
        for j in range(2):
            body.append(TileStore(2 * i + j, "block", const(i * TILE * BLOCK + j * TILE), const(BLOCK)))
    buffers = (
        Buffer("rows", uint16, None),
        Buffer("panel", uint32, None),
        Buffer("block", float32, None, writable=True),
    )
    return Kernel(f"pair_tiles_{row_tiles}x2", buffers, (Var("steps"), Var("apart")), tuple(body))


def amx_pairs_kernel(problem: Problem, found: AmxBlocking, name: str, panel_size: int) -> Kernel:
    """Return the entry kernel (row operand, panels, output, epilogue inputs)."""
    return AmxPairsKernel(problem, found).build(name, panel_size)
