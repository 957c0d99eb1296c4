"""Index algebra: affine normal forms, division and remainder by constants, decidable conditions.

Works on expressions whose variables have known integer bounds. Everything it
returns is equal to what it was given for every index inside the bounds, and for
every value of the int64 data it reads, which wraps around where indices do not.
It must not know loops, buffers or ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from dlc.ir.expr import Apply, Const, Expr, Load, Read, Var, apply, children, const, with_children
from dlc.ir.placement import row_major
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.types import bool_, int64

Interval = tuple[int, int]
Bounds = Mapping[Var, Interval]

TRUE = Const(True, bool_)
FALSE = Const(False, bool_)
_COMPARISONS = frozenset({"less", "less_equal", "greater", "greater_equal", "equal", "not_equal"})
_ARITHMETIC = frozenset({"add", "sub", "mul", "neg", "floor_div", "floor_mod", "minimum", "maximum"})
_FOLDABLE = frozenset(
    {
        "neg",
        "add",
        "sub",
        "mul",
        "maximum",
        "minimum",
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
    }
)
_FLIPPED = {"less": "greater", "less_equal": "greater_equal", "greater": "less", "greater_equal": "less_equal"}


@dataclass(frozen=True, slots=True)
class Affine:
    """``constant + sum(coefficient * atom)``: atoms are variables or expressions that do not split further."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int

    def coefficient(self, atom: Expr) -> int:
        """Return the factor of ``atom``, 0 if it does not occur."""
        return next((c for a, c in self.terms if a is atom or a == atom), 0)


def _affine(terms: Mapping[Expr, int], constant: int) -> Affine:
    return Affine(tuple((a, c) for a, c in terms.items() if c), constant)


