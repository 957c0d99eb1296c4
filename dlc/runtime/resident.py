"""Giving back memory that a compilation touched and a run does not need.

Pages of a library's code and tables stay mapped once they were read, and the C
library keeps what it was given back. Both are released here, on Linux; elsewhere
nothing happens. It must not know which libraries there are.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_DONT_NEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")


def release_memory(library: str) -> None:
    """Return free memory of the C library to the system, and drop unmodified read-only pages of the file ``library``.

    The pages come back from the file, or the system's cache of it, when they are touched again.
    """
    if not sys.platform.startswith("linux"):
        return
    c_library = ctypes.CDLL(None)
    for start, end in unmodified(library):
        c_library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)
    if hasattr(c_library, "malloc_trim"):
        c_library.malloc_trim(ctypes.c_size_t(0))


def unmodified(library: str) -> list[tuple[int, int]]:
    """Return the address ranges of the read-only mappings of ``library`` in which no page was ever written to.

    A written page (a relocated table, a debugger's breakpoint) exists in memory only: dropping it would lose it.
    """
    wanted = str(Path(library).resolve())
    return [(start, end) for start, end, name, written in _mappings() if name == wanted and not written]


def _mappings() -> Iterator[tuple[int, int, str, bool]]:
    """Yield address range, file and whether something was or may be written, for every mapping."""
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as lines:
        start, end, name, writable = 0, 0, "", True
        for line in lines:
            if found := _MAPPING.match(line):
                start, end, name = int(found[1], 16), int(found[2], 16), found[4]
                writable = "w" in found[3]
            elif line.startswith("Anonymous:"):
                yield start, end, name, writable or int(line.split()[1]) > 0
