"""Fixed-point operands: vectors along the depth as integers of one scale, in signed bytes.

Products of bytes are added exactly in int32, so that all that is lost is what rounding to the scale loses: half a
step for every element, whatever its size. The kernels here split vectors and say how much that is beside what a
chain of float32 multiply-adds loses. They must not know who multiplies.

Scales are powers of two, so that whole numbers stay exact. The first three bytes hold 24 bits, the fourth eight
more. The estimate: rounding errors are independent, and sums walk at random. With n terms beside zero and operands a
and b, a chain loses 0.3 * 2^-24 * sqrt(n) |a| rms(b); steps s of a lose 0.29 * s * sqrt(n) rms(b). The ratio's
square is 3.7 * (2^23 * s)^2 / |a|^2, and likewise for steps of b, of which only terms count where a is not zero.
All this wants sums of several terms that count, of which sum |x| squared over sum x^2 tells the number.
"""

from __future__ import annotations

from functools import lru_cache

from dlc.codegen.contract.depth_levels import level_scalars, nested_levels
from dlc.codegen.contract.index import ZERO, scaled, total
from dlc.ir.expr import Expr, Horizontal, Load, Var, apply, cast, const, select
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, If, Kernel, Let, LoopKind, Space, Stmt, Store
from dlc.ir.types import float32, uint32

DIGITS = 4
"""Bytes of a number, most significant first; columns keep the last ones apart from the others."""
STEP = 64
"""Depth of one tile product of bytes: word w of a row holds the elements w, 16 + w, 32 + w and 48 + w."""
LANES = 16
TILE_WORDS = 16 * LANES
ROW_STEP_WORDS = DIGITS * TILE_WORDS
"""Words of one step of a tile of rows: [digit][row][word]."""
COLUMN_STEP_WORDS = (DIGITS - 1) * TILE_WORDS
"""Words of one step of a tile of columns: [digit][word][column]; last digits are [word][column]."""
FACTS = 2
"""Vectors of facts of a tile of columns, see ``digit_columns_kernel``."""
ZEROS, LOST, SCARCE = range(3)
"""Places in the second vector of facts."""
GREATEST, LEAST = 2.0**60, 2.0**-50
"""Bounds of a vector's largest magnitude: products are far from infinity and from the smallest numbers."""
NEVER = 2.0**100
"""The loss of a vector that must not be multiplied so."""
FEW = 2.0**-20
"""What stands for one over the number of elements beside zero where there are none; still NEVER shows."""
_UNIT = 2.0**30
_ROOM = 0x7F7F7F / 2.0**23
"""The largest number whose signed bytes are all in range, in units of what 24 bits hold."""
_BIAS = 0x80808080
_HALVING = 2.0**23 + 1

MEASURES = ("largest", "sum", "squares", "terms")
"""What is measured of a vector: its largest magnitude, sums of magnitudes and squares, its number of terms."""
_LANE = Var("lane")


def _f(value: float) -> Expr:
    return const(value, float32)


def _vector(lanes: int, *body: Stmt, active: Expr | None = None) -> For:
    return For(_LANE, const(lanes), LoopKind.VECTOR, body, active)


def _load(name: str) -> Expr:
    return Load(name, _LANE, float32)


def _zeroed(lanes: int, *names: str) -> list[Stmt]:
    """Allocate vectors of sums, all zero."""
    found: list[Stmt] = [Alloc(Buffer(name, float32, lanes, Space.LOCAL)) for name in names]
    return [*found, *(_vector(lanes, Store(name, _LANE, _f(0.0))) for name in names)]


def _measure(value: Expr) -> list[Stmt]:
    """Keep the largest magnitude (NaN shows in the sums), the sum and the squares' sum, and how many are not zero."""
    x, size = Var("x", float32), Var("size", float32)
    return [
        Let(x, value),
        Let(size, apply("abs", x)),
        Store("largest", _LANE, select(apply("greater", size, _load("largest")), size, _load("largest"))),
        Accumulate("sum", _LANE, "add", size),
        Accumulate("squares", _LANE, "fma", apply("mul", x, x)),
        Accumulate("terms", _LANE, "add", select(apply("equal", x, _f(0.0)), _f(0.0), _f(1.0))),
    ]