class Simplifier:
    """Simplifies expressions under fixed ``bounds`` (inclusive) of variables; remembers what it has seen."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = dict(bounds)
        self._table: dict[tuple, Expr] = {}
        self._final: set[int] = set()
        self._affine: dict[Expr, Affine] = {}
        self._built: dict[Affine, Expr] = {}
        self._ranges: dict[Expr, Interval | None] = {}
        self._data: dict[Expr, bool] = {}

    def narrowed(self, bounds: Bounds) -> Simplifier:
        """Return a simplifier with the bounds of some variables replaced."""
        return Simplifier({**self.bounds, **bounds})

    # -- whole expressions ---------------------------------------------------------

    def __call__(self, expr: Expr) -> Expr:
        """Return the simplified form of ``expr``; equal results of one simplifier are one object."""
        if id(expr) in self._final:
            return expr
        done: dict[int, Expr] = {}
        pending: list[tuple[Expr, bool]] = [(expr, False)]
        while pending:
            current, ready = pending.pop()
            key = id(current)
            if key in done:
                continue
            if key in self._final:
                done[key] = current
                continue
            operands = children(current)
            if not ready and operands:
                pending.append((current, True))
                pending += [(child, False) for child in operands if id(child) not in done]
                continue
            rebuilt = with_children(current, tuple(done[id(child)] for child in operands)) if operands else current
            result = self._shared(self._rule(rebuilt))
            self._final.add(id(result))
            done[key] = result
        return done[id(expr)]

    def _shared(self, expr: Expr) -> Expr:
        """Return the one object that stands for ``expr``, so that comparing stays cheap however deep it is."""
        if id(expr) in self._final:
            return expr
        if all(id(child) in self._final for child in children(expr)):
            return self._table.setdefault(_shallow_key(expr), expr)
        done: dict[int, Expr] = {}
        pending: list[tuple[Expr, bool]] = [(expr, False)]
        while pending:
            current, ready = pending.pop()
            if id(current) in done:
                continue
            if id(current) in self._final:
                done[id(current)] = current
                continue
            operands = children(current)
            if not ready and operands:
                pending.append((current, True))
                pending += [(child, False) for child in operands if id(child) not in done]
                continue
            same = with_children(current, tuple(done[id(child)] for child in operands)) if operands else current
            done[id(current)] = self._table.setdefault(_shallow_key(same), same)
        return done[id(expr)]

    def _rule(self, expr: Expr) -> Expr:
        if isinstance(expr, Var):
            low, high = self.bounds.get(expr, (0, 1))
            return const(low) if low == high and expr.dtype is int64 else expr
        if not isinstance(expr, Apply):
            return expr
        if expr.op in _COMPARISONS and expr.args[0].dtype is int64:
            return self._comparison(expr)
        if expr.dtype is int64 and expr.op in _ARITHMETIC:
            return self._index(expr)
        return self._scalar(expr)

    def _scalar(self, expr: Apply) -> Expr:
        """Fold booleans, decided selections and constant operands; floating point is never re-associated."""
        args = expr.args
        match expr.op:
            case "select":
                if args[0] == TRUE or args[1] == args[2]:
                    return args[1]
                return args[2] if args[0] == FALSE else expr
            case "bit_and" if expr.dtype is bool_:
                if FALSE in args:
                    return FALSE
                return args[1] if args[0] == TRUE else args[0] if args[1] == TRUE or args[0] == args[1] else expr
            case "bit_or" if expr.dtype is bool_:
                if TRUE in args:
                    return TRUE
                return args[1] if args[0] == FALSE else args[0] if args[1] == FALSE or args[0] == args[1] else expr
            case "bit_not" if isinstance(args[0], Const) and expr.dtype is bool_:
                return Const(not args[0].value, bool_)
            case "cast" if isinstance(args[0], Const):
                return _fold_cast(expr, args[0])
        if expr.op in _FOLDABLE and all(isinstance(a, Const) for a in args):
            values = [np.asarray(a.value).astype(a.dtype.numpy) for a in args if isinstance(a, Const)]
            return Const(SCALAR_OPS[expr.op].evaluate(*values).item(), expr.dtype)
        return expr

    # -- affine forms -----------------------------------------------------------------

    def affine(self, expr: Expr) -> Affine:
        """Return the affine form of an int64 expression, simplified on the way."""
        expr = self(expr)
        return self._form(expr)

    def _form(self, expr: Expr) -> Affine:
        known = self._affine.get(expr)
        if known is None:
            known = self._affine[expr] = self._split(expr)
        return known

    def _split(self, expr: Expr) -> Affine:
        match expr:
            case Const(value=value):
                return Affine((), int(value))
            case Apply(op="add", args=(a, b)) if expr.dtype is int64:
                return self._combine(self._form(a), self._form(b), 1)
            case Apply(op="sub", args=(a, b)) if expr.dtype is int64:
                return self._combine(self._form(a), self._form(b), -1)
            case Apply(op="neg", args=(a,)) if expr.dtype is int64:
                return self._combine(Affine((), 0), self._form(a), -1)
            case Apply(op="mul", args=(a, b)) if expr.dtype is int64:
                left, right = self._form(a), self._form(b)
                if not left.terms:
                    return self._combine(Affine((), 0), right, left.constant)
                if not right.terms:
                    return self._combine(Affine((), 0), left, right.constant)
        return Affine(((expr, 1),), 0)

    def _combine(self, a: Affine, b: Affine, factor: int) -> Affine:
        terms = dict(a.terms)
        for atom, coefficient in b.terms:
            terms[atom] = terms.get(atom, 0) + factor * coefficient
        self._recombine(terms)
        constant = _wrapped(a.constant + factor * b.constant)
        return _affine({atom: _wrapped(c) for atom, c in terms.items()}, constant)

    def _recombine(self, terms: dict[Expr, int]) -> None:
        """Undo splits in place: (y // d) * c*d + (y % d) * c -> y * c."""
        changed = True
        while changed:
            changed = False
            for atom, coefficient in list(terms.items()):
                if not (coefficient and isinstance(atom, Apply) and atom.op == "floor_mod"):
                    continue
                y, d = atom.args
                if not isinstance(d, Const):
                    continue
                for other, factor in list(terms.items()):
                    if factor != coefficient * int(d.value) or not isinstance(other, Apply):
                        continue
                    merged = _merged(other, y, d)
                    if merged is None:
                        continue
                    terms[atom] = terms[other] = 0
                    whole = self._form(self(merged))
                    if whole.constant:  # cannot occur for canonical forms; keep the split then
                        terms[atom], terms[other] = coefficient, factor
                        continue
                    for a, c in whole.terms:
                        terms[a] = terms.get(a, 0) + c * coefficient
                    changed = True
                    break

    def _may_wrap(self, form: Affine) -> bool:
        """Tell whether ``form`` may leave int64 on the way: sums of data do, where sums of indices do not.

        A lone atom is as it is. Order and division do not commute with wrapping, so their rules leave such forms alone.
        """
        if not form.constant and (not form.terms or (len(form.terms) == 1 and form.terms[0][1] == 1)):
            return False
        low, high = self._span(form)
        if low is not None and high is not None:
            return not (-(2**63) <= low and high < 2**63)
        return any(self.range(atom) is None and self._is_data(atom) for atom, _ in form.terms)

    def _is_data(self, atom: Expr) -> bool:
        known = self._data.get(atom)
        if known is None:
            known = self._data[atom] = reads_memory(atom)
        return known

    def build(self, form: Affine) -> Expr:
        """Return the canonical expression of an affine form."""
        known = self._built.get(form)
        if known is not None:
            return known
        result: Expr | None = None
        ordered = sorted(form.terms, key=_order) if len(form.terms) > 1 else form.terms
        for atom, coefficient in ordered:
            if coefficient == -1 and result is not None:
                result = apply("sub", result, atom)
                continue
            term = atom if coefficient == 1 else apply("mul", atom, const(coefficient))
            result = term if result is None else apply("add", result, term)
        if result is None:
            result = const(form.constant)
        elif form.constant:
            result = apply("add", result, const(form.constant))
        result = self._built[form] = self._shared(result)
        self._affine.setdefault(result, form)
        return result

    # -- rules of index arithmetic -----------------------------------------------------------

    def _index(self, expr: Apply) -> Expr:
        match expr:
            case Apply(op="floor_div", args=(x, Const(value=divisor))) if int(divisor) > 0:
                return self._floor_div(x, int(divisor))
            case Apply(op="floor_mod", args=(x, Const(value=divisor))) if int(divisor) > 0:
                return self._floor_mod(x, int(divisor))
            case Apply(op="minimum" | "maximum", args=(a, b)):
                return self._extreme(expr, a, b)
            case Apply(op="floor_div" | "floor_mod"):
                return expr
        return self.build(self._split(expr))

    def _extreme(self, expr: Apply, a: Expr, b: Expr) -> Expr:
        if a == b:
            return a
        difference = self._difference(a, b)
        if difference is None:
            return expr
        low, high = self._span(difference)
        least = expr.op == "minimum"
        if high is not None and high <= 0:
            return a if least else b
        if low is not None and low >= 0:
            return b if least else a
        return expr

    def _floor_div(self, x: Expr, divisor: int) -> Expr:
        if divisor == 1:
            return x
        form = self._form(x)
        if self._may_wrap(form):
            return apply("floor_div", x, const(divisor))
        whole = {a: c // divisor for a, c in form.terms if c % divisor == 0}
        rest = {a: c for a, c in form.terms if c % divisor}
        offset, remainder = divmod(form.constant, divisor)
        low, high = self._span(_affine(rest, remainder))
        if low is not None and high is not None and low // divisor == high // divisor:
            return self.build(_affine(whole, offset + low // divisor))
        common = gcd(divisor, *rest.values())
        inner = _affine({a: c // common for a, c in rest.items()}, remainder // common)
        atom = self._divided(inner, divisor // common)
        return self.build(self._combine(_affine(whole, offset), self._form(atom), 1))

    def _divided(self, form: Affine, divisor: int) -> Expr:
        """Return ``form // divisor`` as an atom: (y // a) // b -> y // (a*b), (y % (a*b)) // a -> (y // a) % b."""
        if divisor == 1:
            return self.build(form)
        if len(form.terms) == 1 and form.terms[0][1] == 1 and not form.constant:
            match form.terms[0][0]:
                case Apply(op="floor_div", args=(y, Const(value=inner))) if int(inner) * divisor < 2**63:
                    return self._floor_div(y, int(inner) * divisor)
                case Apply(op="floor_mod", args=(y, Const(value=inner))) if int(inner) % divisor == 0:
                    return self._floor_mod(self._floor_div(y, divisor), int(inner) // divisor)
        return apply("floor_div", self.build(form), const(divisor))

    def _floor_mod(self, x: Expr, divisor: int) -> Expr:
        if divisor == 1:
            return const(0)
        form = self._form(x)
        if self._may_wrap(form):
            return apply("floor_mod", x, const(divisor))
        rest: dict[Expr, int] = {}
        constant = form.constant
        for atom, coefficient in form.terms:
            if coefficient % divisor == 0:
                continue
            match atom:
                case Apply(op="floor_mod", args=(y, Const(value=inner))) if coefficient * int(
                    inner
                ) % divisor == 0 and not self._may_wrap(self._form(y)):
                    part = self._form(y)  # c * (y % n) = c * y  (mod d) where d divides c * n
                    constant += coefficient * part.constant
                    for a, c in part.terms:
                        rest[a] = rest.get(a, 0) + coefficient * c
                case _:
                    rest[atom] = rest.get(atom, 0) + coefficient
        rest = {a: c for a, c in rest.items() if c % divisor}
        constant %= divisor
        low, high = self._span(_affine(rest, constant))
        if low is not None and high is not None and low // divisor == high // divisor:
            return self.build(_affine(rest, constant - (low // divisor) * divisor))
        common = gcd(divisor, *rest.values())
        if common > 1:
            quotient = self.build(_affine({a: c // common for a, c in rest.items()}, constant // common))
            reduced = self._form(self._floor_mod(quotient, divisor // common))
            return self.build(self._combine(Affine((), constant % common), reduced, common))
        return apply("floor_mod", self.build(_affine(rest, constant)), const(divisor))

    def _comparison(self, expr: Apply) -> Expr:
        difference = self._difference(*expr.args)
        if difference is None:
            return expr
        decided = _decide(expr.op, *self._span(difference))
        if decided is not None:
            return TRUE if decided else FALSE
        left = _affine(dict(difference.terms), 0)
        if all(c < 0 for _, c in left.terms):  # keep variables positive: -i < c  is  i > -c
            negated = _affine({a: -c for a, c in left.terms}, 0)
            return apply(_FLIPPED.get(expr.op, expr.op), self.build(negated), const(difference.constant))
        return apply(expr.op, self.build(left), const(-difference.constant))

    def _difference(self, a: Expr, b: Expr) -> Affine | None:
        """Return the form of a - b if its sign tells their order: None where data may wrap."""
        left, right = self._form(a), self._form(b)
        if left == right:
            return Affine((), 0)
        difference = self._combine(left, right, -1)
        return None if any(map(self._may_wrap, (left, right, difference))) else difference

    # -- ranges ---------------------------------------------------------------------------------

    def _span(self, form: Affine) -> tuple[int | None, int | None]:
        low = high = form.constant
        for atom, coefficient in form.terms:
            known = self.range(atom)
            if known is None:
                return None, None
            low += coefficient * known[0 if coefficient > 0 else 1]
            high += coefficient * known[1 if coefficient > 0 else 0]
        return low, high

    def range(self, expr: Expr) -> Interval | None:
        """Return inclusive bounds of an int64 expression (simplified before), None where unknown."""
        if isinstance(expr, Const):
            return int(expr.value), int(expr.value)
        if isinstance(expr, Var):
            return self.bounds.get(expr)
        if expr not in self._ranges:
            self._ranges[expr] = self._range(expr)
        return self._ranges[expr]

    def _range(self, expr: Expr) -> Interval | None:
        if not isinstance(expr, Apply) or expr.dtype is not int64:
            return None
        match expr:
            case Apply(op="add" | "sub" | "neg" | "mul") if (form := self._form(expr)).terms != ((expr, 1),):
                low, high = self._span(form)
                return None if low is None or high is None or self._may_wrap(form) else (low, high)
            case Apply(op="floor_div", args=(x, Const(value=d))) if int(d) > 0:
                inner = self.range(x)
                return None if inner is None else (inner[0] // int(d), inner[1] // int(d))
            case Apply(op="floor_mod", args=(_, Const(value=d))) if int(d) > 0:
                return 0, int(d) - 1
            case Apply(op="select", args=(_, a, b)):
                first, second = self.range(a), self.range(b)
                return None if first is None or second is None else (min(first[0], second[0]), max(first[1], second[1]))
            case Apply(op="minimum" | "maximum", args=(a, b)):
                low, high = self._limits(expr.op, a, b)
                return None if low is None or high is None else (low, high)
        return None

    def _limits(self, op: str, a: Expr, b: Expr) -> tuple[int | None, int | None]:
        """Return what is known of the bounds of a minimum or maximum; clamped data has both."""
        lows, highs = zip(self._ends(a), self._ends(b), strict=True)
        known_lows, known_highs = [x for x in lows if x is not None], [x for x in highs if x is not None]
        if op == "minimum":
            return min(known_lows) if len(known_lows) == 2 else None, min(known_highs, default=None)
        return max(known_lows, default=None), max(known_highs) if len(known_highs) == 2 else None

    def _ends(self, expr: Expr) -> tuple[int | None, int | None]:
        known = self.range(expr)
        if known is not None:
            return known
        match expr:
            case Apply(op="minimum" | "maximum", args=(a, b)) if expr.dtype is int64:
                first, second = self.range(a), self.range(b)  # one level: deeper ones are ranges of their own
                bound = first or second
                if bound is not None:
                    return (None, bound[1]) if expr.op == "minimum" else (bound[0], None)
        return None, None

    def decide(self, condition: Expr) -> bool | None:
        """Return the truth of ``condition`` where it is the same for every index, else None."""
        result = self(condition)
        return bool(result.value) if isinstance(result, Const) else None


def _shallow_key(expr: Expr) -> tuple:
    """Return a key that equals that of an equal expression with the same operand objects."""
    match expr:
        case Apply(op=op, args=args, dtype=dtype):
            return (op, dtype, *map(id, args))
        case Read(input=number, indices=indices, dtype=dtype):
            return (Read, number, dtype, *map(id, indices))
        case Load(buffer=buffer, index=index, dtype=dtype):
            return (Load, buffer, dtype, id(index))
    return (expr,)


def _merged(other: Apply, y: Expr, d: Const) -> Expr | None:
    """Return what ``other * d + y % d`` is: y for other = y // d, y % (d*e) for other = (y // d) % e."""
    match other:
        case Apply(op="floor_div", args=(z, e)) if e == d and z == y:
            return y
        case Apply(op="floor_mod", args=(Apply(op="floor_div", args=(z, c)), Const(value=e))) if (
            c == d and z == y and int(d.value) * int(e) < 2**63
        ):
            return apply("floor_mod", y, const(int(d.value) * int(e)))
    return None


def _wrapped(value: int) -> int:
    """Return the int64 that ``value`` is modulo 2**64."""
    return value if -(2**63) <= value < 2**63 else (value + 2**63) % 2**64 - 2**63


def _order(term: tuple[Expr, int]) -> tuple:
    atom, coefficient = term
    return (-abs(coefficient), coefficient < 0, repr_key(atom))


def repr_key(expr: Expr) -> str:
    """Return a text that orders atoms the same way in every process."""
    return expr.name if isinstance(expr, Var) else repr(expr)


def _decide(op: str, low: int | None, high: int | None) -> bool | None:
    if low is None or high is None:
        return None
    match op:
        case "less":
            return True if high < 0 else False if low >= 0 else None
        case "less_equal":
            return True if high <= 0 else False if low > 0 else None
        case "greater":
            return True if low > 0 else False if high <= 0 else None
        case "greater_equal":
            return True if low >= 0 else False if high < 0 else None
        case "equal":
            return True if low == high == 0 else False if low > 0 or high < 0 else None
        case _:
            return False if low == high == 0 else True if low > 0 or high < 0 else None


def _fold_cast(expr: Apply, operand: Const) -> Expr:
    source, target = operand.dtype, expr.dtype
    if target is bool_:
        return Const(bool(operand.value), bool_)
    if target.is_float and target.bits >= 32:
        return Const(float(np.asarray(operand.value).astype(source.numpy).astype(target.numpy)), target)
    if target.is_integer and source.kind in ("int", "uint", "bool"):
        return Const(int(np.asarray(operand.value).astype(source.numpy).astype(target.numpy)), target)
    return expr


def strided_index(
    indices: Sequence[Expr], strides: Sequence[int], start: int, simplify: Callable[[Expr], Expr]
) -> Expr:
    """Return ``start`` plus ``indices`` times ``strides``, simplified."""
    total: Expr = const(start)
    for index, stride in zip(reversed(indices), reversed(strides), strict=True):
        total = apply("add", total, apply("mul", index, const(stride)))
    return simplify(total)


def linear_index(indices: Sequence[Expr], shape: Sequence[int], simplify: Callable[[Expr], Expr]) -> Expr:
    """Return the row-major position of ``indices`` in ``shape``, simplified."""
    return strided_index(indices, row_major(shape), 0, simplify)


def unravel(position: Expr, shape: Sequence[int], simplify: Callable[[Expr], Expr]) -> list[Expr]:
    """Return the index per dimension of ``shape`` of a row-major ``position``, simplified."""
    indices: list[Expr] = []
    stride = 1
    for number, extent in enumerate(reversed(shape)):
        index = apply("floor_div", position, const(stride))
        if number + 1 < len(shape):
            index = apply("floor_mod", index, const(max(extent, 1)))
        indices.append(simplify(index))
        stride *= max(extent, 1)
    return indices[::-1]


def depends_on(expr: Expr, variables: frozenset[Var] | set[Var]) -> bool:
    """Tell whether any of ``variables`` occurs in ``expr``."""
    pending, seen = [expr], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Var) and current in variables:
            return True
        pending += children(current)
    return False


def reads_memory(expr: Expr) -> bool:
    """Tell whether ``expr`` reads any tensor or buffer."""
    pending, seen = [expr], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Read | Load):
            return True
        pending += children(current)
    return False
