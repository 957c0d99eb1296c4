"""Emits tile (AMX) operations and the splitting of float32 into three bfloat16 parts.

It must not know which kernels use them.
"""

from __future__ import annotations

from collections.abc import Callable

from dlc.codegen.llvm_expr import evaluate, evaluate_deep
from dlc.codegen.llvm_memory import address, load, store
from dlc.codegen.llvm_scalar import int_constant
from dlc.codegen.llvm_state import FunctionState, Memory
from dlc.codegen.llvm_types import register_type
from dlc.codegen.llvm_values import Value, materialize
from dlc.errors import CompileError
from dlc.ir.expr import apply, const
from dlc.ir.kernel import (
    SplitParts,
    Stmt,
    TileConfigure,
    TileLoad,
    TileMultiply,
    TileRelease,
    TileStore,
    TileZero,
)
from dlc.ir.types import bfloat16, float32, int8, uint32

_UPPER = -0x10000
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


# -- splitting ---------------------------------------------------------------------------------------


def _split(s: FunctionState, statement: SplitParts) -> None:
    lanes = s.lanes
    if not lanes:
        raise CompileError(f"kernel {s.kernel.name}: values are split in vector loops only")
    values = [materialize(s, evaluate_deep(s, value), lanes) for value in statement.values]
    index = evaluate(s, statement.index)
    if index.step != len(values):
        raise CompileError(f"kernel {s.kernel.name}: parts in {statement.buffer} must lie next to each other")
    for value in values:
        _watch(s, statement, value)
    parts = [_parts(s, value) for value in values]
    memory = s.buffer(statement.buffer)
    for part in range(3):
        words = [of_value[part] for of_value in parts]
        where = evaluate(s, apply("add", statement.index, const(part * statement.part_stride)))
        _store_words(s, address(s, memory, where, inbounds=s.mask is None), words)
    s.wrote()


def _parts(s: FunctionState, value: str) -> list[str]:
    """Return the float32 bits whose upper halves are the three parts."""
    kind, word = register_type(float32, s.lanes), register_type(uint32, s.lanes)
    half, upper = int_constant(0x8000, word), int_constant(_UPPER, word)
    found = []
    rest = value
    for part in range(3):
        bits = s.op(f"bitcast {kind} {rest} to {word}")
        rounded = s.op(f"and {word} " + s.op(f"add {word} {bits}, {half}") + f", {upper}")
        found.append(rounded)
        if part < 2:
            rest = s.op(f"fsub {kind} {rest}, " + s.op(f"bitcast {word} {rounded} to {kind}"))
    return found


def _store_words(s: FunctionState, pointer: str, words: list[str]) -> None:
    """Store the upper halves of one vector, or those of two, lane by lane in turn."""
    lanes = s.lanes
    word = register_type(uint32, lanes)
    if len(words) == 2:
        if s.mask is not None:
            raise CompileError(f"kernel {s.kernel.name}: pairs are split in loops without a mask")
        low = s.op(f"lshr {word} {words[0]}, {int_constant(16, word)}")
        both = s.op(f"or {word} {low}, {words[1]}")
        s.do(f"store {word} {both}, ptr {pointer}, align 2")
        return
    halves = s.op(f"bitcast {word} {words[0]} to <{2 * lanes} x i16>")
    chosen = ", ".join(f"i32 {2 * lane + 1}" for lane in range(lanes))
    kind = f"<{lanes} x i16>"
    text = s.op(f"shufflevector <{2 * lanes} x i16> {halves}, <{2 * lanes} x i16> poison, <{lanes} x i32> <{chosen}>")
    if s.mask is None:
        s.do(f"store {kind} {text}, ptr {pointer}, align 2")
        return
    symbol = f"@llvm.masked.store.v{lanes}i16.p0"
    s.declare(f"void {symbol}({kind}, ptr, i32, <{lanes} x i1>)")
    s.do(f"call void {symbol}({kind} {text}, ptr {pointer}, i32 2, <{lanes} x i1> {s.mask})")


def _watch(s: FunctionState, statement: SplitParts, value: str) -> None:
    lanes = s.lanes
    kind, word = register_type(float32, lanes), register_type(uint32, lanes)
    bits = s.op(f"bitcast {kind} {value} to {word}")
    magnitude = s.op(f"and {word} {bits}, {int_constant(0x7FFFFFFF, word)}")
    below = s.op(f"add {word} {magnitude}, {int_constant(-1, word)}")
    memory = s.buffer(statement.watch)
    for name, new, place in (("umax", magnitude, 0), ("umin", below, statement.watch_stride)):
        slot = evaluate(s, apply("add", statement.slot, const(place)) if place else statement.slot)
        old = materialize(s, load(s, memory, slot), lanes)
        symbol = f"@llvm.{name}.v{lanes}i32"
        s.declare(f"{word} {symbol}({word}, {word})")
        best = s.op(f"call {word} {symbol}({word} {old}, {word} {new})")
        store(s, memory, slot, Value(best, uint32, lanes))


TILE_STATEMENTS: dict[type, Callable[..., None]] = {
    SplitParts: _split,
    TileConfigure: _configure,
    TileRelease: _release,
    TileZero: _zero,
    TileLoad: _load,
    TileStore: _store,
    TileMultiply: _multiply,
}
"""How each statement is emitted, for the table of all statements."""
