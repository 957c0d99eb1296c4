"""A hundred training steps of four models and three optimizers give the losses and parameters that PyTorch gives."""

import os

import numpy as np
import pytest

from dlc.frontends import models
from dlc.frontends.graph import Graph, input, losses, nn, optim, output
from dlc.training import compile_training

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
T = torch.nn

DEVICE = os.environ.get("DLC_TEST_TRAINING_DEVICE", "cpu")
STEPS = 100
BATCH = 8


class TorchLstm(T.Module):
    def __init__(self):
        super().__init__()
        self.lstm = T.LSTM(5, 12, batch_first=True)
        self.fc = T.Linear(12, 4)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


class TorchConv1D(T.Module):
    def __init__(self, out_features, in_features):
        super().__init__()
        self.weight = T.Parameter(torch.zeros(in_features, out_features))
        self.bias = T.Parameter(torch.zeros(out_features))

    def forward(self, x):
        return x @ self.weight + self.bias


class TorchBlock(T.Module):
    def __init__(self, features, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = T.LayerNorm(features), T.LayerNorm(features)
        self.attn = T.ModuleDict(
            {"c_attn": TorchConv1D(3 * features, features), "c_proj": TorchConv1D(features, features)}
        )
        self.mlp = T.ModuleDict(
            {"c_fc": TorchConv1D(4 * features, features), "c_proj": TorchConv1D(features, 4 * features)}
        )

    def forward(self, x):
        batch, length, features = x.shape
        parts = self.attn["c_attn"](self.ln_1(x)).split(features, -1)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        attended = T.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](attended.transpose(1, 2).reshape(batch, length, features))
        return x + self.mlp["c_proj"](T.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class TorchGpt(T.Module):
    def __init__(self, config):
        super().__init__()
        self.transformer = T.ModuleDict(
            {
                "wte": T.Embedding(config.vocabulary, config.features),
                "wpe": T.Embedding(config.positions, config.features),
                "h": T.ModuleList(TorchBlock(config.features, config.heads) for _ in range(config.layers)),
                "ln_f": T.LayerNorm(config.features),
            }
        )

    def forward(self, ids):
        t = self.transformer
        x = t["wte"](ids) + t["wpe"].weight[: ids.shape[1]]
        for block in t["h"]:
            x = block(x)
        return (t["ln_f"](x) @ t["wte"].weight.T).transpose(1, 2)


def layers(n):
    """The same perceptron or CNN from either library's namespace."""
    mlp = n.Sequential(n.Linear(10, 16), n.Tanh(), n.Linear(16, 16), n.ReLU(), n.Linear(16, 4))
    cnn = n.Sequential(
        n.Conv2d(2, 6, 3, padding=1, bias=False), n.BatchNorm2d(6), n.ReLU(), n.MaxPool2d(2),
        n.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), n.BatchNorm2d(8), n.ReLU(), n.AdaptiveAvgPool2d(1),
        n.Flatten(), n.Linear(8, 4),
    )  # fmt: skip
    return mlp, cnn


def case(name, dtype):
    """Return our graph, PyTorch's module, and batches of inputs and labels."""
    rng = np.random.default_rng(11)
    shapes = {"mlp": (10,), "cnn": (2, 8, 8), "lstm": (6, 5)}
    if name == "gpt":
        config = models.GptConfig(vocabulary=11, positions=9, features=16, layers=2, heads=2, dropout=0.0)
        graph = models.gpt(config, batch=BATCH, sequence=7, seed=3, dtype=dtype)
        module = TorchGpt(config)
        batches = [(rng.integers(0, 11, (BATCH, 7)), rng.integers(0, 11, (BATCH, 7))) for _ in range(5)]
        return graph, module, batches, "input_ids", -1
    with Graph(name, seed=3, dtype=dtype) as graph:
        x = input("x", (BATCH, *shapes[name]), dtype)
        if name == "lstm":
            output("logits", models.recurrent.LstmClassifier(5, 12, 1, 4)(x))
        else:
            output("logits", layers(nn)[name == "cnn"](x))
    module = TorchLstm() if name == "lstm" else layers(T)[name == "cnn"]
    batches = [(rng.standard_normal((BATCH, *shapes[name])).astype(dtype), rng.integers(0, 4, BATCH)) for _ in range(5)]
    return graph, module, batches, "x", 1


OPTIMIZERS = {
    "sgd": (optim.SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "adam": (optim.Adam(1e-3), lambda p: torch.optim.Adam(p, 1e-3)),
    "adamw": (optim.AdamW(1e-3, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.1)),
}
MORE_OPTIMIZERS = {
    "sgd plain": (optim.SGD(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "nesterov": (
        optim.SGD(0.02, momentum=0.8, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.8, nesterov=True, weight_decay=0.01),
    ),
    "dampening": (
        optim.SGD(0.02, momentum=0.8, dampening=0.3),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.8, dampening=0.3),
    ),
    "adam decay": (
        optim.Adam(1e-2, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 1e-2, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
    ),
    "amsgrad": (optim.AdamW(1e-2, amsgrad=True), lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True)),
}


def train_both(name, optimizers, dtype, steps, **options):
    """Return losses and final states of both."""
    graph, module, batches, feed, axis = case(name, dtype)
    module = module.to(getattr(torch, dtype)).train()
    state = {k: torch.tensor(v) for k, v in graph.state().items() if k != "random_key"}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and all(m.endswith("num_batches_tracked") for m in missing)
    ours, theirs = optimizers
    step = compile_training(graph, losses.cross_entropy("logits", "label", axis=axis), ours, device=DEVICE, **options)
    optimizer = theirs(module.parameters())
    got, wanted = [], []
    for number in range(steps):
        x, label = batches[number % len(batches)]
        got.append(step.run({feed: x, "label": label}))
        optimizer.zero_grad()
        loss = T.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(label))
        loss.backward()
        if "clip_norm" in options:
            torch.nn.utils.clip_grad_norm_(module.parameters(), options["clip_norm"])
        optimizer.step()
        wanted.append(loss.item())
    final = {k: v.numpy() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    return np.array(got), np.array(wanted), {k: step.state[k] for k in final}, final


def assert_close(got, wanted, ours, theirs, tolerance):
    assert np.isfinite(wanted).all() and wanted[-5:].mean() < wanted[:5].mean()
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    for name, array in theirs.items():
        error = np.linalg.norm(ours[name] - array) / max(np.linalg.norm(array), 1e-30)
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["mlp", "cnn", "lstm", "gpt"])
def test_float64(model, optimizer):
    assert_close(*train_both(model, OPTIMIZERS[optimizer], "float64", STEPS), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["mlp", "cnn", "lstm", "gpt"])
def test_float32(model, optimizer):
    got, wanted, _, _ = train_both(model, OPTIMIZERS[optimizer], "float32", STEPS)
    tolerance = 1e-4 if optimizer == "sgd" else 5e-3
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", MORE_OPTIMIZERS)
def test_every_form_of_the_optimizers(optimizer):
    assert_close(*train_both("mlp", MORE_OPTIMIZERS[optimizer], "float64", 25), 1e-9)


def test_clipping_by_the_global_norm():
    assert_close(*train_both("mlp", OPTIMIZERS["sgd"], "float64", 25, clip_norm=0.05), 1e-9)


@pytest.mark.parametrize("model", ["mlp", "cnn", "lstm", "gpt"])
def test_first_steps(model):
    got, wanted, ours, theirs = train_both(model, OPTIMIZERS["sgd"], "float64", 4)
    np.testing.assert_allclose(got, wanted, rtol=1e-10)
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-7, atol=1e-9, err_msg=name)
