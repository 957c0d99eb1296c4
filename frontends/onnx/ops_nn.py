"""Importers of matrix products, convolutions, pooling and normalisation."""

from __future__ import annotations

from typing import Any

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.ops_reduce import divide_by_size
from dlc.frontends.onnx.ops_sampling import max_positions
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.windows import Window, kernel_shape, read_window
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.types import DType, float32


def channel_vector(b: Builder, vector: Value, x: Value, axis: int = 1) -> Value:
    """Emit ``vector`` repeated to the shape of ``x``, its elements along ``axis``."""
    return b.broadcast(vector, shape=x.type.shape, dims=(axis,))


# -- products ---------------------------------------------------------------------------


@onnx_op("MatMul")
def import_matmul(call: Call) -> Value:
    """Matrix product with NumPy's rules."""
    return matmul(call, call.value(0), call.value(1))


def matmul(call: Call, a: Value, c: Value) -> Value:
    """Emit a matrix product, symbols unified."""
    left, right = a.type.shape, c.type.shape
    if not left or not right:
        call.fail("takes tensors of rank 1 or more")
    call.unify(left[-1], right[-2] if len(right) > 1 else right[0], "inner dimensions differ")
    call.unify_broadcast(left[:-2], right[:-2])
    return call.b.matmul(a, c)


@onnx_op("Gemm", since=7)
def import_gemm(call: Call) -> Value:
    """alpha * A' B' + beta * C, C broadcast to the product."""
    b = call.b
    a, c = call.value(0), call.value(1)
    for name, value in (("A", a), ("B", c)):
        if value.type.rank != 2:
            call.fail(f"{name} has rank {value.type.rank}; Gemm multiplies matrices")
    a = b.transpose_to(a, (1, 0)) if call.flag("transA") else a
    c = b.transpose_to(c, (1, 0)) if call.flag("transB") else c
    y = matmul(call, a, c)
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    dtype = y.type.dtype
    if alpha != 1.0:
        y = b.mul(y, b.constant(alpha, dtype))
    if call.has(2) and beta != 0.0:
        bias = call.value(2)
        bias = bias if beta == 1.0 else b.mul(bias, b.constant(beta, dtype))
        call.unify_broadcast(y.type.shape, bias.type.shape)
        if bias.type.rank > 2 or any(d not in (1, e) for d, e in zip(bias.type.shape[::-1], y.type.shape[::-1])):
            call.fail(f"C of shape {list(bias.type.shape)} does not broadcast to {list(y.type.shape)}")
        y = b.add(y, bias)
    return y


@onnx_op("Einsum")
def import_einsum(call: Call) -> Value:
    """Sum of products by an equation."""
    return call.b.einsum(*call.values(), equation=call.string("equation"))


# -- convolution ------------------------------------------------------------------------


def _spatial(call: Call, x: Value) -> tuple[Dim, ...]:
    if not 3 <= x.type.rank <= 5:
        call.fail(f"takes rank 3 to 5 (batch, channels, one to three spatial dimensions), not {x.type.rank}")
    return x.type.shape[2:]


def _crop(b: Builder, x: Value, window: Window) -> tuple[Value, tuple[tuple[int, int], ...]]:
    """Carry out negative padding by cropping; return what is left to pad."""
    if all(p >= 0 for pair in window.pads for p in pair):
        return x, window.pads
    low, high = ((0, 0, *(min(pair[k], 0) for pair in window.pads)) for k in range(2))
    x = b.pad(x, b.constant(0, x.type.dtype), low=low, high=high)
    return x, tuple((max(a, 0), max(c, 0)) for a, c in window.pads)


def convolve(call: Call, x: Value, w: Value) -> Value:
    """Emit the convolution that the node's attributes describe."""
    spatial = _spatial(call, x)
    if w.type.rank != x.type.rank:
        call.fail(f"the kernel has rank {w.type.rank}, the input {x.type.rank}; they must be equal")
    groups = call.integer("group", 1)
    if groups < 1:
        call.fail(f"group is {groups}; it must be at least 1")
    call.unify(
        x.type.shape[1], w.type.shape[1] * groups, f"input channels against kernel channels times group {groups}"
    )
    window = read_window(call, spatial, w.type.shape[2:])
    x, pads = _crop(call.b, x, window)
    return call.b.conv(x, w, strides=window.strides, dilations=window.dilations, padding=pads, groups=groups)


