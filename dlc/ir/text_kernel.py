"""Prints a Kernel as a Python function: the readable dump, its identity, and what the emulator runs.

Buffers are indexable arrays, loops are ``for`` over wrappers that name their
kind, called kernels are functions printed before. The text says everything that
changes meaning or code; notes are left out. It must not know any target.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from functools import lru_cache

from dlc.errors import DlcError
from dlc.ir.expr import Apply, Const, Expr, Horizontal, Load, Var, children, walk
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
from dlc.ir.types import DTYPES, DType, bfloat16, bool_, int64

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "equal": "==",
    "not_equal": "!=",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
}
RESERVED = frozenset(
    {*SCALAR_OPS, *DTYPES, *keyword.kwlist, *(kind.value for kind in LoopKind)}
    | {"range", "local", "shared", "window", "cast", "fma", "fma_pairs", "nearest", "horizontal", "inf", "nan"}
    | {"prefetch", "transpose", "barrier"}
    | {"tile_configure", "tile_release", "tile_zero", "tile_load", "tile_store", "tile_multiply"}
    | {"tile_multiply_int8"}
)
_DEEP = 16
"""Expressions nested deeper than this are cut by temporaries, for readers and for Python's parser."""


def print_kernel(kernel: Kernel) -> str:
    """Return ``kernel``, after the kernels that it calls, as the text of Python functions."""
    entry = kernel.name
    names: dict[Kernel, str] = {kernel: entry}
    used = {entry}
    parts: list[str] = []
    for each in _called_first(kernel):
        if each not in names:
            name, number = each.name, 1
            while name in used:
                number += 1
                name = f"{each.name}_{number}"
            used.add(name)
            names[each] = name
        called = tuple(names[c] for c in _callees(each))
        parts.append(_function_text(each, names[each], called))
    return "\n\n".join(parts) + "\n"


@lru_cache(maxsize=4096)
def _callees(kernel: Kernel) -> tuple[Kernel, ...]:
    """Return the distinct kernels that ``kernel`` calls itself."""
    return tuple(dict.fromkeys(s.kernel for s in statements(kernel.body) if isinstance(s, Call)))


@lru_cache(maxsize=1024)
def _function_text(kernel: Kernel, name: str, called: tuple[str, ...]) -> str:
    """Return one function; ``called`` names the kernels that it calls, in their order."""
    return _Printer(kernel, dict(zip(_callees(kernel), called, strict=True)) | {kernel: name}).text()


def _called_first(kernel: Kernel) -> list[Kernel]:
    order: list[Kernel] = []
    seen: set[Kernel] = set()
    pending: list[tuple[Kernel, bool]] = [(kernel, False)]
    while pending:
        current, ready = pending.pop()
        if current in seen:
            continue
        if ready:
            seen.add(current)
            order.append(current)
            continue
        pending.append((current, True))
        pending += [(callee, False) for callee in _callees(current)]
    return order


def _describe(buffer: Buffer) -> str:
    text = f"{buffer.dtype}[{'' if buffer.size is None else buffer.size}]"
    if buffer.space.value != "global":
        text += f" {buffer.space.value}"
    if buffer.writable:
        text += " writable"
    if buffer.aliases is not None:
        text += f" aliases {buffer.aliases}"
    return text


