"""The ONNX backend interface over a compile function, here the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from node_cases import cases, difference
from onnx.backend.base import Backend
from onnx_models import info, model, node, single

from dlc.errors import InputError
from dlc.frontends.onnx.backend import make_backend, parse_device
from dlc.ir.graph import Graph
from dlc.ir.interpret import interpret


class Interpreted:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, inputs: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return interpret(self.graph, inputs)


compiled: list[tuple[Graph, str]] = []


def compile_graph(graph: Graph, *, device: str) -> Interpreted:
    compiled.append((graph, device))
    return Interpreted(graph)


backend = make_backend(compile_graph, devices=("CPU", "CUDA"))


def two_outputs() -> onnx.ModelProto:
    nodes = [node("Sub", ["a", "b"], ["d"]), node("Neg", ["d"], ["n"])]
    return model(nodes, [info("a", ["n", 2]), info("b", ["n", 2])], [info("d", None), info("n", None)])


def test_is_a_backend() -> None:
    assert issubclass(backend, Backend)
    assert backend.supports_device("CPU") and backend.supports_device("CUDA:1") and not backend.supports_device("TPU")
    assert backend.is_compatible(two_outputs())
    assert [parse_device(d) for d in ("CPU", "CUDA", "CUDA:1")] == ["cpu", "cuda", "cuda:1"]
    assert not make_backend(compile_graph).supports_device("CUDA")


def test_prepare_runs_lists_mappings_and_names() -> None:
    a, b = np.full((3, 2), 5, np.float32), np.ones((3, 2), np.float32)
    prepared = backend.prepare(two_outputs(), "CUDA:1")
    by_list = prepared.run([a, b])
    by_name = prepared.run({"b": b, "a": a})
    assert compiled[-1][1] == "cuda:1"
    np.testing.assert_array_equal(by_list[0], 4)
    np.testing.assert_array_equal(by_list.output_1, -4)
    np.testing.assert_array_equal(by_name[0], 4)


def test_dynamic_models_compile_once_per_shape() -> None:
    prepared = backend.prepare(two_outputs())
    before = len(compiled)
    for rows in (1, 4, 1, 4):
        x = np.ones((rows, 2), np.float32)
        assert prepared.run([x, x])[0].shape == (rows, 2)
    assert len(compiled) == before + 2


def test_paths_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(single("Relu", [[2]]), path)
    x = np.array([-1, 1], np.float32)
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(backend.run_model(source, [x])[0], [0, 1])
    np.testing.assert_array_equal(backend.prepare(path).run(x)[0], [0, 1])


def test_run_node() -> None:
    made = onnx.helper.make_node("Add", ["x", "y"], ["z"])
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(backend.run_node(made, [x, x])[0], 2)
    np.testing.assert_array_equal(backend.run_node(made, {"x": x, "y": x}, opset_version=13)[0], 2)


def test_wrong_inputs_and_devices() -> None:
    with pytest.raises(InputError, match="takes 2: a, b"):
        backend.prepare(two_outputs()).run([np.ones((1, 2), np.float32)])
    with pytest.raises(InputError, match="TPU"):
        backend.prepare(two_outputs(), "TPU")


def test_cases_through_the_interface() -> None:
    for name in ("test_add_bcast", "test_conv_with_strides_padding", "test_lstm_defaults", "test_gather_0"):
        case = next(c for c in cases() if c.name == name)
        results = backend.run_model(case.model, case.inputs)
        assert not difference(case, dict(zip([o.name for o in case.model.graph.output], results)))
