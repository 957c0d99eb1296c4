"""Transformers for text: BERT, GPT-2 and small GPTs to train, with the parameter names of transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dlc.frontends.graph import Graph, functions, input, nn, output
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import dense, join_heads, split_heads, table

# -- BERT ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT encoder."""

    vocabulary: int = 30522
    features: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    positions: int = 512
    types: int = 2
    dropout: float = 0.1
    epsilon: float = 1e-12


class BertEmbeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = table(config.vocabulary, config.features)
        self.position_embeddings = table(config.positions, config.features)
        self.token_type_embeddings = table(config.types, config.features)
        self.LayerNorm = nn.LayerNorm(config.features, config.epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """All tokens belong to the first segment."""
        positions = self.position_embeddings.weight[: ids.shape[1]]
        summed = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(summed))


class BertSelfAttention(nn.Module):
    """Multi-head attention with separate projections."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads, self.rate = config.heads, config.dropout
        self.query = dense(config.features, config.features)
        self.key = dense(config.features, config.features)
        self.value = dense(config.features, config.features)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (split_heads(p(x), self.heads) for p in (self.query, self.key, self.value))
        return join_heads(functions.scaled_dot_product_attention(q, k, v, mask, self.rate))


class BertOutput(nn.Module):
    """A projection, dropout, residual sum and normalisation."""

    def __init__(self, in_features: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = dense(in_features, config.features)
        self.LayerNorm = nn.LayerNorm(config.features, config.epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Module):
    """Attention with its output projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertOutput(config.features, config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.self(x, mask), x)


class BertIntermediate(nn.Module):
    """The widening half of the feed-forward network."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = dense(config.features, config.intermediate)

    def forward(self, x: Tensor) -> Tensor:
        return functions.gelu(self.dense(x))


class BertLayer(nn.Module):
    """Attention and a feed-forward network."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config.intermediate, config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertPooler(nn.Module):
    """The first token's features through a dense tanh layer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = dense(config.features, config.features)

    def forward(self, x: Tensor) -> Tensor:
        return functions.tanh(self.dense(x[:, 0]))


class Bert(nn.Module):
    """BERT encoder with pooler (Devlin et al., 2019)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        attends = (mask != 0).reshape(mask.shape[0], 1, 1, mask.shape[1])
        hidden = self.encoder(self.embeddings(ids), attends)
        return hidden, self.pooler(hidden)


def bert(
    config: BertConfig,
    name: str = "bert",
    batch: Any = "batch",
    sequence: Any = 128,
    seed: int = 0,
    dtype: str = "float32",
) -> Graph:
    """Return a BERT encoder of any size: inputs and outputs as ``bert_base``."""
    with Graph(name, seed=seed, dtype=dtype) as graph:
        ids = input("input_ids", (batch, sequence), "int64")
        mask = input("attention_mask", (batch, sequence), "int64")
        hidden, pooled = Bert(config)(ids, mask)
        output("last_hidden_state", hidden)
        output("pooler_output", pooled)
    return graph


def bert_base(batch: Any = "batch", seed: int = 0, dtype: str = "float32", sequence: Any = 128) -> Graph:
    """Return BERT-base.

    Inputs ``input_ids`` and ``attention_mask`` (batch, sequence) int64 (mask 0: not attended), outputs
    ``last_hidden_state`` (batch, sequence, 768) and ``pooler_output`` (batch, 768).
    """
    return bert(BertConfig(), "bert_base", batch, sequence, seed, dtype)


# -- GPT -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GptConfig:
    """Sizes of a GPT-2 style decoder."""

    vocabulary: int = 50257
    positions: int = 1024
    features: int = 768
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1
    epsilon: float = 1e-5


class Conv1D(nn.Module):
    """A linear layer whose weight is (in, out), as GPT-2 stores it."""

    def __init__(self, out_features: int, in_features: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal(std), (in_features, out_features))
        self.bias = nn.Parameter(nn.init.zeros(), (out_features,))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class GptAttention(nn.Module):
    """Causal multi-head attention."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.heads, self.rate = config.heads, config.dropout
        self.c_attn = Conv1D(3 * config.features, config.features)
        self.c_proj = Conv1D(config.features, config.features, 0.02 / math.sqrt(2 * config.layers))
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(p, self.heads) for p in functions.split(self.c_attn(x), 3, axis=-1))
        attended = functions.scaled_dot_product_attention(q, k, v, None, self.rate, is_causal=True)
        return self.resid_dropout(self.c_proj(join_heads(attended)))


class GptFeedForward(nn.Module):
    """Widen four times, GELU (tanh form), project back."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(4 * config.features, config.features)
        self.c_proj = Conv1D(config.features, 4 * config.features, 0.02 / math.sqrt(2 * config.layers))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(functions.gelu(self.c_fc(x), "tanh")))


class GptBlock(nn.Module):
    """Attention and a feed-forward network, each normalised first and added to its input."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.features, config.epsilon)
        self.attn = GptAttention(config)
        self.ln_2 = nn.LayerNorm(config.features, config.epsilon)
        self.mlp = GptFeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GptTransformer(nn.Module):
    """Embeddings, blocks and a last normalisation; returns features and the token table."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.wte = table(config.vocabulary, config.features)
        self.wpe = table(config.positions, config.features)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(GptBlock(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.features, config.epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.drop(self.wte(ids) + self.wpe.weight[: ids.shape[1]])
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class Gpt(nn.Module):
    """GPT-2 (Radford et al., 2019); the output layer is the transposed token table."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.transformer = GptTransformer(config)

    def forward(self, ids: Tensor) -> Tensor:
        return functions.linear(self.transformer(ids), self.transformer.wte.weight)


def gpt(
    config: GptConfig,
    name: str = "gpt",
    batch: Any = "batch",
    sequence: Any = 64,
    seed: int = 0,
    dtype: str = "float32",
) -> Graph:
    """Return a GPT of any size: input ``input_ids`` (batch, sequence) int64, output ``logits``."""
    with Graph(name, seed=seed, dtype=dtype) as graph:
        ids = input("input_ids", (batch, sequence), "int64")
        output("logits", Gpt(config)(ids))
    return graph


def gpt2(batch: Any = "batch", seed: int = 0, dtype: str = "float32", sequence: Any = 64) -> Graph:
    """Return GPT-2 (124 million parameters): input ``input_ids`` (batch, sequence), output ``logits`` (..., 50257)."""
    return gpt(GptConfig(), "gpt2", batch, sequence, seed, dtype)


def small_gpt(
    batch: Any = "batch", seed: int = 0, dtype: str = "float32", sequence: Any = 64, dropout: float = 0.0
) -> Graph:
    """Return a GPT to train: 96 tokens, 4 layers, 4 heads, 128 features, at most 256 positions."""
    config = GptConfig(vocabulary=96, positions=256, features=128, layers=4, heads=4, dropout=dropout)
    return gpt(config, "small_gpt", batch, sequence, seed, dtype)


def gpt_4x256(batch: Any = "batch", seed: int = 0, dtype: str = "float32", sequence: Any = 128) -> Graph:
    """Return a GPT of 4 layers, 4 heads and 256 features over 4096 tokens, at most 128 positions, to train."""
    config = GptConfig(vocabulary=4096, positions=128, features=256, layers=4, heads=4, dropout=0.0)
    return gpt(config, "gpt_4x256", batch, sequence, seed, dtype)
