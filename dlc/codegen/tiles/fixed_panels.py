"""Splits the panel operand of a contraction for fixed point: a kernel of its own, for constants run once.

It must not know how the digits are multiplied.
"""

from __future__ import annotations

from dlc.codegen.contract.analysis import Problem, extent_of
from dlc.codegen.contract.index import ZERO, decode, offset, scaled, total
from dlc.codegen.contract.pack import call_panel_kernel, packed_panels
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.fixed_blocking import FixedBlocking
from dlc.codegen.tiles.fixed_point import COLUMN_STEP_WORDS, FACTS, LANES, TILE_WORDS, digit_columns_kernel
from dlc.codegen.tiles.sizes import BLOCK
from dlc.ir.expr import Var, apply, const
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, LoopKind, Space, Stmt, Window
from dlc.ir.types import float32, uint32

FIXED_DTYPES = (uint32, uint32, float32)
"""Of the words, the last digits and the facts of columns."""


def fixed_sizes(problem: Problem, found: FixedBlocking) -> tuple[int, int, int]:
    """Return the numbers of words, of words of last digits and of facts of the weights."""
    tiles = problem.batch_count * extent_of(problem.columns[:-1]) * -(-problem.columns[-1].extent // LANES)
    return tiles * found.steps * COLUMN_STEP_WORDS, tiles * found.steps * TILE_WORDS, tiles * FACTS * LANES


def fixed_weights_kernel(problem: Problem, found: FixedBlocking, target: CpuTarget, name: str) -> Kernel:
    """Return the entry kernel (weights, words, last digits, facts): tasks over groups and panels."""
    packed = packed_panels(problem, BLOCK, target.lanes(4))
    tiles = -(-packed.column.extent // LANES)
    groups = extent_of(packed.groups)
    group, panel = Var("group"), Var("panel")
    source = total(
        offset(decode(group, [axis.extent for axis in packed.groups]), packed.groups, packed.tensor),
        scaled(panel, BLOCK * packed.column.strides[packed.tensor]),
    )
    levels = [(const(a.extent), const(a.strides[packed.tensor])) for a in packed.depth]
    scalars = (const(found.runs), const(found.levels[-1].extent))

    def split(half: int) -> Stmt:
        tile = total(scaled(group, tiles), scaled(panel, 2), const(half))
        windows = (
            Window("panel", const(half * LANES)),
            Window("words", scaled(tile, found.steps * COLUMN_STEP_WORDS)),
            Window("last", scaled(tile, found.steps * TILE_WORDS)),
            Window("facts", scaled(tile, FACTS * LANES)),
        )
        return Call(digit_columns_kernel(BLOCK), windows, scalars)

    def whole(columns: int) -> tuple[Stmt, ...]:
        windows = (Window("source", source), Window("panel", ZERO))
        pack = call_panel_kernel(packed, windows, levels, columns)
        return (pack, *(split(half) for half in range(-(-columns // LANES))))

    full, tail = divmod(packed.column.extent, BLOCK)
    body: tuple[Stmt, ...] = whole(BLOCK) if full else whole(tail)
    if tail and full:
        body = (If(apply("less", panel, const(full)), body, whole(tail)),)
    body = (Alloc(Buffer("panel", float32, packed.panel_size, Space.LOCAL)), *body)
    for var, extent in ((panel, packed.panels), (group, groups)):
        body = (For(var, const(extent), LoopKind.PARALLEL, body),)
    names = ("words", "last", "facts")
    buffers = (
        Buffer("source", float32, packed.source_size),
        *(
            Buffer(name, dtype, size, writable=True)
            for name, dtype, size in zip(names, FIXED_DTYPES, fixed_sizes(problem, found), strict=True)
        ),
    )
    return Kernel(name, buffers, (), body)
