"""Schedules pointwise nests that read across the order in which they write.

Square tiles are copied into local memory along the reads, transposed in
registers, and used along the writes: every cache line is used whole, whatever
the strides. It must not know ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from dlc.codegen.loops.bindings import names, place, write_all
from dlc.codegen.loops.blocks import LANE, chunk_loop, parallel, serial, split_tasks, vector_lanes, wanted_tasks
from dlc.codegen.loops.nest import axis_simplifier, index_roots
from dlc.codegen.loops.square import turn
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis
from dlc.ir.cost import cost, distinct
from dlc.ir.expr import Apply, Expr, Load, Var, apply, children, const, substitute
from dlc.ir.kernel import Alloc, Buffer, For, Let, LoopKind, Prefetch, Space, Stmt, Store, Window
from dlc.ir.simplify import Affine, Simplifier, depends_on

_SHORTEST = 8
_ENOUGH = 16
"""A run of at least this many elements fills the side of a tile."""
READ = Var("read_run")
"""Position along the axes that the crossing reads run along."""
WRITE = Var("write_run")
"""Position along the axes that the writes run along."""
READ_BLOCK, WRITE_BLOCK, TASK = Var("read_block"), Var("write_block"), Var("task")
STRIP, STRIP_BLOCKS = Var("strip"), 16
"""Blocks of writes to a strip, through which all blocks of reads pass: the rows of more would lie in so many pages that
their translations are looked up anew for every line."""
READS_AHEAD, WRITES_AHEAD = 2, 1
"""How many blocks ahead along the reads' run lines to read and to write are asked for: each is in a row, and often in
a page, of its own."""


@dataclass(frozen=True)
class Crossing:
    """``loads`` run along ``reads`` (fastest axis first) while writes run along ``writes``; ``rest`` is outside."""

    loads: tuple[Load, ...]
    reads: tuple[Axis, ...]
    writes: tuple[Axis, ...]
    rest: tuple[Axis, ...]

    @property
    def read_length(self) -> int:
        return prod(a.extent for a in self.reads)

    @property
    def write_length(self) -> int:
        return prod(a.extent for a in self.writes)


def find_crossing(axes: Sequence[Axis], stores: Sequence[Expr], values: Sequence[Expr]) -> Crossing | None:
    """Return how reads cross the writes of a normalised nest; None where they do not, or in several ways."""
    if len(axes) < 2:
        return None
    inner = axes[-1]
    simplify = axis_simplifier(axes)
    written = simplify.affine(stores[0])
    if any(simplify.affine(s) != written for s in stores) or written.coefficient(inner.var) != 1:
        return None
    crossing: list[tuple[Load, Affine]] = []
    for load in (e for e in distinct(values) if isinstance(e, Load)):
        form = simplify.affine(load.index)
        if form.coefficient(inner.var) > 1 and all(isinstance(atom, Var) for atom, _ in form.terms):
            crossing.append((load, form))
    if not crossing or _behind_selection(values, {load for load, _ in crossing}):
        return None
    loads = tuple(dict.fromkeys(load for load, _ in crossing))
    reads, writes = _sides(axes, crossing[0][1], written, inner)
    if any(_sides(axes, form, written, inner) != (reads, writes) for _, form in crossing[1:]):
        return None
    rest = tuple(a for a in axes if a not in reads and a not in writes)
    found = Crossing(loads, reads, writes, rest)
    if min(found.read_length, found.write_length) < _SHORTEST or not _runs_straight(found, values, simplify):
        return None
    return found


def _sides(
    axes: Sequence[Axis], read: Affine, written: Affine, inner: Axis
) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """Return the axes, fastest first, that run through contiguous memory of reads and of writes."""
    sides: list[list[Axis]] = [[], [inner]]
    forms = (read, written)
    while True:
        lengths = [prod(a.extent for a in side) for side in sides]
        for side in sorted((0, 1), key=lambda n: (bool(sides[n]), lengths[n])):
            if lengths[side] >= _ENOUGH:
                continue
            taken = (*sides[0], *sides[1])
            following = [a for a in axes if a not in taken and forms[side].coefficient(a.var) == lengths[side]]
            if following:
                sides[side].append(following[0])
                break
        else:
            return tuple(sides[0]), tuple(sides[1])


def _runs_straight(crossing: Crossing, values: Sequence[Expr], simplify: Simplifier) -> bool:
    """Tell whether all other indices see the axes of the writes as one contiguous run, or not at all."""
    if len(crossing.writes) == 1:
        return True
    variables = {a.var for a in crossing.writes}
    for root in index_roots(values):
        if any(root == load.index for load in crossing.loads):
            continue
        form = simplify.affine(root)
        if any(not isinstance(atom, Var) and depends_on(atom, variables) for atom, _ in form.terms):
            return False
        stride = form.coefficient(crossing.writes[0].var)
        for axis in crossing.writes:
            if form.coefficient(axis.var) != stride:
                return False
            stride *= axis.extent
    return True


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
    itemsize = max(max(load.dtype.itemsize for load in crossing.loads), 4)
    lanes = vector_lanes(target, [itemsize], _ENOUGH)
    strips = -(-crossing.write_length // (STRIP_BLOCKS * lanes))
    axes = (*crossing.rest, Axis(STRIP, strips), Axis(READ_BLOCK, -(-crossing.read_length // lanes)))
    tile = _tile_loops(crossing, targets, stores, values, lanes)
    points = prod(a.extent for a in crossing.rest) * crossing.read_length * crossing.write_length
    wanted = wanted_tasks(points * (cost(values) + 2), threads)
    split = split_tasks([a.extent for a in axes], [1] * len(axes), wanted, threads)
    body: list[Stmt] = tile
    for axis in reversed(axes[split.full + (1 if split.tasks > 1 else 0) :]):
        body = [serial(axis, body)]
    if split.tasks > 1:
        body = chunk_loop(axes[split.full], TASK, split, body)
    return parallel(axes, split, TASK, body)


def _tile_loops(
    crossing: Crossing, targets: Sequence[str], stores: Sequence[Expr], values: Sequence[Expr], lanes: int
) -> list[Stmt]:
    """Return the loop over a strip's tiles along the writes for one block of the reads' run."""
    first, begin = apply("mul", READ_BLOCK, const(lanes)), apply("mul", WRITE_BLOCK, const(lanes))
    reads_left = apply("sub", const(crossing.read_length), first)
    writes_left = apply("sub", const(crossing.write_length), begin)
    run = Var("run")
    mapping: dict[Expr, Expr] = {a.var: const(0) for a in crossing.writes}
    mapping[crossing.writes[0].var] = WRITE
    fill: list[Stmt] = []
    squares: list[Stmt] = []
    for number, load in enumerate(crossing.loads):
        straight, turned = f"rows{number}", f"columns{number}"
        for name in (straight, turned):
            fill.append(Alloc(Buffer(name, load.dtype, lanes * lanes, Space.LOCAL, writable=True)))
        into, out_of = Window(turned, const(0)), Window(straight, const(0))
        squares.append(turn(load.dtype, lanes, into, const(lanes), out_of, const(lanes)))
        mapping[load] = Load(turned, apply("add", apply("mul", run, const(lanes)), LANE), load.dtype)
    fill += [_copy_rows(crossing, first, begin, lanes), *squares]

    levels = {WRITE: 2, LANE: 2, READ: 1, run: 1, **{a.var: 1 for a in crossing.reads}}
    lets, placed = place([_along(v, mapping) for v in values], levels, 2, names())
    indices = [_along(s, mapping) for s in stores]
    writes = write_all(list(zip(targets, indices, placed, strict=True)), names("w"))
    inside = None if crossing.write_length % lanes == 0 else apply("less", LANE, writes_left)
    write_body = (Let(WRITE, apply("add", begin, LANE)), *lets[2], *writes)
    write = For(LANE, const(lanes), LoopKind.VECTOR, write_body, active=inside)
    runs = const(lanes) if crossing.read_length % lanes == 0 else apply("minimum", const(lanes), reads_left)
    lets_of_run = (Let(READ, apply("add", first, run)), *coordinates(crossing.reads, READ), *lets[1])
    use = For(run, runs, LoopKind.SERIAL, (*lets_of_run, write))
    ask: list[Stmt] = []
    if crossing.read_length > WRITES_AHEAD * lanes and not any(isinstance(e, Load) for e in distinct(indices)):
        asks = (Prefetch(n, substitute(index, {WRITE: begin})) for n, index in zip(targets, indices, strict=True))
        later = Let(READ, apply("add", first, apply("add", run, const(WRITES_AHEAD * lanes))))
        ask = [For(run, const(lanes), LoopKind.SERIAL, (later, *coordinates(crossing.reads, READ), *asks))]
    blocks, before = -(-crossing.write_length // lanes), apply("mul", STRIP, const(STRIP_BLOCKS))
    count: Expr = const(min(blocks, STRIP_BLOCKS))
    if blocks > STRIP_BLOCKS and blocks % STRIP_BLOCKS:
        count = apply("minimum", count, apply("sub", const(blocks), before))
    block = Let(WRITE_BLOCK, apply("add", before, Var("block")))
    return [*lets[0], For(Var("block"), count, LoopKind.SERIAL, (block, *ask, *fill, use))]


def _along(expr: Expr, mapping: dict[Expr, Expr]) -> Expr:
    """Replace crossing loads by what the tile holds, then the axes of the writes by the position along them."""
    loads: dict[Expr, Expr] = {k: v for k, v in mapping.items() if isinstance(k, Load)}
    axes: dict[Expr, Expr] = {k: v for k, v in mapping.items() if not isinstance(k, Load)}
    return substitute(substitute(expr, loads), axes)


def _copy_rows(crossing: Crossing, first: Expr, begin: Expr, lanes: int) -> Stmt:
    """Return the loop that copies the rows of a tile along the reads, and asks for those of a later one."""
    row = Var("row")
    inside_reads = {a.var for a in crossing.reads}
    simplify = axis_simplifier((*crossing.rest, *crossing.reads, *crossing.writes))
    copies: list[Stmt] = [Let(READ, apply("add", first, LANE))]
    asks: list[Stmt] = []
    later: dict[Expr, Expr] = {READ: apply("add", first, const(READS_AHEAD * lanes))}
    for number, load in enumerate(crossing.loads):
        form = simplify.affine(load.index)
        along = Affine((*(t for t in form.terms if t[0] not in inside_reads), (READ, 1)), form.constant)
        index = apply("add", apply("mul", row, const(lanes)), LANE)
        there = simplify.build(along)
        copies.append(Store(f"rows{number}", index, Load(load.buffer, there, load.dtype)))
        if crossing.read_length > READS_AHEAD * lanes:
            asks.append(Prefetch(load.buffer, substitute(there, later)))
    reads_left = apply("sub", const(crossing.read_length), first)
    inside = None if crossing.read_length % lanes == 0 else apply("less", LANE, reads_left)
    copy = For(LANE, const(lanes), LoopKind.VECTOR, tuple(copies), active=inside)
    rows: Expr = const(lanes)
    if crossing.write_length % lanes:
        rows = apply("minimum", rows, apply("sub", const(crossing.write_length), begin))
    lets = (Let(WRITE, apply("add", begin, row)), *coordinates(crossing.writes, WRITE))
    return For(row, rows, LoopKind.SERIAL, (*lets, copy, *asks))


def coordinates(axes: Sequence[Axis], position: Var) -> list[Stmt]:
    """Return the Lets of ``axes``, fastest first, from the ``position`` along them."""
    lets: list[Stmt] = []
    stride = 1
    for number, axis in enumerate(axes):
        index: Expr = position if stride == 1 else apply("floor_div", position, const(stride))
        if number + 1 < len(axes):
            index = apply("floor_mod", index, const(axis.extent))
        lets.append(Let(axis.var, index))
        stride *= axis.extent
    return lets
