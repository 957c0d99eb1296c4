"""Reading and writing buffers: contiguous, strided, gathered and masked access.

An access that is provably in bounds ignores the lane mask (nothing can go wrong
and private arrays stay promotable to registers); any other is predicated. It
must not know how indices or values were computed.
"""

from __future__ import annotations

from dlc.codegen.llvm.half import from_bits16, to_bits16
from dlc.codegen.llvm.state import FunctionState, Memory
from dlc.codegen.llvm.types import memory_type, register_type, suffix
from dlc.codegen.llvm.values import Value, first_lane, iota, last_lane, materialize, splat
from dlc.ir.types import DType, bool_


def inside(memory: Memory, index: Value, lanes: int) -> bool:
    """Return whether every lane of ``index`` is provably an element of ``memory``."""
    if memory.size is None:
        return False
    low, high = first_lane(index, lanes), last_lane(index, lanes)
    return low is not None and high is not None and low >= 0 and high < memory.size


def address(s: FunctionState, memory: Memory, index: Value, inbounds: bool = True) -> str:
    """Return a pointer to element ``index`` (of lane 0)."""
    if index.text == "0":
        return memory.pointer
    flags = " inbounds" if inbounds else ""
    text = f"getelementptr{flags} {memory_type(memory.dtype)}, ptr {memory.pointer}, i64 {index.text}"
    if memory.private and index.text[0] != "%":
        return s.once(text)
    return s.op(text)


def _addresses(s: FunctionState, memory: Memory, index: Value, lanes: int) -> str:
    """Return a vector of pointers, one per lane."""
    element = memory_type(memory.dtype)
    if index.step:
        base = address(s, memory, index, inbounds=False)
        kind = "i32" if abs(index.step) * lanes < 2**31 else "i64"
        return s.op(f"getelementptr {element}, ptr {base}, <{lanes} x {kind}> {iota(lanes, index.step, kind)}")
    kind = "i32" if index.narrow else "i64"
    text = index.text if index.narrow else materialize(s, index, lanes)
    return s.op(f"getelementptr {element}, ptr {memory.pointer}, <{lanes} x {kind}> {text}")


def decode(s: FunctionState, text: str, dtype: DType, lanes: int) -> str:
    """Turn what a buffer holds into what registers hold."""
    if dtype is bool_:
        return s.op(f"icmp ne {memory_type(dtype, lanes)} {text}, {'zeroinitializer' if lanes else '0'}")
    if dtype.bits == 16 and dtype.is_float:
        return from_bits16(s, text, dtype, lanes)
    return text


def encode(s: FunctionState, text: str, dtype: DType, lanes: int) -> str:
    """Turn what registers hold into what a buffer holds."""
    if dtype is bool_:
        return s.op(f"zext {register_type(dtype, lanes)} {text} to {memory_type(dtype, lanes)}")
    if dtype.bits == 16 and dtype.is_float:
        return to_bits16(s, text, dtype, lanes)
    return text


def _any_lane(s: FunctionState, mask: str, lanes: int) -> str:
    bits = s.op(f"bitcast <{lanes} x i1> {mask} to i{lanes}")
    return s.op(f"icmp ne i{lanes} {bits}, 0")


def load(s: FunctionState, memory: Memory, index: Value) -> Value:
    """Read ``memory[index]``, per lane where the index varies."""
    dtype, align, lanes = memory.dtype, memory.dtype.itemsize, s.lanes
    safe = s.mask is None or inside(memory, index, lanes)
    if not index.varies:
        if not safe and s.mask is not None:  # no lane may want it, and then it may not exist
            wanted = _any_lane(s, s.mask, lanes)
            index = Value(s.op(f"select i1 {wanted}, i64 {index.text}, i64 0"), index.dtype)
        kind = memory_type(dtype)
        text = s.op(f"load {kind}, ptr {address(s, memory, index)}, align {align}")
        return Value(decode(s, text, dtype, 0), dtype)
    kind = memory_type(dtype, lanes)
    if index.step == 1:
        if safe:
            text = s.op(f"load {kind}, ptr {address(s, memory, index)}, align {align}")
        else:
            text = _masked_load(s, address(s, memory, index, inbounds=False), kind, s.mask, align)
    elif index.step and safe and not s.target.has_masks:
        text = _strided_load(s, memory, index, lanes)
    elif index.base is not None and safe and len(set(index.distances)) <= 2:
        text = _blended_load(s, memory, index.base, index.distances)
    elif index.base is not None and safe and max(index.distances) - min(index.distances) < 2 * lanes:
        text = _shuffled_load(s, memory, index.base, index.distances)
    else:
        mask = "splat (i1 true)" if safe else s.mask
        pointers = _addresses(s, memory, index, lanes)
        symbol = f"@llvm.masked.gather.{suffix(kind)}.v{lanes}p0"
        s.declare(f"{kind} {symbol}(<{lanes} x ptr>, i32, <{lanes} x i1>, {kind})")
        where = f"<{lanes} x ptr> {pointers}, i32 {align}, <{lanes} x i1> {mask}"
        text = s.op(f"call {kind} {symbol}({where}, {kind} zeroinitializer)")
    return Value(decode(s, text, dtype, lanes), dtype, lanes)


