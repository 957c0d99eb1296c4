"""The nine light models, compiled: their stored outputs, and onnxruntime's with random weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import dlc
from bench.light_models import NAMES, PATHS, random_weights, stored_output
from dlc.ir.graph import Role

pytestmark = pytest.mark.slow


def feeds(graph: object, seed: int | None = None) -> dict[str, np.ndarray]:
    """One image: of ones, as the stored outputs want, or random."""
    (name,) = (s.name for s in graph.signature.inputs if s.role is Role.DATA)
    image = np.ones((1, 3, 224, 224), np.float32)
    return {name: image if seed is None else np.random.default_rng(seed).normal(size=image.shape).astype(np.float32)}


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_stored_output(path: str) -> None:
    graph = dlc.load(path)
    found = dlc.compile(graph).run(feeds(graph))[graph.signature.results[0]]
    wanted = stored_output(path)
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_random_weights(path: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = random_weights(onnx.load(path))
    graph = dlc.load(model)
    given = feeds(graph, seed=1)
    found = dlc.compile(graph).run(given)[graph.signature.results[0]]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, given)
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert np.ptp(found) > 1e-3 * np.abs(found).max()
