"""What the machine can do at most: arithmetic and reading from memory, on all used cores together.

    python -m bench.floor --threads 2

Run in a process of its own by ``bench.run``; prints JSON. The floor of a model is the larger of its FLOPs over the
peak and its bytes over the bandwidth of reading a working set of that size.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlc.codegen.llvm_jit import compile_module, load_objects
from dlc.codegen.llvm_target import host_target

SIZES = (16 << 20, 128 << 20, 512 << 20)  # bytes read, by all threads together
PEAK_STEPS = 1 << 19
SECONDS = 0.5

# Both are called as void f(i64 steps, ptr data): `chains` independent accumulators in registers, of `lanes` floats.
PEAK = """
define void @peak(i64 %steps, ptr %data) {{
entry:
  %x = load {v}, ptr %data, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  {phis}
  {steps}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %done
done:
  {sums}
  store {v} %s{last}, ptr %data, align 4
  ret void
}}
declare {v} @llvm.fma.{m}({v}, {v}, {v})
"""
READ = """
define void @read(i64 %steps, ptr %data) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  {phis}
  {steps}
  %next = add i64 %i, {stride}
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %loop, label %done
done:
  {sums}
  store {v} %s{last}, ptr %data, align 4
  ret void
}}
"""


def floor_ms(flops: float, size: float, machine: Mapping[str, Any]) -> float:
    """Return the least milliseconds for ``flops`` operations and ``size`` bytes."""
    fitting = [b for s, b in machine["bandwidth"].items() if int(s) >= size]
    bandwidth = max(fitting) if fitting else machine["bandwidth"][max(machine["bandwidth"], key=int)]
    return 1e3 * max(flops / machine["peak_flops"], size / bandwidth)


def probe_text(template: str, lanes: int, chains: int) -> str:
    """Return the LLVM text of a probe."""
    v, m = f"<{lanes} x float>", f"v{lanes}f32"
    numbers = range(chains)
    phis = [f"%a{c} = phi {v} [ zeroinitializer, %entry ], [ %b{c}, %loop ]" for c in numbers]
    if template is PEAK:
        steps = [f"%b{c} = call {v} @llvm.fma.{m}({v} %a{c}, {v} %x, {v} %x)" for c in numbers]
    else:
        steps = []
        for c in numbers:
            steps += [
                f"%o{c} = add i64 %i, {c * lanes}",
                f"%p{c} = getelementptr float, ptr %data, i64 %o{c}",
                f"%l{c} = load {v}, ptr %p{c}, align 4",
                f"%b{c} = fadd {v} %a{c}, %l{c}",
            ]
    sums = [f"%s{c} = fadd {v} {'%b0' if c == 1 else f'%s{c - 1}'}, %b{c}" for c in numbers if c]
    parts = {"phis": phis, "steps": steps, "sums": sums}
    joined = {key: "\n  ".join(lines) for key, lines in parts.items()}
    return template.format(v=v, m=m, last=chains - 1, stride=chains * lanes, **joined)


class Team:
    """Threads that call a native probe together, each on its own data."""

    def __init__(self, address: int, parts: Sequence[tuple[int, np.ndarray]]) -> None:
        self.function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(address)
        self.barrier = threading.Barrier(len(parts) + 1)
        self.going = True
        self.threads = [threading.Thread(target=self._serve, args=part) for part in parts]
        for thread in self.threads:
            thread.start()

    def _serve(self, steps: int, data: np.ndarray) -> None:
        while True:
            self.barrier.wait()
            if not self.going:
                return
            self.function(steps, data.ctypes.data)  # without the interpreter's lock
            self.barrier.wait()

    def best_seconds(self) -> float:
        """Return the least seconds of a call of all threads, after one uncounted; then end the threads."""
        times: list[float] = []
        deadline = time.perf_counter() + SECONDS
        while len(times) < 4 or time.perf_counter() < deadline:
            begin = time.perf_counter()
            self.barrier.wait()
            self.barrier.wait()
            times.append(time.perf_counter() - begin)
        self.going = False
        self.barrier.wait()
        for thread in self.threads:
            thread.join()
        return min(times[1:])


def measure(threads: int) -> dict[str, Any]:
    """Return the peak of float32 fused multiply-adds and the bandwidth of reading, by bytes of the working set."""
    target = host_target()
    lanes, chains = target.lanes(4), 24 if target.vector_registers >= 32 else 12
    texts = [probe_text(PEAK, lanes, chains), probe_text(READ, lanes, 8)]
    code = load_objects([compile_module(text, target) for text in texts])
    bandwidth = {}
    for size in SIZES:
        count = size // 4 // threads // (8 * lanes) * (8 * lanes)
        parts = [(count, np.ones(count, np.float32)) for _ in range(threads)]
        bandwidth[str(size)] = threads * count * 4 / Team(code.address("read"), parts).best_seconds()
    parts = [(PEAK_STEPS, np.full(64, 0.5, np.float32)) for _ in range(threads)]
    seconds = Team(code.address("peak"), parts).best_seconds()
    return {
        "threads": threads,
        "peak_flops": 2 * lanes * chains * PEAK_STEPS * threads / seconds,
        "bandwidth": bandwidth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    print(json.dumps(measure(parser.parse_args().threads)))


if __name__ == "__main__":
    main()
