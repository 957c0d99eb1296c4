"""Kernels on tiles of fixed-point numbers: products of bytes, and the epilogue over their four sums.

Products of equal weight share a sum; of the ten products that weigh enough, those of last digits are left out where
24 bits suffice. They must not know how tiles are scheduled.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract.index import scaled, total
from dlc.codegen.tiles.block_epilogue import BlockEpilogue, epilogue_buffers, epilogue_scalars, store_results
from dlc.codegen.tiles.fixed_point import COLUMN_STEP_WORDS, DIGITS, LANES, ROW_STEP_WORDS, TILE_WORDS
from dlc.codegen.tiles.sizes import LINE
from dlc.ir.expr import Expr, Load, Var, apply, cast, const
from dlc.ir.kernel import (
    Buffer,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Prefetch,
    Stmt,
    TileLoad,
    TileMultiply,
    TileStore,
    TileZero,
)
from dlc.ir.types import float32, int8, int32, uint32

WEIGHTS = DIGITS
"""Different weights of products, each 256 times the next."""
SUMS = WEIGHTS * LANES * LANES
PRECISIONS = SHORT, LONG_ROWS, LONG = range(3)
"""Precisions: three digits of both sides, four of rows, four of both."""
_NAMES = ("short", "long_rows", "long")


@lru_cache(maxsize=8)
def fixed_tiles_kernel(precision: int) -> Kernel:
    """Return the kernel (rows, panel, last, sums) that multiplies a tile of rows with a tile of columns.

    ``last`` holds the last digits of columns. Scalars: ``steps``; where of the panel's buffer the first line lies
    that should be in the second-level cache soon, and how many lines each step asks for.
    """
    return Kernel(f"fixed_tiles_{_NAMES[precision]}", _TILE_BUFFERS, _TILE_SCALARS, tuple(_tiles(precision, ())))


@lru_cache(maxsize=1024)
def fixed_tiles_and_epilogue_kernel(precision: int, spec: BlockEpilogue) -> Kernel:
    """Return the kernel that multiplies tiles and meanwhile stores the results of another tile.

    Buffers and scalars are those of ``fixed_tiles_kernel``, then those of ``fixed_epilogue_kernel``, then the number
    of rows to store in every step: vector units are free while tiles are multiplied.
    """
    row = total(apply("mul", Var("k"), Var("each")), Var("r"))
    store = If(apply("less", Var("row"), Var("row_count")), (_epilogue_row(spec, Var("row")),))
    meanwhile = For(Var("r"), Var("each"), LoopKind.SERIAL, (Let(Var("row"), row), store))
    return Kernel(
        f"fixed_tiles_{_NAMES[precision]}_and_epilogue" + ("_ragged" if spec.ragged else ""),
        (*_TILE_BUFFERS, *_epilogue_buffers(spec)),
        (*_TILE_SCALARS, *map(Var, epilogue_scalars(spec)), Var("each")),
        tuple(_tiles(precision, (meanwhile,))),
    )


@lru_cache(maxsize=1024)
def fixed_epilogue_kernel(spec: BlockEpilogue) -> Kernel:
    """Return the kernel (done, scales, units, out, epilogue inputs) that stores a tile's results.

    ``done`` holds its sums, ``scales`` those of rows, ``units`` those of columns. Scalars: rows, strides of rows and
    where needed of lanes, and with ``ragged`` the columns.
    """
    body = (For(Var("row"), Var("row_count"), LoopKind.SERIAL, (_epilogue_row(spec, Var("row")),)),)
    name = "fixed_epilogue" + ("_ragged" if spec.ragged else "")
    return Kernel(name, _epilogue_buffers(spec), tuple(map(Var, epilogue_scalars(spec))), body)


_TILE_BUFFERS = (
    *(Buffer(name, uint32, None) for name in ("rows", "panel", "last")),
    Buffer("sums", int32, None, writable=True),
)
_TILE_SCALARS = (Var("steps"), Var("first"), Var("lines"))


def _tiles(precision: int, meanwhile: tuple[Stmt, ...]) -> list[Stmt]:
    """Multiply tiles over all steps, doing something else in each of them, and store the sums."""
    step, columns = Var("k"), 7
    body: list[Stmt] = []

    def row(digit: int, tile: int) -> int:
        at = total(scaled(step, ROW_STEP_WORDS), const(digit * TILE_WORDS))
        body.append(TileLoad(tile, "rows", at, const(LANES)))
        return tile

    def column(digit: int) -> None:
        at = total(scaled(step, COLUMN_STEP_WORDS), const(digit * TILE_WORDS))
        body.append(TileLoad(columns, "panel", at, const(LANES)))

    column(0)
    if precision != SHORT:
        body.append(TileMultiply(3, row(3, 4), columns, int8))
    rows = []
    for digit in range(3):
        rows.append(row(digit, 4 + digit))
        body.append(TileMultiply(digit, rows[-1], columns, int8))
    column(1)
    body += [TileMultiply(1 + digit, rows[digit], columns, int8) for digit in range(3)]
    column(2)
    body += [TileMultiply(2 + digit, rows[digit], columns, int8) for digit in range(2)]
    if precision == LONG:
        body.append(TileLoad(columns, "last", scaled(step, TILE_WORDS), const(LANES)))
        body.append(TileMultiply(3, rows[0], columns, int8))
    line = total(Var("first"), scaled(total(apply("mul", step, Var("lines")), Var("line")), LINE))
    body.append(For(Var("line"), Var("lines"), LoopKind.SERIAL, (Prefetch("panel", line, 2),)))
    statements: list[Stmt] = [TileZero(weight) for weight in range(WEIGHTS)]
    statements.append(For(step, Var("steps"), LoopKind.SERIAL, (*body, *meanwhile)))
    return [*statements, *(TileStore(w, "sums", const(w * LANES * LANES), const(LANES)) for w in range(WEIGHTS))]


def _epilogue_buffers(spec: BlockEpilogue) -> tuple[Buffer, ...]:
    sums = (Buffer("done", int32, None), Buffer("scales", float32, None), Buffer("units", float32, None))
    return *sums, *epilogue_buffers(spec)


def _epilogue_row(spec: BlockEpilogue, row: Expr) -> Stmt:
    """Combine a row's sums, scale them, apply the epilogue and store the result."""
    lane = Var("lane")
    value: Expr | None = None
    for weight in reversed(range(WEIGHTS)):
        place = total(scaled(row, LANES), const(weight * LANES * LANES), lane)
        number = cast(Load("done", place, int32), float32)
        factor = const(256.0 ** (6 - weight), float32)
        value = apply("mul", number, factor) if value is None else apply("fma", number, factor, value)
    assert value is not None
    value = apply("mul", apply("mul", value, Load("units", lane, float32)), Load("scales", row, float32))
    return store_results(spec, value, row)
