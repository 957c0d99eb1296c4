"""Where arrays lie in files, so that a later process finds them there without parsing anything, and reading them.

Knows files by their state, as git and make do, and no format of any.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlc.ir.types import TensorType

_SETTLED_NS = 2_000_000_000
_PIECE = 8 << 20

FilePart = tuple[int, memoryview, int]
"""An open file's descriptor, the memory to fill, and the offset in the file."""


@dataclass(frozen=True)
class FileState:
    """A file's path and what the system says of it: as long as none of this changes, neither does the content."""

    path: str
    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def settled(self) -> bool:
        """Whether the last change is so long ago that one more would show in the times, which are coarse."""
        return max(self.modified_ns, self.changed_ns) + _SETTLED_NS < time.time_ns()


def file_state(path: str, descriptor: int | None = None) -> FileState:
    """Return the state of a file, or of the open one; OSError if there is none."""
    status = os.stat(path) if descriptor is None else os.fstat(descriptor)
    return FileState(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Region:
    """``nbytes`` of memory at ``address`` that hold the bytes of ``file`` from ``offset`` on."""

    address: int
    nbytes: int
    file: FileState
    offset: int


@dataclass(frozen=True)
class Place:
    """The bytes of an array of ``type`` in file number ``file`` from ``offset`` on, in native byte order."""

    file: int
    offset: int
    type: TensorType


def find_place(
    array: np.ndarray, type_: TensorType, regions: Sequence[Region], files: Sequence[FileState]
) -> Place | None:
    """Return where ``array`` lies in a file, if it is a view of a region as the file holds it."""
    if not (array.flags.c_contiguous and array.dtype == type_.dtype.numpy and array.dtype.isnative):
        return None
    address = array.__array_interface__["data"][0]
    for region in regions:
        if region.address <= address and address + array.nbytes <= region.address + region.nbytes:
            return Place(files.index(region.file), region.offset + address - region.address, type_)
    return None


def read_parts(parts: Sequence[FilePart]) -> None:
    """Fill the memory of every part from its file, on two threads if they are large.

    Raises OSError if a file cannot be read or ends before.
    """
    pieces = [
        (descriptor, memory[at : at + _PIECE], offset + at)
        for descriptor, memory, offset in parts
        for at in range(0, len(memory), _PIECE)
    ]
    if sum(len(memory) for _, memory, _ in pieces) <= 2 * _PIECE:
        _read_pieces(pieces)
        return
    faults: list[OSError] = []

    def help_out() -> None:
        try:
            _read_pieces(pieces[1::2])
        except OSError as fault:
            faults.append(fault)

    helper = threading.Thread(target=help_out)
    helper.start()
    try:
        _read_pieces(pieces[::2])
    finally:
        helper.join()
    if faults:
        raise faults[0]


def _read_pieces(pieces: Sequence[FilePart]) -> None:
    for descriptor, memory, offset in pieces:
        done = 0
        while done < len(memory):
            count = os.preadv(descriptor, [memory[done:]], offset + done)
            if count <= 0:
                raise OSError("the file has become shorter")
            done += count
