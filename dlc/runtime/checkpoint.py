"""Checkpoints: named arrays and scalars in one safetensors file, replaced atomically.

The file is plain safetensors that any reader opens; scalars and a checksum are JSON
text in its metadata. It must not know what the names mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dlc.errors import CheckpointError
from dlc.ir.types import TensorType, as_dtype

Scalar = int | float | str | bool | list | None

_FORMAT = "1"
_MOST_HEADER = 100_000_000  # the limit that safetensors itself sets
_NAMES = {
    "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8", "uint16": "U16",
    "uint32": "U32", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
}  # fmt: skip
_DTYPES = {stored: as_dtype(name).numpy for name, stored in _NAMES.items()}
_NO_DIGEST = "0" * 64
_OWN = {"dlc.format", "dlc.scalars", "dlc.dtypes", "dlc.sha256"}  # keys of the metadata


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: ``tensors`` (arrays of one's own, writable) and ``scalars`` by name."""

    tensors: dict[str, np.ndarray]
    scalars: dict[str, Scalar]


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    scalars: Mapping[str, Scalar] | None = None,
    *,
    keep: int = 1,
) -> Path:
    """Write a checkpoint to the file ``path`` (in a folder: to ``checkpoint.safetensors`` there) and return its path.

    The file appears whole or not at all, even if the process or the machine stops meanwhile; until then the old one
    stands. ``keep`` > 1 keeps that many, older ones as ``path.1``, ``path.2``, ... Raises CheckpointError for dtypes
    that cannot be stored and if the system refuses to write.
    """
    target = _file_of(path)
    head, arrays = _layout(tensors, dict(scalars or {}))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, file = _open_temporary(target)
        try:
            with file:
                _write(file, head, arrays)
                os.fsync(file.fileno())
                _rotate(target, keep)
                os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(target.parent)
        _remove_stale(target)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {target} cannot be written: {error}; an earlier one there is untouched"
        ) from error
    return target


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the checkpoint at ``path``; CheckpointError, naming the damage, if it is missing or not whole."""
    source = _file_of(path)
    try:
        with open(source, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise CheckpointError(f"checkpoint {source} has {size} bytes, too few for a header; load an older one")
            return _parse(source, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), size)
    except OSError as error:
        raise CheckpointError(f"checkpoint {source} cannot be read: {error}") from error


def check_fit(tensors: Mapping[str, np.ndarray], expected: Mapping[str, TensorType]) -> None:
    """Raise CheckpointError that lists every tensor that is missing, unknown, or of another dtype or shape."""
    problems = [f"missing {name}: {type_}" for name, type_ in expected.items() if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in expected]
    for name, type_ in expected.items():
        array = tensors.get(name)
        if array is not None and (array.dtype != type_.dtype.numpy or array.shape != type_.shape):
            problems.append(f"{name} is {array.dtype}{list(array.shape)}, expected {type_}")
    if problems:
        shown = "\n  ".join(problems[:50]) + (f"\n  and {len(problems) - 50} more" if len(problems) > 50 else "")
        raise CheckpointError(f"the checkpoint does not fit the graph:\n  {shown}\nload one that was saved from it")


def _file_of(path: str | os.PathLike[str]) -> Path:
    given = Path(path)
    target = given / "checkpoint.safetensors" if given.is_dir() else given
    return target.resolve() if target.is_symlink() else target


def _layout(tensors: Mapping[str, np.ndarray], scalars: dict[str, Scalar]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the header (checksum still zeros) and the arrays as bytes, both in the order of the file."""
    head: dict[str, Any] = {}
    arrays = []
    unusual: dict[str, str] = {}
    position = 0
    # Widest elements first, so that every array is aligned to its element in the file.
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        dtype = as_dtype(array.dtype)
        if dtype.kind == "string" or name == "__metadata__":
            raise CheckpointError(f"tensor {name!r} of dtype {dtype} cannot be stored; leave it out or rename it")
        whole: np.ndarray = np.ascontiguousarray(array, dtype.numpy).reshape(array.shape)
        if dtype.name not in _NAMES:
            unusual[name] = dtype.name
            whole = whole.reshape(*whole.shape, 1).view(np.uint8)
        stored = _NAMES.get(dtype.name, "U8")
        head[name] = {
            "dtype": stored,
            "shape": list(whole.shape),
            "data_offsets": [position, position + whole.nbytes],
        }
        position += whole.nbytes
        arrays.append(whole.reshape(-1).view(np.uint8))
    head["__metadata__"] = {
        "dlc.format": _FORMAT,
        "dlc.scalars": json.dumps(scalars),
        "dlc.dtypes": json.dumps(unusual),
        "dlc.sha256": _NO_DIGEST,
    }
    return head, arrays


