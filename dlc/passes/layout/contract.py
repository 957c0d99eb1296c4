"""The layouts that contractions ask for: channels last where there are windows, else those of the operands."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from dlc.ir.builder import Builder
from dlc.ir.contraction import ContractSpec, DimIndex, Group, WindowTerm, parse_spec, side_axes
from dlc.ir.graph import Node, Value
from dlc.ir.ops.contract import contract_extents
from dlc.ir.ops.contract_gradient import emit_contract
from dlc.passes.layout.reshape import Layout, identity

Layouts = tuple[Layout, Layout, Layout]

MOST_PLANES = 4
"""Channels up to which an operand in planes is read as it is."""
LONG_SUM = 64
"""Terms from which on runs along channels and taps are worth interleaving planes."""


def contract_layouts(
    node: Node,
    found: Sequence[Layout | None],
    weights: Sequence[bool],
    turned: Sequence[bool],
    wanted: Layout | None = None,
) -> Layouts | None:
    """Return layouts of both operands and the result, or None where the contraction has no wish.

    ``found`` gives the layouts in which the operands are stored (None: any); ``weights`` tells which operands
    depend on no data, ``turned`` which were transposed to get where they are. ``wanted`` is the layout in which
    the result will be read.
    """
    spec = parse_spec(node.attributes["spec"])
    windowed = _windowed_sides(spec)
    stored = [f if f is not None and f != identity(v) else None for f, v in zip(found, node.inputs, strict=True)]
    if len(windowed) == 1:
        data = windowed[0]
        as_it_is = found[data] is not None and stored[data] is None and not turned[data]
        if as_it_is and weights[1 - data] and _is_planar(node, spec, data):
            return _planar(node, spec, data)
        return _windowed(spec, data, stored, weights)
    if not windowed and wanted is not None and any(weights) and all(s is None for s in stored):
        return identity(node.inputs[0]), identity(node.inputs[1]), wanted
    if windowed or all(s is None for s in stored):
        return None
    layouts = [s or identity(v) for s, v in zip(stored, node.inputs, strict=True)]
    candidates = [k for k in (0, 1) if stored[k] is not None and not weights[k]]
    shared = {k: _shared_dims(spec, k) for k in candidates}
    leader = max(candidates, key=lambda k: len(shared[k]), default=None)
    if leader is None or len(shared[leader]) < 2:
        return layouts[0], layouts[1], identity(node.outputs[0])
    return layouts[0], layouts[1], _result_layout(spec, leader, layouts[leader])


def windowed_layout(node: Node, spec: ContractSpec) -> tuple[int, Layout] | None:
    """Return the operand that the contraction has windows over, if it is one, and the layout that it asks for."""
    windowed = _windowed_sides(spec)
    if len(windowed) != 1 or _is_planar(node, spec, windowed[0]):
        return None
    return windowed[0], _asked_layout(spec, windowed[0])


def _windowed_sides(spec: ContractSpec) -> list[int]:
    return [k for k, side in enumerate((spec.lhs, spec.rhs)) if any(isinstance(d, WindowTerm) for d in side)]


def _asked_layout(spec: ContractSpec, data: int) -> Layout:
    sides = (spec.lhs, spec.rhs)
    return _channels_last(sides[data], side_axes(spec.output) - side_axes(sides[1 - data]))


def permuted_contract(builder: Builder, node: Node, operands: Sequence[Value], layouts: Layouts) -> Value:
    """Emit the contraction of ``node`` on operands in ``layouts``, its result in the last of them."""
    spec = parse_spec(node.attributes["spec"])
    sides = [tuple(side[d] for d in wanted) for side, wanted in zip((spec.lhs, spec.rhs, spec.output), layouts)]
    extents = contract_extents(node.input_types, node.attributes)
    return emit_contract(builder, ContractSpec(*sides), operands[0], operands[1], extents, node.outputs[0].type.dtype)


def _windowed(spec: ContractSpec, data: int, stored: Sequence[Layout | None], weights: Sequence[bool]) -> Layouts:
    sides = (spec.lhs, spec.rhs)
    kernel = 1 - data
    layouts = [*stored]
    data_layout = stored[data] or _asked_layout(spec, data)
    layouts[data] = data_layout
    taps = {a for d in sides[data] if isinstance(d, WindowTerm) for a in d.axes}
    if weights[kernel]:
        layouts[kernel] = kernel_order(spec, data)
    elif layouts[kernel] is None:
        moving = [d for d, index in enumerate(sides[kernel]) if set(index.axes) & taps]
        fixed = [d for d in range(len(sides[kernel])) if d not in moving]
        layouts[kernel] = tuple(fixed[:1] + moving + fixed[1:])
    lhs, rhs = layouts
    assert lhs is not None and rhs is not None
    return lhs, rhs, _result_layout(spec, data, data_layout)


def kernel_order(spec: ContractSpec, data: int) -> Layout:
    """Return the order in which windows over operand ``data`` read the other one: taps, summed, output channels."""
    side, kept = (spec.lhs, spec.rhs)[1 - data], side_axes(spec.output)
    taps = {a for d in (spec.lhs, spec.rhs)[data] if isinstance(d, WindowTerm) for a in d.axes}
    return tuple(sorted(range(len(side)), key=lambda d: _kernel_rank(side[d], taps, kept)))


def _is_planar(node: Node, spec: ContractSpec, data: int) -> bool:
    """Tell whether few channels in planes, as images come, are best read as they are.

    Interleaving them would cost a pass over the operand; long sums repay it by longer runs.
    """
    side, other = (spec.lhs, spec.rhs)[data], (spec.lhs, spec.rhs)[1 - data]
    extents = contract_extents(node.input_types, node.attributes)
    summed = [extents[a] for a in spec.reduce_axes]
    channels = [extents[a] for d in side if isinstance(d, Group) for a in d.axes if a in spec.reduce_axes]
    if not all(isinstance(e, int) for e in (*summed, *channels)):
        return False
    grouped = side_axes(side) & side_axes(other) & set(spec.output_axes)
    few = 1 < prod(channels) <= MOST_PLANES and prod(summed) < LONG_SUM  # type: ignore[arg-type,type-var]
    return few and not grouped and isinstance(side[-1], WindowTerm)


def _planar(node: Node, spec: ContractSpec, data: int) -> Layouts:
    """Return the layouts of a convolution that reads planes and writes channels last."""
    sides = (spec.lhs, spec.rhs)
    last = _asked_layout(spec, data)
    order = [a for d in sides[data] for a in d.axes]
    kernel = sorted(
        range(len(sides[1 - data])), key=lambda d: min(_position(order, a) for a in sides[1 - data][d].axes)
    )
    layouts = [identity(v) for v in node.inputs]
    layouts[1 - data] = tuple(kernel)
    return layouts[0], layouts[1], _result_layout(spec, data, last)


def _position(order: Sequence[str], axis: str) -> int:
    return order.index(axis) if axis in order else len(order)


def _channels_last(side: Sequence[DimIndex], batch_axes: set[str]) -> Layout:
    """Return the order batch, windows, channels: the first plain dimension is the batch if there are two or more."""
    windows = [d for d, index in enumerate(side) if isinstance(index, WindowTerm)]
    plain = [d for d in range(len(side)) if d not in windows]
    leading = len(plain) > 1 or (len(plain) == 1 and set(side[plain[0]].axes) <= batch_axes)
    return tuple(plain[:1] + windows + plain[1:] if leading else windows + plain)


def _kernel_rank(index: DimIndex, taps: set[str], output: set[str]) -> int:
    """Order a kernel's dimensions: taps, then summed channels, then output channels."""
    if set(index.axes) & taps:
        return 0
    return 2 if set(index.axes) & output else 1


def _shared_dims(spec: ContractSpec, position: int) -> list[int]:
    """Return the output dimensions that operand ``position`` has axes of."""
    axes = side_axes((spec.lhs, spec.rhs)[position])
    return [k for k, d in enumerate(spec.output) if set(d.axes) & axes]


def _result_layout(spec: ContractSpec, leader: int, layout: Layout) -> Layout:
    """Order the output like the leading operand; dimensions that it lacks come last."""
    side = (spec.lhs, spec.rhs)[leader]
    place = {a: position for position, d in enumerate(layout) for a in side[d].axes}
    last = len(layout)
    return tuple(sorted(range(len(spec.output)), key=lambda k: min(place.get(a, last) for a in spec.output[k].axes)))
