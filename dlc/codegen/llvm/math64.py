"""float64 vector math: the functions that models use are polynomials, the rest calls the C library per lane.

Coefficients are minimax fits (Remez exchange in 60 digits) over the reduced range
stated beside each. It must not know kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dlc.codegen.llvm.formula import Bits, Formula, Number
from dlc.codegen.llvm.libm import per_lane, unless

_LOG2E = math.log2(math.e)
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # 32 bits: products with exponents are exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_HUGE = 2.0**20
_HALF_PI_1 = float.fromhex("0x1.921fb54400000p+0")  # three parts of pi/2, the first two of 33 bits
_HALF_PI_2 = float.fromhex("0x1.0b4611a600000p-34")
_HALF_PI_3 = float.fromhex("0x1.3198a2e037073p-69")
_SIGN = -0x8000000000000000

# (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2
_EXP = (
    *(0.5, 0.1666666666666667, 0.041666666666666685, 0.008333333333326023, 0.0013888888888874177),
    *(0.00019841269875208494, 2.480158734786373e-05, 2.755725490970847e-06, 2.755725240677752e-07),
    *(2.5105420584484216e-08, 2.092176005170754e-09),
)
# (log((1+s)/(1-s)) - 2s) / s^3 in s^2 for (1+s)/(1-s) in [sqrt(1/2), sqrt(2)]
_LOG = (
    *(0.6666666666666666, 0.40000000000000885, 0.2857142857079863, 0.22222222392730404),
    *(0.18181795541390908, 0.15386244625882073, 0.1326865144000964, 0.13087807915317876),
)
# (sin(r)/r - 1) / r^2 and (cos(r) - 1 + r^2/2) / r^4 in r^2 on |r| <= pi/4
_SIN = (
    *(-0.16666666666666666, 0.008333333333333331, -0.0001984126984126502, 2.755731921930353e-06),
    *(-2.5052106220024738e-08, 1.605852964458105e-10, -7.586580487904591e-13),
)
_COS = (
    *(0.041666666666666664, -0.0013888888888888887, 2.480158730158462e-05, -2.7557319221382924e-07),
    *(2.0876755784145613e-09, -1.1470459785853874e-11, 4.74580684080215e-14),
)
# erf(x)/x in x^2 on |x| <= 1, and -log(erfc(x)) in x - 5/2 on 1 <= x <= 6
_ERF = (
    *(1.1283791670955126, -0.3761263890318375, 0.11283791670954882, -0.02686617064507736),
    *(0.005223977624823154, -0.0008548326981106241, 0.00012055331120754248, -1.4925595466262048e-05),
    *(1.6461003376288504e-06, -1.6350340180567313e-07, 1.4659939232624163e-08, -1.1373404067814567e-09),
    5.957986180417568e-11,
)
_ERFC = (
    *(7.806815272727266, 5.3526807509864325, 0.943893733524219, 0.010858072737462832, -0.0021654769027295508),
    *(0.0004209325639533184, -7.703078140360981e-05, 1.2755857841664385e-05, -1.76902519640683e-06),
    *(1.558994203411022e-07, 1.2621029274799397e-08, -1.0852366614545445e-08, 3.541168041396319e-09),
    *(-8.776331461357761e-10, 1.3723756342404779e-10, -1.8035076248727977e-11, 8.838009061131363e-12),
    *(7.601008454608827e-13, -1.0390264582721321e-12),
)


def _reduced(f: Formula, x: Number) -> tuple[Number, Number, Bits]:
    """Write x as n*ln(2) + r: r, n as a float and as an integer."""
    n, integer = f.nearest(x * _LOG2E)
    return f.fma(n, -_LN2_LOW, f.fma(n, -_LN2_HIGH, x)), n, integer


def exp(f: Formula, x: Number) -> Number:
    """e**x: 2^n times a polynomial in the rest; about 1 ULP."""
    r, n, integer = _reduced(f, f.above(f.below(x, 710.0), -746.0))
    p = f.fma(f.estrin(r, _EXP), r * r, r) + 1.0
    return f.scale(p, n, integer)


def expm1(f: Formula, x: Number) -> Number:
    """e**x - 1 without cancellation at small x; about 2 ULP."""
    r, _, integer = _reduced(f, f.above(f.below(x, 710.0), -40.0))
    p = f.fma(f.estrin(r, _EXP), r * r, r)
    half = ((integer + 1022) << 52).as_float()
    result = f.fma(half, p, half - 0.5)
    result = result + result
    return (x.abs() < 1e-8).pick(f.fma(x, 0.5, 1.0) * x, result)


def _split(x: Number) -> tuple[Number, Number, Bits]:
    bits = x.bits()
    shifted = (bits - 0x3FE6A09E667F3BCD) & -(1 << 52)
    f = x.f
    narrow = f.s.op(f"trunc {f.word} {(shifted >> 52).text} to {f.word.replace('i64', 'i32')}")
    exponent = f.s.op(f"sitofp {f.word.replace('i64', 'i32')} {narrow} to {f.kind}")
    return (bits - shifted).as_float(), Number(f, exponent), shifted


def _log_of(f: Formula, m: Number, e: Number) -> Number:
    """log((1 + m) * 2^e): with s = m/(2+m), log(1+m) = m - m^2/2 + s*(m^2/2 + R), which keeps m's own bits."""
    s = m / (m + 2.0)
    z = s * s
    half_square = m * m * 0.5
    tail = s * (half_square + z * f.estrin(z, _LOG))
    tail = f.fma(e, _LN2_LOW, tail)
    return f.fma(e, _LN2_HIGH, m - (half_square - tail))


