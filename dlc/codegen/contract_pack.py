"""Packs a panel operand: [batch][outer columns][panel][depth][width], the last panel padded with zeros.

A kernel of its own that reads one operand only, so that weights are packed once.
It must not know how the packed panels are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlc.codegen.contract_analysis import LoopAxis, Problem, extent_of
from dlc.codegen.contract_index import decode, offset, scaled, total
from dlc.ir.expr import Expr, Load, Var, apply, const, select
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Stmt, Store
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
    """Return the kernel (source, packed): tasks over groups, panels and blocks of depth."""
    groups, depth = packed.groups, packed.depth_count
    rows_per_task = min(depth, max(1, ELEMENTS_PER_TASK // packed.width))
    blocks = -(-depth // rows_per_task)
    group, panel, block = Var("group"), Var("panel"), Var("block")
    first = scaled(block, rows_per_task)
    count: Expr = const(rows_per_task)
    if depth % rows_per_task:
        count = apply("minimum", count, apply("sub", const(depth), first))
    position = total(first, Var("k"))
    source = total(
        offset(decode(group, [axis.extent for axis in groups]), groups, packed.tensor),
        scaled(panel, packed.width * packed.column.strides[packed.tensor]),
        offset(decode(position, [axis.extent for axis in packed.depth]), packed.depth, packed.tensor),
    )
    target = total(scaled(group, packed.group_size), scaled(panel, packed.panel_size), scaled(position, packed.width))
    body: tuple[Stmt, ...] = (For(Var("k"), count, LoopKind.SERIAL, tuple(_row(packed, panel, source, target))),)
    for var, extent in ((block, blocks), (panel, packed.panels), (group, extent_of(groups))):
        body = (For(var, const(extent), LoopKind.PARALLEL, body),)
    buffers = (
        Buffer("source", packed.dtype, packed.source_size),
        Buffer("packed", packed.dtype, packed.size, writable=True),
    )
    return Kernel(name, buffers, (), body)


def _row(packed: PackedPanels, panel: Expr, source: Expr, target: Expr) -> Sequence[Stmt]:
    """Copy one depth position of a panel; columns past the end become zero."""
    stride = packed.column.strides[packed.tensor]
    statements: list[Stmt] = []
    for vector in range(packed.width // packed.lanes):
        lane = total(Var("lane"), const(vector * packed.lanes))
        value: Expr = Load("source", total(source, scaled(lane, stride)), packed.dtype)
        if packed.column.extent % packed.width:
            column = total(scaled(panel, packed.width), lane)
            value = select(apply("less", column, const(packed.column.extent)), value, const(0, packed.dtype))
        store = Store("packed", total(target, lane), value)
        statements.append(For(Var("lane"), const(packed.lanes), LoopKind.VECTOR, (store,)))
    return statements
