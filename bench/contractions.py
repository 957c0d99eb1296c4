"""Speed of contractions, shape by shape, against NumPy (its BLAS), PyTorch and onnxruntime.

    python bench/contractions.py [--threads 2] [--group matmul,resnet50,...] [--peers torch,onnxruntime,numpy]

Contenders of one shape run in alternation; the best of short rounds is kept (--median: the middle one). The measured peak of the processor's
fused multiply-adds runs in the same alternation, so that a change of clock hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ["OPENBLAS_NUM_THREADS"] = _THREADS  # read once, when NumPy is imported

import numpy as np  # noqa: E402

from dlc.codegen.contract_schedule import lower_contraction
from dlc.codegen.llvm_emit import emit_module
from dlc.codegen.llvm_jit import compile_module, load_objects
from dlc.codegen.llvm_target import host_target
from dlc.driver.native import native_runtime
from dlc.ir.contraction import group_shape, infer_extents, parse_spec
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.expr import Read, Var, apply, const
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, Kernel, LoopKind, Space, Store
from dlc.ir.lowering import Lowered, OperandKind
from dlc.ir.plan import Argument, KernelStep, LoopBegin, LoopEnd, Plan
from dlc.ir.types import float32, tensor_type
from dlc.runtime.program import build_program

TARGET = host_target(os.environ.get("DLC_CPU_FEATURES", ""))


def aligned(shape, fill=None):
    size = int(np.prod(shape, dtype=np.int64))
    raw = np.zeros(size + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    array = raw[start : start + size].reshape(shape)
    if fill is not None:
        array[...] = fill
    return array


class Runner:
    """Kernel calls on fixed arrays, run ``count`` times by the native dispatcher in one call."""

    def __init__(self, lowered: Lowered, arrays, out, threads: int, hoist: frozenset[int] = frozenset()):
        kernels = tuple({call.kernel: None for call in lowered.calls})
        began = time.perf_counter()
        module = emit_module(kernels, TARGET)
        self.emit_seconds = time.perf_counter() - began
        self.code = load_objects([compile_module(module.text, TARGET)])
        self.compile_seconds = time.perf_counter() - began
        self.module = module
        self.temporaries = [aligned(tuple(int(d) for d in t.shape)) for t in lowered.temporaries]
        self.out = out
        self.scratch = max(module.scratch_bytes.values())
        places = {OperandKind.INPUT: list(arrays), OperandKind.OUTPUT: [out], OperandKind.TEMPORARY: self.temporaries}
        slots: list[np.ndarray] = []

        def slot(array) -> int:
            for number, known in enumerate(slots):
                if known is array:
                    return number
            slots.append(array)
            return len(slots) - 1

        def step(call) -> KernelStep:
            arguments = tuple(Argument(slot(places[o.kind][o.index]), 0) for o in call.operands)
            return KernelStep(module.symbols[call.kernel.name], arguments, call.kernel.tasks, flops=call.flops)

        constant = {(OperandKind.INPUT, number) for number in hoist}
        once, each = [], []
        for call in lowered.calls:
            sources = [(o.kind, o.index) for o in call.operands[:-1]]
            hoisted = len(call.operands) == 2 and all(source in constant for source in sources)
            (once if hoisted else each).append(step(call))
        self.slots, self.each, self.threads = slots, each, threads
        self.pool = native_runtime().pools.shared(threads)
        self.bases = np.array([a.ctypes.data for a in slots], np.int64).tobytes()
        if once:
            self._program(once, 1)()
        self.programs: dict[int, Callable[[], None]] = {}

    def _program(self, steps, count: int) -> Callable[[], None]:
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
    size = lanes * chains

    def each(body):
        return [For(Var("lane"), const(lanes), LoopKind.VECTOR, (body(c),)) for c in range(chains)]

    def at(c):
        return apply("add", const(c * lanes), Var("lane"))

    from dlc.ir.expr import Load

    x = Load("x", Var("lane"), float32)
    inner = For(
        Var("k"),
        const(steps),
        LoopKind.SERIAL,
        tuple(each(lambda c: Accumulate("acc", at(c), "fma", apply("mul", x, x)))),
    )
    body = [
        Alloc(Buffer("acc", float32, size, Space.LOCAL)),
        *each(lambda c: Store("acc", at(c), const(float(c), float32))),
        inner,
        *each(lambda c: Store("out", apply("add", apply("mul", Var("t"), const(size)), at(c)), Load("acc", at(c), float32))),
    ]
    tasks = 8 * threads
    kernel = Kernel(
        "peak",
        (Buffer("x", float32, lanes), Buffer("out", float32, size * tasks, writable=True)),
        (),
        (For(Var("t"), const(tasks), LoopKind.PARALLEL, tuple(body)),),
    )
    from dlc.ir.lowering import KernelCall, Operand

    call = KernelCall(kernel, (Operand(OperandKind.INPUT, 0), Operand(OperandKind.OUTPUT, 0)))
    flops = 2 * size * steps * tasks
    return Runner(Lowered((call,)), [aligned((lanes,), 0.5)], aligned((size * tasks,)), threads), flops


@dataclass(frozen=True)
class Case:
    """One contraction: ``weights`` are the operands packed ahead, ``count`` its occurrences in the model."""

    name: str
    spec: str
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    weights: frozenset[int] = frozenset({1})
    sizes: dict = field(default_factory=dict)
    conv: tuple[int, int, int] | None = None  # stride, kernel, groups
    relu: bool = False
    count: int = 1
    bias: bool = False


def matmul(name, m, k, n, **kw):
    return Case(name, "m k, k n -> m n", (m, k), (k, n), **kw)


def conv(name, hw, c, k, size, stride=1, count=1, groups=1, batch=1):
    pad = size // 2
    padded = hw + 2 * pad
    # The last rows of a strided layer may not be read: crop them as a padding pass would.
    out = (padded - size) // stride + 1
    need = (out - 1) * stride + size
    h = f"h*{stride}+r" if stride > 1 else "h+r"
    w = f"w*{stride}+s" if stride > 1 else "w+s"
    if size == 1 and stride == 1:
        return Case(name, "n h w c, c k -> n h w k", (batch, hw, hw, c), (c, k), conv=(1, 1, 1), relu=True, count=count, bias=True)
    if groups == c:
        return Case(name, f"n {h} {w} g, r s g -> n h w g", (batch, need, need, c), (size, size, c), conv=(stride, size, c), relu=True, count=count, bias=True)
    return Case(
        name, f"n {h} {w} c, r s c k -> n h w k", (batch, need, need, c), (size, size, c, k), conv=(stride, size, 1), relu=True, count=count, bias=True
    )


def resnet50() -> list[Case]:
    cases = [conv("conv1 7x7/2", 224, 3, 64, 7, 2)]
    size, channels = 56, 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        out = width * 4
        stride = 1 if stage == 1 else 2
        before = size
        size //= stride
        cases.append(conv(f"s{stage} 1x1 {channels}->{width} @{before}", before, channels, width, 1))
        cases.append(conv(f"s{stage} 3x3/{stride} {width} @{before}", before, width, width, 3, stride))
        cases.append(conv(f"s{stage} 1x1 {width}->{out} @{size}", size, width, out, 1, count=blocks))
        cases.append(conv(f"s{stage} 1x1/{stride} {channels}->{out}", before, channels, out, 1, stride))
        cases.append(conv(f"s{stage} 1x1 {out}->{width} @{size}", size, out, width, 1, count=blocks - 1))
        cases.append(conv(f"s{stage} 3x3 {width} @{size}", size, width, width, 3, count=blocks - 1))
        channels = out
    cases.append(matmul("fc 2048->1000", 1, 2048, 1000, bias=True))
    return cases


def bert() -> list[Case]:
    w = frozenset({1})
    return [
        matmul("qkv 128x768x768", 128, 768, 768, weights=w, count=48, bias=True),
        matmul("ffn 128x768x3072", 128, 768, 3072, weights=w, count=12, bias=True),
        matmul("ffn 128x3072x768", 128, 3072, 768, weights=w, count=12, bias=True),
        Case("scores 12x128x64x128", "s h d, t h d -> h s t", (128, 12, 64), (128, 12, 64), frozenset(), count=12),
        Case("context 12x128x128x64", "h s t, t h d -> s h d", (12, 128, 128), (128, 12, 64), frozenset(), count=12),
    ]


def squares() -> list[Case]:
    found = [matmul(f"sgemm {n}", n, n, n, weights=frozenset()) for n in (64, 128, 256, 512, 1024, 2048)]
    found += [matmul(f"sgemm {n} packed", n, n, n) for n in (256, 512, 1024, 2048)]
    found += [matmul("sgemm 1000x999x1001", 1000, 999, 1001, weights=frozenset())]
    return found


def vectors() -> list[Case]:
    return [
        matmul("gemv 768x3072", 1, 768, 3072),
        matmul("gemv 768x50257", 1, 768, 50257),
        matmul("gemv 4096x4096", 1, 4096, 4096),
        matmul("m=4 768x3072", 4, 768, 3072),
        matmul("m=7 768x3072", 7, 768, 3072),
        matmul("m=16 768x3072", 16, 768, 3072),
        Case("matrix-vector 4096x4096", "m k, k -> m", (4096, 4096), (4096,), frozenset()),
        Case("gemv direct 768x3072", "k, k n -> n", (768,), (768, 3072), frozenset()),
    ]


def depthwise() -> list[Case]:
    shapes = [(112, 32, 1), (112, 96, 2), (56, 144, 1), (56, 144, 2), (28, 192, 1), (28, 192, 2), (14, 384, 1), (14, 576, 1), (14, 576, 2), (7, 960, 1)]
    counts = [1, 1, 1, 1, 2, 1, 4, 2, 1, 3]
    return [conv(f"dw 3x3/{s} {c} @{hw}", hw, c, c, 3, s, groups=c, count=n) for (hw, c, s), n in zip(shapes, counts)]


def gradients() -> list[Case]:
    none = frozenset()
    def wgrad(name, n, hw, c, k, size=3):
        p = hw + size - 1
        return Case(name, "n h+r w+s c, n h w k -> r s c k", (n, p, p, c), (n, hw, hw, k), none)
    return [
        wgrad("dW 3x3 64 @56 n8", 8, 56, 64, 64),
        wgrad("dW 3x3 128 @28 n8", 8, 28, 128, 128),
        wgrad("dW 3x3 512 @7 n8", 8, 7, 512, 512),
        wgrad("dW 1x1 256->64 @56 n8", 8, 56, 256, 64, 1),
        wgrad("dW 3x3 3->32 @32 n32", 32, 32, 3, 32),
        Case("dW fc 64x784x512", "b k, b n -> k n", (64, 784), (64, 512), none),
        Case("dX fc 64x512x784", "b n, k n -> b k", (64, 512), (784, 512), none),
        Case("dW fc 1024x768x3072", "b k, b n -> k n", (1024, 768), (1024, 3072), none),
        Case("dX fc 1024x3072x768", "b n, k n -> b k", (1024, 3072), (768, 3072), none),
        Case("fwd fc 1024x768x3072", "b k, k n -> b n", (1024, 768), (768, 3072), none),
    ]


GROUPS = {"square": squares, "resnet50": resnet50, "bert": bert, "vector": vectors, "depthwise": depthwise, "gradient": gradients}


def epilogue_of(case: Case, spec, shape) -> Epilogue:
    if not (case.bias or case.relu):
        return no_epilogue(float32)
    names = [Var(a) for a in spec.output_axes]
    body = apply("add", Var("acc", float32), Read(0, (names[-1],), float32))
    if case.relu:
        body = apply("maximum", body, const(0.0, float32))
    return Epilogue(body, float32, (tensor_type(float32, (shape[-1],)),))


def ours(case: Case, threads: int):
    """Return the runner, its arrays, output and compile times."""
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
    runner.lower_seconds = lower_seconds
    runner.run(1)
    flops = lowered.calls[-1].flops
    return runner, arrays, extra, out, flops


def peers(case: Case, arrays, extra, threads: int, wanted) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    lhs, rhs = arrays
    spec = parse_spec(case.spec)
    if "numpy" in wanted and case.conv is None:
        if case.spec == "m k, k n -> m n":
            found["numpy"] = lambda: np.matmul(lhs, rhs)
    if "torch" in wanted:
        import torch

        torch.set_num_threads(threads)
        a, b = torch.from_numpy(lhs), torch.from_numpy(rhs)
        bias = torch.from_numpy(extra[0]) if extra else None
        if case.conv is not None and len(case.rhs) == 4:
            stride = case.conv[0]
            x = a.permute(0, 3, 1, 2)
            w = b.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
            found["torch"] = lambda: torch.relu_(torch.nn.functional.conv2d(x, w, bias, stride))
        elif case.conv is not None and case.conv[2] > 1:
            stride, _, groups = case.conv
            x = a.permute(0, 3, 1, 2)
            w = b.permute(2, 0, 1).unsqueeze(1).contiguous(memory_format=torch.channels_last)
            found["torch"] = lambda: torch.relu_(torch.nn.functional.conv2d(x, w, bias, stride, groups=groups))
        elif case.conv is not None:
            x = a.permute(0, 3, 1, 2)
            w = b.t().reshape(*b.t().shape, 1, 1).contiguous(memory_format=torch.channels_last)
            found["torch"] = lambda: torch.relu_(torch.nn.functional.conv2d(x, w, bias))
        elif case.spec == "m k, k n -> m n":
            found["torch"] = (lambda: torch.addmm(bias, a, b)) if extra else (lambda: a @ b)
        elif case.spec == "b k, b n -> k n":
            found["torch"] = lambda: a.t() @ b
        elif case.spec == "b n, k n -> b k":
            found["torch"] = lambda: a @ b.t()
        elif case.spec == "b k, k n -> b n":
            found["torch"] = lambda: a @ b
        elif case.name.startswith("scores"):
            p, q = a.permute(1, 0, 2), b.permute(1, 2, 0)
            found["torch"] = lambda: torch.matmul(p, q)
        elif case.name.startswith("context"):
            q = b.permute(1, 0, 2)
            found["torch"] = lambda: torch.matmul(a, q)
        elif case.spec == "m k, k -> m":
            found["torch"] = lambda: torch.mv(a, b)
        elif case.spec == "k, k n -> n":
            found["torch"] = lambda: a @ b
        elif case.name.startswith("dW"):
            x = a.permute(0, 3, 1, 2)
            dy = b.permute(0, 3, 1, 2)
            size = (dy.shape[1], x.shape[1], case.lhs[1] - case.rhs[1] + 1, case.lhs[1] - case.rhs[1] + 1)
            w = torch.zeros(size).contiguous(memory_format=torch.channels_last)
            found["torch"] = lambda: torch.ops.aten.convolution_backward(
                dy, x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
            )
    if "onnxruntime" in wanted:
        session = _session(case, rhs, extra, threads)
        if session is not None:
            feed = {"x": np.ascontiguousarray(lhs.transpose(0, 3, 1, 2)) if case.conv else lhs}
            run, binding = session, None
            import onnxruntime as ort

            binding = run.io_binding()
            for name, array in feed.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
            binding.bind_output("y")
            found["onnxruntime"] = lambda: run.run_with_iobinding(binding)
    del spec
    return found


def _session(case: Case, rhs, extra, threads: int):

    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    if case.conv is None and case.spec != "m k, k n -> m n":
        return None
    if not case.weights:
        return None
    nodes, inits = [], []
    if case.conv is not None:
        stride, _, groups = case.conv
        w = rhs.transpose(3, 2, 0, 1) if rhs.ndim == 4 else rhs.T[:, :, None, None] if groups == 1 else rhs.transpose(2, 0, 1)[:, None]
        inits = [numpy_helper.from_array(np.ascontiguousarray(w), "w"), numpy_helper.from_array(extra[0], "b")]
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[stride, stride], group=groups),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
        shape = (case.lhs[0], case.lhs[3], case.lhs[1], case.lhs[2])
    else:
        inits = [numpy_helper.from_array(rhs, "w")]
        shape = case.lhs
        if extra:
            inits.append(numpy_helper.from_array(extra[0], "b"))
            nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
        else:
            nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        inits,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(contenders, rounds: int, seconds: float, choose, clock=time.perf_counter) -> dict[str, float]:
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


def repeat(function: Callable[[], object]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            function()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--median", action="store_true")
    parser.add_argument("--group", default=",".join(GROUPS))
    parser.add_argument("--peers", default="")
    parser.add_argument("--match", default="")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = []
    # One thread is timed by its own processor time, so that what else the machine does disturbs little.
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    for threads in (options.threads,):
        peak, peak_flops = peak_runner(threads)
        for group in options.group.split(","):
            sums: dict[str, float] = {}
            total = 0.0
            print(f"-- {group}, threads {threads}: GFLOP/s, percent of measured peak, GB/s; peers as GFLOP/s")
            for case in GROUPS[group]():
                if options.match not in case.name:
                    continue
                runner, arrays, extra, out, flops = ours(case, threads)
                contenders = {"peak": peak.run, "dlc": runner.run}
                others = peers(case, arrays, extra, threads, options.peers.split(","))
                contenders |= {name: repeat(function) for name, function in others.items()}
                took = measure(contenders, options.rounds, options.seconds, statistics.median if options.median else min, clock)
                top = peak_flops / took["peak"]
                nbytes = sum(a.nbytes for a in [*arrays, *extra, out])
                line = f"{case.name:28s} {flops / took['dlc'] / 1e9:7.1f} {100 * flops / took['dlc'] / top:5.1f}%"
                line += f" {nbytes / took['dlc'] / 1e9:6.1f} GB/s {took['dlc'] * 1e6:9.1f} us"
                for name in others:
                    line += f"  {name} {flops / took[name] / 1e9:7.1f} (x{took[name] / took['dlc']:.2f})"
                line += f"   lower {runner.lower_seconds * 1e3:.0f} compile {runner.compile_seconds * 1e3:.0f} ms"
                print(line, flush=True)
                for name, value in took.items():
                    sums[name] = sums.get(name, 0.0) + value * case.count
                sums["ideal"] = sums.get("ideal", 0.0) + case.count * flops / top
                total += case.count * flops
                rows.append({"group": group, "case": case.name, "threads": threads, "flops": flops, "peak": top, **took})
            if sums:
                parts = [f"{n} {1e3 * sums[n]:.2f} ms" for n in sums if n not in ("peak", "ideal")]
                print(f"   sum by count: {', '.join(parts)}; weighted {100 * sums['ideal'] / sums['dlc']:.1f}% of peak")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
