"""LLVM's functions for threads that compile beside one that runs Python.

llvmlite calls LLVM one call at a time in the whole process, and without the interpreter's lock. LLVM itself allows
threads to work in different contexts; and a thread that gives the interpreter's lock away for a call of a microsecond
waits for it as long as the interpreter's switch interval, five milliseconds, whenever another thread runs Python. So
long calls are made without either lock, and short ones without llvmlite's only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding  # noqa: F401  declares the types of the functions
from llvmlite.binding import ffi

LIBRARY: str = ffi.lib._name
"""Path of the library that LLVM is in."""


def _functions_of(library: ctypes.CDLL) -> Callable[[str], Any]:
    """Return what finds functions by name in ``library``, with the types that llvmlite declares."""

    def find(name: str) -> Any:
        locked = getattr(ffi.lib, f"LLVMPY_{name}")
        function = getattr(library, f"LLVMPY_{name}")
        function.argtypes, function.restype = locked.argtypes, locked.restype
        return function

    return find


_long, _short = _functions_of(ctypes.CDLL(LIBRARY)), _functions_of(ctypes.PyDLL(LIBRARY))
_parse, _verify = _long("ParseAssembly"), _long("VerifyModule")
_run_passes, _emit = _long("RunNewFunctionPassManager"), _long("TargetMachineEmitToMemory")
_new_context, _drop_context = _short("ContextCreate"), _short("ContextDispose")
_drop_module, _drop_text = _short("DisposeModule"), _short("DisposeString")
_new_builder, _drop_builder = _short("CreatePassBuilder"), _short("DisposePassBuilder")
_new_passes, _drop_passes = _short("buildFunctionSimplificationPipeline"), _short("DisposeNewFunctionPassManger")
_begin_functions, _end_functions = _short("ModuleFunctionsIter"), _short("DisposeFunctionsIter")
_next_function, _is_declaration = _short("FunctionsIterNext"), _short("IsDeclaration")
_buffer_start, _buffer_size = _short("GetBufferStart"), _short("GetBufferSize")
_drop_buffer = _short("DisposeMemoryBuffer")


class _Problem:
    """What LLVM says is wrong, if anything."""

    def __init__(self) -> None:
        self._text = ctypes.c_char_p()
        self.place = ctypes.byref(self._text)

    def take(self) -> str:
        """Return the text, which is dropped."""
        text = (self._text.value or b"").decode(errors="replace")
        if self._text:
            _drop_text(self._text)
            self._text.value = None
        return text


@contextmanager
def parsed(text: str) -> Iterator[Any]:
    """Read LLVM IR ``text`` into a module in a context of its own; ValueError says what is wrong with it."""
    context, problem = _new_context(), _Problem()
    module = None
    try:
        module = _parse(context, text.encode(), problem.place)
        refusal = problem.take()
        if module and not refusal and _verify(module, problem.place):
            refusal = problem.take() or "the module is not valid"
        problem.take()
        if refusal or not module:
            raise ValueError(refusal or "the text cannot be read")
        yield module
    finally:
        if module:
            _drop_module(module)
        _drop_context(context)


def run_passes(module: Any, machine: Any, options: Any) -> None:
    """Simplify every function that ``module`` defines, as the ``options`` for pipelines say."""
    builder = _new_builder(machine, options)
    try:
        passes = _new_passes(builder, options.speed_level)
        try:
            for function in _defined_functions(module):
                _run_passes(passes, function, builder)
        finally:
            _drop_passes(passes)
    finally:
        _drop_builder(builder)


def _defined_functions(module: Any) -> Iterator[Any]:
    functions = _begin_functions(module)
    try:
        while function := _next_function(functions):
            if not _is_declaration(function):
                yield function
    finally:
        _end_functions(functions)


def emit(module: Any, machine: Any, as_object: bool) -> bytes:
    """Return the object code, or else the assembly, of ``module``; ValueError says why there is none."""
    problem = _Problem()
    buffer = _emit(machine, module, int(as_object), problem.place)
    refusal = problem.take()
    if not buffer:
        raise ValueError(refusal)
    try:
        return ctypes.string_at(_buffer_start(buffer), _buffer_size(buffer))
    finally:
        _drop_buffer(buffer)
