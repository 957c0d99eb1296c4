"""Speed of contractions, shape by shape, against NumPy (its BLAS), PyTorch and onnxruntime.

    python bench/contractions.py [--threads 2] [--group square,resnet50,...] [--peers torch,onnxruntime,numpy]

Contenders of one shape run in alternation; the best of short rounds is kept (--median: the middle one). The
measured peak of the processor's fused multiply-adds runs in the same alternation, so that a change of clock
hits all alike. DLC_CPU_FEATURES restricts the instruction set.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

_THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ["OPENBLAS_NUM_THREADS"] = _THREADS  # read once, when NumPy is imported

import numpy as np  # noqa: E402
from contraction_cases import GROUPS, Case  # noqa: E402
from contraction_peers import peers  # noqa: E402

from dlc.codegen.llvm.emit import emit_module  # noqa: E402
from dlc.codegen.llvm.jit import compile_module, load_objects  # noqa: E402
from dlc.codegen.llvm.target import host_target  # noqa: E402
from dlc.codegen.lower.contraction import lower_contraction  # noqa: E402
from dlc.driver.host import native_runtime  # noqa: E402
from dlc.ir.contraction import group_shape, infer_extents, parse_spec  # noqa: E402
from dlc.ir.epilogue import Epilogue, no_epilogue  # noqa: E402
from dlc.ir.expr import Load, Read, Var, apply, const  # noqa: E402
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, Kernel, LoopKind, Space, Store  # noqa: E402
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind  # noqa: E402
from dlc.ir.plan import Argument, KernelStep, LoopBegin, LoopEnd, Plan  # noqa: E402
from dlc.ir.types import float32, tensor_type  # noqa: E402
from dlc.runtime.program import build_program  # noqa: E402

TARGET = host_target(os.environ.get("DLC_CPU_FEATURES", ""))


def aligned(shape: Sequence[int], fill=None) -> np.ndarray:
    """Return a float32 array on a cache line."""
    size = int(np.prod(shape, dtype=np.int64))
    raw = np.zeros(size + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    array = raw[start : start + size].reshape(shape)
    if fill is not None:
        array[...] = fill
    return array


class Runner:
    """Kernel calls on fixed arrays, run ``count`` times by the native dispatcher in one call."""

    def __init__(self, lowered: Lowered, arrays, out, threads: int, hoist: frozenset[int] = frozenset()) -> None:
        began = time.perf_counter()
        self.module = emit_module(tuple({call.kernel: None for call in lowered.calls}), TARGET)
        self.code = load_objects([compile_module(self.module.text, TARGET)])
        self.compile_seconds = time.perf_counter() - began
        self.temporaries = [aligned(tuple(int(d) for d in t.shape)) for t in lowered.temporaries]
        self.scratch = max(self.module.scratch_bytes.values())
        self.threads = threads
        self.pool = native_runtime().pools.shared(threads)
        places = {OperandKind.INPUT: list(arrays), OperandKind.OUTPUT: [out], OperandKind.TEMPORARY: self.temporaries}
        self.slots: list[np.ndarray] = []
        once: list[KernelStep] = []
        self.each: list[KernelStep] = []
        for call in lowered.calls:
            operands = [places[o.kind][o.index] for o in call.operands]
            arguments = tuple(Argument(self._slot(array), 0) for array in operands)
            step = KernelStep(self.module.symbols[call.kernel.name], arguments, call.kernel.tasks, flops=call.flops)
            sources = call.operands[:-1]
            ahead = len(sources) == 1 and sources[0].kind is OperandKind.INPUT and sources[0].index in hoist
            (once if ahead else self.each).append(step)
        self.bases = np.array([a.ctypes.data for a in self.slots], np.int64).tobytes()
        if once:
            self._program(once, 1)()
        self.programs: dict[int, Callable[[], None]] = {}

    def _slot(self, array: np.ndarray) -> int:
        for number, known in enumerate(self.slots):
            if known is array:
                return number
        self.slots.append(array)
        return len(self.slots) - 1

    def _program(self, steps: list[KernelStep], count: int) -> Callable[[], None]:
        table = tuple(steps) if count == 1 else (LoopBegin(count), *steps, LoopEnd())
        program = build_program(Plan((), table, 0), self.code.address, threads=self.threads, scratch_bytes=self.scratch)
        return lambda: self.pool.run(program.address, self.bases, self.scratch)

    def run(self, count: int) -> None:
        if count not in self.programs:
            self.programs[count] = self._program(self.each, count)
        self.programs[count]()


def peak_runner(threads: int) -> tuple[Runner, int]:
    """Independent chains of fused multiply-adds in registers; returns the runner and its operations."""
    lanes, chains, steps = TARGET.lanes(4), 24 if TARGET.vector_registers >= 32 else 12, 4096
    size, tasks = lanes * chains, 8 * threads
    lane = Var("lane")

    def each(body) -> list[For]:
        slots = [apply("add", const(chain * lanes), lane) for chain in range(chains)]
        return [For(lane, const(lanes), LoopKind.VECTOR, (body(slot, k),)) for k, slot in enumerate(slots)]

    x = Load("x", lane, float32)
    product = each(lambda slot, _: Accumulate("acc", slot, "fma", apply("mul", x, x)))
    start = apply("mul", Var("t"), const(size))
    body = (
        Alloc(Buffer("acc", float32, size, Space.LOCAL)),
        *each(lambda slot, k: Store("acc", slot, const(float(k), float32))),
        For(Var("k"), const(steps), LoopKind.SERIAL, tuple(product)),
        *each(lambda slot, _: Store("out", apply("add", start, slot), Load("acc", slot, float32))),
    )
    buffers = (Buffer("x", float32, lanes), Buffer("out", float32, size * tasks, writable=True))
    kernel = Kernel("peak", buffers, (), (For(Var("t"), const(tasks), LoopKind.PARALLEL, body),))
    call = KernelCall(kernel, (Operand(OperandKind.INPUT, 0), Operand(OperandKind.OUTPUT, 0)))
    runner = Runner(Lowered((call,)), [aligned((lanes,), 0.5)], aligned((size * tasks,)), threads)
    return runner, 2 * size * steps * tasks


def epilogue_of(case: Case, spec, shape: Sequence[int]) -> Epilogue:
    """Bias, and ReLU after convolutions."""
    if not case.bias:
        return no_epilogue(float32)
    body = apply("add", Var("acc", float32), Read(0, (Var(spec.output_axes[-1]),), float32))
    if case.conv:
        body = apply("maximum", body, const(0.0, float32))
    return Epilogue(body, float32, (tensor_type(float32, (shape[-1],)),))


def ours(case: Case, threads: int):
    """Return the runner, operands, epilogue inputs, output and operations of one case, run once."""
    rng = np.random.default_rng(1)
    spec = parse_spec(case.spec)
    extents = infer_extents(spec, case.lhs, case.rhs, case.sizes)
    arrays = [aligned(s, rng.standard_normal(s, np.float32)) for s in (case.lhs, case.rhs)]
    shape = group_shape(spec.output, extents)
    epilogue = epilogue_of(case, spec, shape)
    extra = [aligned(t.shape, rng.standard_normal(t.shape, np.float32)) for t in epilogue.inputs]
    types = [tensor_type(float32, a.shape) for a in arrays]
    began = time.perf_counter()
    lowered = lower_contraction(spec, extents, *types, epilogue, TARGET, threads, case.weights)
    lower_seconds = time.perf_counter() - began
    out = aligned(shape)
    runner = Runner(lowered, [*arrays, *extra], out, threads, case.weights)
    runner.compile_seconds += lower_seconds
    runner.run(1)
    return runner, arrays, extra, out, lowered.calls[-1].flops


def repeat(function: Callable[[], object]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            function()

    return run


def measure(contenders, rounds: int, seconds: float, choose=min, clock=time.perf_counter) -> dict[str, float]:
    """Return seconds per iteration by ``clock``, contenders alternating."""
    counts = {}
    for name, run in contenders.items():
        run(1)
        began = clock()
        run(1)
        counts[name] = max(1, min(2000, int(seconds / max(clock() - began, 1e-7))))
        run(counts[name])
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            began = clock()
            run(counts[name])
            times[name].append((clock() - began) / counts[name])
    return {name: choose(values) for name, values in times.items()}


def measure_group(group: str, options, peak: tuple[Runner, int], clock) -> list[dict]:
    """Measure and print the cases of one group."""
    rows: list[dict] = []
    sums: dict[str, float] = {}
    print(f"-- {group}, threads {options.threads}: GFLOP/s, percent of measured peak, GB/s; peers as GFLOP/s")
    for case in GROUPS[group]():
        if options.match not in case.name:
            continue
        runner, arrays, extra, out, flops = ours(case, options.threads)
        contenders = {"peak": peak[0].run, "dlc": runner.run}
        others = peers(case, arrays, extra, options.threads, options.peers.split(","))
        contenders |= {name: repeat(function) for name, function in others.items()}
        choose = statistics.median if options.median else min
        took = measure(contenders, options.rounds, options.seconds, choose, clock)
        top, own = peak[1] / took["peak"], took["dlc"]
        nbytes = sum(a.nbytes for a in [*arrays, *extra, out])
        line = (
            f"{case.name:28s} {flops / own / 1e9:7.1f} {100 * flops / own / top:5.1f}% {nbytes / own / 1e9:6.1f} GB/s"
        )
        line += f" {own * 1e6:9.1f} us"
        for name in others:
            line += f"  {name} {flops / took[name] / 1e9:7.1f} (x{took[name] / own:.2f})"
        print(line, f"  compile {runner.compile_seconds * 1e3:.0f} ms", flush=True)
        for name, value in [*took.items(), ("ideal", flops / top)]:
            sums[name] = sums.get(name, 0.0) + value * case.count
        rows.append(
            {"group": group, "case": case.name, "threads": options.threads, "flops": flops, "peak": top, **took}
        )
    if rows:
        parts = [f"{n} {1e3 * sums[n]:.2f} ms" for n in sums if n not in ("peak", "ideal")]
        print(f"   sum by count: {', '.join(parts)}; weighted {100 * sums['ideal'] / sums['dlc']:.1f}% of peak")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--group", default=",".join(GROUPS))
    parser.add_argument("--peers", default="")
    parser.add_argument("--match", default="")
    parser.add_argument("--median", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.004)
    parser.add_argument("--json")
    options = parser.parse_args()
    # One thread is timed by its own processor time, so that what else the machine does disturbs little.
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    peak = peak_runner(options.threads)
    rows = [row for group in options.group.split(",") for row in measure_group(group, options, peak, clock)]
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
