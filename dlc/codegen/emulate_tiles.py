"""Tile registers for the emulator: their definition, in NumPy.

Tiles belong to a thread, as in hardware. It must not know kernels.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from dlc.errors import VerificationError
from dlc.ir.types import bfloat16

_ROWS, _ROW_BYTES = 16, 64


class _Registers(threading.local):
    """The eight tiles of a thread, which are used while they are ``ready``."""

    def __init__(self) -> None:
        self.ready = False
        self.bytes = np.zeros((8, _ROWS, _ROW_BYTES), np.uint8)


_registers = _Registers()


def tile_configure() -> None:
    """Make the tiles ready and set them to zero."""
    _registers.ready = True
    _registers.bytes[...] = 0


def tile_release() -> None:
    """Give the tiles back."""
    _registers.ready = False


def _tile(number: int) -> np.ndarray:
    if not _registers.ready:
        raise VerificationError(f"tile {number} is used before tiles are configured")
    return _registers.bytes[number]


def tile_zero(tile: int) -> None:
    """Set a tile to zero."""
    _tile(tile)[...] = 0


def _lines(array: Any, index: int, stride: int) -> np.ndarray:
    """Return what a tile's rows are in memory, as bytes that can be written."""
    width = _ROW_BYTES // array.data.itemsize
    end = index + (_ROWS - 1) * stride + width
    if index < 0 or end > len(array.data):
        raise VerificationError(f"a tile at {index} to {end} is outside {array.name} of {len(array.data)} elements")
    strides = (stride * array.data.itemsize, array.data.itemsize)
    return np.lib.stride_tricks.as_strided(array.data[index:], (_ROWS, width), strides).view(np.uint8)


def tile_load(tile: int, array: Any, index: int, stride: int) -> None:
    """Load rows from a buffer."""
    _tile(tile)[...] = _lines(array, index, stride)


def tile_store(tile: int, array: Any, index: int, stride: int) -> None:
    """Store rows to a buffer."""
    if not array.writable:
        raise VerificationError(f"{array.name} is written but not marked writable")
    _lines(array, index, stride)[...] = _tile(tile)


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(2.0**-126), np.float32(0), x)


def tile_multiply(target: int, left: int, right: int) -> None:
    """Add the product of two bfloat16 tiles; subnormal operands and results count as zero."""
    a = _flushed(_tile(left).view(bfloat16.numpy).astype(np.float32))
    b = _flushed(_tile(right).view(bfloat16.numpy).astype(np.float32))
    c = _tile(target).view(np.float32)
    sums = np.zeros((2, 16, 16), np.float32)
    for k in range(16):
        for half in range(2):
            sums[half] = _flushed(sums[half] + a[:, 2 * k + half, None] * b[k, None, half::2])
    c[...] = _flushed(c + _flushed(sums[0] + sums[1]))


def tile_multiply_int8(target: int, left: int, right: int) -> None:
    """Add the product of two int8 tiles to an int32 tile."""
    a = _tile(left).view(np.int8).reshape(16, 16, 4).astype(np.int32)
    b = _tile(right).view(np.int8).reshape(16, 16, 4).astype(np.int32)
    c = _tile(target).view(np.int32)
    c += np.einsum("mkh,knh->mn", a, b)


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
