"""Lowered: what code generation makes of one node, as plain data.

Kernel calls over the node's inputs, outputs and temporaries. The driver places
the buffers; a call that reads constants only is run once, at load (packing of
weights is such a call).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dlc.ir.kernel import Kernel
from dlc.ir.types import TensorType


class OperandKind(StrEnum):
    """What a kernel call's operand is: the node's input or output, or a temporary of its lowering."""

    INPUT = "input"
    OUTPUT = "output"
    TEMPORARY = "temporary"


@dataclass(frozen=True)
class Operand:
    """One buffer of a kernel call, contiguous (row-major) unless the node's ``Placement`` says otherwise."""

    kind: OperandKind
    index: int


@dataclass(frozen=True)
class KernelCall:
    """``kernel`` on ``operands``, one per buffer of the kernel, in order.

    ``split`` numbers the operands of which task k of n touches nothing but the k-th of n equal parts.
    """

    kernel: Kernel
    operands: tuple[Operand, ...]
    flops: int = 0
    split: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lowered:
    """Calls in order; types of temporaries; pairs (output, input) that may share memory.

    A pair is listed only where every element of the input is read before the same element of the
    output is written, in every thread. ``placed`` numbers the outputs that are written as the caller's ``Placement``
    wants them; others are whole and contiguous.
    """

    calls: tuple[KernelCall, ...]
    temporaries: tuple[TensorType, ...] = ()
    in_place: tuple[tuple[int, int], ...] = ()
    placed: tuple[int, ...] = ()


def inputs(count: int) -> tuple[Operand, ...]:
    """Return the operands that are all of a node's ``count`` inputs."""
    return tuple(Operand(OperandKind.INPUT, i) for i in range(count))


def outputs(count: int) -> tuple[Operand, ...]:
    """Return the operands that are all of a node's ``count`` outputs."""
    return tuple(Operand(OperandKind.OUTPUT, i) for i in range(count))
