"""Finds out what the host CPU offers, restricts it on request, and builds LLVM target machines.

It must not know kernels.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache

import llvmlite.binding as llvm

from dlc.codegen.amx_permission import tiles_permitted
from dlc.codegen.host_caches import cache_sizes
from dlc.codegen.target import CpuTarget
from dlc.errors import ConfigError

_X86_AVX2 = (
    *("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c"),
    *("bmi", "bmi2", "lzcnt", "movbe"),
)
_X86_AVX512 = (*_X86_AVX2, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")
_X86_LEVELS: dict[str, tuple[str, ...]] = {
    "generic": (),
    "avx2": _X86_AVX2,
    "avx512": _X86_AVX512,
}
_EMULATED = {"amx-emulated": ("amx-bf16", "amx-int8", "amx-tile")}
"""Items of a restriction -> features that vector code replaces, wherever there is AVX-512."""
_NEVER = ("prefer-256-bit", "64bit", "cf", "ccmp", "egpr", "ndd", "nf", "ppx", "push2pop2", "zu")
_DOUBLE_PUMPED = ("znver4",)
"""Processors that execute AVX-512 in two passes of 256 bits, by LLVM's names."""
_local = threading.local()


def initialize() -> None:
    """Make LLVM's native target available; safe to call often."""
    _initialize_once()


@lru_cache(maxsize=1)
def _initialize_once() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


def host_target(restriction: str = "") -> CpuTarget:
    """Return the host as a target.

    ``restriction`` is a comma list: a level (``generic``, ``avx2``, ``avx512``) that bounds the features,
    ``-feature`` to leave one out, and ``amx-emulated`` to have tile instructions done by vector code, which is slow
    and serves to test what runs on tiles. Nothing is ever enabled that processor and system do not offer.

    Raises:
        ConfigError: an item is neither a level nor begins with ``-``, or tiles are to be emulated without AVX-512.
    """
    initialize()
    triple = llvm.get_process_triple()
    present = _host_features()
    is_x86 = triple.startswith("x86_64")
    allowed = set(present)
    emulated: set[str] = set()
    omitted: set[str] = set()
    for item in filter(None, (part.strip() for part in restriction.split(","))):
        if item.startswith("-"):
            allowed, omitted = _without(allowed, item[1:]), omitted | {item[1:]}
        elif is_x86 and item in _X86_LEVELS:
            allowed &= set(_X86_LEVELS[item])
        elif item == "generic":
            allowed = set()
        elif is_x86 and item in _EMULATED:
            emulated |= set(_EMULATED[item])
        elif item != "native":
            levels = ", ".join((*_X86_LEVELS, "native", *_EMULATED))
            raise ConfigError(f"CPU features {restriction!r}: {item!r} is not one of {levels} or -<feature>")
    if is_x86:
        target = _x86_target(triple, allowed - emulated)
        if emulated and not target.has_masks:
            raise ConfigError(f"CPU features {restriction!r}: tiles are emulated with AVX-512, which is not there")
        return replace(target, emulated=tuple(sorted(emulated - omitted)))
    return _other_target(triple, allowed)


@lru_cache(maxsize=1)
def _host_features() -> frozenset[str]:
    """Return what LLVM reports, which includes the operating system's support (XCR0) for AVX, AVX-512 and AMX.

    Tile registers also want the process's permission, asked here: every process that loads code comes by.
    """
    found = {name for name, present in llvm.get_host_cpu_features().items() if present and name not in _NEVER}
    if any(name.startswith("amx") for name in found) and not tiles_permitted():
        found = {name for name in found if not name.startswith("amx")}
    return frozenset(found)


def _without(features: set[str], name: str) -> set[str]:
    """Drop a feature and all that LLVM would imply it from."""
    dropped = {name}
    if name.startswith("avx512f") or name == "avx512":
        dropped = {f for f in features if f.startswith(("avx512", "avx10"))}
    elif name in ("avx2", "avx"):
        dropped = {f for f in features if f.startswith(("avx", "amx", "vaes", "vpclmul"))}
        if name == "avx2":
            dropped.discard("avx")
        else:
            dropped |= {"fma", "f16c"}
    elif name == "fma":
        dropped |= {f for f in features if f.startswith(("avx512", "avx10"))}
    return features - dropped


def _x86_target(triple: str, features: set[str]) -> CpuTarget:
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features
    if not wide:
        features = {f for f in features if not f.startswith(("avx512", "avx10"))}
    avx2 = "avx2" in features and "fma" in features
    if not avx2:
        features = {f for f in features if not f.startswith(("avx", "amx", "fma", "f16c", "vaes", "vpclmul"))}
    level = "avx512" if wide else "avx2" if avx2 else "generic"
    return CpuTarget(
        name=f"x86-64 {level}",
        triple=triple,
        cpu="x86-64",
        features=tuple(sorted(features)),
        vector_bytes=64 if wide else 32 if avx2 else 16,
        vector_registers=32 if wide else 16,
        has_fma=avx2,
        has_masks=wide,
        double_pumped=wide and llvm.get_host_cpu_name() in _DOUBLE_PUMPED,
        emulated=(),
        **cache_sizes(),
    )


def _other_target(triple: str, features: set[str]) -> CpuTarget:
    return CpuTarget(
        name=triple.split("-")[0],
        triple=triple,
        cpu="generic",
        features=tuple(sorted(features)),
        vector_bytes=16,
        vector_registers=32,
        has_fma=True,
        has_masks=False,
        double_pumped=False,
        emulated=(),
        **cache_sizes(),
    )


def target_machine(target: CpuTarget, level: int = 3) -> llvm.TargetMachine:
    """Return this thread's LLVM target machine for ``target`` (position independent, small code model)."""
    initialize()
    machines: dict[tuple[CpuTarget, int], llvm.TargetMachine] = _local.__dict__.setdefault("machines", {})
    key = (target, level)
    if key not in machines:
        machines[key] = llvm.Target.from_triple(target.triple).create_target_machine(
            cpu=target.cpu, features=target.feature_string, opt=level, reloc="pic", codemodel="small", jit=True
        )
    return machines[key]
