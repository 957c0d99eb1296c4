"""Emits tile (AMX) operations.

It must not know which kernels use them.
"""

from __future__ import annotations

from collections.abc import Callable

from dlc.codegen.llvm.expr import evaluate
from dlc.codegen.llvm.memory import address
from dlc.codegen.llvm.state import TILES, FunctionState
from dlc.codegen.llvm.tiles_emulated import emulated
from dlc.errors import CompileError
from dlc.ir.expr import apply, const
from dlc.ir.kernel import (
    TileConfigure,
    TileLoad,
    TileMultiply,
    TileRelease,
    TileStore,
    TileZero,
)
from dlc.ir.types import bfloat16, int8

_MOVES = "amx-tile"
"""The target's feature of all that is done with tiles but products."""
_PRODUCTS = {bfloat16: ("amx-bf16", "tdpbf16ps"), int8: ("amx-int8", "tdpbssd")}
"""Elements of tiles -> the target's feature and the instruction that multiply them."""

_CONFIGURATION = (
    bytes([1]).ljust(16, b"\0") + ((64).to_bytes(2, "little") * 8).ljust(32, b"\0") + bytes([16] * 8 + [0] * 8)
)
"""Palette 1: 16 bytes of head, 16 lengths of rows (16 bits), 16 numbers of rows (8 bits), of eight tiles."""


def _do(s: FunctionState, unit: str, name: str, *arguments: tuple[str, str]) -> None:
    """Call the instruction ``name`` of ``unit`` with arguments (type, text), or what emulates it."""
    if not s.target.has(unit):
        raise CompileError(f"kernel {s.kernel.name}: {name} wants {unit}, which {s.target.name} lacks")
    symbol = f"llvm.x86.{name}"
    if unit in s.target.emulated:
        symbol, arguments = emulated(s.module, name), (("ptr", TILES), *arguments)
    else:
        s.declare(f"void @{symbol}({', '.join(kind for kind, _ in arguments)})")
    s.do(f"call void @{symbol}({', '.join(f'{kind} {text}' for kind, text in arguments)})")


def _configure(s: FunctionState, statement: TileConfigure) -> None:
    text = "".join(f"\\{byte:02X}" for byte in _CONFIGURATION)
    s.module.globals["@dlc_tiles"] = f'@dlc_tiles = internal constant [64 x i8] c"{text}", align 64'
    _do(s, _MOVES, "ldtilecfg", ("ptr", "@dlc_tiles"))


def _release(s: FunctionState, statement: TileRelease) -> None:
    _do(s, _MOVES, "tilerelease")


def _zero(s: FunctionState, statement: TileZero) -> None:
    _do(s, _MOVES, "tilezero", ("i8", str(statement.tile)))


def _move(s: FunctionState, name: str, statement: TileLoad | TileStore) -> None:
    memory = s.buffer(statement.buffer)
    where = address(s, memory, evaluate(s, statement.index))
    stride = evaluate(s, apply("mul", statement.stride, const(memory.dtype.itemsize)))
    _do(s, _MOVES, name, ("i8", str(statement.tile)), ("ptr", where), ("i64", stride.text))


def _load(s: FunctionState, statement: TileLoad) -> None:
    _move(s, "tileloadd64", statement)


def _store(s: FunctionState, statement: TileStore) -> None:
    _move(s, "tilestored64", statement)
    s.wrote()


def _multiply(s: FunctionState, statement: TileMultiply) -> None:
    tiles = (statement.target, statement.left, statement.right)
    _do(s, *_PRODUCTS[statement.dtype], *(("i8", str(tile)) for tile in tiles))


TILE_STATEMENTS: dict[type, Callable[..., None]] = {
    TileConfigure: _configure,
    TileRelease: _release,
    TileZero: _zero,
    TileLoad: _load,
    TileStore: _store,
    TileMultiply: _multiply,
}
"""How each statement is emitted, for the table of all statements."""
