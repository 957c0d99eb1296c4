"""Float32 contractions on AMX in fixed point: weights split once, rows as they come, products of bytes.

A task first splits its rows and learns how much their scales would lose. Where that is too much beside what the
weights' scales lose, or anything is out of range, it multiplies by fused multiply-adds. It must not know other
paths but the loops that it shares with them.
"""

from __future__ import annotations

from dataclasses import replace

from dlc.codegen.amx_micro import BLOCK, BlockEpilogue
from dlc.codegen.contract_analysis import FIRST_READ, OUT, Problem, extent_of, merge
from dlc.codegen.contract_index import ZERO, decode, least, offset, scaled, total
from dlc.codegen.contract_macro import MacroKernel
from dlc.codegen.contract_pack import call_panel_kernel, packed_panels
from dlc.codegen.fixed_blocking import FixedBlocking
from dlc.codegen.fixed_point import (
    COLUMN_STEP_WORDS,
    FACTS,
    LANES,
    MEASURES,
    ROW_STEP_WORDS,
    TILE_WORDS,
    digit_columns_kernel,
    digit_row_kernel,
    judge_rows_kernel,
    measure_row_kernel,
)
from dlc.codegen.fixed_tiles import (
    LINE,
    LONG,
    LONG_ROWS,
    SHORT,
    SUMS,
    fixed_epilogue_kernel,
    fixed_tiles_kernel,
)
from dlc.codegen.microkernel import LANES_NONE, LANES_STRIDE, LANES_UNIT
from dlc.codegen.target import CpuTarget
from dlc.ir.expr import Expr, Horizontal, Load, Var, apply, const, select
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
    Space,
    Stmt,
    Store,
    TileConfigure,
    TileRelease,
    Window,
)
from dlc.ir.types import float32, int32, uint32

MOST_LOSS = 0.25
"""Bound of the losses of rows and columns together (see ``fixed_point``): just below what a chain loses."""
LAST_DIGIT = 2.0**-16
"""What a fourth digit leaves of a loss of three."""
FEWEST_TERMS = 12
"""Of fewer terms that count all may be small beside their scales."""
REFUSED = LONG + 1
ROW_FACTS, COLUMN_FACTS = ("multipliers", "loss", "few", "thin"), ("zeros", "lost", "scarce")
FIXED_DTYPES = (uint32, uint32, float32)
"""Of the words, the last digits and the facts of weights."""
_LANE = Var("lane")


def _vector(*body: Stmt) -> For:
    return For(_LANE, const(LANES), LoopKind.VECTOR, body)


def _reset(*names: str) -> list[Stmt]:
    return [_vector(Store(name, _LANE, const(0.0, float32))) for name in names]


def _most(name: str) -> Expr:
    return Horizontal("maximum", name, ZERO, LANES, float32)


