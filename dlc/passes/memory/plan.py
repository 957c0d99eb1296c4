"""Memory planning: Program -> Plan.

Removes copies by placing a value where it is wanted, lets results take over the
memory of operands that die, and gives every other intermediate an offset in one
arena by its live range. Only here do updates become in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dlc.ir.kernel import Kernel
from dlc.ir.plan import Argument, KernelStep, LoopBegin, LoopEnd, Plan, Slot, SlotKind, Step
from dlc.ir.program import CallStep, CopyStep, Program, ProgramBuffer, View
from dlc.passes.memory.offsets import assign_offsets


@dataclass(frozen=True)
class _Access:
    """One use of a buffer at a step."""

    step: int
    view: View
    writes: bool
    nbytes: int | None = None
    """How much of the buffer from ``view`` on is touched; None if that is not known."""


def plan_memory(program: Program, symbol_of: Callable[[Kernel], str], tight: bool = False) -> Plan:
    """Place every buffer and return the executable table.

    ``tight`` looks longer for the smallest arena. Without it memory that was freed last is taken first, which is
    more likely to be in cache.
    """
    placement = _coalesce(program)
    live = _live_ranges(program, placement)
    offsets = assign_offsets({buffer: program.buffers[buffer].nbytes for buffer in live}, live, tight)
    largest = sorted(offsets.peak, key=lambda b: -program.buffers[b].nbytes)[:5]
    peak = tuple(f"{program.buffers[b].name} ({program.buffers[b].nbytes} bytes)" for b in largest)
    return _emit(program, placement, offsets.places, offsets.arena_bytes, peak, symbol_of)


def _loops(program: Program) -> list[tuple[int, int]]:
    """Return (begin, end) step numbers of every loop, inner loops before outer ones."""
    result, open_loops = [], []
    for number, step in enumerate(program.steps):
        if isinstance(step, LoopBegin):
            open_loops.append(number)
        elif isinstance(step, LoopEnd):
            result.append((open_loops.pop(), number))
    return result


def _accesses(program: Program) -> dict[int, list[_Access]]:
    result: dict[int, list[_Access]] = defaultdict(list)
    for number, step in enumerate(program.steps):
        if isinstance(step, CallStep):
            for view, parameter in zip(step.views, step.kernel.buffers, strict=True):
                nbytes = None if parameter.size is None else parameter.size * parameter.dtype.itemsize
                result[view.buffer].append(_Access(number, view, parameter.writable, nbytes))
        elif isinstance(step, CopyStep):
            result[step.source.buffer].append(_Access(number, step.source, False, step.nbytes))
            result[step.target.buffer].append(_Access(number, step.target, True, step.nbytes))
    return result


# -- sharing one place -------------------------------------------------------------------


class _Places:
    """Which buffer lives inside which: buffer -> View of the buffer that holds it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.accesses = _accesses(program)
        self.inside: dict[int, View] = {}
        self.removed: set[int] = set()
        self.loop_of = _innermost_loop(program)
        self.loops = {b: {self.loop_of[a.step] for a in found} for b, found in self.accesses.items()}

    def resolve(self, view: View) -> View:
        """Follow the chain of placements."""
        while view.buffer in self.inside:
            outer = self.inside[view.buffer]
            depth = max(len(view.strides), len(outer.strides))
            strides = tuple(
                (view.strides[k] if k < len(view.strides) else 0) + (outer.strides[k] if k < len(outer.strides) else 0)
                for k in range(depth)
            )
            view = View(outer.buffer, outer.offset + view.offset, strides)
        return view

    def place(self, buffer: int, view: View) -> None:
        """Let ``buffer`` live at ``view``; the holder inherits its accesses."""
        self.inside[buffer] = view
        outer = self.accesses[view.buffer]
        nbytes = self.program.buffers[buffer].nbytes
        moved = [_Access(a.step, view, a.writes, nbytes) for a in self.accesses[buffer] if a.step not in self.removed]
        in_order = not (outer and moved) or outer[-1].step <= moved[0].step
        outer += moved
        if not in_order:
            outer.sort(key=lambda a: a.step)
        self.loops.setdefault(view.buffer, set()).update(self.loops[buffer])


def _innermost_loop(program: Program) -> list[int]:
    """Return, per step, the step number of the innermost LoopBegin around it, or -1."""
    result, open_loops = [], [-1]
    for number, step in enumerate(program.steps):
        if isinstance(step, LoopEnd):
            open_loops.pop()
        result.append(open_loops[-1])
        if isinstance(step, LoopBegin):
            open_loops.append(number)
    return result


