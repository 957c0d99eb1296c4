"""The kernel of attention: per task, keys and values packed once, then tile by tile of rows everything in cache.

For a tile of rows the scores go to scratch, are made weights there, row by row, and are multiplied with the values.
Both products run on the contractions' micro-kernels. It must not choose anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

from dlc.codegen.attention.analysis import AttentionProblem, Matrix
from dlc.codegen.attention.blocking import AttentionBlocking
from dlc.codegen.attention.rows import ROW, SCORE_ROW, SCORES, TILE_ROW
from dlc.codegen.contract.analysis import LoopAxis
from dlc.codegen.contract.index import ZERO, decode, least, scaled, total
from dlc.codegen.contract.macro import PREFETCH_STEPS
from dlc.codegen.contract.microkernel import (
    LANES_NONE,
    LANES_STRIDE,
    LANES_UNIT,
    ROWS_NONE,
    ROWS_STRIDE,
    Level,
    MicroSpec,
    Place,
    ReadForm,
    call_micro_kernel,
)
from dlc.codegen.contract.pack import PackedPanels, call_panel_kernel
from dlc.codegen.kernel_builder import used_buffers
from dlc.codegen.rows.along import AlongRows
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Load, Var, apply, const, select, substitute
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, Let, LoopKind, Space, Stmt, Store, Window
from dlc.ir.types import DType

_KEYS, _VALUES, _OUTPUT = "packed_keys", "packed_values", "y0"
_ROW_UNROLL = 4
_SEEN, _SUMMED = Var("seen"), Var("summed")


def attention_kernel(
    problem: AttentionProblem, blocking: AttentionBlocking, types: Sequence[tuple[DType, int]], output_size: int
) -> tuple[Kernel, list[int]]:
    """Return the kernel and the inputs (numbers into ``types``: dtype and size) that it takes before its output."""
    return _Attention(problem, blocking).build(types, output_size)


class _Attention:
    def __init__(self, problem: AttentionProblem, blocking: AttentionBlocking) -> None:
        self.problem = problem
        self.blocking = blocking
        self.keys = _panels(problem.dtype, problem.keys.rows, problem.key_count, problem.keys.columns,
                            problem.depth_count, blocking.score_tile.width, blocking.score_tile.lanes)  # fmt: skip
        self.row_passes = self._row_passes()
        self.values = _panels(problem.dtype, problem.values.columns, problem.column_count, problem.values.rows,
                              problem.key_count, blocking.product_tile.width, blocking.product_tile.lanes)  # fmt: skip

    def build(self, types: Sequence[tuple[DType, int]], output_size: int) -> tuple[Kernel, list[int]]:
        problem, blocking = self.problem, self.blocking
        body: tuple[Stmt, ...] = tuple(self._task())
        body = (For(Var("chunk"), const(blocking.chunks), LoopKind.PARALLEL, body),)
        body = (For(Var("group"), const(problem.groups // blocking.shared), LoopKind.PARALLEL, body),)
        loaded, _ = used_buffers([statement for part in self.row_passes for statement in part])
        matrices = [problem.queries, problem.keys, problem.values]
        matrices += [r.matrix for r in problem.tail_reads if r.matrix is not None]
        used = sorted({m.source for m in matrices} | {k for k in range(len(types)) if f"x{k}" in loaded})
        buffers = [Buffer(f"x{k}", *types[k]) for k in used]
        buffers.append(Buffer(_OUTPUT, problem.dtype, output_size, writable=True))
        return Kernel("attention", tuple(buffers), (), body), used

    # -- a task ----------------------------------------------------------------------------------

    def _task(self) -> list[Stmt]:
        problem, blocking = self.problem, self.blocking
        rows = blocking.tiles.size + (1 if blocking.tiles.extra else 0)
        allocs = [
            Alloc(Buffer(_KEYS, problem.dtype, self.keys.size, Space.LOCAL)),
            Alloc(Buffer(_VALUES, problem.dtype, self.values.size, Space.LOCAL)),
            Alloc(Buffer(SCORES, problem.dtype, rows * blocking.pitch, Space.LOCAL)),
            *(Alloc(Buffer(name, dtype, rows, Space.LOCAL)) for name, dtype in problem.rows.buffers),
        ]
        indices = decode(scaled(Var("group"), blocking.shared), [a.extent for a in problem.outer])
        lets: list[Stmt] = [Let(a.var, i) for a, i in zip(problem.outer, indices, strict=True)]
        if blocking.shared == 1:
            return [*allocs, *lets, *self._packing({}), *self._tiles()]
        # Keys and values are the same for all members: they are packed where the first one reads them.
        last, start = problem.outer[-1].var, Var("first_member")
        member = Let(last, total(start, Var("member")))
        members = For(Var("member"), const(blocking.shared), LoopKind.SERIAL, (member, *self._tiles()))
        return [*allocs, *lets[:-1], Let(start, indices[-1]), *self._packing({last: start}), members]

    def _packing(self, renamed: Mapping[Expr, Expr]) -> list[Stmt]:
        """Keys and values into panels; ``renamed`` replaces variables of where they lie."""
        matrices = (self.problem.keys, self.problem.values)
        keys, values = (replace(m, base=substitute(m.base, renamed)) for m in matrices)
        return [
            *_pack(self.keys, keys, keys.rows, _KEYS, "key_panel"),
            *_pack(self.values, values, values.columns, _VALUES, "value_panel"),
        ]

    def _tiles(self) -> list[Stmt]:
        """Everything for the row tiles of a task."""
        blocking, tiles = self.blocking, self.blocking.tiles
        tile = Var("tile")
        first = scaled(Var("chunk"), blocking.chunk_tiles)
        count: Expr = const(blocking.chunk_tiles)
        if tiles.parts % blocking.chunk_tiles:
            count = least(count, apply("sub", const(tiles.parts), first))
        row0 = scaled(tile, tiles.size)
        if tiles.extra:
            row0 = total(row0, least(tile, tiles.extra))
        body: list[Stmt] = [Let(tile, total(first, Var("step"))), Let(Var("row0"), row0)]
        if tiles.extra:
            large = apply("less", tile, const(tiles.extra))
            body.append(If(large, tuple(self._tile(tiles.size + 1)), tuple(self._tile(tiles.size))))
        else:
            body += self._tile(tiles.size)
        return [For(Var("step"), count, LoopKind.SERIAL, tuple(body))]

    def _tile(self, rows: int) -> list[Stmt]:
        return [*self._seen(rows), *self._scores(rows), *self._weights(rows), *self._product(rows)]

    # -- the parts of a tile ---------------------------------------------------------------------

    def _seen(self, rows: int) -> list[Stmt]:
        """Bind how many keys the tile's last row sees."""
        horizon = self.problem.rows.horizon
        if horizon is None:
            return []
        count = total(Var("row0"), const(rows + horizon.offset))
        return [Let(_SEEN, apply("maximum", least(count, self.problem.key_count), ZERO))]

    def _summed(self, rows: int) -> Expr:
        """Return how many keys have weights: all, or those that are seen, where no row is hidden altogether."""
        horizon = self.problem.rows.horizon
        count = const(self.problem.key_count)
        if horizon is None:
            return count
        dtype = horizon.hidden.dtype
        known = [apply("greater", Load(horizon.greatest, const(r), dtype), horizon.hidden) for r in range(rows)]
        return select(reduce(lambda a, b: apply("bit_and", a, b), known), _SEEN, count)

    def _scores(self, rows: int) -> list[Stmt]:
        """Scores of the tile's rows into scratch. Panels end in zeros, so the last one is stored whole."""
        problem, blocking, tile = self.problem, self.blocking, self.blocking.score_tile
        queries = problem.queries
        window = Window(f"x{queries.source}", total(queries.base, scaled(Var("row0"), queries.rows)))
        offsets = tuple(const(queries.rows * i) for i in range(rows))
        levels = (Level(const(problem.depth_count), const(queries.columns), ZERO),)

        def call(panel: Expr, vectors: int) -> Call:
            spec = MicroSpec(
                dtype=problem.dtype,
                lanes=tile.lanes,
                rows=rows,
                vectors=vectors,
                levels=1,
                panel_width=tile.width,
                out_rows=ROWS_STRIDE,
                out_dtype=problem.dtype,
                body=Var(ACCUMULATOR, problem.dtype),
                prefetch=PREFETCH_STEPS,
            )
            out = Place(Window(SCORES, scaled(panel, tile.width)), (const(blocking.pitch),))
            return call_micro_kernel(
                spec, window, offsets, Window(_KEYS, scaled(panel, self.keys.panel_size)), out, levels
            )

        full, tail = divmod(problem.key_count, tile.width)
        statements: list[Stmt] = []
        limited = problem.rows.horizon is not None
        if full:
            begun = apply("floor_div", total(_SEEN, const(tile.width - 1)), const(tile.width))
            count = least(begun, full) if limited else const(full)
            statements.append(For(Var("p"), count, LoopKind.SERIAL, (call(Var("p"), tile.vectors),)))
        if tail:
            last = call(const(full), -(-tail // tile.lanes))
            statements.append(If(apply("greater", _SEEN, const(full * tile.width)), (last,)) if limited else last)
        return statements

    def _weights(self, rows: int) -> list[Stmt]:
        """Scores become weights, row by row; then the number of keys that have weights is bound."""
        row = Var(TILE_ROW)
        position: dict[Expr, Expr] = {ROW: total(Var("row0"), row)}
        lets: list[Stmt] = [Let(Var(SCORE_ROW), scaled(row, self.blocking.pitch))]
        lets += [Let(var, position.get(value, value)) for var, value in self.problem.rows.axes]
        loops: list[Stmt] = [For(row, const(rows), LoopKind.SERIAL, (*lets, *body)) for body in self.row_passes]
        return [*loops[:1], Let(_SUMMED, self._summed(rows)), *self._hidden_scores(rows), *loops[1:]]

    def _hidden_scores(self, rows: int) -> list[Stmt]:
        """Write the hidden score of keys that the first pass left out, where all keys have weights after all."""
        horizon, (lanes, unroll) = self.problem.rows.horizon, self._row_vectors()
        blocks = self.problem.key_count // (lanes * unroll)
        if horizon is None or blocks < 2:
            return []
        begun = least(apply("floor_div", total(_SEEN, const(lanes * unroll - 1)), const(lanes * unroll)), blocks)
        vector, row = Var("vector"), Var(TILE_ROW)
        first = total(scaled(begun, lanes * unroll), scaled(row, self.blocking.pitch))
        store = Store(SCORES, total(first, scaled(vector, lanes), Var("lane")), horizon.hidden)
        fill = For(Var("lane"), const(lanes), LoopKind.VECTOR, (store,))
        count = scaled(apply("sub", const(blocks), begun), unroll)
        loop = For(row, const(rows), LoopKind.SERIAL, (For(vector, count, LoopKind.SERIAL, (fill,)),))
        return [If(apply("greater", _SUMMED, _SEEN), (loop,))]

    def _row_vectors(self) -> tuple[int, int]:
        """Return lanes of the row passes' vectors and how many run side by side."""
        lanes = min(self.blocking.score_tile.lanes, _power_below(self.problem.key_count))
        return lanes, max(1, min(_ROW_UNROLL, self.problem.key_count // lanes))

    def _row_passes(self) -> list[list[Stmt]]:
        """Return what each pass does with one row."""
        lanes, unroll = self._row_vectors()
        rows = self.problem.rows
        if rows.horizon is None:
            return [AlongRows(part, lanes, unroll).statements() for part in rows.passes]
        first, second = rows.passes
        # Keys left out have the hidden score, which is the greatest where nothing else is seen.
        (greatest,) = first.row_writes
        cut = apply("less", _SEEN, const(self.problem.key_count))
        value = select(cut, apply("maximum", greatest.value, rows.horizon.hidden), greatest.value)
        first = replace(first, row_writes=(replace(greatest, value=value),))
        return [
            AlongRows(part, lanes, unroll, wanted).statements() for part, wanted in ((first, _SEEN), (second, _SUMMED))
        ]

    def _product(self, rows: int) -> list[Stmt]:
        """Weights times values, and what follows, into the output."""
        problem, blocking, tile = self.problem, self.blocking, self.blocking.product_tile
        output = problem.output
        base = total(output.base, scaled(Var("row0"), output.rows))
        offsets = tuple(const(blocking.pitch * i) for i in range(rows))
        levels = (Level(_SUMMED, const(1), ZERO),)

        def call(panel: Expr, vectors: int, ragged: int) -> Call:
            column = scaled(panel, tile.width)
            forms, places = [], []
            for read in problem.tail_reads:
                if read.matrix is None:
                    forms.append(ReadForm(read.dtype, ROWS_STRIDE, LANES_NONE))
                    places.append(Place(Window(read.row_buffer, ZERO), (const(1),)))
                    continue
                matrix = read.matrix
                lanes = {0: LANES_NONE, 1: LANES_UNIT}.get(matrix.columns, LANES_STRIDE)
                forms.append(ReadForm(read.dtype, ROWS_STRIDE if matrix.rows else ROWS_NONE, lanes))
                place = total(matrix.base, scaled(Var("row0"), matrix.rows), scaled(column, matrix.columns))
                strides = (const(matrix.rows),) if matrix.rows else ()
                places.append(Place(Window(f"x{matrix.source}", place), strides, const(matrix.columns)))
            spec = MicroSpec(
                dtype=problem.dtype,
                lanes=tile.lanes,
                rows=rows,
                vectors=vectors,
                levels=1,
                panel_width=tile.width,
                out_rows=ROWS_STRIDE,
                out_dtype=problem.dtype,
                body=problem.tail,
                reads=tuple(forms),
                masked=ragged > 0,
                prefetch=PREFETCH_STEPS,
            )
            out = Place(Window(_OUTPUT, total(base, column)), (const(output.rows),))
            panels = Window(_VALUES, scaled(panel, self.values.panel_size))
            return call_micro_kernel(
                spec, Window(SCORES, ZERO), offsets, panels, out, levels, tuple(places), const(ragged)
            )

        full, tail = divmod(problem.column_count, tile.width)
        statements: list[Stmt] = []
        if full:
            statements.append(For(Var("p"), const(full), LoopKind.SERIAL, (call(Var("p"), tile.vectors, 0),)))
        if tail:
            statements.append(call(const(full), -(-tail // tile.lanes), tail % tile.lanes))
        return statements


def _power_below(count: int) -> int:
    """Return the largest power of two up to ``count``."""
    return 1 << (count.bit_length() - 1)


def _panels(
    dtype: DType, column_stride: int, columns: int, depth_stride: int, depth: int, width: int, lanes: int
) -> PackedPanels:
    column, levels = LoopAxis(columns, (column_stride,)), (LoopAxis(depth, (depth_stride,)),)
    return PackedPanels(dtype, (), column, levels, 0, 0, width, lanes)


def _pack(panels: PackedPanels, matrix: Matrix, column_stride: int, target: str, name: str) -> list[Stmt]:
    """Pack all panels of a matrix into scratch."""
    panel = Var(name)
    depth = panels.depth[0]
    levels = [(const(depth.extent), const(depth.strides[0]))]
    source = Window(f"x{matrix.source}", total(matrix.base, scaled(panel, panels.width * column_stride)))
    windows = (source, Window(target, scaled(panel, panels.panel_size)))
    full, tail = divmod(panels.column.extent, panels.width)
    body: tuple[Stmt, ...] = (call_panel_kernel(panels, windows, levels, panels.width),)
    if tail:
        ragged = (call_panel_kernel(panels, windows, levels, tail),)
        body = (If(apply("less", panel, const(full)), body, ragged),) if full else ragged
    return [For(panel, const(panels.panels), LoopKind.SERIAL, body)]
