"""Runs a lowered contraction: natively on threads of its own, or in the emulator."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dlc.codegen.emulate import emulate
from dlc.codegen.llvm.emit import emit_module
from dlc.codegen.llvm.jit import compile_module, load_objects
from dlc.codegen.target import CpuTarget
from dlc.ir.lowering import Lowered, OperandKind
from dlc.ir.types import TensorType

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def aligned(shape, dtype, fill=None):
    """Return a 64-byte aligned array."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64))
    raw = np.zeros(size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + size * dtype.itemsize].view(dtype).reshape(shape)
    if fill is not None:
        array[...] = fill
    return array


class Native:
    """A lowered contraction as machine code."""

    def __init__(self, lowered: Lowered, target: CpuTarget, threads: int = 1) -> None:
        self.lowered = lowered
        self.threads = threads
        kernels = {call.kernel: None for call in lowered.calls}
        self.module = emit_module(tuple(kernels), target)
        self.object = compile_module(self.module.text, target)
        self.code = load_objects([self.object])
        self.functions = [_ENTRY(self.code.address(self.module.symbols[call.kernel.name])) for call in lowered.calls]
        most = max(self.module.scratch_bytes.values())
        self.scratch = [aligned((most + 64,), np.uint8, 0xFF) for _ in range(threads)]  # NaN to whoever reads too early
        self.temporaries = [
            aligned(t.shape, t.dtype.numpy, np.nan if t.dtype.is_float else 7) for t in lowered.temporaries
        ]
        self.executor = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self, arrays, out, calls=None):
        for number, (call, function) in enumerate(zip(self.lowered.calls, self.functions, strict=True)):
            if calls is not None and number not in calls:
                continue
            buffers = _operands(call, arrays, out, self.temporaries)
            table = (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers))
            tasks = call.kernel.tasks
            if self.executor is None:
                function(table, 0, tasks, self.scratch[0].ctypes.data)
                continue
            bounds = [tasks * t // self.threads for t in range(self.threads + 1)]
            futures = [
                self.executor.submit(function, table, bounds[t], bounds[t + 1], self.scratch[t].ctypes.data)
                for t in range(self.threads)
            ]
            for future in futures:
                future.result()
        return out


def _operands(call, arrays, out, temporaries):
    found = {OperandKind.INPUT: arrays, OperandKind.OUTPUT: [out], OperandKind.TEMPORARY: temporaries}
    return [found[o.kind][o.index] for o in call.operands]


def run_emulated(lowered: Lowered, arrays, out):
    """Run every kernel in the emulator."""
    temporaries = [np.full(t.shape, np.nan if t.dtype.is_float else 7, t.dtype.numpy) for t in lowered.temporaries]
    for call in lowered.calls:
        emulate(call.kernel, _operands(call, arrays, out, temporaries))
    return out


def type_of(array) -> TensorType:
    from dlc.ir.types import tensor_type

    return tensor_type(array.dtype, array.shape)
