"""The outer-product micro-kernel: a register tile of rows x vectors, accumulated over the depth.

Row offsets, strides and depths are run-time scalars, so that one kernel serves
every contraction of its structure. It must not know how tiles are scheduled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract.depth_levels import level_scalars, nested_levels
from dlc.ir.cost import cost
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select, substitute
from dlc.ir.kernel import (
    Accumulate,
    Alloc,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Prefetch,
    Space,
    Stmt,
    Store,
    Window,
)
from dlc.ir.types import DType, uint16, uint32

ROWS_NONE, ROWS_STRIDE, ROWS_TABLE = "none", "stride", "table"
LONG_EPILOGUE = 16
"""An epilogue that costs more per element (see ``ir.cost``) is not unrolled over the tile's rows."""
LINE_BYTES = 64
"""A cache line: packed panels begin with one."""
LANES_NONE, LANES_UNIT, LANES_STRIDE = "none", "unit", "stride"


@dataclass(frozen=True)
class ReadForm:
    """How an epilogue tensor is read in a tile.

    ``rows``: the same for all rows, one stride, or an offset per row; ``lanes``: one element for all columns,
    contiguous, or strided. ``overwritten``: the tensor may be the output's own memory.
    """

    dtype: DType
    rows: str
    lanes: str
    overwritten: bool = False


@dataclass(frozen=True)
class MicroSpec:
    """The structure of a micro-kernel: everything that changes its code.

    ``panel_width`` is the number of elements per depth step of a packed panel, 0 where the panel operand is read
    in place with a stride per depth level. ``spread`` says that the row operand, too, has one element per column
    (channel-wise products) instead of one for all columns. ``masked`` limits the last vector to ``active``
    columns. ``joint`` packed panels, ``panel_stride`` apart, are multiplied at once. With ``early`` the lines of
    the output are asked for a whole row tile early: short depths are done before they arrive. ``prefetch`` asks
    for the panel that many depth steps early, with ``crossing`` also for the line that its last vector may reach
    into; ``ahead`` for a part of another panel, ``ahead`` elements from this one and ``ahead_step`` further per
    depth step. ``blocked`` adds the scalars ``first`` and ``last``: unless first, the tile continues from the
    output; unless last, it is stored without epilogue.
    ``adding``: the tile, without epilogue, is added to what the output holds.
    With ``pairs`` operands are bfloat16, each depth step of the innermost level takes two neighbours of every row
    and panels hold words of two; with ``odd`` its last step takes one.
    """

    dtype: DType
    lanes: int
    rows: int
    vectors: int
    levels: int
    panel_width: int
    out_rows: str
    out_dtype: DType
    body: Expr
    reads: tuple[ReadForm, ...] = ()
    spread: bool = False
    masked: bool = False
    joint: int = 1
    early: bool = False
    prefetch: int = 0
    crossing: bool = False
    ahead: bool = False
    blocked: bool = False
    adding: bool = False
    pairs: bool = False
    odd: bool = False

    @property
    def name(self) -> str:
        """A readable name; the kernel's text is its identity."""
        kind = "lanewise" if self.spread else "pairs" if self.pairs else "outer"
        parts = [kind, str(self.dtype), f"{self.rows}x{self.vectors}x{self.lanes}", f"d{self.levels}"]
        if not self.panel_width:
            parts.append("direct")
        parts += [word for word in ("masked", "blocked", "adding", "odd") if getattr(self, word)]
        return "_".join(parts)


@dataclass(frozen=True)
class Level:
    """One depth loop at run time: its extent and the elements that row and panel operands move per iteration."""

    extent: Expr
    row_stride: Expr
    panel_stride: Expr


@dataclass(frozen=True)
class Place:
    """Where a tile lies in a tensor: a window and the offsets of its rows.

    ``rows`` are the offsets per row for ROWS_TABLE, one stride for ROWS_STRIDE, empty for ROWS_NONE.
    ``lane_stride`` matters for LANES_STRIDE only.
    """

    window: Window
    rows: tuple[Expr, ...] = ()
    lane_stride: Expr | None = None


def _names(prefix: str, mode: str, rows: int) -> list[str]:
    if mode == ROWS_TABLE:
        return [f"{prefix}{i}" for i in range(rows)]
    return [f"{prefix}_stride"] if mode == ROWS_STRIDE else []


