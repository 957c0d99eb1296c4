"""Kernel to LLVM IR text: statements, functions, modules.

An entry kernel becomes ``void symbol(ptr buffers, i64 begin, i64 end, ptr scratch)`` that runs tasks of an
internal function with one noalias pointer per buffer; called kernels become functions of their own. It
must not know how modules are compiled or run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlc.codegen.llvm import index as llvm_index
from dlc.codegen.llvm.expr import evaluate, evaluate_deep
from dlc.codegen.llvm.memory import address, conflicts, load, prefetch, store, transpose
from dlc.codegen.llvm.pairs import accumulate_pairs
from dlc.codegen.llvm.scalar import BASIC, call
from dlc.codegen.llvm.state import Callee, FunctionState, Memory, ModuleState
from dlc.codegen.llvm.tasks import emit_task_loop
from dlc.codegen.llvm.tiles import TILE_STATEMENTS
from dlc.codegen.llvm.types import memory_type, register_type
from dlc.codegen.llvm.values import Value, integer, materialize, uniform_index
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.expr import Apply, Const, apply, const
from dlc.ir.kernel import (
    Accumulate,
    Alloc,
    Barrier,
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
    Transpose,
)
from dlc.ir.kernel_digest import fingerprint
from dlc.ir.types import bool_, int64

LOCAL_LIMIT = 4096
"""Private arrays above this many bytes live in the thread's scratch memory instead of on the stack."""
_ALIGN = 64


@dataclass(frozen=True)
class EmittedModule:
    """LLVM IR ``text`` with, per entry kernel name, its symbol and the scratch bytes that one thread needs."""

    text: str
    symbols: dict[str, str]
    scratch_bytes: dict[str, int]


def emit_module(kernels: Sequence[Kernel], target: CpuTarget) -> EmittedModule:
    """Emit ``kernels`` as entries of one module, and what they call once.

    Raises:
        CompileError: a kernel uses something that this target cannot express, or two kernels share a name.
    """
    module = ModuleState(target)
    symbols: dict[str, str] = {}
    scratch: dict[str, int] = {}
    for kernel in kernels:
        if kernel.name in symbols:
            raise CompileError(f"two kernels of one module are called {kernel.name!r}; give each its own name")
        symbols[kernel.name] = symbol_of(kernel)
        scratch[kernel.name] = emit_entry(module, kernel)
    return EmittedModule(module_text(module), symbols, scratch)


def module_text(module: ModuleState) -> str:
    """Return the LLVM IR of what has been emitted into ``module``."""
    width = module.target.vector_bytes * 8
    attributes = f'nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
    parts = [
        f'target triple = "{module.target.triple}"',
        *module.globals.values(),
        *(f"declare {signature}" for signature in module.declarations),
        *module.functions,
        f"attributes #0 = {{ {attributes} }}",
        "attributes #1 = { nounwind willreturn memory(none) }",
        f"attributes #2 = {{ noinline optnone {attributes} }}",
        "",
    ]
    return "\n".join(parts)


def symbol_of(kernel: Kernel) -> str:
    """Return the symbol of a kernel: its name and a digest of its text, so that equal symbols mean equal code."""
    digest = fingerprint(kernel)[:16]
    name = "".join(c if c.isalnum() or c == "_" else "_" for c in kernel.name)
    return f"dlc_{name}_{digest}"


# -- functions ---------------------------------------------------------------------------------------


def _parameters(s: FunctionState, kernel: Kernel) -> list[str]:
    """Declare the kernel's buffers and scalars; return the parameter list."""
    shared = {b.aliases for b in kernel.buffers if b.aliases} | {b.name for b in kernel.buffers if b.aliases}
    parameters = []
    for number, buffer in enumerate(kernel.buffers):
        pointer = f"%b{number}"
        s.memory[buffer.name] = Memory(pointer, buffer.dtype, buffer.size, buffer.writable, False)
        # An in-place pair is the same memory on purpose: without noalias its reads and writes stay in order.
        flags = "" if buffer.name in shared else " noalias"
        parameters.append(f"ptr{flags}{'' if buffer.writable or buffer.name in shared else ' readonly'} {pointer}")
    for number, scalar in enumerate(kernel.scalars):
        parameters.append(f"i64 %s{number}")
        s.env[scalar.name] = uniform_index(f"%s{number}")
    return parameters


def _finish(s: FunctionState) -> list[str]:
    """Return the lines of a function between its header and its end."""
    return ["entry:", *s.allocas, *s.lines, "  ret void"]


