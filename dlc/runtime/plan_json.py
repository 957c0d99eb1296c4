"""Plans as JSON text and back, exactly.

Owns the stored form of a plan. It must not know where the text is kept.
"""

from __future__ import annotations

import json
from typing import Any

from dlc.errors import DlcError
from dlc.ir.dims import Dim, parse_dim
from dlc.ir.plan import Argument, KernelStep, LoopBegin, LoopEnd, Plan, Slot, SlotKind, Step
from dlc.ir.types import TensorType, as_dtype

FORMAT = 2


def plan_to_json(plan: Plan) -> str:
    """Return ``plan`` as JSON; symbols and labels that repeat are written once."""
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    steps: list[list[Any]] = []
    for step in plan.steps:
        match step:
            case KernelStep():
                arguments = [[a.slot, a.offset, *a.strides] for a in step.arguments]
                names = number(step.symbol), number(step.label)
                steps.append([*names, arguments, step.tasks, step.flops, step.nbytes, int(step.commits)])
            case LoopBegin(count=count, chains=chains):
                steps.append([count, int(chains)])
            case LoopEnd():
                steps.append([])
    slots = [[slot.kind.value, slot.name, slot.nbytes, slot.type and type_to_json(slot.type)] for slot in plan.slots]
    body = {
        "format": FORMAT,
        "slots": slots,
        "texts": list(texts),
        "steps": steps,
        "arena": plan.arena_bytes,
        "peak": list(plan.peak),
    }
    return json.dumps(body, separators=(",", ":"))


def plan_from_json(text: str | bytes) -> Plan:
    """Return the plan that ``plan_to_json`` wrote; DlcError if ``text`` is anything else."""
    try:
        body = json.loads(text)
        if body["format"] != FORMAT:
            raise DlcError(f"stored plan has format {body['format']!r}, this version reads {FORMAT}; compile again")
        texts = body["texts"]
        slots = tuple(
            Slot(SlotKind(kind), name, nbytes, type_ and type_from_json(type_))
            for kind, name, nbytes, type_ in body["slots"]
        )
        steps = tuple(_step_from_json(fields, texts) for fields in body["steps"])
        return Plan(slots, steps, body["arena"], tuple(body["peak"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DlcError(f"stored plan is damaged ({type(error).__name__}: {error}); compile again") from error


def _step_from_json(fields: list[Any], texts: list[str]) -> Step:
    if len(fields) == 0:
        return LoopEnd()
    if len(fields) == 2:
        return LoopBegin(fields[0], bool(fields[1]))
    symbol, label, arguments, tasks, flops, nbytes, commits = fields
    return KernelStep(
        texts[symbol],
        tuple(Argument(slot, offset, tuple(strides)) for slot, offset, *strides in arguments),
        tasks,
        texts[label],
        flops,
        nbytes,
        bool(commits),
    )


def type_to_json(type_: TensorType) -> list[Any]:
    """Return a type as a list: the dtype's name, then the dimensions."""
    return [type_.dtype.name, *[dim if isinstance(dim, int) else str(dim) for dim in type_.shape]]


def type_from_json(fields: list[Any]) -> TensorType:
    """Return the type that ``type_to_json`` wrote."""
    name, *dims = fields
    shape: tuple[Dim, ...] = tuple(dim if isinstance(dim, int) else parse_dim(dim) for dim in dims)
    return TensorType(as_dtype(name), shape)
