"""Lowers contractions of few rows together with pointwise nodes that read their results in slices of the columns.

Columns that are read together, of all slices, are multiplied into scratch in the nearest cache, and what reads them
is computed there: one kernel instead of several and barriers. Tasks are such groups of columns or, in a loop of nothing
else, groups of rows: what an iteration needs of the one before is then the same task's, and no thread waits for
another. Weights are put into the order of column groups ahead. It must not know how contractions are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.loops.nest import axis_simplifier, loads
from dlc.codegen.loops.pointwise import Assignment, pointwise_body
from dlc.codegen.lower.in_place import pointwise_pairs
from dlc.codegen.lower.slice_forms import Slices, find_slices, in_chains, in_groups
from dlc.codegen.places import whole
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Axis, Compute
from dlc.ir.cost import distinct
from dlc.ir.expr import Expr, Load, Read, Var, apply, children, const, substitute, transform
from dlc.ir.graph import Node, Value
from dlc.ir.kernel import Alloc, Buffer, Call, For, If, Kernel, LoopKind, Space, Stmt, Window
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind
from dlc.ir.simplify import Simplifier, linear_index
from dlc.ir.types import TensorType, float32

_TASK, _CHAIN, _ZERO = Var("task"), Var("chain"), const(0)


def lower_slices(
    contractions: Sequence[Node],
    rest: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    target: CpuTarget,
    threads: int,
    fixed: Collection[Value],
    alone: bool = False,
) -> Lowered | None:
    """Return the calls, or None where the group is not of this form or some weights are not ``fixed``.

    Where the group is ``alone`` in a loop, tasks are groups of rows if that pays.
    """
    group = ComputeGroup((*inputs, *(n.outputs[0] for n in contractions)), rest)
    if group.reductions:
        return None
    computes = group.inline((), outputs)
    slices = find_slices(contractions, computes, outputs, fixed)
    if slices is None:
        return None
    for form in (in_chains(slices, target, threads) if alone else None, in_groups(slices, target, threads)):
        if form is None:
            continue
        parts = [form.lowered(product, target) for product in form.products]
        if all(part is not None for part in parts):
            composition = _Composition(form, [part for part in parts if part is not None], inputs, outputs, target)
            composed = composition.lowered(group, computes)
            if composed is not None:
                return composed
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
    """Builds the calls: weights in order, what the contractions make of them ahead, and the kernel of tasks."""

    def __init__(
        self,
        slices: Slices,
        parts: Sequence[Lowered],
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        target: CpuTarget,
    ) -> None:
        self.slices = slices
        self.parts = parts
        self.inputs = inputs
        self.outputs = outputs
        self.target = target
        self.types = {f"x{k}": v.type for k, v in enumerate(inputs)} | {f"y{k}": v.type for k, v in enumerate(outputs)}
        self.multiplied = {f"x{inputs.index(p.multiplied)}" for p in slices.products}
        self.temporaries: list[TensorType] = []
        self.first: list[int] = []
        """The temporary of each product's weights in order; what is made of them follows."""
        for product, part in zip(slices.products, parts, strict=True):
            self.first.append(len(self.temporaries))
            sizes = [TensorType(t.dtype, (slices.groups * t.size,)) for t in part.temporaries]
            self.temporaries += [product.ordered, *sizes]

    def lowered(self, group: ComputeGroup, computes: Mapping[Value, Compute]) -> Lowered | None:
        """Return all calls; None where the pointwise nodes read at places that do not move with the task."""
        groups, chains = self.slices.groups, self.slices.chains
        types = self.types | {f"t{k}": t for k, t in enumerate(self.temporaries)}
        made = self._pointwise(group, computes)
        if made is None:
            return None
        pointwise, pairs, split = made
        numbers = range(len(self.parts))
        products = [self._product(number) for number in numbers]
        flops = chains * groups * sum(part.calls[-1].flops for part in self.parts)
        blocks = [Buffer(_block(number), float32, self._block_size(number), Space.LOCAL) for number in numbers]
        names = list(dict.fromkeys(w.buffer for call in (*products, pointwise) for w in call.windows))
        names = [name for name in names if name not in {block.name for block in blocks}]
        written = {f"y{k}": next((r for w, r in pairs if w == f"y{k}"), None) for k in range(len(self.outputs))}
        overwritten = {read: name for name, read in written.items() if read is not None}
        buffers = tuple(
            Buffer(n, types[n].dtype, int(types[n].size), writable=n in written, aliases=overwritten.get(n))  # type: ignore[call-overload]
            for n in names
        )
        kind = LoopKind.SERIAL if chains > 1 else LoopKind.PARALLEL
        loop = For(_TASK, const(groups), kind, (*products, pointwise))
        allocated = tuple(Alloc(block) for block in blocks)
        if chains > 1:
            body: tuple[Stmt, ...] = (For(_CHAIN, const(chains), LoopKind.PARALLEL, (*allocated, loop)),)
        else:
            body = (replace(loop, body=(*allocated, *loop.body)),)
        kernel = Kernel("contract_slices", buffers, (), body)
        calls = []
        for number, part in enumerate(self.parts):
            weights = self._moved(number, self._weights(number))
            calls.append(KernelCall(self._order(number), (self._weight_operand(number), weights)))
            for call in part.calls[:-1]:
                operands = tuple(self._moved(number, o) for o in call.operands)
                calls.append(KernelCall(self._repeated(call.kernel), operands))
        parted = tuple(k for k, n in enumerate(names) if n in split) if chains > 1 else ()
        calls.append(KernelCall(kernel, tuple(_by_name(n) for n in names), flops, parted))
        in_place = tuple((int(name[1:]), int(read[1:])) for read, name in overwritten.items())
        return Lowered(tuple(calls), tuple(self.temporaries), in_place)

    def _block_size(self, number: int) -> int:
        return self.slices.rows * self.slices.products[number].count * self.slices.part

    def _weights(self, number: int) -> Operand:
        """Return the weights as the operand of the product's contraction."""
        return Operand(OperandKind.INPUT, self.slices.products[number].weights)

    def _weight_operand(self, number: int) -> Operand:
        """Return the weights as the operand of the whole group."""
        product = self.slices.products[number]
        return Operand(OperandKind.INPUT, self.inputs.index(product.node.inputs[product.weights]))

    def _moved(self, number: int, operand: Operand) -> Operand:
        """Return what stands for an operand of a product's contraction: temporaries follow the ordered weights."""
        if operand.kind is OperandKind.TEMPORARY:
            return _temporary(self.first[number] + operand.index + 1)
        if operand == self._weights(number):
            return _temporary(self.first[number])
        return Operand(OperandKind.INPUT, self.inputs.index(self.slices.products[number].node.inputs[operand.index]))

    def _order(self, number: int) -> Kernel:
        """Return the kernel (weights, ordered) that puts the columns of each task next to each other."""
        slices, product = self.slices, self.slices.products[number]
        rest = int(product.ordered.size) // (product.count * slices.width)  # type: ignore[call-overload]
        extents = (slices.groups, product.count, slices.part, rest)
        task, slice_, column, inner = (Axis(Var(name), extent) for name, extent in zip("tgci", extents, strict=True))
        strides = (
            (task, slices.part * rest),
            (slice_, slices.width * rest),
            (column, rest),
            (inner, 1),
        )
        source: Expr = _ZERO
        for axis, stride in strides:
            source = apply("add", source, apply("mul", axis.var, const(stride)))
        axes = (task, slice_, column, inner)
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

    def _product(self, number: int) -> Call:
        """Return the call that multiplies a task's columns of a product into its block."""
        slices, product, part = self.slices, self.slices.products[number], self.parts[number]
        rows = int(product.multiplied.type.size) // slices.chains  # type: ignore[call-overload]
        windows = []
        for operand in part.calls[-1].operands:
            if operand.kind is OperandKind.OUTPUT:
                windows.append(Window(_block(number), _ZERO))
                continue
            moved = self._moved(number, operand)
            offset: Expr = _ZERO
            if moved.kind is OperandKind.TEMPORARY:
                offset = apply("mul", _TASK, const(int(self.temporaries[moved.index].size) // slices.groups))  # type: ignore[call-overload]
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
            whole_lines = {n: step for n, step in lines.items() if n in self.types}
            found = self._split(whole_lines, values, axes[0], simplify)
            if found is None:
                return None
            split = found
            taken[0] = Axis(axes[0].var, self.slices.rows)
        body_ = _serial(pointwise_body(taken, assignments, self.target, 1))
        read_only = {v for product in self.slices.products for v in product.node.inputs}
        candidates = {n: t for n, t in self.types.items() if n[0] == "y" or self.inputs[int(n[1:])] not in read_only}
        pairs = pointwise_pairs(assignments, candidates)
        aliases = {read: written for written, read in reversed(pairs)}
        blocks = {_block(k): product.made.type for k, product in enumerate(self.slices.products)}
        types = self.types | blocks
        buffers, windows = [], []
        for name, step in steps.items():
            buffers.append(
                Buffer(name, types[name].dtype, None, writable=name.startswith("y"), aliases=aliases.get(name))
            )
            moves: Expr = _ZERO if name in blocks else apply("mul", _TASK, const(step * self.slices.part))
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

        The rows of the contractions' operands are cut, so that nothing else may read them alike in all rows.
        """
        split = {n for n, step in lines.items() if step * row.extent == int(self.types[n].size)}  # type: ignore[call-overload]
        if any(step or n in self.multiplied for n, step in lines.items() if n not in split):
            return None
        for expr in distinct(values):
            if isinstance(expr, Load) and expr.buffer in split:
                step = lines[expr.buffer]
                within = simplify.range(simplify(apply("sub", expr.index, apply("mul", row.var, const(step)))))
                if within is None or within[0] < 0 or within[1] >= step:
                    return None
        return split | self.multiplied

    def _from_block(self, body: Expr, group: ComputeGroup, axes: Sequence[Axis], simplify: Simplifier) -> Expr | None:
        """Return ``body`` with reads of products as loads from the task's blocks; None if not all are slices."""
        slices = self.slices
        numbers = {group.source(product.made): number for number, product in enumerate(slices.products)}
        lead, column = axes[:-1], axes[-1].var
        row = linear_index(tuple(a.var for a in lead), tuple(a.extent for a in lead), simplify)
        failed = False

        def rule(expr: Expr) -> Expr | None:
            nonlocal failed
            if not isinstance(expr, Read) or expr.input not in numbers:
                return None
            number = numbers[expr.input]
            form = simplify.affine(expr.indices[-1])
            in_order = expr.indices[:-1] == tuple(simplify(a.var) for a in lead)
            if not in_order or form.terms != ((column, 1),) or form.constant % slices.width:
                failed = True
                return None
            first = form.constant // slices.width * slices.part
            start = apply("mul", row, const(slices.products[number].count * slices.part))
            return Load(_block(number), simplify(apply("add", start, apply("add", column, const(first)))), float32)

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


def _block(number: int) -> str:
    return f"block{number}"


def _temporary(number: int) -> Operand:
    return Operand(OperandKind.TEMPORARY, number)


_LETTERS = {OperandKind.INPUT: "x", OperandKind.OUTPUT: "y", OperandKind.TEMPORARY: "t"}


def _name(operand: Operand) -> str:
    return f"{_LETTERS[operand.kind]}{operand.index}"


def _by_name(name: str) -> Operand:
    return Operand(next(kind for kind, letter in _LETTERS.items() if letter == name[0]), int(name[1:]))
