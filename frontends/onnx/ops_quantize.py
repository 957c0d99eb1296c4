"""Importers of quantized ONNX ops, as arithmetic on scales and zero points."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.ops_math import convert
from dlc.frontends.onnx.ops_nn import channel_vector, convolve, matmul
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.tensors import dtype_of
from dlc.ir.graph import Value
from dlc.ir.types import DType, float32, int32, uint8

_RANGES = {"int4": (-8, 7), "uint4": (0, 15)}


def _spread(call: Call, parameter: Value, x: Value) -> Value:
    """Repeat a scale or zero point to the shape of ``x``: one number, one per element of an axis, or one per block."""
    b, rank = call.b, parameter.type.rank
    if rank == 0 or parameter.type.size == 1:
        return b.broadcast_to(b.reshape_to(parameter, ()), x.type.shape)
    axis = call.axis(call.integer("axis", 1), x.type.rank)
    if rank == 1:
        call.unify(parameter.type.shape[0], x.type.shape[axis], f"scales against axis {axis}")
        return channel_vector(b, parameter, x, axis)
    block = call.integer("block_size", 0)
    if block < 1 or rank != x.type.rank:
        call.fail(f"scale has rank {rank} and block_size is {block}; blocks need block_size and the input's rank")
    shape = (*parameter.type.shape[: axis + 1], block, *parameter.type.shape[axis + 1 :])
    dims = tuple(k for k in range(rank + 1) if k != axis + 1)
    merged = (*parameter.type.shape[:axis], parameter.type.shape[axis] * block, *parameter.type.shape[axis + 1 :])
    spread = b.reshape_to(b.broadcast(parameter, shape=shape, dims=dims), merged)
    if merged == x.type.shape:
        return spread
    return b.slice(spread, starts=(0,) * rank, limits=x.type.shape)


def quantize(call: Call, x: Value, scale: Value, zero: Value | None, dtype: DType) -> Value:
    """Emit saturate(round(x / scale) + zero)."""
    b = call.b
    wide = float32 if x.type.dtype.bits < 32 or not x.type.dtype.is_float else x.type.dtype
    scaled = b.div(b.cast_to(x, wide), b.cast_to(scale, wide))
    if dtype.is_float:
        scaled = scaled if zero is None else b.add(scaled, b.cast_to(zero, wide))
        return convert(call, scaled, dtype)
    rounded = b.round(scaled)
    if zero is not None:
        rounded = b.add(rounded, b.cast_to(zero, wide))
    low, high = _RANGES.get(dtype.name) or (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max)
    limited = b.maximum(b.minimum(rounded, float(high)), float(low))
    return b.cast_to(b.cast_to(limited, int32) if dtype.bits == 4 else limited, dtype)


def dequantize(call: Call, x: Value, scale: Value, zero: Value | None, dtype: DType) -> Value:
    """Emit (x - zero) * scale."""
    b = call.b
    wide = float32 if dtype.bits < 32 else dtype
    if x.type.dtype.is_float:
        return b.cast_to(b.mul(b.cast_to(x, wide), b.cast_to(scale, wide)), dtype)
    number = b.cast_to(x, int32)
    if zero is not None:
        number = b.sub(number, b.cast_to(zero, int32))
    return b.cast_to(b.mul(b.cast_to(number, wide), b.cast_to(scale, wide)), dtype)


@onnx_op("QuantizeLinear")
def import_quantize(call: Call) -> Value:
    """Quantize to the zero point's type, or to ``output_dtype``."""
    x = call.value(0)
    if call.has(2):
        dtype = call.dtype(2)
    else:
        code = call.integer("output_dtype", 0)
        dtype = dtype_of(code, "attribute 'output_dtype'") if code else uint8
    scale = _spread(call, call.value(1), x)
    zero = _spread(call, call.value(2), x) if call.has(2) else None
    return quantize(call, x, scale, zero, dtype)


