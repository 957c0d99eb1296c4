"""Functions of neural networks with PyTorch's arguments, over builder values: activations, convolutions,
pooling, normalisation and attention.

Layers hold the parameters; this module only emits. Tensors are channels-first, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from dlc.errors import TypeRuleError
from dlc.frontends.graph import array_elementwise as ew
from dlc.frontends.graph import array_reduction as red
from dlc.frontends.graph import array_shape
from dlc.frontends.graph.promotion import as_value, float_dtype, normalize_axis
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim, exact_quotient
from dlc.ir.graph import Value
from dlc.ir.types import bool_, int64

SPATIAL = "dhw"


def floating(b: Builder, x: Any) -> Value:
    """Return ``x`` as a value of a floating-point dtype."""
    value = as_value(b, x)
    return b.cast_to(value, float_dtype(value.type.dtype))


# -- activations -----------------------------------------------------------------------


def _activation(op: str, doc: str, **fixed: Any) -> Callable[..., Value]:
    def function(b: Builder, x: Any) -> Value:
        return b.call(op, floating(b, x), **fixed)

    function.__doc__ = doc
    return function


selu = _activation("selu", "Return the scaled exponential linear unit.")
silu = _activation("silu", "Return ``x * sigmoid(x)``.")
softsign = _activation("softsign", "Return ``x / (1 + |x|)``.")
hardsigmoid = _activation("hard_sigmoid", "Return ``clip(x / 6 + 1 / 2, 0, 1)``.", alpha=1.0 / 6.0, beta=0.5)
hardswish = _activation("hard_swish", "Return ``x * clip(x / 6 + 1 / 2, 0, 1)``.")
mish = _activation("mish", "Return ``x * tanh(softplus(x))``.")
logsigmoid = _activation("log_sigmoid", "Return ``log(sigmoid(x))`` without overflow.")


def relu(b: Builder, x: Any) -> Value:
    """Return ``max(x, 0)``."""
    return b.relu(as_value(b, x))


def relu6(b: Builder, x: Any) -> Value:
    """Return ``clip(x, 0, 6)``."""
    return hardtanh(b, x, 0.0, 6.0)


def hardtanh(b: Builder, x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    """Limit ``x`` to [``min_val``, ``max_val``]."""
    return b.hard_tanh(floating(b, x), low=float(min_val), high=float(max_val))


def leaky_relu(b: Builder, x: Any, negative_slope: float = 0.01) -> Value:
    """Return ``x`` where positive, else ``negative_slope * x``."""
    return b.leaky_relu(floating(b, x), alpha=float(negative_slope))


def elu(b: Builder, x: Any, alpha: float = 1.0) -> Value:
    """Return ``x`` where positive, else ``alpha * (exp(x) - 1)``."""
    return b.elu(floating(b, x), alpha=float(alpha))


def celu(b: Builder, x: Any, alpha: float = 1.0) -> Value:
    """Return ``x`` where positive, else ``alpha * (exp(x / alpha) - 1)``."""
    return b.celu(floating(b, x), alpha=float(alpha))


def gelu(b: Builder, x: Any, approximate: str = "none") -> Value:
    """Return ``x`` times the normal distribution function of ``x``; ``approximate`` is "none" or "tanh"."""
    return b.gelu(floating(b, x), approximate=approximate)


def softplus(b: Builder, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """Return ``log(1 + exp(beta * x)) / beta``, linear above ``threshold``."""
    return b.softplus(floating(b, x), beta=float(beta), threshold=float(threshold))


def glu(b: Builder, x: Any, axis: int = -1) -> Value:
    """Split along ``axis`` into halves a, b and return ``a * sigmoid(b)``."""
    left, right = array_shape.split(b, floating(b, x), 2, axis)
    return b.mul(left, b.sigmoid(right))


def prelu(b: Builder, x: Any, weight: Any) -> Value:
    """Return ``x`` where positive, else ``weight * x``; one weight, or one per channel (dimension 1)."""
    value, slope = as_value(b, x), as_value(b, weight)
    if slope.type.shape != (1,) and value.type.rank > 2:
        slope = b.reshape_to(slope, (*slope.type.shape, *(1,) * (value.type.rank - 2)))
    return b.prelu(value, b.broadcast_to(slope, value.type.shape))


def softmax(b: Builder, x: Any, axis: int = -1) -> Value:
    """Return ``exp(x)`` normalised to sum 1 along ``axis``."""
    value = floating(b, x)
    return b.softmax(value, axis=normalize_axis(axis, value.type.rank))


def log_softmax(b: Builder, x: Any, axis: int = -1) -> Value:
    """Return the logarithm of ``softmax`` along ``axis``."""
    value = floating(b, x)
    return b.log_softmax(value, axis=normalize_axis(axis, value.type.rank))


# -- linear and convolution ----------------------------------------------------------------


def linear(b: Builder, x: Any, weight: Any, bias: Any = None) -> Value:
    """Return ``x @ weight.T + bias`` over the last dimension; ``weight`` is (out, in), ``bias`` (out,)."""
    value, matrix = as_value(b, x), as_value(b, weight)
    if value.type.rank == 0 or value.type.shape[-1] != matrix.type.shape[-1]:
        raise TypeRuleError(
            f"a linear layer of weight {matrix.type} (out, in) takes {matrix.type.shape[-1]} features in the last "
            f"dimension, got {value.type}"
        )
    product = b.matmul(value, b.transpose_to(matrix, (1, 0)))
    return product if bias is None else b.add(product, as_value(b, bias))


def per_dimension(value: Any, count: int, name: str) -> tuple[int, ...]:
    """Return one int per spatial dimension from an int or a sequence; TypeRuleError for another length."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * count
    if len(values) != count or not all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values):
        raise TypeRuleError(f"{name} must be an int or {count} ints, not {value!r}")
    return tuple(int(v) for v in values)


