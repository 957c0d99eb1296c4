"""Recurrent classifiers: LSTM or GRU layers over a sequence and a linear layer on the last output."""

from __future__ import annotations

from typing import Any

from dlc.frontends.graph import Graph, input, nn, output
from dlc.frontends.graph.tensor import Tensor


class LstmClassifier(nn.Module):
    """An LSTM over a sequence and a linear layer on its last output."""

    def __init__(self, features: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.fc(y[:, -1])


class GruClassifier(nn.Module):
    """A GRU over a sequence and a linear layer on its last output."""

    def __init__(self, features: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        return self.fc(y[:, -1])


def lstm(
    batch: Any = "batch",
    seed: int = 0,
    dtype: str = "float32",
    sequence: int = 128,
    features: int = 128,
    hidden: int = 256,
    layers: int = 2,
    classes: int = 10,
) -> Graph:
    """Return an LSTM classifier: input ``x`` (batch, sequence, features), output ``logits`` (batch, classes)."""
    model = LstmClassifier(features, hidden, layers, classes)
    return _sequence_graph("lstm", model, (batch, sequence, features), seed, dtype)


def gru(
    batch: Any = "batch",
    seed: int = 0,
    dtype: str = "float32",
    sequence: int = 128,
    features: int = 128,
    hidden: int = 256,
    layers: int = 2,
    classes: int = 10,
) -> Graph:
    """Return a GRU classifier: input ``x`` (batch, sequence, features), output ``logits`` (batch, classes)."""
    model = GruClassifier(features, hidden, layers, classes)
    return _sequence_graph("gru", model, (batch, sequence, features), seed, dtype)


def _sequence_graph(name: str, model: nn.Module, shape: tuple[Any, ...], seed: int, dtype: str) -> Graph:
    with Graph(name, seed=seed, dtype=dtype) as graph:
        output("logits", model(input("x", shape, dtype)))
    return graph
