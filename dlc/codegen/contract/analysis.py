"""Reads a contraction as loops over rows, columns and depth with one stride per tensor.

All operands are affine in the axes, so every axis is described by its strides;
neighbouring axes that run through memory as one are merged. It must not know
targets or schedules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from dlc.ir.contraction import ContractSpec, DimIndex, Group, group_shape, side_axes
from dlc.ir.epilogue import ACCUMULATOR, Epilogue
from dlc.ir.expr import Expr, Read, Var, substitute, walk
from dlc.ir.placement import Layout, row_major, span
from dlc.ir.simplify import Simplifier, linear_index
from dlc.ir.types import DType, TensorType, uint16, uint32

LHS, RHS, OUT, FIRST_READ = 0, 1, 2, 3
"""Positions in ``LoopAxis.strides``: the operands, the output, then the epilogue's reads in order."""


@dataclass(frozen=True)
class LoopAxis:
    """A loop of ``extent`` iterations; ``strides`` counts elements moved per iteration, one per tensor."""

    extent: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class EpilogueRead:
    """A distinct read of the epilogue: the epilogue's input number and the constant part of its position."""

    input: int
    dtype: DType
    offset: int


@dataclass(frozen=True)
class Problem:
    """A contraction as loops.

    ``batch`` axes are in both operands and the output, ``rows`` in one operand (``row_operand``) and the
    output, ``columns`` in the other (``panel_operand``) and the output, ``depth`` is summed over. Axes of a
    kind stand outermost first. With ``spread`` the last column axis is in the row operand, too (a batch axis
    along which everything is contiguous: the channels of a depthwise convolution). ``body`` is the epilogue
    with ``Var("read<k>")`` for ``reads[k]``. ``dtype`` is that of products and sums.

    With ``pairs`` operands are bfloat16 and the innermost depth axis counts pairs of neighbours in the row operand
    (see ``contract_pairs``); the last pair is half a pair where ``odd``. ``panel_bits`` bits of the panel operand
    are then the unit of its strides.
    """

    batch: tuple[LoopAxis, ...]
    rows: tuple[LoopAxis, ...]
    columns: tuple[LoopAxis, ...]
    depth: tuple[LoopAxis, ...]
    row_operand: int
    panel_operand: int
    sizes: tuple[int, ...]
    dtype: DType
    body: Expr
    out_dtype: DType
    reads: tuple[EpilogueRead, ...]
    spread: bool = False
    pairs: bool = False
    odd: bool = False
    panel_bits: int = 0

    @property
    def row_dtype(self) -> DType:
        """What the row operand's buffer holds."""
        return uint16 if self.pairs else self.dtype

    @property
    def panel_dtype(self) -> DType:
        """What the panel operand's buffer holds."""
        return (uint16 if self.panel_bits == 16 else uint32) if self.pairs else self.dtype

    @property
    def step_elements(self) -> int:
        """Elements of the row operand that one step of the innermost depth takes."""
        return 2 if self.pairs else 1

    @property
    def packed_dtype(self) -> DType:
        """What packed panels hold."""
        return uint32 if self.pairs else self.dtype

    @property
    def row_count(self) -> int:
        return extent_of(self.rows)

    @property
    def column_count(self) -> int:
        return extent_of(self.columns)

    @property
    def depth_count(self) -> int:
        return extent_of(self.depth)

    @property
    def batch_count(self) -> int:
        return extent_of(self.batch)

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        steps = 2 * self.batch_count * self.row_count * self.column_count * self.depth_count
        return 2 * steps if self.pairs else steps

    @property
    def plain(self) -> bool:
        """Whether the accumulated value is stored as it is."""
        return isinstance(self.body, Var)


def extent_of(axes: Iterable[LoopAxis]) -> int:
    """Return the number of iterations of nested ``axes``."""
    return prod(axis.extent for axis in axes)


def side_strides(side: tuple[DimIndex, ...], steps: Sequence[int], extents: Mapping[str, int]) -> dict[str, int]:
    """Return how many elements each axis moves through a tensor read by ``side`` whose dimensions have ``steps``."""
    strides: dict[str, int] = {}
    for index, step in zip(reversed(side), reversed(steps), strict=True):
        if isinstance(index, Group):
            inner = step
            for name in reversed(index.axes):
                strides[name] = strides.get(name, 0) + inner
                inner *= extents[name]
        else:
            for name, coefficient in index.terms:
                strides[name] = strides.get(name, 0) + step * coefficient
    return strides


def output_steps(spec: ContractSpec, extents: Mapping[str, int], layout: Layout | None) -> tuple[int, ...] | None:
    """Return the strides of the output's dimensions, None where they do not fit the ``layout``."""
    shape = [int(d) for d in group_shape(spec.output, extents)]
    return row_major(shape) if layout is None else layout.steps(shape)


def merge(axes: Sequence[LoopAxis], tensors: Sequence[int] | None = None) -> tuple[LoopAxis, ...]:
    """Merge neighbours (outer, inner) that every tensor in ``tensors`` (default: all) runs through as one axis."""
    merged: list[LoopAxis] = []
    for axis in axes:
        if merged:
            outer = merged[-1]
            numbers = range(len(axis.strides)) if tensors is None else tensors
            if all(outer.strides[t] == axis.strides[t] * axis.extent for t in numbers):
                merged[-1] = LoopAxis(outer.extent * axis.extent, axis.strides)
                continue
        merged.append(axis)
    return tuple(merged)