@onnx_op("Conv")
def import_conv(call: Call) -> Value:
    """Convolution with optional bias."""
    y = convolve(call, call.value(0), call.value(1))
    return _add_bias(call, y, 2)


def _add_bias(call: Call, y: Value, index: int) -> Value:
    if not call.has(index):
        return y
    bias = call.value(index)
    if bias.type.rank != 1:
        call.fail(f"the bias has rank {bias.type.rank}; it must be a vector")
    call.unify(bias.type.shape[0], y.type.shape[1], "bias elements against output channels")
    return call.b.add(y, channel_vector(call.b, bias, y))


@onnx_op("ConvTranspose")
def import_conv_transpose(call: Call) -> Value:
    """Transposed convolution; output_shape or auto_pad may set the padding."""
    b, x, w = call.b, call.value(0), call.value(1)
    spatial = _spatial(call, x)
    count, groups = len(spatial), call.integer("group", 1)
    if groups < 1 or w.type.rank != x.type.rank:
        call.fail(f"group is {groups} and the kernel has rank {w.type.rank} for an input of rank {x.type.rank}")
    call.unify(x.type.shape[1], w.type.shape[0], "input channels against kernel channels")
    plain = read_window(call, spatial, w.type.shape[2:]) if call.string("auto_pad", "NOTSET") == "NOTSET" else None
    strides = call.int_list("strides", None) or (1,) * count
    dilations = call.int_list("dilations", None) or (1,) * count
    if min(strides) < 1 or min(dilations) < 1 or len(strides) != count or len(dilations) != count:
        call.fail(f"strides {list(strides)} and dilations {list(dilations)} must be at least 1, one per spatial axis")
    extra = call.int_list("output_padding", None) or (0,) * count
    pads, extra = _transpose_pads(call, spatial, w.type.shape[2:], strides, dilations, extra, plain)
    usual = all(p >= 0 for pair in pads for p in pair) and all(
        0 <= e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)
    )
    common: dict[str, Any] = {"strides": strides, "dilations": dilations, "groups": groups}
    if usual:
        y = b.conv_transpose(x, w, padding=pads, output_padding=extra, **common)
    else:
        y = b.conv_transpose(x, w, padding=((0, 0),) * count, output_padding=(0,) * count, **common)
        low = (0, 0, *(-p[0] for p in pads))
        high = (0, 0, *(e - p[1] for p, e in zip(pads, extra, strict=True)))
        y = b.pad(y, b.constant(0, y.type.dtype), low=low, high=high)
    return _add_bias(call, y, 2)


def _transpose_pads(call: Call, spatial: Any, sizes: Any, strides: Any, dilations: Any, extra: Any, plain: Any) -> Any:
    mode, wanted = call.string("auto_pad", "NOTSET"), call.int_list("output_shape", None)
    if wanted is None and mode in ("NOTSET", "VALID"):
        return (plain.pads if plain is not None else ((0, 0),) * len(spatial)), extra
    pads = []
    for k, (extent, size, stride, dilation) in enumerate(zip(spatial, sizes, strides, dilations, strict=True)):
        target = wanted[k - len(spatial)] if wanted is not None else extent * stride
        total = (extent - 1) * stride + extra[k] + (size - 1) * dilation + 1 - target
        if not isinstance(total, int):
            call.fail(f"output_shape needs fixed extents, not {extent}; give shapes=")
        half = total // 2 if total >= 0 else -(-total // 2)
        pads.append((half, total - half) if mode == "SAME_UPPER" else (total - half, half))
        if mode != "SAME_UPPER" and total < 0:
            pads[-1] = (0, total)
    return tuple(pads), extra


# -- pooling ----------------------------------------------------------------------------


