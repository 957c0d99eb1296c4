"""Relocatable objects to callable addresses, without a linker: the few things that our own objects need.

Reads ELF for x86-64 Linux as this package's code generator writes it: sections, symbols, two kinds of relocation.
Anything else is refused, for a real linker to try. It must not know what the code does.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dlc.errors import DlcError

_ELF64_LITTLE = b"\x7fELF\x02\x01\x01"
_RELOCATABLE, _X86_64 = 1, 62
_PROGBITS, _SYMBOLS, _RELOCATIONS, _NOBITS = 1, 2, 4, 8
_WRITABLE, _ALLOCATED, _THREAD_LOCAL = 1, 2, 0x400
_PC32, _PLT32 = 2, 4
_UNDEFINED, _RESERVED = 0, 0xFF00
_MOST_ALIGNED = 4096
_MOST_BYTES = 1 << 30  # distances are 32 bits wide
_STUB = bytes([0xFF, 0x25, 0, 0, 0, 0])  # jmp through the eight bytes that follow
_STUB_BYTES = 16
_FAILED = (1 << 64) - 1
_LIBRARIES = ("libm.so.6",)  # beside what the process has loaded


class UnsupportedObjectError(Exception):
    """An object has something that this loader does not do."""


@dataclass(frozen=True)
class _Section:
    kind: int
    flags: int
    start: int
    nbytes: int
    link: int
    info: int
    alignment: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int


class _Object:
    """The parts of one object file."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        if image[:7] != _ELF64_LITTLE or struct.unpack_from("<HH", image, 16) != (_RELOCATABLE, _X86_64):
            raise UnsupportedObjectError("not a relocatable object for x86-64")
        (table,) = struct.unpack_from("<Q", image, 40)
        entry, count = struct.unpack_from("<HH", image, 58)
        self.sections = [self._section(table + number * entry) for number in range(count)]
        tables = [section for section in self.sections if section.kind == _SYMBOLS]
        self.symbols = [symbol for section in tables for symbol in self._symbols(section)]

    def _section(self, at: int) -> _Section:
        _, kind, flags, _, start, nbytes, link, info, alignment, _ = struct.unpack_from("<IIQQQQIIQQ", self.image, at)
        if kind != _NOBITS and start + nbytes > len(self.image):
            raise UnsupportedObjectError("a section lies outside the file")
        return _Section(kind, flags, start, nbytes, link, info, max(alignment, 1))

    def _symbols(self, section: _Section) -> list[_Symbol]:
        names = self.sections[section.link]
        found = []
        for at in range(section.start, section.start + section.nbytes, 24):
            name, _, _, index, value, _ = struct.unpack_from("<IBBHQQ", self.image, at)
            begin = names.start + name
            text = self.image[begin : self.image.index(b"\0", begin)].decode()
            found.append(_Symbol(text, index, value))
        return found

    def relocations(self) -> list[tuple[int, int, int, int, int]]:
        """Return (section changed, offset, kind, symbol, addend)."""
        found = []
        for section in self.sections:
            if section.kind == _RELOCATIONS:
                for at in range(section.start, section.start + section.nbytes, 24):
                    offset, info, addend = struct.unpack_from("<QQq", self.image, at)
                    found.append((section.info, offset, info & 0xFFFFFFFF, info >> 32, addend))
        return found


class ObjectCode:
    """Loaded code; it stays loaded while the object lives, and for good when the interpreter exits meanwhile."""

    def __init__(self, image: bytes | bytearray, offsets: dict[str, int]) -> None:
        """Take ``image``, complete as it stands, and the offsets of its symbols."""
        base = _place_code(image)
        # At exit a thread may still be in there, so that only an object that dies before frees its memory.
        weakref.finalize(self, _unmap, base, len(image)).atexit = False
        self._addresses = {name: base + offset for name, offset in offsets.items()}

    def address(self, symbol: str) -> int:
        """Return the address of ``symbol``; DlcError if no object defines it."""
        try:
            return self._addresses[symbol]
        except KeyError:
            raise DlcError(f"symbol {symbol} is not defined by the loaded code") from None


