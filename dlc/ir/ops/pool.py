"""Pooling with padding and ceil mode: composites of ``pad`` and ``reduce_window``, PyTorch's rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.convolution import check_padding, pair_padding, window_extent
from dlc.ir.ops.rules import check_axes, check_ints, lowest, spread, wrap_axes
from dlc.ir.types import DType, TensorType, as_dtype


def _normalize(types: Types, a: Attributes) -> Attributes:
    """Give every spatial axis its window, stride (default: the window), dilation and padding."""
    axes = tuple(range(2, types[0].rank)) if a["axes"] is None else wrap_axes(a["axes"], types[0].rank)
    count = len(axes)
    window = spread(a["window"], count)
    strides = window if a["strides"] is None else spread(a["strides"], count)
    return a.updated(
        axes=axes,
        window=window,
        strides=strides,
        dilations=spread(a["dilations"], count),
        padding=pair_padding(a["padding"], count),
    )


def pooled_extents(shape: Sequence[Dim], a: Attributes) -> tuple[dict[int, Dim], dict[int, int]]:
    """Return, per spatial axis, the number of windows and the elements that ceil mode adds after the padding."""
    extents: dict[int, Dim] = {}
    extra: dict[int, int] = {}
    for axis, window, stride, dilation, pads in zip(
        a["axes"], a["window"], a["strides"], a["dilations"], a["padding"], strict=True
    ):
        count = window_extent(shape[axis], window, stride, dilation, pads, f"axis {axis}")
        extra[axis] = 0
        if a["ceil_mode"] and stride > 1:
            extent = shape[axis]
            if not isinstance(extent, int):
                raise TypeRuleError(
                    f"ceil_mode needs a fixed extent of axis {axis}, not {extent}; bind it with shapes="
                )
            reach = (window - 1) * dilation + 1
            ceiled = -(-(extent + sum(pads) - reach) // stride) + 1
            if (ceiled - 1) * stride >= extent + pads[0]:  # the last window must start inside operand or low padding
                ceiled -= 1
            extra[axis] = max(0, (ceiled - 1) * stride + reach - (extent + sum(pads)))
            count = ceiled
        extents[axis] = count
    return extents, extra


def pool_type(inputs: Types, attributes: Attributes) -> Types:
    """A tensor -> one element per window along ``axes``."""
    x, a = inputs[0], attributes
    axes = check_axes(a["axes"], x.rank)
    count = len(axes)
    for name in ("window", "strides", "dilations"):
        check_ints(a[name], count, name, low=1)
    check_padding(a["padding"], count)
    for window, dilation, pads in zip(a["window"], a["dilations"], a["padding"], strict=True):
        if max(pads) > (window - 1) * dilation:
            raise TypeRuleError(f"padding {pads} must be smaller than the window {window} (dilation {dilation})")
    extents, _ = pooled_extents(x.shape, a)
    return (TensorType(x.dtype, tuple(extents.get(k, d) for k, d in enumerate(x.shape))),)


def max_pool_type(inputs: Types, attributes: Attributes) -> Types:
    """A tensor of numbers -> one element per window along ``axes``."""
    if inputs[0].dtype.kind not in ("int", "uint", "float"):
        raise TypeRuleError(f"takes numbers, not {inputs[0].dtype}; cast first")
    return pool_type(inputs, attributes)


def avg_pool_type(inputs: Types, attributes: Attributes) -> Types:
    """A float tensor -> one element per window along ``axes``."""
    if not inputs[0].dtype.is_float:
        raise TypeRuleError(f"takes floats, not {inputs[0].dtype}; cast first")
    return pool_type(inputs, attributes)


def _pads(a: Attributes, extra: dict[int, int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pairs = dict(zip(a["axes"], a["padding"], strict=True))
    low = tuple(pairs[k][0] if k in pairs else 0 for k in range(rank))
    high = tuple(pairs[k][1] + extra[k] if k in pairs else 0 for k in range(rank))
    return low, high


def _windows(b: Builder, x: Value, a: Attributes, combiner: str) -> Value:
    """Emit the reduction over windows of a padded operand."""
    full = {name: [1] * x.type.rank for name in ("window", "strides", "dilations")}
    for name, values in full.items():
        for axis, value in zip(a["axes"], a[name], strict=True):
            values[axis] = value
    return b.reduce_window(x, combiner=combiner, **{name: tuple(values) for name, values in full.items()})


def _pad_with(b: Builder, x: Value, value: float | int | bool, low: Sequence[int], high: Sequence[int]) -> Value:
    if not any(low) and not any(high):
        return x
    return b.pad(x, b.constant(value, x.type.dtype), low=tuple(low), high=tuple(high), interior=0)


def max_pool_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Pad with the lowest value, then take the maximum of every window."""
    x = inputs[0]
    low, high = _pads(a, pooled_extents(x.type.shape, a)[1], x.type.rank)
    return (_windows(b, _pad_with(b, x, lowest(x.type.dtype), low, high), a, "maximum"),)


