"""Reads a group as attention: scores by a contraction, work along their rows, a second contraction over the rows.

Matches by index expressions only; what does not fit gives None. It must not know
targets or loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from dlc.codegen.attention.parts import Parts, parts_of
from dlc.codegen.attention.rows import KEY, ROW, TileRows, tile_rows
from dlc.codegen.compute_group import ComputeGroup, axis_bounds
from dlc.codegen.contract.epilogue import epilogue_of
from dlc.ir.compute import Axis, Compute
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Apply, Const, Expr, Read, Var, apply, const, substitute, walk
from dlc.ir.graph import Node, Value
from dlc.ir.simplify import Simplifier, depends_on, linear_index
from dlc.ir.types import DType, float32, float64

DEPTH, COLUMN = Var("depth"), Var("column")


@dataclass(frozen=True)
class Matrix:
    """A matrix of input ``source`` read in place: element (i, j) at ``base + i * rows + j * columns``.

    ``base`` is an expression over the outer axes.
    """

    source: int
    base: Expr
    rows: int
    columns: int


@dataclass(frozen=True)
class TailRead:
    """A tensor of the epilogue: a matrix over (row, column), or a result per row (``row_buffer``)."""

    dtype: DType
    matrix: Matrix | None
    row_buffer: str = ""


@dataclass(frozen=True)
class AttentionProblem:
    """``output[o, row, column] = tail(sum over key of weights[o, row, key] * values[o, key, column])``.

    ``weights`` are made of scores, ``sum over depth of queries[o, row, depth] * keys[o, key, depth]``, by ``rows``.
    Input sources are named x0, x1, ...
    """

    dtype: DType
    outer: tuple[Axis, ...]
    row_count: int
    key_count: int
    depth_count: int
    column_count: int
    queries: Matrix  # rows, depth
    keys: Matrix  # keys, depth
    values: Matrix  # keys, columns
    output: Matrix  # rows, columns
    rows: TileRows
    tail: Expr
    tail_reads: tuple[TailRead, ...]

    @property
    def groups(self) -> int:
        """Independent matrices."""
        return prod(a.extent for a in self.outer)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the two contractions."""
        return 2 * self.groups * self.row_count * self.key_count * (self.depth_count + self.column_count)


def analyze_attention(nodes: Sequence[Node], inputs: Sequence[Value], output: Value) -> AttentionProblem | None:
    """Return the body as attention, or None where it does not fit."""
    parts = parts_of(nodes)
    if parts is None or parts.weights is parts.first.outputs[0]:
        return None
    dtype = parts.first.outputs[0].type.dtype
    if dtype not in (float32, float64) or output.type.dtype is not dtype or parts.weights.type.dtype is not dtype:
        return None
    group = ComputeGroup(inputs, nodes)
    scores = _Scores.read(group, parts)
    if scores is None:
        return None
    product = _Product.read(group, parts, scores)
    if product is None:
        return None
    rows = tile_rows(parts, inputs, scores.names, scores.shape)
    if rows is None:
        return None
    tail = _tail(parts, inputs, output, scores, product, rows.results)
    if tail is None:
        return None
    return AttentionProblem(
        dtype=dtype,
        outer=scores.outer,
        row_count=scores.extents[ROW],
        key_count=scores.extents[KEY],
        depth_count=scores.extents[DEPTH],
        column_count=product.columns,
        queries=scores.queries,
        keys=scores.keys,
        values=product.values,
        output=product.output,
        rows=rows,
        tail=tail[0],
        tail_reads=tail[1],
    )


def _matrix(
    source: int, position: Expr, simplify: Simplifier, rows: Var, columns: Var, others: Sequence[Var] = ()
) -> Matrix | None:
    """Return ``position`` as a matrix over ``rows`` and ``columns``; None where it is not affine in them."""
    form = simplify.affine(position)
    inner = {rows, columns, *others}
    base: Expr = const(form.constant)
    strides = {rows: 0, columns: 0}
    for atom, coefficient in form.terms:
        if isinstance(atom, Var) and atom in strides:
            strides[atom] = coefficient
        elif depends_on(atom, inner):
            return None
        else:
            base = apply("add", base, apply("mul", atom, const(coefficient)))
    if min(strides.values()) < 0:
        return None
    return Matrix(source, simplify(base), strides[rows], strides[columns])


