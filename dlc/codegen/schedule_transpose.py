"""Schedules pointwise nests that read across the order in which they write.

Square tiles are copied into local memory along the reads, then read back along
the writes: every cache line is used whole, whatever the strides. It must not
know ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from dlc.codegen.bindings import names, place, write_all
from dlc.codegen.loop_nest import axis_simplifier
from dlc.codegen.schedule_loops import LANE, chunk_loop, parallel, serial, split_tasks, vector_lanes, wanted_tasks
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.cost import cost, distinct
from dlc.ir.expr import Apply, Expr, Load, Var, apply, children, const, substitute
from dlc.ir.kernel import Alloc, Buffer, For, Let, LoopKind, Space, Stmt, Store
from dlc.ir.simplify import Affine

_SHORTEST = 8
RUN = Var("run")
"""Position along the axes that the reads run along."""
BLOCK = Var("run_block")
TASK = Var("task")


@dataclass(frozen=True)
class Crossing:
    """``loads`` run along ``chain`` (fastest axis first) while writes run along ``inner``; ``rest`` is outside."""

    loads: tuple[Load, ...]
    chain: tuple[Axis, ...]
    inner: Axis
    rest: tuple[Axis, ...]

    @property
    def length(self) -> int:
        return prod(a.extent for a in self.chain)


def find_crossing(axes: Sequence[Axis], stores: Sequence[Expr], values: Sequence[Expr]) -> Crossing | None:
    """Return how reads cross the writes of a normalised nest; None where they do not, or in several ways."""
    if len(axes) < 2 or axes[-1].extent < _SHORTEST:
        return None
    inner = axes[-1]
    simplify = axis_simplifier(axes)
    if any(simplify.affine(s).coefficient(inner.var) != 1 for s in stores):
        return None
    crossing: list[tuple[Load, Affine]] = []
    for load in (e for e in distinct(values) if isinstance(e, Load)):
        form = simplify.affine(load.index)
        if form.coefficient(inner.var) > 1 and all(isinstance(atom, Var) for atom, _ in form.terms):
            crossing.append((load, form))
    if not crossing or _behind_selection(values, {load for load, _ in crossing}):
        return None
    chain = _chain(axes[:-1], crossing[0][1], inner)
    if any(_chain(axes[:-1], form, inner) != chain for _, form in crossing[1:]):
        return None
    found = Crossing(
        tuple(dict.fromkeys(load for load, _ in crossing)), chain, inner, tuple(a for a in axes[:-1] if a not in chain)
    )
    return found if found.length >= _SHORTEST else None


def _chain(axes: Sequence[Axis], form: Affine, inner: Axis) -> tuple[Axis, ...]:
    """Return the axes, fastest first, that together run through contiguous memory."""
    chain: list[Axis] = []
    stride = 1
    while True:
        following = [a for a in axes if a not in chain and form.coefficient(a.var) == stride]
        if not following or stride >= form.coefficient(inner.var):
            return tuple(chain)
        chain.append(following[0])
        stride *= following[0].extent


def _behind_selection(values: Sequence[Expr], loads: set[Load]) -> bool:
    for expr in distinct(values):
        if isinstance(expr, Apply) and expr.op == "select":
            if any(e in loads for branch in children(expr)[1:] for e in distinct([branch]) if isinstance(e, Load)):
                return True
    return False


def crossing_body(
    crossing: Crossing,
    targets: Sequence[str],
    stores: Sequence[Expr],
    values: Sequence[Expr],
    target: CpuTarget,
    threads: int,
) -> tuple[Stmt, ...]:
    """Return the kernel body that writes ``values`` to ``targets`` at ``stores`` tile by tile."""
    itemsize = max(load.dtype.itemsize for load in crossing.loads)
    lanes = vector_lanes(target, [max(itemsize, 4)], max(crossing.inner.extent, 16))
    blocks = Axis(BLOCK, -(-crossing.length // lanes))
    axes = (*crossing.rest, blocks)
    tile = _tile_loops(crossing, targets, stores, values, lanes)
    work = prod(a.extent for a in (*crossing.rest, crossing.inner)) * crossing.length * (cost(values) + 2)
    split = split_tasks([a.extent for a in axes], [1] * len(axes), wanted_tasks(work, threads), threads)
    body: list[Stmt] = tile
    for axis in reversed(axes[split.full + (1 if split.tasks > 1 else 0) :]):
        body = [serial(axis, body)]
    if split.tasks > 1:
        body = chunk_loop(axes[split.full], TASK, split, body)
    return parallel(axes, split, TASK, body)


def _tile_loops(
    crossing: Crossing, targets: Sequence[str], stores: Sequence[Expr], values: Sequence[Expr], lanes: int
) -> list[Stmt]:
    """Return the loop over tiles along ``inner`` for one block of the reads' run."""
    inner, length = crossing.inner, crossing.length
    pitch = lanes + 1  # so that a column of the tile does not fall on one bank
    first = apply("mul", BLOCK, const(lanes))
    column = Var(f"{inner.var.name}_b")
    begin = apply("mul", column, const(lanes))
    runs_left = apply("sub", const(length), first)
    rows_left = apply("sub", const(inner.extent), begin)
    runs = const(lanes) if length % lanes == 0 else apply("minimum", const(lanes), runs_left)
    rows = const(lanes) if inner.extent % lanes == 0 else apply("minimum", const(lanes), rows_left)
    coordinates = _coordinates(crossing)

    allocs: list[Stmt] = []
    copies: list[Stmt] = [Let(RUN, apply("add", first, LANE))]
    mapping: dict[Expr, Expr] = {}
    row, run = Var(f"{inner.var.name}_k"), Var("run_k")
    simplify = axis_simplifier((*crossing.rest, *crossing.chain, inner))
    for number, load in enumerate(crossing.loads):
        tile = Buffer(f"tile{number}", load.dtype, lanes * pitch, Space.LOCAL, writable=True)
        allocs.append(Alloc(tile))
        form = simplify.affine(load.index)
        chain = {a.var for a in crossing.chain}
        straight = Affine((*(t for t in form.terms if t[0] not in chain), (RUN, 1)), form.constant)
        index = apply("add", apply("mul", row, const(pitch)), LANE)
        copies.append(Store(tile.name, index, Load(load.buffer, simplify.build(straight), load.dtype)))
        mapping[load] = Load(tile.name, apply("add", apply("mul", LANE, const(pitch)), run), load.dtype)
    inside = None if length % lanes == 0 else apply("less", LANE, runs_left)
    copy = For(LANE, const(lanes), LoopKind.VECTOR, tuple(copies), active=inside)
    copy_rows = For(row, rows, LoopKind.SERIAL, (Let(inner.var, apply("add", begin, row)), copy))

    levels = {inner.var: 2, LANE: 2, RUN: 1, run: 1, **{a.var: 1 for a in crossing.chain}}
    lets, placed = place([substitute(v, mapping) for v in values], levels, 2, names())
    writes = write_all(list(zip(targets, stores, placed, strict=True)), names("w"))
    inside = None if inner.extent % lanes == 0 else apply("less", LANE, rows_left)
    write_body = (Let(inner.var, apply("add", begin, LANE)), *lets[2], *writes)
    write = For(LANE, const(lanes), LoopKind.VECTOR, write_body, active=inside)
    write_runs = For(run, runs, LoopKind.SERIAL, (Let(RUN, apply("add", first, run)), *coordinates, *lets[1], write))
    columns = -(-inner.extent // lanes)
    return [*lets[0], serial(Axis(column, columns), [*allocs, copy_rows, write_runs])]


def _coordinates(crossing: Crossing) -> list[Stmt]:
    """Return the axes of the run from the position along it."""
    lets: list[Stmt] = []
    stride = 1
    for number, axis in enumerate(crossing.chain):
        index: Expr = RUN if stride == 1 else apply("floor_div", RUN, const(stride))
        if number + 1 < len(crossing.chain):
            index = apply("floor_mod", index, const(axis.extent))
        lets.append(Let(axis.var, index))
        stride *= axis.extent
    return lets
