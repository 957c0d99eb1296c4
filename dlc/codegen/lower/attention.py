"""Lowers bodies of two contractions with rows between them: as one kernel of attention, or part by part.

It must not know how either is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlc.codegen.attention.analysis import analyze_attention
from dlc.codegen.attention.blocking import choose_attention_blocking
from dlc.codegen.attention.kernel import attention_kernel
from dlc.codegen.attention.parts import parts_of
from dlc.codegen.lower.contract_group import lower_contract_group
from dlc.codegen.lower.group import lower_group
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.graph import Node, Value
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind
from dlc.ir.types import TensorType

OUTPUT = Operand(OperandKind.OUTPUT, 0)


def lower_attention(
    nodes: Sequence[Node], inputs: Sequence[Value], output: Value, target: CpuTarget, threads: int
) -> Lowered:
    """Return the calls of a body of two contractions, the second of which reads what is made of the first."""
    problem = analyze_attention(nodes, inputs, output)
    if problem is None:
        return _part_by_part(nodes, inputs, output, target, threads)
    blocking = choose_attention_blocking(problem, target, threads)
    types = [(v.type.dtype, int(v.type.size)) for v in inputs]  # type: ignore[arg-type]
    kernel, used = attention_kernel(problem, blocking, types, int(output.type.size))  # type: ignore[arg-type]
    operands = (*(Operand(OperandKind.INPUT, k) for k in used), OUTPUT)
    return Lowered((KernelCall(kernel, operands, problem.flops),))


def _part_by_part(
    nodes: Sequence[Node], inputs: Sequence[Value], output: Value, target: CpuTarget, threads: int
) -> Lowered:
    """Every part into temporaries."""
    parts = parts_of(nodes)
    if parts is None:
        raise CompileError(f"{nodes[-1]!r}: a fused node of two contractions must lead from the one to the other")
    steps = _Steps(inputs, output)
    moved = {v for n in parts.before for v in n.outputs}
    wanted = [v for n in (parts.first, parts.second) for v in n.inputs if v in moved]
    known = list(inputs)
    if wanted:
        results = list(dict.fromkeys(wanted))
        steps.add(lower_group(parts.before, known, results, target, threads), known, results)
    scores, product = parts.first.outputs[0], parts.second.outputs[0]
    first = list(dict.fromkeys(parts.first.inputs))
    steps.add(lower_contract_group([parts.first], first, [scores], target, threads), first, [scores])
    results = [v for v in (parts.weights, *parts.row_values) if v is not scores]
    if results:
        between = (*parts.before, *parts.between)
        steps.add(lower_group(between, [*known, scores], results, target, threads), [*known, scores], results)
    second = list(dict.fromkeys(parts.second.inputs))
    steps.add(lower_contract_group([parts.second], second, [product], target, threads), second, [product])
    if output is not product:
        read = [*known, *parts.row_values, product]
        steps.add(lower_group((*parts.before, *parts.after), read, [output], target, threads), read, [output])
    return Lowered(tuple(steps.calls), tuple(steps.temporaries))


class _Steps:
    """Kernel calls of several lowerings in a row; values between them are temporaries."""

    def __init__(self, inputs: Sequence[Value], output: Value) -> None:
        self.calls: list[KernelCall] = []
        self.temporaries: list[TensorType] = []
        self.places = {v: Operand(OperandKind.INPUT, k) for k, v in enumerate(inputs)}
        self.places[output] = OUTPUT

    def add(self, lowered: Lowered, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        """Add the calls of a lowering over ``inputs`` that makes ``outputs``."""
        for value in outputs:
            if value not in self.places:
                self.places[value] = self._temporary(value.type)
        private = [self._temporary(t) for t in lowered.temporaries]
        for call in lowered.calls:
            operands = tuple(self._place(o, inputs, outputs, private) for o in call.operands)
            self.calls.append(replace(call, operands=operands))

    def _temporary(self, type_: TensorType) -> Operand:
        self.temporaries.append(type_)
        return Operand(OperandKind.TEMPORARY, len(self.temporaries) - 1)

    def _place(
        self, operand: Operand, inputs: Sequence[Value], outputs: Sequence[Value], private: Sequence[Operand]
    ) -> Operand:
        match operand.kind:
            case OperandKind.INPUT:
                return self.places[inputs[operand.index]]
            case OperandKind.OUTPUT:
                return self.places[outputs[operand.index]]
            case OperandKind.TEMPORARY:
                return private[operand.index]