class AmxFixedKernel(MacroKernel):
    """Builds the entry kernel.

    Its buffers are the row operand; words, last digits and facts of weights; the weights themselves; the output and
    the epilogue's inputs.
    """

    def __init__(self, problem: Problem, found: FixedBlocking) -> None:
        super().__init__(problem, found.fallback)
        self.found = found
        self.row_words = found.steps * ROW_STEP_WORDS
        self.column_words = found.steps * COLUMN_STEP_WORDS
        """Words of a tile of rows, and of columns but for their last digits."""
        self.tiles = -(-self.column.extent // LANES)
        """Tiles of columns of a group."""

    def build(self, name: str, panel_size: int) -> Kernel:
        """Return the kernel; ``panel_size`` is the number of elements of the weights."""
        kernel = super().build(name, panel_size)
        rows, *others = kernel.buffers
        groups = extent_of(self.groups)
        split = (
            Buffer("words", uint32, groups * self.tiles * self.column_words),
            Buffer("last", uint32, groups * self.tiles * self.found.steps * TILE_WORDS),
            Buffer("facts", float32, groups * self.tiles * FACTS * LANES),
        )
        return replace(kernel, buffers=(rows, *split, *others))

    def _task(self) -> list[Stmt]:
        blocking, found = self.blocking, self.found
        tiles = -(-blocking.tile_count // blocking.row_chunks)
        panels = -(-blocking.panels // blocking.column_chunks)
        first, group_rows = scaled(Var("rc"), tiles), found.group_tiles * LANES
        first_tile = scaled(Var("cc"), 2 * panels)
        group: tuple[Stmt, ...] = (
            Let(Var("row_first"), total(Var("chunk_first"), scaled(Var("rg"), group_rows))),
            If(
                apply("less", Var("row_first"), Var("chunk_end")),
                (
                    Let(Var("row_end"), least(total(Var("row_first"), const(group_rows)), Var("chunk_end"))),
                    Let(Var("row_tiles"), self._tiles_of(apply("sub", Var("row_end"), Var("row_first")))),
                    *self._split_rows(),
                    *self._multiply(),
                ),
            ),
        )
        locals_ = (*COLUMN_FACTS, *ROW_FACTS, *(f"row_{name}" for name in MEASURES))
        statements: list[Stmt] = [
            *(Alloc(Buffer(name, float32, LANES, Space.LOCAL)) for name in locals_),
            Alloc(Buffer("verdicts", int32, found.group_tiles, Space.LOCAL)),
            Alloc(Buffer("worst", int32, 1, Space.LOCAL)),
            Alloc(Buffer("row_words", uint32, found.group_tiles * self.row_words, Space.LOCAL)),
            Alloc(Buffer("row_scales", float32, group_rows, Space.LOCAL)),
            Alloc(Buffer("sums", int32, SUMS, Space.LOCAL)),
            Store("worst", ZERO, const(SHORT, int32)),
            Let(Var("chunk_first"), self._start(first)),
            Let(Var("chunk_end"), self._start(least(total(first, const(tiles)), blocking.tile_count))),
            Let(Var("first_tile"), first_tile),
            Let(Var("tile_end"), least(total(first_tile, const(2 * panels)), self.tiles)),
            *self._judge_columns(),
            TileConfigure((LANES,) * 8),
            For(Var("rg"), const(-(-found.chunk_rows // group_rows)), LoopKind.SERIAL, group),
            TileRelease(),
        ]
        refused = apply("equal", Load("worst", ZERO, int32), const(REFUSED, int32))
        return [*statements, If(refused, tuple(MacroKernel(self.problem, found.fallback)._task()))]

    def _start(self, tile: Expr) -> Expr:
        """Return the first row of a tile of the fallback, by which tasks are cut."""
        split = self.blocking.tiles
        first = scaled(tile, split.size)
        return total(first, least(tile, split.extra)) if split.extra else first

    @staticmethod
    def _tiles_of(rows: Expr) -> Expr:
        return apply("floor_div", total(rows, const(LANES - 1)), const(LANES))

    # -- what scales lose --------------------------------------------------------------------------

    def _judge_columns(self) -> list[Stmt]:
        """Find the worst facts of the task's columns."""
        at = scaled(self._column_tile(total(Var("first_tile"), Var("t"))), FACTS * LANES)
        keeps = []
        for number, name in enumerate(COLUMN_FACTS, 1):
            fact = Load("facts", total(at, const(number * LANES), _LANE), float32)
            keeps.append(_vector(Accumulate(name, _LANE, "maximum", fact)))
        count = apply("sub", Var("tile_end"), Var("first_tile"))
        return [
            *_reset(*COLUMN_FACTS),
            For(Var("t"), count, LoopKind.SERIAL, tuple(keeps)),
            *(Let(Var(f"most_{name}", float32), _most(name)) for name in COLUMN_FACTS),
        ]

    def _judge_rows(self) -> list[Stmt]:
        """Choose the precision of a tile of rows: the shortest that is expected to lose less than a chain."""
        rows = apply("mul", Var("most_zeros", float32), _most("loss"))
        columns = apply("mul", Var("most_lost", float32), _most("few"))
        losses = [apply("add", rows, columns)]
        losses.append(apply("add", apply("mul", rows, const(LAST_DIGIT, float32)), columns))
        losses.append(apply("mul", losses[0], const(LAST_DIGIT, float32)))
        verdict: Expr = const(REFUSED, int32)
        for precision, loss in reversed(list(enumerate(losses))):
            enough = apply("less_equal", loss, const(MOST_LOSS, float32))
            verdict = select(enough, const(precision, int32), verdict)
        thin = apply("mul", Var("most_scarce", float32), _most("thin"))
        verdict = select(apply("less_equal", thin, const(1 / FEWEST_TERMS, float32)), verdict, const(REFUSED, int32))
        return [
            Store("verdicts", Var("t"), verdict),
            Store("worst", ZERO, apply("maximum", Load("worst", ZERO, int32), Load("verdicts", Var("t"), int32))),
        ]

    def _split_rows(self) -> list[Stmt]:
        """Split the group's rows; those that fill up the last tile repeat the last row."""
        tensor = self.problem.row_operand
        row = least(total(Var("row_first"), scaled(Var("t"), LANES), Var("i")), apply("sub", Var("row_end"), const(1)))
        where = total(self._group_offset(tensor), self._row_offset(Var("row"), tensor))
        source = Window("rows", where)
        levels = tuple(const(v) for level in self.found.levels for v in (level.extent, level.strides[tensor]))
        lets, count = Let(Var("row"), row), len(self.found.levels)
        measures = tuple(Window(f"row_{name}", Var("i")) for name in MEASURES)
        words = Window("row_words", total(scaled(Var("t"), self.row_words), scaled(Var("i"), LANES)))
        splitting = Call(digit_row_kernel(count), (source, Window("multipliers", Var("i")), words), levels)
        judged = (Window("row_scales", scaled(Var("t"), LANES)), *(Window(name, ZERO) for name in ROW_FACTS))
        names = (f"row_{name}" for name in MEASURES)
        tile = (
            For(
                Var("i"),
                const(LANES),
                LoopKind.SERIAL,
                (lets, Call(measure_row_kernel(count), (source, *measures), levels)),
            ),
            Call(judge_rows_kernel(), (*(Window(name, ZERO) for name in names), *judged), ()),
            *self._judge_rows(),
            If(self._possible("t"), (For(Var("i"), const(LANES), LoopKind.SERIAL, (lets, splitting)),)),
        )
        return [For(Var("t"), Var("row_tiles"), LoopKind.SERIAL, tile)]

    @staticmethod
    def _possible(tile: str) -> Expr:
        """Whether a tile of rows is multiplied in fixed point."""
        return apply("less", Load("verdicts", Var(tile), int32), const(REFUSED, int32))

    # -- products ----------------------------------------------------------------------------------

    def _multiply(self) -> list[Stmt]:
        """Tile by tile of columns, all tiles of rows; meanwhile the next columns come nearer."""
        lines, steps = self.column_words // LINE, self.found.steps
        asks = scaled(Var("row_tiles"), steps)
        tile = self._column_tile(Var("column_tile"))
        windows = (
            Window("row_words", scaled(Var("b"), self.row_words)),
            Window("words", scaled(tile, self.column_words)),
            Window("last", scaled(tile, steps * TILE_WORDS)),
            Window("sums", ZERO),
        )
        ahead = total(apply("mul", Var("b"), scaled(Var("lines"), LINE * steps)), const(self.column_words))
        short, long_rows, long = (
            Call(fixed_tiles_kernel(precision), windows, (const(steps), ahead, Var("lines")))
            for precision in (SHORT, LONG_ROWS, LONG)
        )
        verdict = Load("verdicts", Var("b"), int32)
        longer = If(apply("equal", verdict, const(LONG_ROWS, int32)), (long_rows,), (long,))
        block: tuple[Stmt, ...] = (
            Let(Var("block_first"), total(Var("row_first"), scaled(Var("b"), LANES))),
            Let(Var("block_rows"), least(apply("sub", Var("row_end"), Var("block_first")), LANES)),
            If(apply("equal", verdict, const(SHORT, int32)), (short,), (longer,)),
            *self._store(),
        )
        columns: tuple[Stmt, ...] = (
            Let(Var("column_tile"), total(Var("first_tile"), Var("c"))),
            For(Var("b"), Var("row_tiles"), LoopKind.SERIAL, (If(self._possible("b"), block),)),
        )
        return [
            Let(Var("lines"), apply("floor_div", total(asks, const(lines - 1)), asks)),
            For(Var("c"), apply("sub", Var("tile_end"), Var("first_tile")), LoopKind.SERIAL, columns),
        ]

    def _store(self) -> list[Stmt]:
        full, tail = divmod(self.column.extent, LANES)
        whole = self._epilogue_calls(False)
        if not tail:
            return whole
        return [If(apply("less", Var("column_tile"), const(full)), tuple(whole), tuple(self._epilogue_calls(True)))]

    def _epilogue_calls(self, ragged: bool) -> list[Stmt]:
        """Apply the epilogue to a tile: at once where rows have one stride in every tensor, else row by row."""
        problem = self.problem
        tensors = self.tensors[1:]
        merged = {tensor: merge(problem.rows, [tensor]) for tensor in tensors}
        at_once = all(len(axes) == 1 for axes in merged.values())
        row = Var("block_first") if at_once else total(Var("block_first"), Var("r"))
        local = total(scaled(Var("b"), LANES), ZERO if at_once else Var("r"))
        windows = [
            Window("sums", ZERO if at_once else scaled(Var("r"), LANES)),
            Window("row_scales", local),
            Window("facts", scaled(self._column_tile(Var("column_tile")), FACTS * LANES)),
        ]
        column = scaled(Var("column_tile"), LANES)
        scalars: list[Expr] = [Var("block_rows") if at_once else const(1)]
        reads = []
        for tensor in tensors:
            stride = self.column.strides[tensor]
            constant = problem.reads[tensor - FIRST_READ].offset if tensor != OUT else 0
            base = total(
                self._group_offset(tensor), self._row_offset(row, tensor), scaled(column, stride), const(constant)
            )
            windows.append(Window("out" if tensor == OUT else f"e{tensor - FIRST_READ}", base))
            scalars.append(const(merged[tensor][0].strides[tensor] if at_once else 0))
            if tensor != OUT:
                lanes = LANES_NONE if stride == 0 else LANES_UNIT if stride == 1 else LANES_STRIDE
                reads.append((problem.reads[tensor - FIRST_READ].dtype, lanes))
                if lanes == LANES_STRIDE:
                    scalars.append(const(stride))
        if ragged:
            scalars.append(const(self.column.extent % LANES))
        spec = BlockEpilogue(problem.body, problem.out_dtype, tuple(reads), ragged)
        call = Call(fixed_epilogue_kernel(spec), tuple(windows), tuple(scalars))
        return [call] if at_once else [For(Var("r"), Var("block_rows"), LoopKind.SERIAL, (call,))]

    # -- addresses ---------------------------------------------------------------------------------

    def _column_tile(self, tile: Expr) -> Expr:
        """Number a group's tile of columns among all."""
        return total(scaled(Var("group"), self.tiles), tile) if extent_of(self.groups) > 1 else tile

    def _group_offset(self, tensor: int) -> Expr:
        return offset(decode(Var("group"), [a.extent for a in self.groups]), self.groups, tensor)

    def _row_offset(self, row: Expr, tensor: int) -> Expr:
        axes = merge(self.problem.rows, [tensor])
        return offset(decode(row, [a.extent for a in axes]), axes, tensor)


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
