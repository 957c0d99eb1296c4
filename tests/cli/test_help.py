"""Help is quick because it imports neither NumPy nor LLVM; every command documents itself."""

import json
import subprocess
import sys

import pytest

from dlc.cli import COMMANDS
from dlc.cli.failures import EXIT_CODES

HEAVY = {"numpy", "llvmlite", "onnx", "onnxruntime", "ml_dtypes", "rich", "torch"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(m for m in sys.modules if "." not in m)), file=sys.stderr))
from dlc.cli import main
main({arguments!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    modules = set(json.loads(done.stderr.strip().splitlines()[-1]))
    assert "click" in modules
    assert not HEAVY & modules


def test_help_names_every_command_and_exit_status(dlc):
    text = " ".join(dlc("--help").output.split())
    assert all(f" {name} " in text for name in COMMANDS)
    assert all(f"{code} " in text for code in {code for _, code in EXIT_CODES})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(dlc, name):
    result = dlc(name, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 3


def test_version(dlc):
    assert dlc("--version").output == "dlc, version 0.1.0\n"


def test_an_unknown_command_is_usage_and_names_the_nearest(dlc):
    result = dlc("comprae", "x")
    assert result.exit_code == 2
    assert "'compare'" in result.output
