"""How dtypes are spelt in LLVM: in registers, in memory, in intrinsic names, and as literals.

float16 and bfloat16 live in registers as float32; bool is one bit in registers
and one byte in memory. It must not know kernels or targets.
"""

from __future__ import annotations

import math
import re
import struct
from functools import lru_cache

import numpy as np

from dlc.errors import CompileError
from dlc.ir import types
from dlc.ir.types import DType

_REGISTER: dict[DType, str] = {
    types.bool_: "i1",
    types.int8: "i8",
    types.int16: "i16",
    types.int32: "i32",
    types.int64: "i64",
    types.uint8: "i8",
    types.uint16: "i16",
    types.uint32: "i32",
    types.uint64: "i64",
    types.float16: "float",
    types.bfloat16: "float",
    types.float32: "float",
    types.float64: "double",
}
_MEMORY: dict[DType, str] = _REGISTER | {types.bool_: "i8", types.float16: "i16", types.bfloat16: "i16"}
_SUFFIX = {"float": "f32", "double": "f64"}
_cache: dict[tuple[DType, int], str] = {}
_memory_cache: dict[tuple[DType, int], str] = {}


def register_type(dtype: DType, lanes: int = 0) -> str:
    """Return the LLVM type of a value in registers: a scalar for 0 lanes, else a vector."""
    key = (dtype, lanes)
    found = _cache.get(key)
    if found is None:
        found = _cache[key] = _vector(_lookup(_REGISTER, dtype), lanes)
    return found


def memory_type(dtype: DType, lanes: int = 0) -> str:
    """Return the LLVM type that buffers of ``dtype`` hold."""
    key = (dtype, lanes)
    found = _memory_cache.get(key)
    if found is None:
        found = _memory_cache[key] = _vector(_lookup(_MEMORY, dtype), lanes)
    return found


def _lookup(table: dict[DType, str], dtype: DType) -> str:
    try:
        return table[dtype]
    except KeyError:
        raise CompileError(f"kernels over {dtype} have no LLVM form; cast to float32 before") from None


def _vector(element: str, lanes: int) -> str:
    return f"<{lanes} x {element}>" if lanes else element


def suffix(llvm_type: str) -> str:
    """Return the mangling of ``llvm_type`` in intrinsic names: ``<16 x float>`` is ``v16f32``."""
    if llvm_type[0] == "<":
        count, element = llvm_type[1:-1].split(" x ")
        return f"v{count}{_SUFFIX.get(element, element)}"
    return "p0" if llvm_type == "ptr" else _SUFFIX.get(llvm_type, llvm_type)


@lru_cache(maxsize=4096)
def _float_text(value: float, element: str) -> str:
    if math.isnan(value):
        return "0x7FF8000000000000"
    if element == "float":
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def float_literal(value: float, element: str) -> str:
    """Return ``value`` as a literal of LLVM type ``float`` (rounded to it) or ``double``."""
    if value == 0.0:  # equal keys, different signs: not for the cache
        return "0x8000000000000000" if math.copysign(1.0, value) < 0 else "0x0000000000000000"
    return _float_text(value, element)


def literal_value(text: str) -> float | None:
    """Return the number of a float literal, scalar or the same in all lanes; None for other operands."""
    found = re.fullmatch(r"(?:splat \((?:float|double) )?0x([0-9A-F]{16})\)?", text)
    return None if found is None else float(struct.unpack("<d", bytes.fromhex(found.group(1))[::-1])[0])


def literal(value: int | float | bool, dtype: DType) -> str:
    """Return a scalar literal of ``dtype``; integers wrap to its range."""
    if dtype is types.bool_:
        return "true" if value else "false"
    if dtype.kind == "float":
        if dtype.bits == 16:
            with np.errstate(all="ignore"):
                value = float(np.asarray(value).astype(dtype.numpy))
        return float_literal(float(value), register_type(dtype))
    wrapped = int(value) & ((1 << dtype.bits) - 1)
    return str(wrapped - (1 << dtype.bits) if wrapped >> (dtype.bits - 1) else wrapped)