def _masked_load(s: FunctionState, pointer: str, kind: str, mask: str | None, align: int) -> str:
    lanes = kind[1 : kind.index(" ")]
    symbol = f"@llvm.masked.load.{suffix(kind)}.p0"
    s.declare(f"{kind} {symbol}(ptr, i32, <{lanes} x i1>, {kind})")
    return s.op(f"call {kind} {symbol}(ptr {pointer}, i32 {align}, <{lanes} x i1> {mask}, {kind} zeroinitializer)")


def _ahead(s: FunctionState, memory: Memory, pointer: str, distance: int) -> str:
    return s.op(f"getelementptr {memory_type(memory.dtype)}, ptr {pointer}, i64 {distance}") if distance else pointer


def _blended_load(s: FunctionState, memory: Memory, base: Value, distances: tuple[int, ...]) -> str:
    """Read one element or two, each for all lanes at once, and choose: reading broadcasts for nothing."""
    lanes, element = len(distances), memory_type(memory.dtype)
    pointer = address(s, memory, base, inbounds=False)
    first, *others = dict.fromkeys(distances)

    def spread(distance: int) -> str:
        place = _ahead(s, memory, pointer, distance)
        return splat(s, s.op(f"load {element}, ptr {place}, align {memory.dtype.itemsize}"), element, lanes)

    text = spread(first)
    for other in others:
        flags = ", ".join(f"i1 {'true' if d == other else 'false'}" for d in distances)
        kind = f"<{lanes} x {element}>"
        text = s.op(f"select <{lanes} x i1> <{flags}>, {kind} {spread(other)}, {kind} {text}")
    return text


def _shuffled_load(s: FunctionState, memory: Memory, base: Value, distances: tuple[int, ...]) -> str:
    """Read from the first element wanted to the last, which is within two vectors, and give each lane its own.

    Where the span is no whole vector, a masked read or two reads that overlap cover it: nothing beyond is touched.
    """
    lanes, align = len(distances), memory.dtype.itemsize
    first, span = min(distances), max(distances) - min(distances) + 1
    masked = s.target.has_masks and span < lanes
    width = lanes if masked else min(lanes, 1 << (span.bit_length() - 1))
    kind = memory_type(memory.dtype, width)
    pointer = address(s, memory, base, inbounds=False)

    def read(start: int) -> str:
        place = _ahead(s, memory, pointer, start)
        if not masked:
            return s.op(f"load {kind}, ptr {place}, align {align}")
        wanted = ", ".join(f"i1 {'true' if lane < span else 'false'}" for lane in range(lanes))
        return _masked_load(s, place, kind, f"<{wanted}>", align)

    low = read(first)
    high = low if masked or span == width else read(first + span - width)
    picks = [d - first if d - first < width else d - first - span + 2 * width for d in distances]
    chosen = ", ".join(f"i32 {lane}" for lane in picks)
    return s.op(f"shufflevector {kind} {low}, {kind} {high}, <{lanes} x i32> <{chosen}>")


def _strided_load(s: FunctionState, memory: Memory, index: Value, lanes: int) -> str:
    """One scalar load per lane: faster than a gather where gathers are slow or missing."""
    element, align = memory_type(memory.dtype), memory.dtype.itemsize
    base = address(s, memory, index)
    vector = "poison"
    for lane in range(lanes):
        pointer = s.op(f"getelementptr inbounds {element}, ptr {base}, i64 {lane * index.step}") if lane else base
        one = s.op(f"load {element}, ptr {pointer}, align {align}")
        vector = s.op(f"insertelement <{lanes} x {element}> {vector}, {element} {one}, i64 {lane}")
    return vector