def analyze(
    spec: ContractSpec,
    extents: Mapping[str, int],
    lhs: TensorType,
    rhs: TensorType,
    epilogue: Epilogue,
    layout: Layout | None = None,
) -> Problem | None:
    """Return the contraction as loops, or None where the epilogue cannot be applied element by element of a tile.

    That is the case when it reads a tensor at positions that are not affine in the output axes, or uses the
    output axes themselves, or where the output's dimensions do not fit the ``layout`` that is wanted. Every extent is
    at least 1.
    """
    shapes = [[int(d) for d in lhs.shape], [int(d) for d in rhs.shape]]
    output, steps = [int(d) for d in group_shape(spec.output, extents)], output_steps(spec, extents, layout)
    if steps is None:
        return None
    tables = [
        side_strides(spec.lhs, row_major(shapes[LHS]), extents),
        side_strides(spec.rhs, row_major(shapes[RHS]), extents),
        side_strides(spec.output, steps, extents),
    ]
    found = _reads(spec, extents, epilogue)
    if found is None:
        return None
    body, reads, read_tables = found
    tables += read_tables
    axes = {
        name: LoopAxis(extents[name], tuple(table.get(name, 0) for table in tables))
        for name in spec.axes
        if extents[name] != 1
    }
    left, right, kept = side_axes(spec.lhs), side_axes(spec.rhs), set(spec.output_axes)
    kinds: dict[str, list[LoopAxis]] = {"batch": [], "left": [], "right": [], "depth": []}
    for name, loop in axes.items():
        if name not in kept:
            kinds["depth"].append(loop)
        elif name in left and name in right:
            kinds["batch"].append(loop)
        else:
            kinds["left" if name in left else "right"].append(loop)
    for kind in ("batch", "left", "right"):
        kinds[kind].sort(key=lambda loop: -loop.strides[OUT])
    batch = merge(kinds["batch"])
    spread = _is_spread(batch, kinds)
    swap = extent_of(kinds["right"]) > extent_of(kinds["left"]) if spread else _panel_is_lhs(kinds)
    row, panel = (RHS, LHS) if swap else (LHS, RHS)
    rows, columns = (kinds["right"], kinds["left"]) if swap else (kinds["left"], kinds["right"])
    if spread:
        batch, columns = batch[:-1], [*columns, batch[-1]]
    kinds["depth"].sort(key=lambda loop: (-loop.strides[row], -loop.strides[panel]))
    inputs = [epilogue.inputs[read.input] for read in reads]
    sizes = [prod(shapes[LHS]), prod(shapes[RHS]), span(output, steps), *(int(t.size) for t in inputs)]  # type: ignore[call-overload]
    return Problem(
        batch=batch,
        rows=merge(rows),
        columns=merge(columns),
        depth=merge(kinds["depth"]),
        row_operand=row,
        panel_operand=panel,
        sizes=tuple(sizes),
        dtype=lhs.dtype,
        body=body,
        out_dtype=epilogue.dtype,
        reads=reads,
        spread=spread,
    )


def _is_spread(batch: Sequence[LoopAxis], kinds: Mapping[str, list[LoopAxis]]) -> bool:
    """Whether vectors should run along the innermost batch axis: all tensors are contiguous there."""
    if not batch or batch[-1].strides[: OUT + 1] != (1, 1, 1):
        return False
    return all(loop.strides[OUT] != 1 for side in ("left", "right") for loop in kinds[side])


def _panel_is_lhs(kinds: Mapping[str, list[LoopAxis]]) -> bool:
    """Choose as panel operand the one that owns the output's innermost axis, along which vectors are stored."""
    left, right = (kinds[side][-1].strides[OUT] if kinds[side] else None for side in ("left", "right"))
    if left is None or right is None:
        return right is None and left is not None
    return left < right


def _reads(
    spec: ContractSpec, extents: Mapping[str, int], epilogue: Epilogue
) -> tuple[Expr, tuple[EpilogueRead, ...], list[dict[str, int]]] | None:
    """Return the body with variables for reads, the reads, and their strides per axis; None if not affine."""
    names = {Var(name): name for name in spec.output_axes}
    simplify = Simplifier({variable: (0, max(extents[name] - 1, 0)) for variable, name in names.items()})
    reads: list[EpilogueRead] = []
    tables: list[dict[str, int]] = []
    mapping: dict[Expr, Expr] = {}
    for node in walk(epilogue.body):
        if not isinstance(node, Read) or node in mapping:
            continue
        shape = tuple(int(d) for d in epilogue.inputs[node.input].shape)
        form = simplify.affine(linear_index(node.indices, shape, simplify))
        if any(atom not in names for atom, _ in form.terms) or any(c < 0 for _, c in form.terms):
            return None
        mapping[node] = Var(f"read{len(reads)}", node.dtype)
        reads.append(EpilogueRead(node.input, node.dtype, form.constant))
        tables.append({names[atom]: coefficient for atom, coefficient in form.terms})  # type: ignore[index]
    body = substitute(epilogue.body, mapping)
    known = {ACCUMULATOR, *(f"read{k}" for k in range(len(reads)))}
    if any(isinstance(node, Var) and node.name not in known for node in walk(body)):
        return None
    return body, tuple(reads), tables
