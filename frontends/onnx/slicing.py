"""Slices of ONNX: defaults, negative and overlong bounds, also against symbolic dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.dimensions import at_most
from dlc.ir.dims import Dim, SymbolicDim

_END = (1 << 31) - 1
"""Bounds at least this large mean the end of the axis."""


def resolve_slice(call: Call, shape: Sequence[Dim]) -> list[tuple[Dim, Dim, int]]:
    """Return (start, limit, step) for every axis of ``shape``.

    For a positive step, 0 <= start <= limit <= extent. For a negative one elements go from ``start`` down to
    just above ``limit``, which may be -1.
    """
    rank = len(shape)
    if call.version >= 10:
        starts, ends = call.dims(1, "starts"), call.dims(2, "ends")
        axes = call.ints(3, "axes") if call.has(3) else tuple(range(len(starts)))
        steps = call.ints(4, "steps") if call.has(4) else (1,) * len(starts)
    else:
        starts, ends = call.int_list("starts"), call.int_list("ends")
        axes = call.int_list("axes", None) or tuple(range(len(starts)))
        steps = (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        call.fail(f"starts, ends, axes and steps have lengths {len(starts)}, {len(ends)}, {len(axes)} and {len(steps)}")
    result: list[tuple[Dim, Dim, int]] = [(0, extent, 1) for extent in shape]
    for start, end, axis, step in zip(starts, ends, call.axes(axes, rank), steps, strict=True):
        if step == 0:
            call.fail(f"step 0 along axis {axis}; steps must not be 0")
        result[axis] = _resolve(start, end, step, shape[axis])
    return result


def _resolve(start: Dim, end: Dim, step: int, extent: Dim) -> tuple[Dim, Dim, int]:
    if step > 0:
        low, high = _clamp(start, extent, 0, extent), _clamp(end, extent, 0, extent)
        if at_most(high, low):
            high = low
        return low, high, step
    if extent == 0:
        return -1, -1, step
    low, high = _clamp(start, extent, 0, extent - 1), _clamp(end, extent, -1, extent - 1)
    if isinstance(low, int) and isinstance(high, int) and low <= high:
        high = low
    return low, high, step


def _clamp(index: Dim, extent: Dim, lowest: int, highest: Dim) -> Dim:
    """Count ``index`` from the front and clamp it; an undecided comparison with symbols is taken as in range."""
    if isinstance(index, int):
        if index >= _END:
            return highest
        if index <= -_END:
            return lowest
        if index < 0:
            index = extent + index
    if at_most(index, lowest):
        return lowest
    if at_most(highest, index):
        return highest
    if isinstance(index, SymbolicDim) and _negative(index):
        return _clamp(extent + index, extent, lowest, highest)
    return index


def _negative(index: SymbolicDim) -> bool:
    """Whether a symbolic index is surely below zero (such as ``-n``): it then counts from the end."""
    return bool(at_most(index, -1)) or (
        all(c < 0 for m, c in index.terms if m) and all(c <= 0 for m, c in index.terms if not m)
    )