@onnx_op("MaxPool")
def import_max_pool(call: Call) -> Any:
    """Largest element of every window, and its position where that is wanted."""
    x = call.value(0)
    window = read_window(call, _spatial(call, x), kernel_shape(call, x.type.rank - 2))
    if call.wants(1):
        return list(max_positions(call, x, window))
    return call.b.max_pool(
        x,
        window=window.extents,
        strides=window.strides,
        dilations=window.dilations,
        padding=window.pads,
        ceil_mode=call.flag("ceil_mode"),
    )


@onnx_op("AveragePool")
def import_average_pool(call: Call) -> Value:
    """Mean of every window."""
    x = call.value(0)
    window = read_window(call, _spatial(call, x), kernel_shape(call, x.type.rank - 2))
    return call.b.avg_pool(
        x,
        window=window.extents,
        strides=window.strides,
        dilations=window.dilations,
        padding=window.pads,
        ceil_mode=call.flag("ceil_mode"),
        count_include_pad=call.flag("count_include_pad"),
    )


@onnx_op("LpPool")
def import_lp_pool(call: Call) -> Value:
    """p-norm of every window."""
    b, x, p = call.b, call.value(0), call.integer("p", 2)
    window = read_window(call, _spatial(call, x), kernel_shape(call, x.type.rank - 2))
    for size, dilation, pads in zip(window.extents, window.dilations, window.pads, strict=True):
        if max(pads) > (size - 1) * dilation:
            call.fail(f"pads {list(pads)} hold a whole window of {size} (dilation {dilation}); it would see no element")
    powers = b.pow(b.abs(x), b.constant(float(p), x.type.dtype))
    low, high = ((0, 0, *(pair[k] for pair in window.pads)) for k in range(2))
    if call.flag("ceil_mode"):
        # Windows that start inside but reach outside see zeros.
        high = (0, 0, *(h + s - 1 for h, s in zip(high[2:], window.strides, strict=True)))
    powers = b.pad(powers, b.constant(0, x.type.dtype), low=low, high=high)
    total = b.reduce_window(
        powers,
        combiner="add",
        window=(1, 1, *window.extents),
        strides=(1, 1, *window.strides),
        dilations=(1, 1, *window.dilations),
    )
    return b.pow(total, b.constant(1.0 / p, x.type.dtype))


@onnx_op("GlobalAveragePool")
def import_global_average_pool(call: Call) -> Value:
    """Mean over all spatial dimensions."""
    x = call.value(0)
    axes = tuple(range(2, x.type.rank))
    return divide_by_size(call.b, call.b.reduce_sum(x, axes=axes, keepdims=True), x, axes)


@onnx_op("GlobalMaxPool")
def import_global_max_pool(call: Call) -> Value:
    """Maximum over all spatial dimensions."""
    x = call.value(0)
    return call.b.reduce_max(x, axes=tuple(range(2, x.type.rank)), keepdims=True)


@onnx_op("GlobalLpPool")
def import_global_lp_pool(call: Call) -> Value:
    """p-norm over all spatial dimensions."""
    b, x, p = call.b, call.value(0), call.integer("p", 2)
    powers = b.pow(b.abs(x), b.constant(float(p), x.type.dtype))
    total = b.reduce_sum(powers, axes=tuple(range(2, x.type.rank)), keepdims=True)
    return b.pow(total, b.constant(1.0 / p, x.type.dtype))


# -- normalisation ----------------------------------------------------------------------


