"""The kernels under an AMX contraction: split rows, split panels, multiply tiles, add blocks, apply the epilogue.

Float32 operands become three bfloat16 parts; six of the nine products of parts carry float32's precision.
The five small ones are added over the whole depth before the leading one, since a sum that is already large
would round them away. It must not know how blocks are scheduled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract_index import ZERO, scaled, total
from dlc.codegen.microkernel import LANES_NONE, LANES_STRIDE, LANES_UNIT
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, substitute
from dlc.ir.kernel import (
    Alloc,
    Buffer,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Space,
    SplitParts,
    Stmt,
    Store,
    TileLoad,
    TileMultiply,
    TileStore,
    TileZero,
)
from dlc.ir.types import DType, bfloat16, float32, uint32

TILE = 16
"""Rows of a tile, and float32 columns."""
STEP = 32
"""Depth of one tile product."""
BLOCK = 2 * TILE
"""Rows and columns of a block: two by two tiles of accumulators."""
TILE_ELEMENTS = TILE * STEP
ROW_STEP = 3 * TILE_ELEMENTS
"""Elements of one depth step of a split row tile: [part][row][depth]."""
PANEL_STEP = 3 * 2 * TILE_ELEMENTS
"""Elements of one depth step of a split panel: [part][half of columns][pair of depth][column][2]."""
WATCH = 2 * STEP
"""Elements of a buffer of watched magnitudes: the greatest per lane, then the least."""

_LANE = Var("lane")


def steps_of(extents: Sequence[Expr]) -> Expr:
    """Return the depth steps of nested levels: the innermost is padded to whole steps."""
    count = _ceil(extents[-1])
    for extent in extents[:-1]:
        count = _times(count, extent)
    return count


def _ceil(extent: Expr) -> Expr:
    return _over(total(extent, const(STEP - 1)), STEP)


def _over(expr: Expr, divisor: int) -> Expr:
    value = getattr(expr, "value", None)
    return const(int(value) // divisor) if value is not None else apply("floor_div", expr, const(divisor))


def _times(a: Expr, b: Expr) -> Expr:
    value = getattr(b, "value", None)
    return scaled(a, int(value)) if value is not None else apply("mul", a, b)


def _vector(lanes: int, *body: Stmt, active: Expr | None = None) -> For:
    return For(_LANE, const(lanes), LoopKind.VECTOR, body, active)


def _watch_in() -> list[Stmt]:
    return [
        Alloc(Buffer("watch", uint32, WATCH, Space.LOCAL)),
        *(_vector(STEP, Store("watch", at, Load("watched", at, uint32))) for at in _halves()),
    ]


def _watch_out() -> list[Stmt]:
    return [_vector(STEP, Store("watched", at, Load("watch", at, uint32))) for at in _halves()]


def _halves() -> tuple[Expr, Expr]:
    return _LANE, total(_LANE, const(STEP))


@lru_cache(maxsize=64)
def split_row_kernel(levels: int, contiguous: bool) -> Kernel:
    """Return the kernel (source, target, watched) that splits one row of a row tile.

    Scalars: extent and stride of each depth level in the source. The row lies at its place in the tile's first
    step; steps are ROW_STEP apart. The innermost level is filled up with zeros to whole steps.
    """
    last = levels - 1
    inner, stride = Var(f"n{last}"), Var(f"s{last}")

    def split(chunk: Expr, active: Expr | None) -> list[Stmt]:
        start = total(scaled(chunk, STEP), _LANE)
        position = start if contiguous else apply("mul", start, stride)
        value = Load("source", apply("add", Var("at"), position), float32)
        where = total(scaled(total(Var("step"), chunk), ROW_STEP), _LANE)
        statements: list[Stmt] = []
        if active is not None:
            for part in range(3):
                empty = Store("target", total(where, const(part * TILE_ELEMENTS)), const(0.0, bfloat16))
                statements.append(_vector(STEP, empty))
        parts = SplitParts("target", where, TILE_ELEMENTS, (value,), "watch", _LANE, STEP)
        return [*statements, _vector(STEP, parts, active=active)]

    tail = apply("floor_mod", inner, const(STEP))
    body: list[Stmt] = [
        Let(Var("at"), Var(f"at{last}")),
        Let(Var("step"), apply("mul", Var(f"step{last}"), _ceil(inner))),
        For(Var("c"), _over(inner, STEP), LoopKind.SERIAL, tuple(split(Var("c"), None))),
        Let(Var("tail"), tail),
        If(
            apply("greater", Var("tail"), ZERO),
            tuple(split(_over(inner, STEP), apply("less", _LANE, Var("tail")))),
        ),
    ]
    for level in reversed(range(last)):
        k = Var(f"k{level}")
        step = apply("add", apply("mul", Var(f"step{level}"), Var(f"n{level}")), k)
        at = apply("add", Var(f"at{level}"), apply("mul", k, Var(f"s{level}")))
        lets = [Let(Var(f"at{level + 1}"), at), Let(Var(f"step{level + 1}"), step)]
        body = [For(k, Var(f"n{level}"), LoopKind.SERIAL, (*lets, *body))]
    body = [*_watch_in(), Let(Var("at0"), ZERO), Let(Var("step0"), ZERO), *body, *_watch_out()]
    scalars = tuple(Var(name) for level in range(levels) for name in (f"n{level}", f"s{level}"))
    buffers = (
        Buffer("source", float32, None),
        Buffer("target", bfloat16, None, writable=True),
        Buffer("watched", uint32, None, writable=True),
    )
    name = f"split_row_d{levels}" + ("" if contiguous else "_strided")
    return Kernel(name, buffers, scalars, tuple(body))


@lru_cache(maxsize=1)
def split_panel_kernel() -> Kernel:
    """Return the kernel (source, target, watched) that splits a packed panel of BLOCK columns.

    Scalars: ``outer`` runs of ``inner`` depth rows each; every run is filled up with zeros to whole steps.
    """

    def pair(chunk: Expr, kk: Expr, count: int) -> tuple[Stmt, ...]:
        """Split rows 2kk and 2kk + 1 of a step; the first ``count`` of them exist."""
        row = total(apply("mul", Var("o"), Var("inner")), scaled(chunk, STEP), scaled(kk, 2))
        found: list[Stmt] = []
        for half in range(2):
            values = [
                Load("source", total(scaled(total(row, const(k)), BLOCK), const(half * TILE), _LANE), float32)
                if k < count
                else const(0.0, float32)
                for k in range(2)
            ]
            where = total(
                scaled(total(Var("step"), chunk), PANEL_STEP),
                scaled(kk, 2 * TILE),
                const(half * TILE_ELEMENTS),
                scaled(_LANE, 2),
            )
            parts = SplitParts("target", where, 2 * TILE_ELEMENTS, tuple(values), "watch", _LANE, STEP)
            found.append(_vector(TILE, parts))
        return tuple(found)

    inner, kk = Var("inner"), Var("kk")
    full = _over(inner, STEP)
    rest = apply("sub", Var("tail"), scaled(kk, 2))
    choose = If(
        apply("greater", rest, const(1)),
        pair(full, kk, 2),
        (If(apply("greater", rest, ZERO), pair(full, kk, 1), pair(full, kk, 0)),),
    )
    body: tuple[Stmt, ...] = (
        Let(Var("step"), apply("mul", Var("o"), _ceil(inner))),
        For(
            Var("c"),
            full,
            LoopKind.SERIAL,
            (For(kk, const(TILE), LoopKind.SERIAL, pair(Var("c"), kk, 2)),),
        ),
        Let(Var("tail"), apply("floor_mod", inner, const(STEP))),
        If(apply("greater", Var("tail"), ZERO), (For(kk, const(TILE), LoopKind.SERIAL, (choose,)),)),
    )
    body = (*_watch_in(), For(Var("o"), Var("outer"), LoopKind.SERIAL, body), *_watch_out())
    buffers = (
        Buffer("source", float32, None),
        Buffer("target", bfloat16, None, writable=True),
        Buffer("watched", uint32, None, writable=True),
    )
    return Kernel("split_panel", buffers, (Var("outer"), inner), body)


def _split_pair(pair: Expr) -> list[Stmt]:
    """Split pair number ``pair`` of depth rows of a panel without gaps."""
    found: list[Stmt] = []
    for half in range(2):
        at = [total(scaled(pair, 2 * BLOCK), const(row * BLOCK + half * TILE), _LANE) for row in range(2)]
        where = total(
            scaled(_over(pair, TILE), PANEL_STEP),
            scaled(apply("floor_mod", pair, const(TILE)), 2 * TILE),
            const(half * TILE_ELEMENTS),
            scaled(_LANE, 2),
        )
        values = tuple(Load("source", index, float32) for index in at)
        parts = SplitParts("target", where, 2 * TILE_ELEMENTS, values, "watch", _LANE, STEP)
        found.append(_vector(TILE, parts))
    return found


def _split_buffers() -> tuple[Buffer, ...]:
    return (
        Buffer("source", float32, None),
        Buffer("target", bfloat16, None, writable=True),
        Buffer("watched", uint32, None, writable=True),
    )


@lru_cache(maxsize=1)
def split_pairs_kernel() -> Kernel:
    """Return the kernel (source, target, watched) that splits pairs of rows of a panel of whole steps.

    Scalars: ``first`` and ``count`` of the pairs.
    """
    pair = total(Var("first"), Var("k"))
    loop = For(Var("k"), Var("count"), LoopKind.SERIAL, (Let(Var("pair"), pair), *_split_pair(Var("pair"))))
    body = (*_watch_in(), loop, *_watch_out())
    return Kernel("split_pairs", _split_buffers(), (Var("first"), Var("count")), body)


@lru_cache(maxsize=16)
def tiles_kernel(row_tiles: int, pairs: int) -> Kernel:
    """Return the kernel (rows, panel, block) that multiplies split row tiles with a split panel.

    Scalars: ``steps``; ``apart``, the elements from one row tile to the next. The block has BLOCK columns.
    With ``pairs`` (a divisor of TILE), vector units split another panel of whole steps while tiles are multiplied,
    so many pairs of its rows per step from pair ``first`` on: buffers source, target, watched and this scalar follow.
    """
    step = Var("k")

    def load_rows(part: int) -> list[Stmt]:
        where = total(scaled(step, ROW_STEP), const(part * TILE_ELEMENTS))
        found: list[Stmt] = [TileLoad(4, "rows", where, const(STEP))]
        if row_tiles > 1:
            found.append(TileLoad(5, "rows", apply("add", where, Var("apart")), const(STEP)))
        return found

    def load_panel(part: int) -> list[Stmt]:
        where = total(scaled(step, PANEL_STEP), const(part * 2 * TILE_ELEMENTS))
        second = total(where, const(TILE_ELEMENTS))
        return [TileLoad(6, "panel", where, const(STEP)), TileLoad(7, "panel", second, const(STEP))]

    products: list[Stmt] = [TileMultiply(2 * i + j, 4 + i, 6 + j) for i in range(row_tiles) for j in range(2)]
    stages = [
        [*load_rows(0), *load_panel(2), *products],
        [*load_panel(1), *products],
        [*load_rows(1), *products],
        [*load_panel(0), *products],
        [*load_rows(2), *products],
    ]
    small: list[Stmt] = [Let(Var("pair"), total(Var("first"), scaled(step, pairs)))] if pairs else []
    splits = [statement for number in range(pairs) for statement in _split_pair(total(Var("pair"), const(number)))]
    for number, stage in enumerate(stages):
        begin, end = (len(splits) * n // len(stages) for n in (number, number + 1))
        small += [*stage, *splits[begin:end]]
    leading = [*load_rows(0), *load_panel(0), *products]
    body: list[Stmt] = _watch_in() if pairs else []
    body += [TileZero(2 * i + j) for i in range(row_tiles) for j in range(2)]
    body.append(For(step, Var("steps"), LoopKind.SERIAL, tuple(small)))
    body += _watch_out() if pairs else []
    body.append(For(step, Var("steps"), LoopKind.SERIAL, tuple(leading)))
    for i in range(row_tiles):
        for j in range(2):
            body.append(TileStore(2 * i + j, "block", const(i * TILE * BLOCK + j * TILE), const(BLOCK)))
    buffers: tuple[Buffer, ...] = (
        Buffer("rows", bfloat16, None),
        Buffer("panel", bfloat16, None),
        Buffer("block", float32, None, writable=True),
    )
    scalars: tuple[Var, ...] = (Var("steps"), Var("apart"))
    name = f"tiles_{row_tiles}x2"
    if pairs:
        name, buffers, scalars = f"{name}_split{pairs}", (*buffers, *_split_buffers()), (*scalars, Var("first"))
    return Kernel(name, buffers, scalars, tuple(body))


@lru_cache(maxsize=1)
def add_block_kernel() -> Kernel:
    """Return the kernel (sums, block) that adds a block; scalar ``rows``."""
    body = []
    for half in range(2):
        at = total(scaled(Var("row"), BLOCK), const(half * TILE), _LANE)
        value = apply("add", Load("sums", at, float32), Load("block", at, float32))
        body.append(_vector(TILE, Store("sums", at, value)))
    loop = For(Var("row"), Var("rows"), LoopKind.SERIAL, tuple(body))
    buffers = (Buffer("sums", float32, None, writable=True), Buffer("block", float32, None))
    return Kernel("add_block", buffers, (Var("rows"),), (loop,))


@lru_cache(maxsize=2)
def least_of_block_kernel(ragged: bool) -> Kernel:
    """Return the kernel (block, least) that keeps the least magnitudes of a block's elements, per lane.

    Scalars: ``rows``, then ``columns`` if ragged.
    """
    loops = []
    for half in range(2):
        column = total(_LANE, const(half * TILE))
        value = apply("abs", Load("block", total(scaled(Var("row"), BLOCK), column), float32))
        store = Store("least", _LANE, apply("minimum", Load("least", _LANE, float32), value))
        active = apply("less", column, Var("columns")) if ragged else None
        loops.append(_vector(TILE, store, active=active))
    buffers = (Buffer("block", float32, None), Buffer("least", float32, None, writable=True))
    scalars = (Var("rows"), Var("columns")) if ragged else (Var("rows"),)
    body = (For(Var("row"), Var("rows"), LoopKind.SERIAL, tuple(loops)),)
    return Kernel("least_of_block" + ("_ragged" if ragged else ""), buffers, scalars, body)


@dataclass(frozen=True)
class BlockEpilogue:
    """What is stored for a block: ``body`` over the accumulator and reads, each (dtype, how lanes lie)."""

    body: Expr
    out_dtype: DType
    reads: tuple[tuple[DType, str], ...]
    ragged: bool


def epilogue_scalars(spec: BlockEpilogue) -> list[str]:
    """Name the kernel's scalars: rows, strides of rows and where needed of lanes, then the columns if ragged."""
    names = ["rows", "out_row"]
    for number, (_, lanes) in enumerate(spec.reads):
        names.append(f"e{number}_row")
        if lanes == LANES_STRIDE:
            names.append(f"e{number}_lane")
    return [*names, "columns"] if spec.ragged else names


