"""Models that were imported before: what is remembered, when it counts, and what a warm start loads."""

import json
import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dlc
from dlc.errors import DlcError, InvalidModelError
from dlc.ir import provenance
from dlc.ir.dims import symbol
from dlc.ir.graph import Graph
from dlc.ir.interface import DeferredGraph, digest_of, interface_of
from dlc.ir.structure import difference, graph_digest
from dlc.passes.cleanup import cleanup
from dlc.runtime.object_code import can_load


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Every file counts as old enough to be remembered."""
    monkeypatch.setattr(provenance, "_SETTLED_NS", -(10**18))


def layer(seed=0, batch=3):
    """y = x @ w + b: ``w`` is large enough to be read apart, ``b`` is not."""
    rng = np.random.default_rng(seed)
    w, b = rng.normal(size=(40, 50)).astype("f"), rng.normal(size=50).astype("f")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 50])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), (lambda x: x @ w + b)


@pytest.fixture
def saved(tmp_path):
    model, answer = layer()
    onnx.save(model, tmp_path / "layer.onnx")
    return tmp_path / "layer.onnx", answer


X = np.random.default_rng(5).normal(size=(3, 40)).astype("f")


def test_a_model_loaded_again_is_deferred_and_equal(saved):
    path, answer = saved
    first, again = dlc.load(path), dlc.load(path)
    assert not isinstance(first, DeferredGraph) and isinstance(again, DeferredGraph)
    assert interface_of(again).inputs == interface_of(first).inputs
    assert interface_of(again).outputs == interface_of(first).outputs
    assert digest_of(again) == digest_of(first)
    np.testing.assert_allclose(dlc.compile(first)(X), answer(X), rtol=1e-5, atol=1e-5)
    warm = dlc.compile(again)
    assert warm.report.cache == "hit" and "nodes" not in again.__dict__
    assert warm(X).tobytes() == dlc.compile(first)(X).tobytes()
    assert difference(first, again, values=True) == "" and "nodes" in again.__dict__
    assert graph_digest(again, origins=True) == again.digest


def test_a_deferred_graph_is_a_graph(saved):
    path, _ = saved
    whole, deferred = dlc.load(path), dlc.load(path)
    assert isinstance(deferred, Graph) and str(deferred) == str(whole)
    renamed = replace(dlc.load(path), name="other")
    assert renamed.name == "other" and digest_of(renamed) == digest_of(whole)
    assert difference(cleanup(dlc.load(path)), cleanup(whole)) == ""
    assert dlc.load(path).input("x").type == whole.input("x").type
    with pytest.raises(AttributeError, match="colour"):
        _ = dlc.load(path).colour


def test_threads_that_look_at_a_deferred_graph_see_one(saved):
    path, _ = saved
    dlc.load(path)
    graph = dlc.load(path)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append((graph.inputs, graph.nodes))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(inputs) for inputs, _ in seen}) == len({id(nodes) for _, nodes in seen}) == 1


def test_other_content_is_another_model(saved):
    path, _ = saved
    dlc.load(path)
    model, answer = layer(seed=1)
    onnx.save(model, path)
    np.testing.assert_allclose(dlc.compile(dlc.load(path))(X), answer(X), rtol=1e-5, atol=1e-5)


def test_a_file_that_has_just_changed_is_not_remembered(saved, monkeypatch):
    path, _ = saved
    monkeypatch.setattr(provenance, "_SETTLED_NS", 3600 * 10**9)
    dlc.load(path)
    assert not isinstance(dlc.load(path), DeferredGraph)


def test_weights_that_changed_after_loading_are_refused(saved):
    path, _ = saved
    dlc.load(path)
    graph, looked_at = dlc.load(path), dlc.load(path)
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(DlcError, match="load it again"):
        dlc.compile(graph)
    with pytest.raises(DlcError, match="load it again"):
        _ = looked_at.nodes
    with pytest.raises(InvalidModelError):
        dlc.load(path)


def test_a_file_replaced_after_loading_still_serves(saved, tmp_path):
    path, answer = saved
    dlc.compile(dlc.load(path))
    graph = dlc.load(path)
    onnx.save(layer(seed=1)[0], tmp_path / "other.onnx")
    os.replace(tmp_path / "other.onnx", path)
    np.testing.assert_allclose(dlc.compile(graph)(X), answer(X), rtol=1e-5, atol=1e-5)


def test_weights_beside_the_model(tmp_path):
    model, answer = layer()
    path = tmp_path / "layer.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    dlc.load(path)
    graph = dlc.load(path)
    assert isinstance(graph, DeferredGraph)
    np.testing.assert_allclose(dlc.compile(graph)(X), answer(X), rtol=1e-5, atol=1e-5)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(bytes(len(data)))
    assert not dlc.compile(dlc.load(path))(X).any()


def test_shapes_and_roots_are_part_of_the_question(tmp_path):
    model, answer = layer(batch="n")
    onnx.save(model, tmp_path / "layer.onnx")
    path = tmp_path / "layer.onnx"
    for _ in range(2):
        assert interface_of(dlc.load(path, shapes={"x": (3, 40)})).outputs[0][1].shape == (3, 50)
        assert interface_of(dlc.load(path)).outputs[0][1].shape == (symbol("n"), 50)
    for _ in range(2):
        executable = dlc.compile(dlc.load(path))
        np.testing.assert_allclose(executable(X), answer(X), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(executable(X[:2]), answer(X[:2]), rtol=1e-5, atol=1e-5)
    assert executable.executable({"n": 3}).report.cache == "hit"


def test_warnings_are_repeated(tmp_path):
    model, _ = layer(batch="n")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "m"  # fixed to 40 by the weights
    onnx.save(model, tmp_path / "layer.onnx")
    told = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            graph = dlc.load(tmp_path / "layer.onnx")
        told.append([str(w.message) for w in caught])
    assert isinstance(graph, DeferredGraph) and told[0] == told[1] and len(told[0]) == 1


def test_a_deferred_graph_trains(saved):
    path, _ = saved
    dlc.load(path)
    graph = dlc.load(path)
    step = dlc.compile_training(graph, dlc.losses.mse("y", "t"), dlc.optim.SGD(0.1))
    feeds = {"x": X, "t": np.zeros((3, 50), np.float32)}
    losses = [step.run(feeds) for _ in range(3)]
    assert losses[2] < losses[0]


WARM = """
import json, sys
from dlc.ir import provenance
provenance._SETTLED_NS = -10**18
import numpy, dlc
executable = dlc.compile(dlc.load(sys.argv[1]))
y = executable(numpy.ones((3, 40), "f"))
print(json.dumps([executable.report.cache, float(y.sum()), sorted(sys.modules)]))
"""


def test_a_warm_start_loads_no_compiler(saved, tmp_path):
    path, answer = saved
    environment = {**os.environ, "DLC_CACHE_DIR": str(tmp_path / "warm"), "PYTHONPATH": os.pathsep.join(sys.path)}

    def start():
        command = [sys.executable, "-c", WARM, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert start()[0] == "miss"
    cache, total, modules = start()
    assert cache == "hit" and total == pytest.approx(float(answer(np.ones((3, 40), "f")).sum()), rel=1e-4)
    loaded = {m for m in modules if m.startswith(("onnx", "google.", "dlc.passes", "dlc.ir.ops", "dlc.ir.kernel"))}
    loaded |= {"llvmlite.binding"} & set(modules) if can_load() else set()
    assert not loaded and "dlc.driver.build" not in modules and "dlc.frontends.onnx.loading" not in modules