def _row(prefix: str, mode: str, row: int | Var) -> Expr:
    """Return the offset of tile row ``row``."""
    if mode == ROWS_TABLE:
        assert isinstance(row, int)
        return Var(f"{prefix}{row}")
    if mode == ROWS_STRIDE and row != 0:
        return apply("mul", Var(f"{prefix}_stride"), const(row) if isinstance(row, int) else row)
    return const(0)


def _scalars(spec: MicroSpec) -> list[str]:
    names = [f"a{i}" for i in range(spec.rows)]
    names += _names("c", spec.out_rows, spec.rows)
    for level in range(spec.levels):
        names += [f"n{level}", f"da{level}"]
        if not spec.panel_width:
            names.append(f"db{level}")
    for number, form in enumerate(spec.reads):
        names += _names(f"e{number}_", form.rows, spec.rows)
        if form.lanes == LANES_STRIDE:
            names.append(f"e{number}_lane")
    if spec.joint > 1:
        names.append("panel_stride")
    if spec.ahead:
        names += ["ahead", "ahead_step"]
    if spec.masked:
        names.append("active")
    if spec.blocked:
        names += ["first", "last"]
    return names


def call_micro_kernel(
    spec: MicroSpec,
    row_window: Window,
    row_offsets: tuple[Expr, ...],
    panel: Window,
    out: Place,
    levels: tuple[Level, ...],
    reads: tuple[Place, ...] = (),
    active: Expr | None = None,
    flags: tuple[Expr, Expr] | None = None,
    ahead: tuple[Expr, ...] = (),
    panel_stride: Expr | None = None,
) -> Call:
    """Return the call of the micro-kernel on one tile; operands in the order of its parameters."""
    values: list[Expr] = [*row_offsets, *out.rows]
    for level in levels:
        values += [level.extent, level.row_stride]
        if not spec.panel_width:
            values.append(level.panel_stride)
    for form, place in zip(spec.reads, reads, strict=True):
        values += place.rows
        if form.lanes == LANES_STRIDE:
            assert place.lane_stride is not None
            values.append(place.lane_stride)
    if spec.joint > 1:
        assert panel_stride is not None
        values.append(panel_stride)
    values += ahead
    if spec.masked:
        assert active is not None
        values.append(active)
    if spec.blocked:
        assert flags is not None
        values += flags
    windows = (row_window, panel, out.window, *(place.window for place in reads))
    return Call(micro_kernel(spec), windows, tuple(values))


@lru_cache(maxsize=4096)
def micro_kernel(spec: MicroSpec) -> Kernel:
    """Return the kernel: buffers rows, panel, out, the epilogue's; scalars as ``call_micro_kernel`` orders them."""
    size = spec.rows * spec.vectors * spec.lanes
    row_dtype, panel_dtype = (uint16, uint32) if spec.pairs else (spec.dtype, spec.dtype)
    buffers = [Buffer("rows", row_dtype, None), Buffer("panel", panel_dtype, None)]
    buffers.append(Buffer("out", spec.out_dtype, None, writable=True))
    for number, form in enumerate(spec.reads):
        buffers.append(Buffer(f"e{number}", form.dtype, None, aliases="out" if form.overwritten else None))
    body: list[Stmt] = [Alloc(Buffer("acc", spec.dtype, size, Space.LOCAL))]
    zero = _each_vector(spec, lambda i, v: (Store("acc", _slot(spec, i, v), const(0, spec.dtype)),))
    if spec.blocked:
        old = _each_vector(
            spec, lambda i, v: (Store("acc", _slot(spec, i, v), Load("out", _out_index(spec, i, v), spec.out_dtype)),)
        )
        body += zero if spec.masked else []
        is_first = apply("not_equal", Var("first"), const(0))
        body.append(If(is_first, tuple(zero), tuple(old)))
    else:
        body += zero
    body += _prefetch_tiles(spec)
    body += _depth_loops(spec)
    final = _adding(spec) if spec.adding else _epilogue(spec)
    if spec.blocked:
        plain = _each_vector(
            spec,
            lambda i, v: (Store("out", _out_index(spec, i, v), Load("acc", _slot(spec, i, v), spec.dtype)),),
            spec.masked,
        )
        body.append(If(apply("not_equal", Var("last"), const(0)), tuple(final), tuple(plain)))
    else:
        body += final
    return Kernel(spec.name, tuple(buffers), tuple(Var(name) for name in _scalars(spec)), tuple(body))


