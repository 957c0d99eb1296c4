"""Expressions compare by structure, without recursion and without visiting shared parts twice."""

from __future__ import annotations

from dlc.ir.expr import Apply, Horizontal, Load, Read, Var, apply, const
from dlc.ir.types import float32, float64


def test_deep_expressions_compare() -> None:
    def chain(last: float) -> Apply:
        value = apply("neg", const(last, float32))
        for _ in range(20_000):
            value = apply("neg", value)
        return value

    assert chain(1.0) == chain(1.0)
    assert chain(1.0) != chain(2.0)


def test_shared_expressions_compare_in_linear_time() -> None:
    def doubled() -> Apply:
        value = apply("neg", const(1.0, float32))
        for _ in range(200):
            value = apply("add", value, value)
        return value

    assert doubled() == doubled()


def test_every_field_counts() -> None:
    zero, one = const(0), const(1)
    different = [
        *(const(0.0, float32), const(-0.0, float32), const(0.0, float64), Var("x"), Var("x", float32), Var("y")),
        *(Load("b", zero, float32), Load("b", one, float32), Load("c", zero, float32), Load("b", zero, float64)),
        *(Read(0, (zero,), float32), Read(1, (zero,), float32), Read(0, (zero, zero), float32)),
        *(Horizontal("add", "b", zero, 4, float32), Horizontal("add", "b", zero, 8, float32)),
        *(Horizontal("mul", "b", zero, 4, float32), apply("add", zero, one), apply("add", one, zero)),
        *(apply("mul", zero, one), zero, one),
    ]
    for i, a in enumerate(different):
        for j, b in enumerate(different):
            assert (a == b) == (i == j), (a, b)
