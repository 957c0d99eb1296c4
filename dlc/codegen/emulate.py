"""Runs a Kernel on NumPy arrays by executing its Python text: the definition that emitters are held to.

Arithmetic is NumPy's in the dtypes of the kernel (float16 and bfloat16 compute in
float32 and round where they are stored or cast), every index is checked, and local
arrays start as NaN or the least integer. It must not know any target.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from dlc.codegen.emulate_tiles import TILE_FUNCTIONS
from dlc.errors import VerificationError
from dlc.ir.kernel import Kernel
from dlc.ir.scalar import SCALAR_OPS, cast_array
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import DTYPES, DType, bfloat16, float16, float32, uint16, uint32


class Array:
    """A checked, flat window on memory; reading and writing follow the dtype's register form."""

    __slots__ = ("data", "dtype", "name", "writable")

    def __init__(self, data: np.ndarray, dtype: DType, name: str, writable: bool) -> None:
        self.data = data
        self.dtype = dtype
        self.name = name
        self.writable = writable

    def _at(self, index: Any) -> int:
        position = int(index)
        if not 0 <= position < len(self.data):
            raise VerificationError(f"index {position} is outside {self.name}, which has {len(self.data)} elements")
        return position

    def __getitem__(self, index: Any) -> Any:
        value = self.data[self._at(index)]
        return np.float32(value) if self.dtype is float16 or self.dtype is bfloat16 else value

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self.writable:
            raise VerificationError(f"{self.name} is written but not marked writable")
        held = float32.numpy if self.dtype is float16 or self.dtype is bfloat16 else self.dtype.numpy
        if isinstance(value, np.generic) and value.dtype != held:
            raise VerificationError(f"a {value.dtype} is stored into {self.name}, which holds {self.dtype}")
        self.data[self._at(index)] = _typed(value)


class _Type:
    """A dtype as kernels' text uses it: builds literals, and names what to cast to or allocate."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype

    def __call__(self, value: Any) -> Any:
        return _in_register(np.asarray(value).astype(self.dtype.numpy)[()])


def _in_register(value: Any) -> Any:
    return np.float32(value) if value.dtype.itemsize == 2 and value.dtype.kind not in "iu" else value


def _typed(value: Any) -> Any:
    """Give Python's ints (they wrap to 64 bits) and bools, which stand for indices and conditions, their dtypes."""
    if isinstance(value, (bool, np.bool_)):
        return np.bool_(value)
    return np.int64((value + 2**63) % 2**64 - 2**63) if isinstance(value, int) else value


