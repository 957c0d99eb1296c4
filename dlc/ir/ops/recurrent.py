"""Recurrent layers: composites of one contraction over the whole sequence and a scan over its steps.

Gates are in PyTorch's order. Sequences are (time, batch, features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.dims import Shape
from dlc.ir.graph import Graph, Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.rules import check_float
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.types import TensorType

_REVERSE = Attribute((bool,), default=False, required=False, doc="run from the last element to the first")


def _check_layer(inputs: Types, gates: int, biases: int, states: int) -> None:
    """Check (x, w_ih, w_hh, biases, states) against (T, B, I), (G*H, I), (G*H, H), (G*H), (B, H)."""
    check_float(inputs)
    x, w_ih, w_hh = inputs[:3]
    if x.rank != 3 or w_ih.rank != 2 or w_hh.rank != 2:
        raise TypeRuleError("takes x (time, batch, inputs), w_ih and w_hh of rank 2")
    hidden = w_hh.shape[1]
    rows = hidden * gates
    expected: list[tuple[TensorType, Shape, str]] = [(w_ih, (rows, x.shape[2]), "w_ih"), (w_hh, (rows, hidden), "w_hh")]
    expected += [(t, (rows,), "bias") for t in inputs[3 : 3 + biases]]
    expected += [(t, (x.shape[1], hidden), "initial state") for t in inputs[3 + biases : 3 + biases + states]]
    for t, shape, what in expected:
        if t.shape != shape:
            raise TypeRuleError(f"{what} has shape {list(t.shape)}; it must have {list(shape)}")


def _result_types(inputs: Types, states: int) -> Types:
    x, hidden = inputs[0], inputs[2].shape[1]
    state = TensorType(x.dtype, (x.shape[1], hidden))
    return (TensorType(x.dtype, (x.shape[0], x.shape[1], hidden)), *(state,) * states)


def _projected(b: Builder, x: Value, w_ih: Value, bias: Value) -> Value:
    """Emit the input's share of all gates at all times: one large contraction."""
    gates = b.contract(x, w_ih, spec="t n i, g i -> t n g")
    return b.add(gates, b.broadcast_to(bias, gates.type.shape))


def _recur(b: Builder, h: Value, w_hh: Value) -> Value:
    return b.contract(h, w_hh, spec="n h, g h -> n g")


def _gates(b: Builder, value: Value, count: int) -> list[Value]:
    """Cut (batch, count * hidden) into gates."""
    batch, rows = value.type.shape
    hidden = rows // count
    return [b.slice(value, starts=(0, k * hidden), limits=(batch, (k + 1) * hidden)) for k in range(count)]


def _scan(
    b: Builder,
    name: str,
    states: Sequence[Value],
    gates: Value,
    constants: Sequence[Value],
    step: Callable[[Builder, list[Value], Value, list[Value]], list[Value]],
    reverse: bool,
) -> Sequence[Value]:
    """Emit the scan whose body is ``step(builder, states, gates, constants)`` -> new states; the first is stacked."""
    inner = Builder(name)
    with inner.origin(*b.current_origins):
        carried = [inner.input(f"state{k}", v.type) for k, v in enumerate(states)]
        here = inner.input("gates", TensorType(gates.type.dtype, gates.type.shape[1:]))
        fixed = [inner.input(f"constant{k}", v.type) for k, v in enumerate(constants)]
        after = step(inner, carried, here, fixed)
    for number, value in enumerate([*after, after[0]]):
        inner.output(f"o{number}", value)
    body: Graph = inner.finish()
    results = b.emit(
        "scan",
        [*states, gates, *constants],
        {"body": body, "carries": len(states), "sequences": 1, "reverse": reverse},
    )
    return (results[-1], *results[:-1])


def _sigmoid(x: np.ndarray) -> Any:
    return SCALAR_OPS["sigmoid"].evaluate(x)


