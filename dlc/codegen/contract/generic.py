"""The loop nest for contractions that no micro-kernel fits, and for epilogues that cannot be fused.

Correct for every dtype and spec, vectorised along the output's innermost axis.
It must not know micro-kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from dlc.codegen.contract.analysis import output_steps, side_strides
from dlc.codegen.contract.index import decode, scaled, total
from dlc.codegen.target import CpuTarget
from dlc.ir.contraction import ContractSpec, group_shape
from dlc.ir.epilogue import ACCUMULATOR, Epilogue
from dlc.ir.expr import Expr, Load, Read, Var, apply, cast, const, transform
from dlc.ir.kernel import Accumulate, Alloc, Buffer, For, Kernel, Let, LoopKind, Space, Stmt, Store
from dlc.ir.placement import Layout, row_major, span
from dlc.ir.simplify import Simplifier, linear_index
from dlc.ir.types import DType, TensorType, float32

MOST_TASKS = 1 << 16


def accumulator_dtype(dtype: DType) -> DType:
    """Return the dtype in which products of ``dtype`` are added."""
    return float32 if dtype.is_float and dtype.bits < 32 else dtype


def generic_kernel(
    spec: ContractSpec,
    extents: Mapping[str, int],
    lhs: TensorType,
    rhs: TensorType,
    epilogue: Epilogue,
    target: CpuTarget,
    name: str,
    layout: Layout | None = None,
) -> Kernel:
    """Return one kernel (lhs, rhs, out, epilogue inputs) that computes the contraction with its epilogue."""
    acc = accumulator_dtype(lhs.dtype)
    op = "fma" if acc.is_float else "add"
    body: list[Stmt] = [Accumulate("acc", Var("lane"), op, _product(spec, extents, lhs, rhs, acc))]
    for axis in reversed(spec.reduce_axes):
        body = [For(Var(axis), const(extents[axis]), LoopKind.SERIAL, tuple(body))]
    reduce = tuple(body)
    return _nest(spec, extents, (lhs, rhs), epilogue, target, name, acc, reduce, layout)


def epilogue_kernel(
    spec: ContractSpec,
    extents: Mapping[str, int],
    source: TensorType,
    epilogue: Epilogue,
    target: CpuTarget,
    name: str,
    layout: Layout | None = None,
) -> Kernel:
    """Return a kernel (accumulated values, out, epilogue inputs) that applies ``epilogue`` alone."""
    value = Load("source", _position(spec, extents), source.dtype)
    body = (Store("acc", Var("lane"), value),)
    return _nest(spec, extents, (source,), epilogue, target, name, source.dtype, body, layout)


def sum_kernel(
    spec: ContractSpec,
    extents: Mapping[str, int],
    source: TensorType,
    parts: int,
    epilogue: Epilogue,
    target: CpuTarget,
    name: str,
    layout: Layout | None = None,
) -> Kernel:
    """Return a kernel (``parts`` partial sums, out, epilogue inputs): the parts added in order, then the epilogue."""
    size = prod(int(d) for d in group_shape(spec.output, extents))
    value = Load("source", total(scaled(Var("part"), size), _position(spec, extents)), source.dtype)
    body = (For(Var("part"), const(parts), LoopKind.SERIAL, (Accumulate("acc", Var("lane"), "add", value),)),)
    return _nest(spec, extents, (source,), epilogue, target, name, source.dtype, body, layout)


def _product(spec: ContractSpec, extents: Mapping[str, int], lhs: TensorType, rhs: TensorType, acc: DType) -> Expr:
    factors = []
    for buffer, side, operand in (("lhs", spec.lhs, lhs), ("rhs", spec.rhs, rhs)):
        strides = side_strides(side, row_major([int(d) for d in operand.shape]), extents)
        index = total(*(scaled(_axis(name, extents), stride) for name, stride in strides.items()))
        factors.append(cast(Load(buffer, index, operand.dtype), acc))
    return apply("mul", *factors)


def _axis(name: str, extents: Mapping[str, int]) -> Expr:
    return Var(name) if extents[name] != 1 else const(0)


def _position(spec: ContractSpec, extents: Mapping[str, int], layout: Layout | None = None) -> Expr:
    steps = output_steps(spec, extents, layout)
    assert steps is not None, "a layout that the output does not fit is refused before"
    strides = side_strides(spec.output, steps, extents)
    return total(*(scaled(_axis(name, extents), stride) for name, stride in strides.items()))


def _nest(
    spec: ContractSpec,
    extents: Mapping[str, int],
    operands: Sequence[TensorType],
    epilogue: Epilogue,
    target: CpuTarget,
    name: str,
    acc: DType,
    accumulate: tuple[Stmt, ...],
    layout: Layout | None,
) -> Kernel:
    """Tasks over the outer output axes; vectors along the innermost; ``accumulate`` fills ``acc`` from zero."""
    names = [axis for axis in spec.output_axes if extents[axis] != 1]
    outer, inner = names[:-1], names[-1:]
    length = extents[inner[0]] if inner else 1
    lanes = max(2, target.lanes(max(acc.itemsize, epilogue.dtype.itemsize)))
    shape = [int(d) for d in group_shape(spec.output, extents)]
    out_size = span(shape, output_steps(spec, extents, layout) or row_major(shape)) if 0 not in shape else 0
    place = _position(spec, extents, layout)

    def vector(start: Expr, active: Expr | None) -> list[Stmt]:
        bind: list[Stmt] = [Let(Var(inner[0]), total(start, Var("lane")))] if inner else []
        final = cast(_substituted(spec, extents, epilogue, operands[0].dtype, acc), epilogue.dtype)
        zero = For(Var("lane"), const(lanes), LoopKind.VECTOR, (Store("acc", Var("lane"), const(0, acc)),))
        run = _vectorised(accumulate, bind, lanes, active)
        store = For(Var("lane"), const(lanes), LoopKind.VECTOR, (*bind, Store("out", place, final)), active)
        return [Alloc(Buffer("acc", acc, lanes, Space.LOCAL)), zero, *run, store]

    whole, tail = divmod(length, lanes)
    body: list[Stmt] = []
    if whole:
        body.append(For(Var("block"), const(whole), LoopKind.SERIAL, tuple(vector(scaled(Var("block"), lanes), None))))
    if tail:
        body += vector(const(whole * lanes), apply("less", Var("lane"), const(tail)))
    outer_extents = [extents[axis] for axis in outer]
    count = prod(outer_extents)
    lets = [Let(Var(axis), e) for axis, e in zip(outer, decode(Var("position"), outer_extents), strict=True)]
    tasks = min(count, MOST_TASKS)
    per_task = -(-count // tasks) if tasks else 1
    tasks = -(-count // per_task)
    position = total(scaled(Var("task"), per_task), Var("step"))
    inside = tuple([Let(Var("position"), position), *lets, *body])
    steps: Expr = const(per_task)
    if count % per_task:
        steps = apply("minimum", steps, apply("sub", const(count), scaled(Var("task"), per_task)))
    loop = For(Var("step"), steps, LoopKind.SERIAL, inside)
    labels = ("lhs", "rhs") if len(operands) == 2 else ("source",)
    buffers = [Buffer(label, t.dtype, int(t.size)) for label, t in zip(labels, operands, strict=True)]
    buffers.append(Buffer("out", epilogue.dtype, out_size, writable=True))
    buffers += [Buffer(f"e{k}", t.dtype, int(t.size)) for k, t in enumerate(epilogue.inputs)]
    return Kernel(name, tuple(buffers), (), (For(Var("task"), const(tasks), LoopKind.PARALLEL, (loop,)),))


def _vectorised(accumulate: tuple[Stmt, ...], bind: Sequence[Stmt], lanes: int, active: Expr | None) -> list[Stmt]:
    """Put the vector loop around the innermost statement, inside the reduction loops."""
    statements: list[Stmt] = []
    for statement in accumulate:
        if isinstance(statement, For):
            inner = tuple(_vectorised(statement.body, bind, lanes, active))
            statements.append(For(statement.var, statement.extent, statement.kind, inner))
        else:
            statements.append(For(Var("lane"), const(lanes), LoopKind.VECTOR, (*bind, statement), active))
    return statements


def _substituted(
    spec: ContractSpec, extents: Mapping[str, int], epilogue: Epilogue, contraction: DType, acc: DType
) -> Expr:
    """Return the epilogue over the local accumulator and buffers."""
    bounds = {Var(axis): (0, max(extents[axis] - 1, 0)) for axis in spec.output_axes}
    simplify = Simplifier(bounds)
    accumulated = cast(Load("acc", Var("lane"), acc), contraction)

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read):
            shape = tuple(int(d) for d in epilogue.inputs[node.input].shape)
            return Load(f"e{node.input}", linear_index(node.indices, shape, simplify), node.dtype)
        if isinstance(node, Var):
            if node.name == ACCUMULATOR:
                return accumulated
            if extents.get(node.name) == 1:
                return const(0)
        return None

    return transform(epilogue.body, rule)
