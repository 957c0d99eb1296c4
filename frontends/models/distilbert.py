"""DistilBERT (Sanh et al., 2019), with the parameter names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlc.frontends.graph import Graph, functions, input, nn, output
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import dense, join_heads, split_heads, table


@dataclass(frozen=True)
class DistilBertConfig:
    """Sizes of a DistilBERT encoder."""

    vocabulary: int = 30522
    features: int = 768
    layers: int = 6
    heads: int = 12
    intermediate: int = 3072
    positions: int = 512
    dropout: float = 0.1
    epsilon: float = 1e-12


class Embeddings(nn.Module):
    """Sum of token and position embeddings, normalised."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.word_embeddings = table(config.vocabulary, config.features)
        self.position_embeddings = table(config.positions, config.features)
        self.LayerNorm = nn.LayerNorm(config.features, config.epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]]
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + positions))


class Attention(nn.Module):
    """Multi-head attention with separate projections."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.heads, self.rate = config.heads, config.dropout
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            setattr(self, name, dense(config.features, config.features))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (split_heads(p(x), self.heads) for p in (self.q_lin, self.k_lin, self.v_lin))
        return self.out_lin(join_heads(functions.scaled_dot_product_attention(q, k, v, mask, self.rate)))


class FeedForward(nn.Module):
    """Widen, GELU, project back."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.lin1 = dense(config.features, config.intermediate)
        self.lin2 = dense(config.intermediate, config.features)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.lin2(functions.gelu(self.lin1(x))))


class Block(nn.Module):
    """Attention and a feed-forward network, each added to its input and normalised."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.sa_layer_norm = nn.LayerNorm(config.features, config.epsilon)
        self.ffn = FeedForward(config)
        self.output_layer_norm = nn.LayerNorm(config.features, config.epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.sa_layer_norm(self.attention(x, mask) + x)
        return self.output_layer_norm(self.ffn(x) + x)


class Transformer(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.layer:
            x = block(x, mask)
        return x


class DistilBert(nn.Module):
    """Embeddings and blocks."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.transformer = Transformer(config)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        attends = (mask != 0).reshape(mask.shape[0], 1, 1, mask.shape[1])
        return self.transformer(self.embeddings(ids), attends)


def distilbert(
    batch: Any = "batch",
    seed: int = 0,
    dtype: str = "float32",
    sequence: Any = 128,
    config: DistilBertConfig = DistilBertConfig(),
) -> Graph:
    """Return DistilBERT: inputs ``input_ids`` and ``attention_mask`` (batch, sequence) int64 (mask 0: not attended).

    The output is ``last_hidden_state`` (batch, sequence, 768).
    """
    with Graph("distilbert", seed=seed, dtype=dtype) as graph:
        ids = input("input_ids", (batch, sequence), "int64")
        mask = input("attention_mask", (batch, sequence), "int64")
        output("last_hidden_state", DistilBert(config)(ids, mask))
    return graph
