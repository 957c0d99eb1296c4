"""Index arithmetic in vector loops: affine, divided, clamped and selected, against plain Python integers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.ir.expr import Expr, Var, apply, const, select
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Stmt, Store
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import int64
from tests.codegen.kernel_native import Function, index, targets

OUTER, LANES, COUNT = 3, (2, 4, 8, 16), 8


class Maker:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lanes = self.random.choice(LANES)
        self.i, self.j, self.l = Var("i"), Var("j"), Var("l")

    def expr(self, depth: int) -> Expr:
        number = self.random.randint
        if depth == 0:
            start = number(-40, 40) if number(0, 1) else 0
            scale = self.random.choice([1, 1, self.lanes, self.lanes * 4, 3])
            step = self.random.choice([0, 1, 1, 1, 2, -1, 5])
            return index((self.i, scale * number(0, 3)), (self.j, scale), (self.l, step), start)
        a = self.expr(depth - 1)
        big = self.random.random() < 0.1
        match number(0, 8):
            case 0:
                return apply("floor_div", a, const(self.random.choice([1, 2, 3, 4, 7, self.lanes, 64, 100])))
            case 1:
                return apply("floor_mod", a, const(self.random.choice([1, 2, 3, 4, 7, self.lanes, 48, 100])))
            case 2:
                return apply("mul", a, const(2**33 + 1 if big else number(-7, 7)))
            case 3:
                return apply(self.random.choice(["add", "sub"]), a, self.expr(depth - 1))
            case 4:
                return apply(self.random.choice(["minimum", "maximum"]), a, self.expr(number(0, depth - 1)))
            case 5:
                test = self.random.choice(["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"])
                condition = apply(test, self.expr(0), self.expr(number(0, depth - 1)))
                return select(condition, a, self.expr(depth - 1))
            case 6:
                return apply("neg", a)
            case 7:
                return apply(self.random.choice(["div", "trunc_mod"]), a, const(self.random.choice([2, 3, 8, 10])))
            case _:
                return apply("mul", a, self.expr(0))

    def kernel(self) -> Kernel:
        size = OUTER * OUTER * self.lanes
        at = index((self.i, OUTER * self.lanes), (self.j, self.lanes), self.l)
        stores = tuple(
            Store("o", apply("add", at, const(n * size)), self.expr(self.random.randint(1, 3))) for n in range(COUNT)
        )
        body: Stmt = For(self.l, const(self.lanes), LoopKind.VECTOR, stores)
        inner = self.random.choice([LoopKind.SERIAL, LoopKind.UNROLL])
        body = For(self.j, const(OUTER), inner, (body,))
        body = For(self.i, const(OUTER), self.random.choice([LoopKind.SERIAL, LoopKind.PARALLEL]), (body,))
        return Kernel("indices", (Buffer("o", int64, COUNT * size, writable=True),), (), (body,))


@pytest.mark.parametrize("seed", range(60))
def test_index_arithmetic(seed: int) -> None:
    kernel = Maker(seed).kernel()
    expected = np.zeros(kernel.buffers[0].size, np.int64)
    emulate(kernel, [expected])
    for target in targets():
        got = np.zeros_like(expected)
        Function(kernel, target)(got)
        wrong = np.nonzero(got != expected)[0][:5]
        assert not wrong.size, f"seed {seed} on {target.name}: {wrong}\n{print_kernel(kernel)}"