def _prefetch_tiles(spec: MicroSpec) -> list[Stmt]:
    """Ask early for the lines that the epilogue will touch."""
    wanted = [("out", "c", spec.out_rows)]
    for number, form in enumerate(spec.reads):
        if form.rows != ROWS_NONE and form.lanes == LANES_UNIT:
            wanted.append((f"e{number}", f"e{number}_", form.rows))
    statements: list[Stmt] = []
    for buffer, prefix, mode in wanted:
        if mode == ROWS_STRIDE:
            row = Var("row")
            below = apply("add", row, const(spec.rows)) if spec.early else row
            lines = _prefetch_row(spec, buffer, apply("mul", Var(f"{prefix}_stride"), below))
            statements.append(For(row, const(spec.rows), LoopKind.SERIAL, lines))
        else:
            offsets = [_row(prefix, mode, number) for number in range(spec.rows)]
            statements += [line for offset in offsets for line in _prefetch_row(spec, buffer, offset)]
    return statements


def _prefetch_row(spec: MicroSpec, buffer: str, offset: Expr) -> tuple[Stmt, ...]:
    """Ask for the lines of the row that begins at ``offset``."""
    places = [apply("add", offset, const(vector * spec.lanes)) for vector in range(spec.vectors)]
    return tuple(Prefetch(buffer, place) for place in places)


def _slot(spec: MicroSpec, row: int, vector: int) -> Expr:
    return apply("add", const((row * spec.vectors + vector) * spec.lanes), Var("lane"))


def _column(spec: MicroSpec, vector: int) -> Expr:
    return apply("add", const(vector * spec.lanes), Var("lane")) if vector else Var("lane")


def _out_index(spec: MicroSpec, row: int | Var, vector: int) -> Expr:
    return apply("add", _row("c", spec.out_rows, row), _column(spec, vector))


def _each_vector(
    spec: MicroSpec, statements: Callable[[int, int], tuple[Stmt, ...]], masked: bool | None = None
) -> list[Stmt]:
    """Return a vector loop per row over its accumulators; where the kernel is masked, the last one's is limited."""
    last_limited = spec.masked if masked is None else masked
    whole = spec.vectors - 1 if last_limited else spec.vectors
    loops: list[Stmt] = []
    for row in range(spec.rows):
        body = tuple(s for vector in range(whole) for s in statements(row, vector))
        loops += _vector_loops(spec, body)
        if last_limited:
            loops += _vector_loops(spec, statements(row, whole), apply("less", Var("lane"), Var("active")))
    return loops


def _vector_loops(spec: MicroSpec, body: tuple[Stmt, ...], active: Expr | None = None) -> list[Stmt]:
    """Return the loop over lanes, if there is anything to do in it."""
    return [For(Var("lane"), const(spec.lanes), LoopKind.VECTOR, body, active)] if body else []


def _depth_loops(spec: MicroSpec) -> list[Stmt]:
    """Return the loops over the depth, outermost level first; ``ka`` and ``kb`` count elements of the operands."""
    packed = spec.panel_width > 0
    body = _step(spec)
    last = _step(spec, half=True) if spec.odd else []
    for level in reversed(range(spec.levels)):
        k = Var(f"k{level}")
        row: Expr = apply("mul", k, Var(f"da{level}"))
        panel: Expr = k if packed else apply("mul", k, Var(f"db{level}"))
        if level:
            row = apply("add", Var(f"ka{level - 1}"), row)
            before: Expr = Var(f"kb{level - 1}")
            panel = apply("add", apply("mul", before, Var(f"n{level}")) if packed else before, panel)
        lets: list[Stmt] = [Let(Var(f"ka{level}"), row), Let(Var(f"kb{level}"), panel)]
        if last:
            whole = apply("sub", Var(f"n{level}"), const(1))
            half = (Let(k, whole), *lets, *last)
            body = [
                For(k, whole, LoopKind.SERIAL, (*lets, *body)),
                For(Var("half"), const(1), LoopKind.SERIAL, half),
            ]
            last = []
        else:
            body = [For(k, Var(f"n{level}"), LoopKind.SERIAL, (*lets, *body))]
    return body