def emit_entry(module: ModuleState, kernel: Kernel) -> int:
    """Emit an entry kernel, its body function and what it calls; return the scratch bytes of a task.

    Raises CompileError as ``emit_module`` does.
    """
    symbol = symbol_of(kernel)
    if kernel.scalars:
        raise CompileError(f"kernel {kernel.name}: an entry kernel takes no scalars")
    s = FunctionState(module, kernel)
    parameters = _parameters(s, kernel)
    extents: list[int] = []
    body = kernel.body
    for loop in kernel.task_loops:
        if not isinstance(loop.extent, Const):
            raise CompileError(f"kernel {kernel.name}: parallel loop {loop.var.name} needs a constant extent")
        extent = int(loop.extent.value)
        if extent == 1:
            s.env[loop.var.name] = integer(0)
        else:
            parameters.append(f"i64 %task{len(extents)}")
            s.env[loop.var.name] = uniform_index(f"%task{len(extents)}", 0, extent - 1)
            extents.append(extent)
        body = loop.body
    block(s, body)
    parameters += [f"ptr noalias {pointer}" for pointer in module.frame]
    header = f"define internal void @{symbol}.task({', '.join(parameters)}) #0 {{"
    module.functions.append("\n".join([header, *_finish(s), "}"]))
    emit_task_loop(module, symbol, len(kernel.buffers), extents)
    return s.scratch_bytes


def _callee(module: ModuleState, kernel: Kernel) -> tuple[str, int]:
    """Return symbol and scratch bytes of a called kernel, emitting it the first time."""
    known = module.find(kernel)
    if known is None:
        s = FunctionState(module, kernel)
        parameters = _parameters(s, kernel)
        block(s, kernel.body)
        symbol = symbol_of(kernel)
        parameters += [f"ptr noalias {pointer}" for pointer in module.frame]
        signature = f"@{symbol}({', '.join(parameters)}) noinline #0"
        known = module.define(kernel, Callee(symbol, s.scratch_bytes, f"void {signature}"), _finish(s))
    return known.symbol, known.scratch_bytes


# -- statements --------------------------------------------------------------------------------------


def block(s: FunctionState, body: Sequence[Stmt]) -> None:
    """Emit statements in order; names bound inside end with the block."""
    with s.scope():
        _statements(s, body)


def _statements(s: FunctionState, body: Sequence[Stmt]) -> None:
    for statement in body:
        _EMIT[type(statement)](s, statement)


def _let(s: FunctionState, statement: Let) -> None:
    s.bind(statement.var.name, evaluate_deep(s, statement.value))


