"""What PyTorch's two exporters write is imported, and agrees with PyTorch and, exported again, with onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlc.frontends.onnx import load, to_proto
from dlc.ir.graph import Graph, Role
from dlc.ir.interpret import interpret

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnx_models import single  # noqa: E402
from torch_models import example, export  # noqa: E402

QUICK = ["mlp", "lstm", "lstm_bidirectional"]
CONVOLUTIONAL = ["resnet18", "mobilenet_v2"]
TRANSFORMERS = ["bert", "gpt2"]

pytestmark = pytest.mark.torch


def agrees(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def data_inputs(graph: Graph) -> list[str]:
    return [s.name for s in graph.signature.inputs if s.role is Role.DATA]


def round_trip(name: str, dynamo: bool, dynamic: bool, folder: Path, small: bool = True) -> Graph:
    made = example(name, small=small)
    path = export(made, folder / f"{name}.onnx", dynamo, dynamic)
    wanted = made.module(*made.inputs.values()).detach().numpy()
    graph = load(path)
    feeds = {n: made.inputs[n].numpy() for n in data_inputs(graph)}
    if dynamic:
        assert any(not v.type.is_static for v in graph.inputs)
    bound = load(path, shapes={n: a.shape for n, a in feeds.items()})
    agrees(interpret(bound, feeds)[bound.signature.results[0]], wanted)
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(to_proto(graph).SerializeToString(), options)
    agrees(session.run(None, feeds)[0], wanted)
    return graph


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
@pytest.mark.parametrize("name", QUICK)
def test_quick_models_through_the_scripting_exporter(name: str, dynamic: bool, tmp_path: Path) -> None:
    graph = round_trip(name, False, dynamic, tmp_path)
    weights = [s for s in graph.signature.inputs if s.role is Role.PARAMETER]
    assert all(s.trainable for s in weights)
    assert len(weights) >= {"mlp": 6, "lstm": 8, "lstm_bidirectional": 8}[name]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "script"])
@pytest.mark.parametrize("name", QUICK + CONVOLUTIONAL)
def test_models(name: str, dynamo: bool, dynamic: bool, tmp_path: Path) -> None:
    round_trip(name, dynamo, dynamic, tmp_path)


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "script"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str, dynamo: bool, dynamic: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    round_trip(name, dynamo, dynamic, tmp_path)


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "script"])
@pytest.mark.parametrize("name", ["resnet50", "bert", "gpt2"])
def test_full_size(name: str, dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    round_trip(name, dynamo, True, tmp_path, small=False)


def test_training_exports_keep_batch_norm(tmp_path: Path) -> None:
    """Without constant folding of batch norm, running statistics become state and everything else trains."""
    made = example("resnet18", small=True)
    path = tmp_path / "m.onnx"
    torch.onnx.export(
        made.module,
        tuple(made.inputs.values()),
        str(path),
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
    )
    graph = load(path)
    roles = [s.role for s in graph.signature.inputs]
    assert roles.count(Role.STATE) == 40 and roles.count(Role.PARAMETER) == 62
    names = {n for n, _ in made.module.named_parameters()}
    assert {s.name for s in graph.signature.inputs if s.role is Role.PARAMETER} == names


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(mode: str, padding: str, aligned: bool) -> None:
    """Half of the places lie outside of the image, some of them far."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 3, 5, 7)).astype(np.float32)
    grid = (2 * generator.normal(size=(2, 4, 6, 2))).astype(np.float32)
    made = single(
        "GridSample", [x.shape, grid.shape], opset=16, mode=mode, padding_mode=padding, align_corners=int(aligned)
    )
    found = interpret(load(made), {"x0": x, "x1": grid})["y0"]
    image, places = torch.from_numpy(x), torch.from_numpy(grid)
    wanted = torch.nn.functional.grid_sample(image, places, mode=mode, padding_mode=padding, align_corners=aligned)
    agrees(found, wanted.numpy())