def _pair(at: Expr, half: bool) -> Expr:
    """Return the word of two neighbours of a row, or of one and zero."""
    first = cast(Load("rows", at, uint16), uint32)
    if half:
        return first
    second = cast(Load("rows", apply("add", at, const(1)), uint16), uint32)
    return apply("bit_or", first, apply("shift_left", second, const(16, uint32)))


def _step(spec: MicroSpec, half: bool = False) -> list[Stmt]:
    """Return one depth step: load the panel's vectors, then multiply each row into its accumulators."""
    panel_dtype = uint32 if spec.pairs else spec.dtype
    deepest = spec.levels - 1
    row_depth, panel_depth = Var(f"ka{deepest}"), Var(f"kb{deepest}")
    base: Expr = apply("mul", panel_depth, const(spec.panel_width)) if spec.panel_width else panel_depth
    statements: list[Stmt] = [Alloc(Buffer("b", panel_dtype, spec.vectors * spec.lanes, Space.LOCAL))]
    for vector in range(spec.vectors):
        column = _column(spec, vector)
        load = Store(
            "b", column, Load("panel", apply("add", _panel_place(spec, base, vector), Var("lane")), panel_dtype)
        )
        limited = spec.masked and not spec.panel_width and vector == spec.vectors - 1
        if limited:
            empty = Store("b", column, const(0, spec.dtype))
            statements.append(For(Var("lane"), const(spec.lanes), LoopKind.VECTOR, (empty,)))
        active = apply("less", Var("lane"), Var("active")) if limited else None
        statements.append(For(Var("lane"), const(spec.lanes), LoopKind.VECTOR, (load,), active))
    if spec.prefetch:
        step: Expr = const(spec.panel_width) if spec.panel_width else Var(f"db{deepest}")
        for vector in _line_starts(spec, panel_dtype.itemsize):
            later = apply("add", _panel_place(spec, base, vector), apply("mul", step, const(spec.prefetch)))
            statements.append(Prefetch("panel", later))
        if spec.crossing:
            statements.append(Prefetch("panel", apply("add", later, const(spec.lanes - 1))))
    if spec.ahead:
        later = apply("add", Var("ahead"), apply("mul", panel_depth, Var("ahead_step")))
        statements.append(Prefetch("panel", later, level=2))
    for row in range(spec.rows):
        at = apply("add", Var(f"a{row}"), row_depth)
        if not spec.spread:
            value = _pair(at, half) if spec.pairs else Load("rows", at, spec.dtype)
            statements.append(Let(Var(f"x{row}", panel_dtype), value))
        updates: list[Stmt] = []
        for vector in range(spec.vectors):
            column = _column(spec, vector)
            x: Expr = Load("rows", apply("add", at, column), spec.dtype) if spec.spread else Var(f"x{row}", panel_dtype)
            product = apply("mul", x, Load("b", column, panel_dtype))
            updates.append(Accumulate("acc", _slot(spec, row, vector), "fma_pairs" if spec.pairs else "fma", product))
        masked = (updates.pop(),) if spec.spread and spec.masked else ()
        statements += _vector_loops(spec, tuple(updates))
        statements += _vector_loops(spec, masked, apply("less", Var("lane"), Var("active")))
    return statements


def _line_starts(spec: MicroSpec, itemsize: int) -> list[int]:
    """Return the vectors of a depth step with which a cache line begins; all, where lines may begin elsewhere."""
    inside = spec.vectors // spec.joint
    aligned = spec.panel_width > 0 and spec.panel_width * itemsize % LINE_BYTES == 0
    starts = [vector % inside * spec.lanes * itemsize % LINE_BYTES == 0 for vector in range(spec.vectors)]
    return [vector for vector, begins in enumerate(starts) if begins or not aligned]


