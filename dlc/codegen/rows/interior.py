"""The interior of a row problem: the rows for which no selection needs a test.

Windows over padded tensors test every tap only at the edges; inside, all tests
are known. It must not know loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlc.codegen.rows.problem import RowProblem
from dlc.ir.compute import Axis
from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Const, Expr, Var, apply, const
from dlc.ir.simplify import Affine, Simplifier

Range = tuple[int, int]


def interior(problem: RowProblem, lanes: Axis | None) -> tuple[Expr, RowProblem] | None:
    """Return the test that a row is inside and the problem without selections there; None if there is none.

    The axis that ``lanes`` run along is never tested.
    """
    found = interior_ranges(problem, lanes)
    if found is None:
        return None
    inside, inner = found
    return inside_test(problem, inside), inner


def interior_ranges(problem: RowProblem, lanes: Axis | None) -> tuple[dict[Var, Range], RowProblem] | None:
    """Return the inclusive ranges of kept axes inside, where they are not whole, and the problem there."""
    bounds: dict[Var, Range] = dict(problem.outer)
    bounds.update({a.var: (0, a.extent - 1) for a in (*problem.kept, *problem.reduced)})
    simplify = Simplifier(bounds)
    tests = _tests(problem)
    if not tests:
        return None
    inside: dict[Var, Range] = {}
    reduced = {a.var for a in problem.reduced}
    for axis in problem.kept:
        if axis == lanes:
            continue
        low, high = 0, axis.extent - 1
        for test in tests:
            found = _always(test, axis.var, reduced, simplify, bounds)
            if found is not None:
                low, high = max(low, found[0]), min(high, found[1])
        if (low, high) != (0, axis.extent - 1) and low <= high:
            inside[axis.var] = (low, high)
    if not inside:
        return None
    narrow = simplify.narrowed(inside)
    inner = replace(problem.map(narrow), outer={**problem.outer})
    if len(_tests(inner)) == len(tests):
        return None
    return inside, inner


def _tests(problem: RowProblem) -> list[Apply]:
    found: dict[Apply, None] = {}
    for expr in distinct(problem.exprs()):
        if isinstance(expr, Apply) and expr.op == "select":
            for test in distinct([expr.args[0]]):
                if isinstance(test, Apply) and test.op in ("less", "less_equal", "greater", "greater_equal"):
                    found[test] = None
    return list(found)


def _always(test: Apply, axis: Var, reduced: set[Var], simplify: Simplifier, bounds: dict[Var, Range]) -> Range | None:
    """Return for which values of ``axis`` the test holds whatever the reduced axes are; None if others matter."""
    if not isinstance(test.args[1], Const):
        return None
    form, limit = simplify.affine(test.args[0]), int(test.args[1].value)
    factor = form.coefficient(axis)
    others = [(atom, c) for atom, c in form.terms if atom != axis]
    if factor <= 0 or any(not isinstance(atom, Var) or atom not in reduced for atom, _ in others):
        return None
    low, high = _span(Affine(tuple(others), form.constant), bounds)
    whole = bounds[axis]
    match test.op:
        case "greater_equal":
            return -(-(limit - low) // factor), whole[1]
        case "greater":
            return (limit - low) // factor + 1, whole[1]
        case "less_equal":
            return whole[0], (limit - high) // factor
        case _:
            return whole[0], -(-(limit - high) // factor) - 1


def _span(form: Affine, bounds: dict[Var, Range]) -> Range:
    low = high = form.constant
    for atom, coefficient in form.terms:
        ends = [coefficient * end for end in bounds[atom]]  # type: ignore[index]
        low, high = low + min(ends), high + max(ends)
    return low, high


def inside_test(problem: RowProblem, inside: dict[Var, Range]) -> Expr:
    """Return the test that the kept axes are in the ranges ``inside``, none of which is whole."""
    last = {a.var: a.extent - 1 for a in problem.kept}
    tests: list[Expr] = []
    for var, (low, high) in inside.items():
        if low > 0:
            tests.append(apply("greater_equal", var, const(low)))
        if high < last[var]:
            tests.append(apply("less_equal", var, const(high)))
    return _all(tests)


def _all(tests: Sequence[Expr]) -> Expr:
    result = tests[0]
    for test in tests[1:]:
        result = apply("bit_and", result, test)
    return result
