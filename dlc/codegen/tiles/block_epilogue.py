"""The epilogue over results that lie in scratch memory: a block, or tiles of sums.

It must not know how blocks are scheduled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract.index import scaled, total
from dlc.codegen.contract.microkernel import LANES_NONE, LANES_STRIDE, LANES_UNIT
from dlc.codegen.tiles.sizes import BLOCK, TILE
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, substitute
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.types import DType, float32


@dataclass(frozen=True)
class BlockEpilogue:
    """What is stored for a block: ``body`` over the accumulator and reads, each (dtype, how lanes lie)."""

    body: Expr
    out_dtype: DType
    reads: tuple[tuple[DType, str], ...]
    ragged: bool


def epilogue_scalars(spec: BlockEpilogue) -> list[str]:
    """Name the kernel's scalars: rows, strides of rows and where needed of lanes, then the columns if ragged."""
    names = ["row_count", "out_row"]
    for number, (_, lanes) in enumerate(spec.reads):
        names.append(f"e{number}_row")
        if lanes == LANES_STRIDE:
            names.append(f"e{number}_lane")
    return [*names, "column_count"] if spec.ragged else names


def epilogue_buffers(spec: BlockEpilogue) -> tuple[Buffer, ...]:
    """Return the buffers of the output and the epilogue's inputs."""
    reads = (Buffer(f"e{number}", dtype, None) for number, (dtype, _) in enumerate(spec.reads))
    return Buffer("out", spec.out_dtype, None, writable=True), *reads


def store_results(spec: BlockEpilogue, value: Expr, row: Expr, first: int = 0) -> For:
    """Apply the epilogue to ``value``, a row's results per ``lane`` from column ``first`` on, and store the vector."""
    lane = Var("lane")
    column = total(lane, const(first))
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
    active = apply("less", column, Var("column_count")) if spec.ragged else None
    return For(lane, const(TILE), LoopKind.VECTOR, (store,), active)


@lru_cache(maxsize=1024)
def epilogue_block_kernel(spec: BlockEpilogue) -> Kernel:
    """Return the kernel (block, out, epilogue inputs) that applies the epilogue to a block and stores it."""
    row = Var("row")
    stores = []
    for first in (0, TILE):
        value = Load("block", total(scaled(row, BLOCK), Var("lane"), const(first)), float32)
        stores.append(store_results(spec, value, row, first))
    buffers = (Buffer("block", float32, None), *epilogue_buffers(spec))
    scalars = tuple(Var(name) for name in epilogue_scalars(spec))
    body = (For(row, Var("row_count"), LoopKind.SERIAL, tuple(stores)),)
    return Kernel("epilogue_block" + ("_ragged" if spec.ragged else ""), buffers, scalars, body)
