"""What several of the named models share: tables and dense layers with normal weights, and splitting into heads."""

from __future__ import annotations

from typing import Any

from dlc.frontends.graph import Graph, input, nn, output
from dlc.frontends.graph.tensor import Tensor


def dense(in_features: int, out_features: int, std: float = 0.02, bias: bool = True) -> nn.Linear:
    """Return a linear layer with normal weights of deviation ``std`` and zero bias."""
    layer = nn.Linear(in_features, out_features, bias)
    layer.replace_initial("weight", nn.init.normal(std))
    if bias:
        layer.replace_initial("bias", nn.init.zeros())
    return layer


def table(count: int, features: int, std: float = 0.02) -> nn.Embedding:
    """Return an embedding with normal weights of deviation ``std``."""
    made = nn.Embedding(count, features)
    made.replace_initial("weight", nn.init.normal(std))
    return made


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, sequence, features) -> (batch, heads, sequence, features / heads)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(0, 2, 1, 3)


def join_heads(x: Tensor) -> Tensor:
    """(batch, heads, sequence, features) -> (batch, sequence, heads * features)."""
    batch, heads, sequence, features = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, sequence, heads * features)


def image_graph(name: str, model: nn.Module, batch: Any, seed: int, dtype: str, size: int) -> Graph:
    """Return ``model`` on the input ``x`` (batch, 3, size, size) with the output ``logits``."""
    with Graph(name, seed=seed, dtype=dtype) as graph:
        x = input("x", (batch, 3, size, size), dtype)
        output("logits", model(x))
    return graph
