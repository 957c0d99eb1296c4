"""Packs a panel operand: [batch][outer columns][panel][depth][width], the last panel padded with zeros.

A kernel of its own that reads one operand only, so that weights are packed once.
It must not know how the packed panels are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract_analysis import LoopAxis, Problem, extent_of
from dlc.codegen.contract_index import decode, offset, scaled, total
from dlc.ir.expr import Expr, Load, Var, apply, const, select
from dlc.ir.kernel import Buffer, Call, For, If, Kernel, Let, LoopKind, Stmt, Store, Window
from dlc.ir.types import DType

ELEMENTS_PER_TASK = 1 << 14


@dataclass(frozen=True)
class PackedPanels:
    """The packed form of a panel operand."""

    dtype: DType
    groups: tuple[LoopAxis, ...]
    """Batch axes, then outer column axes; each group of panels is packed on its own."""
    column: LoopAxis
    depth: tuple[LoopAxis, ...]
    tensor: int
    source_size: int
    width: int
    lanes: int

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
        dtype=problem.dtype,
        groups=(*problem.batch, *problem.columns[:-1]),
        column=problem.columns[-1],
        depth=problem.depth,
        tensor=tensor,
        source_size=problem.sizes[tensor],
        width=width,
        lanes=lanes,
    )


def pack_kernel(packed: PackedPanels, name: str) -> Kernel:
    """Return the kernel (source, packed): tasks over groups, panels and blocks of the outermost depth level."""
    groups, depth = packed.groups, packed.depth or (LoopAxis(1, packed.column.strides),)
    inner = extent_of(depth[1:])
    block_extent = max(1, min(depth[0].extent, ELEMENTS_PER_TASK // (packed.width * inner)))
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
        Buffer("source", packed.dtype, packed.source_size),
        Buffer("packed", packed.dtype, packed.size, writable=True),
    )
    return Kernel(name, buffers, (), body)


def call_panel_kernel(
    packed: PackedPanels, windows: tuple[Window, Window], levels: Sequence[tuple[Expr, Expr]], columns: int
) -> Call:
    """Return the call that packs the depth ``levels`` (extent, stride) of one panel with ``columns`` real columns."""
    stride = packed.column.strides[packed.tensor]
    kernel = panel_kernel(
        packed.dtype, packed.lanes, packed.width // packed.lanes, stride == 1, columns < packed.width, len(levels)
    )
    scalars = [value for level in levels for value in level]
    if stride != 1:
        scalars.append(const(stride))
    if columns < packed.width:
        scalars.append(const(columns))
    return Call(kernel, windows, tuple(scalars))


@lru_cache(maxsize=256)
def panel_kernel(dtype: DType, lanes: int, vectors: int, contiguous: bool, ragged: bool, levels: int) -> Kernel:
    """Return the kernel (source, packed) that packs one panel; columns from ``columns`` on become zero.

    Scalars: extent and stride of each depth level; the column stride unless ``contiguous``; ``columns`` if ragged.
    """
    width = vectors * lanes
    body: list[Stmt] = []
    for vector in range(vectors):
        column = total(Var("lane"), const(vector * lanes))
        source = column if contiguous else apply("mul", column, Var("stride"))
        value: Expr = Load("source", apply("add", Var(f"at{levels}"), source), dtype)
        if ragged:
            value = select(apply("less", column, Var("columns")), value, const(0, dtype))
        store = Store("packed", total(scaled(Var(f"step{levels}"), width), column), value)
        body.append(For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,)))
    for level in reversed(range(levels)):
        k = Var(f"k{level}")
        step = apply("add", apply("mul", Var(f"step{level}"), Var(f"n{level}")), k)
        at = apply("add", Var(f"at{level}"), apply("mul", k, Var(f"s{level}")))
        lets = [Let(Var(f"at{level + 1}"), at), Let(Var(f"step{level + 1}"), step)]
        body = [For(k, Var(f"n{level}"), LoopKind.SERIAL, (*lets, *body))]
    body = [Let(Var("at0"), const(0)), Let(Var("step0"), const(0)), *body]
    names = [name for level in range(levels) for name in (f"n{level}", f"s{level}")]
    names += [] if contiguous else ["stride"]
    names += ["columns"] if ragged else []
    buffers = (Buffer("source", dtype, None), Buffer("packed", dtype, None, writable=True))
    words = ["panel", str(dtype), f"{vectors}x{lanes}", f"d{levels}"]
    words += [word for word, used in (("strided", not contiguous), ("ragged", ragged)) if used]
    return Kernel("_".join(words), buffers, tuple(Var(name) for name in names), tuple(body))
