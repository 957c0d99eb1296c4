"""One file of the code cache: a checked header, a JSON index, named sections.

Owns the bytes of an entry and the proof that they are whole. It must not know
what is cached, where files lie, or which of them are kept.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import IO, Any

import numpy as np

from dlc.errors import DlcError
from dlc.ir.types import as_dtype

MAGIC = b"dlccache"
FORMAT = 1
_HEADER = struct.Struct("<8sIIQQ32s")  # magic, format, unused, bytes of index, bytes of file, SHA-256 of index
_ALIGNMENT = 64
_MOST_INDEX = 1 << 30
_PIECE = 8 << 20  # sections are hashed in pieces, several at a time


class DamagedEntryError(Exception):
    """A file is not a whole entry; stays within the cache, where it counts as a miss."""


@dataclass(frozen=True)
class Entry:
    """What an entry holds: metadata (JSON), blobs (bytes), arrays (read-only, mapped from the file when loaded).

    ``parts`` names what the key was made of: digests, and short texts where they are short.
    """

    kind: str
    parts: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_entry(file: IO[bytes], entry: Entry) -> int:
    """Write ``entry`` to an empty file and return the number of bytes; OSError if the system refuses."""
    sections: list[dict[str, Any]] = []
    views: list[memoryview] = []
    for name, blob in entry.blobs.items():
        sections.append({"name": name, "blob": True})
        views.append(memoryview(blob))
    for name, array in entry.arrays.items():
        dtype = as_dtype(array.dtype)
        whole = np.ascontiguousarray(array, dtype.numpy)
        sections.append({"name": name, "dtype": dtype.name, "shape": list(array.shape)})
        views.append(whole.reshape(-1).view(np.uint8).data)
    position = 0
    for section, view, digest in zip(sections, views, _digests(views)):
        position += -position % _ALIGNMENT
        section.update(offset=position, nbytes=view.nbytes, sha256=digest)
        position += view.nbytes
    head = {"kind": entry.kind, "parts": dict(entry.parts), "metadata": dict(entry.metadata), "sections": sections}
    index = json.dumps(head, separators=(",", ":")).encode()
    start = _start(len(index))
    size = start + position
    file.write(_HEADER.pack(MAGIC, FORMAT, 0, len(index), size, hashlib.sha256(index).digest()))
    file.write(index)
    written = _HEADER.size + len(index)
    for section, view in zip(sections, views):
        file.write(bytes(start + section["offset"] - written))
        file.write(view)
        written = start + section["offset"] + view.nbytes
    file.write(bytes(size - written))
    return size


def read_entry(path: str | os.PathLike[str], *, check_arrays: bool = True) -> Entry:
    """Read the entry at ``path``; its arrays stay in the file, mapped read-only.

    ``check_arrays=False`` trusts the bytes of arrays (the index and blobs are always checked). Raises
    DamagedEntryError for anything but a whole entry of this user, FileNotFoundError if there is none.
    """
    mapped = _map(path)
    size = len(mapped)
    index, start = _read_index(mapped)
    view = memoryview(mapped)
    blobs: dict[str, bytes] = {}
    arrays: dict[str, np.ndarray] = {}
    checks: list[tuple[str, memoryview, str]] = []
    try:
        for section in index["sections"]:
            first = start + section["offset"]
            last = first + section["nbytes"]
            if not start <= first <= last <= size:
                raise DamagedEntryError(f"section {section['name']!r} lies outside the file")
            data = view[first:last]
            if section.get("blob"):
                blobs[section["name"]] = bytes(data)
            else:
                dtype = as_dtype(section["dtype"]).numpy
                arrays[section["name"]] = np.ndarray(section["shape"], dtype, data)
            if check_arrays or section.get("blob"):
                checks.append((section["name"], data, section["sha256"]))
        entry = Entry(index["kind"], index["parts"], index["metadata"], blobs, arrays)
    except (KeyError, TypeError, ValueError, DlcError) as error:
        raise DamagedEntryError(f"index is malformed: {error}") from error
    for (name, _, expected), digest in zip(checks, _digests([data for _, data, _ in checks])):
        if digest != expected:
            raise DamagedEntryError(f"checksum of section {name!r} is wrong")
    return entry


def read_head(path: str | os.PathLike[str]) -> Entry:
    """Read kind, parts and metadata alone; same errors as read_entry."""
    index, _ = _read_index(_map(path))
    return Entry(index["kind"], index["parts"], index["metadata"])


def _map(path: str | os.PathLike[str]) -> mmap.mmap:
    # Without O_NONBLOCK, a pipe in the folder would stop us here.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        check_owner(status, directory=False)
        if status.st_size < _HEADER.size:
            raise DamagedEntryError("shorter than a header")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def check_owner(status: os.stat_result, *, directory: bool) -> None:
    """Raise DamagedEntryError unless this user owns the file or folder and no one else may write it."""
    right_kind = stat.S_ISDIR(status.st_mode) if directory else stat.S_ISREG(status.st_mode)
    if not right_kind:
        raise DamagedEntryError("not a " + ("folder" if directory else "regular file"))
    if status.st_uid != os.geteuid():
        raise DamagedEntryError(f"owned by user {status.st_uid}, not {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DamagedEntryError(f"others may write it (mode {stat.S_IMODE(status.st_mode):o})")


def _read_index(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    magic, version, _, index_bytes, file_bytes, digest = _HEADER.unpack(data[: _HEADER.size])
    if magic != MAGIC:
        raise DamagedEntryError("not an entry of the cache")
    if version != FORMAT:
        raise DamagedEntryError(f"format {version}, this version reads {FORMAT}")
    if index_bytes > min(len(data), _MOST_INDEX) or file_bytes != len(data):
        raise DamagedEntryError(f"{len(data)} bytes where {file_bytes} were written")
    text = data[_HEADER.size : _HEADER.size + index_bytes]
    if hashlib.sha256(text).digest() != digest:
        raise DamagedEntryError("checksum of the index is wrong")
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedEntryError(f"index is no JSON: {error}") from error
    if not isinstance(index, dict) or not {"kind", "parts", "metadata", "sections"} <= set(index):
        raise DamagedEntryError("index is no table of an entry")
    return index, _start(index_bytes)


def _start(index_bytes: int) -> int:
    end = _HEADER.size + index_bytes
    return end + -end % _ALIGNMENT


def _digests(views: list[memoryview]) -> Iterator[str]:
    """Hash every view: SHA-256 over the SHA-256 of its pieces, which are hashed side by side."""
    pieces = [[view[at : at + _PIECE] for at in range(0, max(view.nbytes, 1), _PIECE)] for view in views]
    flat = [piece for parts in pieces for piece in parts]
    if sum(piece.nbytes for piece in flat) < 2 * _PIECE:
        hashed = [hashlib.sha256(piece).digest() for piece in flat]
    else:
        futures = import_module("concurrent.futures")  # for large entries only: it takes long to import
        with futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as workers:
            hashed = list(workers.map(lambda piece: hashlib.sha256(piece).digest(), flat))
    remaining = iter(hashed)
    for parts in pieces:
        yield hashlib.sha256(b"".join(next(remaining) for _ in parts)).hexdigest()
