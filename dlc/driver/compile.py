"""The driver: graph to executable. The only place where passes, code generation and runtime meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from dlc import config
from dlc.codegen.target import CpuTarget
from dlc.driver.artifact import Artifact, Shared, make_executable
from dlc.driver.collector import collector_at_rest
from dlc.driver.host import find_target, runtime_beside
from dlc.driver.options import CompileOptions, binding_from_shapes, graph_symbols
from dlc.driver.report import CompileReport
from dlc.driver.store import artifact_key, load_artifact, store_artifact
from dlc.errors import CompileError
from dlc.ir.graph import Graph, Role
from dlc.ir.interface import interface_of
from dlc.ir.mode import Mode
from dlc.ir.plan import KernelStep
from dlc.ir.types import bind_type
from dlc.runtime.buffers import aligned
from dlc.runtime.executable import Executable, Port
from dlc.runtime.file_arrays import fetch
from dlc.runtime.resident import release_memory
from dlc.runtime.specialise import SpecialisingExecutable


def ports(graph: Graph, binding: Mapping[str, int] | None = None) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return what a caller feeds and what a run returns, with the symbols of ``binding`` bound."""
    interface, values = interface_of(graph), binding or {}
    fed = tuple(Port(s.name, bind_type(t, values)) for s, t in interface.inputs_with(Role.DATA, Role.TARGET))
    returned = tuple(Port(name, bind_type(t, values)) for name, t in interface.results)
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
) -> Executable | SpecialisingExecutable:
    """Compile ``graph``. With symbols left unbound by ``shapes``, code is made per concrete shape when first run.

    Raises CompileError naming the node that cannot be compiled, InputError for shapes that do not fit.
    """
    options = CompileOptions.make(mode, device, precision, threads, dump)
    binding = binding_from_shapes(graph, shapes or {})
    missing = [name for name in graph_symbols(graph) if name not in binding]
    shared = Shared(initial_state(graph))
    if not missing:
        return compile_bound(graph, options, shared, binding)

    def compile_for(values: Mapping[str, int]) -> Executable:
        return compile_bound(graph, options, shared, {**binding, **values})

    return SpecialisingExecutable(*ports(graph), compile_for)


def initial_state(graph: Graph) -> dict[str, np.ndarray]:
    """Return copies of the initial arrays of all inputs that a run replaces; executables share and update them."""
    interface = interface_of(graph)
    replaced = [spec.name for spec, _ in interface.inputs if spec.replaced_by is not None]
    missing = [name for name in replaced if name not in interface.initial]
    if missing:
        raise CompileError(f"graph {graph.name!r} updates {', '.join(missing)} but gives no initial values for them")
    arrays = fetch(interface.initial, replaced)
    return {name: aligned(np.array(arrays[name], order="C", copy=True)) for name in replaced}


@collector_at_rest()
def compile_bound(
    graph: Graph, options: CompileOptions, shared: Shared, binding: Mapping[str, int] | None = None
) -> Executable:
    """Compile a graph whose symbols ``binding`` fixes; the executable's ``report`` says what was done.

    ``shared`` holds the state that runs update in place, and collects what executables of the graph can share.
    """
    report = CompileReport()
    target = find_target(options.features)
    artifact = find_artifact(graph, binding or {}, options, target, report)
    with report.phase("load"):
        initial = interface_of(graph).initial
        executable = make_executable(artifact, initial, *ports(graph, binding), options.threads, shared)
    if report.cache != "hit":  # the compiler was loaded, and worked
        with report.phase("release"):
            release_memory(import_module("dlc.codegen.llvm.calls").LIBRARY)
    memory = executable.memory
    report.kernels, report.flops, report.code_bytes = artifact.kernels, artifact.flops, artifact.code_bytes
    report.steps = sum(isinstance(s, KernelStep) for s in artifact.main_plan.steps)
    report.arena_bytes, report.peak = artifact.main_plan.arena_bytes, artifact.main_plan.peak
    report.full_arena_bytes, report.repeated = artifact.full_arena_bytes, artifact.repeated
    report.constant_bytes, report.state_bytes = memory.constants, memory.state
    executable.report = report
    return executable


def _build(
    graph: Graph, binding: Mapping[str, int], options: CompileOptions, target: CpuTarget, report: CompileReport
) -> Artifact:
    """Build the artifact by modules that a warm start does without; LLVM begins with what does not wait for them."""
    with runtime_beside():
        artifact: Artifact = import_module("dlc.driver.build").build_artifact(graph, binding, options, target, report)
    return artifact


def find_artifact(
    graph: Graph, binding: Mapping[str, int], options: CompileOptions, target: CpuTarget, report: CompileReport
) -> Artifact:
    """Take the artifact from the code cache, or build it and keep it there. A dump always builds."""
    if not config.cache_enabled():
        return _build(graph, binding, options, target, report)
    with report.phase("cache"):
        key = artifact_key(graph, options, target, binding)
        artifact = load_artifact(key) if options.dump is None else None
    report.cache = "hit" if artifact is not None else "miss"
    if artifact is None:
        artifact = _build(graph, binding, options, target, report)
        with report.phase("store"):
            store_artifact(key, artifact)
    return artifact
