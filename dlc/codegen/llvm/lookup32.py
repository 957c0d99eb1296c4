"""float32 functions by tables of 16 entries, which one register holds and one instruction looks up (AVX-512).

Multiply-adds, comparisons and lookups are what such functions wait for; additions, shifts and integer
arithmetic run beside them. It must not know kernels.
"""

from __future__ import annotations

import math
import struct

from dlc.codegen.llvm.formula import TABLE, Bits, Formula, Number
from dlc.codegen.llvm.segment_tables import Segments

_MAGIC = 1.5 * 2.0**19
"""Added to a small number, it leaves the number in sixteenths in the low bits."""
_LOG2E = math.log2(math.e)
_LN2 = 0.693147182464599609375  # as float32 has it, 1.90e-9 too large
_EXCESS = 29
"""2^-29, 1.86e-9, is what ``_LN2`` has too much: the difference, times the greatest exponent, is 5e-9."""
_OFFSET = _MAGIC * 2.0**-_EXCESS
_ROOTS = tuple(math.exp(-_OFFSET) * 2.0 ** (k / TABLE) for k in range(TABLE))
"""exp(-_OFFSET) * 2^(k/16)."""


def _with_exponent(root: float, index: int, sign: int) -> float:
    """Return a float to whose bits ``index << 19`` is added for ``sign * root / 6``."""
    (bits,) = struct.unpack("<I", struct.pack("<f", sign * root / 6))
    (value,) = struct.unpack("<f", struct.pack("<I", bits - (index << 19)))
    return float(value)


_FALLING = tuple(_with_exponent(root, k, -1) for k, root in enumerate(_ROOTS))


def _reduced(f: Formula, x: Number, sign: int) -> tuple[Number, Bits, Number]:
    """Write ``sign * x`` as n ln(2) + r, n in sixteenths: n, bits that end in 16 n, and sign * (r + _OFFSET).

    The count times what ln(2) lacks in float32 is the count's own bits with a smaller exponent, which
    costs an addition in place of a product, and _OFFSET. r is at most ln(2)/32.
    """
    shifted = f.fma(x, sign * _LOG2E, _MAGIC)
    count, bits = shifted - _MAGIC, shifted.bits()
    near, excess = f.fma(count, -sign * _LN2, x), (bits - (_EXCESS << 23)).as_float()
    return count, bits, near + excess if sign > 0 else near - excess


def exp_scaled(f: Formula, x: Number, shift: int) -> Number:
    """exp(x) * 2^shift for x from -104 to where that is infinite; about 1 ULP."""
    count, index, z = _reduced(f, x, 1)
    root = f.lookup(_ROOTS, index)
    factor = f.fma(z * f.fma(z, 1 / 6, 0.5), z, z)  # exp(z) - 1, but for z^4/24 < 1.2e-8
    return f.scale(f.fma(root, factor, root), count + float(shift) if shift else count, index)


def sigmoid_normal(f: Formula, x: Number) -> Number:
    """1 / (1 + e**-x) where that is a normal number: e**-x as a product, and a quotient without a division."""
    _, index, z = _reduced(f, f.below(x, 80.0), -1)
    power = (f.lookup(_FALLING, index).bits() + (index << 19)).as_float()
    factor = f.fma(z, f.fma(z, z - 3.0, 6.0), -6.0)  # -6 exp(-z)
    return f.quotient(1.0, f.fma(power, factor, 1.0))


def odd(f: Formula, x: Number, table: Segments) -> Number:
    """An odd function by a polynomial for each segment of its range."""
    a = f.below(x.abs(), table.last)
    index = f.fma(a, 1 / table.unit, 1.0).bits() >> (23 - table.fraction_bits)
    t = a - f.lookup(table.centres, index)
    result = f.lookup(table.coefficients[-1], index)
    for coefficients in reversed(table.coefficients[:-1]):
        result = f.fma(result, t, f.lookup(coefficients, index))
    return f.copysign(result, x)
