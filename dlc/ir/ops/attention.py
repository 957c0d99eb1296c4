"""Scaled dot-product attention: a composite of two contractions around a softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder, broadcast_shapes
from dlc.ir.graph import Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.rules import check_float, dim_value
from dlc.ir.types import TensorType, bool_


def attention_type(inputs: Types, attributes: Attributes) -> Types:
    """(q (..., S, D), k (..., T, D), v (..., T, E)[, mask that broadcasts to (..., S, T)]) -> (..., S, E)."""
    if len(inputs) not in (3, 4):
        raise TypeRuleError(f"takes q, k, v and perhaps a mask, got {len(inputs)} operands")
    q, k, v = inputs[:3]
    check_float(inputs[:3])
    if min(q.rank, k.rank, v.rank) < 2:
        raise TypeRuleError("q, k and v must have rank 2 or more")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise TypeRuleError("q and k must agree in their last dimension, k and v in the one before the last")
    batch = broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    scores = (*batch, q.shape[-2], k.shape[-2])
    for mask in inputs[3:]:
        if mask.dtype is not bool_ and mask.dtype is not q.dtype:
            raise TypeRuleError(f"the mask is {mask.dtype}; it must be bool or {q.dtype}")
        if broadcast_shapes(mask.shape, scores) != scores:
            raise TypeRuleError(f"the mask {list(mask.shape)} does not broadcast to {list(scores)}")
    return (TensorType(q.dtype, (*batch, q.shape[-2], v.shape[-1])),)


def attention_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """softmax(q k^T * scale + mask) v; masked scores become the least finite number."""
    q, k, v = inputs[:3]
    scores = b.einsum(q, k, equation="...sd,...td->...st")
    depth = q.type.shape[-1]
    if a["scale"] is not None or isinstance(depth, int):
        scores = b.mul(scores, a["scale"] if a["scale"] is not None else 1 / math.sqrt(max(int(depth), 1)))  # type: ignore[arg-type]
    else:
        scores = b.mul(scores, b.rsqrt(dim_value(b, depth, q.type.dtype)))
    shape, rank = scores.type.shape, scores.type.rank
    least = float(ml_dtypes.finfo(q.type.dtype.numpy).min)
    for mask in inputs[3:]:
        if mask.type.dtype is bool_:
            scores = b.where(b.broadcast_to(mask, shape), scores, least)
        else:
            scores = b.add(scores, b.broadcast_to(mask, shape))
    if a["causal"]:
        rows, keys = (b.iota(shape=shape[rank - 2 :], axis=k) for k in (0, 1))
        scores = b.where(b.broadcast_to(b.greater_equal(rows, keys), shape), scores, least)
    return (b.einsum(b.softmax(scores, axis=-1), v, equation="...st,...te->...se"),)


def attention_evaluate(a: Attributes, q: np.ndarray, k: np.ndarray, v: np.ndarray, *masks: np.ndarray) -> np.ndarray:
    """The definition in float64."""
    dtype, least = q.dtype, float(ml_dtypes.finfo(q.dtype).min)
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scale = a["scale"] if a["scale"] is not None else 1 / math.sqrt(max(q.shape[-1], 1))
    scores = q @ np.swapaxes(k, -1, -2) * scale
    for mask in masks:
        scores = np.where(mask, scores, least) if mask.dtype == np.bool_ else scores + mask
    if a["causal"]:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=np.bool_), scores, least)
    power = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
    return (power / power.sum(-1, keepdims=True) @ v).astype(dtype)


register(
    OpDef(
        name="attention",
        arity=None,
        infer=attention_type,
        evaluate=attention_evaluate,
        attributes={
            "scale": Attribute((float, type(None)), default=None, required=False, doc="default 1 / sqrt(depth)"),
            "causal": Attribute((bool,), default=False, required=False, doc="position s sees positions up to s only"),
        },
        expand=attention_expand,
        doc="softmax(q k^T * scale + mask) v over (..., sequence, depth). A bool mask is True where a score counts; "
        "a row in which none counts averages all values.",
    )
)
