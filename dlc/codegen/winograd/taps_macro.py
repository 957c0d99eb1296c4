"""The loops around Winograd's kernels where taps are the results: tasks, blocks of tiles, panels, and the way around.

A task has some channels and columns, and takes all tiles: it tallies what they hold, then transforms, multiplies and
sums them block by block, in the second-level cache, and turns the sums into taps. Where its pairs of channels would
lose digits, multiply-adds of the positions compute them instead. It must not choose anything.
"""

from __future__ import annotations

from dataclasses import replace

from dlc.codegen.contract.analysis import OUT, LoopAxis, Problem
from dlc.codegen.contract.blocking import Split, choose_blocking
from dlc.codegen.contract.index import ZERO, decode, least, offset, scaled, total
from dlc.codegen.contract.macro import MacroKernel
from dlc.codegen.contract.microkernel import ROWS_STRIDE, Level, MicroSpec, Place, call_micro_kernel
from dlc.codegen.target import CpuTarget
from dlc.codegen.winograd.problem import MARGIN, POINTS, STEP
from dlc.codegen.winograd.taps_blocking import TapsBlocking
from dlc.codegen.winograd.taps_problem import TapsProblem
from dlc.codegen.winograd.taps_transform import clear_kernel, taps_kernel, value_kernel
from dlc.codegen.winograd.taps_watch import pairs_kernel, range_kernel, tally_kernel
from dlc.codegen.winograd.transform import input_kernel
from dlc.codegen.winograd.vectors import LANE, vector_loop
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Horizontal, Var, apply, const, select
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, Let, LoopKind, Space, Stmt, Store, Window
from dlc.ir.types import float32, uint32


