"""The gradient of a contraction's operand: contractions again, with windows inverted.

A window reads an operand at ``h*a + r*c``. Its gradient at ``p`` gathers what every
(h, r) that meets ``p`` received; strides are split into phases so that no zeros
are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dlc.errors import TypeRuleError
from dlc.ir.builder import Builder
from dlc.ir.contraction import ContractSpec, DimIndex, Group, WindowTerm, side_axes
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.types import DType

MOST_PHASES = 4
"""Strides above this are inverted by dilation: so many small contractions would not pay."""


def sizes_attribute(spec: ContractSpec, extents: Mapping[str, Dim]) -> tuple[tuple[str, Dim], ...]:
    """Return the extents that shapes alone may leave open: axes in groups of several and in windows."""
    open_axes = {
        axis
        for side in (spec.lhs, spec.rhs, spec.output)
        for index in side
        if isinstance(index, WindowTerm) or len(index.axes) > 1
        for axis in index.axes
    }
    return tuple((axis, extents[axis]) for axis in spec.axes if axis in open_axes)


def emit_contract(
    b: Builder, spec: ContractSpec, lhs: Value, rhs: Value, extents: Mapping[str, Dim], dtype: DType | None = None
) -> Value:
    """Emit a contraction whose extents are all known; products are added in ``dtype``, by default the operands'."""
    return b.contract(lhs, rhs, spec=str(spec), sizes=sizes_attribute(spec, extents), dtype=dtype)


@dataclass(frozen=True)
class _Factor:
    """One of the two tensors that the gradient multiplies, and the axes of its dimensions."""

    value: Value
    side: tuple[DimIndex, ...]

    def has(self, axis: str) -> bool:
        return axis in side_axes(self.side)

    def position(self, axis: str) -> int:
        return self.side.index(Group((axis,)))

    def ungrouped(self, b: Builder, extents: Mapping[str, Dim]) -> _Factor:
        """Reshape to one dimension per axis."""
        axes = [a for d in self.side for a in d.axes]
        return _Factor(b.reshape_to(self.value, tuple(extents[a] for a in axes)), tuple(Group((a,)) for a in axes))


@dataclass(frozen=True)
class _Gradient:
    """What is left to do: two factors, the wanted dimensions, of which some are still windows, and all extents."""

    factors: tuple[_Factor, _Factor]
    wanted: tuple[DimIndex, ...]
    shape: tuple[Dim, ...]
    extents: Mapping[str, Dim]

    def with_factor(self, number: int, factor: _Factor) -> _Gradient:
        factors = (factor, self.factors[1]) if number == 0 else (self.factors[0], factor)
        return replace(self, factors=factors)

    def with_target(self, position: int, target: str, length: Dim) -> _Gradient:
        """Replace the window at ``position`` by the new axis ``target`` of extent ``length``."""
        wanted = (*self.wanted[:position], Group((target,)), *self.wanted[position + 1 :])
        shape = (*self.shape[:position], length, *self.shape[position + 1 :])
        return replace(self, wanted=wanted, shape=shape, extents={**self.extents, target: length})


def operand_gradient(
    b: Builder,
    spec: ContractSpec,
    extents: Mapping[str, Dim],
    wanted: tuple[DimIndex, ...],
    shape: tuple[Dim, ...],
    other_side: tuple[DimIndex, ...],
    other: Value,
    dy: Value,
) -> Value:
    """Return the gradient of the operand with dimensions ``wanted`` and ``shape``.

    Without windows it is one contraction of ``dy`` with the other operand. Raises TypeRuleError if both operands
    have windows.
    """
    factors = (_Factor(other, other_side), _Factor(dy, spec.output))
    if not any(isinstance(d, WindowTerm) for d in wanted):
        return emit_contract(b, ContractSpec(other_side, spec.output, wanted), other, dy, extents)
    if any(isinstance(d, WindowTerm) for d in other_side):
        raise TypeRuleError(f"'{spec}' has windows in both operands; its gradient is not defined")
    ungrouped = (factors[0].ungrouped(b, extents), factors[1].ungrouped(b, extents))
    return _emit(b, _Gradient(ungrouped, wanted, shape, dict(extents)))


def _emit(b: Builder, problem: _Gradient) -> Value:
    """Invert the first window that is left, then the others; without any, contract."""
    position = next((k for k, d in enumerate(problem.wanted) if isinstance(d, WindowTerm)), None)
    if position is None:
        (first, second) = problem.factors
        spec = ContractSpec(first.side, second.side, problem.wanted)
        return emit_contract(b, spec, first.value, second.value, problem.extents)
    window = problem.wanted[position]
    assert isinstance(window, WindowTerm)
    owners = [0 if problem.factors[0].has(axis) else 1 for axis in window.axes]
    if len(window.terms) != 2 or owners[0] == owners[1]:
        return _emit(b, _scattered(b, problem, position, window, owners[0]))
    moving = window.axes.index(_longer(window.axes[0], window.axes[1], problem.extents))
    axis, tap = window.axes[moving], window.axes[1 - moving]
    stride, dilation = window.terms[moving][1], window.terms[1 - moving][1]
    static = all(isinstance(d, int) for d in (problem.extents[axis], problem.extents[tap], problem.shape[position]))
    if static and dilation == 1 and 1 < stride <= MOST_PHASES:
        return _phases(b, problem, position, axis, tap, stride, owners[moving], owners[1 - moving])
    return _emit(b, _inverted(b, problem, position, axis, tap, stride, dilation, owners[moving], owners[1 - moving]))


