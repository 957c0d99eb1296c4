"""Vector loops and the values named in them, as Winograd's kernels are written. It must not know transforms."""

from __future__ import annotations

from dlc.ir.expr import Expr, Var, apply, const
from dlc.ir.kernel import For, Let, LoopKind, Stmt

LANE = Var("lane")


class Names:
    """Binds expressions of one vector loop to fresh names."""

    def __init__(self) -> None:
        self.lets: list[Stmt] = []

    def __call__(self, value: Expr) -> Expr:
        name = Var(f"v{len(self.lets)}", value.dtype)
        self.lets.append(Let(name, value))
        return name


def sub(a: Expr, b: Expr) -> Expr:
    """Return a - b."""
    return apply("sub", a, b)


def add(a: Expr, b: Expr) -> Expr:
    """Return a + b."""
    return apply("add", a, b)


def vector_loop(lanes: int, *body: Stmt, active: Expr | None = None) -> For:
    """Return ``body`` for every lane, or those ``active``."""
    return For(LANE, const(lanes), LoopKind.VECTOR, body, active)
