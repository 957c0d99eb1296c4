"""Odd functions as short polynomials, one for each segment of their range: coefficients by degree and segment.

Segments grow with the argument ``a``, some to each octave of 1 + a / unit, so that the bits of that sum number them.
Each polynomial interpolates its function at Chebyshev points, which errs little more than the best one.
It must not know how they are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SEGMENTS = 16
_DEGREE = 5


@dataclass(frozen=True)
class Segments:
    """An odd function for arguments ``a`` of 0 to ``last``, from where on it is 1.

    The first octave of ``1 + a / unit`` begins at zero; each has 2^``fraction_bits`` segments, all together 16.
    They are in the order of what the leading bits of that sum end in. ``coefficients[degree][segment]`` belong to
    powers of the distance from ``centres[segment]``.
    """

    unit: float
    fraction_bits: int
    last: float
    centres: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]


def segment_bounds(unit: float, fraction_bits: int) -> list[tuple[float, float]]:
    """Return where each segment begins and ends, from zero on."""
    parts = 1 << fraction_bits
    return list(pairwise(unit * (2.0 ** (k // parts) * (1 + k % parts / parts) - 1) for k in range(SEGMENTS + 1)))


def _interpolated(function: Callable[[float], float], nodes: Sequence[float], centre: float) -> list[float]:
    """Return the coefficients, in powers of the distance from ``centre``, of the polynomial through ``nodes``."""
    at = [x - centre for x in nodes]
    differences = [function(x) for x in nodes]
    for order in range(1, len(at)):  # Newton's divided differences
        for k in reversed(range(order, len(at))):
            differences[k] = (differences[k] - differences[k - 1]) / (at[k] - at[k - order])
    powers = [0.0] * len(at)
    for k in reversed(range(len(at))):  # powers * (t - at[k]) + differences[k]
        powers = [differences[k] - at[k] * powers[0], *(a - at[k] * b for a, b in pairwise(powers))]
    return powers


def _chebyshev(low: float, high: float, count: int) -> list[float]:
    return [(low + high) / 2 + (high - low) / 2 * math.cos(math.pi * (k + 0.5) / count) for k in range(count)]


def _segments(function: Callable[[float], float], unit: float, fraction_bits: int, last: float) -> Segments:
    """Return the table of an odd function; about zero it is its argument times a polynomial, which keeps all digits."""
    centres, rows = [], []
    for low, high in segment_bounds(unit, fraction_bits):
        high = min(high, last)
        if low:
            centres.append(last if high == last else (low + high) / 2)  # what is limited to the end becomes exactly 1
            rows.append(_interpolated(function, _chebyshev(low, high, _DEGREE + 1), centres[-1]))
        else:
            centres.append(0.0)
            rows.append([0.0, *_interpolated(lambda x: function(x) / x, _chebyshev(low, high, _DEGREE), 0.0)])
    begin = (127 << fraction_bits) % SEGMENTS  # what the leading bits of 1.0 end in
    order = [(k - begin) % SEGMENTS for k in range(SEGMENTS)]
    columns = tuple(tuple(rows[k][degree] for k in order) for degree in range(_DEGREE + 1))
    return Segments(unit, fraction_bits, last, tuple(centres[k] for k in order), columns)


ERF = _segments(math.erf, 1.31, 3, 3.925)
TANH = _segments(math.tanh, 0.605, 2, 9.05)