def _coalesce(program: Program) -> _Places:
    places = _Places(program)
    for number, step in enumerate(program.steps):
        if isinstance(step, CopyStep):
            _try_remove_copy(places, number, step)
    for number, step in enumerate(program.steps):
        if isinstance(step, CallStep):
            for written, read in step.in_place:
                _try_take_over(places, number, step, written, read)
    return places


def _is_free_intermediate(places: _Places, view: View) -> bool:
    buffer = places.program.buffers[view.buffer]
    return (
        buffer.kind is SlotKind.ARENA
        and view.buffer not in places.inside
        and view.offset == 0
        and not any(view.strides)
    )


def _try_remove_copy(places: _Places, number: int, step: CopyStep) -> None:
    """Make the source live at the target, if nothing else needs the target meanwhile."""
    source, target = step.source, places.resolve(step.target)
    if not _is_free_intermediate(places, source) or target.buffer == source.buffer:
        return
    if places.program.buffers[source.buffer].nbytes != step.nbytes:
        return
    uses = [a for a in places.accesses[source.buffer] if a.step != number]
    definitions = [a for a in uses if a.writes]
    if not definitions or any(places.loop_of[a.step] != places.loop_of[number] for a in uses):
        return
    first = definitions[0].step
    last = max(a.step for a in uses)
    for access in places.accesses[target.buffer]:
        if access.step == number or access.step in places.removed or _apart(access, target, step.nbytes):
            continue
        if first < access.step <= max(last, number):
            return
        if access.step == first and not _may_share(places, first, source.buffer, access.view.buffer, target):
            return
    places.removed.add(number)
    places.place(source.buffer, target)


def _apart(access: _Access, target: View, nbytes: int) -> bool:
    """Tell whether an access of the target's buffer never meets the target within one iteration."""
    if access.nbytes is None or access.view.strides != target.strides:
        return False
    distance = target.offset - access.view.offset
    return distance >= access.nbytes or -distance >= nbytes


def _may_share(places: _Places, number: int, written: int, read: int, target: View) -> bool:
    """Tell whether the call at ``number`` may write ``written`` over the target that it reads at the same place."""
    step = places.program.steps[number]
    if not isinstance(step, CallStep):
        return False
    touching = [p for p, v in enumerate(step.views) if places.resolve(v).buffer == target.buffer]
    position = next((p for p, v in enumerate(step.views) if v.buffer == written), None)
    same_place = all(places.resolve(step.views[p]) == target for p in touching)
    return (
        position is not None and same_place and all((position, p) in step.in_place for p in touching if p != position)
    )


def _try_take_over(places: _Places, number: int, step: CallStep, written: int, read: int) -> None:
    """Let a result live in an operand's memory, if the operand dies at this call."""
    result, operand = step.views[written], places.resolve(step.views[read])
    if not _is_free_intermediate(places, result) or result.buffer == operand.buffer:
        return
    holder = places.program.buffers[operand.buffer]
    if holder.kind is not SlotKind.ARENA or operand.offset or any(operand.strides):
        return
    if holder.nbytes != places.program.buffers[result.buffer].nbytes:
        return
    if places.accesses[operand.buffer][-1].step > number or places.accesses[result.buffer][0].step < number:
        return
    if len(places.loops[operand.buffer] | places.loops[result.buffer]) != 1:
        return
    touching = [p for p, v in enumerate(step.views) if p != written and places.resolve(v).buffer == operand.buffer]
    if any((written, p) not in step.in_place for p in touching):
        return
    places.place(result.buffer, View(operand.buffer))


# -- live ranges ----------------------------------------------------------------------------


def _live_ranges(program: Program, places: _Places) -> dict[int, tuple[int, int]]:
    """Return first and last step of every arena buffer that holds itself; loops are crossed whole."""
    ranges: dict[int, tuple[int, int]] = {}
    for buffer, accesses in places.accesses.items():
        if program.buffers[buffer].kind is not SlotKind.ARENA or buffer in places.inside:
            continue
        steps = [a.step for a in accesses if a.step not in places.removed]
        if steps:
            ranges[buffer] = (min(steps), max(steps))
    loops = _loops(program)
    for buffer, (first, last) in ranges.items():
        for begin, end in loops:
            crosses = (first < begin < last) or (first < end < last)
            if crosses and first <= end and last >= begin:
                first, last = min(first, begin), max(last, end)
            elif begin < first and last < end and _read_before_written(places, buffer):
                first, last = begin, end
        ranges[buffer] = (first, last)
    return ranges


