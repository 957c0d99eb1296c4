"""Initial arrays that stay in their files until they are asked for.

Reads places of open files into aligned memory, on two threads. It must not know what the arrays are for.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from dlc.errors import DlcError
from dlc.ir.provenance import FilePart, FileState, Place, file_state, read_parts
from dlc.ir.types import TensorType
from dlc.runtime.buffers import ALIGNMENT, empty


class FileArrays(Mapping[str, np.ndarray]):
    """Arrays by name: some are held, others read from open files whenever they are asked for.

    The files are open from the beginning, so that they may be replaced meanwhile; one that is written to is
    refused with DlcError.
    """

    def __init__(self, files: Sequence[FileState], places: Mapping[str, Place], held: Mapping[str, np.ndarray]) -> None:
        """Open ``files``; OSError if one is gone or is not in that state any more."""
        self._places, self._held, self._files = places, held, files
        self._descriptors: list[int] = []
        weakref.finalize(self, _close, self._descriptors)
        for file in files:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._descriptors.append(descriptor)
            if file_state(file.path, descriptor) != file:
                raise OSError(f"{file.path} has changed")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._held[name] if name in self._held else self.fetch([name])[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._held

    def __len__(self) -> int:
        return len(self._places) + len(self._held)

    def fetch(self, names: Sequence[str], together: bool = False) -> dict[str, np.ndarray]:
        """Return the arrays called ``names``, read on two threads if they are large.

        ``together`` gives them one piece of memory, which takes less time to get and is free when none is used.
        """
        for file, descriptor in zip(self._files, self._descriptors, strict=True):
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (file.size, file.modified_ns):
                raise DlcError(f"{file.path} was written to after it was loaded; load it again")
        arrays = {name: self._held[name] for name in names if name in self._held}
        parts: list[FilePart] = []
        places = {name: self._places[name] for name in names if name in self._places}
        for (name, place), room in zip(
            places.items(), _rooms([p.type for p in places.values()], together), strict=True
        ):
            arrays[name] = room
            parts.append((self._descriptors[place.file], room.reshape(-1).view(np.uint8).data, place.offset))
        try:
            read_parts(parts)
        except OSError as error:
            raise DlcError(f"weights cannot be read again: {error}; load the model again") from error
        for array in arrays.values():
            array.setflags(write=False)
        return arrays


def fetch(arrays: Mapping[str, np.ndarray], names: Sequence[str], together: bool = False) -> dict[str, np.ndarray]:
    """Return the arrays called ``names``; those in files are read as ``FileArrays.fetch`` does."""
    if isinstance(arrays, FileArrays):
        return arrays.fetch(names, together)
    return {name: arrays[name] for name in names}


def _rooms(types: Sequence[TensorType], together: bool) -> list[np.ndarray]:
    """Return aligned arrays of ``types`` to be filled."""
    shapes = [tuple(dim for dim in type_.shape if isinstance(dim, int)) for type_ in types]
    dtypes = [type_.dtype.numpy for type_ in types]
    if not together:
        return [empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    offsets = [0]
    for shape, dtype in zip(shapes, dtypes, strict=True):
        offsets.append(offsets[-1] + -(-prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT)
    whole = empty((offsets[-1],), np.dtype(np.uint8))
    return [np.ndarray(shape, dtype, whole, at) for shape, dtype, at in zip(shapes, dtypes, offsets, strict=False)]


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
