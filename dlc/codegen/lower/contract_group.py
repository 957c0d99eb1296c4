"""Lowers contractions: alone, or with the pointwise nodes that follow, as an epilogue or as readers of slices.

It must not know how contractions are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from dlc.codegen.attention.parts import is_contraction
from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.contract.epilogue import epilogue_of
from dlc.codegen.lower.contraction import lower_contraction
from dlc.codegen.lower.group import lower_group
from dlc.codegen.lower.slices import lower_slices
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.graph import Node, Value
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind
from dlc.ir.placement import Layout, Placement


def lower_contract_group(
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    target: CpuTarget,
    threads: int,
    constants: Collection[int] = (),
    alone: bool = False,
    wanted: Sequence[tuple[int, Layout]] = (),
) -> Lowered:
    """Return the calls of a body with contractions of operands as they are and pointwise nodes that follow.

    ``constants`` numbers the ``inputs`` known to be the same in every run; a node ``alone`` in a loop is all that the
    loop does. Outputs are ``wanted`` in layouts, by number, which schedules may refuse.
    """
    layout = dict(wanted).get(0) if len(outputs) == 1 else None
    contractions = [n for n in nodes if is_contraction(n)]
    position = {v: k for k, v in enumerate(inputs)}
    for node in contractions:
        if any(v not in position for v in node.inputs):
            raise CompileError(f"{node!r}: a fused contraction takes its operands as they are")
    rest = [n for n in nodes if n not in contractions]
    contraction = contractions[0]
    known = frozenset(v for v in inputs if position[v] in constants)
    fixed = frozenset(k for k, v in enumerate(contraction.inputs) if v in known)
    if not rest:
        lowered = _contract(contraction, no_epilogue(contraction.outputs[0].type.dtype), target, threads, fixed, layout)
        return renumber(lowered, [position[v] for v in contraction.inputs])
    sliced = lower_slices(contractions, rest, inputs, outputs, target, threads, known, alone)
    if sliced is not None:
        return sliced
    if len(contractions) > 1:
        return _separately(contractions, rest, inputs, outputs, target, threads, known, wanted)
    group = ComputeGroup((*inputs, contraction.outputs[0]), rest)
    found = epilogue_of(contraction, group, outputs[0]) if len(outputs) == 1 else None
    if found is None:
        return _separately(contractions, rest, inputs, outputs, target, threads, known, wanted)
    epilogue, extra = found
    lowered = _contract(contraction, epilogue, target, threads, fixed, layout)
    return renumber(lowered, [*(position[v] for v in contraction.inputs), *(position[v] for v in extra)])


def _contract(
    node: Node,
    epilogue: Epilogue,
    target: CpuTarget,
    threads: int,
    constants: frozenset[int],
    layout: Layout | None = None,
) -> Lowered:
    lhs, rhs = node.input_types
    spec = parse_spec(node.attributes["spec"])
    extents = infer_extents(spec, lhs.shape, rhs.shape, dict(node.attributes["sizes"]))
    static = {name: int(extent) for name, extent in extents.items()}  # type: ignore[call-overload]
    result = node.outputs[0].type.dtype
    return lower_contraction(spec, static, lhs, rhs, epilogue, target, threads, constants, result, layout)


def renumber(lowered: Lowered, numbers: Sequence[int]) -> Lowered:
    """Return ``lowered`` with input k as input ``numbers[k]``; what is read in several roles is not overwritten."""
    calls = []
    for call in lowered.calls:
        operands = tuple(
            Operand(OperandKind.INPUT, numbers[o.index]) if o.kind is OperandKind.INPUT else o for o in call.operands
        )
        calls.append(replace(call, operands=operands))
    pairs = tuple((out, numbers[read]) for out, read in lowered.in_place if numbers.count(numbers[read]) == 1)
    return replace(lowered, calls=tuple(calls), in_place=pairs)


def _separately(
    contractions: Sequence[Node],
    rest: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    target: CpuTarget,
    threads: int,
    known: frozenset[Value],
    wanted: Sequence[tuple[int, Layout]],
) -> Lowered:
    """Every contraction into a temporary, then the rest as a group of its own."""
    position = {v: k for k, v in enumerate(inputs)}
    made = [n.outputs[0] for n in contractions]
    last = lower_group(rest, (*inputs, *made), outputs, target, threads, Placement(outputs=tuple(wanted)))
    temporaries = [v.type for v in made]
    calls: list[KernelCall] = []
    for number, node in enumerate(contractions):
        fixed = frozenset(k for k, v in enumerate(node.inputs) if v in known)
        plain = _contract(node, no_epilogue(node.outputs[0].type.dtype), target, threads, fixed)
        found = renumber(plain, [position[v] for v in node.inputs])
        moves = _shifted(len(found.temporaries), len(temporaries))
        moves[Operand(OperandKind.OUTPUT, 0)] = Operand(OperandKind.TEMPORARY, number)
        calls += [_moved(c, moves) for c in found.calls]
        temporaries += found.temporaries
    moves = _shifted(len(last.temporaries), len(temporaries))
    for number in range(len(made)):
        moves[Operand(OperandKind.INPUT, len(inputs) + number)] = Operand(OperandKind.TEMPORARY, number)
    calls += [_moved(c, moves) for c in last.calls]
    in_place = tuple((written, read) for written, read in last.in_place if read < len(inputs))
    return Lowered(tuple(calls), (*temporaries, *last.temporaries), in_place, last.placed)


def _shifted(count: int, by: int) -> dict[Operand, Operand]:
    """Return what ``count`` temporaries become behind others."""
    return {Operand(OperandKind.TEMPORARY, k): Operand(OperandKind.TEMPORARY, by + k) for k in range(count)}


def _moved(call: KernelCall, moves: dict[Operand, Operand]) -> KernelCall:
    return replace(call, operands=tuple(moves.get(o, o) for o in call.operands))