def _lift(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        result = function(*[_typed(arg) for arg in args])
        return result[()] if isinstance(result, np.ndarray) else result

    return run


def cast(value: Any, kind: _Type) -> Any:
    """Convert a scalar, as ``ir.scalar.cast_array`` defines."""
    return _in_register(cast_array(_typed(value), kind.dtype.numpy)[()])


def nearest(x: Any) -> Any:
    """Return the nearest int32, halves to even; the least one for NaN and what no int32 is near to."""
    whole = np.rint(np.asarray(x, np.float64))
    inside = np.abs(whole + 0.5) < 2.0**31
    return np.where(inside, whole, -(2.0**31)).astype(np.int32)[()]


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    if a.dtype == np.float32:
        product, addend = np.float64(a) * np.float64(b), np.float64(c)
        total = product + addend
        if not np.isfinite(total):
            return np.float32(total)
        # Round to odd before the second rounding: what the first one lost decides ties correctly.
        part = total - product
        lost = (product - (total - part)) + (addend - part)
        if lost != 0 and not total.view(np.int64) & 1:
            total = np.nextafter(total, np.inf if lost > 0 else -np.inf)
        return np.float32(total)
    if not all(np.isfinite(x) for x in (a, b, c)):
        return c if np.isfinite(a) and np.isfinite(b) else a * b + c
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return a * b + c
    try:
        return np.float64(float(exact))
    except OverflowError:
        return np.float64(np.inf if exact > 0 else -np.inf)


def fma_pairs(a: Any, b: Any, c: Any) -> Any:
    """Add the products of the two bfloat16 numbers in each word, those in the upper halves first."""
    upper, lower = np.uint32(0xFFFF0000), np.uint32(16)
    c = fma((a & upper).view(np.float32), (b & upper).view(np.float32), c)
    return fma((a << lower).view(np.float32), (b << lower).view(np.float32), c)


def horizontal(function: Callable[..., Any], array: Array, index: Any, width: int) -> Any:
    """Combine ``width`` elements by a halving tree."""
    values = [array[index + lane] for lane in range(width)]
    while len(values) > 1:
        half = len(values) // 2
        values = [function(a, b) for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def window(array: Array, offset: Any) -> Array:
    """A buffer from ``offset`` on."""
    position = int(offset)
    if not 0 <= position <= len(array.data):
        raise VerificationError(f"a window at {position} is outside {array.name}, which has {len(array.data)} elements")
    return Array(array.data[position:], array.dtype, f"{array.name}[{position}:]", array.writable)


def transpose(
    target: Array, target_stride: Any, source: Array, source_stride: Any, size: int, rows: Any = None
) -> None:
    """Copy a square, transposed; rows of the source from ``rows`` on are the last one again."""
    last = size - 1 if rows is None else int(rows) - 1
    for row in range(size):
        for column in range(size):
            target[column * int(target_stride) + row] = source[min(row, last) * int(source_stride) + column]


def local(kind: _Type, size: int) -> Array:
    """Make a private array whose elements have not been set: NaN or the least integer."""
    dtype = kind.dtype
    data = np.zeros(size, dtype.numpy)
    if dtype.is_float:
        data[...] = np.nan
    elif dtype.kind == "int":
        data[...] = np.iinfo(dtype.numpy).min
    return Array(data, dtype, "a local array", True)


def _vector(extent: Any, active: Callable[[int], Any] | None = None) -> Iterator[int]:
    for lane in range(extent):
        if active is None or active(lane):
            yield lane


def _nothing(*_: Any) -> None:
    return None


_NAMESPACE: dict[str, Any] = (
    {name: _Type(dtype) for name, dtype in DTYPES.items()}
    | {name: _lift(op.evaluate) for name, op in SCALAR_OPS.items()}
    | {
        "cast": cast,
        "fma": fma,
        "nearest": nearest,
        "fma_pairs": fma_pairs,
        "horizontal": horizontal,
        "window": window,
        "local": local,
        "shared": local,
    }
    | {"vector": _vector, "prefetch": _nothing, "transpose": transpose, "barrier": _nothing}
    | {kind: range for kind in ("parallel", "unroll", "grid", "block")}
    | {"inf": float("inf"), "nan": float("nan")}
    | TILE_FUNCTIONS
)


def _bits(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Return a bfloat16 array as the 16 or 32-bit words in which a kernel may read it."""
    if array.dtype == bfloat16.numpy and dtype in (uint16, uint32) and array.flags.c_contiguous:
        return array.reshape(-1).view(dtype.numpy)
    return array


@lru_cache(maxsize=256)
def _compiled(text: str) -> dict[str, Any]:
    filename = f"<kernel {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    namespace = dict(_NAMESPACE)
    exec(compile(text, filename, "exec"), namespace)
    return namespace


def emulate(kernel: Kernel, arrays: Sequence[np.ndarray], scalars: Sequence[int] = ()) -> None:
    """Run ``kernel`` on ``arrays``, one per buffer in order (C-contiguous, any rank), in place.

    A bfloat16 array may be bound to a buffer of uint16 or uint32: its elements, or pairs of them, as bits.

    Raises:
        VerificationError: an array does not fit its buffer, an index is out of bounds, or a dtype is wrong.
    """
    if len(arrays) != len(kernel.buffers):
        raise VerificationError(f"kernel {kernel.name} wants {len(kernel.buffers)} arrays, not {len(arrays)}")
    windows = []
    for buffer, given in zip(kernel.buffers, arrays, strict=True):
        array = _bits(given, buffer.dtype)
        if array.dtype != buffer.dtype.numpy or not array.flags.c_contiguous:
            raise VerificationError(
                f"kernel {kernel.name}: {buffer.name} wants contiguous {buffer.dtype}, not {array.dtype}"
            )
        if buffer.size is not None and array.size != buffer.size:
            raise VerificationError(f"kernel {kernel.name}: {buffer.name} has {buffer.size} elements, not {array.size}")
        windows.append(Array(array.reshape(-1), buffer.dtype, buffer.name, buffer.writable))
    text = print_kernel(kernel)
    name = ("\n" + text).rpartition("\ndef ")[2].partition("(")[0]
    with np.errstate(all="ignore"):
        _compiled(text)[name](*windows, *(int(scalar) for scalar in scalars))