class TapsKernel:
    """Builds the entry kernel of one weight gradient: buffers row operand, panel operand, output."""

    def __init__(self, found: TapsProblem, blocking: TapsBlocking, target: CpuTarget, panels_from: str) -> None:
        self.found = found
        self.problem = found.problem
        self.blocking = blocking
        self.regions = blocking.regions(found)
        axes = [
            LoopAxis(axis.extent // size, tuple(size * stride for stride in axis.strides))
            for axis, size in ((found.channels, blocking.channels), (found.column, blocking.columns))
        ]
        self.parts = tuple(axes)
        """The parts of channels and of columns that tasks are."""
        self.around = self._around(target, panels_from)

    def build(self, name: str) -> Kernel:
        """Return the kernel."""
        problem = self.problem
        buffers = (
            Buffer("rows", float32, problem.sizes[problem.row_operand]),
            Buffer("panel", float32, problem.sizes[problem.panel_operand]),
            Buffer("out", float32, problem.sizes[OUT], writable=True),
        )
        tasks = self.parts[0].extent * self.parts[1].extent
        return Kernel(name, buffers, (), (For(Var("group"), const(tasks), LoopKind.PARALLEL, tuple(self._task())),))

    def _around(self, target: CpuTarget, panels_from: str) -> MacroKernel:
        """Return the direct way of a task: a contraction whose batch axes count parts."""
        found, blocking = self.found, self.blocking
        channels = replace(found.channels, extent=blocking.channels)
        problem: Problem = replace(
            self.problem,
            batch=self.parts,
            rows=(*found.taps, channels),
            columns=(replace(found.column, extent=blocking.columns),),
        )
        return MacroKernel(problem, choose_blocking(problem, target, 1, panels_from))

    def _task(self) -> list[Stmt]:
        verdict = Horizontal("add", "verdict", ZERO, self.blocking.tile.lanes, uint32)
        fails = apply("greater", verdict, const(0, uint32))
        around = (Let(Var("rc"), ZERO), Let(Var("cc"), ZERO), *self.around.task())
        return [*self._watch(), If(fails, around, tuple(self._through()))]

    # -- places ------------------------------------------------------------------------------------

    def _part(self, tensor: int) -> Expr:
        """Return where the task's part begins in ``tensor``."""
        return offset(decode(Var("group"), [axis.extent for axis in self.parts]), self.parts, tensor)

    def _line(self, tensor: int) -> Expr:
        """Return where line of tiles ``line`` of the task's part begins in ``tensor``."""
        found = self.found
        axes = (*found.images, LoopAxis(found.lines, tuple(STEP * stride for stride in found.height.strides)))
        return total(self._part(tensor), offset(decode(Var("line"), [a.extent for a in axes]), axes, tensor))

    def _within(self) -> Expr:
        """Return the number of ``line`` among those of its image."""
        return apply("floor_mod", Var("line"), const(self.found.lines))

    # -- watching ----------------------------------------------------------------------------------

    def _watch(self) -> list[Stmt]:
        """Tally the task's channels and columns region by region, then judge all pairs of them."""
        found, blocking = self.found, self.blocking
        lanes, regions = blocking.tile.lanes, self.regions
        lines = blocking.lines * blocking.region_blocks
        tallies = {"inputs_tally": blocking.channels, "values_tally": blocking.columns}
        statements: list[Stmt] = []
        for buffer, channels in tallies.items():
            size = 2 * regions * channels
            statements.append(Alloc(Buffer(buffer, float32, size, Space.LOCAL)))
            statements.append(Call(clear_kernel(lanes), (Window(buffer, ZERO),), (const(size // lanes),)))
        first = scaled(Var("region"), lines)
        inner: list[Stmt] = [Let(Var("line"), total(first, Var("l")))]
        last = apply("equal", self._within(), const(found.lines - 1))
        missing = found.height.extent % STEP
        values = select(last, const(STEP - missing), const(STEP)) if missing else const(STEP)
        inputs = total(values, const(MARGIN))  # all that the line reads, what the next ones do, too
        row, panel = self.problem.row_operand, self.problem.panel_operand
        for buffer, tensor, count, pixels in (
            ("inputs_tally", row, inputs, found.line_pixels),
            ("values_tally", panel, values, found.width.extent),
        ):
            channels = tallies[buffer]
            scalars = (
                count,
                const(found.height.strides[tensor]),
                const(pixels),
                const(found.width.strides[tensor]),
                const(channels // lanes),
                const(channels),
            )
            target = Window(buffer, scaled(Var("region"), 2 * channels))
            inner.append(
                Call(
                    tally_kernel(lanes),
                    (Window("rows" if tensor == row else "panel", self._line(tensor)), target),
                    scalars,
                )
            )
        count = least(const(lines), apply("sub", const(found.all_lines), first))
        body = For(Var("l"), count, LoopKind.SERIAL, tuple(inner))
        statements.append(For(Var("region"), const(regions), LoopKind.SERIAL, (body,)))
        statements.append(Alloc(Buffer("verdict", uint32, lanes, Space.LOCAL)))
        statements.append(vector_loop(lanes, Store("verdict", LANE, const(0, uint32))))
        for buffer, channels in tallies.items():
            numbers = (regions, 2 * channels, channels // lanes, channels)
            windows = Window(buffer, ZERO), Window("verdict", ZERO)
            statements.append(Call(range_kernel(lanes), windows, tuple(const(n) for n in numbers)))
        judged = (
            lines * (STEP + MARGIN) * found.line_pixels,
            regions,
            *(blocking.channels, 2 * blocking.channels, blocking.channels),
            *(blocking.columns // lanes, 2 * blocking.columns, blocking.columns),
        )
        tensors = tuple(Window(buffer, ZERO) for buffer in (*tallies, "verdict"))
        statements.append(Call(pairs_kernel(lanes), tensors, tuple(const(n) for n in judged)))
        return statements

    # -- through the transforms --------------------------------------------------------------------

    def _through(self) -> list[Stmt]:
        """Transform, multiply and sum block by block, then turn the sums into taps."""
        found, blocking = self.found, self.blocking
        lanes = blocking.tile.lanes
        planes = {"inputs": blocking.input_plane, "values": blocking.value_plane, "sums": blocking.sum_plane}
        statements: list[Stmt] = [
            Alloc(Buffer(name, float32, POINTS * plane, Space.LOCAL)) for name, plane in planes.items()
        ]
        clear = (const(POINTS * blocking.sum_plane // lanes),)
        statements.append(Call(clear_kernel(lanes), (Window("sums", ZERO),), clear))
        first = scaled(Var("block"), blocking.lines)
        count = Var("count")
        lines = (Let(Var("line"), total(first, Var("l"))), *self._transform())
        body = (
            Let(count, least(const(blocking.lines), apply("sub", const(found.all_lines), first))),
            For(Var("l"), count, LoopKind.SERIAL, lines),
            For(Var("point"), const(POINTS), LoopKind.SERIAL, tuple(self._multiply(scaled(count, found.line_tiles)))),
        )
        blocks = -(-found.all_lines // blocking.lines)
        statements.append(For(Var("block"), const(blocks), LoopKind.SERIAL, body))
        scalars = (
            blocking.channels,
            blocking.columns // lanes,
            blocking.columns,
            blocking.sum_plane,
            *(axis.strides[OUT] for axis in (found.channels, *found.taps)),
        )
        windows = Window("sums", ZERO), Window("out", self._part(OUT))
        return [*statements, Call(taps_kernel(lanes), windows, tuple(const(n) for n in scalars))]

    def _transform(self) -> list[Stmt]:
        """Transform inputs and values of line ``line``, the ``l``-th of the block."""
        found, blocking = self.found, self.blocking
        lanes = blocking.tile.lanes
        row, panel = self.problem.row_operand, self.problem.panel_operand
        place = scaled(Var("l"), found.line_tiles)
        below: list[Expr] = [const(k) for k in range(1, STEP + MARGIN)]
        if found.height.extent % STEP:
            rest = apply("sub", const(found.height.extent + MARGIN - 1), scaled(self._within(), STEP))
            below[-1] = least(below[-1], rest)
        inputs = Call(
            input_kernel(lanes, False),
            (Window("rows", self._line(row)), Window("inputs", scaled(place, blocking.channel_pitch))),
            (
                *(scaled(line, found.height.strides[row]) for line in below),
                const(found.width.strides[row]),
                const(found.line_pixels - 1),
                const(found.line_tiles),
                const(blocking.channels // lanes),
                const(blocking.channel_pitch),
                const(blocking.input_plane),
            ),
        )
        whole = self._values(panel, place, STEP)
        if found.height.extent % STEP == 0:
            return [inputs, whole]
        last = apply("equal", self._within(), const(found.lines - 1))
        return [inputs, If(last, (self._values(panel, place, 1),), (whole,))]

    def _values(self, panel: int, place: Expr, lines: int) -> Stmt:
        found, blocking = self.found, self.blocking
        tiles, half = divmod(found.width.extent, STEP)
        scalars = (
            found.height.strides[panel],
            found.width.strides[panel],
            tiles,
            blocking.columns // blocking.tile.lanes,
            blocking.column_pitch,
            blocking.value_plane,
        )
        windows = Window("panel", self._line(panel)), Window("values", scaled(place, blocking.column_pitch))
        kernel = value_kernel(blocking.tile.lanes, lines, half > 0)
        return Call(kernel, windows, tuple(const(n) for n in scalars))

    def _multiply(self, depth: Expr) -> list[Stmt]:
        """Add the products of a block's ``depth`` tiles at point ``point`` to the sums."""
        blocking = self.blocking
        tile = blocking.tile
        split = Split(blocking.channels, -(-blocking.channels // tile.rows))
        whole, tail = divmod(blocking.columns, tile.width)
        statements: list[Stmt] = []
        for vectors, start, panels in ((tile.vectors, 0, whole), (tail // tile.lanes, whole * tile.width, 1)):
            if not vectors or not panels:
                continue
            column = total(const(start), scaled(Var("p"), tile.width))
            tiles: list[Stmt] = []
            for rows, first, count in (
                (split.size + 1, 0, split.extra),
                (split.size, split.extra * (split.size + 1), split.parts - split.extra),
            ):
                if count:
                    channel = total(const(first), scaled(Var("i"), rows))
                    call = self._call(rows, vectors, channel, column, depth)
                    tiles.append(For(Var("i"), const(count), LoopKind.SERIAL, (call,)))
            statements.append(For(Var("p"), const(panels), LoopKind.SERIAL, tuple(tiles)))
        return statements

    def _call(self, rows: int, vectors: int, channel: Expr, column: Expr, depth: Expr) -> Stmt:
        blocking = self.blocking
        point = Var("point")
        spec = MicroSpec(
            dtype=float32,
            lanes=blocking.tile.lanes,
            rows=rows,
            vectors=vectors,
            levels=1,
            panel_width=0,
            out_rows=ROWS_STRIDE,
            out_dtype=float32,
            body=Var(ACCUMULATOR, float32),
            adding=True,
        )
        sums = total(scaled(point, blocking.sum_plane), scaled(channel, blocking.columns), column)
        return call_micro_kernel(
            spec,
            Window("inputs", total(scaled(point, blocking.input_plane), channel)),
            tuple(const(i) for i in range(rows)),
            Window("values", total(scaled(point, blocking.value_plane), column)),
            Place(Window("sums", sums), (const(blocking.columns),)),
            (Level(depth, const(blocking.channel_pitch), const(blocking.column_pitch)),),
        )