def _np_run(
    x: np.ndarray, reverse: bool, states: list[np.ndarray], step: Callable[..., list[np.ndarray]]
) -> tuple[np.ndarray, ...]:
    """Run ``step(x_t, *states)`` over time; return the stacked first state and the final states."""
    y = np.zeros((x.shape[0], *states[0].shape), x.dtype)
    for t in range(x.shape[0])[:: -1 if reverse else 1]:
        states = step(x[t], *states)
        y[t] = states[0]
    return (y, *states)


def _in_float64(run: Callable[..., tuple[np.ndarray, ...]]) -> Callable[..., tuple[np.ndarray, ...]]:
    def evaluate(a: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        results = run(a, *(v.astype(np.float64) for v in arrays))
        return tuple(r.astype(arrays[0].dtype) for r in results)

    return evaluate


# -- LSTM ----------------------------------------------------------------------------------


def lstm_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, w_ih, w_hh, bias, h0, c0) -> y, h, c."""
    _check_layer(inputs, gates=4, biases=1, states=2)
    return _result_types(inputs, 2)


def _lstm_step(b: Builder, states: list[Value], gates: Value, constants: list[Value]) -> list[Value]:
    h, c = states
    i, f, g, o = _gates(b, b.add(gates, _recur(b, h, constants[0])), 4)
    c = b.add(b.mul(b.sigmoid(f), c), b.mul(b.sigmoid(i), b.tanh(g)))
    return [b.mul(b.sigmoid(o), b.tanh(c)), c]


def lstm_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Project the inputs at once, then scan."""
    x, w_ih, w_hh, bias, h, c = inputs
    return _scan(b, "lstm_step", [h, c], _projected(b, x, w_ih, bias), [w_hh], _lstm_step, a["reverse"])