def store(s: FunctionState, memory: Memory, index: Value, value: Value) -> None:
    """Write ``memory[index] = value``, per active lane inside vector loops (the last lane wins)."""
    dtype, align, lanes = memory.dtype, memory.dtype.itemsize, s.lanes
    if not index.varies and (not lanes or s.mask is None):
        text = value.text if not value.varies else _last_element(s, value, lanes)
        text = encode(s, text, dtype, 0)
        s.do(f"store {memory_type(dtype)} {text}, ptr {address(s, memory, index)}, align {align}")
        return
    kind = memory_type(dtype, lanes)
    text = encode(s, materialize(s, value, lanes), dtype, lanes)
    if index.step == 1:
        if s.mask is None:
            s.do(f"store {kind} {text}, ptr {address(s, memory, index)}, align {align}")
        elif memory.private and inside(memory, index, lanes):  # a blend keeps the array promotable
            pointer = address(s, memory, index)
            old = s.op(f"load {kind}, ptr {pointer}, align {align}")
            text = s.op(f"select <{lanes} x i1> {s.mask}, {kind} {text}, {kind} {old}")
            s.do(f"store {kind} {text}, ptr {pointer}, align {align}")
        else:
            symbol = f"@llvm.masked.store.{suffix(kind)}.p0"
            s.declare(f"void {symbol}({kind}, ptr, i32, <{lanes} x i1>)")
            pointer = address(s, memory, index, inbounds=False)
            s.do(f"call void {symbol}({kind} {text}, ptr {pointer}, i32 {align}, <{lanes} x i1> {s.mask})")
        return
    symbol = f"@llvm.masked.scatter.{suffix(kind)}.v{lanes}p0"
    s.declare(f"void {symbol}({kind}, <{lanes} x ptr>, i32, <{lanes} x i1>)")
    pointers = _addresses(s, memory, index, lanes)
    mask = s.mask or "splat (i1 true)"
    s.do(f"call void {symbol}({kind} {text}, <{lanes} x ptr> {pointers}, i32 {align}, <{lanes} x i1> {mask})")


def _last_element(s: FunctionState, value: Value, lanes: int) -> str:
    vector = materialize(s, value, lanes)
    return s.op(f"extractelement {register_type(value.dtype, lanes)} {vector}, i64 {lanes - 1}")


def load_lanes(s: FunctionState, memory: Memory, index: Value, width: int) -> str:
    """Read ``width`` consecutive elements as one vector register (0: a scalar), whatever the loop around."""
    kind = memory_type(memory.dtype, width)
    text = s.op(f"load {kind}, ptr {address(s, memory, index)}, align {memory.dtype.itemsize}")
    return decode(s, text, memory.dtype, width)


def transpose(s: FunctionState, target: Memory, to: list[Value], source: Memory, rows: list[Value]) -> None:
    """Copy the square whose rows begin at ``rows`` to columns: row j of the result begins at ``to[j]``.

    A perfect shuffle of the registers, repeated once per bit of the size, transposes them.
    """
    size = len(rows)
    kind = memory_type(source.dtype, size)
    align = source.dtype.itemsize
    vectors = [s.op(f"load {kind}, ptr {address(s, source, row)}, align {align}") for row in rows]
    half = size // 2
    masks = [
        "<" + ", ".join(f"i32 {start + k // 2 + (size if k % 2 else 0)}" for k in range(size)) + ">"
        for start in (0, half)
    ]
    for _ in range(size.bit_length() - 1):
        vectors = [
            s.op(f"shufflevector {kind} {low}, {kind} {high}, <{size} x i32> {mask}")
            for low, high in zip(vectors[:half], vectors[half:], strict=True)
            for mask in masks
        ]
    for vector, row in zip(vectors, to, strict=True):
        s.do(f"store {kind} {vector}, ptr {address(s, target, row)}, align {align}")


def prefetch(s: FunctionState, memory: Memory, index: Value, level: int) -> None:
    """Hint that the element (of lane 0) is needed soon in the cache of ``level``."""
    locality = max(0, 4 - level)
    s.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    s.do(f"call void @llvm.prefetch.p0(ptr {address(s, memory, index, inbounds=False)}, i32 0, i32 {locality}, i32 1)")


def conflicts(index: Value) -> bool:
    """Whether lanes of a vector loop may touch one element, so that an update must go lane by lane."""
    return bool(index.lanes) or not index.step
