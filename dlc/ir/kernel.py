"""Kernel: loops over buffers, as data.

A dozen statements that every target understands. A kernel prints as a Python
function (``ir.text_kernel``), which is its readable form and, run by the
emulator, its definition. It must not know how a target emits it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import Union

from dlc.ir.expr import Const, Expr, Var
from dlc.ir.types import DType, bfloat16


class LoopKind(StrEnum):
    """How iterations run: in order, as tasks of the pool, as vector lanes, unrolled, as GPU grid or block."""

    SERIAL = "serial"
    PARALLEL = "parallel"
    VECTOR = "vector"
    UNROLL = "unroll"
    GRID = "grid"
    BLOCK = "block"


class Space(StrEnum):
    """Where a buffer lives: main memory, memory shared by a GPU block, or private to one iteration."""

    GLOBAL = "global"
    SHARED = "shared"
    LOCAL = "local"


@dataclass(frozen=True)
class Buffer:
    """A flat array: parameters have ``size`` None when only a window is known (micro-kernels).

    ``aliases`` names a buffer that may be bound to the same memory (an in-place output and its input): the
    kernel then reads each element of it before writing the element of the same index, in the same task.
    """

    name: str
    dtype: DType
    size: int | None
    space: Space = Space.GLOBAL
    writable: bool = False
    aliases: str | None = None


@dataclass(frozen=True)
class For:
    """``for var in range(extent)``. A vector loop has a constant extent, its lanes; ``active`` limits them."""

    var: Var
    extent: Expr
    kind: LoopKind
    body: tuple["Stmt", ...]
    active: Expr | None = None


@dataclass(frozen=True)
class Let:
    """Bind a scalar (inside a vector loop: one per lane) for the rest of the block."""

    var: Var
    value: Expr


@dataclass(frozen=True)
class Alloc:
    """Make a local or shared buffer, uninitialised, for the rest of the block."""

    buffer: Buffer


@dataclass(frozen=True)
class Store:
    """``buffer[index] = value``."""

    buffer: str
    index: Expr
    value: Expr


@dataclass(frozen=True)
class Accumulate:
    """``buffer[index] = op(buffer[index], value)``; op a binary scalar function, or ``fma`` with value a product's
    operands given as ``Apply("mul")`` (fused multiply-add where the target has it), or ``fma_pairs``: the product's
    operands are uint32 words of two bfloat16 numbers each, and both products are added to a float32 (on some targets
    subnormal numbers count as zero, and sums are rounded in another order).
    """

    buffer: str
    index: Expr
    op: str
    value: Expr


@dataclass(frozen=True)
class If:
    """Run ``then`` where ``condition`` holds, else ``otherwise``; the condition is uniform over vector lanes."""

    condition: Expr
    then: tuple["Stmt", ...]
    otherwise: tuple["Stmt", ...] = ()


@dataclass(frozen=True)
class Window:
    """A buffer from element ``offset`` on, passed to a called kernel."""

    buffer: str
    offset: Expr


@dataclass(frozen=True)
class Call:
    """Run another kernel on windows of this one's buffers, with int64 scalars (run-time strides, depths)."""

    kernel: "Kernel"
    windows: tuple[Window, ...]
    scalars: tuple[Expr, ...]


@dataclass(frozen=True)
class Prefetch:
    """A hint that ``buffer[index]`` is needed soon in the cache of that ``level``; no effect on values."""

    buffer: str
    index: Expr
    level: int = 1


@dataclass(frozen=True)
class Transpose:
    """Copy a square of ``size`` (a power of two) rows and columns, transposed, between different buffers.

    ``target[target.offset + j * target_stride + i] = source[source.offset + i * source_stride + j]``.
    With ``rows`` (at least 1) the source has only so many: the last one stands for those beyond.
    """

    target: Window
    target_stride: Expr
    source: Window
    source_stride: Expr
    size: int
    rows: Expr | None = None


@dataclass(frozen=True)
class Barrier:
    """All threads of a GPU block wait for each other."""


@dataclass(frozen=True)
class TileConfigure:
    """Make the eight tile registers of a thread ready: each has 16 rows of 64 bytes.

    Processors allow fewer rows, but then the operands of every product must fit each other, or it faults.
    """


@dataclass(frozen=True)
class TileRelease:
    """Give the tile registers back: their contents are lost."""


@dataclass(frozen=True)
class TileZero:
    """Set a tile to zero."""

    tile: int


@dataclass(frozen=True)
class TileLoad:
    """Load the rows of a tile, ``stride`` elements apart, from ``buffer[index]`` on."""

    tile: int
    buffer: str
    index: Expr
    stride: Expr


@dataclass(frozen=True)
class TileStore:
    """Store the rows of a tile, ``stride`` elements apart, from ``buffer[index]`` on."""

    tile: int
    buffer: str
    index: Expr
    stride: Expr


@dataclass(frozen=True)
class TileMultiply:
    """Add to tile ``target`` the product of two tiles whose elements lie in groups of 32 bits along the depth.

    bfloat16 into float32: ``left[m, 2k+h] * right[k, 2n+h]``; products of even and of odd depth are added apart, in
    order, from zero; their sum is added to the target. int8 into int32: ``left[m, 4k+h] * right[k, 4n+h]``, exactly.
    """

    target: int
    left: int
    right: int
    dtype: DType = bfloat16


Stmt = Union[
    For,
    Let,
    Alloc,
    Store,
    Accumulate,
    If,
    Call,
    Prefetch,
    Transpose,
    Barrier,
    TileConfigure,
    TileRelease,
    TileZero,
    TileLoad,
    TileStore,
    TileMultiply,
]


@dataclass(frozen=True)
class Kernel:
    """A function over ``buffers`` and int64 ``scalars``.

    The outermost loops of kind parallel, perfectly nested at the top of ``body``, are its tasks: they may run
    in any order and at once. A kernel that is called by others has no parallel loop.
    """

    name: str
    buffers: tuple[Buffer, ...]
    scalars: tuple[Var, ...]
    body: tuple[Stmt, ...]
    note: str = field(default="", compare=False)

    def __hash__(self) -> int:
        """Hash what is compared, once: kernels are keys, and their bodies are large."""
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash((self.name, self.buffers, self.scalars, self.body))
            object.__setattr__(self, "_hash", known)
        return known

    @property
    def task_loops(self) -> tuple[For, ...]:
        """The perfectly nested parallel loops at the top, outermost first."""
        loops: list[For] = []
        body = self.body
        while len(body) == 1 and isinstance(body[0], For) and body[0].kind is LoopKind.PARALLEL:
            loops.append(body[0])
            body = body[0].body
        return tuple(loops)

    @property
    def tasks(self) -> int:
        """The number of independent tasks; 1 without parallel loops."""
        return prod(loop.extent.value for loop in self.task_loops if isinstance(loop.extent, Const))  # type: ignore[misc]


def statements(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Yield every statement below ``body``, outer before inner."""
    pending = list(reversed(body))
    while pending:
        statement = pending.pop()
        yield statement
        match statement:
            case For(body=inner):
                pending += reversed(inner)
            case If(then=then, otherwise=otherwise):
                pending += reversed(otherwise)
                pending += reversed(then)
