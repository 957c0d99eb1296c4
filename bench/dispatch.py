"""Measures what running costs beside computing: a run, a step that all threads share, several runs at once.

    python -m bench.dispatch

Programs of steps that do next to nothing, at every number of threads up to the processors of the machine: the slope
over the number of steps is what one step costs (taking tasks, meeting at the barrier), the rest is what a run costs
(checks, outputs, the call, waking the pool). Then as many Python threads as there are processors run programs of real
work at once, in turns on the one pool of the process.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from functools import partial

import numpy as np

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.driver.compile import compile_graph
from dlc.driver.host import find_target, load_objects, native_runtime
from dlc.driver.native import KernelCompiler
from dlc.driver.store import compile_cached
from dlc.ir.builder import Builder
from dlc.ir.expr import Var, apply, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.plan import Argument, KernelStep, Plan, Slot, SlotKind
from dlc.ir.types import float32, tensor_type
from dlc.runtime.executable import Executable

LINE = 16  # floats of a cache line: no two tasks write to the same
STEPS = (1, 101)
RUNS = 20  # of every caller
CLAIMED = 1 << 27  # FLOPs of a step: enough that the run is given to all threads


def touching(tasks: int) -> Kernel:
    """Every task writes one number to a cache line of its own."""
    task = Var("task")
    store = Store("o", apply("mul", task, const(LINE)), const(1.0, float32))
    buffer = Buffer("o", float32, tasks * LINE, writable=True)
    return Kernel("touch", (buffer,), (), (For(task, const(tasks), LoopKind.PARALLEL, (store,)),))


def executable(steps: int, threads: int) -> Executable:
    """A program of ``steps`` steps of one task per thread."""
    with KernelCompiler(find_target(), 1, compile_cached) as compiler:
        symbol = compiler.symbol(touching(threads))
        code = load_objects(compiler.finish().objects)
    slot = Slot(SlotKind.OUTPUT, "o", threads * LINE * 4, tensor_type("float32", (threads * LINE,)))
    step = KernelStep(symbol, (Argument(0, 0),), threads, flops=CLAIMED, nbytes=1)
    return Executable(Plan((slot,), (step,) * steps, 0), code, native_runtime(), threads=threads)


def microseconds(run: partial, runs: int, rounds: int = 15) -> float:
    """The median over rounds of the mean time of a run."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(runs):
            run()
        times.append((time.perf_counter() - begin) / runs * 1e6)
    return statistics.median(times)


def report_steps(most: int) -> None:
    """Print the cost of a step and of a run for every number of threads."""
    print("threads   a step, us   a run, us")
    for threads in range(1, most + 1):
        few, many = (microseconds(partial(executable(n, threads).run, {}), 2000 // n + 20) for n in STEPS)
        step = (many - few) / (STEPS[1] - STEPS[0])
        print(f"{threads:7d}   {step:10.2f}   {few - STEPS[0] * step:9.2f}", flush=True)


def report_scaling(most: int) -> None:
    """Print the time of real work on 1 to all threads, and of several callers at once on all of them."""
    b = Builder("work")
    x, w = (b.input(name, tensor_type("float32", (768, 768))) for name in ("x", "w"))
    y = x
    for _ in range(4):
        y = b.tanh(b.matmul(y, w))
    b.output("y", y)
    graph = b.finish()
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(768, 768)).astype("f") / 28 for name in ("x", "w")}
    print("threads   ms   speed-up")
    alone = 0.0
    for threads in range(1, most + 1):
        work = compile_graph(graph, threads=threads)
        took = microseconds(partial(work.run, feeds), 5) / 1e3
        alone = alone or took
        print(f"{threads:7d}   {took:.2f}   {alone / took:.2f}", flush=True)
    print(f"callers   ms a run, each of its own executable, {most} threads each")
    for callers in range(1, most + 1):
        works = [compile_graph(graph, threads=most) for _ in range(callers)]
        begin = time.perf_counter()
        threads = [threading.Thread(target=lambda e=e: [e.run(feeds) for _ in range(RUNS)]) for e in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{callers:7d}   {(time.perf_counter() - begin) / (RUNS * callers) * 1e3:.2f}", flush=True)


def main() -> None:
    """Measure and print."""
    most = len(os.sched_getaffinity(0))
    report_steps(most)
    report_scaling(most)


if __name__ == "__main__":
    main()
