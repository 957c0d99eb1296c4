"""Importers of LSTM, GRU and RNN: the usual forms as layers, all others as scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.ops_shape import cut
from dlc.frontends.onnx.registry import onnx_op
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.types import TensorType, int64

Activation = Callable[[Builder, Value], Value]
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_ALPHAS = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
_BETAS = {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}


@dataclass
class Layer:
    """One direction of a recurrent node: weights (gates * hidden, ...), biases, states, activations."""

    w: Value
    r: Value
    w_bias: Value
    r_bias: Value
    peepholes: Value | None
    states: list[Value]
    activations: tuple[str, ...]
    functions: list[Activation]
    reverse: bool


def _activation(name: str, alpha: float, beta: float, b: Builder, x: Value) -> Value:
    match name.lower():
        case "sigmoid" | "tanh" | "relu" | "softsign":
            return b.call(name.lower(), x)
        case "softplus":
            return b.softplus(x)
        case "affine":
            return b.add(b.mul(x, alpha), beta)
        case "leakyrelu":
            return b.leaky_relu(x, alpha=alpha)
        case "thresholdedrelu":
            return b.thresholded_relu(x, alpha=alpha)
        case "scaledtanh":
            return b.mul(b.tanh(b.mul(x, beta)), alpha)
        case "hardsigmoid":
            return b.maximum(b.minimum(b.add(b.mul(x, alpha), beta), 1.0), 0.0)
        case _:
            return b.elu(x, alpha=alpha)


def _functions(call: Call, direction: int, count: int) -> tuple[tuple[str, ...], list[Activation]]:
    """Return the activations of one direction, alphas and betas taken in the order in which they are needed."""
    per = len(_DEFAULTS[call.op_type])
    names = call.string_list("activations", None) or _DEFAULTS[call.op_type] * count
    if len(names) != per * count:
        call.fail(f"lists {len(names)} activations for {count} directions; it takes {per} each")
    known = {n.lower(): n for n in (*_ALPHAS, "Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")}
    unknown = [n for n in names if n.lower() not in known]
    if unknown:
        call.fail(f"activation {unknown[0]!r} is none of {', '.join(known.values())}")
    names = tuple(known[n.lower()] for n in names)
    alphas, betas = iter(call.float_list("activation_alpha", ())), iter(call.float_list("activation_beta", ()))
    functions: list[Activation] = []
    for name in names:
        alpha = next(alphas, _ALPHAS[name]) if name in _ALPHAS else 0.0
        beta = next(betas, _BETAS[name]) if name in _BETAS else 0.0
        functions.append(partial(_activation, name, alpha, beta))
    chosen = slice(direction * per, (direction + 1) * per)
    return names[chosen], functions[chosen]


def _pick(call: Call, index: int, direction: int) -> Value:
    value = cut(call, call.value(index), 0, direction, direction + 1)
    return call.b.reshape_to(value, value.type.shape[1:])


def _rows(call: Call, value: Value, order: Sequence[int], hidden: int) -> Value:
    """Reorder blocks of ``hidden`` rows."""
    if list(order) == list(range(len(order))):
        return value
    return call.b.concat(*(cut(call, value, 0, g * hidden, (g + 1) * hidden) for g in order), axis=0)


@onnx_op("LSTM", "GRU", "RNN", since=7)
def import_recurrent(call: Call) -> list[Value]:
    """A recurrent layer in one or both directions."""
    b, kind = call.b, call.op_type
    x, hidden = call.value(0), call.integer("hidden_size", None)
    batch_first = call.flag("layout")
    direction = call.string("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        call.fail(f"direction {direction!r} is none of forward, reverse, bidirectional")
    count = 2 if direction == "bidirectional" else 1
    if x.type.rank != 3 or call.rank(1) != 3 or call.rank(2) != 3:
        call.fail("X, W and R must have rank 3")
    hidden = call.shape(2)[2] if hidden is None else hidden
    if not isinstance(hidden, int):
        call.fail(f"hidden size {hidden} is symbolic; give shapes=")
    _check_weights(call, x.type.shape[2], hidden, count)
    if batch_first:
        x = b.transpose_to(x, (1, 0, 2))
    lengths = _lengths(call, x.type.shape[0])
    state_count = 2 if kind == "LSTM" else 1
    runs = []
    for k in range(count):
        reverse = direction == "reverse" or k == 1
        runs.append(_direction(call, x, k, hidden, count, state_count, lengths, reverse, batch_first))
    y = b.concat(*(b.reshape_to(r[0], _insert(r[0], 1)) for r in runs), axis=1)
    finals = [
        b.concat(*(b.reshape_to(r[1 + s], _insert(r[1 + s], 0)) for r in runs), axis=0) for s in range(state_count)
    ]
    if batch_first:
        return [b.transpose_to(y, (2, 0, 1, 3)), *(b.transpose_to(s, (1, 0, 2)) for s in finals)]
    return [y, *finals]


def _insert(value: Value, axis: int) -> tuple[Dim, ...]:
    return (*value.type.shape[:axis], 1, *value.type.shape[axis:])


def _check_weights(call: Call, inputs: Dim, hidden: Any, count: int) -> None:
    rows = _GATES[call.op_type] * hidden
    wanted: dict[int, tuple[Dim, ...]] = {1: (count, rows, inputs), 2: (count, rows, hidden)}
    if call.has(3):
        wanted[3] = (count, 2 * rows)
    for index, shape in wanted.items():
        if call.rank(index) != len(shape):
            call.fail(f"input {index} has rank {call.rank(index)}; it must have {len(shape)}")
        call.unify_shapes(call.shape(index), shape, f"input {index} must have shape {list(shape)}")


def _lengths(call: Call, time: Dim) -> Value | None:
    """Return the sequence lengths, None where all are the full length."""
    if not call.has(4):
        return None
    known = call.known(4)
    if known is not None and all(v == time for v in known.reshape(-1)):
        return None
    return call.b.cast_to(call.value(4), int64)


def _direction(
    call: Call, x: Value, k: int, hidden: int, count: int, states: int, lengths: Any, reverse: bool, batch_first: bool
) -> Sequence[Value]:
    b, kind = call.b, call.op_type
    gates, dtype = _GATES[kind], x.type.dtype
    w, r = _pick(call, 1, k), _pick(call, 2, k)
    if call.has(3):
        bias = _pick(call, 3, k)
        w_bias, r_bias = (cut(call, bias, 0, s * gates * hidden, (s + 1) * gates * hidden) for s in range(2))
    else:
        w_bias = r_bias = b.full((gates * hidden,), 0, dtype)
    start = []
    for index in range(5, 5 + states):
        if call.has(index) and batch_first:
            initial = b.transpose_to(call.value(index), (1, 0, 2))
            part = cut(call, initial, 0, k, k + 1)
            start.append(b.reshape_to(part, part.type.shape[1:]))
        else:
            start.append(_pick(call, index, k) if call.has(index) else b.full((x.type.shape[1], hidden), 0, dtype))
    peepholes = _pick(call, 7, k) if kind == "LSTM" and call.has(7) else None
    names, functions = _functions(call, k, count)
    layer = Layer(w, r, w_bias, r_bias, peepholes, start, names, functions, reverse)
    usual = names == _DEFAULTS[kind] or names == ("Relu",)
    plain = peepholes is None and lengths is None and "clip" not in call.attributes and not call.flag("input_forget")
    if usual and plain:
        return _as_layer(call, x, layer, hidden)
    return _as_scan(call, x, layer, hidden, lengths)


def _as_layer(call: Call, x: Value, layer: Layer, hidden: int) -> Sequence[Value]:
    """Emit the composite; ONNX orders an LSTM's gates i, o, f, c and a GRU's z, r, h."""
    b = call.b
    order = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}[call.op_type]
    w, r, w_bias, r_bias = (_rows(call, v, order, hidden) for v in (layer.w, layer.r, layer.w_bias, layer.r_bias))
    match call.op_type:
        case "LSTM":
            return b.lstm(x, w, r, b.add(w_bias, r_bias), *layer.states, reverse=layer.reverse)
        case "GRU":
            linear = call.flag("linear_before_reset")
            return b.gru(x, w, r, w_bias, r_bias, *layer.states, reverse=layer.reverse, linear_before_reset=linear)
    activation = layer.activations[0].lower()
    return b.rnn(x, w, r, b.add(w_bias, r_bias), *layer.states, reverse=layer.reverse, activation=activation)


def _reverse_sequences(b: Builder, x: Value, lengths: Value) -> Value:
    """Reverse the first ``lengths`` elements of every sequence along dimension 0."""
    shape = x.type.shape
    places = b.iota(shape=shape, axis=0, dtype=int64)
    limit = b.broadcast(lengths, shape=shape, dims=(1,))
    return b.gather_elements(x, b.where(b.less(places, limit), b.sub(b.sub(limit, 1), places), places), axis=0)


def _as_scan(call: Call, x: Value, layer: Layer, hidden: int, lengths: Value | None) -> Sequence[Value]:
    """Emit the recurrence step by step: any activations, clipping, peepholes and sequence lengths."""
    b = call.b
    flip = layer.reverse and lengths is not None
    if flip and lengths is not None:
        x = _reverse_sequences(b, x, lengths)
    projected = b.matmul(x, b.transpose_to(layer.w, (1, 0)))
    projected = b.add(projected, b.broadcast_to(layer.w_bias, projected.type.shape))
    sequences = [projected, b.iota(shape=(x.type.shape[0],), axis=0, dtype=int64)]
    constants = [
        layer.r,
        layer.r_bias,
        *([layer.peepholes] if layer.peepholes else []),
        *([lengths] if lengths else []),
    ]
    inner = Builder(f"{call.label}_step")
    with inner.origin(*b.current_origins):
        states = [inner.input(f"state{k}", v.type) for k, v in enumerate(layer.states)]
        gates, step = (
            inner.input(f"slice{k}", TensorType(v.type.dtype, v.type.shape[1:])) for k, v in enumerate(sequences)
        )
        fixed = [inner.input(f"constant{k}", v.type) for k, v in enumerate(constants)]
        peepholes = fixed[2] if layer.peepholes is not None else None
        after = _STEPS[call.op_type](call, inner, layer, states, gates, fixed[0], fixed[1], peepholes, hidden)
        y = after[0]
        if lengths is not None:
            running = inner.less(inner.broadcast_to(step, fixed[-1].type.shape), fixed[-1])
            mask = inner.broadcast(running, shape=y.type.shape, dims=(0,))
            after = [inner.where(mask, new, old) for new, old in zip(after, states, strict=True)]
            y = inner.where(mask, y, inner.zeros_like(y))
    for number, value in enumerate([*after, y]):
        inner.output(f"o{number}", value)
    attributes = {
        "body": inner.finish(),
        "carries": len(states),
        "sequences": 2,
        "reverse": layer.reverse and not flip,
    }
    *finals, y = b.emit("scan", [*layer.states, *sequences, *constants], attributes)
    if flip and lengths is not None:
        y = _reverse_sequences(b, y, lengths)
    return [y, *finals]


def _clipped(call: Call, b: Builder, x: Value) -> Value:
    clip = call.real("clip", 0.0)
    return b.maximum(b.minimum(x, clip), -clip) if clip > 0 else x


def _split(b: Builder, value: Value, hidden: int) -> list[Value]:
    axis = value.type.rank - 1
    parts = []
    for k in range(int(value.type.shape[axis]) // hidden):  # type: ignore[arg-type]
        starts = (0,) * axis + (k * hidden,)
        parts.append(b.slice(value, starts=starts, limits=(*value.type.shape[:axis], (k + 1) * hidden)))
    return parts


def _recurrent(b: Builder, h: Value, r: Value, bias: Value) -> Value:
    product = b.matmul(h, b.transpose_to(r, (1, 0)))
    return b.add(product, b.broadcast_to(bias, product.type.shape))


def _lstm_step(
    call: Call, b: Builder, layer: Layer, states: Any, gates: Value, r: Value, bias: Value, p: Any, hidden: int
) -> list[Value]:
    h, c = states
    f_gate, f_cell, f_hidden = layer.functions
    i, o, f, g = _split(b, b.add(gates, _recurrent(b, h, r, bias)), hidden)
    if p is not None:
        p_i, p_o, p_f = (b.broadcast_to(v, c.type.shape) for v in _split(b, p, hidden))
        i, f = b.add(i, b.mul(p_i, c)), b.add(f, b.mul(p_f, c))
    i, f, g = (_clipped(call, b, v) for v in (i, f, g))
    i = f_gate(b, i)
    f = b.sub(1.0, i) if call.flag("input_forget") else f_gate(b, f)
    c = b.add(b.mul(f, c), b.mul(i, f_cell(b, g)))
    o = f_gate(b, _clipped(call, b, o if p is None else b.add(o, b.mul(p_o, c))))
    return [b.mul(o, f_hidden(b, c)), c]


def _gru_step(
    call: Call, b: Builder, layer: Layer, states: Any, gates: Value, r: Value, bias: Value, p: Any, hidden: int
) -> list[Value]:
    (h,) = states
    f_gate, f_hidden = layer.functions
    z, reset, new = _split(b, gates, hidden)
    r_z, r_r, r_n = (b.slice(r, starts=(k * hidden, 0), limits=((k + 1) * hidden, hidden)) for k in range(3))
    b_z, b_r, b_n = _split(b, bias, hidden)
    z = f_gate(b, _clipped(call, b, b.add(z, _recurrent(b, h, r_z, b_z))))
    reset = f_gate(b, _clipped(call, b, b.add(reset, _recurrent(b, h, r_r, b_r))))
    if call.flag("linear_before_reset"):
        own = b.mul(reset, _recurrent(b, h, r_n, b_n))
    else:
        own = _recurrent(b, b.mul(reset, h), r_n, b_n)
    new = f_hidden(b, _clipped(call, b, b.add(new, own)))
    return [b.add(b.mul(b.sub(1.0, z), new), b.mul(z, h))]


def _rnn_step(
    call: Call, b: Builder, layer: Layer, states: Any, gates: Value, r: Value, bias: Value, p: Any, hidden: int
) -> list[Value]:
    total = b.add(gates, _recurrent(b, states[0], r, bias))
    return [layer.functions[0](b, _clipped(call, b, total))]


_STEPS: dict[str, Callable[..., list[Value]]] = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}
