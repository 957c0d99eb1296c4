"""Functions as short polynomials, one for each segment of their range: coefficients by degree and segment.

Taylor series about the middle of each segment, whose terms of degree 7 and 8 are
spread over the lower ones by Chebyshev polynomials. It must not know how they are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

ERF_SEGMENT, TANH_SEGMENT = 17 / 64, 19 / 64
"""Widths of segments, exact in binary; segment k is centred at k times this."""
Table = tuple[tuple[float, ...], ...]
"""``table[degree][segment]``."""


def _erf_series(centre: float) -> list[float]:
    """Return the Taylor coefficients of erf up to degree 8, through Hermite polynomials."""
    hermite = [1.0, 2 * centre]
    for k in range(2, 8):
        hermite.append(2 * centre * hermite[-1] - 2 * (k - 1) * hermite[-2])
    slope = 2 / math.sqrt(math.pi) * math.exp(-centre * centre)
    return [math.erf(centre), *(slope * (-1) ** (k - 1) * hermite[k - 1] / math.factorial(k) for k in range(1, 9))]


def _tanh_series(centre: float) -> list[float]:
    """Return the Taylor coefficients of tanh up to degree 8, from y' = 1 - y^2."""
    c = [math.tanh(centre)]
    for n in range(8):
        square = math.fsum(c[i] * c[n - i] for i in range(n + 1))
        c.append(((1.0 if n == 0 else 0.0) - square) / (n + 1))
    return c


def _economised(series: list[float], half: float) -> list[float]:
    """Return degree 6 in place of 8: t^8 and t^7 on |t| <= half without their Chebyshev terms T8 and T7."""
    c = list(series)
    for k, factor in ((6, 2 * half**2), (4, -5 / 4 * half**4), (2, half**6 / 4), (0, -(half**8) / 128)):
        c[k] += c[8] * factor
    for k, factor in ((5, 7 / 4 * half**2), (3, -7 / 8 * half**4), (1, 7 / 64 * half**6)):
        c[k] += c[7] * factor
    return c[:7]


def _table(series: Callable[[float], list[float]], segments: int, width: float) -> Table:
    """Return the table of an odd function from 0 on."""
    rows = [_economised(series(k * width), width / 2) for k in range(segments)]
    rows[0][::2] = [0.0] * 4  # odd: small arguments keep their relative accuracy
    return tuple(tuple(row[degree] for row in rows) for degree in range(7))


ERF_TABLE = _table(_erf_series, 16, ERF_SEGMENT)
TANH_TABLE = _table(_tanh_series, 32, TANH_SEGMENT)
