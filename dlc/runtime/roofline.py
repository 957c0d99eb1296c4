"""A roofline: what a machine can do at most, and so the least time that given work can take on it.

Plain numbers and the arithmetic on them. It must not know how they are measured or what the work is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Roofline:
    """What ``threads`` threads of ``processor`` reach together.

    ``peak_flops`` is float32 multiply-adds per second, each counted as two; ``bandwidth`` the bytes per second of
    reading a working set again and again, by its size in bytes, smallest first.
    """

    processor: str
    threads: int
    peak_flops: float
    bandwidth: tuple[tuple[int, float], ...]

    def bandwidth_at(self, size: float) -> float:
        """Return the bandwidth for a working set of ``size`` bytes: that of the next larger one measured."""
        return max((rate for measured, rate in self.bandwidth if measured >= size), default=self.bandwidth[-1][1])

    def arithmetic_seconds(self, flops: float) -> float:
        """Return the least time for ``flops`` operations."""
        return flops / self.peak_flops

    def memory_seconds(self, nbytes: float, working_set: float | None = None) -> float:
        """Return the least time to move ``nbytes`` of a working set that is as large, or of ``working_set`` bytes."""
        return nbytes / self.bandwidth_at(nbytes if working_set is None else working_set)