@lru_cache(maxsize=1024)
def epilogue_block_kernel(spec: BlockEpilogue) -> Kernel:
    """Return the kernel (block, out, epilogue inputs) that applies the epilogue to a block and stores it."""
    row = Var("row")
    loops: list[Stmt] = []
    for half in range(2):
        column = total(_LANE, const(half * TILE))
        value = Load("block", total(scaled(row, BLOCK), column), float32)
        mapping: dict[Expr, Expr] = {Var(ACCUMULATOR, float32): value}
        for number, (dtype, lanes) in enumerate(spec.reads):
            index: Expr = apply("mul", row, Var(f"e{number}_row"))
            if lanes == LANES_UNIT:
                index = apply("add", index, column)
            elif lanes != LANES_NONE:
                index = apply("add", index, apply("mul", column, Var(f"e{number}_lane")))
            mapping[Var(f"read{number}", dtype)] = Load(f"e{number}", index, dtype)
        result = cast(substitute(spec.body, mapping), spec.out_dtype)
        store = Store("out", apply("add", apply("mul", row, Var("out_row")), column), result)
        active = apply("less", column, Var("columns")) if spec.ragged else None
        loops.append(_vector(TILE, store, active=active))
    buffers = [Buffer("block", float32, None), Buffer("out", spec.out_dtype, None, writable=True)]
    buffers += [Buffer(f"e{number}", dtype, None) for number, (dtype, _) in enumerate(spec.reads)]
    scalars = tuple(Var(name) for name in epilogue_scalars(spec))
    body = (For(row, Var("rows"), LoopKind.SERIAL, tuple(loops)),)
    return Kernel("epilogue_block" + ("_ragged" if spec.ragged else ""), tuple(buffers), scalars, body)
