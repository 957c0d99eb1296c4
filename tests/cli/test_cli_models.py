"""Commands on models: what they print, write and return."""

import json

import numpy as np
import onnx
import pytest
from model_files import branching_model, write_model

from dlc import models


def test_info_of_a_file(dlc, linear):
    result = dlc("info", linear)
    assert result.exit_code == 0, result.output
    for expected in ("float32[batch, 4]", "float32[batch, 3]", "a test", "ai.onnx 20", "15"):
        assert expected in result.output


def test_info_as_json_leaves_standard_output_to_the_json(dlc, linear):
    facts = json.loads(dlc("info", linear, "--json", "-").stdout)
    assert facts["inputs"] == {"x": "float32[batch, 4]"}
    assert facts["parameters"] == 15
    assert facts["flops"] >= 24


def test_info_of_a_builtin_model_lists_all_ops_on_request(dlc):
    assert "--ops lists all" in dlc("info", "digits_cnn").output
    assert "--ops lists all" not in dlc("info", "digits_cnn", "--ops").output


def test_names_in_a_model_are_shown_as_they_are(dlc, tmp_path):
    path = write_model(tmp_path / "odd.onnx", name="[red]x[/red]\x1b[2J")
    result = dlc("info", path)
    assert result.exit_code == 0, result.output
    assert "[red]x[/red]" in result.output
    assert "\x1b[2J" not in result.output


def test_compile_reports_the_cache_and_dumps(dlc, linear, tmp_path):
    first = json.loads(dlc("compile", linear, "--json", "-", "--threads", "1", "--shape", "x=5,4").stdout)
    second = json.loads(dlc("compile", linear, "--json", "-", "--threads", "1", "--shape", "x=5,4").stdout)
    assert (first["cache"], second["cache"]) == ("miss", "hit")
    assert set(first["phases_ms"]) >= {"passes", "lower", "plan", "code", "load"}
    assert first["code_bytes"] > 0
    assert dlc("compile", linear, "--dump", tmp_path / "dump").exit_code == 0
    names = [p.name for p in (tmp_path / "dump").iterdir()]
    assert {"kernels.py", "plan.txt", "assembly.s", "module-0.ll"} <= set(names)
    assert any(n.startswith("00-input") for n in names)


def test_run_reads_inputs_and_writes_results(dlc, linear, tmp_path):
    x = np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    result = dlc("run", linear, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert result.exit_code == 0, result.output
    reference = dlc("run", linear, "-i", tmp_path / "in.npz", "-o", tmp_path / "ref.npz", "--interpreter")
    assert reference.exit_code == 0, reference.output
    with np.load(tmp_path / "out.npz") as mine, np.load(tmp_path / "ref.npz") as theirs:
        assert mine["y"].shape == (7, 3)
        np.testing.assert_allclose(mine["y"], theirs["y"], rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz", "linear.onnx", "out.npz", "ref.npz"]


@pytest.mark.parametrize("reference", ["interpreter", "onnxruntime"])
def test_compare_agrees(dlc, linear, reference):
    if reference == "onnxruntime":
        pytest.importorskip("onnxruntime")
    result = dlc("compare", linear, "--ref", reference, "--shape", "x=3,4")
    assert result.exit_code == 0, result.output
    facts = json.loads(dlc("compare", linear, "--ref", reference, "--json", "-").stdout)
    assert facts["agrees"]
    assert facts["worst"] == "y"


def test_compare_names_the_output_and_returns_1_when_results_differ(dlc, linear, monkeypatch):
    monkeypatch.setattr("dlc.cli.compare.interpret", lambda graph, feeds: {"y": np.ones((1, 3), np.float32)})
    result = dlc("compare", linear)
    assert result.exit_code == 1
    assert "worst output: y" in result.output
    assert "first diverging node" in result.output


def test_bisect_blames_no_step_of_a_good_model(dlc, linear):
    result = dlc("bisect", linear)
    assert result.exit_code == 0, result.output
    assert "code generation" in result.output
    assert "no step changes values" in result.output


def test_bisect_names_the_step_that_changes_values(dlc, linear, monkeypatch):
    def after_each_pass(graph, feeds):
        yield "input", {"y": np.zeros((1, 3), np.float32)}
        yield "fold", {"y": np.zeros((1, 3), np.float32)}
        yield "layout", {"y": np.ones((1, 3), np.float32)}

    monkeypatch.setattr("dlc.cli.bisect.after_each_pass", after_each_pass)
    result = dlc("bisect", linear)
    assert result.exit_code == 1
    assert "first step that changes values: layout" in result.output


def test_profile_lists_steps_and_writes_a_trace(dlc, linear, tmp_path):
    result = dlc("profile", linear, "--runs", "2", "--trace", tmp_path / "trace.json")
    assert result.exit_code == 0, result.output
    assert "GFLOP/s" in result.output
    assert "% of floor" in result.output and "least time" in result.output
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert events and all("% of floor" in event["args"] for event in events)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_profile_writes_a_page(dlc, linear, tmp_path, precision):
    path = tmp_path / "profile.html"
    result = dlc("profile", linear, "--runs", "2", "--precision", precision, "--threads", "1", "--html", path)
    assert result.exit_code == 0, result.output
    assert "Profile of linear" in path.read_text(encoding="utf-8")
    assert str(path) in result.output


def test_a_page_that_cannot_be_written_is_usage(dlc, linear, tmp_path):
    result = dlc("profile", linear, "--html", tmp_path / "absent" / "profile.html")
    assert result.exit_code == 2 and "does not exist" in result.output


def test_check_of_a_good_model(dlc, linear):
    result = dlc("check", linear)
    assert (result.exit_code, result.output) == (0, "no problems found\n")


def test_check_lists_every_problem(dlc, tmp_path):
    path = write_model(tmp_path / "bad.onnx", op="Frobnicate")
    result = dlc("check", path, "--json", "-")
    assert result.exit_code == 4
    problems = json.loads(result.stdout)["problems"]
    assert {p["error"] for p in problems} == {"UnsupportedOpError"}
    assert all("Frobnicate" in p["message"] for p in problems)


def test_builtin_models_are_seeded(dlc, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = dlc("run", "digits_cnn", "--seed", seed, "-o", tmp_path / f"{name}.npz", "--interpreter")
        assert result.exit_code == 0, result.output
    a, b, c = (np.load(tmp_path / f"{n}.npz")["logits"] for n in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert "digits_cnn" in models.names()


def test_a_model_that_only_the_interpreter_runs(dlc, tmp_path):
    path = tmp_path / "choice.onnx"
    onnx.save(branching_model(), path)
    checked = dlc("check", path)
    assert checked.exit_code == 0
    assert "warning" in checked.output
    assert "choice" in checked.output
    assert "interpreter only" in dlc("info", path).output
    refused = dlc("run", path)
    assert refused.exit_code == 4
    assert "--interpreter" in refused.output
    assert dlc("run", path, "--interpreter").exit_code == 0