@onnx_op("BatchNormalization", since=7)
def import_batch_norm(call: Call) -> Any:
    """Normalise by channel with running statistics, or by the batch's in training mode."""
    b = call.b
    x, scale, bias, mean, variance = (call.value(i) for i in range(5))
    if call.version < 9 and not call.flag("spatial", True):
        call.fail("spatial=0 is not supported; export the model with a newer opset")
    if x.type.rank < 2:
        call.fail(f"takes rank 2 or more, not {x.type.rank}")
    for name, vector in (("scale", scale), ("bias", bias), ("mean", mean), ("variance", variance)):
        if vector.type.rank != 1:
            call.fail(f"{name} has rank {vector.type.rank}; it must be a vector")
        call.unify(vector.type.shape[0], x.type.shape[1], f"{name} elements against channels")
    dtype = x.type.dtype
    wide = mean.type.dtype if mean.type.dtype.bits >= dtype.bits else dtype
    x, scale, bias, mean, variance = (b.cast_to(v, wide) for v in (x, scale, bias, mean, variance))
    epsilon, momentum = call.real("epsilon", 1e-5), call.real("momentum", 0.9)
    training = call.flag("training_mode") if call.version >= 14 else any(call.wants(i) for i in range(1, 5))
    if training:
        return [b.cast_to(v, dtype) for v in _batch_statistics(call, x, scale, bias, mean, variance, epsilon, momentum)]
    y, _, _ = b.batch_norm(x, scale, bias, mean, variance, axis=1, epsilon=epsilon, momentum=round(1 - momentum, 10))
    return b.cast_to(y, dtype)


def _batch_statistics(
    call: Call, x: Value, scale: Value, bias: Value, mean: Value, variance: Value, epsilon: float, momentum: float
) -> list[Value]:
    """ONNX's training form: normalise by the batch, running statistics by the batch's biased ones."""
    b = call.b
    axes = (0, *range(2, x.type.rank))
    average = divide_by_size(b, b.reduce_sum(x, axes=axes), x, axes)
    centred = b.sub(x, channel_vector(b, average, x))
    spread = divide_by_size(b, b.reduce_sum(b.mul(centred, centred), axes=axes), x, axes)
    inverse = channel_vector(b, b.rsqrt(b.add(spread, epsilon)), x)
    y = b.add(b.mul(b.mul(centred, inverse), channel_vector(b, scale, x)), channel_vector(b, bias, x))
    new_mean = b.add(b.mul(mean, momentum), b.mul(average, 1 - momentum))
    new_variance = b.add(b.mul(variance, momentum), b.mul(spread, 1 - momentum))
    return [y, new_mean, new_variance, average, spread][: max(3, call.output_count)]


@onnx_op("InstanceNormalization")
def import_instance_norm(call: Call) -> Value:
    """Normalise every channel of every sample."""
    x, scale, bias = (call.value(i) for i in range(3))
    if x.type.rank < 3:
        call.fail(f"takes rank 3 or more, not {x.type.rank}")
    call.unify(scale.type.shape[0], x.type.shape[1], "scale elements against channels")
    channels = x.type.shape[1]
    if not isinstance(channels, int):
        call.fail(f"needs a fixed number of channels, not {channels}; give shapes=")
    return call.b.group_norm(x, scale, bias, groups=channels, epsilon=call.real("epsilon", 1e-5))


@onnx_op("GroupNormalization", since=18)
def import_group_norm(call: Call) -> Value:
    """Normalise groups of channels; before opset 21 scale and bias have one element per group."""
    b = call.b
    x, scale, bias = (call.value(i) for i in range(3))
    groups, channels = call.integer("num_groups"), x.type.shape[1]
    if call.version < 21 and groups > 0 and scale.type.shape == (groups,) and channels != groups:
        each = channels // groups
        scale, bias = (
            b.reshape_to(b.broadcast(v, shape=(groups, each), dims=(0,)), (groups * each,)) for v in (scale, bias)
        )
    return b.group_norm(x, scale, bias, groups=groups, epsilon=call.real("epsilon", 1e-5))


@onnx_op("LayerNormalization")
def import_layer_norm(call: Call) -> Any:
    """Normalise the dimensions from ``axis`` on; optionally give mean and inverse deviation too."""
    b, x = call.b, call.value(0)
    first = call.axis(call.integer("axis", -1), x.type.rank)
    axes = tuple(range(first, x.type.rank))
    shape = x.type.shape[first:]
    dtype, epsilon = x.type.dtype, call.real("epsilon", 1e-5)
    scale = _normalized_operand(call, 1, shape, dtype)
    bias = _normalized_operand(call, 2, shape, dtype) if call.has(2) else b.full(shape, 0, dtype)
    y = b.layer_norm(x, scale, bias, axes=axes, epsilon=epsilon)
    if not call.wants(1) and not call.wants(2):
        return y
    stash = float32 if call.integer("stash_type", 1) == 1 else dtype
    wide = b.cast_to(x, stash)
    mean = divide_by_size(b, b.reduce_sum(wide, axes=axes, keepdims=True), wide, axes)
    centred = b.sub(wide, mean)
    spread = divide_by_size(b, b.reduce_sum(b.mul(centred, centred), axes=axes, keepdims=True), wide, axes)
    return [y, mean, b.rsqrt(b.add(spread, epsilon))]