def can_load() -> bool:
    """Whether this process runs what this module can load."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def load_objects(images: Sequence[bytes]) -> ObjectCode:
    """Load relocatable objects as one library; symbols resolve among them, then in the process and the C library.

    Raises UnsupportedObjectError for anything unusual.
    """
    try:
        return _link([_Object(image) for image in images])
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise UnsupportedObjectError(f"malformed: {error}") from error


def _link(objects: Sequence[_Object]) -> ObjectCode:
    places, total = _layout(objects)
    externals = _externals(objects)
    stubs = total + -total % _STUB_BYTES
    memory = bytearray(max(stubs + len(externals) * _STUB_BYTES, 1))
    for found, offsets in zip(objects, places, strict=True):
        for section, offset in zip(found.sections, offsets, strict=True):
            if offset is not None and section.kind == _PROGBITS:
                memory[offset : offset + section.nbytes] = found.image[section.start : section.start + section.nbytes]
    defined = _defined(objects, places)
    targets = dict(defined)
    for number, (name, address) in enumerate(externals.items()):
        at = stubs + number * _STUB_BYTES
        memory[at : at + len(_STUB) + 8] = _STUB + struct.pack("<Q", address)
        targets[name] = at
    for found, offsets in zip(objects, places, strict=True):
        _relocate(memory, found, offsets, targets)
    return ObjectCode(memory, defined)


def _layout(objects: Sequence[_Object]) -> tuple[list[list[int | None]], int]:
    """Return, per object and section, its offset in memory (None for what is not loaded), and the bytes in all."""
    places: list[list[int | None]] = []
    position = 0
    for found in objects:
        offsets: list[int | None] = []
        for section in found.sections:
            if not section.flags & _ALLOCATED or section.kind not in (_PROGBITS, _NOBITS):
                offsets.append(None)
                continue
            if section.flags & (_WRITABLE | _THREAD_LOCAL):
                raise UnsupportedObjectError("a section holds variables")
            if section.alignment > _MOST_ALIGNED:
                raise UnsupportedObjectError(f"a section wants an alignment of {section.alignment}")
            position += -position % section.alignment
            offsets.append(position)
            position += section.nbytes
            if position > _MOST_BYTES:
                raise UnsupportedObjectError("the code is too large")
        places.append(offsets)
    return places, position


def _externals(objects: Sequence[_Object]) -> dict[str, int]:
    """Return the addresses of the functions that no object defines."""
    defined = {symbol.name for found in objects for symbol in found.symbols if symbol.section != _UNDEFINED}
    wanted = {s.name for found in objects for s in found.symbols if s.name and s.section == _UNDEFINED} - defined
    libraries = [ctypes.CDLL(None), *(ctypes.CDLL(name) for name in _LIBRARIES)] if wanted else []
    addresses: dict[str, int] = {}
    for name in sorted(wanted):
        addresses[name] = next(filter(None, (_look_up(library, name) for library in libraries)), 0)
        if not addresses[name]:
            raise UnsupportedObjectError(f"symbol {name} is defined nowhere")
    return addresses


def _look_up(library: ctypes.CDLL, name: str) -> int:
    try:
        return ctypes.cast(library[name], ctypes.c_void_p).value or 0
    except AttributeError:
        return 0


def _defined(objects: Sequence[_Object], places: Sequence[Sequence[int | None]]) -> dict[str, int]:
    defined: dict[str, int] = {}
    for found, offsets in zip(objects, places, strict=True):
        for symbol in found.symbols:
            if symbol.name and _UNDEFINED < symbol.section < _RESERVED:
                defined.setdefault(symbol.name, _place(offsets, symbol))
    return defined


def _place(offsets: Sequence[int | None], symbol: _Symbol) -> int:
    offset = offsets[symbol.section] if symbol.section < _RESERVED else None
    if offset is None:
        raise UnsupportedObjectError(f"symbol {symbol.name} lies in no loaded section")
    return offset + symbol.value


def _relocate(memory: bytearray, found: _Object, offsets: Sequence[int | None], targets: dict[str, int]) -> None:
    """Patch the distances from places in ``found`` to what they refer to."""
    for section, at, kind, number, addend in found.relocations():
        start = offsets[section]
        if start is None:
            continue  # unwinding tables: nothing is ever thrown through our code
        if kind not in (_PC32, _PLT32):
            raise UnsupportedObjectError(f"a relocation of kind {kind}")
        symbol = found.symbols[number]
        own = symbol.section != _UNDEFINED
        target = _place(offsets, symbol) if own else targets[symbol.name]
        struct.pack_into("<i", memory, start + at, target + addend - (start + at))


def _place_code(image: bytes | bytearray) -> int:
    """Copy ``image`` to memory of its own, readable and executable, and return the address."""
    map_, protect, _ = _system()
    address = map_(None, len(image), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address in (None, _FAILED):
        raise UnsupportedObjectError("the system gives no memory for code")
    ctypes.memmove(address, bytes(image), len(image))
    if protect(address, len(image), mmap.PROT_READ | mmap.PROT_EXEC):
        _unmap(address, len(image))
        raise UnsupportedObjectError("the system refuses to make memory executable")
    return int(address)


def _unmap(address: int, nbytes: int) -> None:
    _system()[2](address, nbytes)


@lru_cache(maxsize=1)
def _system() -> tuple[Any, Any, Any]:
    """Return the C library's mmap, mprotect and munmap."""
    library = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.argtypes, library.mmap.restype = (pointer, size, number, number, number, ctypes.c_long), pointer
    library.mprotect.argtypes, library.mprotect.restype = (pointer, size, number), number
    library.munmap.argtypes, library.munmap.restype = (pointer, size), number
    return library.mmap, library.mprotect, library.munmap
