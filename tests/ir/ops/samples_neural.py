"""Samples of layers, losses, optimizer updates and random numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlc.ir.types import float32, float64
from tests.ir.ops.samples import Draw, Sample, both, sampler


@sampler("softmax", "log_softmax")
def softmax(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, axis in (((3, 7), -1), ((2, 5, 3), 1), ((4,), 0), ((3, 1), 1), ((0, 4), 1)):
        yield from both(name, draw.normal(*shape, scale=3.0), axis=axis)
    yield from both(name, draw.normal(3, 5, scale=1e4))


@sampler("logsumexp")
def logsumexp(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 7))
    yield from both(name, draw.normal(2, 5, 3, scale=3.0), axes=(0, -1))
    yield from both(name, draw.normal(2, 5, scale=1e4), axes=1, keepdims=True)
    yield Sample(name, (np.array([[-np.inf, -np.inf], [0.0, -np.inf]], np.float32),), {"axes": 1}, differentiable=())


@sampler("layer_norm")
def layer_norm(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 7) + np.float32(100), draw.normal(7), draw.normal(7), tolerance=1e-4)
    yield from both(name, draw.normal(2, 4, 5), draw.normal(4, 5), draw.normal(4, 5), axes=(1, 2), epsilon=1e-3)
    yield from both(name, draw.normal(3, 4), draw.normal(3), draw.normal(3), axes=0)


@sampler("standardize")
def standardize(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 7) + np.float32(100), tolerance=1e-4)
    yield from both(name, draw.normal(2, 4, 5), axes=(0, 1), epsilon=1e-3)
    yield from both(name, draw.normal(3, 4), axes=0)


@sampler("rms_norm")
def rms_norm(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 7, scale=5.0), draw.normal(7))
    yield from both(name, draw.normal(2, 4, 5), draw.normal(4, 5), axes=(1, 2))


@sampler("group_norm")
def group_norm(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 6, 5), draw.normal(6), draw.normal(6), groups=3)
    yield from both(name, draw.normal(2, 3, 3, 4), draw.normal(4), draw.normal(4), groups=2, channel_axis=-1)
    yield from both(name, draw.normal(2, 4, 3), draw.normal(4), draw.normal(4), groups=4)


@sampler("batch_norm")
def batch_norm(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, axis in (((4, 3, 5), 1), ((6, 3), 1), ((2, 3, 4, 5), -1)):
        c = shape[axis]
        stats = draw.normal(c), draw.normal(c), draw.normal(c), draw.uniform(0.5, 2.0, c)
        yield from both(name, draw.normal(*shape), *stats, axis=axis, momentum=0.3)


@sampler("local_response_norm")
def local_response_norm(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 7, 3), size=3, alpha=0.5)
    yield from both(name, draw.normal(2, 3, 6), size=4, alpha=0.5, beta=0.6, bias=2.0, axis=-1)
    yield from both(name, draw.normal(2, 5), size=3, alpha=0.5, beta=0.5, axis=-1)
    yield from both(name, draw.normal(2, 5), size=3, alpha=-0.01, beta=0.25, axis=-1)
    yield from both(name, draw.normal(2, 5), size=2, alpha=0.5, beta=0.25, axis=0)


@sampler("lp_norm")
def lp_norm(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 5))
    yield from both(name, draw.normal(3, 5), p=1, axis=0)
    yield Sample(name, (np.zeros((2, 3), np.float32),), differentiable=())


@sampler("max_pool", "avg_pool")
def pool(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 3, 6, 5), window=2)
    yield from both(name, draw.normal(1, 2, 7, 8), window=(3, 2), strides=(2, 1), padding=((1, 1), (0, 1)))
    yield from both(name, draw.normal(1, 2, 7, 8), window=3, strides=2, padding=1, ceil_mode=True)
    yield from both(name, draw.normal(1, 7, 8, 2), window=3, strides=2, padding=1, dilations=2, axes=(1, 2))
    yield from both(name, draw.normal(2, 2, 8), window=2, strides=3, ceil_mode=True)
    yield from both(name, draw.normal(0, 2, 4), window=2)
    if name == "avg_pool":
        yield from both(name, draw.normal(1, 2, 7, 8), window=3, strides=2, padding=1, count_include_pad=False)
        yield from both(
            name, draw.normal(1, 1, 7, 8), window=3, strides=2, padding=1, ceil_mode=True, count_include_pad=False
        )
    else:
        yield Sample(name, (draw.integers(-9, 9, 1, 1, 5),), {"window": 3, "strides": 1, "padding": 1})


@sampler("attention")
def attention(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 3, 4, 5), draw.normal(2, 3, 6, 5), draw.normal(2, 3, 6, 7))
    yield from both(name, draw.normal(2, 4, 5), draw.normal(2, 4, 5), draw.normal(2, 4, 5), causal=True, scale=0.3)
    mask = draw.bools(2, 1, 6)
    mask[..., 0] = True
    yield from both(name, draw.normal(2, 4, 5), draw.normal(6, 5), draw.normal(6, 7), mask)
    yield from both(name, draw.normal(4, 5), draw.normal(6, 5), draw.normal(6, 3), draw.normal(4, 6))


def _layer(draw: Draw, gates: int, biases: int, states: int) -> list[np.ndarray]:
    t, n, i, h = 4, 2, 3, 5
    arrays = [draw.normal(t, n, i), draw.normal(gates * h, i), draw.normal(gates * h, h, scale=0.5)]
    arrays += [draw.normal(gates * h) for _ in range(biases)]
    return arrays + [draw.normal(n, h) for _ in range(states)]


@sampler("lstm")
def lstm(name: str, draw: Draw) -> Iterator[Sample]:
    for backwards in (False, True):
        yield from both(name, *_layer(draw, 4, 1, 2), reverse=backwards)


@sampler("gru")
def gru(name: str, draw: Draw) -> Iterator[Sample]:
    for backwards, linear in ((False, True), (True, True), (False, False)):
        yield from both(name, *_layer(draw, 3, 2, 1), reverse=backwards, linear_before_reset=linear)


@sampler("rnn")
def rnn(name: str, draw: Draw) -> Iterator[Sample]:
    for backwards, activation in ((False, "tanh"), (True, "relu")):
        yield from both(name, *_layer(draw, 1, 1, 1), reverse=backwards, activation=activation)


@sampler("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "bce_with_logits")
def pair_loss(name: str, draw: Draw) -> Iterator[Sample]:
    for reduction, shape in (("mean", (3, 5)), ("sum", (7,)), ("none", (2, 3)), ("mean", ())):
        target = draw.uniform(0, 1, *shape) if name == "bce_with_logits" else draw.normal(*shape)
        yield from both(name, draw.normal(*shape, scale=2.0), target, reduction=reduction)
    if name == "bce_with_logits":
        yield from both(name, draw.normal(3, 4, scale=1e4), draw.uniform(0, 1, 3, 4))
    if name == "smooth_l1_loss":
        yield from both(name, draw.normal(9), draw.normal(9), beta=0.3)
        yield from both(name, draw.normal(9), draw.normal(9), beta=0.0)
    if name == "huber_loss":
        yield from both(name, draw.normal(9), draw.normal(9), delta=0.4)


@sampler("nll_loss", "cross_entropy")
def class_loss(name: str, draw: Draw) -> Iterator[Sample]:
    for reduction in ("mean", "sum", "none"):
        labels = draw.integers(0, 4, 5)
        labels[1] = -100
        yield from both(name, draw.normal(5, 4, scale=3.0), labels, reduction=reduction)
    yield from both(name, draw.normal(2, 3, 4), draw.integers(0, 3, 2, 4, dtype=np.uint8))
    yield from both(name, draw.normal(2, 4, 3), draw.integers(0, 3, 2, 4, dtype=np.int32), axis=-1)
    yield from both(name, draw.normal(3), np.array(1))
    yield Sample(name, (draw.normal(2, 300), np.array([44, 200], np.uint8)))
    if name == "cross_entropy":
        yield from both(name, draw.normal(5, 4, scale=1e4), draw.integers(0, 4, 5))
        yield from both(name, draw.normal(5, 4), draw.integers(0, 4, 5), label_smoothing=0.1)
        yield from both(name, draw.normal(5, 4), draw.uniform(0, 1, 5, 4), label_smoothing=0.1)


@sampler("sgd_update")
def sgd(name: str, draw: Draw) -> Iterator[Sample]:
    for step in (1, 4):
        for attributes in (
            {}, {"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.2}, {"momentum": 0.9, "nesterov": True},
        ):  # fmt: skip
            operands = draw.normal(3, 5), draw.normal(3, 5), draw.normal(3, 5), np.array(0.05), np.array(step)
            yield from both(name, *operands, **attributes)


@sampler("adam_update", "adamw_update")
def adam(name: str, draw: Draw) -> Iterator[Sample]:
    for step in (1, 1000):
        for amsgrad in (False, True):
            states = [draw.normal(3, 5), draw.uniform(0.1, 1, 3, 5)] + [draw.uniform(0.1, 1, 3, 5)] * amsgrad
            operands = draw.normal(3, 5), draw.normal(3, 5), *states, np.array(0.05), np.array(step)
            yield from both(name, *operands, amsgrad=amsgrad, weight_decay=0.1)


_KEY = np.array([0x243F6A88, 0x85A308D3], np.uint32)


@sampler("key_next")
def key_next(name: str, draw: Draw) -> Iterator[Sample]:
    yield Sample(name, (_KEY,))


@sampler("random_uniform", "random_normal")
def random(name: str, draw: Draw) -> Iterator[Sample]:
    for shape, stream, dtype in (((5, 7), 0, float32), ((33,), 9, float64), ((), 3, float32), ((0,), 1, float32)):
        yield Sample(name, (_KEY,), {"shape": shape, "stream": stream, "dtype": dtype})


@sampler("dropout")
def dropout(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(5, 7), _KEY, rate=0.3, stream=2)
    yield from both(name, draw.normal(5, 7), _KEY, rate=1.0)