def _in_range(largest: Expr, squares: Expr) -> Expr:
    """Whether all elements are finite and the largest is within bounds."""
    return apply(
        "bit_and",
        apply("greater_equal", largest, _f(LEAST)),
        apply("less_equal", squares, _f(GREATEST * GREATEST)),
    )


def _power(largest: Expr) -> Expr:
    """Return the least power of two whose scale holds ``largest``: it is at most 1.99 times the power.

    Subtracting a number from its multiple leaves one bit of it, the nearest power of two.
    """
    multiple = apply("mul", largest, _f(_HALVING))
    near = apply("add", multiple, apply("sub", largest, multiple))
    half = apply("less_equal", largest, apply("mul", near, _f(_ROOM)))
    return select(half, apply("mul", near, _f(0.5)), near)


def _loss(power: Expr, squares: Expr) -> Expr:
    """Return (2^23 * step)^2 over a sum of squares, the step that of 24 bits."""
    return apply("div", apply("mul", apply("mul", power, power), _f(4.0)), squares)


def _thin(squares: Expr, sum_: Expr) -> Expr:
    """Return one over the number of elements that count, 0 for zeros."""
    return select(apply("greater", squares, _f(0.0)), apply("div", squares, apply("mul", sum_, sum_)), _f(0.0))


def _digits(value: Expr, multiplier: Expr) -> Expr:
    """Return the integer nearest to value * multiplier as a word whose bytes are the digits.

    Where the last byte stands for just half, it is made a little less if that keeps the other three even: else all
    would be rounded up there.
    """
    whole = cast(apply("nearest", apply("mul", value, multiplier)), uint32)
    half = apply("equal", apply("bit_and", whole, const(0x1FF, uint32)), const(0x80, uint32))
    even = select(half, apply("sub", whole, const(1, uint32)), whole)
    return apply("bit_xor", apply("add", even, const(_BIAS, uint32)), const(_BIAS, uint32))


def _interleaved(low: Expr, high: Expr, bits: int) -> tuple[Expr, Expr]:
    """Exchange the odd groups of ``bits`` bits of ``low`` with the even groups of ``high``."""
    even = const(0x00FF00FF if bits == 8 else 0x0000FFFF, uint32)
    odd = const(0xFF00FF00 if bits == 8 else 0xFFFF0000, uint32)
    by = const(bits, uint32)
    evens = apply("bit_or", apply("bit_and", low, even), apply("bit_and", apply("shift_left", high, by), odd))
    odds = apply("bit_or", apply("bit_and", apply("shift_right", low, by), even), apply("bit_and", high, odd))
    return evens, odds


def _words() -> list[Expr]:
    """Return the words of the digits, most significant first, of the numbers q0 to q3: a square of bytes turned."""
    q = [Var(f"q{number}", uint32) for number in range(4)]
    first, second = _interleaved(q[0], q[1], 8), _interleaved(q[2], q[3], 8)
    words: list[Expr] = [const(0, uint32)] * DIGITS
    for number in range(2):
        for half, word in enumerate(_interleaved(first[number], second[number], 16)):
            words[DIGITS - 1 - (number + 2 * half)] = word
    return words


# -- rows --------------------------------------------------------------------------------------------


def _row_value(levels: int, position: Expr) -> Expr:
    return Load("source", apply("add", Var(f"at{levels - 1}"), position), float32)