def _normalized_operand(call: Call, index: int, shape: tuple[Dim, ...], dtype: DType) -> Value:
    value = call.value(index)
    call.unify_broadcast(shape, value.type.shape)
    return call.b.broadcast_to(call.b.cast_to(value, dtype), shape)


@onnx_op("RMSNormalization")
def import_rms_norm(call: Call) -> Value:
    """Scale the dimensions from ``axis`` on to unit root mean square."""
    b, x = call.b, call.value(0)
    first = call.axis(call.integer("axis", -1), x.type.rank)
    shape, dtype = x.type.shape[first:], x.type.dtype
    wide = float32 if call.integer("stash_type", 1) == 1 and dtype.bits < 32 else dtype
    scale = _normalized_operand(call, 1, shape, wide)
    axes = tuple(range(first, x.type.rank))
    y = b.rms_norm(b.cast_to(x, wide), scale, axes=axes, epsilon=call.real("epsilon", 1e-5))
    return b.cast_to(y, call.dtype(1))


@onnx_op("LRN")
def import_local_response_norm(call: Call) -> Value:
    """Divide by the energy of neighbouring channels."""
    return call.b.local_response_norm(
        call.value(0),
        size=call.integer("size"),
        alpha=call.real("alpha", 1e-4),
        beta=call.real("beta", 0.75),
        bias=call.real("bias", 1.0),
    )


# -- losses -----------------------------------------------------------------------------


def _nll(call: Call, log_probabilities: Value) -> Value:
    """Weighted negative log likelihood of the labels (input 1), reduced as the node says."""
    b, labels = call.b, call.value(1)
    shape, dtype = labels.type.shape, log_probabilities.type.dtype
    call.unify_shapes(
        (log_probabilities.type.shape[0], *log_probabilities.type.shape[2:]), shape, "labels against input"
    )
    ignored = call.integer("ignore_index", None)
    weight = b.full(shape, 1, dtype)
    if ignored is not None:
        hidden = b.equal(labels, b.constant(ignored, labels.type.dtype))
        labels = b.where(hidden, b.zeros_like(labels), labels)
    if call.has(2):
        weight = b.gather(call.value(2), labels, axis=0)
    if ignored is not None:
        weight = b.where(hidden, b.zeros_like(weight), weight)
    column = b.reshape_to(labels, (shape[0], 1, *shape[1:]))
    picked = b.reshape_to(b.gather_elements(log_probabilities, column, axis=1), shape)
    loss = b.neg(b.mul(picked, weight))
    axes = tuple(range(len(shape)))
    match call.string("reduction", "mean"):
        case "none":
            return loss
        case "sum":
            return b.reduce_sum(loss, axes=axes)
        case "mean":
            return b.div(b.reduce_sum(loss, axes=axes), b.reduce_sum(weight, axes=axes))
        case other:
            return call.fail(f"reduction {other!r} is none of none, sum, mean")


@onnx_op("NegativeLogLikelihoodLoss")
def import_nll_loss(call: Call) -> Value:
    """Negative log likelihood of log probabilities."""
    return _nll(call, call.value(0))


@onnx_op("SoftmaxCrossEntropyLoss")
def import_softmax_cross_entropy(call: Call) -> list[Value]:
    """Cross entropy of scores; the second output is the log probabilities."""
    log_probabilities = call.b.log_softmax(call.value(0), axis=1)
    return [_nll(call, log_probabilities), log_probabilities]
