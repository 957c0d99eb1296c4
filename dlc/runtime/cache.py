"""The code cache: a private folder of checked files, one per entry.

Owns keys, lookup, safe writing and what is removed when space runs out. Nothing
here raises: an entry that cannot be read is a miss, one that cannot be written is
left out, and both are logged. It must not know what the entries mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlc import config
from dlc.messages import warn
from dlc.runtime.cache_file import DamagedEntryError, Entry, check_owner, read_entry, read_head, write_entry

CHANNEL = "dlc.cache"
_SUFFIX = ".dlc"
_TEMPORARY = ".tmp-"
_STALE_SECONDS = 3600
_SHORT = 120

_unmeasured: dict[Path, int] = {}  # bytes this process wrote to a folder since it last measured it
_reported: set[str] = set()  # each message is logged once per process


@dataclass(frozen=True)
class CacheKey:
    """What an entry depends on: its kind and named parts, each a digest with its text where that is short."""

    kind: str
    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over kind and parts, hexadecimal."""
        hasher = hashlib.sha256(self.kind.encode())
        for name in sorted(self.parts):
            hasher.update(f"\0{name}\0{self.parts[name]}".encode())
        return hasher.hexdigest()


def make_key(kind: str, parts: Mapping[str, str | bytes]) -> CacheKey:
    """Return the key of an entry of ``kind`` (a file name) that depends on ``parts``."""
    described = {}
    for name, part in parts.items():
        if isinstance(part, bytes):
            described[name] = hashlib.sha256(part).hexdigest()
        else:
            digest = hashlib.sha256(part.encode()).hexdigest()
            described[name] = f"{digest} {part}" if len(part) <= _SHORT else digest
    return CacheKey(kind, described)


@dataclass(frozen=True)
class EntryInfo:
    """A file of the cache: its kind, digest, bytes, time of last use (seconds since the epoch), and any fault."""

    path: Path
    kind: str
    digest: str
    nbytes: int
    used: float
    fault: str = ""


class CodeCache:
    """A folder of entries; by default the one, and of the size, that the configuration says."""

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit: int | None = None):
        self.folder = Path(folder) if folder is not None else config.cache_dir()
        self.limit = config.cache_limit() if limit is None else limit
        self._enabled = config.cache_enabled()

    def load(self, key: CacheKey) -> Entry | None:
        """Return the entry of ``key``, or None if there is none that is whole and this user's own."""
        if not self._enabled:
            return None
        path = self._path(key)
        try:
            for folder in (self.folder, path.parent):
                check_owner(os.stat(folder), directory=True)
            entry = read_entry(path, check_arrays=config.verify_level() > 0)
            if entry.kind != key.kind or dict(entry.parts) != dict(key.parts):
                raise DamagedEntryError("it belongs to another key")
        except FileNotFoundError:
            return None
        except (DamagedEntryError, OSError, ValueError) as error:
            self._report(f"{path} is not used: {error}")
            return None
        with contextlib.suppress(OSError):  # a read-only cache still serves; it only forgets what was used last
            os.utime(path)
        return entry

    def store(
        self,
        key: CacheKey,
        metadata: Mapping[str, Any],
        blobs: Mapping[str, bytes] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> bool:
        """Keep an entry; return whether it was written. Readers see the old file or the new one, never a part."""
        if not self._enabled:
            return False
        path = self._path(key)
        temporary = path.parent / f"{_TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"
        try:
            for folder in (self.folder, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                check_owner(os.stat(folder), directory=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                written = write_entry(file, Entry(key.kind, key.parts, metadata, blobs or {}, arrays or {}))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (DamagedEntryError, OSError) as error:
            self._report(f"{path} is not written: {error}")
            return False
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        unmeasured = _unmeasured.get(self.folder)
        if unmeasured is None or unmeasured + written > self.limit // 16:
            self.prune(keep=path)
        else:
            _unmeasured[self.folder] = unmeasured + written
        return True

    def entries(self, *, check: bool = False) -> list[EntryInfo]:
        """List the entries, the one used last first; ``check`` reads each one and notes its fault."""
        found = []
        for path in self._files():
            try:
                status = path.stat()
                fault = ""
                if check:
                    check_owner(status, directory=False)
                    read_entry(path)
            except FileNotFoundError:
                continue  # removed by another process meanwhile
            except (DamagedEntryError, OSError, ValueError) as error:
                fault = str(error)
            found.append(EntryInfo(path, path.parent.name, path.stem, status.st_size, status.st_mtime, fault))
        return sorted(found, key=lambda info: -info.used)

    def verify(self, *, remove: bool = False) -> list[EntryInfo]:
        """Return the entries that are damaged or not this user's own; ``remove`` deletes them."""
        faulty = [info for info in self.entries(check=True) if info.fault]
        if remove:
            for info in faulty:
                _unlink(info.path)
        return faulty

    def prune(self, limit: int | None = None, *, keep: Path | None = None) -> int:
        """Remove the entries used longest ago until ``limit`` bytes are left; return the bytes removed."""
        most = self.limit if limit is None else limit
        _unmeasured[self.folder] = 0
        self._remove_stale()
        entries = self.entries()
        total = sum(info.nbytes for info in entries)
        removed = 0
        for info in reversed(entries):
            if total - removed <= most:
                break
            if info.path != keep and _unlink(info.path):
                removed += info.nbytes
        return removed

    def clear(self) -> int:
        """Remove every entry; return the bytes removed."""
        return self.prune(-1)

    def why(self, key: CacheKey) -> str:
        """Say whether ``key`` would hit, and if not, in which parts the most similar entry differs."""
        if not self._enabled:
            return "the cache is off (DLC_CACHE=0)"
        if self.load(key) is not None:
            return f"hit: {self._path(key)}"
        nearest: tuple[int, Path, Mapping[str, str]] | None = None
        for path in self._files():
            if path.parent.name != key.kind:
                continue
            try:
                parts = read_head(path).parts
            except (DamagedEntryError, OSError, ValueError):
                continue
            equal = sum(parts.get(name) == part for name, part in key.parts.items())
            if nearest is None or equal > nearest[0]:
                nearest = equal, path, parts
        if nearest is None:
            return f"miss: no entry of kind {key.kind!r} in {self.folder}"
        lines = [f"miss: the most similar entry is {nearest[1].name}; it differs in"]
        for name in sorted({*key.parts, *nearest[2]}):
            stored, asked = nearest[2].get(name), key.parts.get(name)
            if stored != asked:
                lines.append(f"  {name}: {_shown(stored)} stored, {_shown(asked)} asked")
        return "\n".join(lines)

    def _path(self, key: CacheKey) -> Path:
        return self.folder / key.kind / f"{key.digest}{_SUFFIX}"

    def _files(self) -> Iterator[Path]:
        try:
            yield from sorted(self.folder.glob(f"*/*{_SUFFIX}"))
        except OSError as error:
            self._report(f"{self.folder} cannot be listed: {error}")

    def _remove_stale(self) -> None:
        """Remove temporary files that a killed process left."""
        for path in self.folder.glob(f"*/{_TEMPORARY}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def _report(self, message: str) -> None:
        if message not in _reported:
            _reported.add(message)
            warn(CHANNEL, f"code cache: {message}")


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return True
    except OSError as error:
        warn(CHANNEL, f"code cache: {path} cannot be removed: {error}")
        return False
    return True


def _shown(part: str | None) -> str:
    if part is None:
        return "nothing"
    digest, _, text = part.partition(" ")
    return repr(text) if text else digest[:12]
