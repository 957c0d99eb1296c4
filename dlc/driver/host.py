"""The native functions of this process: thread pool and dispatcher, compiled once, loaded once."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable

from dlc.codegen.llvm_dispatch import EXPORTS, PYTHON_EXPORTS, dispatcher_text, python_poll_text
from dlc.codegen.llvm_jit import compile_module, load_objects
from dlc.codegen.llvm_target import host_target
from dlc.codegen.target import CpuTarget
from dlc.runtime.threads import NativeRuntime

_lock = threading.Lock()
_runtime: list[NativeRuntime] = []


def native_runtime(compile_text: Callable[[str, CpuTarget], bytes] = compile_module) -> NativeRuntime:
    """Return the process's pool and dispatcher functions, compiled on first use.

    ``compile_text`` makes the object code, for example through a cache.
    """
    with _lock:
        if not _runtime:
            target = host_target("generic")
            texts = (dispatcher_text(platform.machine()), python_poll_text())
            code = load_objects([compile_text(text, target) for text in texts])
            addresses = {symbol: code.address(symbol) for symbol in (*EXPORTS, *PYTHON_EXPORTS)}
            _runtime.append(NativeRuntime.from_addresses(addresses, code))
        return _runtime[0]
