"""This process's code and processor: loading objects, the native runtime, the target; LLVM only where it must be.

A warm start finds the target in the code cache and loads objects by itself: LLVM, which takes longer to import than
all the rest, is needed to compile only, and where an object has something that this package's loader does not do.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import asdict
from functools import lru_cache
from importlib import import_module

from dlc import config
from dlc.codegen.amx_permission import tiles_permitted
from dlc.codegen.host_caches import cache_sizes
from dlc.codegen.target import CpuTarget
from dlc.driver.identity import compiler_digest
from dlc.messages import inform
from dlc.runtime import object_code
from dlc.runtime.cache import CodeCache, make_key
from dlc.runtime.executable import NativeCode
from dlc.runtime.object_code import UnsupportedObjectError
from dlc.runtime.threads import RUNTIME_SYMBOLS, NativeRuntime

_IDENTITY = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features")

_lock = threading.Lock()
_runtime: list[NativeRuntime] = []


def load_objects(images: Sequence[bytes]) -> NativeCode:
    """Load relocatable objects as one library."""
    if object_code.can_load():
        try:
            return object_code.load_objects(images)
        except UnsupportedObjectError as error:
            inform("dlc.load", f"objects go to LLVM's linker: {error}")
    code: NativeCode = import_module("dlc.codegen.llvm.jit").load_objects(images)
    return code


def native_runtime() -> NativeRuntime:
    """Return the process's pool and dispatcher functions, compiled on first use."""
    with _lock:
        if not _runtime:
            code = load_objects(_runtime_objects())
            addresses = {symbol: code.address(symbol) for symbol in RUNTIME_SYMBOLS}
            _runtime.append(NativeRuntime.from_addresses(addresses, code))
        return _runtime[0]


@contextmanager
def runtime_beside() -> Iterator[None]:
    """Make the native runtime on a thread of its own while the block runs; who needs it first meets any error."""

    def make() -> None:
        with suppress(Exception):
            native_runtime()

    thread = threading.Thread(target=copy_context().run, args=(make,), name="dlc-runtime")  # with the caller's options
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _runtime_objects() -> list[bytes]:
    """Compile the runtime for any processor of this kind, or take it from the code cache."""
    machine = platform.machine()
    cache = CodeCache()
    key = make_key("runtime", {"machine": machine, "compiler": compiler_digest()})
    entry = cache.load(key)
    if entry is not None:
        return [bytes(entry.blobs["dispatcher"]), bytes(entry.blobs["poll"])]
    texts, jit = import_module("dlc.codegen.llvm.dispatch"), import_module("dlc.codegen.llvm.jit")
    target = find_target("generic")
    objects = [jit.compile_module(text, target) for text in (texts.dispatcher_text(machine), texts.python_poll_text())]
    cache.store(key, {}, dict(zip(("dispatcher", "poll"), objects, strict=True)))
    return objects


def find_target(restriction: str = "") -> CpuTarget:
    """Return the host as a target, as ``codegen.llvm_target.host_target`` does, from the code cache if it is there."""
    if not config.cache_enabled():
        return _inspect(restriction)
    parts = {"processor": _processor(), "restriction": restriction, "compiler": compiler_digest()}
    key = make_key("target", parts)
    cache = CodeCache()
    entry = cache.load(key)
    if entry is not None:
        facts = entry.metadata["target"]
        lists = {name: tuple(facts[name]) for name in ("features", "emulated")}
        return CpuTarget(**{**facts, **lists, **cache_sizes()})
    target = _inspect(restriction)
    cache.store(key, {"target": asdict(target)})
    return target


def _inspect(restriction: str) -> CpuTarget:
    target: CpuTarget = import_module("dlc.codegen.llvm.target").host_target(restriction)
    return target


@lru_cache(maxsize=1)
def _processor() -> str:
    """Return all that decides what the processor and the system offer, the permission to use tiles included."""
    lines = _first_processor().splitlines()
    fields = [line for line in lines if line.partition("\t")[0].strip().partition(":")[0] in _IDENTITY]
    tiles = tiles_permitted() if any("amx_tile" in line for line in fields) else False
    system = os.uname()
    return "\n".join([system.sysname, system.release, system.machine, *fields, f"tiles {tiles}"])


def processor_name() -> str:
    """Return what the processor calls itself, for reports."""
    names = [line for line in _first_processor().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _first_processor() -> str:
    """The first few kilobytes of /proc/cpuinfo: the whole of it takes long on large machines."""
    try:
        descriptor = os.open("/proc/cpuinfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return platform.processor()
    try:
        return os.read(descriptor, 8192).decode("utf-8", "replace").partition("\n\n")[0]
    finally:
        os.close(descriptor)