@lru_cache(maxsize=32)
def measure_row_kernel(levels: int) -> Kernel:
    """Return the kernel (source, largest, sum, squares, terms) that measures a row, see ``_measure``."""
    extent, wide = Var(f"n{levels - 1}"), 2 * LANES
    whole, rest = apply("floor_div", extent, const(wide)), apply("floor_mod", extent, const(wide))
    position, after = total(scaled(Var("c"), wide), _LANE), total(scaled(whole, wide), _LANE)
    ragged = _vector(wide, *_measure(_row_value(levels, after)), active=apply("less", _LANE, rest))
    measuring: list[Stmt] = [
        For(Var("c"), whole, LoopKind.SERIAL, (_vector(wide, *_measure(_row_value(levels, position))),)),
        If(apply("greater", rest, ZERO), (ragged,)),
    ]
    body = [
        *_zeroed(wide, *MEASURES),
        *nested_levels(measuring, levels - 1),
        *(
            Store(f"row_{name}", ZERO, Horizontal("maximum" if name == "largest" else "add", name, ZERO, wide, float32))
            for name in MEASURES
        ),
    ]
    buffers = (
        Buffer("source", float32, None),
        *(Buffer(f"row_{name}", float32, None, writable=True) for name in MEASURES),
    )
    return Kernel(f"measure_row_d{levels}", buffers, level_scalars(levels), tuple(body))


@lru_cache(maxsize=1)
def judge_rows_kernel() -> Kernel:
    """Return the kernel (largest, sum, squares, terms, scales, multipliers, loss, few, thin) for a tile of rows.

    ``scales`` become the units of last digits, ``multipliers`` one over them; ``loss`` see ``_loss``; ``few`` one
    over the number of elements beside zero; and ``thin`` one over the number that count.
    """
    power, terms = Var("power", float32), _load("terms")
    fits, some = _in_range(_load("largest"), _load("squares")), apply("greater", terms, _f(0.0))
    kept = {
        "scales": apply("mul", power, _f(1 / _UNIT)),
        "multipliers": apply("div", _f(_UNIT), power),
        "loss": select(some, select(fits, _loss(power, _load("squares")), _f(NEVER)), _f(0.0)),
        "few": select(some, apply("div", _f(1.0), terms), _f(FEW)),
        "thin": _thin(_load("squares"), _load("sum")),
    }
    body = _vector(
        LANES,
        Let(power, select(fits, _power(_load("largest")), _f(1.0))),
        *(Store(name, _LANE, value) for name, value in kept.items()),
    )
    buffers = (
        *(Buffer(name, float32, None) for name in MEASURES),
        *(Buffer(name, float32, None, writable=True) for name in kept),
    )
    return Kernel("judge_rows", buffers, (), (body,))


@lru_cache(maxsize=32)
def digit_row_kernel(levels: int) -> Kernel:
    """Return the kernel (source, multiplier, words) that splits one row of a tile of rows.

    Scalars as ``level_scalars`` names them; the innermost level is filled up with zeros to whole steps.
    """
    last = levels - 1
    extent = Var(f"n{last}")

    def digits(chunk: Expr, ragged: bool) -> For:
        statements: list[Stmt] = []
        for number in range(4):
            where = total(scaled(chunk, STEP), const(number * LANES), _LANE)
            found = _row_value(levels, where)
            if ragged:
                found = select(apply("less", where, extent), found, _f(0.0))
            statements.append(Let(Var(f"q{number}", uint32), _digits(found, Var("factor", float32))))
        target = scaled(total(Var("first"), chunk), ROW_STEP_WORDS)
        for digit, word in enumerate(_words()):
            place = total(target, const(digit * TILE_WORDS), _LANE)
            statements.append(Store("words", place, word))
        return _vector(LANES, *statements)

    steps = apply("floor_div", extent, const(STEP))
    all_steps = apply("floor_div", total(extent, const(STEP - 1)), const(STEP))
    splitting: list[Stmt] = [
        Let(Var("first"), apply("mul", Var(f"step{last}"), all_steps)),
        For(Var("c"), steps, LoopKind.SERIAL, (digits(Var("c"), False),)),
        If(apply("less", steps, all_steps), (digits(steps, True),)),
    ]
    body = [Let(Var("factor", float32), Load("multiplier", ZERO, float32)), *nested_levels(splitting, levels - 1)]
    buffers = (
        Buffer("source", float32, None),
        Buffer("multiplier", float32, None),
        Buffer("words", uint32, None, writable=True),
    )
    return Kernel(f"digit_row_d{levels}", buffers, level_scalars(levels), tuple(body))