@onnx_op("DequantizeLinear")
def import_dequantize(call: Call) -> Value:
    """Back to the scale's type."""
    x = call.value(0)
    scale = _spread(call, call.value(1), x)
    zero = _spread(call, call.value(2), x) if call.has(2) else None
    code = call.integer("output_dtype", 0)
    dtype = dtype_of(code, "attribute 'output_dtype'") if code else call.dtype(1)
    return dequantize(call, x, scale, zero, dtype)


@onnx_op("DynamicQuantizeLinear")
def import_dynamic_quantize(call: Call) -> list[Value]:
    """Quantize to uint8 with scale and zero point from the data's range."""
    b, x = call.b, call.value(0)
    axes = tuple(range(x.type.rank))
    high = b.maximum(b.reduce_max(x, axes=axes), 0.0)
    low = b.minimum(b.reduce_min(x, axes=axes), 0.0)
    scale = b.div(b.sub(high, low), 255.0)
    zero = b.round(b.maximum(b.minimum(b.div(b.neg(low), scale), 255.0), 0.0))
    y = b.maximum(b.minimum(b.add(b.round(b.div(x, scale)), zero), 255.0), 0.0)
    return [b.cast_to(y, uint8), scale, b.cast_to(zero, uint8)]


def _shifted(call: Call, index: int, zero_index: int, axis: int | None) -> Value:
    """Return an integer input less its zero point, as int32; a vector of zero points runs along ``axis``."""
    b = call.b
    x = b.cast_to(call.value(index), int32)
    if not call.has(zero_index):
        return x
    zero = call.b.cast_to(call.value(zero_index), int32)
    if zero.type.rank == 1 and zero.type.size != 1 and axis is not None:
        return b.sub(x, channel_vector(b, zero, x, axis % x.type.rank))
    if zero.type.rank == 1 and zero.type.size == 1:
        zero = b.reshape_to(zero, ())
    return b.sub(x, zero)


@onnx_op("MatMulInteger")
def import_matmul_integer(call: Call) -> Value:
    """Product of integers less their zero points, in int32."""
    rows = -2 if call.rank(0) > 1 else None
    return matmul(call, _shifted(call, 0, 2, rows), _shifted(call, 1, 3, -1))


@onnx_op("ConvInteger")
def import_conv_integer(call: Call) -> Value:
    """Convolution of integers less their zero points, in int32."""
    return convolve(call, _shifted(call, 0, 2, None), _shifted(call, 1, 3, 0))


@onnx_op("QLinearMatMul")
def import_qlinear_matmul(call: Call) -> Value:
    """Product of quantized matrices, quantized."""
    b = call.b
    rows = -2 if call.rank(0) > 1 else None
    product = matmul(call, _shifted(call, 0, 2, rows), _shifted(call, 3, 5, -1))
    scale = b.mul(_scale(call, 1, product, rows), _scale(call, 4, product, -1))
    return _requantize(call, product, scale, 6, 7)


@onnx_op("QLinearConv")
def import_qlinear_conv(call: Call) -> Value:
    """Convolution of quantized tensors, quantized; the bias is int32 in units of both scales."""
    b = call.b
    y = convolve(call, _shifted(call, 0, 2, None), _shifted(call, 3, 5, 0))
    if call.has(8):
        y = b.add(y, channel_vector(b, call.value(8), y))
    scale = b.mul(_scale(call, 1, y, None), _scale(call, 4, y, 1))
    return _requantize(call, y, scale, 6, 7)


def _scale(call: Call, index: int, like: Value, axis: int | None) -> Value:
    b, scale = call.b, call.b.cast_to(call.value(index), float32)
    if scale.type.size == 1:
        return b.reshape_to(scale, ())
    if axis is None or scale.type.rank != 1:
        return scale
    return channel_vector(b, scale, like, axis % like.type.rank)


def _requantize(call: Call, total: Value, scale: Value, scale_index: int, zero_index: int) -> Value:
    b = call.b
    real = b.mul(b.cast_to(total, float32), scale)
    return quantize(call, real, _scale(call, scale_index, total, None), _zero(call, zero_index), call.dtype(zero_index))


def _zero(call: Call, index: int) -> Any:
    zero = call.value(index)
    return call.b.reshape_to(zero, ()) if zero.type.size == 1 else zero
