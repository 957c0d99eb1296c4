"""Importers of attention and rotary embeddings; unusual forms go through the standard's own definition."""

from __future__ import annotations

from typing import Any

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.registry import onnx_op
from dlc.ir.builder import broadcast_shapes
from dlc.ir.dims import exact_quotient
from dlc.ir.graph import Value
from dlc.ir.types import bool_


@onnx_op("Attention", since=23)
def import_attention(call: Call) -> Any:
    """Scaled dot-product attention over heads; what the composite cannot say is expanded."""
    plain = (
        not any(call.has(k) for k in (4, 5, 6))
        and not any(call.wants(k) for k in (1, 2, 3))
        and call.real("softcap", 0.0) == 0.0
        and call.dtype(0) is call.dtype(1) is call.dtype(2)
        and (not call.has(3) or call.dtype(3) in (bool_, call.dtype(0)))
        and (not call.has(3) or not call.flag("is_causal"))
        and not {"left_window_size", "right_window_size"} & set(call.attributes)
    )
    return _composite(call) if plain else call.session.expand_standard(call)


def _heads(call: Call, index: int, attribute: str) -> Value:
    """Return an input as (batch, heads, sequence, size)."""
    b, x = call.b, call.value(index)
    if x.type.rank == 4:
        return x
    if x.type.rank != 3:
        call.fail(f"input {index} has rank {x.type.rank}; it must be 3 or 4")
    batch, sequence, width = x.type.shape
    count = call.integer(attribute)
    size = exact_quotient(width, count) if count > 0 else None
    if size is None:
        call.fail(f"a width of {width} does not divide into {attribute} {count}")
    return b.transpose_to(b.reshape_to(x, (batch, sequence, count, size)), (0, 2, 1, 3))


def _composite(call: Call) -> Value:
    b = call.b
    flat = call.rank(0) == 3
    q, k, v = _heads(call, 0, "q_num_heads"), _heads(call, 1, "kv_num_heads"), _heads(call, 2, "kv_num_heads")
    if k.type.shape[1] != q.type.shape[1]:
        repeats = exact_quotient(q.type.shape[1], k.type.shape[1])
        if repeats is None:
            call.fail(f"{q.type.shape[1]} query heads are no multiple of {k.type.shape[1]} key heads")
        k, v = (_repeat_heads(call, x, repeats) for x in (k, v))
    call.unify(q.type.shape[-1], k.type.shape[-1], "query and key sizes differ")
    call.unify(k.type.shape[-2], v.type.shape[-2], "key and value lengths differ")
    operands = [q, k, v]
    if call.has(3):
        mask = call.value(3)
        scores = (*q.type.shape[:-1], k.type.shape[-2])
        call.unify_broadcast(mask.type.shape, scores)
        if broadcast_shapes(mask.type.shape, scores) != scores:
            call.fail(f"the mask {list(mask.type.shape)} does not broadcast to {list(scores)}")
        operands.append(mask)
    y = b.attention(*operands, scale=call.real("scale", None), causal=call.flag("is_causal"))
    if call.has(3) and call.dtype(3) is bool_:  # a query that may attend to nothing gets zeros
        some = b.reduce_or(mask, axes=(mask.type.rank - 1,), keepdims=True)
        y = b.where(b.broadcast_to(some, y.type.shape), y, b.zeros_like(y))
    if not flat:
        return y
    batch, heads, sequence, size = y.type.shape
    return b.reshape_to(b.transpose_to(y, (0, 2, 1, 3)), (batch, sequence, heads * size))


def _repeat_heads(call: Call, x: Value, repeats: Any) -> Value:
    batch, heads, sequence, size = x.type.shape
    spread = call.b.broadcast(x, shape=(batch, heads, repeats, sequence, size), dims=(0, 1, 3, 4))
    return call.b.reshape_to(spread, (batch, heads * repeats, sequence, size))
