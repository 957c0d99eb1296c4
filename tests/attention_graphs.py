"""Graphs of attention as frontends make them, in primitives: layouts, masks, grouped queries, guards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Value
from dlc.ir.types import DType, bool_, float32, tensor_type

CAUSAL = ("causal", "causal, keys hidden", "causal table", "causal bias table", "causal bool table")
Softmax = Callable[[Builder, Value], Value]


@dataclass(frozen=True)
class Shape:
    """Extents; ``shared`` query heads read the same keys and values."""

    batch: int = 1
    heads: int = 2
    queries: int = 19
    keys: int = 37
    depth: int = 16
    columns: int = 16
    shared: int = 1


def softmax(b: Builder, x: Value) -> Value:
    """exp(x - max) / sum along the last axis."""
    power = b.exp(b.sub(x, b.reduce_max(x, axes=(x.type.rank - 1,), keepdims=True)))
    return b.div(power, b.reduce_sum(power, axes=(x.type.rank - 1,), keepdims=True))


def guarded_softmax(b: Builder, x: Value) -> Value:
    """Softmax with zeros for rows that are masked throughout, as exporters write it."""
    result = softmax(b, x)
    return b.where(b.is_nan(result), 0.0, result)


def kept_softmax(b: Builder, x: Value) -> Value:
    """Softmax whose weights are changed after the division, so that it cannot move."""
    result = softmax(b, x)
    return b.where(b.greater(result, 0.01), result, 0.0)


def attention(
    shape: Shape,
    mask: str = "",
    normalize: Softmax = softmax,
    merged: bool = False,
    dtype: DType = float32,
    factor_first: bool = False,
) -> Graph:
    """Return q, k, v (batch, sequence, heads x depth) -> (batch, queries, heads x columns).

    ``mask``: "" | "keys" (added, for all rows) | "bias" (added, per head) | "where" | one of CAUSAL. With ``merged``
    the three operands are slices of one tensor. ``factor_first``: queries and keys are scaled, not the scores.
    """
    s = shape
    b = Builder("attention")
    kv_heads = s.heads // s.shared
    widths = (s.heads * s.depth, kv_heads * s.depth, kv_heads * s.columns)
    if merged:
        whole = b.input("qkv", tensor_type(dtype, (s.batch, s.keys, sum(widths))))
        ends = np.cumsum((0, *widths))
        parts = [
            b.slice(whole, starts=(0, 0, int(ends[k])), limits=(s.batch, s.keys, int(ends[k + 1])), strides=(1, 1, 1))
            for k in range(3)
        ]
    else:
        lengths = (s.queries, s.keys, s.keys)
        parts = [
            b.input(n, tensor_type(dtype, (s.batch, length, w)))
            for n, length, w in zip("qkv", lengths, widths, strict=True)
        ]
    q = _heads(b, parts[0], s.heads, 1)
    k, v = (_heads(b, x, kv_heads, s.shared) for x in parts[1:])
    factor = s.depth**-0.5
    if factor_first:
        q, k = (b.mul(x, b.full(x.type.shape, factor**0.5, dtype)) for x in (q, k))
    scores = b.contract(q, k, spec="b h m d, b h n d -> b h m n")
    if not factor_first:
        scores = b.mul(scores, b.full(scores.type.shape, factor, dtype))
    weights = normalize(b, _masked(b, scores, mask, dtype))
    y = b.contract(weights, v, spec="b h m n, b h n e -> b m h e")
    b.output("y", b.reshape(y, shape=(s.batch, q.type.shape[2], s.heads * s.columns)))
    return b.finish()


def _heads(b: Builder, x: Value, heads: int, shared: int) -> Value:
    """(batch, sequence, heads x width) -> (batch, heads x shared, sequence, width)."""
    batch, length, width = (int(d) for d in x.type.shape)  # type: ignore[call-overload]
    split = b.reshape(x, shape=(batch, length, heads, width // heads))
    moved: Value = b.transpose(split, permutation=(0, 2, 1, 3))
    if shared > 1:
        repeated = (batch, heads, shared, length, width // heads)
        moved = b.broadcast(moved, shape=repeated, dims=(0, 1, 3, 4))
        moved = b.reshape(moved, shape=(batch, heads * shared, length, width // heads))
    return moved


def _masked(b: Builder, scores: Value, mask: str, dtype: DType) -> Value:
    shape = tuple(int(d) for d in scores.type.shape)  # type: ignore[call-overload]
    batch, heads, rows, keys = shape
    match mask:
        case "keys":
            return b.add(scores, b.input("mask", tensor_type(dtype, (batch, 1, 1, keys))))  # type: ignore[no-any-return]
        case "bias":
            return b.add(scores, b.input("mask", tensor_type(dtype, (heads, rows, keys))))  # type: ignore[no-any-return]
        case "where":
            seen = b.input("mask", tensor_type(bool_, (batch, 1, rows, keys)))
            return b.where(seen, scores, float(np.finfo(dtype.numpy).min))  # type: ignore[no-any-return]
        case "causal":
            return _causal(b, scores, float("-inf"))
        case "causal, keys hidden":
            seen = b.input("mask", tensor_type(bool_, (batch, 1, rows, keys)))
            least = float(np.finfo(dtype.numpy).min)
            return _causal(b, b.where(seen, scores, least), least)
        case "causal table":
            table = np.where(np.tri(rows, keys, dtype=np.bool_), 0.0, -np.inf).astype(dtype.numpy)
            return b.add(scores, b.broadcast_to(b.constant(table), scores.type.shape))  # type: ignore[no-any-return]
        case "causal bias table":
            table = np.where(np.tri(rows, keys, 2, dtype=np.bool_), np.arange(keys) % 3, -np.inf).astype(dtype.numpy)
            return b.add(scores, b.broadcast_to(b.constant(table), scores.type.shape))  # type: ignore[no-any-return]
        case "causal bool table":
            seen = b.broadcast_to(b.constant(np.tri(rows, keys, dtype=np.bool_)), scores.type.shape)
            return b.where(seen, scores, float(np.finfo(dtype.numpy).min))  # type: ignore[no-any-return]
    return scores


def _causal(b: Builder, scores: Value, hidden: float) -> Value:
    rows, keys = (b.iota(shape=scores.type.shape, axis=k) for k in (2, 3))
    return b.where(b.greater_equal(rows, keys), scores, hidden)  # type: ignore[no-any-return]


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random feeds; added masks have minus infinities, the third row of a mask masks everything."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        shape = tuple(int(d) for d in value.type.shape)  # type: ignore[call-overload]
        array = rng.standard_normal(shape) * 2
        if value.type.dtype is bool_:
            array = rng.random(shape) > 0.4
            array[..., 2, :] = False
        elif spec.name == "mask":
            array[rng.random(shape) > 0.7] = -np.inf
            array[..., 0] = 0.0
            if shape[-2] > 2:
                array[..., 2, :] = -np.inf
        feeds[spec.name] = array.astype(value.type.dtype.numpy)
    return feeds
