"""Lowers a contraction of few rows together with pointwise nodes that read its result in slices of its columns.

Each task multiplies the columns that are read together, of all slices, into scratch in the nearest cache, and
computes there: one kernel instead of two and a barrier. Weights are put into the order of tasks ahead. It must not
know how contractions are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.contract_schedule import lower_contraction
from dlc.codegen.in_place import pointwise_pairs
from dlc.codegen.loop_nest import axis_simplifier, loads
from dlc.codegen.schedule_pointwise import Assignment, pointwise_body
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis, Compute
from dlc.ir.contraction import ContractSpec, Group, infer_extents, parse_spec
from dlc.ir.cost import distinct
from dlc.ir.epilogue import no_epilogue
from dlc.ir.expr import Expr, Load, Read, Var, apply, children, const, substitute, transform
from dlc.ir.graph import Node, Value
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, LoopKind, Space, Stmt, Window
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind
from dlc.ir.simplify import Simplifier, linear_index
from dlc.ir.types import TensorType, float32

TASKS_PER_THREAD = 2
"""Tasks that each thread gets: a thread that is held up leaves one to others."""
_BLOCK, _TASK, _ZERO = "block", Var("task"), const(0)


@dataclass(frozen=True)
class Slices:
    """``count`` slices of ``width`` columns of the contraction of ``spec``; a task takes ``part`` columns of each.

    ``axis`` is the columns' axis, the first dimension of the operand ``weights`` and the last of the result.
    """

    spec: ContractSpec
    extents: Mapping[str, int]
    types: tuple[TensorType, TensorType]
    weights: int
    axis: str
    count: int
    width: int
    part: int

    @property
    def tasks(self) -> int:
        """Tasks that the columns are cut into."""
        return self.width // self.part

    def lowered(self, target: CpuTarget) -> Lowered | None:
        """Return the contraction with the columns of one task; None if it makes anything ahead but of its weights."""
        columns = self.count * self.part
        types = list(self.types)
        old = types[self.weights]
        types[self.weights] = TensorType(old.dtype, (columns, *old.shape[1:]))
        extents = {**self.extents, self.axis: columns}
        fixed = frozenset({self.weights})
        found = lower_contraction(self.spec, extents, types[0], types[1], no_epilogue(float32), target, 1, fixed)
        ahead = {o for call in found.calls[:-1] for o in call.operands if o.kind is not OperandKind.TEMPORARY}
        return found if ahead <= {Operand(OperandKind.INPUT, self.weights)} else None


def lower_slices(
    contraction: Node,
    rest: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    target: CpuTarget,
    threads: int,
    fixed: Collection[int],
) -> Lowered | None:
    """Return the calls, or None where the group is not of this form or its weights are not ``fixed`` operands."""
    group = ComputeGroup((*inputs, contraction.outputs[0]), rest)
    if group.reductions:
        return None
    computes = group.inline((), outputs)
    slices = _find(contraction, computes, outputs, target, threads, fixed)
    if slices is None:
        return None
    part = slices.lowered(target)
    if part is None:
        return None
    return _Composition(contraction, slices, inputs, outputs, target).lowered(group, computes, part)


def _find(
    contraction: Node,
    computes: Mapping[Value, Compute],
    outputs: Sequence[Value],
    target: CpuTarget,
    threads: int,
    fixed: Collection[int],
) -> Slices | None:
    types = contraction.input_types[0], contraction.input_types[1]
    result = contraction.outputs[0].type
    shapes = {computes[v].shape for v in outputs}
    if len(shapes) != 1 or any(t.dtype is not float32 for t in (*types, result)):
        return None
    shape = next(iter(shapes))
    whole = tuple(int(d) for d in result.shape)  # type: ignore[call-overload]
    if len(shape) != len(whole) or shape[:-1] != whole[:-1] or not 0 < shape[-1] < whole[-1] or whole[-1] % shape[-1]:
        return None
    spec = parse_spec(contraction.attributes["spec"])
    found = infer_extents(spec, types[0].shape, types[1].shape, dict(contraction.attributes["sizes"]))
    extents = {name: int(extent) for name, extent in found.items()}  # type: ignore[call-overload]
    axis = spec.output[-1]
    sides = (spec.lhs, spec.rhs)
    weights = [k for k in (0, 1) if k in fixed and sides[k][0] == axis]
    if len(weights) != 1 or not isinstance(axis, Group) or len(axis.axes) != 1:
        return None
    if sum(a == axis.axes[0] for side in sides for d in side for a in d.axes) != 1:
        return None
    count, width = whole[-1] // shape[-1], shape[-1]
    part = _part(count, width, target.lanes(float32.itemsize), threads)
    return None if part is None else Slices(spec, extents, types, weights[0], axis.axes[0], count, width, part)


def _part(count: int, width: int, lanes: int, threads: int) -> int | None:
    """Return the most columns of a slice for a task such that all threads get enough tasks of whole panels."""
    for tasks in range(TASKS_PER_THREAD * threads, width // lanes + 1):
        part = width // tasks
        if width % tasks == 0 and part % lanes == 0 and count * part % (2 * lanes) == 0:
            return part
    return None


def _serial(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Return statements whose tasks run one after the other."""
    found: list[Stmt] = []
    for statement in body:
        if isinstance(statement, For):
            kind = LoopKind.SERIAL if statement.kind is LoopKind.PARALLEL else statement.kind
            statement = replace(statement, kind=kind, body=_serial(statement.body))
        elif isinstance(statement, If):
            statement = replace(statement, then=_serial(statement.then), otherwise=_serial(statement.otherwise))
        found.append(statement)
    return tuple(found)


