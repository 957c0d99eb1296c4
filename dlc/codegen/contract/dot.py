"""Contractions as dot products: vectors run along the depth, where both operands are contiguous.

For matrix-vector products and others in which one side is too small to repay
packing the other. It must not know outer-product tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract.analysis import FIRST_READ, OUT, LoopAxis, Problem, extent_of
from dlc.codegen.contract.blocking import SMALL_FLOPS, Split
from dlc.codegen.contract.index import ZERO, decode, least, offset, scaled, total
from dlc.codegen.target import CpuTarget
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Apply, Expr, Horizontal, Load, Var, apply, cast, const, substitute
from dlc.ir.kernel import Accumulate, Alloc, Buffer, Call, For, If, Kernel, Let, LoopKind, Space, Stmt, Store, Window
from dlc.ir.types import DType

CHAINS = 8
"""Independent accumulators that hide the latency of fused multiply-adds."""


@dataclass(frozen=True)
class DotSpec:
    """The structure of a dot-product kernel: ``rows`` dot products with one common vector, over ``levels`` depth loops.

    ``reads`` are the dtypes of the epilogue's tensors.
    """

    dtype: DType
    lanes: int
    rows: int
    levels: int
    out_dtype: DType
    body: Expr
    reads: tuple[DType, ...]

    @property
    def chains(self) -> int:
        """Accumulators per row."""
        return max(1, CHAINS // self.rows)


def fits_dot(problem: Problem) -> bool:
    """Whether the innermost depth axis is contiguous in both operands."""
    return bool(problem.depth) and problem.depth[-1].strides[:OUT] == (1, 1)


def dot_kernel(problem: Problem, target: CpuTarget, threads: int, name: str) -> Kernel:
    """Return the entry kernel (many, few, out, epilogue inputs): ``many`` is the operand with more vectors."""
    many, few, axes, others = sides(problem)
    inner = axes[-1] if axes else LoopAxis(1, (0,) * (FIRST_READ + len(problem.reads)))
    outer = (*problem.batch, *others, *axes[:-1])
    tiles = Split(inner.extent, -(-inner.extent // CHAINS))
    chunk = _tiles_per_task(problem, tiles.parts, extent_of(outer), threads)
    chunks = -(-tiles.parts // chunk)
    indices = decode(Var("group"), [axis.extent for axis in outer])
    first = scaled(Var("tile"), tiles.size)
    if tiles.extra:
        first = total(first, least(Var("tile"), tiles.extra))

    def place(tensor: int, constant: int = 0) -> Expr:
        base = offset(indices, outer, tensor)
        return total(base, scaled(Var("row0"), inner.strides[tensor]), const(constant))

    def call(rows: int) -> Stmt:
        spec = DotSpec(
            problem.dtype,
            target.lanes(problem.dtype.itemsize),
            rows,
            len(problem.depth),
            problem.out_dtype,
            problem.body,
            tuple(read.dtype for read in problem.reads),
        )
        windows = [Window("many", place(many)), Window("few", offset(indices, outer, few)), Window("out", place(OUT))]
        scalars: list[Expr] = [const(inner.strides[many]), const(inner.strides[OUT])]
        for level, axis in enumerate(problem.depth):
            scalars.append(const(axis.extent))
            if level < len(problem.depth) - 1:
                scalars += [const(axis.strides[many]), const(axis.strides[few])]
        for number, read in enumerate(problem.reads):
            windows.append(Window(f"e{number}", place(FIRST_READ + number, read.offset)))
            scalars.append(const(inner.strides[FIRST_READ + number]))
        return Call(dot_micro_kernel(spec), tuple(windows), tuple(scalars))

    inside: Stmt = call(tiles.size)
    if tiles.extra:
        inside = If(apply("less", Var("tile"), const(tiles.extra)), (call(tiles.size + 1),), (inside,))
    count: Expr = const(chunk)
    if tiles.parts % chunk:
        count = apply("minimum", count, apply("sub", const(tiles.parts), scaled(Var("chunk"), chunk)))
    steps = (Let(Var("tile"), total(scaled(Var("chunk"), chunk), Var("step"))), Let(Var("row0"), first), inside)
    body: tuple[Stmt, ...] = (For(Var("step"), count, LoopKind.SERIAL, steps),)
    for variable, extent in (("chunk", chunks), ("group", extent_of(outer))):
        body = (For(Var(variable), const(extent), LoopKind.PARALLEL, body),)
    buffers = [
        Buffer("many", problem.dtype, problem.sizes[many]),
        Buffer("few", problem.dtype, problem.sizes[few]),
        Buffer("out", problem.out_dtype, problem.sizes[OUT], writable=True),
    ]
    for number, read in enumerate(problem.reads):
        buffers.append(Buffer(f"e{number}", read.dtype, problem.sizes[FIRST_READ + number]))
    return Kernel(name, tuple(buffers), (), body)


def sides(problem: Problem) -> tuple[int, int, tuple[LoopAxis, ...], tuple[LoopAxis, ...]]:
    """Return (operand with more vectors, the other, axes of the one, axes of the other)."""
    if problem.row_count > problem.column_count:
        return problem.row_operand, problem.panel_operand, problem.rows, problem.columns
    return problem.panel_operand, problem.row_operand, problem.columns, problem.rows


def dot_tiles(problem: Problem) -> int:
    """Return how many groups of dot products there are."""
    _, _, axes, others = sides(problem)
    inner = axes[-1].extent if axes else 1
    return problem.batch_count * extent_of(others) * extent_of(axes[:-1]) * -(-inner // CHAINS)


def _tiles_per_task(problem: Problem, tiles: int, groups: int, threads: int) -> int:
    """Return how many row tiles one task runs: enough to be worth a task, few enough to balance."""
    if threads == 1 or problem.flops < SMALL_FLOPS:
        return tiles
    wanted = max(1, -(-4 * threads // groups))
    smallest = max(1, SMALL_FLOPS // 4 // (2 * problem.depth_count * CHAINS))
    return min(tiles, max(smallest, -(-tiles // wanted)))


@lru_cache(maxsize=1024)
def dot_micro_kernel(spec: DotSpec) -> Kernel:
    """Return the kernel: buffers many, few, out, then the epilogue's.

    Scalars: strides of rows in ``many`` and ``out``; per level its extent and, but for the innermost, which is
    contiguous, its strides in ``many`` and ``few``; the row stride of each epilogue tensor.
    """
    names = ["row_stride", "out_stride"]
    for level in range(spec.levels):
        names.append(f"n{level}")
        if level < spec.levels - 1:
            names += [f"da{level}", f"dx{level}"]
    names += [f"e{number}_stride" for number in range(len(spec.reads))]
    buffers = [Buffer("many", spec.dtype, None), Buffer("few", spec.dtype, None)]
    buffers.append(Buffer("out", spec.out_dtype, None, writable=True))
    buffers += [Buffer(f"e{number}", dtype, None) for number, dtype in enumerate(spec.reads)]
    size = spec.rows * spec.chains * spec.lanes
    body: list[Stmt] = [Alloc(Buffer("acc", spec.dtype, size, Space.LOCAL))]
    for slot in range(spec.rows * spec.chains):
        zero = Store("acc", total(Var("lane"), const(slot * spec.lanes)), const(0, spec.dtype))
        body.append(For(Var("lane"), const(spec.lanes), LoopKind.VECTOR, (zero,)))
    body += [Let(Var(f"a{row}"), apply("mul", Var("row_stride"), const(row))) for row in range(spec.rows)]
    loops = _run(spec)
    for level in reversed(range(spec.levels - 1)):
        lets = [
            Let(
                Var(f"ka{level + 1}"),
                apply("add", Var(f"ka{level}"), apply("mul", Var(f"k{level}"), Var(f"da{level}"))),
            ),
            Let(
                Var(f"kx{level + 1}"),
                apply("add", Var(f"kx{level}"), apply("mul", Var(f"k{level}"), Var(f"dx{level}"))),
            ),
        ]
        loops = [For(Var(f"k{level}"), Var(f"n{level}"), LoopKind.SERIAL, (*lets, *loops))]
    body += [Let(Var("ka0"), ZERO), Let(Var("kx0"), ZERO), *loops]
    for row in range(spec.rows):
        body += _finish(spec, row)
    name = f"dot_{spec.dtype}_{spec.rows}x{spec.lanes}_d{spec.levels}"
    return Kernel(name, tuple(buffers), tuple(Var(name) for name in names), tuple(body))


def _run(spec: DotSpec) -> list[Stmt]:
    """The contiguous innermost depth: blocks of all chains, then single vectors, then a masked rest."""
    level = spec.levels - 1
    length, block = Var(f"n{level}"), spec.chains * spec.lanes
    blocks = apply("floor_div", length, const(block))
    statements: list[Stmt] = [
        For(Var("block"), blocks, LoopKind.SERIAL, tuple(_products(spec, scaled(Var("block"), block), spec.chains)))
    ]
    done: Expr = scaled(blocks, block)
    if spec.chains > 1:
        vectors = apply("floor_div", apply("sub", length, done), const(spec.lanes))
        at = total(done, scaled(Var("vector"), spec.lanes))
        statements.append(For(Var("vector"), vectors, LoopKind.SERIAL, tuple(_products(spec, at, 1))))
        done = scaled(apply("floor_div", length, const(spec.lanes)), spec.lanes)
    statements.append(Let(Var("rest"), apply("sub", length, done)))
    masked = _products(spec, done, 1, apply("less", Var("lane"), Var("rest")))
    statements.append(If(apply("greater", Var("rest"), ZERO), tuple(masked)))
    return statements


def _products(spec: DotSpec, start: Expr, chains: int, active: Apply | None = None) -> list[Stmt]:
    level = spec.levels - 1
    statements: list[Stmt] = []
    for chain in range(chains):
        at = total(start, Var("lane"), const(chain * spec.lanes))
        x = Load("few", total(Var(f"kx{level}"), at), spec.dtype)
        updates: list[Stmt] = [Let(Var("x", spec.dtype), x)]
        for row in range(spec.rows):
            a = Load("many", total(Var(f"a{row}"), Var(f"ka{level}"), at), spec.dtype)
            slot = total(Var("lane"), const((row * spec.chains + chain) * spec.lanes))
            updates.append(Accumulate("acc", slot, "fma", apply("mul", a, Var("x", spec.dtype))))
        statements.append(For(Var("lane"), const(spec.lanes), LoopKind.VECTOR, tuple(updates), active))
    return statements


def _finish(spec: DotSpec, row: int) -> list[Stmt]:
    """Add the chains of a row, then its lanes; apply the epilogue; store."""
    statements: list[Stmt] = []
    first = row * spec.chains
    step = spec.chains // 2
    while step:
        for chain in range(step):
            index = total(Var("lane"), const((first + chain) * spec.lanes))
            other = Load("acc", total(Var("lane"), const((first + chain + step) * spec.lanes)), spec.dtype)
            update = Accumulate("acc", index, "add", other)
            statements.append(For(Var("lane"), const(spec.lanes), LoopKind.VECTOR, (update,)))
        step //= 2
    value = Var(f"dot{row}", spec.dtype)
    statements.append(Let(value, Horizontal("add", "acc", const(first * spec.lanes), spec.lanes, spec.dtype)))
    mapping: dict[Expr, Expr] = {Var(ACCUMULATOR, spec.dtype): value}
    for number, dtype in enumerate(spec.reads):
        mapping[Var(f"read{number}", dtype)] = Load(f"e{number}", scaled(Var(f"e{number}_stride"), row), dtype)
    result = cast(substitute(spec.body, mapping), spec.out_dtype)
    return [*statements, Store("out", scaled(Var("out_stride"), row), result)]
