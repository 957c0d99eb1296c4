"""Sliding windows of ONNX: strides, dilations and the three ways to state padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlc.errors import ResourceLimitError
from dlc.frontends.onnx.call import Call
from dlc.ir.dims import Dim

Pads = tuple[tuple[int, int], ...]
_LARGEST = (1 << 31) - 1


@dataclass(frozen=True)
class Window:
    """Window, strides, dilations and (low, high) padding per spatial axis."""

    extents: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads


def read_window(call: Call, spatial: Sequence[Dim], extents: Sequence[Dim]) -> Window:
    """Return the node's window over ``spatial`` dimensions, ``auto_pad`` worked out; TypeRuleError if impossible."""
    count = len(spatial)
    if count == 0:
        call.fail("takes a tensor with spatial dimensions (rank 3 or more)")
    sizes = tuple(_whole(call, e) for e in extents)
    stated = call.int_list("kernel_shape", None)
    if stated is not None and tuple(stated) != sizes:
        call.fail(f"kernel_shape {list(stated)} does not fit the kernel {list(sizes)}")
    strides = _list(call, "strides", count)
    dilations = _list(call, "dilations", count)
    mode = call.string("auto_pad", "NOTSET")
    match mode:
        case "NOTSET":
            pads = explicit_pads(call, count)
        case "VALID":
            pads = ((0, 0),) * count
        case "SAME_UPPER" | "SAME_LOWER":
            columns = zip(spatial, sizes, strides, dilations, strict=True)
            pads = tuple(_same(call, *column, upper=mode == "SAME_UPPER") for column in columns)
        case _:
            call.fail(f"auto_pad {mode!r} is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    return Window(sizes, strides, dilations, pads)


def kernel_shape(call: Call, count: int) -> tuple[int, ...]:
    """Return the attribute kernel_shape, checked."""
    return _list(call, "kernel_shape", count)


def explicit_pads(call: Call, count: int) -> Pads:
    """Return the attribute pads as (low, high) pairs."""
    pads = call.int_list("pads", None) or (0,) * (2 * count)
    if len(pads) != 2 * count:
        call.fail(f"has {len(pads)} pads for {count} spatial axes; it takes {2 * count}")
    if any(abs(p) > _LARGEST for p in pads):
        raise ResourceLimitError(f"pads {list(pads)} are impossibly large")
    return tuple((pads[k], pads[k + count]) for k in range(count))


def _list(call: Call, name: str, count: int) -> tuple[int, ...]:
    values = call.int_list(name, None)
    if values is None:
        if name == "kernel_shape":
            call.fail("lacks the attribute 'kernel_shape'")
        return (1,) * count
    if len(values) != count:
        call.fail(f"attribute {name} has {len(values)} numbers for {count} spatial axes")
    if any(not 1 <= v <= _LARGEST for v in values):
        call.fail(f"attribute {name} is {list(values)}; it must be at least 1")
    return values


def _whole(call: Call, extent: Dim) -> int:
    if not isinstance(extent, int):
        call.fail(f"the kernel has a symbolic extent {extent}; give shapes=")
    return extent


def _same(call: Call, extent: Dim, size: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    """Padding that gives ceil(extent / stride) positions; the odd element goes high for SAME_UPPER."""
    reach = (size - 1) * dilation + 1
    if stride == 1:
        total = reach - 1
    elif not isinstance(extent, int):
        return call.fail(f"auto_pad needs a fixed extent, not {extent}; give shapes=")
    else:
        total = max(0, (-(-extent // stride) - 1) * stride + reach - extent)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)