class _Composition:
    """Builds the calls: the weights in order, what the contraction makes of them ahead, and the kernel of tasks."""

    def __init__(
        self, contraction: Node, slices: Slices, inputs: Sequence[Value], outputs: Sequence[Value], target: CpuTarget
    ) -> None:
        self.slices = slices
        self.inputs = inputs
        self.outputs = outputs
        self.target = target
        self.made = contraction.outputs[0]
        self.operands = [inputs.index(v) for v in contraction.inputs]
        self.types = {f"x{k}": v.type for k, v in enumerate(inputs)} | {f"y{k}": v.type for k, v in enumerate(outputs)}

    def lowered(self, group: ComputeGroup, computes: Mapping[Value, Compute], part: Lowered) -> Lowered | None:
        """Return all calls; None where the pointwise nodes read at places that do not move with the task."""
        tasks = self.slices.tasks
        ordered = self.slices.types[self.slices.weights]
        temporaries = (ordered, *(TensorType(t.dtype, (tasks * t.size,)) for t in part.temporaries))
        types = self.types | {f"t{k}": t for k, t in enumerate(temporaries)}
        made = self._pointwise(group, computes)
        if made is None:
            return None
        pointwise, pairs = made
        product = self._product(part)
        flops = tasks * part.calls[-1].flops
        names = list(dict.fromkeys(w.buffer for call in (product, pointwise) for w in call.windows))
        names.remove(_BLOCK)
        written = {f"y{k}": next((r for w, r in pairs if w == f"y{k}"), None) for k in range(len(self.outputs))}
        overwritten = {read: name for name, read in written.items() if read is not None}
        buffers = tuple(
            Buffer(n, types[n].dtype, int(types[n].size), writable=n in written, aliases=overwritten.get(n))  # type: ignore[call-overload]
            for n in names
        )
        block = Buffer(_BLOCK, float32, self._block_size(), Space.LOCAL)
        body = (For(_TASK, const(self.slices.tasks), LoopKind.PARALLEL, (Alloc(block), product, pointwise)),)
        kernel = Kernel("contract_slices", buffers, (), body)
        calls = [KernelCall(self._order(), (self._operand(self.operands[self.slices.weights]), _temporary(0)))]
        for call in part.calls[:-1]:
            calls.append(KernelCall(self._repeated(call.kernel), tuple(self._moved(o) for o in call.operands)))
        calls.append(KernelCall(kernel, tuple(_by_name(n) for n in names), flops))
        in_place = tuple((int(name[1:]), int(read[1:])) for read, name in overwritten.items())
        return Lowered(tuple(calls), temporaries, in_place)

    def _block_size(self) -> int:
        columns = int(self.made.type.shape[-1])  # type: ignore[call-overload]
        return int(self.made.type.size) // columns * self.slices.count * self.slices.part  # type: ignore[call-overload]

    @staticmethod
    def _operand(number: int) -> Operand:
        return Operand(OperandKind.INPUT, number)

    def _moved(self, operand: Operand) -> Operand:
        """Return what stands for an operand of the contraction: temporaries follow the ordered weights."""
        if operand.kind is OperandKind.TEMPORARY:
            return _temporary(operand.index + 1)
        if operand.kind is OperandKind.INPUT and operand.index == self.slices.weights:
            return _temporary(0)
        return self._operand(self.operands[operand.index])

    def _order(self) -> Kernel:
        """Return the kernel (weights, ordered) that puts the columns of each task next to each other."""
        slices = self.slices
        rest = int(slices.types[slices.weights].size) // (slices.count * slices.width)  # type: ignore[call-overload]
        extents = (slices.tasks, slices.count, slices.part, rest)
        task, number, column, inner = (Axis(Var(name), extent) for name, extent in zip("tgci", extents, strict=True))
        strides = (
            (task, slices.part * rest),
            (number, slices.width * rest),
            (column, rest),
            (inner, 1),
        )
        source: Expr = _ZERO
        for axis, stride in strides:
            source = apply("add", source, apply("mul", axis.var, const(stride)))
        axes = (task, number, column, inner)
        simplify = axis_simplifier(axes)
        target = linear_index(tuple(a.var for a in axes), extents, simplify)
        assignment = Assignment("ordered", target, Load("weights", simplify(source), float32))
        size = prod(extents)
        buffers = (Buffer("weights", float32, size), Buffer("ordered", float32, size, writable=True))
        return Kernel("order_slices", buffers, (), pointwise_body(axes, [assignment], self.target, 1))

    def _repeated(self, kernel: Kernel) -> Kernel:
        """Return the kernel that does for every task's part what ``kernel`` does for one."""
        tasks = self.slices.tasks
        sizes = [buffer.size or 0 for buffer in kernel.buffers]
        windows = tuple(
            Window(b.name, apply("mul", _TASK, const(size))) for b, size in zip(kernel.buffers, sizes, strict=True)
        )
        call = Call(replace(kernel, name=f"{kernel.name}_part", body=_serial(kernel.body)), windows, ())
        buffers = tuple(replace(b, size=tasks * size) for b, size in zip(kernel.buffers, sizes, strict=True))
        return Kernel(kernel.name, buffers, (), (For(_TASK, const(tasks), LoopKind.PARALLEL, (call,)),))

    def _product(self, part: Lowered) -> Call:
        """Return the call that multiplies a task's columns into the block."""
        slices = self.slices
        size = int(slices.types[slices.weights].size) // slices.tasks  # type: ignore[call-overload]
        windows = []
        for operand in part.calls[-1].operands:
            if operand.kind is OperandKind.OUTPUT:
                windows.append(Window(_BLOCK, _ZERO))
                continue
            moved = self._moved(operand)
            offset: Expr = _ZERO
            if moved.kind is OperandKind.TEMPORARY:
                each = size if moved.index == 0 else int(part.temporaries[moved.index - 1].size)  # type: ignore[call-overload]
                offset = apply("mul", _TASK, const(each))
            windows.append(Window(_name(moved), offset))
        kernel = part.calls[-1].kernel
        return Call(replace(kernel, name=f"{kernel.name}_part", body=_serial(kernel.body)), tuple(windows), ())

    def _pointwise(
        self, group: ComputeGroup, computes: Mapping[Value, Compute]
    ) -> tuple[Call, list[tuple[str, str]]] | None:
        """Return the call that computes a task's columns of the outputs, and what may be overwritten."""
        axes = computes[self.outputs[0]].axes
        simplify = axis_simplifier(axes)
        index = linear_index(tuple(a.var for a in axes), tuple(a.extent for a in axes), simplify)
        assignments = []
        for number, value in enumerate(self.outputs):
            mapping: dict[Expr, Expr] = {a.var: b.var for a, b in zip(computes[value].axes, axes, strict=True)}
            body = self._from_block(simplify(substitute(computes[value].body, mapping)), group, axes, simplify)
            if body is None:
                return None
            body = loads(body, "x{}".format, group.source_type, simplify)
            assignments.append(Assignment(f"y{number}", index, body))
        steps = _steps([index, *(a.value for a in assignments)], axes[-1].var, simplify)
        if steps is None:
            return None
        steps |= {a.buffer: 1 for a in assignments}
        columns = [*axes[:-1], Axis(axes[-1].var, self.slices.part)]
        body_ = _serial(pointwise_body(columns, assignments, self.target, 1))
        read_only = {f"x{k}" for k in self.operands}
        candidates = {n: t for n, t in self.types.items() if n not in read_only}
        pairs = pointwise_pairs(assignments, candidates)
        aliases = {read: written for written, read in reversed(pairs)}
        types = self.types | {_BLOCK: self.made.type}
        buffers, windows = [], []
        for name, step in steps.items():
            buffers.append(
                Buffer(name, types[name].dtype, None, writable=name.startswith("y"), aliases=aliases.get(name))
            )
            moves = _ZERO if name == _BLOCK else apply("mul", _TASK, const(step * self.slices.part))
            windows.append(Window(name, moves))
        kernel = Kernel("slices", tuple(buffers), (), body_)
        return Call(kernel, tuple(windows), ()), [(written, read) for read, written in aliases.items()]

    def _from_block(self, body: Expr, group: ComputeGroup, axes: Sequence[Axis], simplify: Simplifier) -> Expr | None:
        """Return ``body`` with reads of the contraction as loads from the task's block; None if not all are slices."""
        source = group.source(self.made)
        slices = self.slices
        lead, column = axes[:-1], axes[-1].var
        row = linear_index(tuple(a.var for a in lead), tuple(a.extent for a in lead), simplify)
        failed = False

        def rule(expr: Expr) -> Expr | None:
            nonlocal failed
            if not isinstance(expr, Read) or expr.input != source:
                return None
            form = simplify.affine(expr.indices[-1])
            in_order = expr.indices[:-1] == tuple(simplify(a.var) for a in lead)
            if not in_order or form.terms != ((column, 1),) or form.constant % slices.width:
                failed = True
                return None
            first = form.constant // slices.width * slices.part
            start = apply("mul", row, const(slices.count * slices.part))
            return Load(_BLOCK, simplify(apply("add", start, apply("add", column, const(first)))), float32)

        found = transform(body, rule)
        return None if failed else found


