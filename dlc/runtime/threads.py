"""Thread pools of the process: one per size, shared by all executables.

A pool is native; here is its life: made when first needed, taken in turns, rebuilt
after a fork, drained at exit. The module is given the addresses of the native
functions and must not know who compiled them, nor what a program does.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from dlc import config
from dlc.errors import DlcError

_POLL_WORDS = 9  # of the closure that dlc_poll_python reads and fills
_EXCEPTION = 6  # its word that holds the type; then value and traceback

RUNTIME_SYMBOLS = (
    "dlc_pool_create",
    "dlc_pool_size",
    "dlc_pool_reserve",
    "dlc_pool_stop",
    "dlc_pool_destroy",
    "dlc_run",
    "dlc_poll_python",
)


@dataclass(frozen=True, eq=False)
class NativeRuntime:
    """The native functions of pool and dispatcher; ``owner`` keeps their code loaded."""

    create: Callable[[int, int], int | None]
    size: Callable[[int], int]
    reserve: Callable[[int, int], int]
    stop: Callable[[int], None]
    destroy: Callable[[int], None]
    dispatch: Callable[[int, int, bytes, int | None], int]
    poll: ctypes.Array
    owner: object

    @cached_property
    def pools(self) -> Pools:
        """The thread pools that run on these functions."""
        return Pools(self)

    @staticmethod
    def from_addresses(addresses: Mapping[str, int], owner: object) -> NativeRuntime:
        """Bind the addresses of RUNTIME_SYMBOLS; ``owner`` is kept alive as long as the functions are."""
        word, address, nothing = ctypes.c_int64, ctypes.c_void_p, None

        def bind(symbol: str, result: type | None, *arguments: type) -> Callable:
            return ctypes.CFUNCTYPE(result, *arguments)(addresses[symbol])

        python = [
            ctypes.pythonapi.PyGILState_Ensure,
            ctypes.pythonapi.PyGILState_Release,
            ctypes.pythonapi.PyErr_CheckSignals,
            ctypes.pythonapi.PyErr_Fetch,
            ctypes.pythonapi.PyErr_NormalizeException,
        ]
        closure = (ctypes.c_void_p * _POLL_WORDS)(
            addresses["dlc_poll_python"], *[ctypes.cast(function, ctypes.c_void_p).value for function in python]
        )
        return NativeRuntime(
            create=bind("dlc_pool_create", address, word, word),
            size=bind("dlc_pool_size", word, address),
            reserve=bind("dlc_pool_reserve", word, address, word),
            stop=bind("dlc_pool_stop", nothing, address),
            destroy=bind("dlc_pool_destroy", nothing, address),
            dispatch=bind("dlc_run", word, address, address, ctypes.c_char_p, address),
            poll=closure,
            owner=owner,
        )

    def take_exception(self) -> BaseException | None:
        """Return the exception that a signal handler raised during a run, and forget it."""
        owned = self.poll[_EXCEPTION : _EXCEPTION + 3]
        self.poll[_EXCEPTION : _EXCEPTION + 3] = [None, None, None]
        objects = [None if pointer is None else ctypes.cast(pointer, ctypes.py_object).value for pointer in owned]
        for pointer in owned:
            if pointer is not None:
                ctypes.pythonapi.Py_DecRef(ctypes.c_void_p(pointer))
        error, traceback = objects[1], objects[2]
        return error.with_traceback(traceback) if isinstance(error, BaseException) else None


class Turn:
    """A lock and its holder: free again in a forked child, where the holder does not exist.

    Take it by ``thread = turn.entering()`` and ``with turn.lock:``, and keep ``holder`` true within. The lock itself,
    and not this object, is the context manager, because a signal cannot come between taking and guarding it.
    """

    def __init__(self) -> None:
        self.forget()
        _turns.add(self)

    def forget(self) -> None:
        """Replace the lock by a free one."""
        self.lock = threading.Lock()
        self.holder = 0

    def entering(self) -> int:
        """Return the calling thread's number; DlcError if it holds the turn already, for it would wait for ever."""
        thread = threading.get_ident()
        if self.holder == thread:
            raise DlcError("an executable was run from a signal handler that interrupted another run; run it later")
        return thread


