"""External data: reading weights beside a model, and nothing else.

A location is opened only if it is a plain file inside the model's folder, reached
without links; every check is made again on the open file. An explicit root allows
links (download caches are made of them) as long as they end inside that root.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import numpy as np

from dlc.errors import ExternalDataError
from dlc.ir.provenance import Region, file_state

_KEYS = {"location", "offset", "length", "checksum", "basepath"}


class ExternalFolder:
    """The files that a model may refer to: those inside ``folder``, or inside ``root`` where one is given."""

    def __init__(self, folder: Path | None, root: Path | None = None) -> None:
        self._folder = folder if folder is not None else root
        self._root = root
        self._open: dict[str, mmap.mmap | bytes] = {}
        self.regions: list[Region] = []  # what is mapped

    def read(self, tensor: str, entries: dict[str, str], expected: int) -> memoryview:
        """Return the ``expected`` bytes of ``tensor``, memory-mapped; ExternalDataError if they cannot be had."""
        location, offset, length = _parse(tensor, entries, expected)
        data = self._map(tensor, location)
        if offset + length > len(data):
            raise ExternalDataError(
                f"external data of tensor {tensor!r}: bytes {offset} to {offset + length} are past the end of "
                f"{location!r} ({len(data)} bytes); copy the whole file again"
            )
        return memoryview(data)[offset : offset + length]

    def _map(self, tensor: str, location: str) -> mmap.mmap | bytes:
        if location in self._open:
            return self._open[location]
        if self._folder is None:
            raise ExternalDataError(
                f"tensor {tensor!r} has external data in {location!r}, but the model was given without a path; "
                "load it by path or give external_data_root="
            )
        descriptor = self._open_linked(tensor, location) if self._root else self._open_plain(tensor, location)
        try:
            state = file_state(os.path.realpath(self._folder / location), descriptor)
            self._open[location] = data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if state.size else b""
            if state.size:
                self.regions.append(Region(np.frombuffer(data, np.uint8).ctypes.data, state.size, state, 0))
        finally:
            os.close(descriptor)
        return self._open[location]

    def _open_plain(self, tensor: str, location: str) -> int:
        """Walk from the folder component by component, refusing every link."""
        assert self._folder is not None
        parts = Path(location).parts
        directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(part, flags, dir_fd=directory)
                os.close(directory)
                directory = inner
            before = os.stat(parts[-1], dir_fd=directory, follow_symlinks=False)
            _check_plain(tensor, location, before, links_allowed=False)
            descriptor = os.open(parts[-1], _FILE_FLAGS | os.O_NOFOLLOW, dir_fd=directory)
        except OSError as error:
            raise _unreadable(tensor, location, error) from error
        finally:
            os.close(directory)
        return _same_file(tensor, location, descriptor, before)

    def _open_linked(self, tensor: str, location: str) -> int:
        """Resolve links, then open the target if it is inside the root."""
        assert self._root is not None and self._folder is not None
        try:
            target = os.path.realpath(self._folder / location, strict=True)
            root = os.path.realpath(self._root, strict=True)
            if os.path.commonpath([target, root]) != root:
                raise ExternalDataError(
                    f"external data of tensor {tensor!r}: {location!r} ends outside of external_data_root"
                )
            before = os.stat(target, follow_symlinks=False)
            _check_plain(tensor, location, before, links_allowed=True)
            descriptor = os.open(target, _FILE_FLAGS | os.O_NOFOLLOW)
        except OSError as error:
            raise _unreadable(tensor, location, error) from error
        return _same_file(tensor, location, descriptor, before)


_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def _parse(tensor: str, entries: dict[str, str], expected: int) -> tuple[str, int, int]:
    unknown = [key for key in entries if key not in _KEYS]
    if unknown:
        raise ExternalDataError(
            f"external data of tensor {tensor!r} has unknown keys {', '.join(map(repr, unknown[:5]))}"
        )
    location = entries.get("location", "")
    parts = Path(location).parts if "\0" not in location else ()
    if not location or not parts:
        raise ExternalDataError(f"external data of tensor {tensor!r} has no usable location ({location[:80]!r})")
    if os.path.isabs(location) or ".." in parts or "\\" in location or len(location) > 4096:
        raise ExternalDataError(
            f"external data of tensor {tensor!r}: location {location[:80]!r} is not inside the model's folder; "
            "put the file beside the model"
        )
    offset = _number(tensor, "offset", entries.get("offset", "0"))
    length = _number(tensor, "length", entries.get("length", str(expected)))
    if length != expected:
        raise ExternalDataError(
            f"external data of tensor {tensor!r} has length {length}, but its type takes {expected} bytes"
        )
    return location, offset, length


def _number(tensor: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ExternalDataError(f"external data of tensor {tensor!r}: {key} is {text[:40]!r}; it must be a number >= 0")
    return int(text)


def _check_plain(tensor: str, location: str, status: os.stat_result, links_allowed: bool) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ExternalDataError(
            f"external data of tensor {tensor!r}: {location!r} is a symbolic link; "
            "copy the file, or give external_data_root= to allow links inside that folder"
        )
    if not stat.S_ISREG(status.st_mode):
        raise ExternalDataError(f"external data of tensor {tensor!r}: {location!r} is not a plain file")
    if status.st_nlink > 1 and not links_allowed:
        raise ExternalDataError(
            f"external data of tensor {tensor!r}: {location!r} has {status.st_nlink} hard links; "
            "copy the file, or give external_data_root= to allow links inside that folder"
        )


def _same_file(tensor: str, location: str, descriptor: int, before: os.stat_result) -> int:
    after = os.fstat(descriptor)
    if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino) or not stat.S_ISREG(after.st_mode):
        os.close(descriptor)
        raise ExternalDataError(f"external data of tensor {tensor!r}: {location!r} changed while it was opened")
    return descriptor


def _unreadable(tensor: str, location: str, error: OSError) -> ExternalDataError:
    if isinstance(error, FileNotFoundError):
        reason = "does not exist in the model's folder"
    else:
        reason = f"cannot be opened without following links ({error.strerror})"
    return ExternalDataError(f"external data of tensor {tensor!r}: {location[:200]!r} {reason}")


def as_array(data: memoryview | bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """View bytes as an array without copying; read-only where the bytes are."""
    return np.frombuffer(data, dtype=dtype).reshape(shape)
