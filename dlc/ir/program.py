"""Program: kernel calls over virtual buffers, before memory is planned.

The driver assembles it from a graph and its lowered nodes; the memory pass turns
it into a Plan. Plain data: no decision is taken here.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlc.ir.kernel import Kernel
from dlc.ir.plan import LoopBegin, LoopEnd, SlotKind
from dlc.ir.types import TensorType


@dataclass(frozen=True)
class ProgramBuffer:
    """A virtual buffer. Kind ARENA means an intermediate that the memory pass places."""

    kind: SlotKind
    name: str
    type: TensorType

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(self.type.nbytes)


@dataclass(frozen=True)
class View:
    """A window of a buffer: byte offset plus, per enclosing loop (outermost first), bytes per iteration."""

    buffer: int
    offset: int = 0
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class CallStep:
    """Run ``kernel`` on ``views``; ``in_place`` lists (written, read) view positions that may share memory.

    ``split`` numbers the views of which task k of n touches nothing but the k-th of n equal parts. ``nbytes`` gives the
    bytes of what each view shows, where that may be less than the kernel's buffer reaches over.
    """

    kernel: Kernel
    views: tuple[View, ...]
    label: str = ""
    flops: int = 0
    in_place: tuple[tuple[int, int], ...] = ()
    split: tuple[int, ...] = ()
    nbytes: tuple[int, ...] = ()

    @property
    def reads(self) -> tuple[View, ...]:
        return tuple(v for v, b in zip(self.views, self.kernel.buffers, strict=True) if not b.writable)

    @property
    def writes(self) -> tuple[View, ...]:
        return tuple(v for v, b in zip(self.views, self.kernel.buffers, strict=True) if b.writable)


@dataclass(frozen=True)
class CopyStep:
    """Copy ``nbytes`` from ``source`` to ``target``; the memory pass removes it where one place can serve both.

    ``kernel`` does the copy if it stays.
    """

    kernel: Kernel
    source: View
    target: View
    nbytes: int
    label: str = "copy"


ProgramStep = CallStep | CopyStep | LoopBegin | LoopEnd


@dataclass(frozen=True)
class Program:
    """Buffers and steps in order."""

    buffers: tuple[ProgramBuffer, ...]
    steps: tuple[ProgramStep, ...]
