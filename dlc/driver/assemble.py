"""Assembling: an optimised graph and its lowered nodes become a Program.

Every kernel call is put at the outermost level where its operands are known:
calls on constants alone run once at load (packing of weights), calls on loop
invariants run before their loop. Nothing is decided here about code or memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlc.driver.homes import ALIASES, WITHOUT_STEPS, Residents, find_homes
from dlc.errors import CompileError
from dlc.ir.attributes import Literal
from dlc.ir.graph import Graph, InputSpec, Node, Role, Value
from dlc.ir.kernel import Kernel
from dlc.ir.lowering import Lowered, OperandKind
from dlc.ir.opdef import Trait
from dlc.ir.placement import Placement
from dlc.ir.plan import LoopBegin, LoopEnd, SlotKind
from dlc.ir.program import CallStep, CopyStep, Program, ProgramBuffer, ProgramStep, View
from dlc.ir.types import DType, TensorType

LOAD_LEVEL = 0  # runs once, when the executable is made
RUN_LEVEL = 1  # runs once per run; loops nest above it

Lower = Callable[[Node, frozenset[int], bool, Placement], Lowered]
"""Lowers a node: told which operands are known before, whether it is all that a loop does, and where tensors lie."""


@dataclass(frozen=True)
class Assembled:
    """What runs at load and what runs each time, and the arrays that both start from.

    ``arrays`` holds initial constants and states by slot name; the load program's outputs are further
    constants of the main program, by the same names.
    """

    load: Program
    main: Program
    arrays: dict[str, np.ndarray]


class Assembler:
    """Collects buffers and steps level by level; use ``assemble``."""

    def __init__(self, lower: Lower, copy: Callable[[DType, int], Kernel]) -> None:
        self.lower = lower
        self.copy = copy
        self.buffers: list[ProgramBuffer] = []
        self.levels: list[int] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.streams: list[list[ProgramStep]] = [[], []]
        self.literals: dict[Literal, View] = {}

    # -- buffers -------------------------------------------------------------------------

    def buffer(self, kind: SlotKind, name: str, type_: TensorType, level: int) -> View:
        """Make a buffer that is known from ``level`` on and return the view of all of it."""
        self.buffers.append(ProgramBuffer(kind, name, type_))
        self.levels.append(level)
        return View(len(self.buffers) - 1)

    def input(self, value: Value, spec: InputSpec) -> View:
        """Make the slot of a graph input by its role."""
        if spec.role in (Role.DATA, Role.TARGET):
            return self.buffer(SlotKind.INPUT, spec.name, value.type, RUN_LEVEL)
        if spec.initial is None:
            raise CompileError(f"{spec.role} {spec.name!r} ({value.type}) has no initial value; give one to compile")
        self.arrays[spec.name] = spec.initial
        if spec.replaced_by is not None:
            return self.buffer(SlotKind.STATE, spec.name, value.type, RUN_LEVEL)
        return self.buffer(SlotKind.CONSTANT, spec.name, value.type, LOAD_LEVEL)

    def literal(self, literal: Literal, type_: TensorType) -> View:
        """Make the constant slot of a literal, once per distinct array."""
        if literal not in self.literals:
            name = f"literal:{len(self.literals)}"
            self.arrays[name] = literal.array
            self.literals[literal] = self.buffer(SlotKind.CONSTANT, name, type_, LOAD_LEVEL)
        return self.literals[literal]

    def level_of(self, view: View) -> int:
        """Return the level at which the contents of ``view`` are known."""
        moving = [RUN_LEVEL + 1 + depth for depth, stride in enumerate(view.strides) if stride]
        return max([self.levels[view.buffer], *moving])

    # -- nodes -----------------------------------------------------------------------------

    def graph(self, graph: Graph, inputs: Sequence[View]) -> list[View]:
        """Add the steps of every node; return the views of the outputs."""
        views: dict[Value, View] = dict(zip(graph.inputs, inputs, strict=True))
        alone = sum(node.op.name not in WITHOUT_STEPS for node in graph.nodes) == 1
        residents = find_homes(graph)
        for node in graph.nodes:
            operands = [views[v] for v in node.inputs]
            views.update(zip(node.outputs, self.node(node, operands, alone, residents), strict=True))
        return [views[v] for v in graph.outputs]

    def node(self, node: Node, operands: Sequence[View], alone: bool, residents: Residents) -> list[View]:
        """Add the steps of one node, ``alone`` in its graph or not; return the views of its results.

        Some of the graph's values are, or become, ``residents`` of others.
        """
        if node.op.has(Trait.HOST) or node.op.is_composite:
            raise CompileError(
                f"{node!r} cannot be compiled: {node.op.name} runs in the interpreter only; "
                "use `dlc run --interpreter` or dlc.interpret"
            )
        if node.op.name == "constant":
            return [self.literal(node.attributes["value"], node.outputs[0].type)]
        if node.op.name in ALIASES:  # the same bytes, under another shape or at another time
            return [operands[0]]
        if node.op.name == "scan":
            return self.scan(node, operands)
        # In a loop everything known before it counts: what is packed of it is packed once.
        here = len(self.streams) - 1
        fixed = frozenset(k for k, view in enumerate(operands) if self.level_of(view) < here)
        placement = residents.placement(node, wished=len(fixed) < len(operands))
        lowered = self.lower(node, fixed, alone and here > RUN_LEVEL, placement)
        places = residents.places(
            node, placement, lowered.placed, lambda h: self.buffer(SlotKind.ARENA, h.node.label, h.holder.type, here)
        )
        return self.calls(node, operands, lowered, places)

    def calls(self, node: Node, operands: Sequence[View], lowered: Lowered, places: Mapping[int, View]) -> list[View]:
        """Add the kernel calls of a lowered node, each at the level of its operands; some outputs have ``places``."""
        results: dict[tuple[OperandKind, int], View] = {(OperandKind.OUTPUT, k): view for k, view in places.items()}
        types = {
            OperandKind.INPUT: node.input_types,
            OperandKind.OUTPUT: node.output_types,
            OperandKind.TEMPORARY: lowered.temporaries,
        }
        used = Counter(key for call in lowered.calls for key in {(o.kind, o.index) for o in call.operands})
        for call, level in zip(lowered.calls, self.call_levels(operands, lowered, places), strict=True):
            views = []
            for operand in call.operands:
                key = (operand.kind, operand.index)
                if operand.kind is OperandKind.INPUT:
                    views.append(operands[operand.index])
                    continue
                if key not in results:
                    type_ = types[operand.kind][operand.index]
                    results[key] = self.buffer(SlotKind.ARENA, node.label, type_, level)
                views.append(results[key])
            numbers = {(o.kind, o.index): p for p, o in enumerate(call.operands)}
            pairs = [
                ((OperandKind.OUTPUT, o), (OperandKind.INPUT, i))
                for o, i in lowered.in_place
                if o not in places
                and used[OperandKind.OUTPUT, o] == used[OperandKind.INPUT, i] == 1  # by this call alone
            ]
            in_place = tuple((numbers[o], numbers[i]) for o, i in pairs if o in numbers and i in numbers)
            nbytes = tuple(int(types[o.kind][o.index].nbytes) for o in call.operands)
            step = CallStep(call.kernel, tuple(views), node.label, call.flops, in_place, call.split, nbytes)
            self.streams[level].append(step)
        missing = [k for k in range(len(node.outputs)) if (OperandKind.OUTPUT, k) not in results]
        for k in missing:  # an empty tensor: nothing writes it
            if node.outputs[k].type.size != 0:
                raise CompileError(f"{node!r}: no kernel writes result {k}")
            results[OperandKind.OUTPUT, k] = self.buffer(SlotKind.ARENA, node.label, node.outputs[k].type, LOAD_LEVEL)
        return [results[OperandKind.OUTPUT, k] for k in range(len(node.outputs))]

    def call_levels(self, operands: Sequence[View], lowered: Lowered, places: Mapping[int, View]) -> list[int]:
        """Return the level of each call: that of its operands, and one for all calls that write the same buffer."""
        known = {(OperandKind.OUTPUT, k): self.levels[view.buffer] for k, view in places.items()}
        levels = [LOAD_LEVEL] * len(lowered.calls)
        changed = True
        while changed:
            changed = False
            for number, call in enumerate(lowered.calls):
                level = levels[number]
                for operand in call.operands:
                    if operand.kind is OperandKind.INPUT:
                        level = max(level, self.level_of(operands[operand.index]))
                    else:
                        level = max(level, known.get((operand.kind, operand.index), LOAD_LEVEL))
                for operand, parameter in zip(call.operands, call.kernel.buffers, strict=True):
                    if parameter.writable:
                        known[operand.kind, operand.index] = level
                changed = changed or level != levels[number]
                levels[number] = level
        return levels

    def add_copy(self, source: View, target: View, type_: TensorType, level: int, label: str) -> None:
        """Copy ``source`` to ``target`` at ``level``."""
        size = int(type_.size)
        if size:
            kernel = self.copy(type_.dtype, size)
            self.streams[level].append(CopyStep(kernel, source, target, int(type_.nbytes), label))

    def snapshot(self, source: View, type_: TensorType, level: int, label: str) -> View:
        """Copy ``source`` into a buffer of its own."""
        view = self.buffer(SlotKind.ARENA, label, type_, level)
        self.add_copy(source, view, type_, level, label)
        return view

    # -- loops -------------------------------------------------------------------------------

    def scan(self, node: Node, operands: Sequence[View]) -> list[View]:
        """Add a counted loop: sequences and stacked results are strided views.

        A carry of which values are stacked, new ones or those that an iteration began with, lives in the stack, which
        has one row more: an iteration reads the row that the one before wrote. Other carries live in one buffer each.
        """
        body: Graph = node.attributes["body"]
        length, reverse = int(node.attributes["length"]), bool(node.attributes["reverse"])
        carries, sequences = node.attributes["carries"], node.attributes["sequences"]
        outside = len(self.streams) - 1
        label = node.label
        inside = outside + 1
        depth = inside - RUN_LEVEL - 1
        stacks = _stacked_carries(body, carries)
        rows: dict[int, View] = {}
        holders, finals = [], []
        for number, (view, type_) in enumerate(zip(operands[:carries], node.input_types[:carries], strict=True)):
            if number in stacks:
                whole = TensorType(type_.dtype, (length + 1, *type_.shape))
                stack, stride = self.buffer(SlotKind.ARENA, f"{label} output", whole, outside), int(type_.nbytes)
                first = replace(stack, offset=stride * length if reverse else 0)
                finals.append(replace(stack, offset=0 if reverse else stride * length))
                holders.append(replace(first, strides=(*(0,) * depth, -stride if reverse else stride)))
                for result, is_new in stacks[number].items():
                    rows[result] = replace(stack, offset=stride if is_new != reverse else 0)
            else:
                first = self.buffer(SlotKind.ARENA, f"{label} carry", type_, inside)
                finals.append(first)
                holders.append(first)
            self.add_copy(view, first, type_, outside, f"{label} carry")
        stacked = [
            rows[number] if number in rows else self.buffer(SlotKind.ARENA, f"{label} output", type_, outside)
            for number, type_ in enumerate(node.output_types[carries:])
        ]
        self.streams.append([])

        def step_of(view: View, type_: TensorType) -> View:
            stride = _row_bytes(type_)
            strides = (*view.strides, *(0,) * (depth - len(view.strides)), -stride if reverse else stride)
            return View(view.buffer, view.offset + (stride * (length - 1) if reverse else 0), strides)

        slices = [
            step_of(v, t)
            for v, t in zip(
                operands[carries : carries + sequences], node.input_types[carries : carries + sequences], strict=True
            )
        ]
        body_inputs = [*holders, *slices, *operands[carries + sequences :]]
        early = {value: view for value, view in zip(body.inputs, body_inputs, strict=True)}
        targets = [step_of(v, t) for v, t in zip(stacked, node.output_types[carries:], strict=True)]
        apart = [(body.outputs[carries + k], k) for k in range(len(targets)) if k not in rows]
        for value, k in apart:
            if value in early:
                self.add_copy(early[value], targets[k], value.type, inside, f"{label} output")
        results = self.graph(body, body_inputs)
        for value, k in apart:
            if value not in early:
                self.add_copy(results[carries + k], targets[k], value.type, inside, f"{label} output")
        for number in stacks:
            following = replace(holders[number], offset=holders[number].offset + holders[number].strides[depth])
            self.add_copy(results[number], following, body.outputs[number].type, inside, f"{label} output")
        pairs = zip(results[:carries], body.outputs[:carries], holders, strict=True)
        new = [pair for number, pair in enumerate(pairs) if number not in stacks]
        busy = {holder.buffer for _, _, holder in new}
        safe = [
            self.snapshot(view, value.type, inside, f"{label} carry")
            if view.buffer in busy and view != holder
            else view
            for view, value, holder in new
        ]
        for view, (_, value, holder) in zip(safe, new, strict=True):
            if view != holder:
                self.add_copy(view, holder, value.type, inside, f"{label} carry")
        steps = self.streams.pop()
        self.streams[outside] += [LoopBegin(length), *steps, LoopEnd()]
        for final in finals:
            self.levels[final.buffer] = outside
        return [*finals, *stacked]

    # -- the end -------------------------------------------------------------------------------

    def outputs(self, graph: Graph, views: Sequence[View]) -> None:
        """Copy results to output slots and replacements to state slots; the memory pass removes what it can."""
        by_name = dict(zip(graph.signature.outputs, zip(graph.outputs, views, strict=True), strict=True))
        states = {b.name: View(n) for n, b in enumerate(self.buffers) if b.kind is SlotKind.STATE}
        for name in graph.signature.results:
            value, view = by_name[name]
            target = self.buffer(SlotKind.OUTPUT, name, value.type, RUN_LEVEL)
            self.add_copy(view, target, value.type, RUN_LEVEL, f"output {name}")
        commits = []
        for output, name in graph.signature.replacements.items():
            value, view = by_name[output]
            if view.buffer in {s.buffer for s in states.values()} and view != states[name]:
                view = self.snapshot(view, value.type, RUN_LEVEL, f"new {name}")
            commits.append((view, states[name], value.type, name))
        for view, target, type_, name in commits:
            if view != target:
                self.add_copy(view, target, type_, RUN_LEVEL, f"new {name}")

    def finish(self) -> Assembled:
        """Split into the load program and the main program."""
        load, main = self.streams
        produced = {v.buffer for step in load for v in _written(step)}
        needed = {v.buffer for step in main for v in _touched(step)}
        load_buffers, main_buffers = [], []
        for number, buffer in enumerate(self.buffers):
            if number in produced:
                name = f"prepared:{number}"
                kind = SlotKind.OUTPUT if number in needed else SlotKind.ARENA
                load_buffers.append(replace(buffer, kind=kind, name=name if number in needed else buffer.name))
                main_buffers.append(replace(buffer, kind=SlotKind.CONSTANT, name=name))
            else:
                load_buffers.append(buffer)
                main_buffers.append(buffer)
        kept = {v.buffer for step in main for v in _touched(step)}
        kept |= {n for n, b in enumerate(self.buffers) if b.kind in (SlotKind.INPUT, SlotKind.OUTPUT, SlotKind.STATE)}
        in_load = {v.buffer for step in load for v in _touched(step)}
        names = {self.buffers[n].name for n in kept | in_load}
        arrays = {name: array for name, array in self.arrays.items() if name in names}
        return Assembled(_compact(load_buffers, load, in_load), _compact(main_buffers, main, kept), arrays)


def _row_bytes(type_: TensorType) -> int:
    """Bytes of one element of the leading dimension."""
    return int(TensorType(type_.dtype, type_.shape[1:]).nbytes)


def _stacked_carries(body: Graph, carries: int) -> dict[int, dict[int, bool]]:
    """Map carries of a scan to the results that stack their values, each for one carry: True new values, False old."""
    found: dict[int, dict[int, bool]] = {}
    taken: set[int] = set()
    for carry, (old, new) in enumerate(zip(body.inputs[:carries], body.outputs[:carries], strict=True)):
        if new in body.inputs:  # nothing that the body computes
            continue
        stacks = {k: v is new for k, v in enumerate(body.outputs[carries:]) if v in (old, new) and k not in taken}
        if stacks:
            found[carry] = stacks
            taken.update(stacks)
    return found


def _touched(step: ProgramStep) -> tuple[View, ...]:
    match step:
        case CallStep(views=views):
            return views
        case CopyStep(source=source, target=target):
            return (source, target)
    return ()


def _written(step: ProgramStep) -> tuple[View, ...]:
    match step:
        case CallStep():
            return step.writes
        case CopyStep(target=target):
            return (target,)
    return ()


def _compact(buffers: list[ProgramBuffer], steps: list[ProgramStep], kept: set[int]) -> Program:
    """Keep the buffers in ``kept`` and renumber the views."""
    number = {old: new for new, old in enumerate(sorted(kept))}

    def moved(view: View) -> View:
        return View(number[view.buffer], view.offset, view.strides)

    renumbered: list[ProgramStep] = []
    for step in steps:
        match step:
            case CallStep(views=views):
                renumbered.append(replace(step, views=tuple(moved(v) for v in views)))
            case CopyStep(source=source, target=target):
                renumbered.append(replace(step, source=moved(source), target=moved(target)))
            case _:
                renumbered.append(step)
    return Program(tuple(buffers[old] for old in sorted(kept)), tuple(renumbered))


def assemble(
    load_graph: Graph | None,
    graph: Graph,
    lower: Lower,
    copy: Callable[[DType, int], Kernel],
) -> Assembled:
    """Assemble ``graph``; ``load_graph``, if any, computes some of its constant inputs, by name.

    What ``lower`` is told to be known before is known at load or, in a loop, before it; ``copy`` makes the kernel of a
    copy.

    Raises CompileError naming the node that has no compiled form.
    """
    assembler = Assembler(lower, copy)
    prepared: dict[str, View] = {}
    if load_graph is not None:
        inputs = [assembler.input(v, s) for v, s in zip(load_graph.inputs, load_graph.signature.inputs, strict=True)]
        prepared.update(zip((s.name for s in load_graph.signature.inputs), inputs, strict=True))
        prepared.update(zip(load_graph.signature.outputs, assembler.graph(load_graph, inputs), strict=True))
    views = [
        prepared[s.name] if s.name in prepared else assembler.input(v, s)
        for v, s in zip(graph.inputs, graph.signature.inputs, strict=True)
    ]
    assembler.outputs(graph, assembler.graph(graph, views))
    return assembler.finish()
