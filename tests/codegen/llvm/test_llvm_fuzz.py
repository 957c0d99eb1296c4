"""Random kernels: native code on every instruction set against the emulator, bit for bit."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.ir import types
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, select
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, If, Kernel, Let, LoopKind, Space, Stmt, Store
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import DType, bool_, float32, int64
from dlc.ir.verify_kernel import verify
from tests.codegen.kernel_native import Function, index, same, targets

DTYPES = [
    *(types.float32, types.float64, types.float16, types.bfloat16, types.bool_, types.int8, types.int16, types.int32),
    *(types.int64, types.uint8, types.uint16, types.uint32, types.uint64),
]
INEXACT = {
    *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"),
    *("asinh", "acosh", "atanh", "erf", "sigmoid", "rsqrt"),
}
SEEDS = range(80)


class Maker:
    """Draws one kernel over arrays x, y (dtype), k (indices), f (flags) and a writable o."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.dtype = self.random.choice(DTYPES)
        self.size = self.random.randint(1, 70)
        self.lanes = self.random.choice([0, 2, 4, 8, 16, 32])
        self.lets: list[Var] = []
        self.i, self.l, self.u = Var("i"), Var("l"), Var("u")
        self.uniform = False

    def pick(self, *options):
        return self.random.choice(options)

    def position(self) -> Expr:
        return index((self.i, self.lanes), self.l) if self.lanes else self.i

    def place(self, depth: int) -> Expr:
        """An index of x, y, k or f that is in bounds: affine, strided, divided, or read from k."""
        if self.uniform:
            return apply("floor_mod", index((self.i, self.random.randint(1, 3)), 1), const(self.size))
        at = self.position()
        match self.random.randint(0, 7):
            case 0 | 1:
                return apply("minimum", at, const(self.size - 1))
            case 7 if depth > 0:  # a row chosen by data, then affine
                row = Load("k", apply("floor_mod", self.i, const(self.size)), int64)
                moved = apply("add", apply("mul", row, const(self.random.randint(-3, 9))), at)
                return apply("floor_mod", moved, const(self.size))
            case 2:
                factor, start = self.random.randint(-3, 5), self.random.randint(-5, 5)
                return apply("floor_mod", index((at, factor), start), const(self.size))
            case 3:
                return apply("floor_div", apply("minimum", at, const(self.size - 1)), const(self.random.randint(1, 9)))
            case 4 if depth > 0:
                return Load("k", self.place(0), int64)
            case 5:
                return const(self.random.randint(0, self.size - 1))
            case _:
                return apply("sub", const(self.size - 1), apply("minimum", at, const(self.size - 1)))

    def guarded(self, dtype: DType, depth: int) -> Expr:
        """A read that is out of bounds for some points, behind the test that avoids it."""
        at = index(self.i if self.uniform else self.position(), self.random.randint(-9, 9))
        inside = apply("bit_and", apply("less_equal", const(0), at), apply("less", at, const(self.size)))
        read = Load(self.pick("x", "y"), at, self.dtype)
        value = read if dtype is self.dtype else cast(read, dtype)
        if self.random.random() < 0.3:
            return select(apply("bit_not", inside), self.expr(dtype, depth - 1), value)
        return select(inside, value, self.expr(dtype, depth - 1))

    def literal(self, dtype: DType) -> Expr:
        if dtype is bool_:
            return const(self.pick(True, False), dtype)
        if dtype.is_float:
            return const(self.pick(0.0, 1.0, -1.5, 3.25, float("inf"), float("nan"), 1e-3, -0.0), dtype)
        low = 0 if dtype.kind == "uint" else -3
        if self.random.random() < 0.1:
            info = ml_dtypes.iinfo(dtype.numpy)
            return const(self.pick(int(info.min), int(info.max), int(info.max) // 2 + 1), dtype)
        return const(self.random.randint(low, 100), dtype)

    def expr(self, dtype: DType, depth: int) -> Expr:
        if depth <= 0:
            known = [v for v in self.lets if v.dtype is dtype]
            if known and self.random.random() < 0.5:
                return self.random.choice(known)
            if dtype is self.dtype and self.random.random() < 0.8:
                return Load(self.pick("x", "y"), self.place(1), dtype)
            if dtype is bool_:
                return Load("f", self.place(1), bool_)
            return self.literal(dtype)
        choice = self.random.random()
        if choice < 0.12:
            return self.guarded(dtype, depth)
        if choice < 0.24:
            return select(self.expr(bool_, depth - 1), self.expr(dtype, depth - 1), self.expr(dtype, depth - 1))
        if choice < 0.36 and dtype is not bool_:
            return cast(self.expr(self.random.choice(DTYPES), depth - 1), dtype)
        if dtype is int64 and choice < 0.5:
            return self.i if self.uniform else self.position()
        names = [
            name
            for name, op in SCALAR_OPS.items()
            if name not in INEXACT and (op.result == "bool" if dtype is bool_ else dtype.kind in op.domain)
            if not (dtype is not bool_ and op.result == "bool")
            if not (name == "pow" and dtype.is_float)
        ]
        if dtype is bool_ and self.random.random() < 0.4:
            names = ["bit_and", "bit_or", "bit_xor", "bit_not"]
        name = self.random.choice(names)
        op = SCALAR_OPS[name]
        operand = dtype
        if op.result == "bool":
            operand = self.random.choice([d for d in DTYPES if d.kind in op.domain])
        return apply(name, *(self.expr(operand, depth - 1) for _ in range(op.arity)))

    def statements(self) -> list[Stmt]:
        body: list[Stmt] = []
        for number in range(self.random.randint(0, 2)):
            kind = self.random.choice([self.dtype, bool_, float32, int64])
            value = self.expr(kind, 2)
            variable = Var(f"v{number}", kind)
            body.append(Let(variable, value))
            self.lets.append(variable)
        at = apply("minimum", self.position(), const(self.size - 1)) if not self.lanes else self.position()
        match self.random.randint(0, 3):
            case 0 if self.dtype is not bool_:
                body.append(Accumulate("o", at, self.pick("add", "maximum", "mul"), self.expr(self.dtype, 2)))
            case 1:
                again = For(self.u, const(3), self.pick(LoopKind.SERIAL, LoopKind.UNROLL), ())
                width = max(1, self.lanes)
                slot = index((self.u, width), self.l) if self.lanes else self.u
                body.append(Alloc(Buffer("tmp", self.dtype, 3 * width, Space.LOCAL, True)))
                body.append(For(again.var, again.extent, again.kind, (Store("tmp", slot, self.expr(self.dtype, 2)),)))
                read = index((const(2), width), self.l) if self.lanes else const(2)
                body.append(Store("o", at, Load("tmp", read, self.dtype)))
            case 2:
                lets, self.uniform = self.lets, True
                self.lets = []
                condition = self.expr(bool_, 2)
                self.lets, self.uniform = lets, False
                then = Store("o", at, self.expr(self.dtype, 2))
                body.append(If(condition, (then,), (Store("o", at, self.expr(self.dtype, 1)),)))
            case _:
                body.append(Store("o", at, self.expr(self.dtype, 3)))
        return body

    def kernel(self) -> Kernel:
        buffers = (
            Buffer("x", self.dtype, self.size),
            Buffer("y", self.dtype, self.size),
            Buffer("k", int64, self.size),
            Buffer("f", bool_, self.size),
            Buffer("o", self.dtype, self.size, writable=True),
        )
        body = tuple(self.statements())
        count = self.size
        if self.lanes:
            active = apply("less", self.position(), const(self.size))
            body = (For(self.l, const(self.lanes), LoopKind.VECTOR, body, active),)
            count = -(-self.size // self.lanes)
        kind = self.pick(LoopKind.PARALLEL, LoopKind.SERIAL)
        return Kernel("fuzz", buffers, (), (For(self.i, const(count), kind, body),))


def draw(generator: np.random.Generator, dtype: DType, size: int) -> np.ndarray:
    if dtype is bool_:
        return generator.integers(0, 2, size).astype(bool)
    if dtype.is_float:
        values = generator.standard_normal(size) * np.exp(generator.uniform(-8, 8, size))
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 1e9, -3e9, 70000.0])
        values = np.where(generator.random(size) < 0.2, generator.choice(special, size), values)
        with np.errstate(all="ignore"):
            return values.astype(dtype.numpy)
    info = ml_dtypes.iinfo(dtype.numpy)
    near = generator.integers(max(info.min, -8), 9, size)
    wild = generator.integers(info.min, info.max, size, dtype=dtype.numpy, endpoint=True)
    return np.where(generator.random(size) < 0.5, near.astype(dtype.numpy), wild)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kernel(seed: int) -> None:
    maker = Maker(seed)
    kernel = maker.kernel()
    verify(kernel)
    generator = np.random.default_rng(seed)
    inputs = [draw(generator, b.dtype, maker.size) for b in kernel.buffers]
    inputs[2] = generator.integers(0, maker.size, maker.size)
    expected = [array.copy() for array in inputs]
    emulate(kernel, expected)
    for target in targets():
        got = [array.copy() for array in inputs]
        Function(kernel, target)(*got)
        wrong = [b.name for b, a, e in zip(kernel.buffers, got, expected, strict=True) if not same(a, e)]
        assert not wrong, f"seed {seed} on {target.name}: {wrong}\n{print_kernel(kernel)}\n{got[4]}\n{expected[4]}"
