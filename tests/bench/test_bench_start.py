"""The scripts that measure starting and dispatch: what they run and report, on the smallest of models."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench import dispatch, start


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A case as ``bench.prepare`` leaves it."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "small", [x], [y], [weight])
    folder = tmp_path / "bench" / "small"
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "model.onnx")
    np.savez(folder / "inputs.npz", **{"0/x": np.ones((2, 4), np.float32), "1/x": np.zeros((2, 4), np.float32)})
    monkeypatch.setattr(start, "FILES", tmp_path / "bench")
    return str(tmp_path / "cache")


def test_a_start_is_a_process_that_reports_its_marks(prepared):
    for expected in ("miss", "hit"):
        facts = start.start("dlc", "small", 1, prepared)
        marks = [facts[mark] for mark in start.MARKS]
        assert facts["cache"] == expected and 0 < marks[0] and marks == sorted(marks)


def test_dispatch_measures_programs_that_all_threads_share():
    executable = dispatch.executable(3, 2)
    assert executable.program.parallel
    assert executable.run({})["o"][:: dispatch.LINE].tolist() == [1, 1]
