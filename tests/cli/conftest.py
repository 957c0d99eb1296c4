"""A private code cache, a small model as a file, and ways to call the command line."""

import subprocess
import sys

import pytest
from click.testing import CliRunner
from model_files import write_model

from dlc.cli import main


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "code-cache"
    monkeypatch.setenv("DLC_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def dlc():
    """Call a command in this process."""

    def call(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return call


@pytest.fixture
def dlc_process():
    """Start a command in a process of its own."""

    def start(*arguments, **options):
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen([sys.executable, "-m", "dlc", *map(str, arguments)], **settings)

    return start


@pytest.fixture
def linear(tmp_path):
    """The path of a small valid model."""
    return write_model(tmp_path / "linear.onnx")
