"""``dlc train``: progress, checkpoints that resume bit for bit, and the exported model."""

import json
import re

import pytest


def train(dlc, *arguments):
    result = dlc("train", "--network", "mlp", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def losses(text):
    return re.findall(r"epoch (\d+)/\d+  (loss \S+ .*)", text)


def test_training_reports_each_epoch_and_learns(dlc):
    text = train(dlc, "--epochs", "6")
    assert [number for number, _ in losses(text)] == list("123456")
    assert float(re.search(r"test accuracy ([\d.]+)%", text)[1]) > 90


def test_resuming_continues_as_if_never_stopped(dlc, tmp_path):
    saved = tmp_path / "state.safetensors"
    whole = losses(train(dlc, "--epochs", "4"))
    first = losses(train(dlc, "--epochs", "2", "--checkpoint", saved))
    second = losses(train(dlc, "--epochs", "4", "--checkpoint", saved, "--resume"))
    assert [line for _, line in first + second] == [line for _, line in whole]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_optimizers(dlc, optimizer):
    assert len(losses(train(dlc, "--epochs", "1", "--optimizer", optimizer, "--lr", "0.01"))) == 1


def test_a_checkpoint_of_another_network_is_refused(dlc, tmp_path):
    saved = tmp_path / "state.safetensors"
    train(dlc, "--epochs", "1", "--checkpoint", saved)
    result = dlc("train", "--network", "digits_cnn", "--epochs", "2", "--checkpoint", saved, "--resume")
    assert result.exit_code == 2
    assert "CheckpointError" in result.output
    assert "Traceback" not in result.output


def test_the_exported_network_agrees_with_onnxruntime(dlc, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "digits.onnx"
    train(dlc, "--epochs", "1", "--export", path)
    assert dlc("check", path).exit_code == 0
    result = dlc("compare", path, "--ref", "onnxruntime", "--shape", "x=5,64")
    assert result.exit_code == 0, result.output
    report = dlc("bench", path, "--vs", "onnxruntime", "--rounds", "2", "--seconds", "0.05", "--json", "-")
    assert report.exit_code == 0, report.output
    facts = json.loads(report.stdout)
    assert set(facts["contenders"]) == {"dlc", "onnxruntime"}
    assert facts["relative_error"] < 1e-4


def test_a_memory_limit_is_kept_and_told(dlc):
    text = train(dlc, "--epochs", "1", "--memory-limit", "4M")
    assert re.search(r"intermediate values take \S+ [KM]iB, \S+ [KM]iB without a limit", text)
    result = dlc("train", "--network", "mlp", "--memory-limit", "1K", "--epochs", "1")
    assert result.exit_code != 0 and "ResourceLimitError" in result.output and "Traceback" not in result.output