class Pool:
    """A native pool of ``size`` threads, the caller included; runs take turns."""

    def __init__(self, native: NativeRuntime, size: int):
        spin = config.spin_microseconds() if size <= config.available_cpus() else 0
        address = native.create(size, spin * 1000)
        if not address:
            raise DlcError(f"no memory for a pool of {size} threads; set DLC_NUM_THREADS to fewer")
        self.size = size
        self._native = native
        self._address = address
        self._scratch = 0
        self._turn = Turn()

    def run(self, program: int, bases: bytes, scratch: int) -> None:
        """Run the native program at address ``program`` with slot addresses ``bases``.

        ``scratch`` is the memory in bytes that each thread needs. Whatever a signal handler raises meanwhile in the
        main thread (KeyboardInterrupt) is raised here after all threads have left the program.
        """
        turn = self._turn
        thread = turn.entering()
        with turn.lock:
            try:
                turn.holder = thread
                if scratch > self._scratch:
                    self._reserve(scratch)
                poll = ctypes.addressof(self._native.poll) if thread == threading.main_thread().ident else None
                status = self._native.dispatch(self._address, program, bases, poll)
            finally:
                turn.holder = 0
        if status:
            raise self._native.take_exception() or DlcError("the run was stopped because the interpreter exits")

    def _reserve(self, scratch: int) -> None:
        if self._native.reserve(self._address, scratch):
            self._scratch = 0
            raise DlcError(f"no memory for {self.size} times {scratch} bytes of scratch memory; use fewer threads")
        self._scratch = scratch

    def close(self, patience: float) -> None:
        """Stop a run in progress, waiting up to ``patience`` seconds for it, then end the threads."""
        self._native.stop(self._address)
        if self._turn.lock.acquire(timeout=patience):  # else a daemon thread is still inside; the process ends it
            self._native.destroy(self._address)


class Pools:
    """The pools of one native runtime by size, and single-thread pools for runs that need no other thread."""

    def __init__(self, native: NativeRuntime):
        self._native = weakref.proxy(native)
        self.forget()
        _live.add(self)

    def forget(self) -> None:
        """Drop every pool without touching it: after a fork its threads do not exist."""
        self._shared: dict[int, Pool] = {}
        self._single: list[Pool] = []
        self._making = threading.Lock()

    def run(self, threads: int, program: int, bases: bytes, scratch: int) -> None:
        """Run a program on ``threads`` threads; with one thread, callers run side by side, else in turns."""
        if threads > 1:
            self.shared(threads).run(program, bases, scratch)
            return
        try:
            pool = self._single.pop()
        except IndexError:
            pool = Pool(self._native, 1)
        single = self._single
        try:
            pool.run(program, bases, scratch)
        finally:
            single.append(pool)

    def shared(self, threads: int) -> Pool:
        """Return the process's pool of ``threads`` threads."""
        pool = self._shared.get(threads)
        if pool is None:
            with self._making:
                pool = self._shared.get(threads)
                if pool is None:
                    pool = self._shared[threads] = Pool(self._native, threads)
        return pool

    def drain(self, patience: float) -> None:
        """End every pool's threads."""
        pools = [*self._shared.values(), *self._single]
        self.forget()
        for pool in pools:
            pool.close(patience)


_live: weakref.WeakSet[Pools] = weakref.WeakSet()
_turns: weakref.WeakSet[Turn] = weakref.WeakSet()


def _after_fork() -> None:
    for pools in list(_live):
        pools.forget()
    for turn in list(_turns):
        turn.forget()


def _at_exit() -> None:
    for pools in list(_live):
        pools.drain(patience=1.0)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
