"""The named models at reduced sizes: interpreted, compiled, exported and run by onnxruntime, and rebuilt in PyTorch."""

import numpy as np
import pytest

import dlc
from dlc.frontends import models

STAGES = ((1, 3, 1, 8, 1), (6, 5, 2, 12, 2))
CONVNEXT = {"widths": (16, 24, 32, 40), "depths": (1, 1, 2, 1)}
BUILDERS = {
    "efficientnet_b0": lambda: models.efficientnet_b0(batch=2, size=32, classes=10, stages=STAGES),
    "convnext_tiny": lambda: models.convnext_tiny(batch=1, size=64, classes=10, **CONVNEXT),
    "vit_b": lambda: models.vit(models.VitConfig(32, 8, 48, 2, 3, 96, 10), batch=2),
    "unet": lambda: models.unet(batch=1, size=32, channels=4),
    "cnn": lambda: models.cnn(batch=3),
    "distilbert": lambda: models.distilbert(batch=2, sequence=9, config=models.DistilBertConfig(50, 32, 2, 4, 64, 20)),
    "llama_135m": lambda: models.llama(models.LlamaConfig(60, 48, 2, 6, 2, 64), batch=2, sequence=7),
    "gpt_4x256": lambda: models.gpt(models.GptConfig(60, 20, 32, 2, 4, 0.0), batch=2, sequence=7),
    "gru": lambda: models.gru(batch=3, sequence=7, features=5, hidden=12),
    "lstm": lambda: models.lstm(batch=3, sequence=7, features=5, hidden=12, layers=1),
}
# The same sizes for the independent implementations.
TORCH_OPTIONS = {
    "efficientnet_b0": {"classes": 10, "stages": STAGES},
    "convnext_tiny": {"classes": 10, **CONVNEXT},
    "unet": {"channels": 4},
    "distilbert": {
        "vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 20,
    },
    "llama_135m": {
        "vocab_size": 60, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "intermediate_size": 64,
    },
    "gru": {"features": 5, "hidden": 12},
    "lstm": {"features": 5, "hidden": 12, "layers": 1},
    "cnn": {},
}  # fmt: skip


def wanted_outputs(graph):
    """Feeds and the interpreter's outputs, without the updates of state."""
    feeds = models.example_inputs(graph, seed=1)
    results = dlc.interpret(graph, feeds)
    kept = [name for name in graph.ir.signature.outputs if name not in graph.ir.signature.replacements]
    return feeds, {name: results[name] for name in kept}


def assert_close(found, wanted):
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("name", BUILDERS)
def test_interpreted_compiled_and_exported_agree(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = BUILDERS[name]()
    feeds, wanted = wanted_outputs(graph)
    for array in wanted.values():
        assert np.isfinite(array).all() and array.std() > 1e-3
    found = dlc.compile(graph, threads=1).run(feeds)
    assert list(found) == list(wanted)
    for key, array in wanted.items():
        assert_close(found[key], array)
    dlc.save_onnx(graph, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, ["CPUExecutionProvider"])
    for array, theirs in zip(wanted.values(), session.run(list(wanted), feeds), strict=True):
        assert_close(theirs, array)


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCH_OPTIONS)
def test_an_independent_implementation_agrees(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from bench.torch_models import load_weights, torch_module

    graph = BUILDERS[name]()
    feeds, wanted = wanted_outputs(graph)
    module = load_weights(torch_module(name, TORCH_OPTIONS[name]), graph.state())
    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
    assert_close(found, next(iter(wanted.values())))


@pytest.mark.torch
def test_a_vision_transformer_of_pytorch_agrees():
    torch = pytest.importorskip("torch")
    from bench.torch_models import load_weights
    from bench.torch_vision import VisionTransformer

    graph = BUILDERS["vit_b"]()
    feeds, wanted = wanted_outputs(graph)
    module = load_weights(VisionTransformer(32, 8, 48, 2, 3, 96, 10).eval(), graph.state())
    with torch.no_grad():
        found = module(torch.from_numpy(feeds["x"])).numpy()
    assert_close(found, wanted["logits"])


def test_activations_of_efficientnet_keep_their_scale():
    """The statistics are derived, not fitted: after all its blocks, normalised values are still of order 1."""
    _, wanted = wanted_outputs(models.efficientnet_b0(batch=1, size=64))
    # Logits are sums of 1280 values of order 1 with weights within 1 / sqrt(1280).
    assert 0.05 < wanted["logits"].std() < 5


def test_padding_is_not_attended():
    graph = BUILDERS["distilbert"]()
    feeds = models.example_inputs(graph, seed=2)
    feeds["attention_mask"] = np.ones((2, 9), np.int64)
    feeds["attention_mask"][:, 6:] = 0
    first = dlc.interpret(graph, feeds)["last_hidden_state"]
    feeds["input_ids"][:, 6:] = (feeds["input_ids"][:, 6:] + 1) % 50
    second = dlc.interpret(graph, feeds)["last_hidden_state"]
    assert np.array_equal(first[:, :6], second[:, :6]) and not np.array_equal(first[:, 6:], second[:, 6:])


def test_later_tokens_do_not_reach_earlier_ones_in_llama():
    graph = BUILDERS["llama_135m"]()
    feeds = models.example_inputs(graph, seed=2)
    first = dlc.interpret(graph, feeds)["logits"]
    feeds["input_ids"][:, 4:] = (feeds["input_ids"][:, 4:] + 1) % 60
    second = dlc.interpret(graph, feeds)["logits"]
    assert np.allclose(first[:, :4], second[:, :4], atol=1e-6) and not np.allclose(first[:, 4:], second[:, 4:])
