"""``dlc bench``: the report, and what happens when a contender fails."""

import json

import pytest

from dlc import errors
from dlc.cli import measure
from dlc.cli.contenders import Request


def test_a_report_without_a_peer(dlc, linear, tmp_path):
    result = dlc("bench", linear, "--rounds", "2", "--seconds", "0.02", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "first answer" in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    facts = report["contenders"]["dlc"]
    assert facts["cache"] == "hit"
    assert facts["runs"] >= 6
    assert len(facts["round_p50_ms"]) == report["rounds"] == 2
    assert 0 < facts["minimum_ms"] <= facts["p50_ms"] <= facts["p90_ms"] <= facts["p99_ms"]
    assert facts["peak_bytes"] >= facts["steady_bytes"] > facts["idle_bytes"] > 0
    assert facts["cold_first_answer_ms"] > facts["compile_ms"] > 0


def test_the_precision_is_that_of_dlc(dlc, linear, tmp_path):
    report = tmp_path / "report.json"
    result = dlc(
        "bench", linear, "--precision", "bfloat16", "--rounds", 1, "--seconds", "0.02", "--threads", 1, "--json", report
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(report.read_text())
    assert facts["precision"] == "bfloat16" and "bfloat16" in result.output
    assert facts["contenders"]["dlc"]["settings"] == "dlc, bfloat16, 1 threads"


def test_an_error_in_a_worker_keeps_its_type(tmp_path):
    inputs = tmp_path / "inputs.npz"
    measure.np.savez(inputs, **{"0/x": measure.np.zeros(1, "float32")})
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(errors.InvalidModelError):
        with measure.working_process("dlc", inputs, Request(str(tmp_path / "bad.onnx"), 1)):
            pass


def test_a_worker_that_dies_is_named_with_its_last_words(tmp_path):
    with pytest.raises(errors.CompileError, match=r"process of dlc ended early: .*No such file"):
        with measure.working_process("dlc", tmp_path / "absent.npz", Request("digits_cnn", 1)):
            pass
