"""The loops around the micro-kernel: tasks, cache blocks, row tiles, panels.

It turns a problem and its blocking into one entry kernel. It must not choose
anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlc.codegen.contract.analysis import FIRST_READ, OUT, Problem, extent_of, merge
from dlc.codegen.contract.blocking import DIRECT, LOCAL, PACKED, SHORT_DEPTH, Blocking
from dlc.codegen.contract.index import ZERO, decode, least, offset, scaled, total
from dlc.codegen.contract.microkernel import (
    LANES_NONE,
    LANES_STRIDE,
    LANES_UNIT,
    ROWS_NONE,
    ROWS_STRIDE,
    ROWS_TABLE,
    Level,
    MicroSpec,
    Place,
    ReadForm,
    call_micro_kernel,
    stage_kernel,
)
from dlc.codegen.contract.pack import call_panel_kernel, call_side_by_side, packed_panels
from dlc.ir.expr import Expr, Var, apply, cast, const
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, Let, LoopKind, Space, Stmt, Window

PREFETCH_STEPS = 16
"""Depth steps by which a packed panel is asked for: about the latency of the second-level cache and more."""

STAGED_BYTES = 128
"""So many bytes of each depth step are staged at once."""


@dataclass(frozen=True)
class RowMap:
    """Where tile rows lie in one tensor: a base offset, and per row an offset, a stride, or nothing."""

    mode: str
    base: Expr
    stride: int = 0
    table: tuple[Expr, ...] = ()

    def values(self, rows: int) -> tuple[Expr, ...]:
        """Return the scalars that a micro-kernel of ``rows`` rows takes for this tensor."""
        if self.mode == ROWS_TABLE:
            return self.table[:rows]
        return (const(self.stride),) if self.mode == ROWS_STRIDE else ()

    def offsets(self, rows: int) -> tuple[Expr, ...]:
        """Return the offset of every row."""
        return self.table[:rows] if self.mode == ROWS_TABLE else tuple(const(self.stride * i) for i in range(rows))


class MacroKernel:
    """Builds the entry kernel of one contraction: buffers row operand, panels, output, epilogue inputs."""

    def __init__(self, problem: Problem, blocking: Blocking) -> None:
        self.problem = problem
        self.blocking = blocking
        self.groups = (*problem.batch, *problem.columns[:-1])
        self.column = problem.columns[-1]
        self.tensors = (problem.row_operand, OUT, *range(FIRST_READ, FIRST_READ + len(problem.reads)))
        self.depth = extent_of(blocking.levels)
        """Depth steps of a whole packed panel."""

    def build(self, name: str, panel_size: int) -> Kernel:
        """Return the kernel; ``panel_size`` is the number of elements of the panel buffer."""
        problem, blocking = self.problem, self.blocking
        buffers = [
            Buffer("rows", problem.row_dtype, problem.sizes[problem.row_operand]),
            Buffer(
                "panel", problem.packed_dtype if blocking.panels_from == PACKED else problem.panel_dtype, panel_size
            ),
            Buffer("out", problem.out_dtype, problem.sizes[OUT], writable=True),
        ]
        for number, read in enumerate(problem.reads):
            alias = "out" if number in blocking.overwritten else None
            buffers.append(Buffer(f"e{number}", read.dtype, problem.sizes[FIRST_READ + number], aliases=alias))
        body = tuple(self.task())
        tasks = (
            ("rc", blocking.row_chunks),
            ("cc", blocking.column_chunks),
            ("group", extent_of(self.groups)),
        )
        for variable, extent in tasks:
            body = (For(Var(variable), const(extent), LoopKind.PARALLEL, body),)
        return Kernel(name, tuple(buffers), (), body)

    # -- loops of a task -------------------------------------------------------------------------

    def task(self) -> list[Stmt]:
        """Passes over the depth; in each, blocks of panels; for each block, all row tiles of the chunk."""
        blocking = self.blocking
        tiles = -(-blocking.tile_count // blocking.row_chunks)
        panels = -(-blocking.panels // blocking.column_chunks)
        first_tile, first_panel = scaled(Var("rc"), tiles), scaled(Var("cc"), panels)
        tile_end = least(total(first_tile, const(tiles)), blocking.tile_count)
        panel_end = least(total(first_panel, const(panels)), blocking.panels)
        block = total(first_panel, scaled(Var("nb"), blocking.block_panels))
        block_end = total(Var("panel0"), const(blocking.block_panels))
        if not self._equal_blocks():
            block_end = least(block_end, panel_end)
        lets: list[Stmt] = [Let(Var("panel0"), block), Let(Var("panel1"), block_end)]
        if blocking.row_chunks > 1 and blocking.tile_count % tiles:
            tile_count: Expr = apply("sub", tile_end, first_tile)
        else:
            tile_count = const(tiles)
        tile_loop = self._tile_loop(first_tile, tile_count)
        blocks = -(-panels // blocking.block_panels)
        work: list[Stmt] = [tile_loop]
        if blocking.panels_from == LOCAL:
            work = [*self._pack_block(), tile_loop]
        column_body: list[Stmt] = [*lets, *work]
        if blocking.column_chunks > 1 and blocking.panels % panels:
            # The last chunk may have fewer blocks than the others.
            column_body = [lets[0], If(apply("less", Var("panel0"), panel_end), (lets[1], *work))]
        statements: list[Stmt] = [For(Var("nb"), const(blocks), LoopKind.SERIAL, tuple(column_body))]
        if blocking.staged:
            size = self._together() * self._staged_size()
            statements.insert(0, Alloc(Buffer("staged", self.problem.dtype, size, Space.LOCAL)))
        if blocking.panels_from == LOCAL:
            size = blocking.block_panels * blocking.pass_depth * blocking.tile.width
            statements.insert(0, Alloc(Buffer("packed", self.problem.packed_dtype, size, Space.LOCAL)))
        if blocking.passes > 1:
            statements = [For(Var("pass"), const(blocking.passes), LoopKind.SERIAL, tuple(statements))]
        return statements

    def _equal_blocks(self) -> bool:
        """Whether all blocks of panels are of one size."""
        blocking = self.blocking
        return blocking.panels % (blocking.column_chunks * blocking.block_panels) == 0

    def _tile_loop(self, first_tile: Expr, count: Expr) -> For:
        """All row tiles of a chunk; where rows are staged, some tiles together."""
        number, together = Var("tt"), self._together()
        if not self.blocking.staged:
            return For(number, count, LoopKind.SERIAL, tuple(self._tile(total(first_tile, number))))
        start = scaled(Var("tg"), together)
        here = Let(number, total(start, Var("member")))
        members = least(apply("sub", count, start), together)
        groups = apply("floor_div", total(count, const(together - 1)), const(together))
        tiles = For(Var("member"), members, LoopKind.SERIAL, (here, *self._tile(total(first_tile, number))))
        last = total(first_tile, count, const(-1))
        begin = [least(total(first_tile, start, const(member)), last) for member in range(together)]
        return For(Var("tg"), groups, LoopKind.SERIAL, (*self._stage(begin), tiles))

    def _tile(self, tile: Expr) -> list[Stmt]:
        """One row tile against the panels of a block."""
        split = self.blocking.tiles
        statements: list[Stmt] = [Let(Var("tile"), tile), Let(Var("inner"), self._inner(tile))]
        statements.append(Let(Var("row0"), self._first_row(Var("inner"))))
        large, small = split.size + 1, split.size
        if not split.extra:
            return statements + self._rows(small)
        is_large = apply("less", Var("inner"), const(split.extra))
        return [*statements, If(is_large, tuple(self._rows(large)), tuple(self._rows(small)))]

    def _inner(self, tile: Expr) -> Expr:
        """Return the number of a tile among those of the rows that tiles run over."""
        return tile if self._one_inner() else apply("floor_mod", tile, const(self.blocking.tiles.parts))

    def _first_row(self, inner: Expr) -> Expr:
        split = self.blocking.tiles
        first = scaled(inner, split.size)
        return total(first, least(inner, split.extra)) if split.extra else first

    def _one_inner(self) -> bool:
        return self.blocking.tile_count == self.blocking.tiles.parts

    def _rows(self, rows: int) -> list[Stmt]:
        """Calls of the micro-kernel of ``rows`` rows: whole panels, then the ragged last one."""
        statements: list[Stmt] = []
        maps = {tensor: self._row_map(tensor, rows, statements) for tensor in self.tensors}
        width = self.blocking.tile.width
        full, tail = divmod(self.column.extent, width)
        end: Expr = Var("panel1")
        if tail:
            end = least(end, full)
        if full:
            count: Expr = apply("sub", end, Var("panel0"))
            if self._equal_blocks() and not tail:
                count = const(self.blocking.block_panels)
            panel = total(Var("panel0"), Var("p"))
            joint = self.blocking.joint
            if joint > 1:
                together = apply("floor_div", count, const(joint))
                first = total(Var("panel0"), scaled(Var("p"), joint))
                call = self._call(rows, self.blocking.tile.vectors, 0, first, maps, joint)
                statements.append(For(Var("p"), together, LoopKind.SERIAL, (call,)))
                done = scaled(together, joint)
                count, panel = apply("sub", count, done), total(panel, done)
            call = self._call(rows, self.blocking.tile.vectors, 0, panel, maps)
            statements.append(For(Var("p"), count, LoopKind.SERIAL, (call,)))
        if tail:
            lanes = self.blocking.tile.lanes
            call = self._call(rows, -(-tail // lanes), tail % lanes, const(full), maps)
            has_tail = apply("greater", Var("panel1"), const(full))
            statements.append(If(has_tail, (call,)) if self.blocking.panels > 1 else call)
        return statements

    def _together(self) -> int:
        """Return how many row tiles are staged together: enough that most of each line fetched is used."""
        tile = self.blocking.tile
        return min(self.blocking.tile_count, -(-STAGED_BYTES // (tile.rows * self.problem.dtype.itemsize)))

    def _staged_size(self) -> int:
        """Return the elements of a staged row tile."""
        return self.blocking.tile.pitch * self.blocking.pass_depth

    def _stage(self, tiles: list[Expr]) -> list[Stmt]:
        """Copy rows of ``tiles``, contiguous at each depth step, to scratch memory, steps next to each other."""
        levels, row_depth, _ = self._depth()
        tile, tensor, problem = self.blocking.tile, self.problem.row_operand, self.problem
        statements: list[Stmt] = []
        scalars: list[Expr] = [value for level in levels for value in (level.extent, level.row_stride)]
        for number, at in enumerate(tiles):
            place, row = Var(f"staged_tile{number}"), Var(f"staged_row{number}")
            statements += [Let(place, at), Let(row, self._first_row(self._inner(place)))]
            scalars.append(self._row_base(place, row, tensor))
            scalars.append(least(apply("sub", const(problem.rows[-1].extent), row), tile.pitch))
        kernel = stage_kernel(problem.dtype, tile.lanes, len(tiles), tile.pitch, len(levels))
        windows = (Window("rows", row_depth), Window("staged", ZERO))
        return [*statements, Call(kernel, windows, (*scalars, const(self._staged_size())))]

    # -- addresses -------------------------------------------------------------------------------

    def _row_map(self, tensor: int, rows: int, statements: list[Stmt]) -> RowMap:
        """Return where the tile's rows lie in ``tensor``; may bind offsets before its use."""
        axes = self.problem.rows
        row = Var("row0")
        if not self.blocking.flat:
            base = self._row_base(Var("tile"), row, tensor)
            stride = axes[-1].strides[tensor] if axes else 0
            return RowMap(ROWS_STRIDE if stride else ROWS_NONE, base, stride)
        group = self._group_base(tensor)
        merged = merge(axes, [tensor])
        if len(merged) == 1:
            stride = merged[0].strides[tensor]
            return RowMap(ROWS_STRIDE if stride else ROWS_NONE, total(group, scaled(row, stride)), stride)
        table = []
        for i in range(rows):
            variable = Var(f"row{tensor}_{i}")
            indices = decode(total(row, const(i)), [a.extent for a in merged])
            statements.append(Let(variable, offset(indices, merged, tensor)))
            table.append(variable)
        return RowMap(ROWS_TABLE, group, 0, tuple(table))

    def _group_base(self, tensor: int) -> Expr:
        return offset(decode(Var("group"), [a.extent for a in self.groups]), self.groups, tensor)

    def _row_base(self, tile: Expr, row: Expr, tensor: int) -> Expr:
        """Return where ``row`` of the innermost row axis begins in ``tensor``, for a tile that runs over that axis."""
        outer, inner = self.problem.rows[:-1], self.problem.rows[-1:]
        base = total(self._group_base(tensor), offset([row], inner, tensor) if inner else ZERO)
        if not outer:
            return base
        position = apply("floor_div", tile, const(self.blocking.tiles.parts))
        return total(base, offset(decode(position, [a.extent for a in outer]), outer, tensor))

    def _depth(self) -> tuple[tuple[Level, ...], Expr, Expr]:
        """Return the micro-kernel's depth loops and the pass's offsets in row and panel operands."""
        blocking, problem = self.blocking, self.problem
        levels, cut = blocking.levels, blocking.depth_level
        row, panel = problem.row_operand, problem.panel_operand
        if blocking.passes == 1:
            inner = [Level(const(a.extent), const(a.strides[row]), const(a.strides[panel])) for a in levels]
            return tuple(inner), ZERO, ZERO
        outer = levels[:cut]
        *indices, block = decode(Var("pass"), [*(a.extent for a in outer), blocking.depth_blocks])
        start = scaled(block, blocking.depth_block)
        axis = levels[cut]
        extent: Expr = const(blocking.depth_block)
        if axis.extent % blocking.depth_block:
            extent = least(extent, apply("sub", const(axis.extent), start))
        inner = [Level(extent, const(axis.strides[row]), const(axis.strides[panel]))]
        inner += [Level(const(a.extent), const(a.strides[row]), const(a.strides[panel])) for a in levels[cut + 1 :]]
        position = [*indices, start]
        row_offset = offset(position, levels[: cut + 1], row)
        if blocking.panels_from != PACKED:
            return tuple(inner), row_offset, offset(position, levels[: cut + 1], panel)
        flat: Expr = ZERO
        for index, level in zip(position, levels[: cut + 1], strict=True):
            flat = total(scaled(flat, level.extent), index)
        flat = scaled(flat, extent_of(levels[cut + 1 :]) * blocking.tile.width)
        return tuple(inner), row_offset, flat

    def _ahead(self) -> tuple[Expr, ...]:
        """The row tiles of a block share the work of asking for the next block's panel in the same place."""
        blocking = self.blocking
        if not blocking.ahead:
            return ()
        tiles = -(-blocking.tile_count // blocking.row_chunks)
        step = -(-blocking.tile.width // tiles)
        depth = self.blocking.pass_depth
        first = blocking.block_panels * self.depth * blocking.tile.width
        return total(const(first), scaled(Var("tt"), depth * step)), const(step)

    def _staged_levels(self, levels: tuple[Level, ...]) -> tuple[Level, ...]:
        """Give the depth loops the strides of staged rows."""
        staged: list[Level] = []
        step: Expr = const(self.blocking.tile.pitch)
        for level in reversed(levels):
            staged.append(Level(level.extent, step, level.panel_stride))
            step = apply("mul", level.extent, step)
        return tuple(reversed(staged))

    def _source_offset(self, panel: Expr) -> Expr:
        """Where a panel begins in the panel operand itself."""
        tensor = self.problem.panel_operand
        return total(self._group_base(tensor), scaled(panel, self.blocking.tile.width * self.column.strides[tensor]))

    def _crosses_lines(self) -> bool:
        """Whether vectors of a panel that is read in place may lie across two cache lines."""
        panel, lanes = self.problem.panel_operand, self.blocking.tile.lanes
        return any(axis.strides[panel] % lanes for axis in (*self.groups, *self.problem.depth))

    def _panel_window(self, panel: Expr) -> Window:
        blocking = self.blocking
        _, _, panel_depth = self._depth()
        if blocking.panels_from == DIRECT:
            return Window("panel", total(self._source_offset(panel), panel_depth))
        if blocking.panels_from == LOCAL:
            index = panel if blocking.block_panels == blocking.panels else apply("sub", panel, Var("panel0"))
            return Window("packed", scaled(index, blocking.pass_depth * blocking.tile.width))
        size = self.depth * blocking.tile.width
        return Window("panel", total(scaled(Var("group"), blocking.panels * size), scaled(panel, size), panel_depth))

    def _pack_block(self) -> list[Stmt]:
        """Pack the panels of a block into scratch memory."""
        blocking, panel = self.blocking, Var("packing")
        packed = packed_panels(self.problem, blocking.tile.width, blocking.tile.lanes)
        levels, _, panel_depth = self._depth()
        runs = [(level.extent, level.panel_stride) for level in levels]
        size = blocking.pass_depth * blocking.tile.width
        full, tail = divmod(self.column.extent, blocking.tile.width)

        def windows(first: Expr) -> tuple[Window, Window]:
            to = scaled(apply("sub", first, Var("panel0")), size)
            return Window("panel", total(self._source_offset(first), panel_depth)), Window("packed", to)

        statements: list[Stmt] = []
        if full:
            whole = apply("sub", least(Var("panel1"), full) if tail else Var("panel1"), Var("panel0"))
            if packed.unit and self._packs_all():
                depth = blocking.pass_depth
                statements.append(call_side_by_side(packed, windows(Var("panel0")), runs, whole, depth))
            else:
                here = Let(panel, total(Var("panel0"), Var("p")))
                one = call_panel_kernel(packed, windows(panel), runs, blocking.tile.width)
                statements.append(For(Var("p"), whole, LoopKind.SERIAL, (here, self._if_wanted(panel, one))))
        if tail:
            ragged = call_panel_kernel(packed, windows(const(full)), runs, tail)
            has_tail = apply("greater", Var("panel1"), const(full))
            statements.append(If(has_tail, (self._if_wanted(const(full), ragged),)))
        return statements

    def _packs_all(self) -> bool:
        """Return whether every panel of a block is packed."""
        return True

    def _if_wanted(self, panel: Expr, packing: Stmt) -> Stmt:
        """Return the packing of a panel, under the condition that it is wanted if not all are."""
        return packing

    def _call(self, rows: int, vectors: int, ragged: int, panel: Expr, maps: dict[int, RowMap], joint: int = 1) -> Stmt:
        """One micro-kernel call: ``joint`` panels from ``panel`` on, ``vectors`` of each, the last one ``ragged``."""
        problem, blocking = self.problem, self.blocking
        tile = blocking.tile
        levels, row_depth, _ = self._depth()
        forms, places = [], []
        first = scaled(panel, tile.width)
        for number, read in enumerate(problem.reads):
            tensor = FIRST_READ + number
            stride = self.column.strides[tensor]
            lanes = LANES_NONE if stride == 0 else LANES_UNIT if stride == 1 else LANES_STRIDE
            where = maps[tensor]
            forms.append(ReadForm(read.dtype, where.mode, lanes, number in blocking.overwritten))
            base = total(where.base, scaled(first, stride), const(read.offset))
            places.append(Place(Window(f"e{number}", base), where.values(rows), const(stride)))
        row_map = maps[problem.row_operand]
        offsets = row_map.offsets(rows)
        row_base = total(row_map.base, row_depth, scaled(first, self.column.strides[problem.row_operand]))
        row_window = Window("rows", row_base)
        if blocking.staged:
            row_window = Window("staged", scaled(Var("member"), self._staged_size()))
            levels = self._staged_levels(levels)
        strided = all(where.mode != ROWS_TABLE for where in maps.values())
        early = blocking.pass_depth < SHORT_DEPTH and strided and not problem.spread
        spec = MicroSpec(
            dtype=problem.dtype,
            lanes=tile.lanes,
            rows=rows,
            vectors=vectors * joint,
            joint=joint,
            early=early,
            levels=len(levels),
            panel_width=0 if blocking.panels_from == DIRECT else tile.width,
            out_rows=maps[OUT].mode,
            out_dtype=problem.out_dtype,
            body=problem.body,
            reads=tuple(forms),
            spread=problem.spread,
            masked=ragged > 0,
            blocked=blocking.passes > 1,
            prefetch=0 if problem.spread else PREFETCH_STEPS,
            crossing=blocking.panels_from == DIRECT and not problem.spread and self._crosses_lines(),
            ahead=blocking.ahead,
            pairs=problem.pairs,
            odd=problem.odd,
        )
        out = Place(Window("out", total(maps[OUT].base, first)), maps[OUT].values(rows))
        flags = (
            cast(apply("equal", Var("pass"), ZERO), ZERO.dtype),
            cast(apply("equal", Var("pass"), const(blocking.passes - 1)), ZERO.dtype),
        )
        return call_micro_kernel(
            spec,
            row_window,
            offsets,
            self._panel_window(panel),
            out,
            levels,
            tuple(places),
            const(ragged),
            flags,
            self._ahead(),
            const((self.depth if blocking.panels_from == PACKED else blocking.pass_depth) * tile.width),
        )


def macro_kernel(problem: Problem, blocking: Blocking, name: str, panel_size: int) -> Kernel:
    """Return the entry kernel (row operand, panels, output, epilogue inputs)."""
    return MacroKernel(problem, blocking).build(name, panel_size)