def _product_reads(compute: Compute) -> tuple[Read, Read] | None:
    body = compute.body
    if not isinstance(body, Apply) or body.op != "mul" or len(body.args) != 2:
        return None
    left, right = body.args
    return (left, right) if isinstance(left, Read) and isinstance(right, Read) else None


def _only(axes: Sequence[Axis]) -> Axis | None:
    """Return the one axis of more than one element."""
    wide = [a for a in axes if a.extent != 1]
    return wide[0] if len(wide) == 1 else None


@dataclass(frozen=True)
class _Scores:
    """The first contraction. ``names`` gives the variable of each dimension of its result."""

    outer: tuple[Axis, ...]
    names: tuple[Var, ...]
    shape: tuple[int, ...]
    extents: Mapping[Var, int]
    queries: Matrix
    keys: Matrix

    @property
    def bounds(self) -> dict[Var, tuple[int, int]]:
        return {**axis_bounds(self.outer), **{v: (0, e - 1) for v, e in self.extents.items()}}

    @staticmethod
    def read(group: ComputeGroup, parts: Parts) -> _Scores | None:
        compute = group.inline({parts.weights}, [parts.first.outputs[0]])[parts.first.outputs[0]]
        reads, depth = _product_reads(compute), _only(compute.reduce_axes)
        dims = [a for a in compute.axes]
        if reads is None or depth is None or list(compute.store) != [a.var for a in dims] or len(dims) < 2:
            return None
        key = dims[-1]
        with_key = [depends_on_read(r, key.var) for r in reads]
        if key.extent == 1 or with_key.count(True) != 1:
            return None
        keys, queries = reads if with_key[0] else reads[::-1]
        own = [
            a
            for a in dims[:-1]
            if a.extent != 1 and depends_on_read(queries, a.var) and not depends_on_read(keys, a.var)
        ]
        if not own:
            return None
        row = own[-1]
        outer = tuple(Axis(Var(f"o{k}"), a.extent) for k, a in enumerate(a for a in dims[:-1] if a is not row))
        renamed: dict[Expr, Expr] = {row.var: ROW, key.var: KEY, depth.var: DEPTH}
        renamed.update(zip((a.var for a in dims[:-1] if a is not row), (a.var for a in outer), strict=True))
        renamed.update((a.var, const(0)) for a in compute.reduce_axes if a is not depth)
        extents = {ROW: row.extent, KEY: key.extent, DEPTH: depth.extent}
        simplify = Simplifier({**axis_bounds(outer), **{v: (0, e - 1) for v, e in extents.items()}})
        query_matrix = _read_matrix(group, queries, renamed, simplify, ROW, DEPTH, KEY)
        key_matrix = _read_matrix(group, keys, renamed, simplify, KEY, DEPTH, ROW)
        if query_matrix is None or key_matrix is None:
            return None
        names = tuple(renamed[a.var] for a in dims)
        return _Scores(outer, names, compute.shape, extents, query_matrix, key_matrix)  # type: ignore[arg-type]


def depends_on_read(read: Read, variable: Var) -> bool:
    """Tell whether the place that is read moves with ``variable``."""
    return any(depends_on(i, {variable}) for i in read.indices)


def _read_matrix(
    group: ComputeGroup,
    read: Read,
    renamed: Mapping[Expr, Expr],
    simplify: Simplifier,
    rows: Var,
    columns: Var,
    other: Var,
) -> Matrix | None:
    if read.input >= len(group.inputs):
        return None
    shape = tuple(int(d) for d in group.source_type(read.input).shape)  # type: ignore[call-overload]
    indices = tuple(simplify(substitute(i, renamed)) for i in read.indices)
    return _matrix(read.input, linear_index(indices, shape, simplify), simplify, rows, columns, (other,))