def _read_before_written(places: _Places, buffer: int) -> bool:
    """Tell whether the first use in order is a read: the value then comes from the iteration before."""
    accesses = sorted(places.accesses[buffer], key=lambda a: (a.step, a.writes))
    return bool(accesses) and not accesses[0].writes


# -- the table ---------------------------------------------------------------------------------


def _emit(
    program: Program,
    places: _Places,
    offsets: Mapping[int, int],
    arena_bytes: int,
    peak: tuple[str, ...],
    symbol_of: Callable[[Kernel], str],
) -> Plan:
    slots: list[Slot] = [Slot(SlotKind.ARENA, "arena", arena_bytes)]
    slot_of: dict[int, int] = {}
    for number, buffer in enumerate(program.buffers):
        if buffer.kind is not SlotKind.ARENA:
            slot_of[number] = len(slots)
            slots.append(Slot(buffer.kind, buffer.name, buffer.nbytes, buffer.type))

    def argument(view: View) -> Argument:
        place = places.resolve(view)
        if place.buffer in slot_of:
            return Argument(slot_of[place.buffer], place.offset, place.strides)
        return Argument(0, offsets[place.buffer] + place.offset, place.strides)

    chained = {begin for begin, end in _loops(program) if _in_chains(program, places, offsets, begin, end)}
    steps: list[Step] = []
    for number, step in enumerate(program.steps):
        if number in places.removed:
            continue
        if isinstance(step, LoopBegin):
            step = replace(step, chains=number in chained)
        if isinstance(step, CopyStep):
            step = CallStep(step.kernel, (step.source, step.target), step.label)
        if isinstance(step, CallStep):
            commits = any(slots[argument(v).slot].kind is SlotKind.STATE for v in step.writes)
            nbytes = _traffic(program.buffers, step)
            arguments = tuple(argument(v) for v in step.views)
            symbol = symbol_of(step.kernel)
            steps.append(KernelStep(symbol, arguments, step.kernel.tasks, step.label, step.flops, nbytes, commits))
        else:
            steps.append(step)
    return Plan(tuple(slots), tuple(steps), arena_bytes, peak)


def _in_chains(program: Program, places: _Places, offsets: Mapping[int, int], begin: int, end: int) -> bool:
    """Tell whether task k of every step between ``begin`` and ``end`` needs, of what the loop writes, only tasks k's.

    That is so where all steps have as many tasks and reach what is written in equal parts, each window of a buffer
    a whole number of windows from the next, and no other buffer lies in the same memory.
    """
    kept = [n for n in range(begin + 1, end) if n not in places.removed]
    steps = [step for n in kept if isinstance(step := program.steps[n], CallStep)]
    if len(steps) != len(kept) or len({step.kernel.tasks for step in steps}) != 1 or steps[0].kernel.tasks == 1:
        return False
    written = {places.resolve(v).buffer for step in steps for v in step.writes}
    used: set[int] = set()
    windows: dict[int, set[int]] = defaultdict(set)
    for step in steps:
        for position, (view, parameter) in enumerate(zip(step.views, step.kernel.buffers, strict=True)):
            place = places.resolve(view)
            used.add(place.buffer)
            if place.buffer not in written:
                continue
            if position not in step.split or parameter.size is None:
                return False
            size = parameter.size * parameter.dtype.itemsize
            windows[place.buffer].add(size)
            if any(distance % size for distance in (place.offset, *place.strides)):
                return False
    return all(len(sizes) == 1 for sizes in windows.values()) and not any(
        _overlap(program, offsets, a, b) for a in written for b in used if a != b
    )


def _overlap(program: Program, offsets: Mapping[int, int], a: int, b: int) -> bool:
    """Tell whether two buffers share bytes of the arena."""
    if a not in offsets or b not in offsets:
        return False
    return offsets[a] < offsets[b] + program.buffers[b].nbytes and offsets[b] < offsets[a] + program.buffers[a].nbytes


def _traffic(buffers: Sequence[ProgramBuffer], call: CallStep) -> int:
    """Return the bytes that one call touches, each once: of a window that moves with a loop, one iteration's."""
    windows: dict[int, dict[View, int]] = defaultdict(dict)
    for number, (view, parameter) in enumerate(zip(call.views, call.kernel.buffers, strict=True)):
        whole = buffers[view.buffer].nbytes
        reached = whole if parameter.size is None else parameter.size * parameter.dtype.itemsize
        windows[view.buffer][view] = call.nbytes[number] if call.nbytes else reached
    return sum(min(sum(sizes.values()), buffers[number].nbytes) for number, sizes in windows.items())