def _panel_place(spec: MicroSpec, base: Expr, vector: int) -> Expr:
    """Return where a vector of the depth step at ``base`` begins."""
    panel, inside = divmod(vector, spec.vectors // spec.joint)
    place = apply("add", base, const(inside * spec.lanes)) if inside else base
    return apply("add", place, apply("mul", Var("panel_stride"), const(panel))) if panel else place


def _epilogue(spec: MicroSpec) -> list[Stmt]:
    """Apply the epilogue to all accumulators: in registers, or where its code is long, in a loop over rows."""
    modes = {spec.out_rows, *(form.rows for form in spec.reads)}
    if cost([spec.body]) <= LONG_EPILOGUE or ROWS_TABLE in modes or spec.rows == 1:
        return _each_vector(
            spec,
            lambda i, v: (
                Store("out", _out_index(spec, i, v), _value(spec, i, v, Load("acc", _slot(spec, i, v), spec.dtype))),
            ),
            spec.masked,
        )
    tile = Buffer("tile", spec.dtype, spec.rows * spec.vectors * spec.lanes, Space.LOCAL)
    spill = _each_vector(
        spec, lambda i, v: (Store("tile", _slot(spec, i, v), Load("acc", _slot(spec, i, v), spec.dtype)),), False
    )
    row = Var("row")
    loops: list[Stmt] = []
    for vector in range(spec.vectors):
        slot = apply("add", apply("mul", row, const(spec.vectors * spec.lanes)), _column(spec, vector))
        value = _value(spec, row, vector, Load("tile", slot, spec.dtype))
        store = Store("out", _out_index(spec, row, vector), value)
        limited = spec.masked and vector == spec.vectors - 1
        active = apply("less", Var("lane"), Var("active")) if limited else None
        loops.append(For(Var("lane"), const(spec.lanes), LoopKind.VECTOR, (store,), active))
    return [Alloc(tile), *spill, For(row, const(spec.rows), LoopKind.SERIAL, tuple(loops))]


def _adding(spec: MicroSpec) -> list[Stmt]:
    """Add all accumulators to the output."""
    return _each_vector(
        spec,
        lambda i, v: (Accumulate("out", _out_index(spec, i, v), "add", Load("acc", _slot(spec, i, v), spec.dtype)),),
    )


def _value(spec: MicroSpec, row: int | Var, vector: int, accumulated: Expr) -> Expr:
    """Return the epilogue for one accumulator."""
    mapping: dict[Expr, Expr] = {Var(ACCUMULATOR, spec.dtype): accumulated}
    for number, form in enumerate(spec.reads):
        index = _row(f"e{number}_", form.rows, row)
        if form.lanes == LANES_UNIT:
            index = apply("add", index, _column(spec, vector))
        elif form.lanes == LANES_STRIDE:
            index = apply("add", index, apply("mul", _column(spec, vector), Var(f"e{number}_lane")))
        mapping[Var(f"read{number}", form.dtype)] = Load(f"e{number}", index, form.dtype)
    return cast(substitute(spec.body, mapping), spec.out_dtype)


@lru_cache(maxsize=256)
def stage_kernel(dtype: DType, lanes: int, tiles: int, pitch: int, levels: int) -> Kernel:
    """Return the kernel (source, target) that gathers neighbouring row tiles, contiguous at each depth step.

    A depth step of all ``tiles`` is read together, so that lines that lie pages apart are fetched once. Scalars:
    extent and stride of each depth level in the source; where each tile begins, and how many of ``pitch`` elements it
    may read; ``apart``, the elements from one tile to the next in the target. There each has ``pitch`` per step: what
    is not read is zero.
    """
    at, step = Var(f"at{levels}"), apply("mul", Var(f"step{levels}"), const(pitch))
    body: list[Stmt] = []
    for tile in range(tiles):
        source, target = apply("add", at, Var(f"begin{tile}")), apply("mul", Var("apart"), const(tile))
        for first in range(0, pitch, lanes):
            lane = apply("add", const(first), Var("lane")) if first else Var("lane")
            inside = apply("less", lane, Var(f"count{tile}"))
            value = select(inside, Load("source", apply("add", source, lane), dtype), const(0, dtype))
            store = Store("target", apply("add", apply("add", target, step), lane), value)
            body.append(For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,)))
    buffers = (Buffer("source", dtype, None), Buffer("target", dtype, None, writable=True))
    parts = [Var(f"{name}{tile}") for tile in range(tiles) for name in ("begin", "count")]
    scalars = (*level_scalars(levels), *parts, Var("apart"))
    return Kernel(f"stage_{dtype}_{tiles}x{pitch}_d{levels}", buffers, scalars, tuple(nested_levels(body, levels)))
