"""Compiles kernels for one target and runs them on NumPy arrays."""

from __future__ import annotations

import ctypes

import numpy as np

from dlc.codegen.llvm.emit import emit_module
from dlc.codegen.llvm.jit import NativeCode, compile_module, load_objects
from dlc.codegen.llvm.target import host_target
from dlc.codegen.target import CpuTarget
from dlc.ir.expr import Const, Expr, Var, apply, const
from dlc.ir.kernel import Kernel

LEVELS = ("generic", "avx2", "avx512")
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def targets() -> list[CpuTarget]:
    """The host under each restriction that changes anything."""
    found = {target.name: target for target in map(host_target, LEVELS)}
    return list(found.values())


class Function:
    """One entry kernel as a Python function."""

    def __init__(self, kernel: Kernel, target: CpuTarget) -> None:
        module = emit_module([kernel], target)
        self.text = module.text
        self.kernel = kernel
        self.code: NativeCode = load_objects([compile_module(module.text, target)])
        self.entry = _ENTRY(self.code.address(module.symbols[kernel.name]))
        self.scratch = np.zeros(module.scratch_bytes[kernel.name] + 64, np.uint8)

    def __call__(self, *arrays: np.ndarray, begin: int = 0, end: int | None = None) -> None:
        table = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        area = self.scratch.ctypes.data
        self.entry(table, begin, self.kernel.tasks if end is None else end, area + (-area) % 64)


def index(*terms: Expr | int | tuple[Expr, int]) -> Expr:
    """Sum variables, integers and (variable, factor) pairs."""
    total: Expr | None = None
    for term in terms:
        if isinstance(term, tuple):
            term = apply("mul", term[0], const(term[1]))
        elif isinstance(term, int):
            term = const(term)
        total = term if total is None else apply("add", total, term)
    assert isinstance(total, Expr)
    return total


def variables(names: str) -> list[Var]:
    return [Var(name) for name in names.split()]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal values, NaN included."""
    if a.dtype.kind in "biu":
        return np.array_equal(a, b)
    with np.errstate(invalid="ignore"):
        return np.array_equal(a.astype(np.float64), b.astype(np.float64), equal_nan=True)


__all__ = ["Const", "Function", "index", "same", "targets", "variables"]