class _Printer:
    """Writes one kernel; names that Python or the scalar table takes get an underscore."""

    def __init__(self, kernel: Kernel, names: dict[Kernel, str]) -> None:
        self.kernel = kernel
        self.names = names
        self.lines: list[str] = []
        self.temporaries = 0
        self.variables: dict[str, str] = {}
        self.buffers: dict[str, str] = {}
        """Names in scope -> how they are spelt; Python has no block scopes, so shadowing gets new spellings."""

    def text(self) -> str:
        parameters = [f'{self.bind(self.buffers, b.name)}: "{_describe(b)}"' for b in self.kernel.buffers]
        parameters += [f'{self.bind(self.variables, v.name)}: "{v.dtype}"' for v in self.kernel.scalars]
        self.lines.append(f"def {self.names[self.kernel]}({', '.join(parameters)}):")
        self.block(self.kernel.body, 1)
        return "\n".join(self.lines)

    def bind(self, names: dict[str, str], name: str) -> str:
        """Spell a name that comes into scope."""
        spelt = name if name.isidentifier() else "v_" + "".join(c if c.isalnum() else f"_{ord(c)}_" for c in name)
        while spelt in RESERVED or spelt in self.variables.values() or spelt in self.buffers.values():
            spelt += "_"
        names[name] = spelt
        return spelt

    def variable(self, name: str) -> str:
        return self.variables.get(name, f"undefined_{name}")

    def buffer(self, name: str) -> str:
        return self.buffers.get(name, f"undefined_{name}")

    def put(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def block(self, body: Iterable[Stmt], depth: int) -> None:
        start, variables, buffers = len(self.lines), dict(self.variables), dict(self.buffers)
        for statement in body:
            self.statement(statement, depth)
        if len(self.lines) == start:
            self.put(depth, "pass")
        self.variables, self.buffers = variables, buffers

    def statement(self, statement: Stmt, depth: int) -> None:
        match statement:
            case For():
                self.loop(statement, depth)
            case Let(var=var, value=value):
                text = self.expr(value, depth)
                self.put(depth, f"{self.bind(self.variables, var.name)} = {text}")
            case Alloc(buffer=buffer):
                spelt = self.bind(self.buffers, buffer.name)
                self.put(depth, f"{spelt} = {buffer.space.value}({buffer.dtype}, {buffer.size})")
            case Store(buffer=buffer, index=index, value=value):
                at, text = self.expr(index, depth), self.expr(value, depth)
                self.put(depth, f"{self.buffer(buffer)}[{at}] = {text}")
            case Accumulate():
                self.accumulate(statement, depth)
            case If(condition=condition, then=then, otherwise=otherwise):
                self.put(depth, f"if {self.expr(condition, depth)}:")
                self.block(then, depth + 1)
                if otherwise:
                    self.put(depth, "else:")
                    self.block(otherwise, depth + 1)
            case Call(kernel=kernel, windows=windows, scalars=scalars):
                arguments = [f"window({self.buffer(w.buffer)}, {self.expr(w.offset, depth)})" for w in windows]
                arguments += [self.expr(scalar, depth) for scalar in scalars]
                self.put(depth, f"{self.names[kernel]}({', '.join(arguments)})")
            case Prefetch(buffer=buffer, index=index, level=level):
                where = f", {level}" if level != 1 else ""
                self.put(depth, f"prefetch({self.buffer(buffer)}, {self.expr(index, depth)}{where})")
            case Transpose():
                sides = [
                    f"window({self.buffer(w.buffer)}, {self.expr(w.offset, depth)}), {self.expr(stride, depth)}"
                    for w, stride in (
                        (statement.target, statement.target_stride),
                        (statement.source, statement.source_stride),
                    )
                ]
                rows = f", {self.expr(statement.rows, depth)}" if statement.rows is not None else ""
                self.put(depth, f"transpose({', '.join(sides)}, {statement.size}{rows})")
            case Barrier():
                self.put(depth, "barrier()")
            case TileConfigure():
                self.put(depth, "tile_configure()")
            case TileRelease():
                self.put(depth, "tile_release()")
            case TileZero(tile=tile):
                self.put(depth, f"tile_zero({tile})")
            case TileLoad(tile=tile, buffer=buffer, index=index, stride=stride):
                at = f"{self.expr(index, depth)}, {self.expr(stride, depth)}"
                self.put(depth, f"tile_load({tile}, {self.buffer(buffer)}, {at})")
            case TileStore(tile=tile, buffer=buffer, index=index, stride=stride):
                at = f"{self.expr(index, depth)}, {self.expr(stride, depth)}"
                self.put(depth, f"tile_store({tile}, {self.buffer(buffer)}, {at})")
            case TileMultiply(target=target, left=left, right=right, dtype=dtype):
                suffix = "" if dtype is bfloat16 else f"_{dtype}"
                self.put(depth, f"tile_multiply{suffix}({target}, {left}, {right})")
            case _:
                raise DlcError(f"kernel {self.kernel.name}: {type(statement).__name__} is not a statement")

    def loop(self, loop: For, depth: int) -> None:
        header = self.expr(loop.extent, depth)
        saved = dict(self.variables)
        name = self.bind(self.variables, loop.var.name)
        if loop.active is not None:
            header += f", lambda {name}: {_Lazy(self).show(loop.active)}"
        wrapper = "range" if loop.kind is LoopKind.SERIAL else loop.kind.value
        self.put(depth, f"for {name} in {wrapper}({header}):")
        self.block(loop.body, depth + 1)
        self.variables = saved

    def accumulate(self, statement: Accumulate, depth: int) -> None:
        target = f"{self.buffer(statement.buffer)}[{self.expr(statement.index, depth)}]"
        value = statement.value
        if statement.op in ("fma", "fma_pairs"):
            if not (isinstance(value, Apply) and value.op == "mul"):
                raise DlcError(f"kernel {self.kernel.name}: fma into {statement.buffer} wants a product, not {value}")
            operands = ", ".join(self.expr(arg, depth) for arg in value.args)
            self.put(depth, f"{target} = {statement.op}({operands}, {target})")
        elif statement.op in ("add", "sub", "mul"):
            self.put(depth, f"{target} {INFIX[statement.op]}= {self.expr(value, depth)}")
        else:
            self.put(depth, f"{target} = {statement.op}({target}, {self.expr(value, depth)})")

    def expr(self, expr: Expr, depth: int) -> str:
        """Return the text of ``expr``, after temporaries for what it shares or nests too deeply."""
        lazy = _Lazy(self)
        for root, eager in lazy.cuts(expr):
            name = f"t{self.temporaries}"
            self.temporaries += 1
            while name in self.variables.values() or name in self.buffers.values():
                name += "_"
            self.put(depth, f"{name} = {'' if eager else 'lambda: '}{lazy.show(root)}")
            lazy.named[root] = name if eager else f"{name}()"
        return lazy.show(expr)


class _Lazy:
    """Spells one expression; subexpressions already given a name are spelt by it."""

    def __init__(self, printer: _Printer) -> None:
        self.printer = printer
        self.named: dict[Expr, str] = {}

    def cuts(self, expr: Expr) -> list[tuple[Expr, bool]]:
        """Return the subexpressions to name, operands first, each with whether it may be computed at once.

        What a select guards must stay lazy if it reads memory, since the index may be out of bounds.
        """
        if _is_small(expr):
            return []
        order, uses = _postorder(expr)
        always = _always_evaluated(expr)
        reads: set[Expr] = set()
        height: dict[Expr, int] = {}
        chosen = []
        for node in order:
            below = [child for child in children(node) if not isinstance(child, (Const, Var))]
            height[node] = 1 + max((height[child] for child in below), default=0)
            if isinstance(node, (Load, Horizontal)) or any(child in reads for child in below):
                reads.add(node)
            if node is not expr and (uses[node] > 1 or height[node] > _DEEP):
                chosen.append((node, node in always or node not in reads))
                height[node] = 0
        return chosen

    def show(self, expr: Expr) -> str:
        named = self.named.get(expr)
        if named is not None:
            return named
        match expr:
            case Const(value=value, dtype=dtype):
                return _literal(value, dtype)
            case Var(name=name):
                return self.printer.variable(name)
            case Load(buffer=buffer, index=index):
                return f"{self.printer.buffer(buffer)}[{self.bare(index)}]"
            case Horizontal(op=op, buffer=buffer, index=index, width=width):
                return f"horizontal({op}, {self.printer.buffer(buffer)}, {self.bare(index)}, {width})"
            case Apply(op="select", args=(condition, a, b)):
                return f"({self.show(a)} if {self.show(condition)} else {self.show(b)})"
            case Apply(op="cast", args=(x,), dtype=dtype):
                return f"cast({self.bare(x)}, {dtype})"
            case Apply(op=op, args=args) if op in INFIX and args[0].dtype is not bool_:
                return f"({self.show(args[0])} {INFIX[op]} {self.show(args[1])})"
            case Apply(op="floor_div" | "floor_mod" as op, args=(x, Const(value=value, dtype=dtype))) if (
                dtype is int64 and value > 0
            ):
                return f"({self.show(x)} {'//' if op == 'floor_div' else '%'} {value})"
            case Apply(op=op, args=args):
                return f"{op}({', '.join(self.bare(arg) for arg in args)})"
        raise DlcError(f"kernel {self.printer.kernel.name}: {type(expr).__name__} has no place in a kernel")

    def bare(self, expr: Expr) -> str:
        """Spell without the outermost parentheses."""
        text = self.show(expr)
        if text[0] == "(" and expr not in self.named:
            return text[1:-1]
        return text


def _is_small(expr: Expr) -> bool:
    """Whether ``expr`` is a handful of nodes, shared or not: spelling them out is shortest."""
    pending, budget = [expr], 5
    while pending:
        node = pending.pop()
        if isinstance(node, (Const, Var)):
            continue
        budget -= 1
        if not budget:
            return False
        pending += children(node)
    return True


def _postorder(expr: Expr) -> tuple[list[Expr], dict[Expr, int]]:
    """Return the distinct inner nodes, operands first, and how often each is an operand."""
    order: list[Expr] = []
    uses: dict[Expr, int] = {}
    pending: list[tuple[Expr, bool]] = [(expr, False)]
    while pending:
        node, ready = pending.pop()
        if isinstance(node, (Const, Var)):
            continue
        if ready:
            order.append(node)
            continue
        uses[node] = uses.get(node, 0) + 1
        if uses[node] == 1:
            pending.append((node, True))
            pending += [(child, False) for child in reversed(children(node))]
    return order, uses


def _always_evaluated(expr: Expr) -> set[Expr]:
    """Return the nodes that no select guards."""
    found: set[Expr] = set()
    pending = [expr]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        operands = children(node)
        pending += operands[:1] if isinstance(node, Apply) and node.op == "select" else operands
    return found


def _literal(value: int | float | bool, dtype: DType) -> str:
    if dtype is int64:
        return str(int(value)) if value >= 0 else f"({int(value)})"
    if dtype is bool_:
        return "True" if value else "False"
    if dtype.kind == "float":
        return f"{dtype}({float(value)!r})"
    return f"{dtype}({int(value)})"


def used_buffers(expr: Expr) -> set[str]:
    """Return the names of the buffers that ``expr`` reads."""
    return {node.buffer for node in walk(expr) if isinstance(node, (Load, Horizontal))}
