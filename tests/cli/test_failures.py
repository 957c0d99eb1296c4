"""Wrong inputs end as one clean message and a documented exit status, never as a traceback."""

import errno
import os
import signal

import click
import numpy as np
import pytest
from click.testing import CliRunner
from model_files import linear_model, write_model

from dlc import errors
from dlc.cli.failures import exit_code, reported


def failed(result, code, *words):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output, result.output


@pytest.mark.parametrize("command", ["info", "compile", "run", "compare", "bisect", "profile", "bench"])
def test_a_model_that_does_not_exist_is_usage(dlc, command):
    failed(dlc(command, "missing.onnx"), 2, "missing.onnx")
    failed(dlc(command, "resnet51"), 2, "Did you mean 'resnet50'?")


def test_a_folder_is_no_model(dlc, tmp_path):
    failed(dlc("info", tmp_path), 2, "folder")


@pytest.mark.parametrize("content", [b"", b"hello, world", os.urandom(4096), linear_model().SerializeToString()[:-40]])
def test_a_damaged_file_is_an_invalid_model(dlc, tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    failed(dlc("info", path), 3, "error: ")
    failed(dlc("check", path), 3, "error: ")


def test_unknown_ops_and_versions_are_unsupported(dlc, tmp_path):
    failed(dlc("compile", write_model(tmp_path / "op.onnx", op="Frobnicate")), 4, "UnsupportedOpError", "Frobnicate")
    failed(dlc("info", write_model(tmp_path / "opset.onnx", opset=999)), 4, "UnsupportedVersionError", "999")


def test_shapes_that_do_not_fit_are_usage(dlc, linear):
    for text, word in (("x=1,5", "x"), ("z=1,4", "z"), ("x", "NAME="), ("x=a,b", "NAME="), ("x=1,2,3", "x")):
        failed(dlc("info", linear, "--shape", text), 2, word)


@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_numbers_that_bound_nothing_are_usage(dlc, number):
    for command, option in (("compare", "--tolerance"), ("bisect", "--tolerance"), ("bench", "--seconds")):
        failed(dlc(command, "mlp", option, number), 2, option, number)
    failed(dlc("train", "--lr", number), 2, "--lr", number)


def test_inputs_that_do_not_fit(dlc, linear, tmp_path):
    good = np.zeros((1, 4), np.float32)
    cases = {
        "name": {"z": good},
        "extra": {"x": good, "z": good},
        "empty": {},
        "rank": {"x": np.zeros(4, np.float32)},
        "dtype": {"x": np.zeros((1, 4), np.complex64)},
        "objects": {"x": np.array([[object()] * 4])},
    }
    for case, arrays in cases.items():
        path = tmp_path / f"{case}.npz"
        np.savez(path, **arrays)
        failed(dlc("run", linear, "-i", path), 2, "InputError", path.name if case != "dtype" else "x")


def test_inputs_that_are_no_archive(dlc, linear, tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((1, 4), np.float32))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "good.npz", x=np.zeros((100, 4), np.float32))
    (tmp_path / "short.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:900])
    for name in ("one.npy", "text.npz", "empty.npz", "short.npz"):
        failed(dlc("run", linear, "-i", tmp_path / name), 2, name)
    failed(dlc("run", linear, "-i", tmp_path / "absent.npz"), 2, "absent.npz")


def test_outputs_that_cannot_be_written_are_refused_before_the_work(dlc, linear, tmp_path):
    failed(dlc("run", linear, "-o", tmp_path / "no" / "out.npz"), 2, "does not exist")
    failed(dlc("run", linear, "-o", tmp_path), 2, "directory")
    failed(dlc("info", linear, "--json", tmp_path / "no" / "x.json"), 2, "does not exist")
    failed(dlc("compile", linear, "--dump", linear), 2, "linear.onnx")
    failed(dlc("train", "--export", tmp_path / "no" / "digits.onnx"), 2, "does not exist")


def test_a_device_stays_a_device_when_written_to(dlc, linear):
    assert dlc("run", linear, "-o", os.devnull).exit_code == 0
    assert not os.path.isfile(os.devnull)


def test_options_that_make_no_sense_are_usage(dlc, linear, monkeypatch):
    failed(dlc("bench", linear, "--vs", "abacus"), 2, "onnxruntime")
    failed(dlc("compare", linear, "--ref", "abacus"), 2, "abacus")
    failed(dlc("run", linear, "--threads", "0"), 2, "--threads")
    failed(dlc("train", "--resume"), 2, "--checkpoint")
    failed(dlc("cache", "prune", "--limit", "much"), 2, "much")
    failed(dlc("cache", "prune", "--limit", "1K", "--all"), 2, "exclude")
    monkeypatch.setenv("DLC_NUM_THREADS", "many")
    failed(dlc("run", linear), 2, "ConfigError", "DLC_NUM_THREADS")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidModelError("x"), 3),
        (errors.ExternalDataError("x"), 3),
        (errors.TypeRuleError("x"), 3),
        (errors.GraphError("x"), 3),
        (errors.UnsupportedOpError("x"), 4),
        (errors.UnsupportedVersionError("x"), 4),
        (errors.CompileError("x"), 4),
        (errors.NotDifferentiableError("x"), 4),
        (errors.ResourceLimitError("x"), 5),
        (MemoryError(), 5),
        (errors.InputError("x"), 2),
        (errors.ConfigError("x"), 2),
        (errors.CheckpointError("x"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "file"), 2),
        (errors.VerificationError("x"), 70),
        (KeyError("x"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_statuses(error, code):
    @click.command()
    def command():
        with reported():
            raise error

    result = CliRunner().invoke(command)
    assert result.exit_code == code
    assert ("Traceback" in result.output) == isinstance(error, KeyError)
    if not isinstance(error, KeyboardInterrupt):
        assert exit_code(error) == code


def test_notes_of_an_error_are_shown(tmp_path):
    @click.command()
    def command():
        with reported():
            error = errors.GraphError("first \x1b[31m")
            error.add_note("second")
            raise error

    output = CliRunner().invoke(command).output
    assert output == "error: GraphError: first \\x1b[31m\n  second\n"


def test_a_broken_pipe_is_silent(dlc_process, linear):
    reader, writer = os.pipe()
    process = dlc_process("info", linear, stdout=writer)
    os.close(reader)
    os.close(writer)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "Error" not in words
    assert "Traceback" not in words


def test_a_full_device_is_reported(dlc_process, linear):
    with open("/dev/full", "w") as full:
        process = dlc_process("info", linear, "--json", "-", stdout=full)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "No space left" in words
    assert "Traceback" not in words


def test_ctrl_c_ends_training_with_130_and_a_whole_checkpoint(dlc, dlc_process, tmp_path):
    saved = tmp_path / "state.safetensors"
    process = dlc_process("train", "--network", "mlp", "--epochs", "100000", "--checkpoint", saved)
    assert process.stdout.readline().startswith("epoch 1/")
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on" in words
    assert "Traceback" not in words
    result = dlc("train", "--network", "mlp", "--epochs", "1", "--checkpoint", saved, "--resume")
    assert result.exit_code == 0, result.output
    assert "resumed" in result.output