def _alloc(s: FunctionState, statement: Alloc) -> None:
    buffer = statement.buffer
    if buffer.size is None or buffer.space is Space.SHARED:
        raise CompileError(f"kernel {s.kernel.name}: {buffer.name} must be a local array of known size on a CPU")
    kind = memory_type(buffer.dtype)
    nbytes = max(1, buffer.size) * buffer.dtype.itemsize
    if nbytes <= LOCAL_LIMIT:
        pointer = f"%{s.label('local')}"
        s.allocas.append(f"  {pointer} = alloca [{max(1, buffer.size)} x {kind}], align {_ALIGN}")
    else:
        offset = s.scratch_offset
        s.scratch_offset = offset + -(-nbytes // _ALIGN) * _ALIGN
        s.scratch_bytes = max(s.scratch_bytes, s.scratch_offset)
        pointer = s.op(f"getelementptr inbounds i8, ptr %scratch, i64 {offset}") if offset else "%scratch"
    if buffer.name in s.memory:
        s.reads = {}
    s.memory[buffer.name] = Memory(pointer, buffer.dtype, buffer.size, True, nbytes <= LOCAL_LIMIT)


def _writable(s: FunctionState, name: str) -> Memory:
    memory = s.buffer(name)
    if not memory.writable:
        raise CompileError(f"kernel {s.kernel.name}: buffer {name!r} is not writable")
    return memory


def _store(s: FunctionState, statement: Store) -> None:
    memory = _writable(s, statement.buffer)
    value = evaluate_deep(s, statement.value)
    store(s, memory, evaluate(s, statement.index), value)
    s.wrote()


def _accumulate(s: FunctionState, statement: Accumulate) -> None:
    memory = _writable(s, statement.buffer)
    product = statement.value
    if statement.op == "fma_pairs":
        accumulate_pairs(s, memory, statement)
        s.wrote()
        return
    fused = statement.op == "fma"
    if fused and not (isinstance(product, Apply) and product.op == "mul"):
        raise CompileError(f"kernel {s.kernel.name}: fma into {statement.buffer!r} wants a product")
    if fused and s.target.has_fma and memory.dtype.is_float:
        values = [evaluate_deep(s, operand) for operand in product.args]  # type: ignore[union-attr]
    else:
        values = [evaluate_deep(s, product)]
    index = evaluate(s, statement.index)
    if s.lanes and conflicts(index):
        _accumulate_in_order(s, memory, index, statement.op, values)
    else:
        old = load(s, memory, index)
        store(s, memory, index, _combine(s, statement.op, old, values))
    s.wrote()


def _combine(s: FunctionState, op: str, old: Value, values: list[Value]) -> Value:
    lanes = s.lanes if old.varies or any(value.varies for value in values) else 0
    texts = [materialize(s, value, lanes) for value in values]
    current = materialize(s, old, lanes)
    if len(values) == 2:
        return Value(call(s, "fma", register_type(old.dtype, lanes), *texts, current), old.dtype, lanes)
    return Value(BASIC["add" if op == "fma" else op](s, [current, *texts], old.dtype, lanes), old.dtype, lanes)


def _accumulate_in_order(s: FunctionState, memory: Memory, index: Value, op: str, values: list[Value]) -> None:
    """Lanes may meet in one element: update lane by lane, in order."""
    lanes, mask = s.lanes, s.mask
    where = materialize(s, index, lanes)
    vectors = [materialize(s, value, lanes) for value in values]
    head, body, latch, done = (s.label(hint) for hint in ("lane", "update", "lane_next", "lane_end"))
    before = s.block
    counter, following = f"%{s.label('l')}", f"%{s.label('l')}"
    s.branch(head)
    s.start(head)
    s.do(f"{counter} = phi i64 [ 0, %{before} ], [ {following}, %{latch} ]")
    if mask is None:
        s.branch(body)
    else:
        s.branch_if(s.op(f"extractelement <{lanes} x i1> {mask}, i64 {counter}"), body, latch)
    s.start(body)
    s.lanes, s.mask = 0, None
    at = Value(s.op(f"extractelement <{lanes} x i64> {where}, i64 {counter}"), int64)
    old = load(s, memory, at)
    ones = [
        Value(s.op(f"extractelement {register_type(value.dtype, lanes)} {vector}, i64 {counter}"), value.dtype)
        for value, vector in zip(values, vectors, strict=True)
    ]
    store(s, memory, at, _combine(s, op, old, ones))
    s.lanes, s.mask = lanes, mask
    s.branch(latch)
    s.start(latch)
    s.do(f"{following} = add nuw nsw i64 {counter}, 1")
    s.branch_if(s.op(f"icmp eq i64 {following}, {lanes}"), done, head)
    s.start(done)


def _if(s: FunctionState, statement: If) -> None:
    condition = evaluate_deep(s, statement.condition)
    if condition.varies:
        raise CompileError(f"kernel {s.kernel.name}: the condition of If differs between lanes; use select")
    if condition.text in ("true", "false"):
        block(s, statement.then if condition.text == "true" else statement.otherwise)
        return
    then, otherwise, after = s.label("then"), s.label("else"), s.label("after")
    s.branch_if(condition.text, then, otherwise if statement.otherwise else after)
    s.start(then)
    block(s, statement.then)
    s.branch(after)
    if statement.otherwise:
        s.start(otherwise)
        block(s, statement.otherwise)
        s.branch(after)
    s.start(after)


def _call(s: FunctionState, statement: Call) -> None:
    if s.lanes:
        raise CompileError(f"kernel {s.kernel.name}: a call cannot stand in a vector loop")
    symbol, scratch = _callee(s.module, statement.kernel)
    arguments = []
    for window in statement.windows:
        arguments.append(f"ptr {address(s, s.buffer(window.buffer), evaluate(s, window.offset))}")
    for scalar in statement.scalars:
        arguments.append(f"i64 {evaluate(s, scalar).text}")
    area, *others = s.module.frame
    if scratch:
        area = s.op(f"getelementptr inbounds i8, ptr %scratch, i64 {s.scratch_offset}")
        s.scratch_bytes = max(s.scratch_bytes, s.scratch_offset + scratch)
    arguments += [f"ptr {pointer}" for pointer in (area, *others)]
    s.do(f"call void @{symbol}({', '.join(arguments)}) #0")
    s.wrote()


def _prefetch(s: FunctionState, statement: Prefetch) -> None:
    prefetch(s, s.buffer(statement.buffer), evaluate(s, statement.index), statement.level)


def _transpose(s: FunctionState, statement: Transpose) -> None:
    sides = []
    for window, stride in (
        (statement.target, statement.target_stride),
        (statement.source, statement.source_stride),
    ):
        begin, step = evaluate(s, window.offset), evaluate(s, stride)
        sides.append([llvm_index.add(s, begin, llvm_index.scale(s, step, k)) for k in range(statement.size)])
    if statement.rows is not None:
        last = apply("sub", statement.rows, const(1))
        numbers = [apply("minimum", const(k), last) for k in range(1, statement.size)]
        offsets = [apply("mul", statement.source_stride, number) for number in numbers]
        sides[1][1:] = [evaluate(s, apply("add", statement.source.offset, offset)) for offset in offsets]
    target, source = _writable(s, statement.target.buffer), s.buffer(statement.source.buffer)
    transpose(s, target, sides[0], source, sides[1])
    s.wrote()


def _barrier(s: FunctionState, statement: Barrier) -> None:
    raise CompileError(f"kernel {s.kernel.name}: a barrier belongs to GPU blocks and has no meaning on a CPU")


def _for(s: FunctionState, statement: For) -> None:
    extent = evaluate(s, statement.extent)
    if extent.varies:
        raise CompileError(f"kernel {s.kernel.name}: the extent of loop {statement.var.name} differs between lanes")
    count = extent.constant
    if statement.kind in (LoopKind.VECTOR, LoopKind.UNROLL) and count is None:
        name = f"{statement.kind} loop {statement.var.name}"
        raise CompileError(f"kernel {s.kernel.name}: {name} needs a constant extent")
    if statement.kind in (LoopKind.GRID, LoopKind.BLOCK):
        raise CompileError(f"kernel {s.kernel.name}: {statement.kind} loop {statement.var.name} belongs to a GPU")
    if statement.kind is LoopKind.VECTOR and count is not None and count > 1:
        _vector_loop(s, statement, count)
    elif statement.active is not None:
        raise CompileError(f"kernel {s.kernel.name}: only a vector loop of two lanes or more can be masked")
    elif count is not None and (count <= 1 or statement.kind in (LoopKind.VECTOR, LoopKind.UNROLL)):
        for iteration in range(count):
            with s.scope():
                s.bind(statement.var.name, integer(iteration))
                _statements(s, statement.body)
    else:
        _counted_loop(s, statement, extent)


def _counted_loop(s: FunctionState, statement: For, extent: Value) -> None:
    """A loop in LLVM's canonical rotated form: guard, body, latch."""
    body, latch, done = (s.label(hint) for hint in (f"{_word(statement.var.name)}.", "latch", "done"))
    low = extent.low
    if low is None or low < 1:
        first = s.label("enter")
        s.branch_if(s.op(f"icmp sgt i64 {extent.text}, 0"), first, done)
        s.start(first)
    before = s.block
    s.branch(body)
    s.start(body)
    counter, following = f"%{s.label('i')}", f"%{s.label('i')}"
    s.do(f"{counter} = phi i64 [ 0, %{before} ], [ {following}, %{latch} ]")
    with s.scope(repeats=True):
        s.bind(statement.var.name, uniform_index(counter, 0, None if extent.high is None else extent.high - 1))
        _statements(s, statement.body)
    s.branch(latch)
    s.start(latch)
    s.do(f"{following} = add nuw nsw i64 {counter}, 1")
    s.branch_if(s.op(f"icmp eq i64 {following}, {extent.text}"), done, body)
    s.start(done)


def _word(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


def _vector_loop(s: FunctionState, statement: For, lanes: int) -> None:
    if s.lanes:
        raise CompileError(f"kernel {s.kernel.name}: vector loop {statement.var.name} stands in another vector loop")
    with s.scope():
        s.lanes = lanes
        s.bind(statement.var.name, Value("0", int64, 0, 1, 0, 0, 0, True))
        if statement.active is not None:
            active = evaluate_deep(s, statement.active)
            if active.dtype is not bool_:
                raise CompileError(f"kernel {s.kernel.name}: active of loop {statement.var.name} must be a bool")
            if active.text != "true":
                s.mask = materialize(s, active, lanes)
        _statements(s, statement.body)
        s.lanes, s.mask = 0, None


_EMIT: dict[type, Callable[..., None]] = {
    For: _for,
    Let: _let,
    Alloc: _alloc,
    Store: _store,
    Accumulate: _accumulate,
    If: _if,
    Call: _call,
    Prefetch: _prefetch,
    Transpose: _transpose,
    Barrier: _barrier,
    **TILE_STATEMENTS,
}
