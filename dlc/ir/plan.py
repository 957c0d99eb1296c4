"""Plan: what an executable does, as a plain table.

Slots are memory regions whose base addresses are known at run time; every
operand is a slot and an offset. Steps call compiled kernels, or open and close
counted loops. The native dispatcher runs the table; it makes no decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dlc.ir.types import TensorType


class SlotKind(StrEnum):
    """Where a slot's memory comes from."""

    ARENA = "arena"  # scratch for intermediate values, private to a run
    INPUT = "input"  # an array fed by the caller
    OUTPUT = "output"  # an array made for the caller
    CONSTANT = "constant"  # weights and tables, read only, kept for the executable's life
    STATE = "state"  # parameters, optimizer state, random keys: updated in place


@dataclass(frozen=True)
class Slot:
    """One region: ``name`` of the input, output, constant or state; ``type`` None for the arena."""

    kind: SlotKind
    name: str
    nbytes: int
    type: TensorType | None = None


@dataclass(frozen=True)
class Argument:
    """An operand: base of ``slot`` plus ``offset`` bytes plus, per enclosing loop, iteration times stride (bytes)."""

    slot: int
    offset: int
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class KernelStep:
    """Call ``symbol`` with ``arguments`` for tasks 0 .. ``tasks`` - 1."""

    symbol: str
    arguments: tuple[Argument, ...]
    tasks: int
    label: str = ""  # names of the origin nodes, for profiles and errors
    flops: int = 0
    nbytes: int = 0  # bytes read and written, each operand once
    commits: bool = False  # writes state that outlives the run


@dataclass(frozen=True)
class LoopBegin:
    """Run the steps up to the matching LoopEnd ``count`` times.

    With ``chains`` all steps have the same number of tasks, and task k of a step needs of what the loop writes only
    what tasks k wrote: whoever runs tasks k of all iterations waits for no one.
    """

    count: int
    chains: bool = False


@dataclass(frozen=True)
class LoopEnd:
    """End of the innermost open loop."""


Step = KernelStep | LoopBegin | LoopEnd


@dataclass(frozen=True)
class Plan:
    """Slots and steps; ``arena_bytes`` is the size of the one arena slot, ``peak`` names what is live at its top."""

    slots: tuple[Slot, ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    peak: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"slot {i}: {s.kind} {s.name} {s.type or ''} {s.nbytes} bytes" for i, s in enumerate(self.slots)]
        depth = 0
        for step in self.steps:
            if isinstance(step, LoopEnd):
                depth -= 1
            pad = "  " * depth
            match step:
                case KernelStep(symbol=symbol, arguments=arguments, tasks=tasks, label=label):
                    operands = ", ".join(
                        f"{a.slot}+{a.offset}" + "".join(f"+i{k}*{s}" for k, s in enumerate(a.strides) if s)
                        for a in arguments
                    )
                    lines.append(f"{pad}{symbol}({operands}) tasks={tasks}  # {label}")
                case LoopBegin(count=count, chains=chains):
                    lines.append(f"{pad}loop {count}" + (" in chains" if chains else ""))
                    depth += 1
                case LoopEnd():
                    lines.append(f"{pad}end")
        return "\n".join(lines)
