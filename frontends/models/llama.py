"""Llama-style decoders (Touvron et al., 2023), with the parameter names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dlc.frontends.graph import Graph, functions, input, nn, output
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import dense, join_heads, split_heads, table


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a decoder; the defaults are SmolLM-135M's."""

    vocabulary: int = 49152
    features: int = 576
    layers: int = 30
    heads: int = 9
    key_heads: int = 3
    intermediate: int = 1536
    base: float = 10000.0
    epsilon: float = 1e-5


def rotary_tables(length: Any, features: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, (length, features), of position times frequency ``base ** (-2 i / features)``."""
    halves = 1.0 / base ** (np.arange(0, features, 2, dtype=np.float32) / np.float32(features))
    frequencies = np.concatenate([halves, halves]).astype(np.float32)
    positions = functions.astype(functions.arange(length), "float32")
    angles = positions.reshape(-1, 1) * frequencies
    return functions.cos(angles), functions.sin(angles)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the pairs (i, i + features / 2) of each position by its angle (Su et al., 2021)."""
    first, second = functions.split(x, 2, axis=-1)
    return x * cosine + functions.concatenate([-second, first], axis=-1) * sine


class LlamaAttention(nn.Module):
    """Causal attention in which groups of query heads share a key and value head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        depth = config.features // config.heads
        self.q_proj = dense(config.features, config.heads * depth, bias=False)
        self.k_proj = dense(config.features, config.key_heads * depth, bias=False)
        self.v_proj = dense(config.features, config.key_heads * depth, bias=False)
        self.o_proj = dense(config.heads * depth, config.features, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        heads, shared = self.config.heads, self.config.key_heads
        q = rotate(split_heads(self.q_proj(x), heads), cosine, sine)
        k = rotate(split_heads(self.k_proj(x), shared), cosine, sine)
        v = split_heads(self.v_proj(x), shared)
        batch, _, length, depth = q.shape
        grouped = q.reshape(batch, shared, heads // shared, length, depth)
        k, v = (t.reshape(batch, shared, 1, length, depth) for t in (k, v))
        attended = functions.scaled_dot_product_attention(grouped, k, v, is_causal=True)
        return self.o_proj(join_heads(attended.reshape(batch, heads, length, depth)))


class LlamaFeedForward(nn.Module):
    """SwiGLU: a widened product of a gate and a value, projected back."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = dense(config.features, config.intermediate, bias=False)
        self.up_proj = dense(config.features, config.intermediate, bias=False)
        self.down_proj = dense(config.intermediate, config.features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functions.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    """Attention and a feed-forward network, each normalised first and added to its input."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config)
        self.mlp = LlamaFeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.features, config.epsilon)
        self.post_attention_layernorm = nn.RMSNorm(config.features, config.epsilon)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Embedding, layers and a last normalisation."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = table(config.vocabulary, config.features)
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.features, config.epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        config = self.config
        cosine, sine = rotary_tables(ids.shape[1], config.features // config.heads, config.base)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.norm(x)


class Llama(nn.Module):
    """The decoder with its output layer, the transposed token table."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)

    def forward(self, ids: Tensor) -> Tensor:
        return functions.linear(self.model(ids), self.model.embed_tokens.weight)


def llama(
    config: LlamaConfig,
    name: str = "llama",
    batch: Any = "batch",
    sequence: Any = 64,
    seed: int = 0,
    dtype: str = "float32",
) -> Graph:
    """Return a Llama of any size: input ``input_ids`` (batch, sequence) int64, output ``logits``."""
    with Graph(name, seed=seed, dtype=dtype) as graph:
        ids = input("input_ids", (batch, sequence), "int64")
        output("logits", Llama(config)(ids))
    return graph


def llama_135m(batch: Any = "batch", seed: int = 0, dtype: str = "float32", sequence: Any = 64) -> Graph:
    """Return the shape of SmolLM-135M: input ``input_ids`` (batch, sequence), output ``logits`` (..., 49152)."""
    return llama(LlamaConfig(), "llama_135m", batch, sequence, seed, dtype)
