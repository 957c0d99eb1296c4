"""Arrays in .npz files: read with checks, written whole or not at all. Nothing is unpickled."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np

from dlc.errors import InputError


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name; InputError if it is damaged or holds anything but plain arrays."""
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise InputError(f"{path} holds one array without a name; write it by np.savez(path, name=array)")
        with opened as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not a readable .npz archive of plain arrays: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` as an .npz file; readers see the old file or the new one. InputError for arrays of objects."""
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise InputError(f"{', '.join(objects)} cannot be written to {path}: strings have no place in .npz files")
    path = path.resolve()
    if path.exists() and not path.is_file():  # a device or pipe must stay what it is, and cannot seek
        archive = BytesIO()
        _write_archive(archive, arrays)
        path.write_bytes(archive.getvalue())
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            _write_archive(file, arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_archive(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    # np.savez would take an output called "file" for its own argument.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
