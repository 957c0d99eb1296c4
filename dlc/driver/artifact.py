"""An artifact: everything that a compilation made, as plain data, and its way to an executable.

The code cache stores artifacts; weights are not part of them, they are bound by
name when the executable is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dlc.driver.host import load_objects, native_runtime
from dlc.ir.plan import KernelStep, Plan, SlotKind
from dlc.runtime.executable import Executable, NativeCode, Port
from dlc.runtime.file_arrays import fetch
from dlc.runtime.threads import NativeRuntime


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
    full_arena_bytes: int | None = None
    repeated: float = 0.0

    @property
    def code_bytes(self) -> int:
        """Size of all object code."""
        return sum(map(len, self.objects))


@dataclass
class Shared:
    """What the executables of one graph have in common: arrays that runs update in place, and prepared constants.

    ``state`` is used as it is, not copied; ``prepared`` maps a digest of how an array was computed to the array.
    """

    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    prepared: dict[str, np.ndarray] = field(default_factory=dict)


def make_executable(
    artifact: Artifact,
    initial: Mapping[str, np.ndarray],
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    threads: int,
    shared: Shared,
) -> Executable:
    """Load the code, run the load plan on the graph's ``initial`` arrays, and bind the rest."""
    native = native_runtime()
    code = load_objects(artifact.objects)
    slots = artifact.main_plan.slots
    main_constants = {s.name for s in slots if s.kind is SlotKind.CONSTANT}
    states = {s.name for s in slots if s.kind is SlotKind.STATE}
    recipes = load_recipes(artifact.load_plan)
    to_prepare = not all(digest in shared.prepared for digest in recipes.values())
    needed = {s.name for s in artifact.load_plan.slots if s.kind is SlotKind.CONSTANT} if to_prepare else set()
    given = artifact.literals.keys() | recipes.keys()
    arrays = {**artifact.literals, **fetch(initial, sorted(main_constants - given))}
    arrays |= fetch(initial, sorted(needed - given - main_constants), together=True)  # gone when all is prepared
    if to_prepare:
        _prepare(artifact, code, native, arrays, threads, shared, recipes)
    prepared = {name: shared.prepared[digest] for name, digest in recipes.items()}
    return Executable(
        artifact.main_plan,
        code,
        native,
        constants={name: prepared[name] if name in prepared else arrays[name] for name in main_constants},
        state={name: shared.state[name] for name in states},
        threads=threads,
        scratch_bytes=artifact.scratch_bytes,
        inputs=inputs,
        outputs=outputs,
    )


def _prepare(
    artifact: Artifact,
    code: NativeCode,
    native: NativeRuntime,
    arrays: Mapping[str, np.ndarray],
    threads: int,
    shared: Shared,
    recipes: Mapping[str, str],
) -> None:
    """Run the load plan; what another executable of the graph has prepared stays as it is."""
    plan = artifact.load_plan
    constants = {s.name: arrays[s.name] for s in plan.slots if s.kind is SlotKind.CONSTANT}
    with Executable(
        plan, code, native, constants=constants, threads=threads, scratch_bytes=artifact.scratch_bytes
    ) as loader:
        for name, array in loader.run({}).items():
            shared.prepared.setdefault(recipes[name], array)


def load_recipes(plan: Plan) -> dict[str, str]:
    """Return, per output of a load plan, a digest of how it is computed: equal digests mean equal arrays.

    Every step marks all the memory that it touches, read or written, which may tell equal arrays apart but never
    takes different ones for equal.
    """
    marks: dict[tuple[int, int], str] = {}
    history = ""
    for step in plan.steps:
        if not isinstance(step, KernelStep):
            history += str(step)
            continue
        places = [(a.slot, a.offset) for a in step.arguments]
        kinds = [plan.slots[slot].kind for slot, _ in places]
        named = [
            f"{plan.slots[slot].name}+{offset}" if kind is SlotKind.CONSTANT else marks.get((slot, offset), "")
            for (slot, offset), kind in zip(places, kinds, strict=True)
        ]
        text = "|".join([step.symbol, history, *named, *(str(a.strides) for a in step.arguments)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        for number, (place, kind) in enumerate(zip(places, kinds, strict=True)):
            if kind is not SlotKind.CONSTANT:
                marks[place] = f"{digest}:{number}"
    outputs = {number: slot for number, slot in enumerate(plan.slots) if slot.kind is SlotKind.OUTPUT}
    return {s.name: f"{marks.get((number, 0), f'unwritten {s.name}')} {s.type}" for number, s in outputs.items()}
