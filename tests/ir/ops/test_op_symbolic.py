"""Ops with symbolic dimensions: types, expansions and gradients are built once and bound later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Graph, Value
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.types import bool_, float64, int64, tensor_type, uint32
from dlc.passes.autodiff.autodiff import gradients
from dlc.passes.bind import bind
from dlc.passes.expand import ExpandOptions, expand

SIZES = {"n": 4, "h": 6, "w": 7, "s": 5, "t": 3}
_DTYPES = {"f": float64, "i": int64, "b": bool_, "k": uint32}
Build = Callable[..., Any]

CASES: dict[str, tuple[Build, tuple[str, ...]]] = {
    "reshape": (lambda b, x: b.reshape(x, shape=(-1, 12)), ("f n 3 4",)),
    "reshape split": (lambda b, x: b.reshape(x, shape=(-1, 2, 6)), ("f n 12",)),
    "transpose": (lambda b, x: b.transpose(x), ("f n 3 s",)),
    "slice": (lambda b, x: b.slice(x, starts=(1, 0), limits=x.type.shape, strides=(2, 3)), ("f n s",)),
    "pad": (lambda b, x: b.pad(x, b.constant(0.0, float64), low=(1, 0), high=(-1, 2), interior=(0, 1)), ("f n s",)),
    "concat": (lambda b, x, y: b.concat(x, y, axis=0), ("f n 3", "f s 3")),
    "reverse": (lambda b, x: b.reverse(x, axes=0), ("f n 3",)),
    "reduce_sum": (lambda b, x: b.reduce_sum(x, axes=0), ("f n s",)),
    "reduce_max": (lambda b, x: b.reduce_max(x, axes=1, keepdims=True), ("f n s",)),
    "cumsum": (lambda b, x: b.cumsum(x, axis=0), ("f n s",)),
    "matmul": (lambda b, x, y: b.matmul(x, y), ("f n s 3", "f 3 4")),
    "matmul batched": (lambda b, x, y: b.matmul(x, y), ("f n s 3", "f n 3 t")),
    "einsum": (lambda b, x, y: b.einsum(x, y, equation="bij,bkj->bik"), ("f n s 3", "f n t 3")),
    "conv": (lambda b, x, w: b.conv(x, w, strides=2, padding=1), ("f n 4 h w", "f 6 4 3 3")),
    "conv grouped": (lambda b, x, w: b.conv(x, w, groups=2, padding=1), ("f n 4 h w", "f 6 2 3 3")),
    "conv_transpose": (lambda b, x, w: b.conv_transpose(x, w, strides=2, padding=1), ("f n 2 h", "f 2 3 3")),
    "max_pool": (lambda b, x: b.max_pool(x, window=3, strides=2, padding=1), ("f n 2 h w",)),
    "avg_pool": (lambda b, x: b.avg_pool(x, window=3, strides=2, padding=1, count_include_pad=False), ("f n 2 h w",)),
    "softmax": (lambda b, x: b.softmax(x), ("f n s",)),
    "logsumexp": (lambda b, x: b.logsumexp(x), ("f n s",)),
    "layer_norm": (lambda b, x, g, c: b.layer_norm(x, g, c), ("f n s 3", "f 3", "f 3")),
    "layer_norm open": (lambda b, x, g, c: b.layer_norm(x, g, c), ("f n s", "f s", "f s")),
    "group_norm": (lambda b, x, g, c: b.group_norm(x, g, c, groups=2), ("f n 4 h", "f 4", "f 4")),
    "batch_norm": (lambda b, *v: b.batch_norm(*v)[0], ("f n 2 h w", "f 2", "f 2", "f 2", "f 2")),
    "cross_entropy": (lambda b, x, y: b.cross_entropy(x, y, label_smoothing=0.1), ("f n 5", "i n")),
    "mse_loss": (lambda b, x, y: b.mse_loss(x, y), ("f n s", "f n s")),
    "gather": (lambda b, x, i: b.gather(x, i, axis=0), ("f 5 3", "i n s")),
    "gather_elements": (lambda b, x, i: b.gather_elements(x, i, axis=1), ("f n 5", "i n s")),
    "one_hot": (lambda b, i, x: b.mul(b.one_hot(i, depth=5, dtype=float64), x), ("i n s", "f n s 5")),
    "attention": (lambda b, *v: b.attention(*v, causal=True), ("f n 2 s 4", "f n 2 s 4", "f n 2 s 4")),
    "attention masked": (lambda b, *v: b.attention(*v), ("f n 2 s 4", "f n 2 t 4", "f n 2 t 4", "b n 1 1 t")),
    "lstm": (lambda b, *v: b.lstm(*v)[0], ("f t n 3", "f 16 3", "f 16 4", "f 16", "f n 4", "f n 4")),
    "gru": (lambda b, *v: b.gru(*v)[0], ("f t n 3", "f 12 3", "f 12 4", "f 12", "f 12", "f n 4")),
    "dropout": (lambda b, x, k: b.dropout(x, k), ("f n s", "k 2")),
    "where": (lambda b, c, x: b.where(c, x, 0.0), ("b n s", "f n s")),
    "dimension": (lambda b, x: b.mul(x, b.cast_to(b.dimension(size=x.type.shape[0] * 2), float64)), ("f n 3",)),
}


def build(name: str, symbolic: bool) -> Graph:
    function, operands = CASES[name]
    b = Builder(name)
    values = []
    for k, text in enumerate(operands):
        kind, *dims = text.split()
        shape = [int(d) if d.isdigit() else symbol(d) if symbolic else SIZES[d] for d in dims]
        values.append(b.input(f"x{k}", tensor_type(_DTYPES[kind], shape)))
    y: Value = function(b, *values)
    b.output("y", y)
    weight = b.cos(b.cast_to(b.iota(shape=y.type.shape, axis=0), float64)) if y.type.rank else 1.0
    floats = [v for v in values if v.type.dtype is float64]
    found = gradients(b, b.reduce_sum(b.mul(y, weight)), floats, mode=Mode.TRAINING)
    for k, gradient in enumerate(found):
        if gradient is not None:
            b.output(f"g{k}", gradient)
    return expand(b.finish(), ExpandOptions(Mode.TRAINING))


@pytest.mark.parametrize("name", CASES)
def test_symbolic_equals_concrete(name: str) -> None:
    rng = np.random.default_rng(5)
    feeds: dict[str, np.ndarray] = {}
    for k, text in enumerate(CASES[name][1]):
        kind, *dims = text.split()
        shape = [int(d) if d.isdigit() else SIZES[d] for d in dims]
        feeds[f"x{k}"] = {
            "f": lambda s: rng.standard_normal(s) + 0.1,
            "i": lambda s: rng.integers(0, 5, s),
            "b": lambda s: np.arange(np.prod(s)).reshape(s) % 3 != 1,
            "k": lambda s: np.array([3, 4], np.uint32),
        }[kind](shape)
    graph = build(name, symbolic=True)
    assert any(not v.type.is_static for v in graph.inputs)
    bound = bind(graph, SIZES)
    results, expected = interpret(bound, feeds), interpret(build(name, symbolic=False), feeds)
    assert results.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(results[key], array, rtol=1e-12, atol=1e-12, err_msg=f"{name} {key}")
