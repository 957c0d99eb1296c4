"""Importers of random numbers and dropout: all draw from one random key, a state of the graph."""

from __future__ import annotations

import numpy as np

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.tensors import dtype_of
from dlc.ir.dims import Shape
from dlc.ir.graph import Value
from dlc.ir.types import DType, bool_, float32, float64


def _uniform(call: Call, shape: Shape, normal: bool = False) -> Value:
    """Emit float32 numbers from [0, 1), or standard normal ones."""
    key, stream = call.session.random_key(call)
    call.check_size(shape, float32, "the result")
    return call.b.call("random_normal" if normal else "random_uniform", key, shape=shape, stream=stream, dtype=float32)


def _scaled(call: Call, shape: Shape, dtype: DType) -> Value:
    b = call.b
    if call.op_type.startswith("RandomNormal"):
        x, scale, offset = _uniform(call, shape, True), call.real("scale", 1.0), call.real("mean", 0.0)
    else:
        low, high = call.real("low", 0.0), call.real("high", 1.0)
        x, scale, offset = _uniform(call, shape), high - low, low
    return b.cast_to(b.add(b.mul(x, scale), offset), dtype)


@onnx_op("RandomUniform", "RandomNormal")
def import_random(call: Call) -> Value:
    """Random numbers of a given shape."""
    return _scaled(call, call.int_list("shape"), dtype_of(call.integer("dtype", 1), "attribute 'dtype'"))


@onnx_op("RandomUniformLike", "RandomNormalLike")
def import_random_like(call: Call) -> Value:
    """Random numbers of another tensor's shape."""
    dtype = dtype_of(call.integer("dtype"), "attribute 'dtype'") if "dtype" in call.attributes else call.dtype()
    return _scaled(call, call.shape(), dtype)


@onnx_op("Bernoulli")
def import_bernoulli(call: Call) -> Value:
    """1 with the probability that the input holds, else 0."""
    b, x = call.b, call.value(0)
    dtype = dtype_of(call.integer("dtype"), "attribute 'dtype'") if "dtype" in call.attributes else call.dtype()
    drawn = _uniform(call, x.type.shape)
    wide = float64 if x.type.dtype is float64 else float32
    return b.cast_to(b.less(b.cast_to(drawn, wide), b.cast_to(x, wide)), dtype)


@onnx_op("Dropout", since=7)
def import_dropout(call: Call) -> list[Value]:
    """Dropout: off in inference, where the mask is all true; in training steps elements are dropped."""
    b, x = call.b, call.value(0)
    training = False
    if call.version < 12:
        ratio = call.real("ratio", 0.5)
    else:
        known = call.known(1) if call.has(1) else np.float32(0.5)
        training = call.has(2) and bool(call.scalar(2, "training_mode"))
        if known is None:
            ratio = float(call.scalar(1, "ratio")) if training else 0.0
        else:
            ratio = float(np.asarray(known).reshape(-1)[0])
    if not 0.0 <= ratio < 1.0:
        call.fail(f"ratio is {ratio}; it must be in [0, 1)")
    if call.wants(1):
        if training and ratio:
            call.fail("gives a mask in training mode, which is not supported; leave out its second output")
        return [x, b.full(x.type.shape, True, bool_)]
    if ratio == 0.0 or call.frame.region.around is not None or not x.type.dtype.is_float:
        return [x]
    key, stream = call.session.random_key(call)
    return [b.dropout(x, key, rate=ratio, stream=stream)]