@dataclass(frozen=True)
class _Product:
    """The second contraction. ``renamed`` maps its axes to the common names."""

    values: Matrix
    output: Matrix
    columns: int
    renamed: Mapping[Expr, Expr]

    @staticmethod
    def read(group: ComputeGroup, parts: Parts, scores: _Scores) -> _Product | None:
        result = parts.second.outputs[0]
        compute = group.inline({parts.weights}, [result])[result]
        reads = _product_reads(compute)
        if reads is None:
            return None
        number = group.source(parts.weights)
        if [r.input for r in reads].count(number) != 1:
            return None
        weights, values = reads if reads[0].input == number else reads[::-1]
        axes = {a.var: a for a in (*compute.axes, *compute.reduce_axes)}
        renamed: dict[Expr, Expr] = {}
        if len(weights.indices) != len(scores.names) or parts.weights.type.shape != scores.shape:
            return None
        for index, name, extent in zip(weights.indices, scores.names, scores.shape, strict=True):
            if extent == 1 and (isinstance(index, Const) or index not in axes):
                continue
            if not isinstance(index, Var) or index not in axes or index in renamed or axes[index].extent != extent:
                return None
            renamed[index] = name
        summed = _only(compute.reduce_axes)
        if summed is None or renamed.get(summed.var) != KEY:
            return None
        column = _only([a for a in compute.axes if a.var not in renamed])
        if column is None:
            return None
        renamed.update((v, const(0)) for v in axes if v not in renamed and v != column.var)
        renamed[column.var] = COLUMN
        bounds = {**scores.bounds, COLUMN: (0, column.extent - 1)}
        simplify = Simplifier(bounds)
        matrix = _read_matrix(group, values, renamed, simplify, KEY, COLUMN, ROW)
        store = tuple(simplify(substitute(s, renamed)) for s in compute.store)
        output = _matrix(0, linear_index(store, compute.shape, simplify), simplify, ROW, COLUMN, (KEY,))
        if matrix is None or output is None or output.columns != 1:
            return None
        return _Product(matrix, output, column.extent, renamed)


def _tail(
    parts: Parts,
    inputs: Sequence[Value],
    output: Value,
    scores: _Scores,
    product: _Product,
    row_buffers: Mapping[Value, str],
) -> tuple[Expr, tuple[TailRead, ...]] | None:
    """Return what follows the second contraction over the accumulator and reads."""
    result = parts.second.outputs[0]
    if output is result:
        return Var(ACCUMULATOR, result.type.dtype), ()
    group = ComputeGroup((*inputs, *parts.row_values, result), (*parts.before, *parts.after))
    found = epilogue_of(parts.second, group, output)
    if found is None:
        return None
    epilogue, extra = found
    simplify = Simplifier({**scores.bounds, COLUMN: (0, product.columns - 1)})
    rows = [v for v in scores.names[:-1]]
    reads: list[TailRead] = []
    mapping: dict[Expr, Expr] = {}
    for node in walk(epilogue.body):
        if not isinstance(node, Read) or node in mapping:
            continue
        value = extra[node.input]
        indices = [simplify(substitute(i, product.renamed)) for i in node.indices]
        mapping[node] = Var(f"read{len(reads)}", node.dtype)
        if value in row_buffers:
            wide = [i for i, d in zip(indices, value.type.shape, strict=True) if d != 1]
            if wide != [v for v, e in zip(rows, scores.shape[:-1], strict=True) if e != 1]:
                return None
            reads.append(TailRead(node.dtype, None, row_buffers[value]))
            continue
        shape = tuple(int(d) for d in value.type.shape)  # type: ignore[call-overload]
        position = linear_index(tuple(indices), shape, simplify)
        matrix = _matrix(list(inputs).index(value), position, simplify, ROW, COLUMN, (KEY,))
        if matrix is None:
            return None
        reads.append(TailRead(node.dtype, matrix))
    body = substitute(epilogue.body, mapping)
    known = {ACCUMULATOR, *(f"read{k}" for k in range(len(reads)))}
    if any(isinstance(e, Var) and e.name not in known for e in walk(body)):
        return None
    return body, tuple(reads)
