"""float32 vector math: range reductions and polynomials, within 4 ULP over all floats.

Coefficients are minimax fits (Remez exchange in 60 digits) over the reduced range
stated beside each. It must not know kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dlc.codegen.llvm import lookup32 as llvm_lookup32
from dlc.codegen.llvm.formula import Bits, Formula, Number
from dlc.codegen.llvm.segment_tables import ERF, TANH

_LOG2E = math.log2(math.e)
_LN2_HIGH = 0.693359375  # nine bits: products with exponents are exact
_LN2_LOW = -2.12194440054690583e-4
_PI = math.pi

# (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2
_EXP = (0.5000000027249403, 0.1666657626014359, 0.04166637294956434, 0.008363297774963965, 0.0013941320382434511)
# (log(1 + f) - f + f^2/2) / f^3 on sqrt(1/2) <= 1 + f <= sqrt(2)
_LOG = (
    *(0.33333312603087056, -0.2500000959836553, 0.200021187038002, -0.16667995925571438, 0.14219551627257176),
    *(-0.12405587168759906, 0.11888165481220307, -0.11675664426713653, 0.06746650062950474),
)
# erf(x)/x - 1 in x^2 on |x| <= 0.93, and -log(erfc(x)) on 0.92 <= x <= 3.95
_ERF = (
    *(0.128379166642588, -0.3761263369860283, 0.11283693955962636, -0.026859271232355205),
    *(0.0052006349015938525, -0.0008137440383380078, 8.345225383524751e-05),
)
_ERFC = (
    *(0.00020703094987667545, 1.1276273015854092, 0.6372659306982007, 0.1038562064045942),
    *(-0.022189689650947204, 0.003033668846255047, -0.00019494416314041758),
)


_LEAST_LOG = -87.33654
"""exp of this is just above the smallest normal number."""


def _rest(f: Formula, x: Number, n: Number) -> Number:
    """exp(r) - 1 for the rest r of x beyond n ln(2), by two short chains side by side."""
    r = f.fma(n, -_LN2_HIGH, x)
    r = f.fma(n, -_LN2_LOW, r)
    square = r * r
    tail = f.fma(f.polynomial(r, _EXP[3:]), square, f.polynomial(r, _EXP[1:3]))
    return f.fma(f.fma(tail, r, _EXP[0]), square, r)


def _power(f: Formula, x: Number) -> tuple[Number, Number]:
    """exp(x) for x from -87 to 88.7 as a power of two, infinity from 88.38 on, and how far above 1 its factor is."""
    n, bits = f.segment(x, math.log(2), 127)
    return (bits << 23).as_float(), _rest(f, x, n)


def exp_scaled(f: Formula, x: Number, shift: int = 0) -> Number:
    """exp(x) * 2^shift, rounded to zero, subnormals and infinity as the exact value would be."""
    vanishes = x < -104.0  # masked scores: scaling down to zero would cost a microcode assist per vector
    x = vanishes.pick(0.0, f.below(x, 89.0 + 0.7 * max(0, -shift)))
    if f.has_lookup:
        return vanishes.pick(0.0, llvm_lookup32.exp_scaled(f, x, shift))
    n, integer = f.nearest(x * _LOG2E)
    p = _rest(f, x, n) + 1.0
    if shift:
        n, integer = n + float(shift), integer + shift
    return vanishes.pick(0.0, f.scale(p, n, integer))


def _exp_normal(f: Formula, x: Number) -> Number:
    """exp(x) for x from -87 to 88.7, infinity from 88.38 on: one power of two scales all of it; about 1 ULP."""
    power, rest = _power(f, x)
    return (rest + 1.0) * power


def exp(f: Formula, x: Number) -> Number:
    """e**x: 2^n times a polynomial in the rest; about 1 ULP."""
    return exp_scaled(f, x)


def expm1(f: Formula, x: Number) -> Number:
    """e**x - 1 without cancellation at small x; about 2 ULP."""
    bounded = f.above(f.below(x, 89.0), -18.0)
    n, integer = f.nearest(bounded * _LOG2E)
    p = _rest(f, bounded, n)
    # 2^n may overflow where the result does not: work with half of it.
    half = ((integer + 126) << 23).as_float()
    result = f.fma(half, p, half - 0.5)
    result = result + result
    return (x.abs() < 1e-4).pick(f.fma(x, 0.5, 1.0) * x, result)


def _split(f: Formula, x: Number) -> tuple[Number, Number, Bits]:
    """Write positive normal x as m * 2^e, m in [sqrt(1/2), sqrt(2)): m, e, and 2^-e's exponent bits."""
    bits = x.bits()
    shifted = (bits - 0x3F3504F3) & -0x800000
    return (bits - shifted).as_float(), (shifted >> 23).to_float(), shifted


def _log_of(f: Formula, m: Number, e: Number) -> Number:
    """log((1 + m) * 2^e) for m = mantissa - 1."""
    square = m * m
    tail = f.polynomial(m, _LOG) * (square * m)
    tail = f.fma(e, _LN2_LOW, tail)
    tail = f.fma(square, -0.5, tail)
    return f.fma(e, _LN2_HIGH, m + tail)


