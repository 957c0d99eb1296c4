"""Contractions of many groups with few outputs each, as vectors see them: one axis of outputs instead of two.

Rows times columns is the wrong view of a group of four outputs: a vector would hold four
numbers. Along one axis of all groups' outputs vectors are full, and what is
read once per group is read at a quotient of that axis. It must not know loops or targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from dlc.ir.compute import Axis, Compute, is_short_sum
from dlc.ir.contraction import ContractSpec, DimIndex, Group
from dlc.ir.expr import Expr, Var, apply, const, substitute
from dlc.ir.simplify import Simplifier

WIDTHS = (2, 4, 8)
"""Outputs of a group that leave vectors partly empty, whole groups of which fill one."""
WIDEST_INPUT = 2
"""Inputs per output of a group, so that what a vector of outputs reads lies within two vectors of inputs."""


def narrow_groups(spec: ContractSpec, extents: Mapping[str, int]) -> tuple[str, str] | None:
    """Return the axes (group, output of a group) that are one axis for vectors; None if rows times columns serve.

    The operand that has the outputs (the weights) and the result run on from group to group, inputs of a group lie
    side by side in the other operand, and the sum has few terms.
    """
    last = spec.output[-1] if spec.output else None
    if not isinstance(last, Group) or len(last.axes) < 2:
        return None
    group, output = last.axes[-2:]
    if extents[output] not in WIDTHS or extents[group] < 2:
        return None
    places = prod(extents[axis] for axis in spec.output_axes if axis not in (group, output))
    if not is_short_sum(prod(extents[axis] for axis in spec.reduce_axes), places):
        return None
    for weights, inputs in ((spec.lhs, spec.rhs), (spec.rhs, spec.lhs)):
        inside = _after(inputs, group)
        if _after(weights, group) != (output,) or inside is None or not set(inside) <= set(spec.reduce_axes):
            continue
        if prod(extents[axis] for axis in inside) <= WIDEST_INPUT * extents[output]:
            return group, output
    return None


def _after(side: tuple[DimIndex, ...], axis: str) -> tuple[str, ...] | None:
    """Return what follows ``axis`` in the last dimension; None if it does not occur there, or elsewhere, too."""
    *others, last = side or (Group(()),)
    if not isinstance(last, Group) or axis not in last.axes or any(axis in dim.axes for dim in others):
        return None
    return last.axes[last.axes.index(axis) + 1 :]


def join_axes(compute: Compute, group: str, output: str) -> Compute:
    """Return ``compute`` with the neighbouring output axes ``group`` and ``output`` as one."""
    number = next(n for n, axis in enumerate(compute.axes) if axis.var.name == group)
    outer, inner = compute.axes[number : number + 2]
    assert inner.var.name == output, "the axes are neighbours"
    joined = Axis(Var(f"{group}_{output}"), outer.extent * inner.extent)
    axes = (*compute.axes[:number], joined, *compute.axes[number + 2 :])
    places: dict[Expr, Expr] = {
        outer.var: apply("floor_div", joined.var, const(inner.extent)),
        inner.var: apply("floor_mod", joined.var, const(inner.extent)),
    }
    simplify = Simplifier({a.var: (0, max(a.extent - 1, 0)) for a in (*axes, *compute.reduce_axes)})
    body = simplify(substitute(compute.body, places))
    return replace(compute, axes=axes, body=body, store=tuple(simplify(substitute(s, places)) for s in compute.store))
