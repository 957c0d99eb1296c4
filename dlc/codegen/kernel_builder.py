"""Names of a node's buffers, and kernels made from finished bodies.

Inputs are x0, x1, ..., outputs y0, ..., temporaries t0, ... by number, so that
nodes of one structure give equal kernels. It must not know schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.places import Place
from dlc.ir.cost import distinct
from dlc.ir.expr import Expr, Horizontal, Load
from dlc.ir.kernel import (
    Accumulate,
    Alloc,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    Stmt,
    Store,
    Transpose,
    statements,
)
from dlc.ir.lowering import KernelCall, Operand, OperandKind
from dlc.ir.types import TensorType, bool_

_PREFIX = {OperandKind.INPUT: "x", OperandKind.OUTPUT: "y", OperandKind.TEMPORARY: "t"}


class KernelBuilder:
    """Knows the types of a node's buffers and makes kernel calls from statements that use them by name."""

    def __init__(self, input_types: Sequence[TensorType], output_types: Sequence[TensorType]) -> None:
        self.types: dict[str, TensorType] = {}
        self.sizes: dict[str, int] = {}
        self.operands: dict[str, Operand] = {}
        self.temporaries: list[TensorType] = []
        for kind, types in ((OperandKind.INPUT, input_types), (OperandKind.OUTPUT, output_types)):
            for number, type_ in enumerate(types):
                self._add(Operand(kind, number), type_)

    def _add(self, operand: Operand, type_: TensorType) -> str:
        name = f"{_PREFIX[operand.kind]}{operand.index}"
        self.types[name] = type_
        self.sizes[name] = int(type_.size)
        self.operands[name] = operand
        return name

    def temporary(self, type_: TensorType) -> str:
        """Add a temporary and return its name."""
        self.temporaries.append(type_)
        return self._add(Operand(OperandKind.TEMPORARY, len(self.temporaries) - 1), type_)

    def reach(self, place: Place) -> None:
        """Let the buffer of ``place`` reach to its end: a tensor's elements may be apart, or lie inside another."""
        if self.types[place.buffer].size:
            self.sizes[place.buffer] = max(self.sizes[place.buffer], place.end)

    def call(
        self, name: str, body: Sequence[Stmt], note: str = "", flops: int = 0, pairs: Sequence[tuple[str, str]] = ()
    ) -> KernelCall:
        """Return the call of a kernel with ``body``; ``pairs`` of a written and a read buffer may share memory."""
        read, written = used_buffers(body)
        used = [n for n in self.operands if n in read or n in written]
        aliases = {source: target for target, source in pairs}
        buffers = []
        for buffer in used:
            type_ = self.types[buffer]
            alias = aliases.get(buffer)
            buffers.append(Buffer(buffer, type_.dtype, self.sizes[buffer], writable=buffer in written, aliases=alias))
        kernel = Kernel(name, tuple(buffers), (), tuple(body), note)
        return KernelCall(kernel, tuple(self.operands[n] for n in used), flops)


def used_buffers(body: Sequence[Stmt]) -> tuple[set[str], set[str]]:
    """Return the names of the buffers read and written in ``body``, local ones included."""
    written: set[str] = set()
    exprs: list[Expr] = []
    for statement in statements(tuple(body)):
        match statement:
            case Store(buffer=buffer, index=index, value=value) | Accumulate(buffer=buffer, index=index, value=value):
                written.add(buffer)
                exprs += [index, value]
            case Let(value=value):
                exprs.append(value)
            case If(condition=condition):
                exprs.append(condition)
            case For(extent=extent, active=active):
                exprs.append(extent)
                if active is not None:
                    exprs.append(active)
            case Transpose(target=target, source=source):
                written.add(target.buffer)
                exprs += [target.offset, Load(source.buffer, source.offset, bool_)]
            case Call(kernel=kernel, windows=windows, scalars=scalars):
                exprs += scalars
                for parameter, window in zip(kernel.buffers, windows, strict=True):
                    if parameter.writable:
                        written.add(window.buffer)
                        exprs.append(window.offset)
                    else:
                        exprs.append(Load(window.buffer, window.offset, bool_))
            case Alloc():
                pass
    read = {e.buffer for e in distinct(exprs) if isinstance(e, Load | Horizontal)}
    return read, written
