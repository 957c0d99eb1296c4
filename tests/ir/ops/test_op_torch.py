"""Layers, losses and optimizers against PyTorch: results and gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.types import float64, tensor_type
from dlc.passes.autodiff.autodiff import gradients

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
F = torch.nn.functional
RNG = np.random.default_rng(20)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return RNG.standard_normal(shape) * scale


def agree(actual: np.ndarray, expected: Any, label: str = "", tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=tolerance, atol=1e-10, err_msg=label)


def compare(
    ours: Callable[..., Value | Sequence[Value]],
    theirs: Callable[..., Any],
    *arrays: np.ndarray,
    mode: Mode = Mode.TRAINING,
    tolerance: float = 1e-9,
) -> None:
    """Compare the results, and the gradients of one random combination of the float results."""
    b = Builder()
    inputs = [b.input(f"x{k}", tensor_type(a.dtype, a.shape)) for k, a in enumerate(arrays)]
    results = ours(b, *inputs)
    results = [results] if isinstance(results, Value) else list(results)
    tensors = [torch.tensor(a, requires_grad=a.dtype == np.float64) for a in arrays]
    expected = theirs(*tensors)
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    total: Value = b.constant(0.0, float64)
    their_total = torch.zeros((), dtype=torch.float64)
    for k, (value, tensor) in enumerate(zip(results, expected, strict=True)):
        b.output(f"y{k}", value)
        if tensor.requires_grad:
            weights = normal(*tensor.shape)
            total = b.add(total, b.reduce_sum(b.mul(value, b.constant(weights))))
            their_total = their_total + (tensor * torch.tensor(weights)).sum()
    floats = [k for k, a in enumerate(arrays) if a.dtype == np.float64]
    their_total.backward()
    for k, gradient in zip(floats, gradients(b, total, [inputs[k] for k in floats], mode=mode), strict=True):
        b.output(f"g{k}", gradient if gradient is not None else b.zeros_like(inputs[k]))
    found = interpret(b.finish(), {f"x{k}": a for k, a in enumerate(arrays)}, mode)
    for k, tensor in enumerate(expected):
        agree(found[f"y{k}"], tensor, f"result {k}", tolerance)
    for k in floats:
        grad = tensors[k].grad
        agree(found[f"g{k}"], torch.zeros_like(tensors[k]) if grad is None else grad, f"gradient {k}", tolerance)


KINKS = np.array([-6.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 40.0, -40.0])
ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "relu": (lambda b, x: b.relu(x), torch.relu),
    "relu6": (lambda b, x: b.hard_tanh(x, low=0.0, high=6.0), F.relu6),
    "leaky_relu": (lambda b, x: b.leaky_relu(x), F.leaky_relu),
    "elu": (lambda b, x: b.elu(x, alpha=0.7), lambda x: F.elu(x, 0.7)),
    "selu": (lambda b, x: b.selu(x), F.selu),
    "celu": (lambda b, x: b.celu(x, alpha=0.7), lambda x: F.celu(x, 0.7)),
    "gelu": (lambda b, x: b.gelu(x), F.gelu),
    "gelu tanh": (lambda b, x: b.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (lambda b, x: b.silu(x), F.silu),
    "mish": (lambda b, x: b.mish(x), F.mish),
    "softplus": (lambda b, x: b.softplus(x, beta=2.0), lambda x: F.softplus(x, 2.0)),
    "softsign": (lambda b, x: b.softsign(x), F.softsign),
    "log_sigmoid": (lambda b, x: b.log_sigmoid(x), F.logsigmoid),
    "hard_sigmoid": (lambda b, x: b.hard_sigmoid(x), F.hardsigmoid),
    "hard_tanh": (lambda b, x: b.hard_tanh(x), F.hardtanh),
    "clamp": (lambda b, x: b.clamp(x, low=-1.0, high=1.0), lambda x: x.clamp(-1.0, 1.0)),
    "sigmoid": (lambda b, x: b.sigmoid(x), torch.sigmoid),
    "abs": (lambda b, x: b.abs(x), torch.abs),
    "softmax": (lambda b, x: b.softmax(x), lambda x: F.softmax(x, -1)),
    "log_softmax": (lambda b, x: b.log_softmax(x), lambda x: F.log_softmax(x, -1)),
    "logsumexp": (lambda b, x: b.logsumexp(x), lambda x: torch.logsumexp(x, 0)),
    "amax": (lambda b, x: b.reduce_max(b.abs(x)), lambda x: x.abs().amax()),
    "cumsum": (lambda b, x: b.cumsum(x, axis=0), lambda x: x.cumsum(0)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    ours, theirs = ACTIVATIONS[name]
    # PyTorch computes these two with constants rounded to float32.
    tolerance = 1e-6 if name in ("celu", "hard_sigmoid") else 1e-9
    compare(ours, theirs, KINKS, tolerance=tolerance)
    compare(ours, theirs, normal(11, scale=4.0), tolerance=tolerance)


def test_hard_swish() -> None:
    # At the kinks PyTorch takes one-sided slopes of x * relu6(x + 3) / 6, not those of its hardsigmoid.
    compare(lambda b, x: b.hard_swish(x), F.hardswish, normal(30, scale=4.0))


def test_prelu() -> None:
    compare(lambda b, x, w: b.prelu(x, b.reshape(w, shape=(3, 1))), F.prelu, normal(2, 3, 5), normal(3))


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"stride": 2, "padding": 1}, {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
        {"groups": 2, "padding": 1}, {"groups": 4, "stride": 2},
    ],
)  # fmt: skip
def test_conv(settings: dict) -> None:
    groups = settings.get("groups", 1)
    names = {"stride": "strides", "dilation": "dilations"}
    attributes = {names.get(k, k): v for k, v in settings.items()}
    compare(
        lambda b, x, w: b.conv(x, w, **attributes), lambda x, w: F.conv2d(x, w, **settings),
        normal(2, 4, 8, 7), normal(8, 4 // groups, 3, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "stride": 3, "dilation": 2}],
)
def test_conv_transpose(settings: dict) -> None:
    groups = settings.get("groups", 1)
    names = {"stride": "strides", "dilation": "dilations"}
    attributes = {names.get(k, k): v for k, v in settings.items()}
    compare(
        lambda b, x, w: b.conv_transpose(x, w, **attributes), lambda x, w: F.conv_transpose2d(x, w, **settings),
        normal(2, 4, 5, 4), normal(4, 6 // groups, 3, 3),
    )  # fmt: skip


def test_max_pool_ties_go_to_the_first() -> None:
    x = np.round(normal(2, 3, 9, 8))  # many ties
    for settings in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}):
        compare(
            lambda b, v, s=settings: b.max_pool(
                v, window=s["kernel_size"], strides=s.get("stride"), padding=s.get("padding", 0),
                ceil_mode=s.get("ceil_mode", False),
            ),
            lambda v, s=settings: F.max_pool2d(v, **s), x,
        )  # fmt: skip


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_avg_pool(count_include_pad: bool, ceil_mode: bool) -> None:
    for window, stride, padding in ((3, 2, 1), (2, 3, 0), (3, 3, 1), (2, 2, 1)):
        compare(
            lambda b, v, w=window, s=stride, p=padding: b.avg_pool(
                v, window=w, strides=s, padding=p, ceil_mode=ceil_mode, count_include_pad=count_include_pad
            ),
            lambda v, w=window, s=stride, p=padding: F.avg_pool2d(v, w, s, p, ceil_mode, count_include_pad),
            normal(2, 3, 7, 8),
        )


def test_norms() -> None:
    compare(
        lambda b, x, s, t: b.layer_norm(x, s, t, axes=(1, 2)), lambda x, s, t: F.layer_norm(x, (4, 5), s, t),
        normal(3, 4, 5), normal(4, 5), normal(4, 5),
    )  # fmt: skip
    compare(
        lambda b, x, s: b.rms_norm(x, s, epsilon=1e-6),
        lambda x, s: F.rms_norm(x, (5,), s, 1e-6),
        normal(3, 5),
        normal(5),
    )
    compare(
        lambda b, x, s, t: b.group_norm(x, s, t, groups=3), lambda x, s, t: F.group_norm(x, 3, s, t),
        normal(2, 6, 3, 4), normal(6), normal(6),
    )  # fmt: skip
    compare(
        lambda b, x: b.local_response_norm(x, size=3, alpha=0.2), lambda x: F.local_response_norm(x, 3, 0.2),
        normal(2, 6, 3, 4),
    )  # fmt: skip
    compare(lambda b, x: b.lp_norm(x, axis=1), lambda x: F.normalize(x, dim=1), normal(3, 5))


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(training: bool) -> None:
    def theirs(x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> tuple:
        mean, variance = mean.detach().clone(), variance.detach().clone()
        y = F.batch_norm(x, mean, variance, scale, bias, training, 0.3, 1e-3)
        return y, mean, variance

    compare(
        lambda b, *v: b.batch_norm(*v, momentum=0.3, epsilon=1e-3), theirs,
        normal(4, 3, 5, 2), normal(3), normal(3), normal(3), np.abs(normal(3)) + 0.5,
        mode=Mode.TRAINING if training else Mode.INFERENCE,
    ) if training else _inference_batch_norm(theirs)  # fmt: skip


def _inference_batch_norm(theirs: Callable) -> None:
    arrays = normal(4, 3, 5, 2), normal(3), normal(3), normal(3), np.abs(normal(3)) + 0.5
    b = Builder()
    inputs = [b.input(f"x{k}", tensor_type(a.dtype, a.shape)) for k, a in enumerate(arrays)]
    for k, value in enumerate(b.batch_norm(*inputs, momentum=0.3, epsilon=1e-3)):
        b.output(f"y{k}", value)
    found = interpret(b.finish(), {f"x{k}": a for k, a in enumerate(arrays)}, Mode.INFERENCE)
    for k, tensor in enumerate(theirs(*(torch.tensor(a) for a in arrays))):
        agree(found[f"y{k}"], tensor)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(reduction: str) -> None:
    x, y = normal(6, 4, scale=2.0), normal(6, 4)
    pairs = {
        "mse_loss": F.mse_loss, "l1_loss": F.l1_loss, "smooth_l1_loss": F.smooth_l1_loss, "huber_loss": F.huber_loss,
    }  # fmt: skip
    for name, theirs in pairs.items():
        compare(
            lambda b, p, q, n=name: b.call(n, p, q, reduction=reduction),
            lambda p, q, t=theirs: t(p, q, reduction=reduction), x, y,
        )  # fmt: skip
    compare(
        lambda b, p, q: b.bce_with_logits(p, q, reduction=reduction),
        lambda p, q: F.binary_cross_entropy_with_logits(p, q, reduction=reduction), x * 1e3, RNG.random((6, 4)),
    )  # fmt: skip
    labels = np.array([0, 3, -100, 1, 2, 2])
    for smoothing in (0.0, 0.1):
        for target in (labels, RNG.dirichlet(np.ones(4), 6)):
            compare(
                lambda b, p, q, s=smoothing: b.cross_entropy(p, q, label_smoothing=s, reduction=reduction),
                lambda p, q, s=smoothing: F.cross_entropy(p, q, label_smoothing=s, reduction=reduction), x, target,
            )  # fmt: skip
    compare(
        lambda b, p, q: b.cross_entropy(p, q, reduction=reduction),
        lambda p, q: F.cross_entropy(p, q, reduction=reduction),
        normal(2, 4, 3, 2, scale=1e4), RNG.integers(0, 4, (2, 3, 2)),
    )  # fmt: skip
    compare(
        lambda b, p, q: b.nll_loss(p, q, reduction=reduction),
        lambda p, q: F.nll_loss(p, q, reduction=reduction),
        x,
        labels,
    )


def test_attention() -> None:
    q, k, v = normal(2, 3, 4, 5), normal(2, 3, 4, 5), normal(2, 3, 4, 6)
    attend = F.scaled_dot_product_attention
    compare(lambda b, *x: b.attention(*x), attend, q, k, v)
    compare(lambda b, *x: b.attention(*x, causal=True), lambda *x: attend(*x, is_causal=True), q, k, v)
    compare(lambda b, *x: b.attention(*x, scale=0.2), lambda *x: attend(*x, scale=0.2), q, k, v)
    mask = RNG.random((4, 4)) < 0.6
    mask[:, 0] = True
    compare(lambda b, *x: b.attention(*x), lambda q, k, v, m: attend(q, k, v, attn_mask=m), q, k, v, mask)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("backwards", [False, True])
def test_recurrent(kind: str, backwards: bool) -> None:
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    hidden, features = 3, 4
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[kind](features, hidden).double()
    x, h = normal(5, 2, features), normal(2, hidden)
    weights = [normal(gates * hidden, features), normal(gates * hidden, hidden)]
    biases = [normal(gates * hidden) for _ in range(2 if kind == "gru" else 1)]
    states = [h, normal(2, hidden)] if kind == "lstm" else [h]

    def theirs(x: Any, w_ih: Any, w_hh: Any, *rest: Any) -> list:
        given = rest[: len(biases)]
        full = given if kind == "gru" else (given[0], torch.zeros_like(given[0]))
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        begin = tuple(s[None] for s in rest[len(biases) :])
        parameters = dict(zip(names, (w_ih, w_hh, *full), strict=True))
        source = x.flip(0) if backwards else x
        y, end = torch.func.functional_call(layer, parameters, (source, begin if kind == "lstm" else begin[0]))
        end = end if kind == "lstm" else (end,)
        return [y.flip(0) if backwards else y, *(s[0] for s in end)]

    compare(lambda b, *v: b.call(kind, *v, reverse=backwards), theirs, x, *weights, *biases, *states)


OPTIMIZERS: dict[str, tuple[str, dict, Callable]] = {
    "sgd": ("sgd_update", {}, lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        "sgd_update", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    ),
    "nesterov": (
        "sgd_update", {"momentum": 0.9, "nesterov": True},
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    ),
    "adam": ("adam_update", {}, lambda p: torch.optim.Adam(p, 0.1)),
    "adam decay": (
        "adam_update", {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3},
        lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.9), 1e-3, 0.1),
    ),
    "amsgrad": ("adam_update", {"amsgrad": True}, lambda p: torch.optim.Adam(p, 0.1, amsgrad=True)),
    "adamw": ("adamw_update", {}, lambda p: torch.optim.AdamW(p, 0.1)),
    "adamw amsgrad": (
        "adamw_update", {"amsgrad": True, "weight_decay": 0.2},
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.2, amsgrad=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str) -> None:
    op, attributes, build = OPTIMIZERS[name]
    states = 1 if op == "sgd_update" else 3 if attributes.get("amsgrad") else 2
    b = Builder()
    inputs = [b.input(f"x{k}", tensor_type(float64, (4, 3))) for k in range(2 + states)]
    inputs += [b.input("lr", tensor_type(float64)), b.input("step", tensor_type("int64"))]
    for k, value in enumerate(b.call(op, *inputs, **attributes)):
        b.output(f"y{k}", value)
    graph = b.finish()
    parameter = torch.tensor(normal(4, 3), requires_grad=True)
    optimizer = build([parameter])
    ours = [parameter.detach().numpy().copy(), *(np.zeros((4, 3)) for _ in range(states))]
    for step in range(1, 11):
        gradient = normal(4, 3)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        feeds = {"x0": ours[0], "x1": gradient, **{f"x{k + 2}": s for k, s in enumerate(ours[1:])}}
        ours = list(interpret(graph, {**feeds, "lr": np.array(0.1), "step": np.array(step)}).values())
        agree(ours[0], parameter, f"step {step}")
