"""Lowers a contraction of few rows together with pointwise nodes that read its result in slices of its columns.

Columns that are read together, of all slices, are multiplied into scratch in the nearest cache, and what reads them
is computed there: one kernel instead of two and a barrier. Tasks are such groups of columns or, in a loop of nothing
else, groups of rows: what an iteration needs of the one before is then the same task's, and no thread waits for
another. Weights are put into the order of column groups ahead. It must not know how contractions are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.loops.nest import axis_simplifier, loads
from dlc.codegen.loops.pointwise import Assignment, pointwise_body
from dlc.codegen.lower.contraction import lower_contraction
from dlc.codegen.lower.in_place import pointwise_pairs
from dlc.codegen.places import whole
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis, Compute
from dlc.ir.contraction import ContractSpec, DimIndex, Group, infer_extents, parse_spec, side_axes
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
CHAIN_BYTES_PER_CYCLE = 16
"""What a task of rows may read of the weights, all of which it needs, without waiting for the last cache level."""
_BLOCK, _TASK, _CHAIN, _ZERO = "block", Var("task"), Var("chain"), const(0)


@dataclass(frozen=True)
class Slices:
    """``count`` slices of ``width`` columns of the contraction of ``spec``; ``part`` of each are taken together.

    ``axis`` is the columns' axis, the first dimension of the operand ``weights`` and the last of the result.
    ``chains`` groups of ``rows`` rows, the result's first dimension, are tasks; if there is one, groups of columns are.
    """

    spec: ContractSpec
    extents: Mapping[str, int]
    types: tuple[TensorType, TensorType]
    weights: int
    axis: str
    count: int
    width: int
    part: int
    chains: int
    rows: int

    @property
    def groups(self) -> int:
        """Groups that the columns are cut into."""
        return self.width // self.part

    def lowered(self, target: CpuTarget) -> Lowered | None:
        """Return the contraction of one group; None if it makes anything ahead but of its weights."""
        columns = self.count * self.part
        types = list(self.types)
        old = types[self.weights]
        types[self.weights] = TensorType(old.dtype, (columns, *old.shape[1:]))
        extents = {**self.extents, self.axis: columns}
        if self.chains > 1:
            old = types[1 - self.weights]
            types[1 - self.weights] = TensorType(old.dtype, (self.rows, *old.shape[1:]))
            extents[_only_axis(self.spec.output[0])] = self.rows
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
    alone: bool = False,
) -> Lowered | None:
    """Return the calls, or None where the group is not of this form or its weights are not ``fixed`` operands.

    Where the group is ``alone`` in a loop, tasks are groups of rows if that pays.
    """
    group = ComputeGroup((*inputs, contraction.outputs[0]), rest)
    if group.reductions:
        return None
    computes = group.inline((), outputs)
    slices = _find(contraction, computes, outputs, fixed)
    if slices is None:
        return None
    for form in (_in_chains(slices, target, threads) if alone else None, _in_groups(slices, target, threads)):
        part = form.lowered(target) if form is not None else None
        if form is not None and part is not None:
            composed = _Composition(contraction, form, inputs, outputs, target).lowered(group, computes, part)
            if composed is not None:
                return composed
    return None


def _find(
    contraction: Node,
    computes: Mapping[Value, Compute],
    outputs: Sequence[Value],
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
    return Slices(spec, extents, types, weights[0], axis.axes[0], count, width, width, chains=1, rows=prod(shape[:-1]))


def _part(count: int, width: int, lanes: int, least: int) -> int | None:
    """Return the most columns of a slice for a group, ``least`` groups or more, such that panels are whole."""
    for groups in range(least, width // lanes + 1):
        part = width // groups
        if width % groups == 0 and part % lanes == 0 and count * part % (2 * lanes) == 0:
            return part
    return None


def _in_groups(slices: Slices, target: CpuTarget, threads: int) -> Slices | None:
    """Return the slices with groups of columns as tasks; None where there are too few columns."""
    lanes = target.lanes(float32.itemsize)
    part = _part(slices.count, slices.width, lanes, TASKS_PER_THREAD * threads)
    return None if part is None else replace(slices, part=part)


def _in_chains(slices: Slices, target: CpuTarget, threads: int) -> Slices | None:
    """Return the slices with a task of rows for each thread; None where it would wait for weights.

    Two multiply-adds a cycle use a vector of weights for every row, so fewer rows need more bytes of them a cycle.
    """
    spec, lanes = slices.spec, target.lanes(float32.itemsize)
    sides = (spec.lhs, spec.rhs)
    axis = _only_axis(spec.output[0])
    rows = slices.rows // threads
    if threads == 1 or len(spec.output) != 2 or rows * threads != slices.rows or not axis:
        return None
    own = sides[1 - slices.weights]
    once = own[0] == spec.output[0] and axis not in side_axes(own[1:])
    if not once or axis in side_axes(sides[slices.weights]):
        return None
    if rows * CHAIN_BYTES_PER_CYCLE < 2 * lanes * float32.itemsize:
        return None
    block = rows * slices.count * slices.width * float32.itemsize
    part = _part(slices.count, slices.width, lanes, max(1, -(-2 * block // target.l1_bytes)))
    return None if part is None else replace(slices, part=part, chains=threads, rows=rows)


def _only_axis(dim: DimIndex) -> str:
    """Return the one axis that a dimension is, "" where it is anything else."""
    return dim.axes[0] if isinstance(dim, Group) and len(dim.axes) == 1 else ""


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
        groups = self.slices.groups
        ordered = self.slices.types[self.slices.weights]
        temporaries = (ordered, *(TensorType(t.dtype, (groups * t.size,)) for t in part.temporaries))
        types = self.types | {f"t{k}": t for k, t in enumerate(temporaries)}
        made = self._pointwise(group, computes)
        if made is None:
            return None
        pointwise, pairs, split = made
        product = self._product(part)
        flops = self.slices.chains * groups * part.calls[-1].flops
        names = list(dict.fromkeys(w.buffer for call in (product, pointwise) for w in call.windows))
        names.remove(_BLOCK)
        written = {f"y{k}": next((r for w, r in pairs if w == f"y{k}"), None) for k in range(len(self.outputs))}
        overwritten = {read: name for name, read in written.items() if read is not None}
        buffers = tuple(
            Buffer(n, types[n].dtype, int(types[n].size), writable=n in written, aliases=overwritten.get(n))  # type: ignore[call-overload]
            for n in names
        )
        block = Buffer(_BLOCK, float32, self._block_size(), Space.LOCAL)
        chains = self.slices.chains
        kind = LoopKind.SERIAL if chains > 1 else LoopKind.PARALLEL
        loop = For(_TASK, const(groups), kind, (product, pointwise))
        if chains > 1:
            body: tuple[Stmt, ...] = (For(_CHAIN, const(chains), LoopKind.PARALLEL, (Alloc(block), loop)),)
        else:
            body = (replace(loop, body=(Alloc(block), *loop.body)),)
        kernel = Kernel("contract_slices", buffers, (), body)
        calls = [KernelCall(self._order(), (self._operand(self.operands[self.slices.weights]), _temporary(0)))]
        for call in part.calls[:-1]:
            calls.append(KernelCall(self._repeated(call.kernel), tuple(self._moved(o) for o in call.operands)))
        parted = tuple(k for k, n in enumerate(names) if n in split) if chains > 1 else ()
        calls.append(KernelCall(kernel, tuple(_by_name(n) for n in names), flops, parted))
        in_place = tuple((int(name[1:]), int(read[1:])) for read, name in overwritten.items())
        return Lowered(tuple(calls), temporaries, in_place)

    def _block_size(self) -> int:
        return self.slices.rows * self.slices.count * self.slices.part

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
        extents = (slices.groups, slices.count, slices.part, rest)
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
        groups = self.slices.groups
        sizes = [buffer.size or 0 for buffer in kernel.buffers]
        windows = tuple(
            Window(b.name, apply("mul", _TASK, const(size))) for b, size in zip(kernel.buffers, sizes, strict=True)
        )
        call = Call(replace(kernel, name=f"{kernel.name}_part", body=_serial(kernel.body)), windows, ())
        buffers = tuple(replace(b, size=groups * size) for b, size in zip(kernel.buffers, sizes, strict=True))
        return Kernel(kernel.name, buffers, (), (For(_TASK, const(groups), LoopKind.PARALLEL, (call,)),))

    def _product(self, part: Lowered) -> Call:
        """Return the call that multiplies a task's columns into the block."""
        slices = self.slices
        size = int(slices.types[slices.weights].size) // slices.groups  # type: ignore[call-overload]
        rows = int(slices.types[1 - slices.weights].size) // slices.chains  # type: ignore[call-overload]
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
            elif slices.chains > 1:
                offset = apply("mul", _CHAIN, const(rows))
            windows.append(Window(_name(moved), offset))
        kernel = part.calls[-1].kernel
        return Call(replace(kernel, name=f"{kernel.name}_part", body=_serial(kernel.body)), tuple(windows), ())

    def _pointwise(
        self, group: ComputeGroup, computes: Mapping[Value, Compute]
    ) -> tuple[Call, list[tuple[str, str]], set[str]] | None:
        """Return the call that computes a group of the outputs, what may be overwritten, and what is split by rows."""
        axes = computes[self.outputs[0]].axes
        simplify = axis_simplifier(axes)
        index = linear_index(tuple(a.var for a in axes), tuple(a.extent for a in axes), simplify)
        assignments = []
        for number, value in enumerate(self.outputs):
            mapping: dict[Expr, Expr] = {a.var: b.var for a, b in zip(computes[value].axes, axes, strict=True)}
            body = self._from_block(simplify(substitute(computes[value].body, mapping)), group, axes, simplify)
            if body is None:
                return None
            body = loads(body, lambda k: whole(f"x{k}", group.source_type(k)), simplify)
            assignments.append(Assignment(f"y{number}", index, body))
        values = [a.value for a in assignments]
        steps = _steps([index, *values], axes[-1].var, simplify)
        lines = _steps([index, *values], axes[0].var, simplify) if self.slices.chains > 1 else {}
        if steps is None or lines is None:
            return None
        steps |= {a.buffer: 1 for a in assignments}
        taken = [*axes[:-1], Axis(axes[-1].var, self.slices.part)]
        split: set[str] = set()
        if self.slices.chains > 1:
            lines |= {a.buffer: simplify.affine(index).coefficient(axes[0].var) for a in assignments}
            found = self._split(lines, values, axes[0], simplify)
            if found is None:
                return None
            split = found
            taken[0] = Axis(axes[0].var, self.slices.rows)
        body_ = _serial(pointwise_body(taken, assignments, self.target, 1))
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
            moves: Expr = _ZERO if name == _BLOCK else apply("mul", _TASK, const(step * self.slices.part))
            if name in split:
                moves = apply("add", moves, apply("mul", _CHAIN, const(lines[name] * self.slices.rows)))
            windows.append(Window(name, moves))
        kernel = Kernel("slices", tuple(buffers), (), body_)
        return Call(kernel, tuple(windows), ()), [(written, read) for read, written in aliases.items()], split

    def _split(
        self, lines: Mapping[str, int], values: Sequence[Expr], row: Axis, simplify: Simplifier
    ) -> set[str] | None:
        """Return the buffers that the rows cut into equal parts, read within their row alone; None if some are neither
        cut nor read alike by all rows.

        The rows of the contraction's operand are cut, so that nothing else may read it alike in all rows.
        """
        multiplied = f"x{self.operands[1 - self.slices.weights]}"
        split = {n for n, step in lines.items() if n != _BLOCK and step * row.extent == int(self.types[n].size)}  # type: ignore[call-overload]
        if any(step or n == multiplied for n, step in lines.items() if n != _BLOCK and n not in split):
            return None
        for expr in distinct(values):
            if isinstance(expr, Load) and expr.buffer in split:
                step = lines[expr.buffer]
                within = simplify.range(simplify(apply("sub", expr.index, apply("mul", row.var, const(step)))))
                if within is None or within[0] < 0 or within[1] >= step:
                    return None
        return split | {multiplied}

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
