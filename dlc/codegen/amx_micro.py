"""Sizes of tiles (AMX), and the epilogue over a block of results.

It must not know how blocks are scheduled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract_index import scaled, total
from dlc.codegen.microkernel import LANES_NONE, LANES_STRIDE, LANES_UNIT
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, substitute
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Stmt, Store
from dlc.ir.types import DType, float32

TILE = 16
"""Rows of a tile, and float32 columns."""
STEP = 32
"""Depth of one tile product of bfloat16."""
BLOCK = 2 * TILE
"""Rows and columns of a block: two by two tiles of accumulators."""
TILE_ELEMENTS = TILE * STEP

_LANE = Var("lane")


def _vector(lanes: int, *body: Stmt, active: Expr | None = None) -> For:
    return For(_LANE, const(lanes), LoopKind.VECTOR, body, active)


@dataclass(frozen=True)
class BlockEpilogue:
    """What is stored for a block: ``body`` over the accumulator and reads, each (dtype, how lanes lie)."""

    body: Expr
    out_dtype: DType
    reads: tuple[tuple[DType, str], ...]
    ragged: bool


def epilogue_scalars(spec: BlockEpilogue) -> list[str]:
    """Name the kernel's scalars: rows, strides of rows and where needed of lanes, then the columns if ragged."""
    names = ["rows", "out_row"]
    for number, (_, lanes) in enumerate(spec.reads):
        names.append(f"e{number}_row")
        if lanes == LANES_STRIDE:
            names.append(f"e{number}_lane")
    return [*names, "columns"] if spec.ragged else names


@lru_cache(maxsize=1024)
def epilogue_block_kernel(spec: BlockEpilogue) -> Kernel:
    """Return the kernel (block, out, epilogue inputs) that applies the epilogue to a block and stores it."""
    row = Var("row")
    loops: list[Stmt] = []
    for half in range(2):
        column = total(_LANE, const(half * TILE))
        value = Load("block", total(scaled(row, BLOCK), column), float32)
        mapping: dict[Expr, Expr] = {Var(ACCUMULATOR, float32): value}
        for number, (dtype, lanes) in enumerate(spec.reads):
            index: Expr = apply("mul", row, Var(f"e{number}_row"))
            if lanes == LANES_UNIT:
                index = apply("add", index, column)
            elif lanes != LANES_NONE:
                index = apply("add", index, apply("mul", column, Var(f"e{number}_lane")))
            mapping[Var(f"read{number}", dtype)] = Load(f"e{number}", index, dtype)
        result = cast(substitute(spec.body, mapping), spec.out_dtype)
        store = Store("out", apply("add", apply("mul", row, Var("out_row")), column), result)
        active = apply("less", column, Var("columns")) if spec.ragged else None
        loops.append(_vector(TILE, store, active=active))
    buffers = [Buffer("block", float32, None), Buffer("out", spec.out_dtype, None, writable=True)]
    buffers += [Buffer(f"e{number}", dtype, None) for number, (dtype, _) in enumerate(spec.reads)]
    scalars = tuple(Var(name) for name in epilogue_scalars(spec))
    body = (For(row, Var("rows"), LoopKind.SERIAL, tuple(loops)),)
    return Kernel("epilogue_block" + ("_ragged" if spec.ragged else ""), tuple(buffers), scalars, body)
