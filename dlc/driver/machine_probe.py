"""Measures the roofline of this machine: native probes on as many threads as a run uses, the best of a few calls.

It must not know what is compared with it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module

import numpy as np

from dlc import config
from dlc.codegen.llvm.probe import PEAK, READ, peak_flops, probe_text, read_stride
from dlc.driver.host import find_target, load_objects, processor_name
from dlc.runtime.roofline import Roofline

SIZES = tuple(1 << power for power in range(14, 28))  # bytes, all threads together: from caches to memory
SECONDS = 0.03  # that a probe is called again and again
_PEAK_SECONDS = 0.2  # at least: a processor takes a while to reach its clock
_PEAK_ITERATIONS = 1 << 19
_READ_BYTES = 64 << 20  # that a thread reads in one call, so that meeting at barriers takes a small part of it
_LEAST_CALLS = 4

_Part = tuple[int, int, np.ndarray]  # count, iterations and data of one thread's calls


def _best_seconds(address: int, parts: Sequence[_Part], seconds: float) -> float:
    """Return the least seconds of a call by all threads at once, one for each part, after one uncounted."""
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    barrier = threading.Barrier(len(parts) + 1)
    going = True

    def serve(count: int, iterations: int, data: np.ndarray) -> None:
        while True:
            barrier.wait()
            if not going:
                return
            function(count, iterations, data.ctypes.data)  # without the interpreter's lock
            barrier.wait()

    threads = [threading.Thread(target=serve, args=part, daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < _LEAST_CALLS or time.perf_counter() < deadline:
        begin = time.perf_counter()
        barrier.wait()
        barrier.wait()
        times.append(time.perf_counter() - begin)
    going = False
    barrier.wait()
    for thread in threads:
        thread.join()
    return min(times[1:])


def measure_roofline(threads: int, sizes: Sequence[int] = SIZES, seconds: float = SECONDS) -> Roofline:
    """Measure the peak of float32 multiply-adds and, ``seconds`` long each, the bandwidth of reading ``sizes`` bytes.

    Features that ``cpu_features`` leaves out are not used: the roofline is that of the code that is made.
    """
    target = find_target(config.cpu_features())
    code = load_objects([import_module("dlc.codegen.llvm.jit").compile_module(probe_text(target), target)])
    stride = read_stride(target)
    parts = [(1, _PEAK_ITERATIONS, np.full(64, 0.5, np.float32)) for _ in range(threads)]
    spent = _best_seconds(code.address(PEAK), parts, max(seconds, _PEAK_SECONDS))
    peak = peak_flops(target) * _PEAK_ITERATIONS * threads / spent
    counts = [max(size // 4 // threads // stride, 1) * stride for size in sorted(sizes)]
    arrays = [np.ones(counts[-1], np.float32) for _ in range(threads)]
    bandwidth = []
    for size, count in zip(sorted(sizes), counts, strict=True):
        iterations = max(_READ_BYTES // (4 * count), 1) * (count // stride)
        parts = [(count, iterations, array) for array in arrays]
        spent = _best_seconds(code.address(READ), parts, seconds)
        bandwidth.append((size, 4.0 * stride * iterations * threads / spent))
    return Roofline(processor_name(), threads, peak, tuple(bandwidth))


def roofline(threads: int) -> Roofline:
    """Return the roofline of ``threads`` threads; measured once per process, in less than a second."""
    return _measured(threads, config.cpu_features())


@lru_cache
def _measured(threads: int, features: str) -> Roofline:
    return measure_roofline(threads)
