"""What is installed is what is here: every package and data file is named, the frontends are reached by a link."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    found = set()
    for top, prefix in ((ROOT / "dlc", "dlc"), (ROOT / "frontends", "dlc.frontends")):
        for path in top.rglob("__init__.py"):
            parts = path.parent.relative_to(top).parts
            if top.name != "dlc" or parts[:1] != ("frontends",):
                found.add(".".join((prefix, *parts)))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_data_file_is_listed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["dlc.frontends.models"]
    folder = ROOT / "frontends" / "models"
    listed = {path for pattern in patterns for path in folder.glob(pattern)}
    link = ROOT / "dlc" / "frontends"
    others = {
        path
        for path in (*(ROOT / "frontends").rglob("*"), *(ROOT / "dlc").rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc") and link not in path.parents
    }
    assert listed == others


def test_the_frontends_are_reached_by_a_link():
    assert os.readlink(ROOT / "dlc" / "frontends") == "../frontends"


def test_the_version_is_stated_twice_alike():
    done = subprocess.run(
        [sys.executable, "-c", "import dlc; print(dlc.__version__)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == PROJECT["project"]["version"]


@pytest.mark.slow
def test_the_wheel_holds_packages_and_data(tmp_path):
    source = tmp_path / "source"  # a build writes beside the sources
    for name in ("dlc", "frontends"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("dlc-*.whl")
    listing = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
    ).stdout
    for name in ("dlc/frontends/models/digits.npz", "dlc/frontends/onnx/importer.py", "dlc/ir/ops/contract.py"):
        assert name in listing