def _check_conv_input(x: Value, spatial: int, channels: Dim, name: str) -> None:
    letters = ", ".join(("batch", "channels", *("depth", "height", "width")[3 - spatial :]))
    if x.type.rank != spatial + 2:
        raise TypeRuleError(f"{name} takes ({letters}), got {x.type}")
    if x.type.shape[1] != channels:
        raise TypeRuleError(f"{name} takes {channels} channels in dimension 1, got {x.type}")


def _numbers(spatial: int) -> tuple[str, str]:
    letters = SPATIAL[3 - spatial :]
    return f"nc{letters}", f"oi{letters}"


def conv(
    b: Builder,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Convolve (cross-correlate) ``x`` (N, C, spatial...) with ``weight`` (out, C / groups, kernel...).

    ``padding`` is an int, one per dimension, "valid" or "same" (stride 1), as in PyTorch.
    """
    value, kernel = as_value(b, x), as_value(b, weight)
    spatial = kernel.type.rank - 2
    _check_conv_input(value, spatial, kernel.type.shape[1] * groups, f"conv{spatial}d")
    strides = per_dimension(stride, spatial, "stride")
    dilations = per_dimension(dilation, spatial, "dilation")
    layout, kernel_layout = _numbers(spatial)
    extents = [int(k) for k in kernel.type.shape[2:]]  # type: ignore[arg-type]
    pads = _conv_padding(padding, extents, strides, dilations)
    y = b.conv(
        value,
        kernel,
        input=layout,
        kernel=kernel_layout,
        output=layout,
        strides=strides,
        dilations=dilations,
        padding=pads,
        groups=groups,
    )
    return y if bias is None else _add_channels(b, y, bias)


def _conv_padding(
    padding: Any, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * len(kernel)
        if padding != "same":
            raise TypeRuleError(f'padding {padding!r} is unknown; use ints, "valid" or "same"')
        if any(s != 1 for s in strides):
            raise TypeRuleError('padding "same" needs stride 1')
        totals = [d * (k - 1) for k, d in zip(kernel, dilations)]
        return tuple((t // 2, t - t // 2) for t in totals)
    return tuple((p, p) for p in per_dimension(padding, len(kernel), "padding"))


def _add_channels(b: Builder, y: Value, bias: Any) -> Value:
    vector = as_value(b, bias)
    return b.add(y, b.reshape_to(vector, (*vector.type.shape, *(1,) * (y.type.rank - 2))))


def conv_transpose(
    b: Builder,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """Return the transposed convolution of ``x`` (N, C, ...) with ``weight`` (C, out / groups, kernel...)."""
    value, kernel = as_value(b, x), as_value(b, weight)
    spatial = kernel.type.rank - 2
    _check_conv_input(value, spatial, kernel.type.shape[0], f"conv_transpose{spatial}d")
    layout, _ = _numbers(spatial)
    y = b.conv_transpose(
        value,
        kernel,
        input=layout,
        kernel=f"io{layout[2:]}",
        output=layout,
        strides=per_dimension(stride, spatial, "stride"),
        dilations=per_dimension(dilation, spatial, "dilation"),
        padding=tuple((p, p) for p in per_dimension(padding, spatial, "padding")),
        output_padding=per_dimension(output_padding, spatial, "output_padding"),
        groups=groups,
    )
    return y if bias is None else _add_channels(b, y, bias)


# -- pooling --------------------------------------------------------------------------------


def max_pool(
    b: Builder,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:
    """Return the largest element of each window over the dimensions after (N, C)."""
    value = as_value(b, x)
    spatial = value.type.rank - 2
    window = per_dimension(kernel_size, spatial, "kernel_size")
    pads = per_dimension(padding, spatial, "padding")
    _check_pool_padding(window, pads)
    return b.max_pool(
        value,
        window=window,
        strides=window if stride is None else per_dimension(stride, spatial, "stride"),
        padding=tuple((p, p) for p in pads),
        dilations=per_dimension(dilation, spatial, "dilation"),
        axes=tuple(range(2, value.type.rank)),
        ceil_mode=ceil_mode,
    )


def avg_pool(
    b: Builder,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    """Return the mean of each window over the dimensions after (N, C)."""
    value = as_value(b, x)
    spatial = value.type.rank - 2
    window = per_dimension(kernel_size, spatial, "kernel_size")
    pads = per_dimension(padding, spatial, "padding")
    _check_pool_padding(window, pads)
    return b.avg_pool(
        value,
        window=window,
        strides=window if stride is None else per_dimension(stride, spatial, "stride"),
        padding=tuple((p, p) for p in pads),
        axes=tuple(range(2, value.type.rank)),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )


def _check_pool_padding(window: Sequence[int], pads: Sequence[int]) -> None:
    if any(2 * p > w for w, p in zip(window, pads)):
        raise TypeRuleError(f"padding {list(pads)} must be at most half of the window {list(window)}")


def adaptive_avg_pool(b: Builder, x: Any, output_size: Any, spatial: int) -> Value:
    """Return means over windows chosen so that the last ``spatial`` dimensions become ``output_size``."""
    value = as_value(b, x)
    sizes = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size,) * spatial
    first = value.type.rank - spatial
    for axis, size in enumerate(sizes, start=first):
        extent = value.type.shape[axis]
        if size is None or size == extent:
            continue
        if size == 1:
            continue
        value = _average_bins(b, value, axis, extent, size)
    ones = tuple(a for a, s in enumerate(sizes, start=first) if s == 1 and value.type.shape[a] != 1)
    return red.mean(b, value, ones, keepdims=True) if ones else value


def _average_bins(b: Builder, value: Value, axis: int, extent: Dim, size: int) -> Value:
    if not isinstance(extent, int):
        raise TypeRuleError(
            f"adaptive pooling to {size} needs a known extent, dimension {axis} of {value.type} is symbolic"
        )
    # Bin i averages [floor(i*n/size), ceil((i+1)*n/size)): a product with a constant matrix.
    weights = np.zeros((size, extent))
    for i in range(size):
        low, high = i * extent // size, -(-(i + 1) * extent // size)
        weights[i, low:high] = 1.0 / (high - low)
    moved = array_shape.moveaxis(b, value, axis, -1)
    matrix = b.constant(weights.T, value.type.dtype)
    return array_shape.moveaxis(b, b.matmul(moved, matrix), -1, axis)


def adaptive_max_pool(b: Builder, x: Any, output_size: Any, spatial: int) -> Value:
    """Return maxima over windows that make the last ``spatial`` dimensions ``output_size``, a divisor of each."""
    value = as_value(b, x)
    sizes = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size,) * spatial
    first = value.type.rank - spatial
    for axis, size in enumerate(sizes, start=first):
        extent = value.type.shape[axis]
        if size is None or size == extent:
            continue
        part = exact_quotient(extent, size)
        if part is None:
            raise TypeRuleError(
                f"adaptive max pooling from {extent} to {size}: the sizes must divide; pad or crop first"
            )
        shape = value.type.shape
        split = b.reshape_to(value, (*shape[:axis], size, part, *shape[axis + 1 :]))
        value = b.reduce_max(split, axes=(axis + 1,), keepdims=False)
    return value


# -- normalisation -----------------------------------------------------------------------------


def layer_norm(
    b: Builder, x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value:
    """Normalise over the trailing dimensions ``normalized_shape``, then scale and shift elementwise."""
    value = floating(b, x)
    shape = tuple(normalized_shape) if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
    _check_trailing(value, shape)
    scale = b.full(shape, 1, value.type.dtype) if weight is None else as_value(b, weight)
    shift = b.full(shape, 0, value.type.dtype) if bias is None else as_value(b, bias)
    return b.layer_norm(value, scale, shift, axes=_trailing(value, shape), epsilon=float(eps))


def rms_norm(b: Builder, x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Value:
    """Divide by the root mean square over the trailing dimensions, then scale; ``eps`` None is the dtype's epsilon."""
    value = floating(b, x)
    shape = tuple(normalized_shape) if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
    _check_trailing(value, shape)
    scale = b.full(shape, 1, value.type.dtype) if weight is None else as_value(b, weight)
    epsilon = float(np.finfo(value.type.dtype.numpy).eps) if eps is None else float(eps)
    return b.rms_norm(value, scale, axes=_trailing(value, shape), epsilon=epsilon)


def _trailing(value: Value, shape: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(range(value.type.rank - len(shape), value.type.rank))


def _check_trailing(value: Value, shape: tuple[Dim, ...]) -> None:
    if value.type.shape[value.type.rank - len(shape) :] != shape:
        raise TypeRuleError(f"normalises over trailing dimensions {list(shape)}, got {value.type}")


def group_norm(b: Builder, x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Value:
    """Normalise over each of ``num_groups`` groups of channels (dimension 1) and all dimensions after it."""
    value = floating(b, x)
    channels = value.type.shape[1] if value.type.rank > 1 else 0
    if channels == 0 or exact_quotient(channels, num_groups) is None:
        raise TypeRuleError(f"the channels (dimension 1) of {value.type} do not divide into {num_groups} groups")
    scale = b.full((channels,), 1, value.type.dtype) if weight is None else as_value(b, weight)
    shift = b.full((channels,), 0, value.type.dtype) if bias is None else as_value(b, bias)
    return b.group_norm(value, scale, shift, groups=num_groups, channel_axis=1, epsilon=float(eps))


def batch_norm(
    b: Builder, x: Any, mean: Any, var: Any, weight: Any, bias: Any, momentum: float, eps: float
) -> tuple[Value, Value, Value]:
    """Normalise per channel (dimension 1); returns the result and the next running mean and variance."""
    value = floating(b, x)
    operands = [as_value(b, o) for o in (weight, bias, mean, var)]
    if value.type.rank < 2 or value.type.shape[1] != operands[0].type.shape[0]:
        raise TypeRuleError(f"normalises {operands[0].type.shape[0]} channels in dimension 1, got {value.type}")
    return b.batch_norm(value, *operands, axis=1, epsilon=float(eps), momentum=float(momentum))


def dropout(b: Builder, x: Any, key: Value, rate: float, stream: int) -> Value:
    """Zero elements with probability ``rate`` and scale the rest by ``1 / (1 - rate)`` while training."""
    return b.dropout(floating(b, x), key, rate=float(rate), stream=stream)


def random_uniform(
    b: Builder, key: Value, stream: int, shape: Sequence[Dim], low: float, high: float, dtype: Any
) -> Value:
    """Draw from [``low``, ``high``)."""
    drawn = b.cast_to(b.random_uniform(key, shape=tuple(shape), stream=stream), dtype)
    return ew.add(b, ew.multiply(b, drawn, high - low), low) if (low, high) != (0.0, 1.0) else drawn


def random_normal(
    b: Builder, key: Value, stream: int, shape: Sequence[Dim], mean: float, std: float, dtype: Any
) -> Value:
    """Draw from the normal distribution."""
    drawn = b.cast_to(b.random_normal(key, shape=tuple(shape), stream=stream), dtype)
    return ew.add(b, ew.multiply(b, drawn, std), mean) if (mean, std) != (0.0, 1.0) else drawn


# -- attention and embedding ---------------------------------------------------------------------


def attention(
    b: Builder,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Value:
    """Return ``softmax(query @ key.T * scale + mask) @ value`` over (..., heads, sequence, features).

    ``mask`` broadcasts to (..., heads, queries, keys): bool (True: attend) or added numbers. ``scale`` defaults
    to one over the root of the features.
    """
    q, k, v = (as_value(b, t) for t in (query, key, value))
    factor = scale if scale is not None else 1.0 / math.sqrt(static_features(q))
    operands = [q, k, v] if mask is None else [q, k, v, attention_mask(b, mask, q)]
    return b.attention(*operands, scale=float(factor), causal=is_causal)


def static_features(q: Value) -> int:
    """Return the extent of the last dimension; TypeRuleError if it is symbolic."""
    features = q.type.shape[-1] if q.type.rank else 0
    if not isinstance(features, int) or features == 0:
        raise TypeRuleError(f"attention needs a known feature dimension, got {q.type}; give scale")
    return features


def attention_mask(b: Builder, mask: Any, like: Value) -> Value:
    """Return ``mask`` as it is if bool (True: attend), else in the dtype of the scores."""
    value = as_value(b, mask)
    return value if value.type.dtype is bool_ else b.cast_to(value, like.type.dtype)


def attention_weights(b: Builder, query: Any, key: Any, mask: Any, is_causal: bool, scale: float | None) -> Value:
    """Return the softmax of the masked scores: ``attention`` up to its product with the values."""
    q, k = as_value(b, query), as_value(b, key)
    factor = scale if scale is not None else 1.0 / math.sqrt(static_features(q))
    scores = b.mul(b.einsum(q, k, equation="...sd,...td->...st"), factor)
    shape, rank = scores.type.shape, scores.type.rank
    least = b.constant(float(ml_dtypes.finfo(q.type.dtype.numpy).min), q.type.dtype)
    if mask is not None:
        chosen = attention_mask(b, mask, q)
        scores = b.where(chosen, scores, least) if chosen.type.dtype is bool_ else b.add(scores, chosen)
    if is_causal:
        rows, columns = (b.iota(shape=shape, axis=a, dtype=int64) for a in (rank - 2, rank - 1))
        scores = b.where(b.greater_equal(rows, columns), scores, least)
    return b.softmax(scores, axis=rank - 1)


def embedding(b: Builder, indices: Any, weight: Any, padding_idx: int | None = None) -> Value:
    """Return the rows of ``weight`` (count, features) at integer ``indices``; no gradient reaches ``padding_idx``."""
    picks, table = as_value(b, indices), as_value(b, weight)
    if not picks.type.dtype.is_integer:
        raise TypeRuleError(f"an embedding takes integer indices, got {picks.type}; cast with astype('int64')")
    rows = b.gather(table, picks, axis=0)
    if padding_idx is None:
        return rows
    padding = b.equal(picks, as_value(b, padding_idx, picks.type.dtype))
    return b.where(b.reshape_to(padding, (*picks.type.shape, 1)), b.stop_gradient(rows), rows)