def _longer(a: str, c: str, extents: Mapping[str, Dim]) -> str:
    """Choose the axis to move over: the symbolic or longer one (a convolution's output positions)."""
    left, right = extents[a], extents[c]
    if not isinstance(right, int):
        return c
    if not isinstance(left, int):
        return a
    return a if left >= right else c


def _along(position: int, rank: int, amount: Dim) -> tuple[Dim, ...]:
    return tuple(amount if k == position else 0 for k in range(rank))


def _inverted(
    b: Builder,
    problem: _Gradient,
    position: int,
    axis: str,
    tap: str,
    stride: int,
    dilation: int,
    owner: int,
    tap_owner: int,
) -> _Gradient:
    """Dilate and pad the tensor with ``axis``, reverse the one with ``tap``.

    ``p = axis*stride + tap*dilation`` is then met by reading the padded tensor at ``p + reversed tap*dilation``.
    """
    target, length = f"p{position}_{axis}", problem.shape[position]
    moved, tapped = problem.factors[owner], problem.factors[tap_owner]
    rank, where = moved.value.type.rank, moved.position(axis)
    extent = problem.extents[axis]
    padded = b.pad(
        moved.value,
        b.constant(0, moved.value.type.dtype),
        low=_along(where, rank, (problem.extents[tap] - 1) * dilation),
        high=_along(where, rank, length - (extent - 1) * stride - 1),
        interior=_along(where, rank, stride - 1),
    )
    read = WindowTerm(((target, 1), (tap, dilation)))
    problem = problem.with_factor(owner, _Factor(padded, (*moved.side[:where], read, *moved.side[where + 1 :])))
    flipped = b.reverse(tapped.value, axes=(tapped.position(tap),))
    return problem.with_factor(tap_owner, replace(tapped, value=flipped)).with_target(position, target, length)


def _phases(
    b: Builder, problem: _Gradient, position: int, axis: str, tap: str, stride: int, owner: int, tap_owner: int
) -> Value:
    """Split ``p = axis*stride + tap`` by the remainder of p: each phase meets every stride-th tap, at stride 1."""
    length, taps = int(problem.shape[position]), int(problem.extents[tap])
    steps = -(-length // stride)
    tapped = problem.factors[tap_owner]
    rank, where = tapped.value.type.rank, tapped.position(tap)
    parts: list[Value | None] = []
    for phase in range(stride):
        count = -(-(taps - phase) // stride)
        if count <= 0:
            parts.append(None)
            continue
        starts = _along(where, rank, phase)
        limits = tuple(taps if k == where else d for k, d in enumerate(tapped.value.type.shape))
        strides = tuple(stride if k == where else 1 for k in range(rank))
        chosen = b.slice(tapped.value, starts=starts, limits=limits, strides=strides)
        part = replace(
            problem.with_factor(tap_owner, replace(tapped, value=chosen)),
            shape=(*problem.shape[:position], steps, *problem.shape[position + 1 :]),
            extents={**problem.extents, tap: count},
        )
        parts.append(_emit(b, _inverted(b, part, position, axis, tap, 1, 1, owner, tap_owner)))
    made = next(p for p in parts if p is not None)
    shape = made.type.shape
    single = (*shape[: position + 1], 1, *shape[position + 1 :])
    columns = [b.reshape_to(p if p is not None else b.zeros_like(made), single) for p in parts]
    woven = b.reshape_to(
        b.concat(*columns, axis=position + 1), (*shape[:position], steps * stride, *shape[position + 1 :])
    )
    if steps * stride == length:
        return woven
    limits = tuple(length if k == position else d for k, d in enumerate(woven.type.shape))
    return b.slice(woven, starts=(0,) * len(limits), limits=limits, strides=(1,) * len(limits))


def _scattered(b: Builder, problem: _Gradient, position: int, window: WindowTerm, owner: int) -> _Gradient:
    """Route a window whose axes one tensor holds alone through a one-hot table of its positions."""
    target, length = f"p{position}_{window.axes[0]}", problem.shape[position]
    factor, other = problem.factors[owner], problem.factors[1 - owner]
    shape = (*(problem.extents[a] for a in window.axes), length)
    integer = b.constant(0).type.dtype
    place: Value = b.full(shape, 0, integer)
    for k, (_, coefficient) in enumerate(window.terms):
        place = b.add(place, b.mul(b.iota(shape=shape, axis=k, dtype=integer), coefficient))
    hit = b.equal(place, b.iota(shape=shape, axis=len(shape) - 1, dtype=integer))
    table_side = (*(Group((a,)) for a in window.axes), Group((target,)))
    kept = tuple(d for d in factor.side if d.axes[0] not in window.axes or other.has(d.axes[0]))
    routed = ContractSpec(factor.side, table_side, (*kept, Group((target,))))
    table = b.cast_to(hit, factor.value.type.dtype)
    value = emit_contract(b, routed, factor.value, table, {**problem.extents, target: length})
    return problem.with_factor(owner, _Factor(value, routed.output)).with_target(position, target, length)
