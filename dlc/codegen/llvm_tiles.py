"""Emits tile (AMX) operations.

It must not know which kernels use them.
"""

from __future__ import annotations

from collections.abc import Callable

from dlc.codegen.llvm_expr import evaluate
from dlc.codegen.llvm_memory import address
from dlc.codegen.llvm_state import FunctionState, Memory
from dlc.errors import CompileError
from dlc.ir.expr import apply, const
from dlc.ir.kernel import (
    Stmt,
    TileConfigure,
    TileLoad,
    TileMultiply,
    TileRelease,
    TileStore,
    TileZero,
)
from dlc.ir.types import bfloat16, int8

_PRODUCTS = {bfloat16: ("amx-bf16", "tdpbf16ps"), int8: ("amx-int8", "tdpbssd")}
"""Elements of tiles -> the target's feature and the instruction that multiply them."""


def _require(s: FunctionState, statement: Stmt) -> None:
    if not s.target.has("amx-tile"):
        raise CompileError(f"kernel {s.kernel.name}: {type(statement).__name__} wants AMX, which {s.target.name} lacks")


def _configure(s: FunctionState, statement: TileConfigure) -> None:
    """Load a palette-1 configuration: 16 bytes of head, 16 row lengths (16 bits), 16 row counts (8 bits)."""
    _require(s, statement)
    head = bytes([1]) + bytes(15)
    lengths = b"".join((64).to_bytes(2, "little") for _ in statement.rows).ljust(32, b"\0")
    data = head + lengths + bytes(statement.rows).ljust(16, b"\0")
    name = "@dlc_tiles_" + "_".join(map(str, statement.rows))
    text = "".join(f"\\{byte:02X}" for byte in data)
    s.module.globals[name] = f'{name} = internal constant [64 x i8] c"{text}", align 64'
    s.declare("void @llvm.x86.ldtilecfg(ptr)")
    s.do(f"call void @llvm.x86.ldtilecfg(ptr {name})")


def _release(s: FunctionState, statement: TileRelease) -> None:
    _require(s, statement)
    s.declare("void @llvm.x86.tilerelease()")
    s.do("call void @llvm.x86.tilerelease()")


def _zero(s: FunctionState, statement: TileZero) -> None:
    _require(s, statement)
    s.declare("void @llvm.x86.tilezero(i8)")
    s.do(f"call void @llvm.x86.tilezero(i8 {statement.tile})")


def _move(s: FunctionState, name: str, statement: TileLoad | TileStore, memory: Memory) -> None:
    _require(s, statement)
    where = address(s, memory, evaluate(s, statement.index))
    stride = evaluate(s, apply("mul", statement.stride, const(memory.dtype.itemsize)))
    s.declare(f"void @llvm.x86.{name}(i8, ptr, i64)")
    s.do(f"call void @llvm.x86.{name}(i8 {statement.tile}, ptr {where}, i64 {stride.text})")


def _load(s: FunctionState, statement: TileLoad) -> None:
    _move(s, "tileloadd64", statement, s.buffer(statement.buffer))


def _store(s: FunctionState, statement: TileStore) -> None:
    _move(s, "tilestored64", statement, s.buffer(statement.buffer))
    s.wrote()


def _multiply(s: FunctionState, statement: TileMultiply) -> None:
    _require(s, statement)
    unit, name = _PRODUCTS[statement.dtype]
    if not s.target.has(unit):
        raise CompileError(f"kernel {s.kernel.name}: {name} wants {unit}, which {s.target.name} lacks")
    s.declare(f"void @llvm.x86.{name}(i8, i8, i8)")
    s.do(f"call void @llvm.x86.{name}(i8 {statement.target}, i8 {statement.left}, i8 {statement.right})")


TILE_STATEMENTS: dict[type, Callable[..., None]] = {
    TileConfigure: _configure,
    TileRelease: _release,
    TileZero: _zero,
    TileLoad: _load,
    TileStore: _store,
    TileMultiply: _multiply,
}
"""How each statement is emitted, for the table of all statements."""
