"""Shared tools of the runtime's tests: compile LLVM text with llvmlite alone, tiny kernels, plans made by hand."""

from __future__ import annotations

import ctypes
import platform

import llvmlite.binding as llvm

from dlc.codegen.llvm_dispatch import EXPORTS, PYTHON_EXPORTS, dispatcher_text, python_poll_text
from dlc.runtime.threads import NativeRuntime

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()

_KEPT: list[object] = []


def compile_text(*texts: str) -> llvm.ResourceTracker:
    """Compile LLVM texts as one module and return the tracker, which maps symbols to addresses."""
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    modules = [llvm.parse_assembly(text) for text in texts]
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    library = llvm.JITLibraryBuilder()
    for module in modules:
        module.verify()
        builder.getModulePassManager().run(module, builder)
        library.add_object_img(machine.emit_object(module))
    jit = llvm.create_lljit_compiler(machine)
    return library, jit


def load(symbols: tuple[str, ...], *texts: str) -> dict[str, int]:
    """Compile, link with the process's own symbols and return the addresses of ``symbols``."""
    library, jit = compile_text(*texts)
    for symbol in symbols:
        library.export_symbol(symbol)
    tracker = library.add_current_process().link(jit, f"test{len(_KEPT)}")
    _KEPT.append((tracker, jit))
    return {symbol: tracker[symbol] for symbol in symbols}


def native_runtime() -> NativeRuntime:
    """Return the process's one native runtime for tests."""
    if not _RUNTIME:
        addresses = load(EXPORTS + PYTHON_EXPORTS, dispatcher_text(platform.machine()), python_poll_text())
        _RUNTIME.append(NativeRuntime.from_addresses(addresses, owner=_KEPT[-1]))
    return _RUNTIME[0]


_RUNTIME: list[NativeRuntime] = []
