"""Preparing index spaces for loops: linear loads, axes split where indices divide, axes collapsed where contiguous.

Works on bags of expressions that share axes. It must not know statements or
targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dlc.codegen.places import Place
from dlc.ir.compute import Axis
from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Const, Expr, Load, Read, Var, apply, children, const, substitute, transform
from dlc.ir.simplify import Affine, Bounds, Simplifier, depends_on
from dlc.ir.types import int64

_SHORTEST_SPLIT = 8
"""An innermost axis along which memory is contiguous is split into runs of at least so many: others waste vectors."""
_LONGEST_VECTOR = 16
"""Runs of at least so many fill any vector."""


def loads(expr: Expr, place_of: Callable[[int], Place], simplify: Simplifier) -> Expr:
    """Return ``expr`` with every Read as a Load from the place of its input, simplified: some may be one element."""

    def rule(e: Expr) -> Expr | None:
        if not isinstance(e, Read):
            return None
        place = place_of(e.input)
        return Load(place.buffer, place.index(e.indices, simplify), e.dtype)

    return simplify(transform(expr, rule))


def axis_simplifier(axes: Iterable[Axis], outer: Bounds | None = None) -> Simplifier:
    """Return a simplifier that knows the extents of ``axes`` and the bounds of ``outer`` variables."""
    return Simplifier({**(outer or {}), **{a.var: (0, max(a.extent - 1, 0)) for a in axes}})


@dataclass
class Space:
    """Axes in loop order, in blocks that must stay apart (kept and reduced), and expressions over them.

    ``outer`` bounds further variables, of loops around, which stay as they are.
    """

    blocks: list[list[Axis]]
    exprs: list[Expr]
    outer: Bounds = field(default_factory=dict)

    @property
    def axes(self) -> list[Axis]:
        return [a for block in self.blocks for a in block]

    @property
    def simplifier(self) -> Simplifier:
        return axis_simplifier(self.axes, self.outer)


def normalize(space: Space) -> Space:
    """Drop axes of extent 1, split axes at divisions, collapse neighbours that are contiguous everywhere."""
    space = _drop_unit_axes(space)
    for _ in range(8):
        found = _split_candidate(space)
        if found is None:
            break
        space = _split(space, *found)
    if any(a.extent == 1 for a in space.axes):
        space = _drop_unit_axes(space)
    return _collapse(space)


def _rewrite(space: Space, blocks: list[list[Axis]], mapping: dict[Expr, Expr]) -> Space:
    result = Space(blocks, space.exprs, space.outer)
    simplify = result.simplifier
    result.exprs = [simplify(substitute(e, mapping) if mapping else e) for e in space.exprs]
    return result


def _drop_unit_axes(space: Space) -> Space:
    mapping: dict[Expr, Expr] = {a.var: const(0) for a in space.axes if a.extent == 1}
    return _rewrite(space, [[a for a in block if a.extent != 1] for block in space.blocks], mapping)


# -- splitting ------------------------------------------------------------------------------------


def _split_candidate(space: Space) -> tuple[Axis, int] | None:
    """Return an axis and the divisor of a division or remainder of that axis alone."""
    axes = {a.var: a for a in space.axes}
    whole = {block[-1].var for block in space.blocks if block and _is_contiguous(space, block[-1])}
    candidates: dict[tuple[Axis, int], None] = {}
    for expr in distinct(space.exprs):
        match expr:
            case Apply(op="floor_div" | "floor_mod", args=(Var() as var, Const(value=d))) if var in axes:
                axis = axes[var]
                d = int(d)
                if 1 < d < axis.extent and axis.extent % d == 0 and (var not in whole or _splits_run(space, axis, d)):
                    candidates[axis, d] = None
    return min(candidates, key=lambda c: (c[0].var.name, c[1])) if candidates else None


def _splits_run(space: Space, axis: Axis, divisor: int) -> bool:
    """Whether an axis along which memory is contiguous is better split at ``divisor``.

    Not if runs become shorter than a vector while all that breaks them is read once per run, neighbours close by.
    """
    if divisor < _SHORTEST_SPLIT or divisor >= _LONGEST_VECTOR:
        return divisor >= _SHORTEST_SPLIT
    simplify = space.simplifier
    quotient = apply("floor_div", axis.var, const(divisor))
    for form in index_forms(space.exprs, simplify)[0]:
        for atom, step in form.terms:
            close = atom == axis.var or (atom == quotient and 0 < step <= 2 * divisor)
            if not close and depends_on(atom, {axis.var}):
                return True
    return False


def _is_contiguous(space: Space, axis: Axis) -> bool:
    """Whether anything is read or written at neighbouring places along ``axis``."""
    simplify = space.simplifier
    places = [e.index for e in distinct(space.exprs) if isinstance(e, Load)]
    places += [e for e in space.exprs if e.dtype is int64]
    return any(simplify.affine(place).coefficient(axis.var) == 1 for place in places)


def _split(space: Space, axis: Axis, divisor: int) -> Space:
    outer = Axis(Var(f"{axis.var.name}_o"), axis.extent // divisor)
    inner = Axis(Var(f"{axis.var.name}_i"), divisor)
    whole = apply("add", apply("mul", outer.var, const(divisor)), inner.var)
    blocks = [[b for a in block for b in ((outer, inner) if a == axis else (a,))] for block in space.blocks]
    return _rewrite(space, blocks, {axis.var: whole})


# -- collapsing -----------------------------------------------------------------------------------


def index_roots(exprs: Sequence[Expr]) -> list[Expr]:
    """Return the largest int64 subexpressions: where indices are used by something that is no index arithmetic."""
    roots: dict[Expr, None] = {e: None for e in exprs if e.dtype is int64}
    for expr in distinct(exprs):
        if isinstance(expr, Load) or expr.dtype is not int64 or (isinstance(expr, Apply) and expr.op == "select"):
            roots.update((c, None) for c in children(expr) if c.dtype is int64)
    return list(roots)


def index_forms(exprs: Sequence[Expr], simplify: Simplifier) -> tuple[list[Affine], set[Var]]:
    """Return the affine forms of all index roots and the variables that occur inside other atoms."""
    forms = list(dict.fromkeys(simplify.affine(root) for root in index_roots(exprs)))
    blocked: set[Var] = set()
    for form in forms:
        for atom, _ in form.terms:
            if not isinstance(atom, Var | Load):  # a Load's index is a root of its own
                blocked.update(e for e in distinct([atom]) if isinstance(e, Var))
    return forms, blocked


def _collapse(space: Space) -> Space:
    simplify = space.simplifier
    forms, blocked = index_forms(space.exprs, simplify)
    vectors = [dict(form.terms) for form in forms]
    mapping: dict[Expr, Expr] = {}
    blocks: list[list[Axis]] = []
    for block in space.blocks:
        merged: list[Axis] = []
        for axis in reversed(block):  # inner axes take up outer ones
            if merged and axis.var not in blocked and merged[-1].var not in blocked:
                inner = merged[-1]
                if all(v.get(axis.var, 0) == v.get(inner.var, 0) * inner.extent for v in vectors):
                    mapping[axis.var] = const(0)
                    merged[-1] = Axis(inner.var, inner.extent * axis.extent)
                    continue
            merged.append(axis)
        blocks.append(merged[::-1])
    return _rewrite(space, blocks, mapping) if mapping else space