def _np_lstm(
    a: Attributes, x: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, bias: np.ndarray, h: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, ...]:
    def step(x_t: np.ndarray, h: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
        i, f, g, o = np.split(x_t @ w_ih.T + h @ w_hh.T + bias, 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return [_sigmoid(o) * np.tanh(c), c]

    return _np_run(x, a["reverse"], [h, c], step)


register(
    OpDef(
        name="lstm",
        arity=6,
        infer=lstm_type,
        evaluate=_in_float64(_np_lstm),
        attributes={"reverse": _REVERSE},
        expand=lstm_expand,
        doc="LSTM layer: (x, w_ih, w_hh, bias, h0, c0) -> (y, h, c); gates input, forget, cell, output.",
    )
)


# -- GRU -----------------------------------------------------------------------------------


def gru_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, w_ih, w_hh, b_ih, b_hh, h0) -> y, h."""
    _check_layer(inputs, gates=3, biases=2, states=1)
    return _result_types(inputs, 1)


def _gru_step(linear_before_reset: bool) -> Callable[..., list[Value]]:
    def step(b: Builder, states: list[Value], gates: Value, constants: list[Value]) -> list[Value]:
        (h,) = states
        if linear_before_reset:
            w_hh, bias = constants
            recurrent = _recur(b, h, w_hh)
            recurrent = b.add(recurrent, b.broadcast_to(bias, recurrent.type.shape))
            (r, z, n), (hr, hz, hn) = _gates(b, gates, 3), _gates(b, recurrent, 3)
            z = b.sigmoid(b.add(z, hz))
            n = b.tanh(b.add(n, b.mul(b.sigmoid(b.add(r, hr)), hn)))
        else:
            w_rz, w_n, b_rz, b_n = constants
            recurrent = _recur(b, h, w_rz)
            recurrent = b.add(recurrent, b.broadcast_to(b_rz, recurrent.type.shape))
            (r, z, n), (hr, hz) = _gates(b, gates, 3), _gates(b, recurrent, 2)
            z = b.sigmoid(b.add(z, hz))
            reset = _recur(b, b.mul(b.sigmoid(b.add(r, hr)), h), w_n)
            n = b.tanh(b.add(n, b.add(reset, b.broadcast_to(b_n, reset.type.shape))))
        return [b.add(b.mul(b.sub(1.0, z), n), b.mul(z, h))]

    return step


def gru_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Project the inputs at once, then scan."""
    x, w_ih, w_hh, b_ih, b_hh, h = inputs
    constants = [w_hh, b_hh]
    if not a["linear_before_reset"]:
        rows, hidden = w_hh.type.shape
        cut = hidden * 2
        constants = [
            b.slice(w_hh, starts=(0, 0), limits=(cut, hidden)),
            b.slice(w_hh, starts=(cut, 0), limits=(rows, hidden)),
            b.slice(b_hh, starts=(0,), limits=(cut,)),
            b.slice(b_hh, starts=(cut,), limits=(rows,)),
        ]
    gates = _projected(b, x, w_ih, b_ih)
    return _scan(b, "gru_step", [h], gates, constants, _gru_step(a["linear_before_reset"]), a["reverse"])


def _np_gru(
    a: Attributes, x: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray, b_hh: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, ...]:
    def step(x_t: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
        (r, z, n), (hr, hz, hn) = np.split(x_t @ w_ih.T + b_ih, 3, 1), np.split(h @ w_hh.T + b_hh, 3, 1)
        r, z = _sigmoid(r + hr), _sigmoid(z + hz)
        if a["linear_before_reset"]:
            n = np.tanh(n + r * hn)
        else:
            n = np.tanh(n + (r * h) @ np.split(w_hh, 3)[2].T + np.split(b_hh, 3)[2])
        return [(1 - z) * n + z * h]

    return _np_run(x, a["reverse"], [h], step)


register(
    OpDef(
        name="gru",
        arity=6,
        infer=gru_type,
        evaluate=_in_float64(_np_gru),
        attributes={
            "reverse": _REVERSE,
            "linear_before_reset": Attribute(
                (bool,), default=True, required=False, doc="multiply by the reset gate after the product (PyTorch)"
            ),
        },
        expand=gru_expand,
        doc="GRU layer: (x, w_ih, w_hh, b_ih, b_hh, h0) -> (y, h); gates reset, update, new.",
    )
)


# -- simple RNN ------------------------------------------------------------------------------


def rnn_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, w_ih, w_hh, bias, h0) -> y, h."""
    if attributes["activation"] not in ("tanh", "relu"):
        raise TypeRuleError(f"activation is {attributes['activation']!r}; it must be 'tanh' or 'relu'")
    _check_layer(inputs, gates=1, biases=1, states=1)
    return _result_types(inputs, 1)


def rnn_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Project the inputs at once, then scan."""
    x, w_ih, w_hh, bias, h = inputs

    def step(inner: Builder, states: list[Value], gates: Value, constants: list[Value]) -> list[Value]:
        return [inner.call(a["activation"], inner.add(gates, _recur(inner, states[0], constants[0])))]

    return _scan(b, "rnn_step", [h], _projected(b, x, w_ih, bias), [w_hh], step, a["reverse"])


def _np_rnn(
    a: Attributes, x: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, bias: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, ...]:
    def step(x_t: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
        total = x_t @ w_ih.T + h @ w_hh.T + bias
        return [np.tanh(total) if a["activation"] == "tanh" else np.maximum(total, 0)]

    return _np_run(x, a["reverse"], [h], step)


register(
    OpDef(
        name="rnn",
        arity=5,
        infer=rnn_type,
        evaluate=_in_float64(_np_rnn),
        attributes={
            "reverse": _REVERSE,
            "activation": Attribute((str,), default="tanh", required=False, doc="'tanh' or 'relu'"),
        },
        expand=rnn_expand,
        doc="Elman RNN layer: (x, w_ih, w_hh, bias, h0) -> (y, h).",
    )
)
