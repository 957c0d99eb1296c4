"""Compiling kernels beside the lowering: each once, in modules that load together, the same way every time."""

import ctypes

import numpy as np
import pytest

from dlc.codegen.llvm.jit import load_objects
from dlc.codegen.llvm.target import host_target
from dlc.driver import native
from dlc.driver.native import KernelCompiler
from dlc.errors import CompileError
from dlc.ir.expr import Load, Var, apply, const
from dlc.ir.kernel import Buffer, Call, For, Kernel, LoopKind, Store, Window
from dlc.ir.types import float32

ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def scale(name="scale"):
    """o[i] = 3 x[i] for i < n."""
    i, n = Var("i"), Var("n")
    product = apply("mul", Load("x", i, float32), const(3.0, float32))
    buffers = (Buffer("x", float32, None), Buffer("o", float32, None, writable=True))
    return Kernel(name, buffers, (n,), (For(i, n, LoopKind.SERIAL, (Store("o", i, product),)),))


def caller(offset, name="caller"):
    """Scale four elements from ``offset`` on."""
    buffers = (Buffer("x", float32, 16), Buffer("o", float32, 16, writable=True))
    windows = (Window("x", const(offset)), Window("o", const(offset)))
    return Kernel(name, buffers, (), (Call(scale(), windows, (const(4),)),))


def compiled(kernels, workers=2):
    with KernelCompiler(host_target(), workers) as compiler:
        symbols = [compiler.symbol(kernel) for kernel in kernels]
        return symbols, compiler.finish()


@pytest.mark.parametrize("text", [1, 1 << 30], ids=["a module each", "one module"])
def test_called_kernels_are_emitted_once_and_found_by_all_modules(monkeypatch, text):
    monkeypatch.setattr(native, "MODULE_TEXT", text)
    symbols, code = compiled([caller(0), caller(4), caller(8, "other"), caller(4, "again")])
    assert len(set(symbols)) == 3 and symbols[1] == symbols[3]
    assert len(code.modules) == len(code.objects) == (3 if text == 1 else 1)
    for shared in ("define void @dlc_scale_", "define void @dlc_tasks_2_0("):
        assert sum(module.count(shared) for module in code.modules) == 1
    loaded = load_objects(code.objects)
    x, o = np.arange(16, dtype=np.float32), np.zeros(16, np.float32)
    table = (ctypes.c_void_p * 2)(x.ctypes.data, o.ctypes.data)
    for symbol in symbols[:2]:
        ENTRY(loaded.address(symbol))(table, 0, 1, None)
    assert o.tolist() == [*(3.0 * x[:8]), *[0.0] * 8]


def test_modules_do_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(native, "MODULE_TEXT", 1000)
    kernels = [caller(offset) for offset in range(12)]
    (first, one), (second, four) = compiled(kernels, 1), compiled(kernels, 4)
    assert first == second and one.modules == four.modules and one.objects == four.objects and len(one.modules) > 2


def test_a_kernel_that_cannot_be_compiled_is_an_error_and_no_hang():
    with pytest.raises(CompileError), KernelCompiler(host_target(), 2) as compiler:
        compiler.symbol(caller(0))
        compiler.symbol(scale())  # takes a scalar: no entry


def test_nothing_compiles_to_nothing():
    symbols, code = compiled([])
    assert symbols == [] and code.objects == () and code.scratch_bytes == 0
