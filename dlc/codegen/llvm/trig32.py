"""float32 trigonometry, its inverses, and pow.

Angles are reduced and powers computed in float64 vectors, which leaves the result
one rounding away; enormous angles go to the C library. It must not know kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dlc.codegen.llvm.formula import Bits, Flag, Formula, Number
from dlc.codegen.llvm.libm import unless

_HUGE = 2.0**20
"""Beyond this angle the two-part pi/2 below loses bits."""
_HALF_PI_HIGH = float.fromhex("0x1.921fb54400000p+0")  # 33 bits: products with |n| < 2^20 are exact
_HALF_PI_LOW = float.fromhex("0x1.0b4611a626331p-34")
_SIGN = -0x80000000

# (sin(r)/r - 1) / r^2 and (cos(r) - 1 + r^2/2) / r^4 in r^2 on |r| <= pi/4
_SIN = (-0.16666666663838378, 0.00833333186759341, -0.00019840082717593097, 2.7249390068140696e-06)
_COS = (0.041666664652181884, -0.0013888301308017325, 2.45475360613294e-05)
# (asin(x)/x - 1) / x^2 in x^2 on x^2 <= 1/4
_ASIN = (
    *(0.16666666293771468, 0.0750010340009113, 0.04459653620188131),
    *(0.03113304575700209, 0.017000043116276238, 0.033931222908312596),
)
# (atan(x)/x - 1) / x^2 in x^2 on |x| <= 1
_ATAN = (
    *(-0.33333299091270036, 0.19998548347598274, -0.14264242290765602, 0.10952188695691278, -0.08403458238031768),
    *(0.05795772052503781, -0.031177965526612565, 0.010914666978406685, -0.001793634833248953),
)
# (log((1+s)/(1-s)) - 2s) / s^3 in s^2 on mantissas around 1; (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2
_LOG = (0.6666666666738432, 0.39999998787277785, 0.28571756247551655, 0.2219130769058265, 0.19364237022717357)
_EXP = (
    *(0.4999999999990947, 0.16666666719333054, 0.04166666685470628, 0.008333298337184823),
    *(0.0013888823905209673, 0.00019899394729306608, 2.487631534886289e-05),
)


def _widen(f: Formula, x: Number) -> tuple[Formula, Number]:
    wide = Formula(f.s, "double", f.lanes)
    return wide, Number(wide, f.s.op(f"fpext {f.kind} {x.text} to {wide.kind}"))


def _narrow(f: Formula, x: Number) -> Number:
    return Number(f, f.s.op(f"fptrunc {x.f.kind} {x.text} to {f.kind}"))


def _reduce(f: Formula, a: Number) -> tuple[Number, Bits]:
    """Return a - q*pi/2 in [-pi/4, pi/4] and q for 0 <= a <= 2^20."""
    wide, angle = _widen(f, a)
    n, integer = wide.nearest(angle * (2 / math.pi))
    r = wide.fma(n, -_HALF_PI_LOW, wide.fma(n, -_HALF_PI_HIGH, angle))
    quadrant = Bits(f, f.s.op(f"trunc {wide.word} {integer.text} to {f.word}"))
    return _narrow(f, r), quadrant


def _sin_cos(f: Formula, r: Number) -> tuple[Number, Number]:
    z = r * r
    sine = f.fma(r * z, f.polynomial(z, _SIN), r)
    cosine = f.fma(z * z, f.polynomial(z, _COS), f.fma(z, -0.5, 1.0))
    return sine, cosine


def sin(f: Formula, x: Number) -> Number:
    """Angle reduced in float64; about 1.5 ULP."""
    a = x.abs()
    r, q = _reduce(f, a)
    sine, cosine = _sin_cos(f, r)
    result = (q & 1).equals(0).pick(sine, cosine)
    sign = (x.bits() & _SIGN) ^ ((q & 2) << 30)
    return unless(f, a > _HUGE, (result.bits() ^ sign).as_float(), "sin", x)


def cos(f: Formula, x: Number) -> Number:
    """Angle reduced in float64; about 1.5 ULP."""
    a = x.abs()
    r, q = _reduce(f, a)
    sine, cosine = _sin_cos(f, r)
    result = (q & 1).equals(0).pick(cosine, sine)
    sign = ((q + 1) & 2) << 30
    return unless(f, a > _HUGE, (result.bits() ^ sign).as_float(), "cos", x)


def tan(f: Formula, x: Number) -> Number:
    """Quotient of sine and cosine; about 3.5 ULP."""
    a = x.abs()
    r, q = _reduce(f, a)
    sine, cosine = _sin_cos(f, r)
    even = (q & 1).equals(0)
    quotient = even.pick(sine, cosine) / even.pick(cosine, sine)
    sign = (x.bits() & _SIGN) ^ ((q & 1) << 31)
    return unless(f, a > _HUGE, (quotient.bits() ^ sign).as_float(), "tan", x)


def _asin_core(f: Formula, a: Number) -> Number:
    """asin on 0 <= a <= 1/2."""
    z = a * a
    return f.fma(a * z, f.polynomial(z, _ASIN), a)


def _half_angle(f: Formula, a: Number) -> tuple[Flag, Number]:
    """Return where a > 1/2, and asin of a there replaced by sqrt((1 - a) / 2): what is left is half the complement."""
    large = a > 0.5
    return large, _asin_core(f, large.pick(f.fma(a, -0.5, 0.5).sqrt(), a))


def asin(f: Formula, x: Number) -> Number:
    """Polynomial up to 1/2, complement of the half angle beyond; about 2 ULP."""
    a = x.abs()
    large, core = _half_angle(f, a)
    complement = (_HALF_PI32 - (core + core)) + _HALF_PI32_LOW
    return f.copysign(large.pick(complement, core), x)


def acos(f: Formula, x: Number) -> Number:
    """From the same pieces as asin; about 1.5 ULP."""
    a = x.abs()
    large, core = _half_angle(f, a)
    twice = core + core
    negative = x < 0.0
    near_one = negative.pick((_PI32 - twice) + _PI32_LOW, twice)
    signed = negative.pick(-core, core)
    return large.pick(near_one, _HALF_PI32 - (signed - _HALF_PI32_LOW))


_HALF_PI32 = 1.57079637050628662109375
_HALF_PI32_LOW = math.pi / 2 - _HALF_PI32
_PI32 = 2 * _HALF_PI32
_PI32_LOW = 2 * _HALF_PI32_LOW


def _atan_unit(f: Formula, t: Number) -> Number:
    """atan on 0 <= t <= 1."""
    z = t * t
    return f.fma(t * z, f.polynomial(z, _ATAN), t)


def atan(f: Formula, x: Number) -> Number:
    """Polynomial on the unit interval, complement of 1/x beyond; about 1.5 ULP."""
    a = x.abs()
    steep = a > 1.0
    core = _atan_unit(f, steep.pick(1.0 / a, a))
    return f.copysign(steep.pick((_HALF_PI32 - core) + _HALF_PI32_LOW, core), x)


def atan2(f: Formula, y: Number, x: Number) -> Number:
    """Angle of the point (x, y); zeros and infinities as IEEE 754 has them."""
    across, up = x.abs(), y.abs()
    steep = up > across
    low, high = steep.pick(across, up), steep.pick(up, across)
    ratio = low / high
    ratio = high.equals(0.0).pick(0.0, ratio)
    ratio = low.equals(math.inf).pick(1.0, ratio)
    angle = _atan_unit(f, ratio)
    angle = steep.pick((_HALF_PI32 - angle) + _HALF_PI32_LOW, angle)
    behind = x.bits() < 0
    angle = behind.pick((_PI32 - angle) + _PI32_LOW, angle)
    angle = (x.is_nan() | y.is_nan()).pick(x + y, angle)
    return f.copysign(angle, y)


def power(f: Formula, x: Number, y: Number) -> Number:
    """x ** y through float64 logarithm and exponential; special cases as C's pow."""
    wide, base = _widen(f, x.abs())
    _, exponent = _widen(f, y)
    bits = base.bits()
    shifted = (bits - 0x3FE6A09E667F3BCD) & -(1 << 52)
    m, e = (bits - shifted).as_float(), (shifted >> 52)
    ratio = (m - 1.0) / (m + 1.0)
    z = ratio * ratio
    natural = wide.fma(ratio * z, wide.polynomial(z, _LOG), ratio + ratio)
    logarithm = wide.fma(natural, math.log2(math.e), _small_int(f, wide, e))
    logarithm = base.equals(0.0).pick(-math.inf, logarithm)
    logarithm = (base < math.inf).pick(logarithm, base)
    t = wide.above(wide.below(exponent * logarithm, 300.0), -300.0)
    n, integer = wide.nearest(t)
    r = (t - n) * math.log(2)
    p = wide.fma(r * r, wide.polynomial(r, _EXP), r) + 1.0
    result = _narrow(f, p * ((integer + 1023) << 52).as_float())
    # Whole exponents, and odd ones among them; from 2^24 on all are even.
    size = wide.below(exponent.abs(), 2.0**40)
    whole, count = wide.nearest(size)
    is_whole = whole.equals(size)
    odd = is_whole & (count & 1).differs(0)
    is_whole, odd = Flag(f, is_whole.text), Flag(f, odd.text)
    negative = x.bits() < 0
    result = (negative & odd).pick((result.bits() ^ _SIGN).as_float(), result)
    undefined = (x < 0.0) & (x > -math.inf)
    result = is_whole.pick(result, undefined.pick(math.nan, result))
    result = (x.equals(-1.0) & y.abs().equals(math.inf)).pick(1.0, result)
    return (x.equals(1.0) | y.equals(0.0)).pick(1.0, result)


def _small_int(f: Formula, wide: Formula, e: Bits) -> Number:
    """Convert a small 64-bit integer to float64 through 32 bits, which every vector unit converts."""
    narrow = f.s.op(f"trunc {wide.word} {e.text} to {f.word}")
    return Number(wide, f.s.op(f"sitofp {f.word} {narrow} to {wide.kind}"))


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "sin": sin,
    "cos": cos,
    "tan": tan,
    "asin": asin,
    "acos": acos,
    "atan": atan,
    "atan2": atan2,
    "pow": power,
}
