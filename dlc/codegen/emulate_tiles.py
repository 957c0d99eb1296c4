"""Tile registers for the emulator: their definition, in NumPy.

Tiles belong to a thread, as in hardware. It must not know kernels.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from dlc.errors import VerificationError
from dlc.ir.types import bfloat16

_ROW_BYTES = 64


class _Registers(threading.local):
    """The eight tiles of a thread; ``rows`` is None where they are not configured."""

    def __init__(self) -> None:
        self.rows: tuple[int, ...] | None = None
        self.bytes = np.zeros((8, 16, _ROW_BYTES), np.uint8)


_registers = _Registers()


def tile_configure(rows: tuple[int, ...]) -> None:
    """Make the tiles ready and set them to zero."""
    _registers.rows = rows
    _registers.bytes[...] = 0


def tile_release() -> None:
    """Give the tiles back."""
    _registers.rows = None


def _rows(tile: int) -> int:
    if _registers.rows is None:
        raise VerificationError(f"tile {tile} is used before tiles are configured")
    return _registers.rows[tile]


def tile_zero(tile: int) -> None:
    """Set a tile to zero."""
    _rows(tile)
    _registers.bytes[tile] = 0


def _check(array: Any, start: int, stride: int, rows: int, width: int) -> None:
    end = start + (rows - 1) * stride + width
    if start < 0 or end > len(array.data):
        raise VerificationError(f"a tile at {start} to {end} is outside {array.name} of {len(array.data)} elements")


def tile_load(tile: int, array: Any, index: int, stride: int) -> None:
    """Load rows from a buffer."""
    rows, width = _rows(tile), _ROW_BYTES // array.data.itemsize
    _check(array, index, stride, rows, width)
    _registers.bytes[tile] = 0
    for row in range(rows):
        start = index + row * stride
        _registers.bytes[tile, row] = array.data[start : start + width].view(np.uint8)


def tile_store(tile: int, array: Any, index: int, stride: int) -> None:
    """Store rows to a buffer."""
    rows, width = _rows(tile), _ROW_BYTES // array.data.itemsize
    _check(array, index, stride, rows, width)
    if not array.writable:
        raise VerificationError(f"{array.name} is written but not marked writable")
    for row in range(rows):
        start = index + row * stride
        array.data[start : start + width].view(np.uint8)[...] = _registers.bytes[tile, row]


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(2.0**-126), np.float32(0), x)


def tile_multiply(target: int, left: int, right: int) -> None:
    """Add the product of two bfloat16 tiles; subnormal operands and results count as zero."""
    rows, pairs = _rows(target), _rows(right)
    a = _flushed(_registers.bytes[left].view(bfloat16.numpy).astype(np.float32))
    b = _flushed(_registers.bytes[right].view(bfloat16.numpy).astype(np.float32))
    c = _registers.bytes[target].view(np.float32)
    if _rows(left) != rows:
        raise VerificationError(f"tiles {target} and {left} differ in rows")
    sums = np.zeros((2, 16, 16), np.float32)
    for k in range(pairs):
        for half in range(2):
            sums[half] = _flushed(sums[half] + a[:, 2 * k + half, None] * b[k, None, half::2])
    c[:rows] = _flushed(c[:rows] + _flushed(sums[0] + sums[1])[:rows])


def tile_multiply_int8(target: int, left: int, right: int) -> None:
    """Add the product of two int8 tiles to an int32 tile."""
    rows, groups = _rows(target), _rows(right)
    if _rows(left) != rows:
        raise VerificationError(f"tiles {target} and {left} differ in rows")
    a = _registers.bytes[left].view(np.int8).reshape(16, 16, 4).astype(np.int32)
    b = _registers.bytes[right].view(np.int8).reshape(16, 16, 4).astype(np.int32)
    c = _registers.bytes[target].view(np.int32)
    c[:rows] += np.einsum("mkh,knh->mn", a[:rows, :groups], b[:groups])


TILE_FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        tile_configure,
        tile_release,
        tile_zero,
        tile_load,
        tile_store,
        tile_multiply,
        tile_multiply_int8,
    )
}
"""What kernels' text calls."""