def _covered(extent: int, k: int, a: Attributes, extra: int) -> np.ndarray:
    """Count, per window along spatial axis number ``k``, the elements by which a sum is divided."""
    (low, high), window, stride = a["padding"][k], a["window"][k], a["strides"][k]
    dilation = a["dilations"][k]
    valid = np.zeros(low + extent + high + extra, np.int64)
    valid[: low + extent + high] = 1
    if not a["count_include_pad"]:
        valid[:low] = 0
        valid[low + extent :] = 0
    reach = (window - 1) * dilation + 1
    return np.lib.stride_tricks.sliding_window_view(valid, reach)[::stride, ::dilation].sum(1)


def avg_pool_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Pad with zeros, add up every window, divide by its number of elements."""
    x = inputs[0]
    shape, rank, dtype = x.type.shape, x.type.rank, x.type.dtype
    _, extra = pooled_extents(shape, a)
    low, high = _pads(a, extra, rank)
    total = _windows(b, _pad_with(b, x, 0, low, high), a, "add")
    size = int(np.prod(a["window"], dtype=np.int64))
    partial = any(extra.values()) or (not a["count_include_pad"] and (any(low) or any(high)))
    if not partial:
        return (b.mul(total, 1.0 / size),)
    # Windows at the border cover fewer elements: per axis a table of counts, whose product divides.
    divisor: Value | None = None
    for k, axis in enumerate(a["axes"]):
        extent = shape[axis]
        if isinstance(extent, int):
            counts = b.constant(_covered(extent, k, a, extra[axis]).astype(np.float64), dtype)
        else:
            counts = _symbolic_counts(b, extent, k, a, dtype)
        counts = b.broadcast(counts, shape=total.type.shape, dims=(axis,))
        divisor = counts if divisor is None else b.mul(divisor, counts)
    assert divisor is not None
    return (b.div(total, divisor),)


def _symbolic_counts(b: Builder, extent: Dim, k: int, a: Attributes, dtype: DType) -> Value:
    """Emit the counts of ``_covered`` for an extent that is not bound yet."""
    low, high = a["padding"][k]
    ones = b.full((extent,), 1, dtype)
    padding = b.constant(1 if a["count_include_pad"] else 0, ones.type.dtype)
    padded = b.pad(ones, padding, low=low, high=high, interior=0)
    return b.reduce_window(
        padded, combiner="add", window=a["window"][k], strides=a["strides"][k], dilations=a["dilations"][k]
    )


def _np_windows(a: Attributes, x: np.ndarray, fill: float | int | bool, dtype: np.dtype) -> np.ndarray:
    """Return the windows of the padded operand: one trailing dimension per spatial axis."""
    low, high = _pads(a, pooled_extents(x.shape, a)[1], x.ndim)
    padded = np.pad(x.astype(dtype), list(zip(low, high, strict=True)), constant_values=fill)
    reach = tuple((w - 1) * d + 1 for w, d in zip(a["window"], a["dilations"], strict=True))
    steps: list[slice] = [slice(None)] * x.ndim + [slice(None, None, d) for d in a["dilations"]]
    for axis, stride in zip(a["axes"], a["strides"], strict=True):
        steps[axis] = slice(None, None, stride)
    return np.lib.stride_tricks.sliding_window_view(padded, reach, a["axes"])[tuple(steps)]


def max_pool_evaluate(a: Attributes, x: np.ndarray) -> np.ndarray:
    """The maximum over padded windows."""
    windows = _np_windows(a, x, lowest(as_dtype(x.dtype)), x.dtype)
    return windows.max(axis=tuple(range(x.ndim, windows.ndim)))


def avg_pool_evaluate(a: Attributes, x: np.ndarray) -> np.ndarray:
    """The mean over padded windows, without what does not count."""
    windows = _np_windows(a, x, 0.0, np.dtype(np.float64))
    total = windows.sum(axis=tuple(range(x.ndim, windows.ndim)))
    _, extra = pooled_extents(x.shape, a)
    for k, axis in enumerate(a["axes"]):
        counts = _covered(x.shape[axis], k, a, extra[axis])
        total = total / counts.reshape([-1 if d == axis else 1 for d in range(x.ndim)])
    return total.astype(x.dtype)


_ATTRIBUTES = {
    "window": Attribute((int,), many=True, doc="window extent per spatial axis"),
    "strides": Attribute((int, type(None)), many=True, default=None, required=False, doc="steps; default: the window"),
    "padding": Attribute((tuple, int), default=0, required=False, doc="(low, high) per spatial axis"),
    "dilations": Attribute((int,), many=True, default=1, required=False, doc="distance of window elements"),
    "axes": Attribute(
        (int, type(None)), many=True, default=None, required=False, doc="the spatial axes; default all but 0 and 1"
    ),
    "ceil_mode": Attribute((bool,), default=False, required=False, doc="keep partial windows at the end"),
}

register(
    OpDef(
        name="max_pool",
        arity=1,
        infer=max_pool_type,
        evaluate=max_pool_evaluate,
        attributes=_ATTRIBUTES,
        expand=max_pool_expand,
        normalize=_normalize,
        doc="Maximum over windows; padding never wins.",
    )
)
register(
    OpDef(
        name="avg_pool",
        arity=1,
        infer=avg_pool_type,
        evaluate=avg_pool_evaluate,
        attributes={
            **_ATTRIBUTES,
            "count_include_pad": Attribute((bool,), default=True, required=False, doc="padding counts as elements"),
        },
        expand=avg_pool_expand,
        normalize=_normalize,
        doc="Mean over windows.",
    )
)
