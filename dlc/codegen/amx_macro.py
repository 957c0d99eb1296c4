"""The loops around the AMX kernels: tasks, row groups, panel blocks, depth passes, and the way back.

A task splits its operands as it goes. Where a magnitude turns out to be out of range, the task computes
its part of the output again by fused multiply-adds. It must not choose anything.
"""

from __future__ import annotations

from math import inf

from dlc.codegen.amx_blocking import AmxBlocking
from dlc.codegen.amx_micro import (
    BLOCK,
    PANEL_STEP,
    ROW_STEP,
    STEP,
    TILE,
    WATCH,
    BlockEpilogue,
    add_block_kernel,
    epilogue_block_kernel,
    least_of_block_kernel,
    split_pairs_kernel,
    split_panel_kernel,
    split_row_kernel,
    steps_of,
    tiles_kernel,
)
from dlc.codegen.contract_analysis import FIRST_READ, OUT, Problem, merge
from dlc.codegen.contract_blocking import LOCAL
from dlc.codegen.contract_index import ZERO, decode, least, offset, scaled, total
from dlc.codegen.contract_macro import MacroKernel
from dlc.codegen.contract_pack import call_panel_kernel, packed_panels
from dlc.codegen.microkernel import LANES_NONE, LANES_STRIDE, LANES_UNIT
from dlc.ir.expr import Const, Expr, Horizontal, Var, apply, const, select
from dlc.ir.kernel import (
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
from dlc.ir.types import bfloat16, float32, uint32

GREATEST = (127 + 60) << 23
"""Bits of 2^60: products of smaller factors, and long sums of them, stay far from infinity."""
LEAST = (127 - 50) << 23
"""Bits of 2^-50: products of factors at least as large keep all parts above the smallest normal float32."""
GREATEST_BESIDE_SMALL = (127 + 30) << 23
LEAST_RESULT = 2.0**-50
"""What parts and products lose below the smallest normal float32 (2^-126) does not show in results of this size,
where no factor is beyond 2^30."""
MOST_PAIRS = 8
"""Vector units split so many pairs of rows while a step of tiles is multiplied."""


class AmxKernel(MacroKernel):
    """Builds the entry kernel of one contraction: buffers row operand, panels, output, epilogue inputs."""

    def __init__(self, problem: Problem, found: AmxBlocking) -> None:
        super().__init__(problem, found.blocking)
        self.found = found
        self.tile_size = found.pass_steps * ROW_STEP
        self.group_blocks = found.group_tiles // 2

    def _task(self) -> list[Stmt]:
        blocking, found = self.blocking, self.found
        tiles = -(-blocking.tile_count // blocking.row_chunks)
        first = scaled(Var("rc"), tiles)
        start = self._start(first)
        end = self._start(least(total(first, const(tiles)), blocking.tile_count))
        groups = -(-found.chunk_rows // (found.group_tiles * TILE))
        group_rows = found.group_tiles * TILE
        group: list[Stmt] = [
            Let(Var("row_first"), total(Var("chunk_first"), scaled(Var("rg"), group_rows))),
            If(
                apply("less", Var("row_first"), Var("chunk_end")),
                (
                    Let(Var("row_end"), least(total(Var("row_first"), const(group_rows)), Var("chunk_end"))),
                    *self._group(),
                ),
            ),
        ]
        places = 2 if self._meanwhile() else 1
        slots = 1
        if blocking.passes > 1:
            slots += blocking.block_panels * self.group_blocks
        statements: list[Stmt] = [
            Alloc(Buffer("watched", uint32, WATCH, Space.LOCAL)),
            Alloc(Buffer("least", float32, TILE, Space.LOCAL)),
            *self._reset(),
            Alloc(Buffer("row_parts", bfloat16, found.group_tiles * self.tile_size, Space.LOCAL)),
            Alloc(Buffer("panel_parts", bfloat16, places * found.pass_steps * PANEL_STEP, Space.LOCAL)),
            Alloc(Buffer("sums", float32, slots * BLOCK * BLOCK, Space.LOCAL)),
        ]
        if blocking.panels_from == LOCAL:
            statements.append(Alloc(Buffer("packed", float32, blocking.pass_depth * BLOCK, Space.LOCAL)))
        statements += [
            Let(Var("chunk_first"), start),
            Let(Var("chunk_end"), end),
            TileConfigure((TILE,) * 8),
            For(Var("rg"), const(groups), LoopKind.SERIAL, tuple(group)),
            TileRelease(),
        ]
        fallback = tuple(MacroKernel(self.problem, found.fallback)._task())
        statements.append(If(self._out_of_range(), fallback))
        return statements

    def _start(self, tile: Expr) -> Expr:
        """Return the first row of a tile of the fallback, by which tasks are cut."""
        split = self.blocking.tiles
        first = scaled(tile, split.size)
        return total(first, least(tile, split.extra)) if split.extra else first

    def _reset(self) -> list[Stmt]:
        lane = Var("lane")
        values = ((lane, 0), (total(lane, const(STEP)), 0xFFFFFFFF))
        loops: list[Stmt] = [
            For(lane, const(STEP), LoopKind.VECTOR, (Store("watched", at, const(value, uint32)),))
            for at, value in values
        ]
        return [*loops, For(lane, const(TILE), LoopKind.VECTOR, (Store("least", lane, const(inf, float32)),))]

    def _small_factors(self) -> Expr:
        """Whether a factor other than zero is so small that products of it may lose parts."""
        smallest = Horizontal("minimum", "watched", const(STEP), STEP, uint32)
        return apply("less", smallest, const(LEAST - 1, uint32))

    def _out_of_range(self) -> Expr:
        greatest = Horizontal("maximum", "watched", ZERO, STEP, uint32)
        least = Horizontal("minimum", "least", ZERO, TILE, float32)
        lost = apply(
            "bit_or",
            apply("greater_equal", greatest, const(GREATEST_BESIDE_SMALL, uint32)),
            apply("bit_not", apply("greater_equal", least, const(LEAST_RESULT, float32))),
        )
        return apply(
            "bit_or",
            apply("greater_equal", greatest, const(GREATEST, uint32)),
            apply("bit_and", self._small_factors(), lost),
        )

    # -- loops of a row group ----------------------------------------------------------------------

    def _group(self) -> list[Stmt]:
        """Blocks of panels; in each, passes over the depth; in each, panel by panel, all blocks of rows."""
        blocking = self.blocking
        panels = -(-blocking.panels // blocking.column_chunks)
        first_panel = scaled(Var("cc"), panels)
        panel_end = least(total(first_panel, const(panels)), blocking.panels)
        rows = apply("sub", Var("row_end"), Var("row_first"))
        lets: list[Stmt] = [
            Let(Var("row_tiles"), apply("floor_div", total(rows, const(TILE - 1)), const(TILE))),
            Let(Var("row_blocks"), apply("floor_div", total(Var("row_tiles"), const(1)), const(2))),
        ]
        count = apply("sub", Var("panel1"), Var("panel0"))
        panel_loop = [*self._first_panel(), For(Var("p"), count, LoopKind.SERIAL, tuple(self._panel()))]
        block: list[Stmt] = [
            Let(Var("panel0"), total(first_panel, scaled(Var("nb"), blocking.block_panels))),
            Let(Var("panel1"), least(total(Var("panel0"), const(blocking.block_panels)), panel_end)),
        ]
        blocks = For(Var("nb"), const(-(-panels // blocking.block_panels)), LoopKind.SERIAL, ())
        if blocking.passes == 1:
            return [*lets, *self._stage_rows(), For(blocks.var, blocks.extent, blocks.kind, (*block, *panel_loop))]
        depth = For(Var("pass"), const(blocking.passes), LoopKind.SERIAL, (*self._stage_rows(), *panel_loop))
        return [*lets, For(blocks.var, blocks.extent, blocks.kind, (*block, depth))]

    def _stage_rows(self) -> list[Stmt]:
        """Split the group's rows; those that fill up the last tile repeat the last row."""
        tensor = self.problem.row_operand
        levels, row_depth, _ = self._depth()
        contiguous = self.blocking.levels[-1].strides[tensor] == 1
        row = least(total(Var("row_first"), scaled(Var("t"), TILE), Var("i")), apply("sub", Var("row_end"), const(1)))
        where = total(self._group_offset(tensor), row_depth, self._row_offset(Var("row"), tensor))
        target = total(scaled(Var("t"), self.tile_size), scaled(Var("i"), STEP))
        call = Call(
            split_row_kernel(len(levels), contiguous),
            (Window("rows", where), Window("row_parts", target), Window("watched", ZERO)),
            tuple(value for level in levels for value in (level.extent, level.row_stride)),
        )
        loop = For(Var("i"), const(TILE), LoopKind.SERIAL, (Let(Var("row"), row), call))
        return [For(Var("t"), Var("row_tiles"), LoopKind.SERIAL, (loop,))]

    def _meanwhile(self) -> int:
        """Return how many pairs of rows of the next panel each step of a block splits; 0 where it does not.

        Panels must be packed, and each run of the depth consist of whole steps.
        """
        blocking = self.blocking
        cut = blocking.depth_level == len(blocking.levels) - 1 and blocking.depth_block % STEP
        if blocking.panels_from == LOCAL or cut or blocking.levels[-1].extent % STEP:
            return 0
        pairs = 1
        while pairs * self.group_blocks < TILE:
            pairs *= 2
        return min(pairs, MOST_PAIRS)

    def _parts_of(self, number: Expr) -> Expr:
        """Return where the parts of a block's panel ``number`` lie: two places take turns."""
        return scaled(apply("floor_mod", number, const(2)), self.found.pass_steps * PANEL_STEP)

    def _first_panel(self) -> list[Stmt]:
        """Split the first panel of a block of panels, where the others are split while tiles are multiplied."""
        if not self._meanwhile():
            return []
        source = self._panel_window(Var("panel0"))
        windows = (source, Window("panel_parts", ZERO), Window("watched", ZERO))
        steps = steps_of([level.extent for level in self._depth()[0]])
        call = Call(split_pairs_kernel(), windows, (ZERO, scaled(steps, TILE)))
        return [If(apply("less", Var("panel0"), Var("panel1")), (call,))]

    def _panel(self) -> list[Stmt]:
        """Multiply all blocks of rows with a panel's part of the pass, which is split before or was meanwhile."""
        levels, _, panel_depth = self._depth()
        extents = [level.extent for level in levels]
        statements: list[Stmt] = [
            Let(Var("panel"), total(Var("panel0"), Var("p"))),
            Let(Var("steps"), steps_of(extents)),
        ]
        blocks = For(Var("b"), Var("row_blocks"), LoopKind.SERIAL, tuple(self._block()))
        pairs = self._meanwhile()
        if pairs:
            done = apply("mul", apply("mul", Var("row_blocks"), Var("steps")), const(pairs))
            rest = apply("sub", scaled(Var("steps"), TILE), done)
            after = Call(split_pairs_kernel(), self._next_windows(), (done, rest))
            wanted = apply("less", total(Var("panel"), const(1)), Var("panel1"))
            missing = apply("bit_and", wanted, apply("greater", rest, ZERO))
            return [*statements, blocks, If(missing, (after,))]
        outer: Expr = const(1)
        for extent in extents[:-1]:
            outer = scaled(outer, int(extent.value)) if isinstance(extent, Const) else apply("mul", outer, extent)
        if self.blocking.panels_from == LOCAL:
            statements.append(self._pack_one(panel_depth))
            source = Window("packed", ZERO)
        else:
            source = self._panel_window(Var("panel"))
        windows = (source, Window("panel_parts", ZERO), Window("watched", ZERO))
        statements.append(Call(split_panel_kernel(), windows, (outer, extents[-1])))
        return [*statements, blocks]

    def _next_windows(self) -> tuple[Window, ...]:
        """Return the next panel, the place for its parts, and the watched magnitudes."""
        source = self._panel_window(total(Var("panel"), const(1)))
        return source, Window("panel_parts", self._parts_of(total(Var("p"), const(1)))), Window("watched", ZERO)

    def _tiles(self, place: Expr) -> Stmt:
        """Multiply two row tiles or the last one; the first blocks split the next panel meanwhile."""
        pairs = self._meanwhile()
        windows: tuple[Window, ...] = (
            Window("row_parts", scaled(Var("b"), 2 * self.tile_size)),
            Window("panel_parts", self._parts_of(Var("p")) if pairs else ZERO),
            Window("sums", place),
        )
        scalars: tuple[Expr, ...] = (Var("steps"), const(self.tile_size))
        two = apply("greater", Var("block_rows"), const(TILE))
        both, one = (Call(tiles_kernel(count, 0), windows, scalars) for count in (2, 1))
        plain = If(two, (both,), (one,))
        if not pairs:
            return plain
        windows += self._next_windows()
        scalars += (apply("mul", apply("mul", Var("b"), Var("steps")), const(pairs)),)
        both, one = (Call(tiles_kernel(count, pairs), windows, scalars) for count in (2, 1))
        splits = apply("less", total(Var("panel"), const(1)), Var("panel1"))
        if pairs * self.group_blocks > TILE:
            splits = apply("bit_and", splits, apply("less", Var("b"), const(TILE // pairs)))
        return If(splits, (If(two, (both,), (one,)),), (plain,))

    def _pack_one(self, panel_depth: Expr) -> Stmt:
        """Pack one panel from the operand into scratch memory."""
        packed = packed_panels(self.problem, BLOCK, self.blocking.tile.lanes)
        levels, _, _ = self._depth()
        full, tail = divmod(self.column.extent, BLOCK)
        source = Window("panel", total(self._source_offset(Var("panel")), panel_depth))
        windows = (source, Window("packed", ZERO))
        runs = [(level.extent, level.panel_stride) for level in levels]
        whole = call_panel_kernel(packed, windows, runs, BLOCK)
        if not tail:
            return whole
        ragged = call_panel_kernel(packed, windows, runs, tail)
        return If(apply("less", Var("panel"), const(full)), (whole,), (ragged,)) if full else ragged

    def _block(self) -> list[Stmt]:
        """Multiply one block; add it to the sums of earlier passes; after the last pass, store it."""
        passes = self.blocking.passes
        size = BLOCK * BLOCK
        statements: list[Stmt] = []
        slot: Expr = ZERO
        place: Expr = ZERO
        if passes > 1:
            slot = total(const(size), scaled(total(scaled(Var("p"), self.group_blocks), Var("b")), size))
            place = select(apply("equal", Var("pass"), ZERO), slot, ZERO)
        rows = apply("sub", total(Var("row_end")), total(Var("row_first"), scaled(Var("b"), BLOCK)))
        statements.append(Let(Var("block_rows"), least(rows, BLOCK)))
        statements.append(self._tiles(place))
        if passes == 1:
            return [*statements, *self._store_block(ZERO)]
        add = Call(add_block_kernel(), (Window("sums", slot), Window("sums", ZERO)), (Var("block_rows"),))
        statements.append(If(apply("greater", Var("pass"), ZERO), (add,)))
        last = apply("equal", Var("pass"), const(passes - 1))
        return [*statements, If(last, tuple(self._store_block(slot)))]

    # -- the epilogue ------------------------------------------------------------------------------

    def _store_block(self, slot: Expr) -> list[Stmt]:
        """Apply the epilogue to a block: at once where rows have one stride in every tensor, else row by row."""
        full, tail = divmod(self.column.extent, BLOCK)
        whole = [self._watch_block(slot, False), *self._epilogue_calls(slot, False)]
        if not tail:
            return whole
        ragged = [self._watch_block(slot, True), *self._epilogue_calls(slot, True)]
        return [If(apply("less", Var("panel"), const(full)), tuple(whole), tuple(ragged))] if full else ragged

    def _watch_block(self, slot: Expr, ragged: bool) -> Stmt:
        """Where factors are small, keep the least of the results."""
        scalars: tuple[Expr, ...] = (Var("block_rows"),)
        if ragged:
            scalars += (const(self.column.extent % BLOCK),)
        call = Call(least_of_block_kernel(ragged), (Window("sums", slot), Window("least", ZERO)), scalars)
        return If(self._small_factors(), (call,))

    def _epilogue_calls(self, slot: Expr, ragged: bool) -> list[Stmt]:
        problem = self.problem
        tensors = self.tensors[1:]
        merged = {tensor: merge(problem.rows, [tensor]) for tensor in tensors}
        at_once = all(len(axes) == 1 for axes in merged.values())
        first = total(Var("row_first"), scaled(Var("b"), BLOCK))
        row = first if at_once else total(first, Var("r"))
        windows = [Window("sums", slot if at_once else total(slot, scaled(Var("r"), BLOCK)))]
        column = scaled(Var("panel"), BLOCK)
        scalars: list[Expr] = [Var("block_rows") if at_once else const(1)]
        reads = []
        for tensor in tensors:
            stride = self.column.strides[tensor]
            constant = problem.reads[tensor - FIRST_READ].offset if tensor != OUT else 0
            base = total(
                self._group_offset(tensor), self._row_offset(row, tensor), scaled(column, stride), const(constant)
            )
            name = "out" if tensor == OUT else f"e{tensor - FIRST_READ}"
            windows.append(Window(name, base))
            scalars.append(const(merged[tensor][0].strides[tensor] if at_once else 0))
            if tensor != OUT:
                lanes = LANES_NONE if stride == 0 else LANES_UNIT if stride == 1 else LANES_STRIDE
                reads.append((problem.reads[tensor - FIRST_READ].dtype, lanes))
                if lanes == LANES_STRIDE:
                    scalars.append(const(stride))
        if ragged:
            scalars.append(const(self.column.extent % BLOCK))
        spec = BlockEpilogue(problem.body, problem.out_dtype, tuple(reads), ragged)
        call = Call(epilogue_block_kernel(spec), tuple(windows), tuple(scalars))
        return [call] if at_once else [For(Var("r"), Var("block_rows"), LoopKind.SERIAL, (call,))]

    # -- addresses ---------------------------------------------------------------------------------

    def _group_offset(self, tensor: int) -> Expr:
        return offset(decode(Var("group"), [a.extent for a in self.groups]), self.groups, tensor)

    def _row_offset(self, row: Expr, tensor: int) -> Expr:
        axes = merge(self.problem.rows, [tensor])
        return offset(decode(row, [a.extent for a in axes]), axes, tensor)


def amx_kernel(problem: Problem, found: AmxBlocking, name: str, panel_size: int) -> Kernel:
    """Return the entry kernel (row operand, panels, output, epilogue inputs)."""
    return AmxKernel(problem, found).build(name, panel_size)
