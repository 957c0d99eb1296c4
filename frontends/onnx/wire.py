"""Splits weights off a serialized model: those of a file are read once, into place; those of bytes are viewed there.

Knows the protobuf wire format and three field numbers of ONNX. Whatever looks
unusual is left to the protobuf parser.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dlc.ir.provenance import Region, file_state, read_parts

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_LENGTH_DELIMITED = 2
_SMALLEST = 4096
_ALIGNMENT = 64
_WINDOW = 1 << 18


class Bytes(Protocol):
    """A serialized model that can be read in parts."""

    size: int

    def byte(self, position: int) -> int:
        """Return one byte."""

    def part(self, start: int, end: int) -> bytes:
        """Return a copy of a part."""

    def weights(self, places: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return parts (start, end) that hold weights, to be kept."""


class HeldBytes:
    """A model in memory: weights are views."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._view = memoryview(data)

    def byte(self, position: int) -> int:
        return self._view[position]

    def part(self, start: int, end: int) -> bytes:
        return bytes(self._view[start:end])

    def weights(self, places: Sequence[tuple[int, int]]) -> list[memoryview]:
        return [self._view[start:end] for start, end in places]


class FileBytes:
    """A model in an open file: read through a window; every weight goes into aligned memory of its own."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.state = file_state(path, descriptor)
        self.size = self.state.size
        self.regions: list[Region] = []
        self._descriptor = descriptor
        self._window = b""
        self._start = 0

    def byte(self, position: int) -> int:
        offset = position - self._start
        if not 0 <= offset < len(self._window):
            self._window, self._start, offset = os.pread(self._descriptor, _WINDOW, position), position, 0
            if not self._window:
                raise UnusualLayout
        return self._window[offset]

    def part(self, start: int, end: int) -> bytes:
        pieces = []
        while start < end:
            piece = os.pread(self._descriptor, end - start, start)
            if not piece:
                raise UnusualLayout
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def weights(self, places: Sequence[tuple[int, int]]) -> list[memoryview]:
        found = []
        for start, end in places:
            room = np.empty(end - start + _ALIGNMENT, np.uint8)
            first = -room.ctypes.data % _ALIGNMENT
            found.append(room[first : first + end - start])
        try:
            read_parts([(self._descriptor, room.data, start) for room, (start, _) in zip(found, places, strict=True)])
        except OSError as error:
            raise UnusualLayout from error
        for room, (start, end) in zip(found, places, strict=True):
            self.regions.append(Region(room.ctypes.data, end - start, self.state, start))
        return [room.data.toreadonly() for room in found]


@dataclass(frozen=True)
class SplitModel:
    """A model without its large weights, and those by position in ``graph.initializer``."""

    model: bytes
    weights: dict[int, memoryview]


class UnusualLayout(Exception):
    """The bytes are not laid out as ONNX writers lay them out, or the file shrank while it was read."""


def split_weights(data: Bytes) -> SplitModel:
    """Return the model without the raw data of large initializers, and these."""
    try:
        return _split(data)
    except UnusualLayout:
        return SplitModel(data.part(0, data.size), {})


def _split(data: Bytes) -> SplitModel:
    graphs = [f for f in _fields(data, 0, data.size) if f[0] == _GRAPH]
    if len(graphs) != 1 or graphs[0][1] != _LENGTH_DELIMITED:
        raise UnusualLayout
    _, _, tag, start, end = graphs[0]
    places: dict[int, tuple[int, int]] = {}
    pieces: list[bytes] = []
    position = 0
    copied = start  # everything of the graph before is in ``pieces``
    for field, kind, at, first, last in _fields(data, start, end):
        if field != _INITIALIZER:
            continue
        if kind != _LENGTH_DELIMITED:
            raise UnusualLayout
        found = _raw_data(data, first, last) if last - first > _SMALLEST else None
        if found is not None:
            raw_tag, raw_start, raw_end = found
            places[position] = (raw_start, raw_end)
            pieces.append(data.part(copied, at))
            pieces.append(_header(_INITIALIZER, (last - first) - (raw_end - raw_tag)))
            pieces.append(data.part(first, raw_tag))
            pieces.append(data.part(raw_end, last))
            copied = last
        position += 1
    pieces.append(data.part(copied, end))
    length = sum(len(p) for p in pieces)
    model = b"".join([data.part(0, tag), _header(_GRAPH, length), *pieces, data.part(end, data.size)])
    return SplitModel(model, dict(zip(places, data.weights(list(places.values())), strict=True)))


def _raw_data(data: Bytes, start: int, end: int) -> tuple[int, int, int] | None:
    """Return (tag, start, end) of the one raw_data field of a tensor, None if it has none."""
    found = [f for f in _fields(data, start, end) if f[0] == _RAW_DATA]
    if not found:
        return None
    if len(found) > 1 or found[0][1] != _LENGTH_DELIMITED:
        raise UnusualLayout
    _, _, tag, first, last = found[0]
    return tag, first, last


def _fields(data: Bytes, start: int, end: int) -> list[tuple[int, int, int, int, int]]:
    """Return (number, wire type, position of the tag, start and end of the content) of every field of a message."""
    fields = []
    position = start
    while position < end:
        tag_at = position
        tag, position = _varint(data, position, end)
        number, kind = tag >> 3, tag & 7
        first = position
        if kind == 0:
            _, position = _varint(data, position, end)
        elif kind == 1:
            position += 8
        elif kind == _LENGTH_DELIMITED:
            length, first = _varint(data, position, end)
            position = first + length
        elif kind == 5:
            position += 4
        else:
            raise UnusualLayout
        if position > end or number == 0:
            raise UnusualLayout
        fields.append((number, kind, tag_at, first, position))
    return fields


def _varint(data: Bytes, position: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while position < end and shift < 70:
        byte = data.byte(position)
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise UnusualLayout


def _header(field: int, length: int) -> bytes:
    out = bytearray([field << 3 | _LENGTH_DELIMITED])
    while length > 0x7F:
        out.append((length & 0x7F) | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)
