"""Nested levels of the depth in kernels that serve any contraction: extents and strides are scalars.

It must not know what is done in the loops.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.contract.index import ZERO
from dlc.ir.expr import Var, apply
from dlc.ir.kernel import For, Let, LoopKind, Stmt


def level_scalars(levels: int) -> tuple[Var, ...]:
    """Return the scalars of levels, outermost first: extent ``n<l>`` and stride ``s<l>`` of each."""
    return tuple(Var(name) for level in range(levels) for name in (f"n{level}", f"s{level}"))


def nested_levels(body: Sequence[Stmt], levels: int) -> list[Stmt]:
    """Put loops over levels around ``body``, which reads ``at<levels>`` and ``step<levels>`` (elements, iterations)."""
    found = list(body)
    for level in reversed(range(levels)):
        k = Var(f"k{level}")
        at = apply("add", Var(f"at{level}"), apply("mul", k, Var(f"s{level}")))
        step = apply("add", apply("mul", Var(f"step{level}"), Var(f"n{level}")), k)
        lets = (Let(Var(f"at{level + 1}"), at), Let(Var(f"step{level + 1}"), step))
        found = [For(k, Var(f"n{level}"), LoopKind.SERIAL, (*lets, *found))]
    return [Let(Var("at0"), ZERO), Let(Var("step0"), ZERO), *found]