def _steps(exprs: Sequence[Expr], column: Var, simplify: Simplifier) -> dict[str, int] | None:
    """Return how far each buffer's reads move from one column to the next; None where that is no one number."""
    steps: dict[str, int] = {}
    for expr in distinct(exprs):
        if not isinstance(expr, Load):
            continue
        form = simplify.affine(expr.index)
        inside = any(column in distinct([atom]) for atom, _ in form.terms if atom != column)
        if inside or steps.setdefault(expr.buffer, form.coefficient(column)) != form.coefficient(column):
            return None
    if any(e == column for value in exprs[1:] for e in _bare(value)):
        return None
    return steps


def _bare(value: Expr) -> list[Expr]:
    """Return the parts of a value outside of the indices that it reads at."""
    found: list[Expr] = []
    pending = [value]
    seen: set[Expr] = set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        found.append(current)
        if not isinstance(current, Load):
            pending += children(current)
    return found


def _temporary(number: int) -> Operand:
    return Operand(OperandKind.TEMPORARY, number)


_LETTERS = {OperandKind.INPUT: "x", OperandKind.OUTPUT: "y", OperandKind.TEMPORARY: "t"}


def _name(operand: Operand) -> str:
    return f"{_LETTERS[operand.kind]}{operand.index}"


def _by_name(name: str) -> Operand:
    return Operand(next(kind for kind, letter in _LETTERS.items() if letter == name[0]), int(name[1:]))
