"""Asks the operating system for the tile registers, once per process.

Linux gives a process their (large) state only on request; without it the first tile operation would kill
the process. It must not know kernels or targets.
"""

from __future__ import annotations

import ctypes
import platform
from functools import lru_cache

_ARCH_PRCTL = 158
_REQUEST_PERMISSION = 0x1023
_TILE_DATA = 18


@lru_cache(maxsize=1)
def tiles_permitted() -> bool:
    """Request the use of tile registers for all threads of this process; return whether it was granted."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    arguments = (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return bool(library.syscall(*(ctypes.c_long(argument) for argument in arguments)) == 0)
