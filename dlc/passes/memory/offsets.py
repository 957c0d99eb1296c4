"""Offsets of buffers in one arena, by the steps during which each is alive.

The fast way sweeps over the steps and takes the best hole; the tight way places
large buffers first. It must not know what buffers hold.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

ALIGNMENT = 64
MOST_TIGHT = 4096
"""Buffers up to which the tight way, whose time grows with their square, is tried."""
MOST_LEFT_OVER = 1 << 20
"""Bytes beside the peak, or a third of it, that a sweep may leave for memory that is likely to be in cache."""


@dataclass(frozen=True)
class Offsets:
    """``places`` in an arena of ``arena_bytes``; ``peak`` lists what is alive when most bytes are, ``peak_bytes``."""

    places: Mapping[int, int]
    arena_bytes: int
    peak: tuple[int, ...]
    peak_bytes: int


def assign_offsets(sizes: Mapping[int, int], live: Mapping[int, tuple[int, int]], tight: bool = False) -> Offsets:
    """Place buffers of ``sizes`` bytes that are ``live`` from a first to a last step, both included.

    Where the sweep needs more than the peak, ``tight`` tries the other way as well and takes what is smaller. That is
    done, too, where the sweep leaves very much between buffers.
    """
    rounded = {buffer: -(-max(sizes[buffer], 1) // ALIGNMENT) * ALIGNMENT for buffer in live}
    swept = _sweep(rounded, live)
    left_over = swept.arena_bytes - swept.peak_bytes
    most = 0 if tight else max(MOST_LEFT_OVER, swept.peak_bytes // 3)
    if left_over <= most or len(live) > MOST_TIGHT:
        return swept
    places = _large_first(rounded, live)
    arena_bytes = max(places[b] + rounded[b] for b in places)
    return swept if arena_bytes >= swept.arena_bytes else Offsets(places, arena_bytes, swept.peak, swept.peak_bytes)


def _large_first(sizes: Mapping[int, int], live: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """Place one buffer after the other, the largest first, each in the smallest gap between those it meets.

    Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020: greedy by size.
    """
    places: dict[int, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first step, last step: by offset
    for buffer in sorted(sizes, key=lambda b: (-sizes[b], live[b])):
        (first, last), size = live[buffer], sizes[buffer]
        best, smallest, end = -1, -1, 0
        for offset, stop, begin, until in placed:
            if until < first or begin > last:
                continue
            gap = offset - end
            if gap >= size and (best < 0 or gap < smallest):
                best, smallest = end, gap
            end = max(end, stop)
        places[buffer] = best if best >= 0 else end
        insort(placed, (places[buffer], places[buffer] + size, first, last))
    return places


class _FreeList:
    """Holes of the arena by offset; best fit, merging neighbours."""

    def __init__(self) -> None:
        self.end = 0
        self.by_offset: list[tuple[int, int]] = []
        self.by_size: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        """Return the offset of the smallest hole that fits, growing the arena if none does."""
        index = bisect_left(self.by_size, (size, -1))
        if index < len(self.by_size):
            hole, offset = self.by_size[index]
            self._remove(offset, hole)
            if hole > size:
                self._add(offset + size, hole - size)
            return offset
        if self.by_offset and sum(self.by_offset[-1]) == self.end:  # grow the hole at the top
            offset, hole = self.by_offset[-1]
            self._remove(offset, hole)
            self.end = offset + size
            return offset
        offset = self.end
        self.end += size
        return offset

    def give(self, offset: int, size: int) -> None:
        """Return a range, merging it with the holes beside it."""
        index = bisect_left(self.by_offset, (offset, 0))
        if index < len(self.by_offset) and self.by_offset[index][0] == offset + size:
            after = self.by_offset[index]
            self._remove(*after)
            size += after[1]
        if index > 0 and sum(self.by_offset[index - 1]) == offset:
            before = self.by_offset[index - 1]
            self._remove(*before)
            offset, size = before[0], before[1] + size
        self._add(offset, size)

    def _add(self, offset: int, size: int) -> None:
        insort(self.by_offset, (offset, size))
        insort(self.by_size, (size, offset))

    def _remove(self, offset: int, size: int) -> None:
        del self.by_offset[bisect_left(self.by_offset, (offset, size))]
        del self.by_size[bisect_left(self.by_size, (size, offset))]


def _sweep(sizes: Mapping[int, int], live: Mapping[int, tuple[int, int]]) -> Offsets:
    """Sweep over the steps, taking a place at a range's first step and giving it back after its last."""
    starts: dict[int, list[int]] = defaultdict(list)
    ends: dict[int, list[int]] = defaultdict(list)
    for buffer, (first, last) in live.items():
        starts[first].append(buffer)
        ends[last].append(buffer)
    free, places = _FreeList(), {}
    total, highest, at = 0, 0, -1
    for number in sorted({*starts, *ends}):
        for buffer in sorted(starts.get(number, ()), key=lambda b: -sizes[b]):
            places[buffer] = free.take(sizes[buffer])
            total += sizes[buffer]
        if total > highest:
            highest, at = total, number
        for buffer in ends.get(number, ()):
            free.give(places[buffer], sizes[buffer])
            total -= sizes[buffer]
    peak = tuple(buffer for buffer, (first, last) in live.items() if first <= at <= last)
    return Offsets(places, free.end, peak, highest)
