"""The loops around Winograd's kernels: tasks, blocks of tiles, panels, and the way around.

A task takes a block of tiles through all steps while it stays in the second-level cache: watch the inputs,
transform them, multiply point by point, transform back. A block whose inputs would lose digits is computed
by multiply-adds of the window instead, before anything is written. It must not choose anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dlc.codegen.contract.analysis import FIRST_READ, OUT, LoopAxis, Problem
from dlc.codegen.contract.blocking import PACKED, Blocking, Split, choose_blocking
from dlc.codegen.contract.index import ZERO, decode, least, offset, scaled, total
from dlc.codegen.contract.macro import PREFETCH_STEPS, MacroKernel
from dlc.codegen.contract.microkernel import (
    LANES_NONE,
    LANES_UNIT,
    ROWS_STRIDE,
    Level,
    MicroSpec,
    Place,
    call_micro_kernel,
)
from dlc.codegen.target import CpuTarget
from dlc.codegen.winograd.blocking import Part, WinogradBlocking
from dlc.codegen.winograd.pack import packed_size
from dlc.codegen.winograd.problem import MARGIN, POINTS, STEP, WinogradProblem
from dlc.codegen.winograd.transform import OutputSpec, input_kernel, output_kernel
from dlc.codegen.winograd.watch import failed, judge_kernel, least_limit_kernel, limit_size, magnitudes_kernel
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Var, apply, const
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, Let, LoopKind, Space, Stmt, Store, Window
from dlc.ir.types import float32, uint32


class _Around(MacroKernel):
    """The direct way of one block: panels are those of the whole contraction, whichever the block."""

    def _panel_window(self, panel: Expr) -> Window:
        if self.blocking.panels_from != PACKED:
            return super()._panel_window(panel)
        with_group = super()._panel_window(panel)
        _, _, depth = self._depth()
        return replace(with_group, offset=total(scaled(panel, self.depth * self.blocking.tile.width), depth))

    def statements(self) -> list[Stmt]:
        """Return the loops over block ``group``, for chunk ``cc`` of the panels."""
        return [Let(Var("rc"), ZERO), *self.task()]


class WinogradKernel:
    """Builds the entry kernel of one contraction.

    Buffers: row operand, transformed weights, limits of what is watched, panels of the direct way (or the weights
    themselves, unless ``panels_from`` says that they are packed), output, epilogue inputs.
    """

    def __init__(self, found: WinogradProblem, blocking: WinogradBlocking, target: CpuTarget, panels_from: str) -> None:
        self.found = found
        self.problem = found.problem
        self.blocking = blocking
        self.target = target
        self.panels_from = panels_from
        self.tensors = (OUT, *range(FIRST_READ, FIRST_READ + len(self.problem.reads)))
        self.line = -(-(STEP * blocking.columns.parts[0][0].tiles + MARGIN) // blocking.tile.lanes)
        """Vectors of pixels of a line of a block."""
        self.plane = (STEP * blocking.rows.parts[0][0].tiles + MARGIN) * self.line * blocking.tile.lanes
        """Elements from sums of magnitudes to those of squares."""
        self.around = {
            (rows, columns): self._around(rows, columns)
            for rows, _ in blocking.rows.parts
            for columns, _ in blocking.columns.parts
        }

    @property
    def overwritten(self) -> frozenset[int]:
        """The epilogue's reads that may be the output's own memory, whichever way a block goes."""
        return frozenset.intersection(*(way.blocking.overwritten for way in self.around.values()))

    def build(self, name: str, panel_size: int) -> Kernel:
        """Return the kernel; ``panel_size`` is the number of elements of the direct way's panels."""
        problem, blocking = self.problem, self.blocking
        for key, way in self.around.items():
            self.around[key] = _Around(way.problem, replace(way.blocking, overwritten=self.overwritten))
        buffers = [
            Buffer("rows", float32, problem.sizes[problem.row_operand]),
            *self._weights(),
            Buffer("limits", float32, limit_size(self.found, blocking.tile.lanes)),
            Buffer("panel", float32, panel_size),
            Buffer("out", problem.out_dtype, problem.sizes[OUT], writable=True),
        ]
        for number, read in enumerate(problem.reads):
            alias = "out" if number in self.overwritten else None
            buffers.append(Buffer(f"e{number}", read.dtype, problem.sizes[FIRST_READ + number], aliases=alias))
        body = tuple(self._task())
        images = 1
        for axis in self.found.images:
            images *= axis.extent
        tasks = (
            ("bx", blocking.columns.blocks),
            ("by", blocking.rows.blocks),
            ("cc", blocking.column_chunks),
            ("image", images),
        )
        for variable, extent in tasks:
            body = (For(Var(variable), const(extent), LoopKind.PARALLEL, body),)
        return Kernel(name, tuple(buffers), (), body)

    def _weights(self) -> list[Buffer]:
        """Return the buffers of the transformed weights."""
        return [Buffer("weights", float32, packed_size(self.found, self.blocking.tile))]

    # -- a task ------------------------------------------------------------------------------------

    def _scratch(self) -> list[Buffer]:
        """Return what a task needs of memory."""
        blocking = self.blocking
        lanes = blocking.tile.lanes
        return [
            Buffer("inputs", float32, POINTS * blocking.input_plane, Space.LOCAL),
            Buffer("products", float32, POINTS * blocking.product_plane, Space.LOCAL),
            Buffer("sums", float32, 2 * self.plane, Space.LOCAL),
            Buffer("columns", float32, 2 * self.line * lanes, Space.LOCAL),
            Buffer("limit", float32, 1, Space.LOCAL),
            Buffer("verdict", uint32, lanes, Space.LOCAL),
        ]

    def _task(self) -> list[Stmt]:
        blocking = self.blocking
        return [
            *map(Alloc, self._scratch()),
            *self._each_part(
                "by",
                blocking.rows.parts,
                lambda rows: self._each_part("bx", blocking.columns.parts, lambda columns: self._block(rows, columns)),
            ),
        ]

    def _each_part(
        self, variable: str, parts: tuple[tuple[Part, int], ...], body: Callable[[Part], list[Stmt]]
    ) -> list[Stmt]:
        """Return the statements of the kind of block that ``variable`` stands at."""
        if len(parts) == 1:
            return body(parts[0][0])
        is_whole = apply("less", Var(variable), const(parts[0][1]))
        return [If(is_whole, tuple(body(parts[0][0])), tuple(body(parts[1][0])))]

    def _block(self, rows: Part, columns: Part) -> list[Stmt]:
        """One block: around if its inputs ask for it, else through the transforms."""
        fails = failed(rows.tiles * columns.tiles, self.blocking.tile.lanes)
        through = (*self._transform(rows, columns), self._panels(rows, columns))
        return [*self._watch(rows, columns), If(fails, self._go_around(rows, columns), through)]

    def _go_around(self, rows: Part, columns: Part) -> tuple[Stmt, ...]:
        """Compute a block the direct way."""
        group = total(Var("image"))
        for variable, blocks in (("by", self.blocking.rows.blocks), ("bx", self.blocking.columns.blocks)):
            group = total(scaled(group, blocks), Var(variable)) if blocks > 1 else group
        return Let(Var("group"), group), *self.around[rows, columns].statements()

    def _place(self, tensor: int) -> Expr:
        """Return where the block begins in ``tensor``."""
        found, blocking = self.found, self.blocking
        images = offset(decode(Var("image"), [a.extent for a in found.images]), found.images, tensor)
        row = scaled(Var("by"), STEP * blocking.rows.size * found.height.strides[tensor])
        column = scaled(Var("bx"), STEP * blocking.columns.size * found.width.strides[tensor])
        return total(images, row, column)

    def _channels(self) -> tuple[Expr, ...]:
        """Return the scalars that count vectors of channels, and what is left of the last one."""
        vectors, rest = divmod(self.found.channels.extent, self.blocking.tile.lanes)
        return (const(vectors), const(rest)) if rest else (const(vectors),)

    # -- the way around ----------------------------------------------------------------------------

    def _around(self, rows: Part, columns: Part) -> _Around:
        """Return the direct way of a kind of block: a contraction whose batch axes count blocks."""
        found, cut = self.found, self.blocking
        axes = [*found.images]
        for axis, along in ((found.height, cut.rows), (found.width, cut.columns)):
            if along.blocks > 1:
                axes.append(LoopAxis(along.blocks, tuple(STEP * along.size * stride for stride in axis.strides)))
        sides = [replace(found.height, extent=rows.outputs), replace(found.width, extent=columns.outputs)]
        problem = replace(self.problem, batch=tuple(axes), rows=tuple(sorted(sides, key=lambda axis: axis.extent)))
        direct = choose_blocking(problem, self.target, 1, self.panels_from, self.blocking.tile)
        return _Around(problem, self._straight(problem, direct))

    def _straight(self, problem: Problem, blocking: Blocking) -> Blocking:
        """Cut the panels as the tasks are cut, and let tiles run along the longer side: such code is short."""
        outer, inner = (axis.extent for axis in problem.rows)
        split = Split(inner, -(-inner // blocking.tile.rows))
        return replace(
            blocking,
            flat=False,
            tiles=split,
            tile_count=outer * split.parts,
            column_chunks=self.blocking.column_chunks,
            block_panels=min(blocking.block_panels, self.blocking.chunk_panels),
            staged=False,
            ahead=False,
            joint=1,
        )

    # -- watching ----------------------------------------------------------------------------------

    def _watch(self, rows: Part, columns: Part) -> list[Stmt]:
        """Add up the magnitudes of the block's pixels and judge its tiles; those that fail are counted in verdict."""
        found, lanes = self.found, self.blocking.tile.lanes
        row = self.problem.row_operand
        pitch = self.line * lanes
        channels = self._channels()
        line = Var("line")
        pixels = Window("rows", total(self._place(row), scaled(line, found.height.strides[row])))
        add = Call(
            magnitudes_kernel(lanes, len(channels) > 1),
            (pixels, Window("sums", scaled(line, pitch))),
            (
                const(STEP * columns.tiles + MARGIN),
                const(columns.outputs + MARGIN - 1),
                const(found.width.strides[row]),
                *channels,
                const(self.plane),
            ),
        )
        limits = limit_size(found, lanes) // lanes
        limit = Call(least_limit_kernel(lanes), (Window("limits", ZERO), Window("limit", ZERO)), (const(limits),))
        first = scaled(Var("ty"), STEP)
        judge = Call(
            judge_kernel(lanes),
            (
                Window("sums", scaled(first, pitch)),
                Window("limit", ZERO),
                Window("columns", ZERO),
                Window("verdict", ZERO),
            ),
            (*self._lines_below(rows, pitch), const(columns.tiles), const(self.line), const(self.plane)),
        )
        return [
            limit,
            For(line, const(rows.outputs + MARGIN), LoopKind.SERIAL, (add,)),
            For(Var("lane"), const(lanes), LoopKind.VECTOR, (Store("verdict", Var("lane"), const(0, uint32)),)),
            For(Var("ty"), const(rows.tiles), LoopKind.SERIAL, (judge,)),
        ]

    def _lines_below(self, rows: Part, stride: int) -> tuple[Expr, ...]:
        """Return where the lines below the first of tile line ``ty`` lie; the last that exists stands for more."""
        lines: list[Expr] = [const(k) for k in range(1, STEP + MARGIN)]
        if rows.outputs % STEP:
            rest = apply("sub", const(rows.outputs + MARGIN - 1), scaled(Var("ty"), STEP))
            lines[-1] = least(lines[-1], rest)
        return tuple(scaled(line, stride) for line in lines)

    # -- through the transforms --------------------------------------------------------------------

    def _transform(self, rows: Part, columns: Part) -> list[Stmt]:
        """Transform the block's inputs, line by line of tiles."""
        found, blocking = self.found, self.blocking
        row = self.problem.row_operand
        channels = self._channels()
        ty = Var("ty")
        source = total(self._place(row), scaled(ty, STEP * found.height.strides[row]))
        call = Call(
            input_kernel(blocking.tile.lanes, len(channels) > 1),
            (Window("rows", source), Window("inputs", scaled(ty, columns.tiles * blocking.pitch))),
            (
                *self._lines_below(rows, found.height.strides[row]),
                const(found.width.strides[row]),
                const(columns.outputs + MARGIN - 1),
                const(columns.tiles),
                *channels,
                const(blocking.pitch),
                const(blocking.input_plane),
            ),
        )
        return [For(ty, const(rows.tiles), LoopKind.SERIAL, (call,))]

    def _panels(self, rows: Part, columns: Part) -> Stmt:
        """Multiply and store panel by panel."""
        blocking = self.blocking
        tile, chunk = blocking.tile, blocking.chunk_panels
        full, tail = divmod(self.found.column.extent, tile.width)
        panel = Var("panel")
        whole = [*self._multiply(rows, columns, tile.vectors), *self._store(rows, columns, tile.vectors, 0)]
        work: tuple[Stmt, ...] = tuple(whole)
        if tail:
            vectors = -(-tail // tile.lanes)
            ragged = (
                *self._multiply(rows, columns, vectors),
                *self._store(rows, columns, vectors, tail % tile.lanes),
            )
            work = (If(apply("less", panel, const(full)), work, ragged),) if full else ragged
        first = scaled(Var("cc"), chunk)
        count: Expr = const(chunk)
        if blocking.panels % chunk:
            count = least(count, apply("sub", const(blocking.panels), first))
        return For(Var("pp"), count, LoopKind.SERIAL, (Let(panel, total(first, Var("pp"))), *work))

    def _multiply(self, rows: Part, columns: Part, vectors: int) -> list[Stmt]:
        """Multiply the transformed tiles with a panel, point by point, chain of channels by chain."""
        blocking = self.blocking
        channels, chain = self.found.channels.extent, blocking.chain
        tiles = rows.tiles * columns.tiles
        split = Split(tiles, -(-tiles // blocking.tile.rows))
        chains = -(-channels // chain)

        def products(first: Expr, depth: Expr, again: bool) -> list[Stmt]:
            found: list[Stmt] = []
            if split.extra:
                call = self._call(split.size + 1, vectors, scaled(Var("i"), split.size + 1), first, depth, again)
                found.append(For(Var("i"), const(split.extra), LoopKind.SERIAL, (call,)))
            start = total(const(split.extra), scaled(Var("i"), split.size))
            if split.extra:
                start = total(const(split.extra * (split.size + 1)), scaled(Var("i"), split.size))
            call = self._call(split.size, vectors, start, first, depth, again)
            found.append(For(Var("i"), const(split.parts - split.extra), LoopKind.SERIAL, (call,)))
            return found

        body = products(ZERO, const(min(chain, channels)), False)
        if chains > 1:
            later = scaled(total(Var("q"), const(1)), chain)
            depth: Expr = const(chain)
            if channels % chain:
                depth = least(depth, apply("sub", const(channels), later))
            body.append(For(Var("q"), const(chains - 1), LoopKind.SERIAL, tuple(products(later, depth, True))))
        return [For(Var("point"), const(POINTS), LoopKind.SERIAL, tuple(body))]

    def _call(self, rows: int, vectors: int, start: Expr, channel: Expr, depth: Expr, again: bool) -> Stmt:
        """Return one micro-kernel call; with ``again`` what is there is added."""
        blocking = self.blocking
        width = blocking.tile.width
        point, channels = Var("point"), self.found.channels.extent
        spec = MicroSpec(
            dtype=float32,
            lanes=blocking.tile.lanes,
            rows=rows,
            vectors=vectors,
            levels=1,
            panel_width=width,
            out_rows=ROWS_STRIDE,
            out_dtype=float32,
            body=Var(ACCUMULATOR, float32),
            prefetch=PREFETCH_STEPS,
            adding=again,
        )
        source = total(scaled(point, blocking.input_plane), scaled(start, blocking.pitch), channel)
        target = Window("products", total(scaled(point, blocking.product_plane), scaled(start, width)))
        weights = total(scaled(Var("panel"), POINTS * channels), scaled(point, channels), channel)
        return call_micro_kernel(
            spec,
            Window("inputs", source),
            tuple(const(blocking.pitch * i) for i in range(rows)),
            Window("weights", scaled(weights, width)),
            Place(target, (const(width),)),
            (Level(depth, const(1), const(width)),),
        )

    def _store(self, rows: Part, columns: Part, vectors: int, masked: int) -> list[Stmt]:
        """Transform the products of a panel back and store them, line by line of tiles."""
        full = rows.outputs // STEP
        whole = self._store_line(columns, vectors, masked, STEP, Var("ty"))
        statements: list[Stmt] = [For(Var("ty"), const(full), LoopKind.SERIAL, (whole,))] if full else []
        if rows.outputs % STEP:
            statements.append(self._store_line(columns, vectors, masked, 1, const(full)))
        return statements

    def _store_line(self, columns: Part, vectors: int, masked: int, outputs: int, ty: Expr) -> Stmt:
        found, blocking, problem = self.found, self.blocking, self.problem
        windows = [Window("products", scaled(ty, columns.tiles * blocking.tile.width))]
        scalars: list[Expr] = [const(columns.outputs // STEP), const(blocking.product_plane)]
        reads = []
        column = scaled(Var("panel"), blocking.tile.width)
        for tensor in self.tensors:
            stride = found.column.strides[tensor]
            place = total(
                self._place(tensor),
                scaled(ty, STEP * found.height.strides[tensor]),
                scaled(column, stride),
            )
            if tensor == OUT:
                windows.append(Window("out", place))
            else:
                number = tensor - FIRST_READ
                read = problem.reads[number]
                windows.append(Window(f"e{number}", total(place, const(read.offset))))
                reads.append((read.dtype, LANES_UNIT if stride else LANES_NONE, number in self.overwritten))
            scalars += [const(found.height.strides[tensor]), const(found.width.strides[tensor])]
        if masked:
            scalars.append(const(masked))
        spec = OutputSpec(
            lanes=blocking.tile.lanes,
            width=blocking.tile.width,
            vectors=vectors,
            masked=masked > 0,
            outputs=outputs,
            half=columns.outputs % STEP > 0,
            body=problem.body,
            out_dtype=problem.out_dtype,
            reads=tuple(reads),
        )
        return Call(output_kernel(spec), tuple(windows), tuple(scalars))