def _log_ends(f: Formula, x: Number, result: Number) -> Number:
    """log at zero, below it, at infinity and at NaN."""
    result = (x < math.inf).pick(result, x)
    result = x.equals(0.0).pick(-math.inf, result)
    return (x < 0.0).pick(math.nan, result)


def log(f: Formula, x: Number) -> Number:
    """Natural logarithm, subnormals included; about 1 ULP."""
    tiny = x < 2.0**-126
    m, e, _ = _split(f, tiny.pick(x * 2.0**23, x))
    e = tiny.pick(e - 23.0, e)
    return _log_ends(f, x, _log_of(f, m - 1.0, e))


def log1p(f: Formula, x: Number) -> Number:
    """log(1 + x) without cancellation at small x; about 1.5 ULP."""
    u = x + 1.0
    m, e, shifted = _split(f, u)
    # What rounding 1 + x lost, scaled like the mantissa: exact by the order of the subtractions.
    lost = (x > 1.0).pick(1.0 - (u - x), x - (u - 1.0))
    scale = (f.number(1.0).bits() - shifted).as_float()
    lost = (x < 2.0**60).pick(lost * scale, 0.0)  # at the top 2^-e is no normal float
    result = _log_of(f, (m - 1.0) + lost, e)
    result = _log_ends(f, u, result)
    return (x.abs() < 2.0**-13).pick(f.fma(x * -0.5, x, x), result)


def tanh(f: Formula, x: Number) -> Number:
    """e / (e + 2) for e = e**2|x| - 1, which keeps its digits near zero; about 2 ULP, with lookups, too."""
    if f.has_lookup:
        return llvm_lookup32.odd(f, x, TANH)
    a = x.abs()
    power, rest = _power(f, f.below(a + a, 20.0))
    grown = f.fma(power, rest, power - 1.0)
    return f.copysign(grown / (grown + 2.0), x)


def sigmoid(f: Formula, x: Number) -> Number:
    """1 / (1 + e**-x); about 2.5 ULP, with lookups 3.

    What would be subnormal is zero: a microcode assist for each vector would make it up to 28 times as slow.
    """
    if f.has_lookup:
        result = llvm_lookup32.sigmoid_normal(f, x)
    else:  # infinite powers leave zero, and small ones nothing of themselves beside 1
        result = 1.0 / (_exp_normal(f, f.above(f.below(-x, 88.7), -20.0)) + 1.0)
    return (x < _LEAST_LOG).pick(0.0, result)


def erf(f: Formula, x: Number) -> Number:
    """Odd polynomial near zero, 1 - exp(polynomial) beyond; about 1.5 ULP. With lookups: about 2 ULP."""
    if f.has_lookup:
        return llvm_lookup32.odd(f, x, ERF)
    a = x.abs()
    small = f.fma(f.polynomial(x * x, _ERF), a, a)
    large = 1.0 - _exp_normal(f, -f.polynomial(f.below(a, 3.95), _ERFC))
    return f.copysign((a < 0.925).pick(small, large), x)


def sinh(f: Formula, x: Number) -> Number:
    """Taylor polynomial below 1, (e**x - e**-x) / 2 beyond; about 2 ULP."""
    a = x.abs()
    half = exp_scaled(f, a, -1)
    large = f.copysign(half - 0.25 / half, x)
    z = x * x
    small = f.fma(x * z, f.polynomial(z, (1 / 6, 1 / 120, 1 / 5040, 1 / 362880, 1 / 39916800)), x)
    return (a < 1.0).pick(small, large)


def cosh(f: Formula, x: Number) -> Number:
    """(e**x + e**-x) / 2 without early overflow; about 1.5 ULP."""
    half = exp_scaled(f, x.abs(), -1)
    return half + 0.25 / half


def asinh(f: Formula, x: Number) -> Number:
    """Through log1p, without cancellation at small x; about 2 ULP."""
    a = x.abs()
    square = a * a
    near = log1p(f, a + square / ((square + 1.0).sqrt() + 1.0))
    far = log(f, a) + math.log(2)
    return f.copysign((a < 4096.0).pick(near, far), x)


def acosh(f: Formula, x: Number) -> Number:
    """Through log1p of x - 1; NaN below 1; about 2 ULP."""
    t = x - 1.0
    near = log1p(f, t + f.fma(t, t, t + t).sqrt())
    far = log(f, x) + math.log(2)
    return (x < 1.0).pick(math.nan, (x > 4096.0).pick(far, near))


def atanh(f: Formula, x: Number) -> Number:
    """Through log1p; about 2 ULP."""
    a = x.abs()
    return f.copysign(log1p(f, (a + a) / (1.0 - a)) * 0.5, x)


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
    "sinh": sinh,
    "cosh": cosh,
    "asinh": asinh,
    "acosh": acosh,
    "atanh": atanh,
}
