"""Lowers contractions: alone, or with the pointwise nodes that follow as their epilogue.

It must not know how contractions are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

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
from dlc.ir.opdef import Trait
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
    """Return the calls of a body with one contraction and pointwise nodes that follow it.

    ``constants`` numbers the ``inputs`` known to be the same in every run; a node ``alone`` in a loop is all that the
    loop does. Outputs are ``wanted`` in layouts, by number, which schedules may refuse.
    """
    layout = dict(wanted).get(0) if len(outputs) == 1 else None
    contraction = next(n for n in nodes if n.op.has(Trait.CONTRACTION))
    position = {v: k for k, v in enumerate(inputs)}
    if any(v not in position for v in contraction.inputs):
        raise CompileError(f"{contraction!r}: a fused contraction takes its operands as they are")
    rest = [n for n in nodes if n is not contraction]
    fixed = frozenset(k for k, v in enumerate(contraction.inputs) if position[v] in constants)
    if not rest:
        lowered = _contract(contraction, no_epilogue(contraction.outputs[0].type.dtype), target, threads, fixed, layout)
        return renumber(lowered, [position[v] for v in contraction.inputs])
    sliced = lower_slices(contraction, rest, inputs, outputs, target, threads, fixed, alone)
    if sliced is not None:
        return sliced
    group = ComputeGroup((*inputs, contraction.outputs[0]), rest)
    found = epilogue_of(contraction, group, outputs[0]) if len(outputs) == 1 else None
    if found is None:
        return _separately(contraction, rest, inputs, outputs, target, threads, fixed, wanted)
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
    contraction: Node,
    rest: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    target: CpuTarget,
    threads: int,
    constants: frozenset[int],
    wanted: Sequence[tuple[int, Layout]],
) -> Lowered:
    """The contraction into a temporary, then the rest as a group of its own."""
    position = {v: k for k, v in enumerate(inputs)}
    plain = _contract(contraction, no_epilogue(contraction.outputs[0].type.dtype), target, threads, constants)
    first = renumber(plain, [position[v] for v in contraction.inputs])
    placement = Placement(outputs=tuple(wanted))
    second = lower_group(rest, (*inputs, contraction.outputs[0]), outputs, target, threads, placement)
    between = Operand(OperandKind.TEMPORARY, len(first.temporaries) + len(second.temporaries))
    calls = [_moved(c, {Operand(OperandKind.OUTPUT, 0): between}) for c in first.calls]
    moves = {
        Operand(OperandKind.TEMPORARY, k): Operand(OperandKind.TEMPORARY, len(first.temporaries) + k)
        for k in range(len(second.temporaries))
    }
    moves[Operand(OperandKind.INPUT, len(inputs))] = between
    calls += [_moved(c, moves) for c in second.calls]
    in_place = tuple((written, read) for written, read in second.in_place if read < len(inputs))
    temporaries = (*first.temporaries, *second.temporaries, contraction.outputs[0].type)
    return Lowered(tuple(calls), temporaries, in_place, second.placed)


def _moved(call: KernelCall, moves: dict[Operand, Operand]) -> KernelCall:
    return replace(call, operands=tuple(moves.get(o, o) for o in call.operands))
