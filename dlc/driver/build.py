"""Building an artifact: passes, lowering, memory planning and code generation.

Loaded on a cache miss only (``driver.compile``), so that a warm start does not
pay for reading the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from dlc.codegen.copy import copy_kernel
from dlc.codegen.lower.node import lower
from dlc.codegen.target import CpuTarget
from dlc.driver.artifact import Artifact
from dlc.driver.assemble import Assembled, assemble
from dlc.driver.batches import machine_of
from dlc.driver.host import find_target
from dlc.driver.native import KernelCompiler, assembly_of, describe
from dlc.driver.options import CompileOptions
from dlc.driver.report import CompileReport
from dlc.driver.short_runs import takes_less
from dlc.driver.sinking import sinking_pays
from dlc.driver.store import compile_cached
from dlc.ir.graph import Graph, Node
from dlc.ir.kernel import Kernel
from dlc.ir.lowering import Lowered
from dlc.ir.opdef import Mode
from dlc.ir.placement import Placement
from dlc.ir.plan import KernelStep, LoopBegin, LoopEnd, Plan, SlotKind
from dlc.ir.types import DType
from dlc.passes.batch.split import split_batch
from dlc.passes.bind import bind
from dlc.passes.fold import FoldOptions, fold
from dlc.passes.fusion.fuse import fuse
from dlc.passes.hoist import Split, lift_constants, split
from dlc.passes.manager import Instruments, Pass, run_pipeline
from dlc.passes.memory.plan import plan_memory
from dlc.passes.pipeline import INFERENCE, TRAINING
from dlc.passes.precision.lower import LowerPrecisionOptions, lower_precision
from dlc.passes.sink_products import SinkOptions, sink_products

FUSION = (Pass("fuse", fuse),)


def pipeline(options: CompileOptions) -> list[Pass]:
    """Return the passes of the mode, with the options that the caller chose."""
    target = find_target(options.features)
    parts = {"bfloat16": 1, "bf16x3": 2}.get(options.precision, 0)
    # Vector units multiply pairs of bfloat16 numbers at most twice as fast: three products pay on tiles only, and with
    # weights that are known before not even there, since float32's fixed point is faster.
    fixed_point = target.has("amx-int8") and options.mode is Mode.INFERENCE
    stored = target.has("avx512bf16") and (parts == 1 or (target.has("amx-bf16") and not fixed_point))
    chosen = {
        fold: FoldOptions(max_bytes=options.fold_limit),
        lower_precision: LowerPrecisionOptions(parts, stored),
        sink_products: SinkOptions(sinking_pays(target, options.threads)),
    }
    passes = INFERENCE if options.mode is Mode.INFERENCE else TRAINING
    return [replace(p, options=chosen.get(p.function, p.options)) for p in passes]


def prepare(graph: Graph, options: CompileOptions) -> Split:
    """Run the passes before fusion; return what runs once at load, if anything, and what runs each time."""
    graph, _ = run_pipeline(graph, pipeline(options), Instruments(verify=options.verify, dump=options.dump))
    halves = split(lift_constants(graph), options.mode)
    if options.mode is not Mode.INFERENCE:
        return halves
    target = find_target(options.features)
    return replace(halves, main=split_batch(halves.main, machine_of(target, options.threads)))


def fused(halves: Split, options: CompileOptions) -> tuple[Graph | None, Graph]:
    """Fuse the graph of what runs once at load, if any, and the graph of what runs each time."""
    quiet = Instruments(verify=options.verify)
    load = run_pipeline(halves.init, FUSION, quiet)[0] if halves.init is not None else None
    dump = options.dump / "fused" if options.dump is not None else None
    main, _ = run_pipeline(halves.main, FUSION, replace(quiet, dump=dump))
    return load, main


def fit_memory(halves: Split, options: CompileOptions, target: CpuTarget, report: CompileReport) -> Split:
    """Let the graph of every run compute again what would not fit into the limit, if there is one."""
    if options.memory_limit is None:
        return halves
    quiet = replace(options, dump=None)

    def arena_bytes(main: Graph, tight: bool) -> int:
        assembled = assemble_graphs(*fused(replace(halves, main=main), quiet), target, options.threads)
        return plan_memory(assembled.main, lambda kernel: kernel.name, tight).arena_bytes

    with report.phase("rematerialise"):
        found = import_module("dlc.driver.memory_limit").fit(halves.main, options.memory_limit, arena_bytes)
    report.full_arena_bytes, report.repeated = found.full_bytes, found.repeated
    return replace(halves, main=found.graph)


def assemble_graphs(
    load: Graph | None, main: Graph, target: CpuTarget, threads: int, take: Callable[[Kernel], object] = id
) -> Assembled:
    """Lower every node and assemble the programs; ``take`` is given every kernel as soon as it is made."""
    copies: dict[tuple[DType, int], Kernel] = {}

    def lowered(node: Node, fixed: frozenset[int], alone: bool, placement: Placement) -> Lowered:
        made = lower(node, target, threads, fixed, alone, placement)
        for call in made.calls:
            take(call.kernel)
        return made

    def copy(dtype: DType, size: int) -> Kernel:
        if (dtype, size) not in copies:
            copies[dtype, size] = copy_kernel(dtype, size, target)
        return copies[dtype, size]

    return assemble(load, main, lowered, copy)


def build_artifact(
    graph: Graph, binding: Mapping[str, int], options: CompileOptions, target: CpuTarget, report: CompileReport
) -> Artifact:
    """Bind symbols, run the passes, lower, plan memory and generate code."""
    with report.phase("passes"):
        graph = bind(graph, binding) if binding else graph  # without: symbols of inner loops may stay
        halves = prepare(graph, options)
    halves = fit_memory(halves, options, target, report)
    with report.phase("fuse"):
        load_graph, main_graph = fused(halves, options)
    threads = _threads(main_graph, options)
    with KernelCompiler(target, min(options.threads, 8), compile_cached) as compiler:
        with report.phase("lower"):
            assembled = assemble_graphs(load_graph, main_graph, target, threads, compiler.symbol)
        with report.phase("plan"):
            load_plan = plan_memory(assembled.load, compiler.symbol)
            main_plan = plan_memory(assembled.main, compiler.symbol, tight=options.memory_limit is not None)
        with report.phase("code"):
            compiled = compiler.finish()
    kernels = list(compiler.kernels.values())
    if options.dump is not None:
        _dump(options.dump, load_plan, main_plan, kernels, compiled.modules, target)
    initial = {s.name for s in graph.signature.inputs}
    return Artifact(
        load_plan,
        main_plan,
        compiled.objects,
        compiled.scratch_bytes,
        {name: array for name, array in assembled.arrays.items() if name not in initial},
        len(kernels),
        plan_flops(main_plan),
        report.full_arena_bytes,
        report.repeated,
    )


def _threads(main: Graph, options: CompileOptions) -> int:
    """Return for how many threads the kernels of a run are cut."""
    return 1 if takes_less(main, options.short_run) else options.threads


def plan_flops(plan: Plan) -> int:
    """Floating-point operations of one run, loops counted in full."""
    total, factors = 0, [1]
    for step in plan.steps:
        match step:
            case LoopBegin(count=count):
                factors.append(factors[-1] * count)
            case LoopEnd():
                factors.pop()
            case KernelStep(flops=flops):
                total += flops * factors[-1]
    return total


def _dump(
    folder: Path, load_plan: Plan, main_plan: Plan, kernels: Sequence[Kernel], modules: Sequence[str], target: CpuTarget
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan-load.txt").write_text(str(load_plan), encoding="utf-8")
    (folder / "plan.txt").write_text(str(main_plan), encoding="utf-8")
    (folder / "kernels.py").write_text(describe(kernels), encoding="utf-8")
    for number, text in enumerate(modules):
        (folder / f"module-{number}.ll").write_text(text, encoding="utf-8")
    (folder / "assembly.s").write_text(assembly_of(modules, target), encoding="utf-8")


def predict_memory(graph: Graph, threads: int | None = None) -> CompileReport:
    """Plan a bound inference graph without generating code; the report holds sizes, FLOPs and the arena's peak."""
    options = CompileOptions.make(Mode.INFERENCE, "cpu", "float32", threads)
    target = find_target(options.features)
    report = CompileReport()
    with report.phase("plan"):
        load, main = fused(prepare(graph, options), options)
        assembled = assemble_graphs(load, main, target, _threads(main, options))
        plan = plan_memory(assembled.main, lambda kernel: kernel.name)
    report.arena_bytes, report.peak, report.flops = plan.arena_bytes, plan.peak, plan_flops(plan)
    report.constant_bytes = sum(s.nbytes for s in plan.slots if s.kind is SlotKind.CONSTANT)
    report.steps = sum(isinstance(s, KernelStep) for s in plan.steps)
    return report