def _write(file: IO[bytes], head: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write header and data; the header again once the checksum of both, which has a fixed length, is known."""
    packed = _packed(head)
    file.write(packed)
    hasher = hashlib.sha256(packed)
    for array in arrays:
        hasher.update(array.data)
        file.write(array.data)
    head["__metadata__"]["dlc.sha256"] = hasher.hexdigest()
    file.seek(0)
    file.write(_packed(head))
    file.flush()


def _packed(head: dict[str, Any]) -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _open_temporary(target: Path) -> tuple[Path, IO[bytes]]:
    """Create a file beside ``target`` and lock it; the lock ends with the process and so marks what is left over."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        file = open(temporary, "xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another process took it for left over before the lock was ours


def _rotate(target: Path, keep: int) -> None:
    """Move older checkpoints up by one; ``target`` itself stays, under a second name."""
    if keep <= 1 or not target.exists():
        return
    for number in range(keep - 1, 1, -1):
        older = target.with_name(f"{target.name}.{number - 1}")
        if older.exists():
            os.replace(older, target.with_name(f"{target.name}.{number}"))
    first = target.with_name(f"{target.name}.1")
    with contextlib.suppress(FileNotFoundError):
        first.unlink()
    os.link(target, first)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(target: Path) -> None:
    """Remove what killed saves of the same checkpoint left behind."""
    for path in target.parent.glob(f".{_escaped(target.name)}.*.tmp"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _parse(source: Path, data: memoryview, size: int) -> Checkpoint:
    head, start = _parse_head(source, data, size)
    metadata = head.pop("__metadata__", {})
    tensors: dict[str, np.ndarray] = {}
    position = 0
    entries = []
    for name, entry in head.items():
        try:
            stored, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            valid = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(source, f"entry of tensor {name!r} is malformed ({error})") from error
        if not valid or not isinstance(stored, str) or stored not in _DTYPES:
            raise _damaged(source, f"tensor {name!r} has dtype {stored!r}, shape {shape}, offsets {begin}, {end}")
        entries.append((begin, end, name, _DTYPES[stored], shape))
    for begin, end, name, dtype, shape in sorted(entries, key=lambda entry: entry[:2]):
        count = 1
        for extent in shape:
            count *= extent
        if begin != position or end - begin != count * dtype.itemsize or start + end > size:
            raise _damaged(
                source, f"tensor {name!r} of {dtype}{list(shape)} has bytes {begin} to {end}, not from {position} on"
            )
        position = end
        tensors[name] = np.frombuffer(data[start + begin : start + end], dtype).reshape(shape).copy()
    if start + position != size:
        raise _damaged(source, f"{size} bytes where the header describes {start + position}")
    if not _OWN & set(metadata):
        return Checkpoint(tensors, {})  # plain safetensors of another program
    if not _OWN <= set(metadata):
        raise _damaged(source, f"its metadata lacks {', '.join(sorted(_OWN - set(metadata)))}")
    _check_digest(source, metadata, data, start)
    return _with_metadata(source, metadata, tensors)


def _parse_head(source: Path, data: memoryview, size: int) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(size - 8, _MOST_HEADER):
        raise _damaged(source, f"its header claims {length} bytes of {size}")
    try:
        head = json.loads(bytes(data[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise _damaged(source, f"its header is no JSON ({error})") from error
    if not isinstance(head, dict) or not isinstance(head.get("__metadata__", {}), dict):
        raise _damaged(source, "its header is no table of tensors")
    return head, 8 + length


def _check_digest(source: Path, metadata: dict[str, str], data: memoryview, start: int) -> None:
    if metadata["dlc.format"] != _FORMAT:
        raise CheckpointError(
            f"checkpoint {source} has format {metadata['dlc.format']!r}, this version reads {_FORMAT!r}; update dlc"
        )
    digest = str(metadata["dlc.sha256"])
    if len(digest) != len(_NO_DIGEST):
        raise _damaged(source, "its checksum is malformed")
    hasher = hashlib.sha256(bytes(data[:start]).replace(digest.encode(), _NO_DIGEST.encode()))
    hasher.update(data[start:])
    if hasher.hexdigest() != digest:
        raise _damaged(source, "its checksum is wrong")


def _with_metadata(source: Path, metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> Checkpoint:
    """Restore dtypes that safetensors does not know and read the scalars."""
    try:
        scalars = json.loads(metadata["dlc.scalars"])
        for name, dtype in json.loads(metadata["dlc.dtypes"]).items():
            tensors[name] = tensors[name].view(as_dtype(dtype).numpy)[..., 0]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(source, f"its metadata is malformed ({error})") from error
    return Checkpoint(tensors, scalars)


def _damaged(source: Path, what: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {source} is damaged: {what}; load an older one")
