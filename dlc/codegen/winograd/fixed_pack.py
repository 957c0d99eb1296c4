"""Splits transformed weights for fixed point: tiles of 16 columns in the order [panel][point][half of the panel].

Kernels of their own, run once for constants. They must not know how the digits are multiplied.
"""

from __future__ import annotations

from dlc.codegen.contract.index import scaled, total
from dlc.codegen.tiles.fixed_point import COLUMN_STEP_WORDS, FACTS, LANES, TILE_WORDS, digit_columns_kernel
from dlc.codegen.tiles.fixed_refusals import COLUMN_FACTS
from dlc.codegen.winograd.blocking import WinogradBlocking
from dlc.codegen.winograd.pack import packed_size
from dlc.codegen.winograd.problem import POINTS, WinogradProblem
from dlc.ir.expr import Expr, Load, Var, apply, const
from dlc.ir.kernel import Buffer, Call, For, Kernel, LoopKind, Stmt, Store, Window
from dlc.ir.types import float32, uint32

HALVES = 2
"""Tiles of columns of a panel."""
WORST_SIZE = POINTS * len(COLUMN_FACTS)


def digit_buffers(blocking: WinogradBlocking, writable: bool = False) -> list[Buffer]:
    """Return the buffers of words, last digits and facts of all tiles of columns."""
    tiles = blocking.panels * POINTS * HALVES
    words = blocking.steps * COLUMN_STEP_WORDS
    sizes = {"words": tiles * words, "last": tiles * blocking.steps * TILE_WORDS, "facts": tiles * FACTS * LANES}
    dtypes = {"words": uint32, "last": uint32, "facts": float32}
    return [Buffer(name, dtypes[name], size, writable=writable) for name, size in sizes.items()]


def worst_place(point: Expr, number: int) -> Expr:
    """Return where the worst of ``COLUMN_FACTS[number]`` among the columns of a point lies."""
    return total(scaled(point, len(COLUMN_FACTS)), const(number))


def split_weights_kernel(found: WinogradProblem, blocking: WinogradBlocking, name: str) -> Kernel:
    """Return the entry kernel (packed, words, last, facts) over what ``transform_weights_kernel`` packs."""
    channels, steps, tile = found.channels.extent, blocking.steps, blocking.tile
    place = total(scaled(Var("panel"), POINTS), Var("point"))

    def split(half: int) -> Stmt:
        column_tile = total(scaled(place, HALVES), const(half))
        windows = (
            Window("packed", total(scaled(place, channels * tile.width), const(half * LANES))),
            Window("words", scaled(column_tile, steps * COLUMN_STEP_WORDS)),
            Window("last", scaled(column_tile, steps * TILE_WORDS)),
            Window("facts", scaled(column_tile, FACTS * LANES)),
        )
        return Call(digit_columns_kernel(tile.width), windows, (const(1), const(channels)))

    body: tuple[Stmt, ...] = tuple(split(half) for half in range(HALVES))
    for variable, extent in (("point", POINTS), ("panel", blocking.panels)):
        body = (For(Var(variable), const(extent), LoopKind.PARALLEL, body),)
    packed = Buffer("packed", float32, packed_size(found, tile))
    return Kernel(name, (packed, *digit_buffers(blocking, writable=True)), (), body)


def worst_columns_kernel(blocking: WinogradBlocking, name: str) -> Kernel:
    """Return the entry kernel (facts, worst) that finds the worst facts among the columns of each point."""
    facts = digit_buffers(blocking)[2]
    point = Var("point")
    column_tile = total(scaled(total(scaled(Var("panel"), POINTS), point), HALVES), Var("half"))
    keep: list[Stmt] = []
    clear: list[Stmt] = []
    for number, fact in enumerate(COLUMN_FACTS):
        worst = worst_place(point, number)
        new = Load("facts", total(scaled(column_tile, FACTS * LANES), const(LANES + fact)), float32)
        clear.append(Store("worst", worst, const(0.0, float32)))
        keep.append(Store("worst", worst, apply("maximum", Load("worst", worst, float32), new)))
    loop: Stmt = For(Var("half"), const(HALVES), LoopKind.SERIAL, tuple(keep))
    loop = For(Var("panel"), const(blocking.panels), LoopKind.SERIAL, (loop,))
    body = For(point, const(POINTS), LoopKind.SERIAL, (*clear, loop))
    task = For(Var("task"), const(1), LoopKind.PARALLEL, (body,))
    return Kernel(name, (facts, Buffer("worst", float32, WORST_SIZE, writable=True)), (), (task,))
