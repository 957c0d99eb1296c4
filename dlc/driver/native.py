"""From kernels to object code: deduplication, emission, compilation on several threads.

Identical kernels are compiled once. Knows code generation, nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from dlc.codegen.llvm_emit import emit_module, symbol_of
from dlc.codegen.llvm_jit import NativeCode, assembly, compile_module, load_objects
from dlc.codegen.target import CpuTarget
from dlc.ir.kernel import Call, Kernel, statements
from dlc.ir.text_kernel import fingerprint, print_kernel


@dataclass
class KernelSet:
    """Distinct kernels under unique names; equal kernels share one."""

    by_fingerprint: dict[str, Kernel] = field(default_factory=dict)
    _known: dict[int, tuple[Kernel, str]] = field(default_factory=dict)

    def symbol(self, kernel: Kernel) -> str:
        """Add ``kernel`` unless an equal one is there; return the symbol that it will have."""
        known = self._known.get(id(kernel))
        if known is not None:
            return known[1]
        digest = fingerprint(kernel)
        if digest not in self.by_fingerprint:
            self.by_fingerprint[digest] = replace(kernel, name=f"{kernel.name.split('_')[0]}_{digest[:12]}")
        symbol = symbol_of(self.by_fingerprint[digest])
        self._known[id(kernel)] = (kernel, symbol)  # the kernel is kept, so that its id stays its own
        return symbol

    @property
    def kernels(self) -> list[Kernel]:
        """The distinct kernels."""
        return list(self.by_fingerprint.values())


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


def partition(kernels: Sequence[Kernel], parts: int) -> list[list[Kernel]]:
    """Split kernels into groups of similar work, those that call the same kernels together."""
    clusters: dict[tuple[str, ...], list[Kernel]] = {}
    for kernel in kernels:
        callees = {s.kernel for s in statements(kernel.body) if isinstance(s, Call)}
        key = tuple(sorted({fingerprint(c)[:16] for c in callees})) or (f"alone {len(clusters) % (4 * parts)}",)
        clusters.setdefault(key, []).append(kernel)
    groups: list[tuple[int, list[Kernel]]] = [(0, []) for _ in range(parts)]
    weights = {key: sum(_weight(k) for k in members) for key, members in clusters.items()}
    for key in sorted(clusters, key=lambda k: (-weights[k], k)):
        lightest = min(range(parts), key=lambda number: groups[number][0])
        weight, members = groups[lightest]
        groups[lightest] = (weight + weights[key], members + clusters[key])
    return [members for _, members in groups if members]


def _weight(kernel: Kernel) -> int:
    return 1 + sum(1 + 4 * isinstance(s, Call) for s in statements(kernel.body))


def compile_kernels(
    kernels: Sequence[Kernel],
    target: CpuTarget,
    workers: int,
    compile_text: Callable[[str, CpuTarget], bytes] = compile_module,
) -> CompiledKernels:
    """Emit and compile ``kernels`` in ``workers`` modules side by side."""
    modules = [emit_module(group, target) for group in partition(kernels, max(workers, 1))]
    scratch = max((n for m in modules for n in m.scratch_bytes.values()), default=0)
    texts = tuple(m.text for m in modules)
    if len(texts) <= 1:
        objects = tuple(compile_text(text, target) for text in texts)
    else:
        with ThreadPoolExecutor(len(texts)) as pool:
            objects = tuple(pool.map(lambda text: compile_text(text, target), texts))
    return CompiledKernels(objects, scratch, texts)


def load(compiled: CompiledKernels) -> NativeCode:
    """Load object code into the process."""
    return load_objects(compiled.objects)


def describe(kernels: Iterable[Kernel]) -> str:
    """Return the readable text of kernels."""
    return "\n\n".join(print_kernel(k) for k in kernels)


def assembly_of(texts: Iterable[str], target: CpuTarget) -> str:
    """Return the assembly of LLVM modules."""
    return "\n\n".join(assembly(text, target) for text in texts)
