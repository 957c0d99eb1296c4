"""Each rule of kernels, broken once."""

from __future__ import annotations

import pytest

from dlc.errors import VerificationError
from dlc.ir.expr import Apply, Expr, Horizontal, Load, Read, Var, apply, const
from dlc.ir.kernel import (
    Accumulate,
    Alloc,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Space,
    Stmt,
    Store,
    Window,
)
from dlc.ir.types import bool_, float32, float64, int32, int64
from dlc.ir.verify_kernel import verify

I, L = Var("i"), Var("l")
X, K, O = Buffer("x", float32, 8), Buffer("k", int64, 8), Buffer("o", float32, 8, writable=True)
ONE = const(1.0, float32)
PUT = Store("o", I, Load("x", I, float32))


EIGHT = const(8)


def loop(body: Stmt, kind: LoopKind = LoopKind.SERIAL, extent: Expr = EIGHT, var: Var = I, active=None) -> For:
    return For(var, extent, kind, (body,), active)


def kernel(*body: Stmt, buffers=(X, K, O), scalars=()) -> Kernel:
    return Kernel("subject", buffers, scalars, body)


CALLEE = Kernel("callee", (Buffer("a", float32, None, writable=True),), (Var("n"),), ())
GOOD = [
    kernel(loop(PUT)),
    kernel(loop(PUT, LoopKind.PARALLEL)),
    kernel(loop(PUT, LoopKind.VECTOR, active=apply("less", I, const(5)))),
    kernel(Call(CALLEE, (Window("o", const(2)),), (const(3),))),
    kernel(Let(Var("v", float32), ONE), Store("o", const(0), Var("v", float32))),
]
BAD = [
    ("variable 'i' is not defined", kernel(PUT)),
    ("buffer 'z' is not defined", kernel(Store("z", const(0), ONE))),
    ("'z' is not defined", kernel(Store("o", const(0), Load("z", const(0), float32)))),
    ("x is written but not writable", kernel(Store("x", const(0), ONE))),
    ("a float64 is stored into o", kernel(Store("o", const(0), const(1.0, float64)))),
    ("x holds float32 but is read as float64", kernel(Store("o", const(0), Load("x", const(0), float64)))),
    ("int32, not int64", kernel(Store("o", const(0, int32), ONE))),
    ("indexed by int32", kernel(Store("o", const(0), Load("x", const(0, int32), float32)))),
    ("operands do not fit: add", kernel(Store("o", const(0), Apply("add", (ONE, const(1.0, float64)), float32)))),
    ("operands do not fit: sqrt", kernel(Let(Var("v"), Apply("sqrt", (const(4),), int64)))),
    ("'nothing' does not exist", kernel(Store("o", const(0), Apply("nothing", (ONE,), float32)))),
    ("v is float64 but its value is float32", kernel(Let(Var("v", float64), ONE))),
    ("needs a constant extent", kernel(loop(PUT, LoopKind.VECTOR, Load("k", const(0), int64)))),
    ("needs a constant extent", kernel(loop(PUT, LoopKind.UNROLL, Load("k", const(0), int64)))),
    ("negative extent", kernel(loop(PUT, extent=const(-1)))),
    ("only vector loops can be", kernel(loop(PUT, active=apply("less", I, const(5))))),
    ("the mask of vector loop i is not a bool", kernel(loop(PUT, LoopKind.VECTOR, active=I))),
    ("stands in another vector loop", kernel(loop(loop(PUT, LoopKind.VECTOR), LoopKind.VECTOR, var=L))),
    ("must be outermost", kernel(loop(loop(PUT, LoopKind.PARALLEL, var=L)))),
    ("is not a bool", kernel(If(const(1), ()))),
    (
        "differs between lanes",
        kernel(loop(If(apply("less", I, const(3)), (PUT,)), LoopKind.VECTOR)),
    ),
    (
        "differs between lanes",
        kernel(loop(loop(Store("o", I, ONE), extent=L), LoopKind.VECTOR, var=L)),
    ),
    ("called in a vector loop", kernel(loop(Call(CALLEE, (Window("o", I),), (I,)), LoopKind.VECTOR))),
    ("wants 1 windows and 1 scalars", kernel(Call(CALLEE, (), (const(1),)))),
    ("wants a of float32, not int64", kernel(Call(CALLEE, (Window("k", const(0)),), (const(1),)))),
    ("buffer x is not writable", kernel(Call(CALLEE, (Window("x", const(0)),), (const(1),)))),
    ("share a name", kernel(buffers=(X, X))),
    ("aliases 'q'", kernel(buffers=(Buffer("o", float32, 8, writable=True, aliases="q"),))),
    ("scalars are int64", kernel(scalars=(Var("n", int32),))),
    ("fma into o wants a product", kernel(Accumulate("o", const(0), "fma", ONE))),
    ("'exp' is not a binary", kernel(Accumulate("o", const(0), "exp", ONE))),
    ("less does not combine", kernel(Accumulate("o", const(0), "less", ONE))),
    ("must be a local", kernel(Alloc(Buffer("t", float32, None, Space.LOCAL)))),
    ("must be a power of two", kernel(Store("o", const(0), Horizontal("add", "x", const(0), 6, float32)))),
    ("has no place in a kernel", kernel(Store("o", const(0), Read(0, (const(0),), float32)))),
]


@pytest.mark.parametrize("good", GOOD)
def test_good_kernels_pass(good: Kernel) -> None:
    verify(good)


@pytest.mark.parametrize(("message", "bad"), BAD, ids=[message for message, _ in BAD])
def test_broken_rules_are_named(message: str, bad: Kernel) -> None:
    with pytest.raises(VerificationError, match="subject") as caught:
        verify(bad)
    assert message in str(caught.value)
    assert caught.value.__notes__, "the neighbourhood is shown"


def test_called_kernels_are_verified_too() -> None:
    broken = Kernel(
        "inner", (Buffer("a", float32, None, writable=True),), (), (loop(Store("a", I, ONE), LoopKind.PARALLEL),)
    )
    with pytest.raises(VerificationError, match=r"kernel inner.*only entry kernels have tasks"):
        verify(kernel(Call(broken, (Window("o", const(0)),), ())))


def test_names_end_with_their_block() -> None:
    inner = loop(Let(Var("v", float32), ONE))
    with pytest.raises(VerificationError, match="'v' is not defined"):
        verify(kernel(inner, Store("o", const(0), Var("v", float32))))
    verify(kernel(Store("o", const(0), ONE), Let(Var("b", bool_), const(True, bool_))))
