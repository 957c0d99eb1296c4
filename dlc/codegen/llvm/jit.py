"""LLVM IR text to object code, and object code to callable addresses.

A lean pipeline: the emitter already vectorises and unrolls, so LLVM's function simplification
at its first level (promote, simplify, hoist out of loops) is enough. It must not know kernels.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from functools import lru_cache

import llvmlite.binding as llvm

from dlc.codegen.llvm import calls as llvm_calls
from dlc.codegen.llvm.target import host_target, initialize, target_machine
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError

_numbers = itertools.count()
_session_lock = threading.Lock()


def compile_module(text: str, target: CpuTarget) -> bytes:
    """Compile LLVM IR ``text`` to a relocatable object; any number of threads may do so at once.

    Raises:
        CompileError: LLVM rejects the text.
    """
    return _compile(text, target, as_object=True)


def assembly(text: str, target: CpuTarget) -> str:
    """Return the assembly that ``compile_module`` would encode."""
    return _compile(text, target, as_object=False).decode()


def _compile(text: str, target: CpuTarget, as_object: bool) -> bytes:
    initialize()
    machine = target_machine(target)
    try:
        with llvm_calls.parsed(text) as module:
            llvm_calls.run_passes(module, machine, _options())
            return llvm_calls.emit(module, machine, as_object)
    except ValueError as error:
        raise CompileError(f"LLVM refuses the generated code: {error}") from error


@lru_cache(maxsize=1)
def _options() -> llvm.PipelineTuningOptions:
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    return options


class NativeCode:
    """Loaded object code; addresses stay valid until ``close``."""

    def __init__(self, session: llvm.LLJIT, library: str, tracker: llvm.ResourceTracker | None) -> None:
        self._session = session
        self._library = library
        self._trackers = [tracker] if tracker is not None else []
        self._addresses: dict[str, int] = {}

    def address(self, symbol: str) -> int:
        """Return the address of ``symbol``; raise CompileError if no object defines it."""
        if not self._trackers:
            raise CompileError(f"symbol {symbol}: this code has been closed")
        found = self._addresses.get(symbol)
        if found is None:
            try:
                tracker = self._session.lookup(self._library, symbol)
            except RuntimeError as error:
                raise CompileError(f"symbol {symbol} does not resolve: {error}") from error
            self._trackers.append(tracker)
            found = self._addresses[symbol] = tracker[symbol]
        return found

    def close(self) -> None:
        """Free the code; no function of it may be running."""
        self._addresses.clear()
        self._trackers.clear()


_sessions: list[llvm.LLJIT] = []


def _session() -> llvm.LLJIT:
    """One JIT session per process: each load makes a library of its own in it."""
    with _session_lock:
        if not _sessions:
            _sessions.append(llvm.create_lljit_compiler(target_machine(host_target(), 2), use_jit_link=True))
        return _sessions[0]


def load_objects(objects: Sequence[bytes], texts: Sequence[str] = ()) -> NativeCode:
    """Load relocatable objects (and LLVM IR ``texts``, compiled for the host) as one library.

    Symbols resolve among them and against the C library of the process. The same object may be loaded
    any number of times; each load is a library of its own.
    """
    session = _session()
    library = f"dlc{next(_numbers)}"
    builder = llvm.JITLibraryBuilder()
    for image in objects:
        builder.add_object_img(image)
    for text in texts:
        builder.add_object_img(compile_module(text, host_target()))
    builder.add_current_process()
    try:
        tracker = builder.link(session, library)
    except RuntimeError as error:
        raise CompileError(f"object code does not link: {error}") from error
    return NativeCode(session, library, tracker)