# -- columns -----------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def digit_columns_kernel(width: int) -> Kernel:
    """Return the kernel (source, words, last, facts) that splits 16 columns of a packed float32 panel of ``width``.

    Scalars: ``outer`` runs of ``inner`` depth rows each, every run filled up with zeros to whole steps. ``last``
    takes the last digits. The first vector of facts holds the unit of every column's last digit, the second the
    largest among columns of: what zeros do to the loss of rows (depth over the number of elements beside zero); the
    loss, times the depth; depth over the number that count.
    """
    outer, inner, k = Var("outer"), Var("inner"), Var("k")
    depth = apply("mul", outer, inner)

    def value(row: Expr) -> Expr:
        return Load("source", total(scaled(row, width), _LANE), float32)

    def digits(chunk: Expr, ragged: bool) -> For:
        word = Var("w")
        statements: list[Stmt] = []
        for number in range(4):
            row = total(scaled(chunk, STEP), const(number * LANES), word)
            found = value(total(apply("mul", Var("run"), inner), row))
            if ragged:
                found = select(apply("less", row, inner), found, _f(0.0))
            statements.append(Let(Var(f"q{number}", uint32), _digits(found, _load("multiplier"))))
        step, place = total(Var("first"), chunk), total(scaled(word, LANES), _LANE)
        *words, last = _words()
        for digit, text in enumerate(words):
            where = total(scaled(step, COLUMN_STEP_WORDS), const(digit * TILE_WORDS), place)
            statements.append(Store("words", where, text))
        statements.append(Store("last", total(scaled(step, TILE_WORDS), place), last))
        return For(word, const(LANES), LoopKind.SERIAL, (_vector(LANES, *statements),))

    steps = apply("floor_div", inner, const(STEP))
    all_steps = apply("floor_div", total(inner, const(STEP - 1)), const(STEP))
    run = (
        Let(Var("first"), apply("mul", Var("run"), all_steps)),
        For(Var("c"), steps, LoopKind.SERIAL, (digits(Var("c"), False),)),
        If(apply("less", steps, all_steps), (digits(steps, True),)),
    )
    terms = _load("terms")
    some, fits = apply("greater", terms, _f(0.0)), _in_range(_load("largest"), _load("squares"))
    power, parts = Var("power", float32), cast(depth, float32)
    facts = (
        select(some, apply("div", parts, terms), _f(1.0)),
        select(some, select(fits, apply("mul", _loss(power, _load("squares")), parts), _f(NEVER)), _f(0.0)),
        apply("mul", _thin(_load("squares"), _load("sum")), parts),
    )
    body: tuple[Stmt, ...] = (
        *_zeroed(LANES, *MEASURES, "multiplier", "fact0", "fact1", "fact2"),
        For(k, depth, LoopKind.SERIAL, (_vector(LANES, *_measure(value(k))),)),
        _vector(
            LANES,
            Let(power, select(fits, _power(_load("largest")), _f(1.0))),
            Store("multiplier", _LANE, apply("div", _f(_UNIT), power)),
            Store("facts", _LANE, apply("mul", power, _f(1 / _UNIT))),
            *(Store(f"fact{number}", _LANE, fact) for number, fact in enumerate(facts)),
        ),
        *(
            Store("facts", const(LANES + number), Horizontal("maximum", f"fact{number}", ZERO, LANES, float32))
            for number in range(len(facts))
        ),
        For(Var("run"), outer, LoopKind.SERIAL, run),
    )
    names = {"words": uint32, "last": uint32, "facts": float32}
    buffers = (
        Buffer("source", float32, None),
        *(Buffer(name, dtype, None, writable=True) for name, dtype in names.items()),
    )
    return Kernel(f"digit_columns_{width}", buffers, (outer, inner), body)
