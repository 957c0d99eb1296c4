"""From kernels to object code: deduplication, emission, compilation on several threads beside the lowering.

Identical kernels are compiled once, and so is what they call. Knows code generation, nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

from dlc.codegen.llvm.emit import emit_entry, module_text, symbol_of
from dlc.codegen.llvm.jit import assembly, compile_module
from dlc.codegen.llvm.state import Library, ModuleState
from dlc.codegen.target import CpuTarget
from dlc.ir.kernel import Kernel
from dlc.ir.kernel_digest import fingerprint, renamed
from dlc.ir.text_kernel import print_kernel

MODULE_TEXT = 64 << 10
"""Characters of LLVM text after which a module is handed over to be compiled."""


@dataclass(frozen=True)
class CompiledKernels:
    """Object code of kernels, and the scratch bytes one thread needs for any of them."""

    objects: tuple[bytes, ...]
    scratch_bytes: int
    modules: tuple[str, ...] = ()

    @property
    def code_bytes(self) -> int:
        """Size of all object code."""
        return sum(map(len, self.objects))


class KernelCompiler:
    """Compiles distinct kernels on ``workers`` threads while more of them are still being made.

    Modules are cut by the size of their text alone, so that the same kernels in the same order make the same modules.
    Use as a context manager; its end waits for the threads.
    """

    def __init__(
        self, target: CpuTarget, workers: int, compile_text: Callable[[str, CpuTarget], bytes] = compile_module
    ) -> None:
        self.target = target
        self.kernels: dict[str, Kernel] = {}
        """Fingerprint -> the kernel under its unique name; equal kernels share one."""
        self._compile_text = compile_text
        self._pool = ThreadPoolExecutor(max(workers, 1))
        self._library: Library = {}
        self._module = ModuleState(target, self._library)
        self._submitted: list[tuple[str, Future[bytes]]] = []
        self._scratch_bytes = 0
        self._known: dict[int, tuple[Kernel, str]] = {}

    def __enter__(self) -> KernelCompiler:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def symbol(self, kernel: Kernel) -> str:
        """Take ``kernel`` in unless an equal one is there; return the symbol that it will have."""
        known = self._known.get(id(kernel))
        if known is not None:
            return known[1]
        digest = fingerprint(kernel)
        if digest not in self.kernels:
            self.kernels[digest] = renamed(kernel, f"{kernel.name.split('_')[0]}_{digest[:12]}")
            self._add(self.kernels[digest])
        symbol = symbol_of(self.kernels[digest])
        self._known[id(kernel)] = (kernel, symbol)  # the kernel is kept, so that its id stays its own
        return symbol

    def _add(self, kernel: Kernel) -> None:
        self._scratch_bytes = max(self._scratch_bytes, emit_entry(self._module, kernel))
        if sum(map(len, self._module.functions)) >= MODULE_TEXT:
            self._submit()

    def _submit(self) -> None:
        if self._module.functions:
            text = module_text(self._module)
            self._module = ModuleState(self.target, self._library)
            compiled = self._pool.submit(copy_context().run, self._compile_text, text, self.target)
            self._submitted.append((text, compiled))

    def finish(self) -> CompiledKernels:
        """Return the object code of all kernels taken in."""
        self._submit()
        objects = tuple(future.result() for _, future in self._submitted)
        return CompiledKernels(objects, self._scratch_bytes, tuple(text for text, _ in self._submitted))


def describe(kernels: Iterable[Kernel]) -> str:
    """Return the readable text of kernels."""
    return "\n\n".join(print_kernel(k) for k in kernels)


def assembly_of(texts: Iterable[str], target: CpuTarget) -> str:
    """Return the assembly of LLVM modules."""
    return "\n\n".join(assembly(text, target) for text in texts)
