"""Layers agree with PyTorch: forward results with the same state, training-form batch norm, and initial values."""

import numpy as np
import pytest

import dlc.frontends.graph as dlc
from dlc.errors import DlcError, GraphError
from dlc.frontends.graph import nn
from dlc.gradients import grad
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from tests.frontends.graph.graphs import random

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
T = torch.nn

IMAGE = random(2, 6, 9, 8)
SEQUENCE = random(3, 6, 11)
TABLE = random(5, 6)

LAYERS = [
    ("Linear", (6, 4), {}, TABLE),
    ("Linear", (8, 4), {"bias": False}, IMAGE),
    ("Conv1d", (6, 4, 3), {}, SEQUENCE),
    ("Conv1d", (6, 6, 4), {"stride": 2, "padding": 1, "dilation": 2, "groups": 3}, SEQUENCE),
    ("Conv2d", (6, 4, 3), {}, IMAGE),
    ("Conv2d", (6, 4, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "bias": False}, IMAGE),
    ("Conv2d", (6, 6, 3), {"padding": 1, "groups": 6}, IMAGE),
    ("Conv2d", (6, 12, 2), {"padding": "same", "dilation": 2, "groups": 2}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": "valid"}, IMAGE),
    ("ConvTranspose1d", (6, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}, SEQUENCE),
    ("ConvTranspose2d", (6, 4, 3), {"stride": 2, "groups": 2, "padding": (1, 0)}, IMAGE),
    ("ConvTranspose2d", (6, 4, 2), {"dilation": 2, "bias": False}, IMAGE),
    ("BatchNorm1d", (6,), {}, TABLE),
    ("BatchNorm1d", (6,), {"eps": 1e-3}, SEQUENCE),
    ("BatchNorm2d", (6,), {}, IMAGE),
    ("BatchNorm2d", (6,), {"affine": False}, IMAGE),
    ("LayerNorm", (8,), {}, IMAGE),
    ("LayerNorm", ((9, 8),), {"eps": 1e-3, "bias": False}, IMAGE),
    ("LayerNorm", (8,), {"elementwise_affine": False}, IMAGE),
    ("RMSNorm", (8,), {}, IMAGE),
    ("RMSNorm", ((9, 8),), {"eps": 0.1}, IMAGE),
    ("GroupNorm", (3, 6), {}, IMAGE),
    ("GroupNorm", (2, 6), {"affine": False}, SEQUENCE),
    ("Dropout", (0.5,), {}, IMAGE),
    ("MaxPool1d", (3,), {}, SEQUENCE),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, IMAGE),
    ("MaxPool2d", (2,), {"ceil_mode": True, "dilation": 2}, IMAGE),
    ("MaxPool2d", ((3, 2),), {"stride": (2, 3), "ceil_mode": True}, IMAGE),
    ("AvgPool1d", (4,), {"stride": 2, "padding": 1}, SEQUENCE),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1}, IMAGE),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, IMAGE),
    ("AvgPool2d", (3,), {"stride": 2, "ceil_mode": True}, IMAGE),
    ("AdaptiveAvgPool1d", (4,), {}, SEQUENCE),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGE),
    ("AdaptiveAvgPool2d", ((3, 4),), {}, IMAGE),
    ("AdaptiveAvgPool2d", ((5, None),), {}, IMAGE),
    ("AdaptiveMaxPool2d", (1,), {}, IMAGE),
    ("AdaptiveMaxPool2d", ((3, 2),), {}, IMAGE),
    ("Flatten", (), {}, IMAGE),
    ("Flatten", (2, 3), {}, IMAGE),
    ("PReLU", (), {}, IMAGE),
    ("PReLU", (6,), {}, IMAGE),
    ("GLU", (1,), {}, IMAGE),
    ("Softmax", (1,), {}, IMAGE),
    ("LogSoftmax", (-1,), {}, IMAGE),
    ("GELU", (), {}, IMAGE),
    ("GELU", (), {"approximate": "tanh"}, IMAGE),
    ("ELU", (0.7,), {}, IMAGE),
    ("CELU", (0.7,), {}, IMAGE),
    ("LeakyReLU", (0.2,), {}, IMAGE),
    ("Softplus", (), {"beta": 2.0, "threshold": 1.0}, IMAGE),
    ("Hardtanh", (-0.5, 2.0), {}, IMAGE),
    *(
        (name, (), {}, IMAGE * 3)
        for name in ("ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Tanh", "Softsign", "Hardsigmoid")
    ),
    *((name, (), {}, IMAGE * 3) for name in ("Hardswish", "Mish", "LogSigmoid", "Identity")),
    ("LSTM", (6, 5), {}, random(7, 3, 6)),
    ("LSTM", (6, 5, 2), {"bidirectional": True, "batch_first": True}, random(3, 7, 6)),
    ("LSTM", (6, 5), {"bias": False}, random(7, 3, 6)),
    ("GRU", (6, 5, 2), {"bidirectional": True}, random(7, 3, 6)),
    ("GRU", (6, 5), {"batch_first": True, "bias": False}, random(3, 7, 6)),
    ("RNN", (6, 5, 2), {}, random(7, 3, 6)),
    ("RNN", (6, 5), {"nonlinearity": "relu"}, random(7, 3, 6)),
    ("TransformerEncoderLayer", (8, 2, 16), {"batch_first": True}, random(2, 5, 8)),
    ("TransformerEncoderLayer", (8, 4, 16), {"norm_first": True, "activation": "gelu"}, random(5, 2, 8)),
]


