"""An artifact: everything that a compilation made, as plain data, and its way to an executable.

The code cache stores artifacts; weights are not part of them, they are bound by
name when the executable is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dlc.codegen.llvm_jit import load_objects
from dlc.codegen.target import CpuTarget
from dlc.driver.native import native_runtime
from dlc.ir.graph import Graph
from dlc.ir.plan import Plan, SlotKind
from dlc.runtime.executable import Executable, Port


@dataclass(frozen=True)
class Artifact:
    """Plans of what runs once at load and of what runs each time, object code, and small literal arrays."""

    load_plan: Plan
    main_plan: Plan
    objects: tuple[bytes, ...]
    scratch_bytes: int
    literals: Mapping[str, np.ndarray]
    kernels: int
    flops: int

    @property
    def code_bytes(self) -> int:
        """Size of all object code."""
        return sum(map(len, self.objects))


def make_executable(
    artifact: Artifact,
    graph: Graph,
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    threads: int,
    state: Mapping[str, np.ndarray],
    compile_text: Callable[[str, CpuTarget], bytes],
) -> Executable:
    """Load the code, run the load plan on the graph's initial arrays, and bind the rest.

    ``state`` holds the arrays that runs update in place; they are used as they are, not copied.
    ``compile_text`` compiles the native runtime on first use.
    """
    native = native_runtime(compile_text)
    code = load_objects(artifact.objects)
    arrays: dict[str, np.ndarray] = dict(artifact.literals)
    arrays.update({s.name: s.initial for s in graph.signature.inputs if s.initial is not None})
    prepared: dict[str, np.ndarray] = {}
    if artifact.load_plan.steps:
        constants = {s.name: arrays[s.name] for s in artifact.load_plan.slots if s.kind is SlotKind.CONSTANT}
        loader = Executable(
            artifact.load_plan,
            code,
            native,
            constants=constants,
            threads=threads,
            scratch_bytes=artifact.scratch_bytes,
        )
        prepared = loader.run({})
        loader.close()
    slots = artifact.main_plan.slots
    main_constants = {s.name for s in slots if s.kind is SlotKind.CONSTANT}
    states = {s.name for s in slots if s.kind is SlotKind.STATE}
    return Executable(
        artifact.main_plan,
        code,
        native,
        constants={name: prepared[name] if name in prepared else arrays[name] for name in main_constants},
        state={name: state[name] for name in states},
        threads=threads,
        scratch_bytes=artifact.scratch_bytes,
        inputs=inputs,
        outputs=outputs,
    )
