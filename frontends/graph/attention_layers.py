"""Multi-head attention and the transformer encoder, with PyTorch's arguments, defaults and parameter names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from dlc.errors import GraphError
from dlc.frontends.graph import functions as F
from dlc.frontends.graph import initializers as init
from dlc.frontends.graph.layers import Dropout, LayerNorm, Linear, ModuleList
from dlc.frontends.graph.module import Module, Parameter
from dlc.frontends.graph.tensor import Tensor
from dlc.ir.types import bool_


class MultiheadAttention(Module):
    """Attention of several heads: ``y = attention(query, key, value)``, without the weights that PyTorch also returns.

    Tensors are (sequence, batch, features), or (batch, sequence, features) with ``batch_first``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_heads <= 0 or embed_dim % num_heads:
            raise GraphError(f"MultiheadAttention: embed_dim {embed_dim} does not divide into {num_heads} heads")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.in_proj_weight = Parameter(init.xavier_uniform(), (3 * embed_dim, embed_dim), dtype)
        self.in_proj_bias = Parameter(init.zeros(), (3 * embed_dim,), dtype) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype)
        if bias:
            self.out_proj.replace_initial("bias", init.zeros())

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return (as ``query``) the attended values; ``key`` and ``value`` default to ``query``.

        Bool masks are True where attention is forbidden, as in PyTorch: ``key_padding_mask`` (batch, keys),
        ``attn_mask`` (queries, keys) or (batch * heads, queries, keys). Numbers are added to the scores.
        """
        key = query if key is None else key
        value = key if value is None else value
        if query.ndim != 3:
            raise GraphError(f"MultiheadAttention takes tensors of rank 3, got {query!r}")
        q, k, v = self._project(query, key, value)
        mask = self._mask(key_padding_mask, attn_mask, query.shape[0 if self.batch_first else 1])
        attended = F.scaled_dot_product_attention(q, k, v, mask, self.dropout, is_causal)
        joined = attended.transpose(0, 2, 1, 3)
        joined = joined.reshape(joined.shape[0], joined.shape[1], self.embed_dim)
        projected = self.out_proj(joined)
        return projected if self.batch_first else projected.swapaxes(0, 1)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return q, k, v as (batch, heads, sequence, features)."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if key is query and value is query:
            parts = F.split(F.linear(query, weight, bias), 3, axis=-1)
        else:
            weights = F.split(weight, 3, axis=0)
            biases = F.split(bias, 3, axis=0) if bias is not None else (None,) * 3
            parts = tuple(F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases))
        return [self._heads(p) for p in parts]

    def _heads(self, x: Tensor) -> Tensor:
        split = x.reshape(x.shape[0], x.shape[1], self.num_heads, self.embed_dim // self.num_heads)
        return split.transpose(0, 2, 1, 3) if self.batch_first else split.transpose(1, 2, 0, 3)

    def _mask(self, padding: Tensor | None, mask: Any, batch: Any) -> Tensor | None:
        """Combine the masks into one that is True where attention is allowed, or is added to the scores."""
        parts: list[Tensor] = []
        if mask is not None:
            mask = mask if isinstance(mask, Tensor) else F.astype(mask, mask.dtype)
            parts.append(mask.reshape(batch, self.num_heads, *mask.shape[1:]) if mask.ndim == 3 else mask)
        if padding is not None:
            parts.append(padding.reshape(padding.shape[0], 1, 1, padding.shape[1]))
        if not parts:
            return None
        if all(part.dtype is bool_ for part in parts):
            allowed = [~part for part in parts]
            return allowed[0] if len(allowed) == 1 else allowed[0] & allowed[1]
        scores = [F.where(p, F.full((), -F.inf), F.full((), 0.0)) if p.dtype is bool_ else p for p in parts]
        return scores[0] if len(scores) == 1 else scores[0] + scores[1]


class TransformerEncoderLayer(Module):
    """Self-attention and a feed-forward network, each with dropout, a residual sum and layer normalisation."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first, dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.norm_first = norm_first
        named = {"relu": F.relu, "gelu": F.gelu}
        if isinstance(activation, str) and activation not in named:
            raise GraphError(f'activation {activation!r} is unknown; use "relu", "gelu" or a function')
        self.activation = named[activation] if isinstance(activation, str) else activation

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor like ``src``; masks as in ``MultiheadAttention``."""

        def attend(x: Tensor) -> Tensor:
            return self.dropout1(self.self_attn(x, x, x, src_key_padding_mask, src_mask, is_causal))

        def feed_forward(x: Tensor) -> Tensor:
            return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + feed_forward(self.norm2(x))
        x = self.norm1(src + attend(src))
        return self.norm2(x + feed_forward(x))


class TransformerEncoder(Module):
    """A stack of copies of ``encoder_layer``, each with parameters of its own, and a last normalisation if given."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor like ``src``."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return self.norm(src) if self.norm is not None else src