def flat(outputs):
    """Tensors in nested tuples, in order."""
    if isinstance(outputs, tuple | list):
        return [leaf for item in outputs for leaf in flat(item)]
    return [outputs]


def perturbed(module, seed=0):
    """Give every parameter and statistic of a PyTorch module values that tell positions apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.dtype.is_floating_point:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if "var" in name else noise - 0.5)
    return module


def build(layer, *arrays, dtype="float32"):
    """Return the graph of a layer called at the top of a graph, and the prefix of its parameters."""
    with dlc.Graph("layer", seed=7, dtype=dtype) as graph:
        inputs = [dlc.input(f"x{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
        for position, tensor in enumerate(flat(layer(*inputs))):
            dlc.output(f"y{position}", tensor)
    return graph


def load(graph, module):
    """Copy the state of a PyTorch module, whose names lack the prefix of the layer."""
    names = [n for n in graph.state() if n != "random_key"]
    known = module.state_dict()
    matched = {n: known[n if n in known else n.split(".", 1)[1]].numpy() for n in names}
    assert len(matched) == len([k for k in known if not k.endswith("num_batches_tracked")])
    graph.load_state(matched)


@pytest.mark.parametrize("name, arguments, options, x", LAYERS, ids=[f"{k}-{v[0]}" for k, v in enumerate(LAYERS)])
def test_forward(name, arguments, options, x):
    reference = perturbed(getattr(T, name)(*arguments, **options)).eval()
    graph = build(getattr(nn, name)(*arguments, **options), x)
    load(graph, reference)
    got = interpret(graph.ir, {"x0": x})
    with torch.no_grad():
        wanted = flat(reference(torch.from_numpy(x)))
    for position, tensor in enumerate(wanted):
        array = got[f"y{position}"]
        assert array.shape == tuple(tensor.shape) and array.dtype == np.float32
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["ReLU", "ReLU6", "Hardtanh", "Hardsigmoid", "Hardswish", "LeakyReLU", "ELU", "SELU"])
def test_gradients_where_slopes_change(name):
    x = np.array([-7, -3, -1, -0.5, 0, 0.5, 1, 3, 6, 7], np.float32)
    graph = build(lambda t: dlc.sum(getattr(nn, name)()(t)), x)
    got = interpret(grad(graph, of="y0", wrt=["x0"]), {"x0": x})["grad_x0"]
    tensor = torch.tensor(x, requires_grad=True)
    getattr(T, name)()(tensor).sum().backward()
    np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=1e-4)


@pytest.mark.parametrize("name, x", [("BatchNorm1d", TABLE), ("BatchNorm1d", SEQUENCE), ("BatchNorm2d", IMAGE)])
def test_batch_norm_in_training(name, x):
    reference = perturbed(getattr(T, name)(6, momentum=0.3)).train()
    graph = build(getattr(nn, name)(6, momentum=0.3), x)
    load(graph, reference)
    got = interpret(graph.ir, {"x0": x}, Mode.TRAINING)
    wanted = reference(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got["y0"], wanted, rtol=1e-4, atol=1e-5)
    for key in ("running_mean", "running_var"):
        (name,) = [n for n in got if n.endswith(f"{key}:next")]
        np.testing.assert_allclose(got[name], reference.state_dict()[key].numpy(), rtol=1e-5, atol=1e-6)


def test_embedding():
    ids = np.array([[0, 3, 9], [1, 1, 2]])
    reference = T.Embedding(10, 4, padding_idx=3)
    graph = build(nn.Embedding(10, 4, padding_idx=3), ids)
    assert (graph.state()["embedding.weight"][3] == 0).all()
    load(graph, reference)
    wanted = reference(torch.from_numpy(ids)).detach().numpy()
    np.testing.assert_array_equal(interpret(graph.ir, {"x0": ids})["y0"], wanted)
    with pytest.raises(DlcError, match="integer"):
        build(nn.Embedding(10, 4), random(2, 3))


@pytest.mark.parametrize("padding", [3, -1, None])
def test_embedding_does_not_train_its_padding(padding):
    ids = np.array([[0, 3, 9], [3, 9, 2]])
    reference = T.Embedding(10, 4, padding_idx=padding)
    weights = torch.arange(24.0).reshape(2, 3, 4)
    (reference(torch.from_numpy(ids)) * weights).sum().backward()
    layer = nn.Embedding(10, 4, padding_idx=padding)
    graph = build(lambda t: dlc.sum(layer(t) * weights.numpy()), ids)
    got = interpret(grad(graph, of="y0", wrt=["embedding.weight"]), {"x0": ids})["grad_embedding.weight"]
    np.testing.assert_allclose(got, reference.weight.grad.numpy())


@pytest.mark.parametrize("mask", ["none", "causal", "padding", "bool", "float", "bool and padding", "per head"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention(mask, batch_first):
    batch, queries, keys, features = 2, 4, 5, 8
    if mask == "causal":
        keys = queries
    shape = (lambda n: (batch, n, features)) if batch_first else (lambda n: (n, batch, features))
    q, k, v = random(*shape(queries)), random(*shape(keys), seed=1), random(*shape(keys), seed=2)
    rng = np.random.default_rng(0)
    padding = np.array([[False, False, True, False, True], [False, False, False, False, True]])
    forbidden = rng.random((batch * 2, queries, keys) if mask == "per head" else (queries, keys)) < 0.4
    forbidden[..., 0] = False
    masks = {}
    if "padding" in mask:
        masks["key_padding_mask"] = padding
    if "bool" in mask or mask == "per head":
        masks["attn_mask"] = forbidden
    if mask == "float":
        masks["attn_mask"] = rng.standard_normal((queries, keys)).astype(np.float32)
    if mask == "causal":
        masks["attn_mask"] = np.triu(np.ones((queries, keys), bool), 1)
    reference = perturbed(T.MultiheadAttention(features, 2, batch_first=batch_first)).eval()
    layer = nn.MultiheadAttention(features, 2, batch_first=batch_first)
    names = list(masks)

    def call(q, k, v, *given):
        if mask == "causal":
            return layer(q, k, v, is_causal=True)
        return layer(q, k, v, **dict(zip(names, given)))

    arrays = [q, k, v, *([] if mask == "causal" else masks.values())]
    graph = build(call, *arrays)
    load(graph, reference)
    got = interpret(graph.ir, {f"x{i}": a for i, a in enumerate(arrays)})["y0"]
    tensors = {name: torch.from_numpy(m) for name, m in masks.items()}
    wanted = reference(*(torch.from_numpy(a) for a in (q, k, v)), **tensors, need_weights=False)[0]
    np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_transformer_encoder_stacks_copies():
    x = random(2, 5, 8)
    options = {"batch_first": True, "norm_first": True}
    inner = T.TransformerEncoderLayer(8, 2, 16, **options)
    reference = perturbed(T.TransformerEncoder(inner, 3, T.LayerNorm(8), enable_nested_tensor=False)).eval()
    graph = build(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, **options), 3, nn.LayerNorm(8)), x)
    first, second = (graph.state()[f"layers.{k}.linear1.weight"] for k in (0, 1))
    assert not np.array_equal(first, second)
    load(graph, reference)
    got = interpret(graph.ir, {"x0": x})["y0"]
    np.testing.assert_allclose(got, reference(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_recurrent_initial_states():
    x, h, c = random(7, 3, 6), random(2, 3, 5, seed=1), random(2, 3, 5, seed=2)
    reference = perturbed(T.LSTM(6, 5, 2)).eval()
    layer = nn.LSTM(6, 5, 2)
    graph = build(lambda x, h, c: layer(x, (h, c)), x, h, c)
    load(graph, reference)
    got = interpret(graph.ir, {"x0": x, "x1": h, "x2": c})
    wanted = flat(reference(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c))))
    for position, tensor in enumerate(wanted):
        np.testing.assert_allclose(got[f"y{position}"], tensor.detach().numpy(), rtol=1e-4, atol=1e-6)


EDGES = {
    "norm": (lambda x: dlc.norm(x, axis=1), lambda x: torch.linalg.vector_norm(x, dim=1)),
    "std": (lambda x: dlc.std(x, axis=1), lambda x: torch.std(x, dim=1, correction=0)),
    "relu": (dlc.relu, T.functional.relu),
    "relu6": (dlc.relu6, T.functional.relu6),
    "hardtanh": (dlc.hardtanh, T.functional.hardtanh),
}


@pytest.mark.parametrize("name", EDGES)
def test_gradients_at_zero_and_at_bounds(name):
    ours, reference = EDGES[name]
    x = np.array([[0, 0, 0], [1, 1, 1], [-1, -1, -1], [6, 6, 6], [0, 1, 6], [-1, 3, 0.5]], np.float32)
    with dlc.Graph("edges") as graph:
        dlc.output("loss", dlc.sum(ours(dlc.input("x", x.shape)) * 2.0))
    found = interpret(grad(graph.ir, of="loss", wrt=["x"]), {"x": x})
    given = torch.from_numpy(x).requires_grad_()
    loss = (reference(given) * 2.0).sum()
    loss.backward()
    np.testing.assert_allclose(found["loss"], loss.item(), rtol=1e-6)
    np.testing.assert_allclose(found["grad_x"], given.grad.numpy(), rtol=1e-5, atol=1e-6)


INITIAL = [
    ("Linear", (300, 200), {}, random(1, 300)),
    ("Conv1d", (30, 40, 5), {"groups": 2}, random(1, 30, 9)),
    ("Conv2d", (30, 40, 5), {}, random(1, 30, 9, 9)),
    ("ConvTranspose2d", (30, 40, 5), {"groups": 2}, random(1, 30, 3, 3)),
    ("BatchNorm2d", (30,), {}, random(1, 30, 9, 9)),
    ("LayerNorm", (30,), {}, random(1, 30)),
    ("LSTM", (60, 50), {}, random(1, 1, 60)),
    ("GRU", (60, 50), {}, random(1, 1, 60)),
    ("MultiheadAttention", (64, 4), {}, random(1, 1, 64)),
    ("Embedding", (500, 30), {}, np.zeros((1,), np.int64)),
]


@pytest.mark.parametrize("name, arguments, options, x", INITIAL, ids=[v[0] for v in INITIAL])
def test_initial_values_follow_pytorchs_distributions(name, arguments, options, x):
    torch.manual_seed(0)
    reference = getattr(T, name)(*arguments, **options).state_dict()
    ours = build(getattr(nn, name)(*arguments, **options), x).state()
    assert len(ours) == len([k for k in reference if not k.endswith("num_batches_tracked")])
    for key, array in ours.items():
        wanted = reference[key.split(".", 1)[1] if key not in reference else key].numpy()
        assert array.shape == wanted.shape
        assert abs(array.mean() - wanted.mean()) <= 6 * (wanted.std() + 1e-12) / np.sqrt(array.size), key
        assert array.std() == pytest.approx(wanted.std(), rel=0.25 if array.size < 300 else 0.06), key
        if name not in ("Embedding",):
            assert abs(array).max() <= abs(wanted).max() * 1.2 + 1e-6, key


@pytest.mark.parametrize(
    "make, x, words",
    [
        (lambda: nn.Linear(5, 3), TABLE, "5 features"),
        (lambda: nn.Linear(0, 3), TABLE, "in_features"),
        (lambda: nn.Conv2d(5, 4, 3), IMAGE, "5 channels"),
        (lambda: nn.Conv2d(6, 4, 3, groups=4), IMAGE, "groups"),
        (lambda: nn.Conv2d(6, 4, 3, stride=0), IMAGE, "stride"),
        (lambda: nn.Conv2d(6, 4, 3, padding=(1, 1, 1)), IMAGE, "padding"),
        (lambda: nn.Conv2d(6, 4, 30), IMAGE, "conv"),
        (lambda: nn.Conv2d(6, 4, 3), SEQUENCE, "conv2d"),
        (lambda: nn.BatchNorm2d(6), SEQUENCE, "rank"),
        (lambda: nn.BatchNorm2d(5), IMAGE, "5 channels"),
        (lambda: nn.LayerNorm(9), IMAGE, "trailing"),
        (lambda: nn.GroupNorm(4, 6), IMAGE, "groups"),
        (lambda: nn.MaxPool2d(2, padding=2), IMAGE, "half"),
        (lambda: nn.LSTM(5, 3), random(2, 2, 6), "features"),
        (lambda: nn.MultiheadAttention(6, 4), random(2, 2, 6), "heads"),
        (lambda: nn.Dropout(1.5), IMAGE, r"\[0, 1\)"),
        (lambda: nn.AdaptiveMaxPool2d(4), IMAGE, "divide"),
    ],
)
def test_errors(make, x, words):
    with pytest.raises(DlcError, match=words):
        build(make(), x)


def test_a_module_must_call_its_bases_init():
    class Forgetful(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(GraphError, match=r"super\(\).__init__"):
        Forgetful()
