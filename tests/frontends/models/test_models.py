"""The named models: parameter counts, agreement with independent implementations, example inputs."""

import numpy as np
import pytest

from dlc.errors import DlcError
from dlc.frontends import models
from dlc.ir.graph import Role
from dlc.ir.interpret import interpret
from dlc.ir.verify_graph import verify_graph
from dlc.passes.bind import bind

COUNTS = {
    "mlp": 535_818,
    "digits_cnn": 30_762,
    "cnn": 113_962,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "convnext_tiny": 28_589_128,
    "unet": 7_814_274,
    "lstm": 924_170,
    "gru": 693_770,
    "small_gpt": 838_400,
    "gpt_4x256": 4_240_896,
}
LARGE_COUNTS = {
    "vit_b": 86_567_656,
    "bert_base": 109_482_240,
    "distilbert": 66_362_880,
    "gpt2": 124_439_808,
    "llama_135m": 134_515_008,
}


def parameters(graph):
    return sum(s.initial.size for s in graph.signature.inputs if s.role is Role.PARAMETER)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    graph = models.build(name)
    verify_graph(graph)
    assert parameters(graph) == COUNTS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_COUNTS)
def test_large_parameter_counts(name):
    graph = models.build(name)
    verify_graph(graph)
    assert parameters(graph) == LARGE_COUNTS[name]


def test_the_original_unet_has_its_published_size():
    graph = models.build("unet", classes=1, channels=64, transposed=(True,) * 4)
    assert parameters(graph) == 31_037_633


def test_names_seeds_and_unknown_names():
    assert set(models.names()) == {*COUNTS, *LARGE_COUNTS}
    one, two, other = (models.build("mlp", seed=s).spec("0.weight").initial for s in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    with pytest.raises(DlcError, match="resnet50"):
        models.build("alexnet")


@pytest.mark.parametrize("name", ["mlp", "digits_cnn", "small_gpt"])
def test_example_inputs_fit(name):
    graph = models.build(name, batch=2)
    arrays = models.example_inputs(graph, seed=3)
    outputs = interpret(graph, arrays)
    assert np.isfinite(outputs["logits"]).all() and outputs["logits"].shape[0] == 2
    again = models.example_inputs(graph, seed=3)
    assert all(np.array_equal(a, again[n]) for n, a in arrays.items())


def test_example_inputs_cover_the_table_that_they_index():
    ids = models.example_inputs(models.build("small_gpt", batch=8), seed=0)["input_ids"]
    assert ids.min() >= 0 and 90 < ids.max() < 96
    symbolic = models.example_inputs(models.build("mlp"))
    assert symbolic["x"].shape == (1, 784)


def test_the_digits_are_split_within_each_class():
    train, test = models.digits(seed=1)
    assert len(train) == 1437 and len(test) == 360
    assert train.image.shape == (1437, 1, 8, 8) and train.image.dtype == np.float32 and train.label.dtype == np.int64
    assert train.image.min() == 0 and train.image.max() == 1
    whole = np.bincount(np.concatenate([train.label, test.label]))
    assert whole.sum() == 1797 and (np.abs(np.bincount(test.label) - whole * 360 / 1797) < 1).all()
    again, other = models.digits(seed=1)[1], models.digits(seed=2)[1]
    assert np.array_equal(test.image, again.image) and not np.array_equal(test.image, other.image)
    everything = np.concatenate([train.image, test.image]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == len(np.unique(np.concatenate([again.image, train.image]), axis=0))
    with pytest.raises(DlcError, match="between"):
        models.digits(test_fraction=1.5)


def test_the_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    train, test = models.digits()
    ours = {image.tobytes(): int(label) for part in (train, test) for image, label in zip(part.image, part.label)}
    theirs = datasets.load_digits()
    wanted = {(i / 16).astype(np.float32).tobytes(): int(t) for i, t in zip(theirs.images, theirs.target)}
    assert ours == wanted


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_vision_models_agree_with_pytorch(name):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("tests.frontends.onnx.torch_models")
    module = {
        "resnet18": lambda: reference.ResNet(reference.BasicBlock, (2, 2, 2, 2)),
        "resnet50": lambda: reference.ResNet(reference.Bottleneck, (3, 4, 6, 3)),
        "mobilenet_v2": reference.MobileNetV2,
    }[name]()
    module = reference.randomize(module)
    graph = models.REGISTRY[name](batch=2, size=64)
    # Both list layers in the order of the computation.
    arrays = [v.numpy() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")]
    names = [n for n in graph.state() if n != "random_key"]
    graph.load_state(dict(zip(names, arrays, strict=True)))
    x = models.example_inputs(graph, seed=1)["x"]
    got = interpret(graph.ir, {"x": x})["logits"]
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.torch
@pytest.mark.bench
def test_bert_agrees_with_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = models.BertConfig(vocabulary=50, features=16, layers=2, heads=4, intermediate=32, positions=20)
    theirs = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=20,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    module = transformers.BertModel(theirs).eval()
    graph = models.bert(config, batch="batch", sequence="sequence")
    graph.load_state({k: v.numpy() for k, v in module.state_dict().items() if not k.endswith("_ids")})
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 50, (3, 9)), np.ones((3, 9), np.int64)
    mask[0, 5:] = mask[2, 1:] = 0
    got = interpret(bind(graph.ir, {"batch": 3, "sequence": 9}), {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        wanted = module(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    np.testing.assert_allclose(got["last_hidden_state"], wanted.last_hidden_state.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["pooler_output"], wanted.pooler_output.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.torch
@pytest.mark.bench
def test_gpt_agrees_with_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = models.GptConfig(vocabulary=50, positions=20, features=16, layers=2, heads=4)
    theirs = transformers.GPT2Config(
        vocab_size=50, n_positions=20, n_embd=16, n_layer=2, n_head=4, initializer_range=0.5, use_cache=False
    )
    torch.manual_seed(0)
    module = transformers.GPT2LMHeadModel(theirs).eval()
    graph = models.gpt(config, batch=3, sequence=9)
    known = {k: v.numpy() for k, v in module.state_dict().items() if k != "lm_head.weight"}
    graph.load_state({k: v for k, v in known.items() if not k.endswith((".attn.bias", ".attn.masked_bias"))})
    ids = np.random.default_rng(0).integers(0, 50, (3, 9))
    got = interpret(graph.ir, {"input_ids": ids})["logits"]
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
