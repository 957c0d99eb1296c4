"""Packs a panel operand: [batch][outer columns][panel][depth][width], the last panel padded with numbers of no meaning.

A kernel of its own that reads one operand only, so that weights are packed once.
It must not know how the packed panels are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract.analysis import LoopAxis, Problem, extent_of
from dlc.codegen.contract.blocking import CACHE_WAY_BYTES
from dlc.codegen.contract.depth_levels import level_scalars, nested_levels
from dlc.codegen.contract.index import decode, offset, scaled, total
from dlc.codegen.contract.microkernel import LINE_BYTES
from dlc.codegen.contract.pack_pairs import paired_panel_kernel
from dlc.codegen.loops.square import turn
from dlc.ir.expr import Expr, Load, Var, apply, const, select
from dlc.ir.kernel import Buffer, Call, For, If, Kernel, Let, LoopKind, Stmt, Store, Window
from dlc.ir.types import DType

ELEMENTS_PER_TASK = 1 << 14
SIDE_OF_CONFLICTS = 8
"""Columns whose lines share a set and that are turned together."""
UNIT, CROSSED, STRIDED = "unit", "crossed", "strided"
"""How a panel lies in memory: contiguous columns, contiguous depth, or neither."""


@dataclass(frozen=True)
class PackedPanels:
    """The packed form of a panel operand: elements of ``dtype``, or words of pairs of 16-bit ``source`` elements."""

    dtype: DType
    groups: tuple[LoopAxis, ...]
    """Batch axes, then outer column axes; each group of panels is packed on its own."""
    column: LoopAxis
    depth: tuple[LoopAxis, ...]
    tensor: int
    source_size: int
    width: int
    lanes: int
    odd: bool = False
    source: DType | None = None
    """What the operand's buffer holds, where that is not ``dtype``."""

    @property
    def reads(self) -> DType:
        return self.source or self.dtype

    @property
    def unit(self) -> bool:
        """Whether columns are contiguous and packed as they are."""
        return self.reads is self.dtype and self.column.strides[self.tensor] == 1

    @property
    def panels(self) -> int:
        """Panels per group."""
        return -(-self.column.extent // self.width)

    @property
    def depth_count(self) -> int:
        return extent_of(self.depth)

    @property
    def panel_size(self) -> int:
        return self.depth_count * self.width

    @property
    def group_size(self) -> int:
        return self.panels * self.panel_size

    @property
    def size(self) -> int:
        return extent_of(self.groups) * self.group_size


def packed_panels(problem: Problem, width: int, lanes: int) -> PackedPanels:
    """Describe the packed form of the problem's panel operand in panels of ``width`` columns."""
    tensor = problem.panel_operand
    return PackedPanels(
        dtype=problem.packed_dtype,
        groups=(*problem.batch, *problem.columns[:-1]),
        column=problem.columns[-1],
        depth=problem.depth,
        tensor=tensor,
        source_size=problem.sizes[tensor],
        width=width,
        lanes=lanes,
        odd=problem.odd,
        source=problem.panel_dtype,
    )


def pack_kernel(packed: PackedPanels, name: str) -> Kernel:
    """Return the kernel (source, packed): tasks over groups, panels and blocks of the outermost depth level."""
    groups, depth = packed.groups, packed.depth or (LoopAxis(1, packed.column.strides),)
    inner = extent_of(depth[1:])
    block_extent = max(1, min(depth[0].extent, ELEMENTS_PER_TASK // (packed.width * inner)))
    if packed.odd and len(depth) == 1:
        block_extent = depth[0].extent
    blocks = -(-depth[0].extent // block_extent)
    group, panel, block = Var("group"), Var("panel"), Var("block")
    first = scaled(block, block_extent)
    count: Expr = const(block_extent)
    if depth[0].extent % block_extent:
        count = apply("minimum", count, apply("sub", const(depth[0].extent), first))
    source = total(
        offset(decode(group, [axis.extent for axis in groups]), groups, packed.tensor),
        scaled(panel, packed.width * packed.column.strides[packed.tensor]),
        scaled(first, depth[0].strides[packed.tensor]),
    )
    target = total(
        scaled(group, packed.group_size), scaled(panel, packed.panel_size), scaled(first, inner * packed.width)
    )
    levels = [(count, const(depth[0].strides[packed.tensor]))]
    levels += [(const(axis.extent), const(axis.strides[packed.tensor])) for axis in depth[1:]]
    full, tail = divmod(packed.column.extent, packed.width)
    windows = (Window("source", source), Window("packed", target))
    body: tuple[Stmt, ...] = (call_panel_kernel(packed, windows, levels, packed.width),)
    if tail and full:
        ragged = call_panel_kernel(packed, windows, levels, tail)
        body = (If(apply("less", panel, const(full)), body, (ragged,)),)
    elif tail:
        body = (call_panel_kernel(packed, windows, levels, tail),)
    for var, extent in ((block, blocks), (panel, packed.panels), (group, extent_of(groups))):
        body = (For(var, const(extent), LoopKind.PARALLEL, body),)
    buffers = (
        Buffer("source", packed.reads, packed.source_size),
        Buffer("packed", packed.dtype, packed.size, writable=True),
    )
    return Kernel(name, buffers, (), body)


def call_panel_kernel(
    packed: PackedPanels, windows: tuple[Window, Window], levels: Sequence[tuple[Expr, Expr]], columns: int
) -> Call:
    """Return the call that packs the depth ``levels`` (extent, stride) of one panel with ``columns`` real columns."""
    stride = packed.column.strides[packed.tensor]
    ragged = columns < packed.width
    if stride == 1:
        form = UNIT
    elif packed.depth and packed.depth[-1].strides[packed.tensor] == 1:
        form = CROSSED
    else:
        form = STRIDED
    vectors = packed.width // packed.lanes
    if packed.reads is packed.dtype:
        side = _square_side(packed) if form == CROSSED else 0
        kernel = panel_kernel(packed.dtype, packed.lanes, vectors, form, ragged, len(levels), side)
    else:
        kernel = paired_panel_kernel(packed.lanes, vectors, stride == 1, ragged, packed.odd, len(levels))
    scalars = [value for level in levels for value in level]
    if stride != 1:
        scalars.append(const(stride))
    if ragged:
        scalars.append(const(columns))
    return Call(kernel, windows, tuple(scalars))


def _square_side(packed: PackedPanels) -> int:
    """Return how many depth steps of as many columns are turned together.

    As many as a vector has lanes; fewer of a short depth, and where columns lie so far apart that their lines share a
    set of the first-level cache: those that begin within a line are read by two squares, and must stay in between.
    """
    apart = packed.column.strides[packed.tensor] * packed.dtype.itemsize
    beyond = min(apart % CACHE_WAY_BYTES, -apart % CACHE_WAY_BYTES)
    most = SIDE_OF_CONFLICTS if 2 * apart > CACHE_WAY_BYTES and beyond < LINE_BYTES else packed.lanes
    return min(most, packed.lanes, 1 << (packed.depth[-1].extent.bit_length() - 1))


def call_side_by_side(
    packed: PackedPanels, windows: tuple[Window, Window], levels: Sequence[tuple[Expr, Expr]], panels: Expr, apart: int
) -> Call:
    """Return the call that packs ``panels`` whole panels of contiguous columns, ``apart`` depth steps between them."""
    kernel = side_by_side_kernel(packed.dtype, packed.lanes, packed.width // packed.lanes, len(levels))
    return Call(kernel, windows, (*(value for level in levels for value in level), panels, const(apart)))


@lru_cache(maxsize=256)
def side_by_side_kernel(dtype: DType, lanes: int, vectors: int, levels: int) -> Kernel:
    """Return the kernel (source, packed) that packs neighbouring panels: a depth step is one run of the source.

    Panel after panel would touch a page for each of its cache lines, which no hardware prefetches. Scalars: extent
    and stride of each depth level; ``panels``; ``apart``, the depth steps from one packed panel to the next.
    """
    panel = Var("panel")
    lets = (
        Let(Var("at"), total(Var(f"at{levels}"), scaled(panel, vectors * lanes))),
        Let(Var("step"), total(Var(f"step{levels}"), apply("mul", panel, Var("apart")))),
    )
    copies = (*lets, *_depth_step(dtype, lanes, vectors, UNIT, False))
    body = nested_levels([For(panel, Var("panels"), LoopKind.SERIAL, copies)], levels)
    scalars = (*level_scalars(levels), Var("panels"), Var("apart"))
    buffers = (Buffer("source", dtype, None), Buffer("packed", dtype, None, writable=True))
    return Kernel(f"panels_{dtype}_{vectors}x{lanes}_d{levels}", buffers, scalars, tuple(body))


@lru_cache(maxsize=256)
def panel_kernel(dtype: DType, lanes: int, vectors: int, form: str, ragged: bool, levels: int, side: int = 0) -> Kernel:
    """Return the kernel (source, packed) that packs one panel; columns from ``columns`` on are finite if others are.

    Scalars: extent and stride of each depth level; the column stride unless ``form`` is UNIT (columns are
    contiguous); ``columns`` if ragged. CROSSED: the innermost depth is contiguous, squares of ``side`` steps are
    transposed, the last of which may overlap the one before. A few columns run to the end before the next: their
    lines stay in the cache until they are read whole.
    """
    deepest = levels - 1
    extent = Var(f"n{deepest}")
    loops: list[Stmt] = [Let(Var("first"), apply("mul", Var(f"step{deepest}"), extent))]
    rest: Expr = extent
    if form == CROSSED:
        long = apply("greater_equal", extent, const(side))
        count = apply("floor_div", apply("add", extent, const(side - 1)), const(side))
        square = tuple(_square(dtype, side, vectors * lanes, deepest, ragged))
        squares = For(Var("square"), select(long, count, const(0)), LoopKind.SERIAL, square)
        loops.append(For(Var("strip"), const(vectors * lanes // side), LoopKind.SERIAL, (squares,)))
        rest = select(long, const(0), extent)
    k = Var("k")
    lets = (
        Let(Var("at"), apply("add", Var(f"at{deepest}"), apply("mul", k, Var(f"s{deepest}")))),
        Let(Var("step"), apply("add", Var("first"), k)),
    )
    loops.append(For(Var("k"), rest, LoopKind.SERIAL, (*lets, *_depth_step(dtype, lanes, vectors, form, ragged))))
    body = tuple(nested_levels(loops, deepest))
    names = [scalar.name for scalar in level_scalars(levels)]
    names += [] if form == UNIT else ["stride"]
    names += ["columns"] if ragged else []
    buffers = (Buffer("source", dtype, None), Buffer("packed", dtype, None, writable=True))
    crossed = f"{form}{side}" if form == CROSSED else form
    words = ["panel", str(dtype), f"{vectors}x{lanes}", f"d{levels}", crossed, "ragged" if ragged else ""]
    return Kernel("_".join(filter(None, words)), buffers, tuple(Var(name) for name in names), body)


def _depth_step(dtype: DType, lanes: int, vectors: int, form: str, ragged: bool) -> list[Stmt]:
    """Copy the columns of one depth step, from ``at`` in the source to row ``step`` of the panel."""
    statements: list[Stmt] = []
    for vector in range(vectors):
        column = total(Var("lane"), const(vector * lanes))
        source = column if form == UNIT else apply("mul", column, Var("stride"))
        value: Expr = Load("source", apply("add", Var("at"), source), dtype)
        if ragged:
            value = select(apply("less", column, Var("columns")), value, const(0, dtype))
        store = Store("packed", total(scaled(Var("step"), vectors * lanes), column), value)
        statements.append(For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,)))
    return statements


def _square(dtype: DType, side: int, width: int, deepest: int, ragged: bool) -> list[Stmt]:
    """Transpose a ``square`` of ``side`` depth steps and columns in a ``strip`` of a panel of ``width`` columns."""
    k = apply("minimum", scaled(Var("square"), side), apply("sub", Var(f"n{deepest}"), const(side)))
    first = scaled(Var("strip"), side)
    column: Expr = first
    rows: Expr | None = None
    if ragged:
        column = apply("minimum", first, apply("sub", Var("columns"), const(1)))
        rows = apply("sub", Var("columns"), column)
    start = total(Var(f"at{deepest}"), Var("k"), apply("mul", Var("stride"), column))
    into = Window("packed", total(scaled(total(Var("first"), Var("k")), width), first))
    square = turn(dtype, side, into, const(width), Window("source", start), Var("stride"), rows)
    return [Let(Var("k"), k), square]
