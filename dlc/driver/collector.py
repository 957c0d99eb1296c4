"""Letting Python's garbage collector rest while a model is loaded or compiled.

Graphs, kernels and expressions are hundreds of thousands of small objects that reference counts free, since they hardly
ever form cycles. The collector walks all of them again whenever their number has grown by a quarter, and finds nothing.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Rest:
    """Whether the collector was on before the first of the blocks that are open now, on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._was_on = False

    def begin(self) -> None:
        with self._lock:
            if not self._open:
                self._was_on = gc.isenabled()
                gc.disable()
            self._open += 1

    def end(self) -> None:
        with self._lock:
            self._open = max(0, self._open - 1)
            if not self._open and self._was_on:
                gc.enable()

    def forget(self) -> None:
        """Begin anew in a forked child: threads that had blocks open, or held the lock, are not there."""
        self._lock = threading.Lock()
        if self._open and self._was_on:
            gc.enable()
        self._open = 0


_rest = _Rest()
os.register_at_fork(after_in_child=_rest.forget)


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Collect no cycles until the block ends; where blocks of several threads overlap, until the last of them ends.

    The collector is then as it was before the first of them, whatever the program said to it meanwhile.
    """
    _rest.begin()
    try:
        yield
    finally:
        _rest.end()
