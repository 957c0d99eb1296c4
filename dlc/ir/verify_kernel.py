"""Checks a Kernel: names in scope, dtypes, writability, loop rules, calls.

Raises a VerificationError whose note shows the statement and its surroundings.
It must not know any target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dlc.errors import DlcError, VerificationError
from dlc.ir.expr import Apply, Const, Expr, Horizontal, Load, Var, children
from dlc.ir.kernel import (
    Accumulate,
    Alloc,
    Barrier,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Prefetch,
    Space,
    Stmt,
    Store,
    TileConfigure,
    TileLoad,
    TileMultiply,
    TileRelease,
    TileStore,
    TileZero,
    Transpose,
    statements,
)
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import DType, bfloat16, bool_, float32, int8, int32, int64, uint16, uint32

HORIZONTAL_OPS = frozenset({"add", "mul", "maximum", "minimum", "bit_and", "bit_or"})


@dataclass
class _Scope:
    """What is defined at one point, and which loops stand around it."""

    variables: dict[str, DType]
    buffers: dict[str, Buffer]
    lanes: frozenset[str] = frozenset()
    """Variables that differ between lanes of the vector loop around."""
    in_vector: bool = False
    at_top: bool = True
    """Whether only parallel loops stand around."""
    known: set[Expr] = field(default_factory=set)

    def inner(self, **changes: object) -> _Scope:
        return replace(
            self,
            **({"variables": dict(self.variables), "buffers": dict(self.buffers), "known": set()} | changes),  # type: ignore[arg-type]
        )


def verify(kernel: Kernel) -> None:
    """Raise VerificationError where ``kernel``, or a kernel that it calls, breaks a rule."""
    pending, seen = [(kernel, True)], {kernel}
    while pending:
        current, entry = pending.pop()
        _verify_one(current, entry)
        for statement in statements(current.body):
            if isinstance(statement, Call) and statement.kernel not in seen:
                seen.add(statement.kernel)
                pending.append((statement.kernel, False))


def _verify_one(kernel: Kernel, entry: bool) -> None:
    check = _Checker(kernel, entry)
    for names in ([b.name for b in kernel.buffers], [v.name for v in kernel.scalars]):
        if len(set(names)) != len(names):
            check.fail(f"parameters share a name: {', '.join(names)}", None)
    by_name = {b.name: b for b in kernel.buffers}
    for buffer in kernel.buffers:
        if buffer.aliases is not None and buffer.aliases not in by_name:
            check.fail(f"buffer {buffer.name} aliases {buffer.aliases!r}, which is not a parameter", None)
    for scalar in kernel.scalars:
        if scalar.dtype is not int64:
            check.fail(f"scalar {scalar.name} is {scalar.dtype}; scalars are int64", None)
    scope = _Scope({v.name: v.dtype for v in kernel.scalars}, by_name)
    check.block(kernel.body, scope)


class _Checker:
    """Walks the statements of one kernel."""

    def __init__(self, kernel: Kernel, entry: bool) -> None:
        self.kernel = kernel
        self.entry = entry

    def fail(self, message: str, statement: Stmt | None) -> None:
        """Raise, with the statement printed on its own and the head of the kernel as notes."""
        error = VerificationError(f"kernel {self.kernel.name}: {message}")
        if statement is not None:
            alone = replace(self.kernel, body=(statement,))
            error.add_note("at:\n" + _excerpt(alone, 12))
        error.add_note("in:\n" + _excerpt(self.kernel, 40))
        raise error

    def block(self, body: Sequence[Stmt], scope: _Scope) -> None:
        for statement in body:
            self.statement(statement, scope)

    def statement(self, statement: Stmt, scope: _Scope) -> None:
        match statement:
            case For():
                self.loop(statement, scope)
            case Let(var=var, value=value):
                if self.dtype(value, scope, statement) is not var.dtype:
                    self.fail(f"{var.name} is {var.dtype} but its value is {value.dtype}", statement)
                scope.variables[var.name] = var.dtype
                scope.known.clear()
                varies = self.varies(value, scope)
                scope.lanes = scope.lanes | {var.name} if varies else scope.lanes - {var.name}
            case Alloc(buffer=buffer):
                if buffer.size is None or buffer.size < 0 or buffer.space is Space.GLOBAL:
                    self.fail(f"{buffer.name} must be a local or shared array of known size", statement)
                scope.buffers[buffer.name] = replace(buffer, writable=True)
                scope.known.clear()
            case Store(buffer=name, index=index, value=value) | Accumulate(buffer=name, index=index, value=value):
                self.write(name, index, value, scope, statement)
            case If(condition=condition, then=then, otherwise=otherwise):
                if self.dtype(condition, scope, statement) is not bool_:
                    self.fail("the condition of If is not a bool", statement)
                if self.varies(condition, scope):
                    self.fail("the condition of If differs between lanes of a vector loop; use select", statement)
                self.block(then, scope.inner(at_top=False))
                self.block(otherwise, scope.inner(at_top=False))
            case Call():
                self.call(statement, scope)
            case Prefetch(buffer=name, index=index):
                self.buffer(name, scope, statement)
                self.index(index, scope, statement)
            case Transpose():
                self.transpose(statement, scope)
            case Barrier():
                pass
            case TileConfigure() | TileRelease() | TileZero() | TileLoad() | TileStore() | TileMultiply():
                self.tile(statement, scope)
            case _:
                self.fail(f"{type(statement).__name__} is not a statement", None)

    def loop(self, loop: For, scope: _Scope) -> None:
        name = f"{loop.kind} loop {loop.var.name}"
        self.index(loop.extent, scope, loop)
        if self.varies(loop.extent, scope):
            self.fail(f"the extent of {name} differs between lanes of a vector loop", loop)
        if loop.var.dtype is not int64:
            self.fail(f"{loop.var.name} counts a loop but is {loop.var.dtype}, not int64", loop)
        constant = isinstance(loop.extent, Const)
        if isinstance(loop.extent, Const) and loop.extent.value < 0:
            self.fail(f"{name} has a negative extent", loop)
        if loop.kind in (LoopKind.VECTOR, LoopKind.UNROLL, LoopKind.PARALLEL) and not constant:
            self.fail(f"{name} needs a constant extent", loop)
        if loop.kind is LoopKind.PARALLEL and not self.entry:
            self.fail(f"{name} stands in a kernel that others call; only entry kernels have tasks", loop)
        if loop.kind is LoopKind.PARALLEL and not scope.at_top:
            self.fail(f"{name} must be outermost, with only parallel loops around it", loop)
        if loop.kind is LoopKind.VECTOR and scope.in_vector:
            self.fail(f"{name} stands in another vector loop", loop)
        inner = scope.inner(at_top=scope.at_top and loop.kind is LoopKind.PARALLEL)
        inner.variables[loop.var.name] = int64
        inner.lanes = scope.lanes - {loop.var.name}
        if loop.kind is LoopKind.VECTOR:
            inner.in_vector = True
            inner.lanes = inner.lanes | {loop.var.name}
        if loop.active is not None:
            if loop.kind is not LoopKind.VECTOR:
                self.fail(f"{name} is masked; only vector loops can be", loop)
            if self.dtype(loop.active, inner, loop) is not bool_:
                self.fail(f"the mask of {name} is not a bool", loop)
        self.block(loop.body, inner)

    def write(self, name: str, index: Expr, value: Expr, scope: _Scope, statement: Store | Accumulate) -> None:
        buffer = self.buffer(name, scope, statement)
        if not buffer.writable:
            self.fail(f"buffer {name} is written but not writable", statement)
        self.index(index, scope, statement)
        dtype = self.dtype(value, scope, statement)
        if isinstance(statement, Accumulate) and statement.op == "fma_pairs":
            if not (isinstance(value, Apply) and value.op == "mul" and dtype is uint32 and buffer.dtype is float32):
                self.fail(f"fma_pairs into {name} wants a product of uint32 words and a float32 buffer", statement)
            return
        if dtype is not buffer.dtype:
            self.fail(f"a {dtype} is stored into {name}, which holds {buffer.dtype}", statement)
        if not isinstance(statement, Accumulate):
            return
        if statement.op == "fma":
            if not (isinstance(value, Apply) and value.op == "mul") or not dtype.is_float:
                self.fail(f"fma into {name} wants a product of floats", statement)
        elif statement.op not in SCALAR_OPS or SCALAR_OPS[statement.op].arity != 2:
            self.fail(f"{statement.op!r} is not a binary scalar function", statement)
        elif SCALAR_OPS[statement.op].result != "same" or dtype.kind not in SCALAR_OPS[statement.op].domain:
            self.fail(f"{statement.op} does not combine {dtype} values into one", statement)

    def tile(self, statement: Stmt, scope: _Scope) -> None:
        """Check the tile operations: eight tiles, one thread's, outside of vector loops."""
        if scope.in_vector:
            self.fail("a tile operation stands in a vector loop", statement)
        tiles: tuple[int, ...] = ()
        match statement:
            case TileZero(tile=tile):
                tiles = (tile,)
            case TileMultiply(target=target, left=left, right=right, dtype=dtype):
                tiles = (target, left, right)
                if dtype not in (bfloat16, int8):
                    self.fail(f"tiles of bfloat16 or int8 are multiplied, not of {dtype}", statement)
                if len(set(tiles)) != 3:
                    self.fail("a product of tiles wants three different tiles", statement)
            case TileLoad(tile=tile, buffer=name, index=index, stride=stride):
                tiles = (tile,)
                self.tile_access(name, index, stride, scope, statement, False)
            case TileStore(tile=tile, buffer=name, index=index, stride=stride):
                tiles = (tile,)
                self.tile_access(name, index, stride, scope, statement, True)
        if not all(0 <= tile < 8 for tile in tiles):
            self.fail(f"there are tiles 0 to 7, not {tiles}", statement)

    def tile_access(self, name: str, index: Expr, stride: Expr, scope: _Scope, statement: Stmt, written: bool) -> None:
        buffer = self.buffer(name, scope, statement)
        if buffer.dtype not in (bfloat16, float32, int32, uint16, uint32):
            self.fail(
                f"tiles hold bfloat16 or int8 (as words), float32 or int32, not {name}'s {buffer.dtype}", statement
            )
        if written and not buffer.writable:
            self.fail(f"buffer {name} is written but not writable", statement)
        self.index(index, scope, statement)
        self.index(stride, scope, statement)

    def transpose(self, statement: Transpose, scope: _Scope) -> None:
        target = self.buffer(statement.target.buffer, scope, statement)
        source = self.buffer(statement.source.buffer, scope, statement)
        if scope.in_vector:
            self.fail("a square is transposed in a vector loop", statement)
        if not target.writable or target.name == source.name or target.dtype is not source.dtype:
            self.fail(f"{source.name} cannot be transposed into {target.name}", statement)
        if statement.size < 1 or statement.size & (statement.size - 1):
            self.fail(f"a square of {statement.size} rows is transposed; it must be a power of two", statement)
        sides = [statement.target.offset, statement.target_stride, statement.source.offset, statement.source_stride]
        for index in [*sides, statement.rows] if statement.rows is not None else sides:
            self.index(index, scope, statement)

    def call(self, call: Call, scope: _Scope) -> None:
        callee = call.kernel
        if scope.in_vector:
            self.fail(f"{callee.name} is called in a vector loop", call)
        if len(call.windows) != len(callee.buffers) or len(call.scalars) != len(callee.scalars):
            wanted = f"{len(callee.buffers)} windows and {len(callee.scalars)} scalars"
            self.fail(f"{callee.name} wants {wanted}, not {len(call.windows)} and {len(call.scalars)}", call)
        written = {w.buffer for w, b in zip(call.windows, callee.buffers, strict=True) if b.writable}
        for window, parameter in zip(call.windows, callee.buffers, strict=True):
            buffer = self.buffer(window.buffer, scope, call)
            self.index(window.offset, scope, call)
            if buffer.dtype is not parameter.dtype:
                self.fail(f"{callee.name} wants {parameter.name} of {parameter.dtype}, not {buffer.dtype}", call)
            if parameter.writable and not buffer.writable:
                self.fail(f"{callee.name} writes {parameter.name}, but buffer {buffer.name} is not writable", call)
            same = [w for w in call.windows if w.buffer == window.buffer and w.offset == window.offset]
            if window.buffer in written and len(same) > 1:
                self.fail(f"{callee.name} gets one window of {window.buffer} twice and writes it", call)
        for scalar in call.scalars:
            self.index(scalar, scope, call)

    def buffer(self, name: str, scope: _Scope, statement: Stmt) -> Buffer:
        if name not in scope.buffers:
            self.fail(f"buffer {name!r} is not defined here; there are {', '.join(scope.buffers)}", statement)
        return scope.buffers[name]

    def index(self, index: Expr, scope: _Scope, statement: Stmt) -> None:
        if self.dtype(index, scope, statement) is not int64:
            self.fail(f"an index, extent or scalar is {index.dtype}, not int64", statement)

    def varies(self, expr: Expr, scope: _Scope) -> bool:
        """Return whether lanes of the vector loop around may see different values."""
        if not scope.in_vector or not scope.lanes:
            return False
        seen: set[Expr] = set()
        pending = [expr]
        while pending:
            node = pending.pop()
            if isinstance(node, Var) and node.name in scope.lanes:
                return True
            if node not in seen:
                seen.add(node)
                pending += children(node)
        return False

    def dtype(self, expr: Expr, scope: _Scope, statement: Stmt) -> DType:
        """Check ``expr``, operands first; return its dtype."""
        pending: list[tuple[Expr, bool]] = [(expr, False)]
        while pending:
            node, ready = pending.pop()
            if node in scope.known:
                continue
            if ready or not children(node):
                self.node(node, scope, statement)
                scope.known.add(node)
            else:
                pending.append((node, True))
                pending += [(child, False) for child in children(node)]
        return expr.dtype

    def node(self, node: Expr, scope: _Scope, statement: Stmt) -> None:
        match node:
            case Const():
                pass
            case Var(name=name, dtype=dtype):
                if name not in scope.variables:
                    self.fail(f"variable {name!r} is not defined here", statement)
                if scope.variables[name] is not dtype:
                    self.fail(f"variable {name!r} is {scope.variables[name]}, not {dtype}", statement)
            case Load(buffer=name, index=index, dtype=dtype) | Horizontal(buffer=name, index=index, dtype=dtype):
                buffer = self.buffer(name, scope, statement)
                if buffer.dtype is not dtype:
                    self.fail(f"{name} holds {buffer.dtype} but is read as {dtype}", statement)
                if index.dtype is not int64:
                    self.fail(f"{name} is indexed by {index.dtype}, not int64", statement)
                if isinstance(node, Horizontal):
                    self.horizontal(node, scope, statement)
            case Apply():
                self.apply(node, statement)
            case _:
                self.fail(f"{type(node).__name__} has no place in a kernel", None)

    def horizontal(self, node: Horizontal, scope: _Scope, statement: Stmt) -> None:
        if node.width < 1 or node.width & (node.width - 1):
            self.fail(f"horizontal {node.op} of {node.width} lanes: the width must be a power of two", statement)
        if node.op not in HORIZONTAL_OPS:
            self.fail(f"horizontal {node.op!r} is not one of {', '.join(sorted(HORIZONTAL_OPS))}", statement)
        if self.varies(node.index, scope):
            self.fail(f"horizontal {node.op} at an index that differs between lanes", statement)

    def apply(self, node: Apply, statement: Stmt) -> None:
        kinds = [arg.dtype for arg in node.args]
        listed = f"{node.op}({', '.join(map(str, kinds))}) -> {node.dtype}"
        if node.op == "cast":
            good = len(kinds) == 1
        elif node.op == "select":
            good = len(kinds) == 3 and kinds[0] is bool_ and kinds[1] is kinds[2] is node.dtype
        elif node.op == "fma":
            good = len(kinds) == 3 and all(kind is node.dtype for kind in kinds) and node.dtype.is_float
        elif node.op == "nearest":
            good = kinds == [float32] and node.dtype is int32
        else:
            entry = SCALAR_OPS.get(node.op)
            if entry is None:
                self.fail(f"scalar function {node.op!r} does not exist", statement)
                return
            good = len(kinds) == entry.arity and all(kind is kinds[0] for kind in kinds)
            good = good and kinds[0].kind in entry.domain
            good = good and node.dtype is (bool_ if entry.result == "bool" else kinds[0])
        if not good:
            self.fail(f"operands do not fit: {listed}", statement)


def _excerpt(kernel: Kernel, limit: int) -> str:
    """Return the text of ``kernel`` without what it calls, cut after ``limit`` lines."""
    try:
        text = print_kernel(kernel)
    except DlcError as error:  # what is wrong may be wrong enough not to print
        return f"    (not printable: {error})"
    lines = text.rstrip().splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith("def "))
    chosen = lines[start:]
    return "\n".join(chosen[:limit] + (["    ..."] if len(chosen) > limit else []))