def _log_ends(x: Number, result: Number) -> Number:
    result = (x < math.inf).pick(result, x)
    result = x.equals(0.0).pick(-math.inf, result)
    return (x < 0.0).pick(math.nan, result)


def log(f: Formula, x: Number) -> Number:
    """Natural logarithm, subnormals included; about 1 ULP."""
    tiny = x < 2.0**-1022
    m, e, _ = _split(tiny.pick(x * 2.0**54, x))
    e = tiny.pick(e - 54.0, e)
    return _log_ends(x, _log_of(f, m - 1.0, e))


def log1p(f: Formula, x: Number) -> Number:
    """log(1 + x) without cancellation at small x; about 1.5 ULP."""
    u = x + 1.0
    m, e, shifted = _split(u)
    lost = (x > 1.0).pick(1.0 - (u - x), x - (u - 1.0))
    scale = (f.number(1.0).bits() - shifted).as_float()
    lost = (x < 2.0**60).pick(lost * scale, 0.0)
    result = _log_ends(u, _log_of(f, (m - 1.0) + lost, e))
    return (x.abs() < 2.0**-27).pick(f.fma(x * -0.5, x, x), result)


def tanh(f: Formula, x: Number) -> Number:
    """Through expm1; about 2.5 ULP."""
    grown = expm1(f, f.below(x.abs(), 22.0) * 2.0)
    return f.copysign(grown / (grown + 2.0), x)


def sigmoid(f: Formula, x: Number) -> Number:
    """1 / (1 + e**-x) through e**-|x|; about 2 ULP."""
    e = exp(f, -x.abs())
    return (x < 0.0).pick(e, 1.0) / (e + 1.0)


def erf(f: Formula, x: Number) -> Number:
    """Odd polynomial up to 1, 1 - exp(polynomial) beyond; about 3 ULP."""
    a = x.abs()
    near = a * f.estrin(a * a, _ERF)
    t = f.below(a, 6.0) - 2.5
    far = 1.0 - exp(f, -f.estrin(t, _ERFC))
    return f.copysign((a < 1.0).pick(near, far), x)


def _reduce_angle(f: Formula, a: Number) -> tuple[Number, Number, Bits]:
    """Return a - q*pi/2 as a sum of two floats, and q, for 0 <= a <= 2^20."""
    n, quadrant = f.nearest(a * (2 / math.pi))
    first = f.fma(n, -_HALF_PI_1, a)
    product = n * _HALF_PI_2  # exact: 33 bits times 20
    high = first - product
    low = (first - high) - product
    tail = f.fma(n, -_HALF_PI_3, low)
    r = high + tail
    return r, tail - (r - high), quadrant


def _sin_cos(f: Formula, r: Number, rest: Number) -> tuple[Number, Number]:
    z = r * r
    sine = r + f.fma(r * z, f.polynomial(z, _SIN), f.fma(z * -0.5, rest, rest))
    half = z * 0.5
    one = 1.0 - half
    correction = ((1.0 - one) - half) + f.fma(z * z, f.polynomial(z, _COS), -(r * rest))
    return sine, one + correction


def sin(f: Formula, x: Number) -> Number:
    """Three-part reduction by pi/2 up to 2^20, the C library beyond; about 1 ULP."""
    a = x.abs()
    r, rest, q = _reduce_angle(f, a)
    sine, cosine = _sin_cos(f, r, rest)
    result = (q & 1).equals(0).pick(sine, cosine)
    sign = (x.bits() & _SIGN) ^ ((q & 2) << 62)
    return unless(f, a > _HUGE, (result.bits() ^ sign).as_float(), "sin", x)


def cos(f: Formula, x: Number) -> Number:
    """Three-part reduction by pi/2 up to 2^20, the C library beyond; about 1 ULP."""
    a = x.abs()
    r, rest, q = _reduce_angle(f, a)
    sine, cosine = _sin_cos(f, r, rest)
    result = (q & 1).equals(0).pick(cosine, sine)
    sign = ((q + 1) & 2) << 62
    return unless(f, a > _HUGE, (result.bits() ^ sign).as_float(), "cos", x)


def _library(name: str) -> Callable[..., Number]:
    return lambda f, *args: per_lane(f, name, *args)


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
    "sin": sin,
    "cos": cos,
} | {
    name: _library(name)
    for name in ("tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "pow")
}
