"""LSTM, GRU and RNN with PyTorch's arguments, parameter names and initial values (uniform within 1 / sqrt(hidden))."""

from __future__ import annotations

import math
from typing import Any

from dlc.errors import GraphError
from dlc.frontends.graph import functions as F
from dlc.frontends.graph import initializers as init
from dlc.frontends.graph.module import Module, Parameter
from dlc.frontends.graph.tensor import Tensor, emit
from dlc.ir.builder import Builder
from dlc.ir.graph import Value


class _Recurrent(Module):
    """Stacked layers in one or two directions; a subclass emits one layer in one direction."""

    gates = 1
    states = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for what, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not isinstance(value, int) or value <= 0:
                raise GraphError(f"{name}: {what} must be a positive int, not {value!r}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.with_bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        bound = 1.0 / math.sqrt(hidden_size)
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * self.directions
            for suffix in self._suffixes(layer):
                setattr(self, f"weight_ih_{suffix}", Parameter(init.uniform(-bound, bound), (rows, width), dtype))
                setattr(self, f"weight_hh_{suffix}", Parameter(init.uniform(-bound, bound), (rows, hidden_size), dtype))
                if bias:
                    setattr(self, f"bias_ih_{suffix}", Parameter(init.uniform(-bound, bound), (rows,), dtype))
                    setattr(self, f"bias_hh_{suffix}", Parameter(init.uniform(-bound, bound), (rows,), dtype))

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"][: self.directions]

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Run over (sequence, batch, features), or (batch, sequence, features) with ``batch_first``.

        Returns the last layer's outputs and the last state(s), (layers * directions, batch, hidden); for an LSTM
        the pair of hidden and cell state. ``hx`` is the initial state(s), zeros by default.
        """
        if x.ndim != 3 or x.shape[-1] != self.input_size:
            raise GraphError(f"{type(self).__name__} takes rank 3 with {self.input_size} features, got {x!r}")
        if self.batch_first:
            x = x.swapaxes(0, 1)
        count = self.num_layers * self.directions
        shape = (count, x.shape[1], self.hidden_size)
        given = () if hx is None else hx if isinstance(hx, tuple | list) else (hx,)
        starts = list(given) if given else [F.zeros(shape, x.dtype) for _ in range(self.states)]
        if len(starts) != self.states or any(s.shape != shape for s in starts):
            raise GraphError(f"{type(self).__name__}: {self.states} initial state(s) of shape {list(shape)} are needed")
        last: list[list[Tensor]] = [[] for _ in range(self.states)]
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout)
            outputs = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                position = layer * self.directions + direction
                y, *ends = self._run(x, suffix, [s[position] for s in starts], direction == 1)
                outputs.append(y)
                for states, end in zip(last, ends, strict=True):
                    states.append(end)
            x = F.concatenate(outputs, axis=-1)
        stacked = tuple(F.stack(states, axis=0) for states in last)
        if self.batch_first:
            x = x.swapaxes(0, 1)
        return x, stacked if self.states > 1 else stacked[0]

    def _weights(self, suffix: str) -> tuple[Tensor, Tensor, Any, Any]:
        biases = (
            (getattr(self, f"bias_ih_{suffix}"), getattr(self, f"bias_hh_{suffix}")) if self.with_bias else (None, None)
        )
        return getattr(self, f"weight_ih_{suffix}"), getattr(self, f"weight_hh_{suffix}"), *biases

    def _run(self, x: Tensor, suffix: str, starts: list[Tensor], reverse: bool) -> tuple[Tensor, ...]:
        raise NotImplementedError(type(self).__name__)


class LSTM(_Recurrent):
    """Long short-term memory; gates in PyTorch's order i, f, g, o. Returns ``y, (h, c)``."""

    gates = 4
    states = 2

    def _run(self, x: Tensor, suffix: str, starts: list[Tensor], reverse: bool) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh = self._weights(suffix)
        bias = b_ih + b_hh if self.with_bias else F.zeros((4 * self.hidden_size,), x.dtype)
        return emit(_lstm, x, w_ih, w_hh, bias, *starts, reverse)


class GRU(_Recurrent):
    """Gated recurrent unit; gates in PyTorch's order r, z, n. Returns ``y, h``."""

    gates = 3

    def _run(self, x: Tensor, suffix: str, starts: list[Tensor], reverse: bool) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh = self._weights(suffix)
        if not self.with_bias:
            b_ih = b_hh = F.zeros((3 * self.hidden_size,), x.dtype)
        return emit(_gru, x, w_ih, w_hh, b_ih, b_hh, *starts, reverse)


class RNN(_Recurrent):
    """Elman network with ``nonlinearity`` "tanh" or "relu". Returns ``y, h``."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise GraphError(f'RNN: nonlinearity {nonlinearity!r} is unknown; use "tanh" or "relu"')
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)
        self.nonlinearity = nonlinearity

    def _run(self, x: Tensor, suffix: str, starts: list[Tensor], reverse: bool) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh = self._weights(suffix)
        bias = b_ih + b_hh if self.with_bias else F.zeros((self.hidden_size,), x.dtype)
        return emit(_rnn, x, w_ih, w_hh, bias, *starts, reverse, self.nonlinearity)


def _lstm(b: Builder, x: Value, w_ih: Value, w_hh: Value, bias: Value, h: Value, c: Value, reverse: bool) -> Any:
    return b.lstm(x, w_ih, w_hh, bias, h, c, reverse=reverse)


def _gru(b: Builder, x: Value, w_ih: Value, w_hh: Value, b_ih: Value, b_hh: Value, h: Value, reverse: bool) -> Any:
    return b.gru(x, w_ih, w_hh, b_ih, b_hh, h, reverse=reverse)


def _rnn(b: Builder, x: Value, w_ih: Value, w_hh: Value, bias: Value, h: Value, reverse: bool, activation: str) -> Any:
    return b.rnn(x, w_ih, w_hh, bias, h, reverse=reverse, activation=activation)
