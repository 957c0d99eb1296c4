"""The driver: graph to executable. The only place where passes, code generation and runtime meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dlc.codegen.copy import copy_kernel
from dlc.codegen.llvm_target import host_target
from dlc.codegen.lower import lower
from dlc.codegen.target import CpuTarget
from dlc.driver.artifact import Artifact, make_executable
from dlc.driver.assemble import Assembled, assemble
from dlc.driver.native import KernelSet, assembly_of, compile_kernels, describe
from dlc.driver.options import CompileOptions, binding_from_shapes, graph_symbols
from dlc.driver.report import CompileReport
from dlc.ir.graph import Graph, Node, Role, Signature
from dlc.ir.lowering import Lowered
from dlc.ir.opdef import Mode
from dlc.ir.plan import KernelStep, LoopBegin, LoopEnd, Plan
from dlc.ir.types import DType
from dlc.passes.bind import bind
from dlc.passes.fuse import fuse
from dlc.passes.hoist import split
from dlc.passes.manager import Instruments, Pass, run_pipeline
from dlc.passes.memory import plan_memory
from dlc.passes.pipeline import pipeline
from dlc.runtime.executable import Executable, Port
from dlc.runtime.specialise import Specialised


def inference_form(graph: Graph) -> Graph:
    """Drop the updates of state: only the results stay outputs, and nothing is replaced."""
    results = set(graph.signature.results)
    if len(results) == len(graph.outputs):
        return graph
    kept = [(v, n) for v, n in zip(graph.outputs, graph.signature.outputs, strict=True) if n in results]
    specs = tuple(replace(s, replaced_by=None) for s in graph.signature.inputs)
    return replace(graph, outputs=tuple(v for v, _ in kept), signature=Signature(specs, tuple(n for _, n in kept)))


def ports(graph: Graph) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return what a caller feeds and what a run returns."""
    fed = tuple(Port(s.name, v.type) for v, s in graph.inputs_with(Role.DATA, Role.TARGET))
    returned = tuple(Port(name, graph.output(name).type) for name in graph.signature.results)
    return fed, returned


def compile_graph(
    graph: Graph,
    *,
    mode: Mode = Mode.INFERENCE,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dump: str | Path | None = None,
) -> Executable | Specialised:
    """Compile ``graph``. With symbols left unbound by ``shapes``, code is made per concrete shape when first run.

    Raises CompileError naming the node that cannot be compiled, InputError for shapes that do not fit.
    """
    options = CompileOptions.make(mode, device, precision, threads, dump)
    if mode is Mode.INFERENCE:
        graph = inference_form(graph)
    binding = binding_from_shapes(graph, shapes or {})
    missing = [name for name in graph_symbols(graph) if name not in binding]
    if not missing:
        return compile_bound(bind(graph, binding) if binding else graph, options)
    fed, returned = ports(graph)
    return Specialised(fed, returned, lambda values: compile_bound(bind(graph, {**binding, **values}), options))


def compile_bound(graph: Graph, options: CompileOptions) -> Executable:
    """Compile a graph without symbols; the executable's ``report`` says what was done."""
    report = CompileReport()
    target = host_target(options.features)
    artifact = build_artifact(graph, options, target, report)
    with report.phase("load"):
        executable = make_executable(artifact, graph, *ports(graph), options.threads)
    memory = executable.memory
    report.kernels, report.flops, report.code_bytes = artifact.kernels, artifact.flops, artifact.code_bytes
    report.steps = sum(isinstance(s, KernelStep) for s in artifact.main_plan.steps)
    report.arena_bytes, report.peak = artifact.main_plan.arena_bytes, artifact.main_plan.peak
    report.constant_bytes, report.state_bytes = memory.constants, memory.state
    executable.report = report
    return executable


def optimise(graph: Graph, options: CompileOptions) -> tuple[Graph, Graph]:
    """Run the passes; return the graph of what runs once at load, and the graph of what runs each time."""
    instruments = Instruments(verify=options.verify, dump=options.dump)
    graph, _ = run_pipeline(graph, pipeline(options.mode, options.fold_limit), instruments)
    load, main = split(graph)
    inner = replace(instruments, dump=None)
    if load.nodes:
        load, _ = run_pipeline(load, [Pass("fuse", fuse)], inner)
    if options.dump is not None:
        inner = replace(inner, dump=options.dump / "fused")
    main, _ = run_pipeline(main, [Pass("fuse", fuse)], inner)
    return load, main


def assemble_graphs(load: Graph, main: Graph, target: CpuTarget, threads: int) -> Assembled:
    """Lower every node and assemble the programs."""
    copies: dict[tuple[DType, int], object] = {}

    def lowered(node: Node) -> Lowered:
        return lower(node, target, threads)

    def copy(dtype: DType, size: int):
        if (dtype, size) not in copies:
            copies[dtype, size] = copy_kernel(dtype, size, target)
        return copies[dtype, size]

    return assemble(load if load.nodes else None, main, lowered, copy)


def build_artifact(graph: Graph, options: CompileOptions, target: CpuTarget, report: CompileReport) -> Artifact:
    """Passes, lowering, memory planning and code generation."""
    with report.phase("passes"):
        load_graph, main_graph = optimise(graph, options)
    with report.phase("lower"):
        assembled = assemble_graphs(load_graph, main_graph, target, options.threads)
    with report.phase("plan"):
        kernels = KernelSet()
        load_plan = plan_memory(assembled.load, kernels.symbol)
        main_plan = plan_memory(assembled.main, kernels.symbol)
    with report.phase("code"):
        compiled = compile_kernels(kernels.kernels, target, min(options.threads, 8))
    if options.dump is not None:
        _dump(options.dump, load_plan, main_plan, kernels, compiled.modules, target)
    initial = {s.name for s in graph.signature.inputs}
    return Artifact(
        load_plan,
        main_plan,
        compiled.objects,
        compiled.scratch_bytes,
        {name: array for name, array in assembled.arrays.items() if name not in initial},
        len(kernels.kernels),
        plan_flops(main_plan),
    )


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
    folder: Path, load_plan: Plan, main_plan: Plan, kernels: KernelSet, modules: Sequence[str], target: CpuTarget
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan-load.txt").write_text(str(load_plan), encoding="utf-8")
    (folder / "plan.txt").write_text(str(main_plan), encoding="utf-8")
    (folder / "kernels.py").write_text(describe(kernels.kernels), encoding="utf-8")
    for number, text in enumerate(modules):
        (folder / f"module-{number}.ll").write_text(text, encoding="utf-8")
    (folder / "assembly.s").write_text(assembly_of(modules, target), encoding="utf-8")
