"""The documentation is true: its code runs, its references are those of the sources, its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_runner import blocks

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [ROOT / "docs" / name for name in ("tutorial.md", "add-an-op.md", "add-a-pass.md", "deployment.md")]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def environment(tmp_path):
    return {
        **os.environ,
        "DLC_CACHE_DIR": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_the_code_of_a_page_runs(path, tmp_path):
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "work"
    folder.mkdir()
    runner = ROOT / "tests" / "docs_runner.py"
    done = subprocess.run(
        [sys.executable, str(runner), str(path)],
        cwd=folder, env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]


def test_pages_that_are_run_have_code():
    assert all(list(blocks(path.read_text())) for path in RUN)


def test_the_examples_of_the_readme_run(tmp_path):
    """Python blocks only: the shell blocks are the commands of a fresh machine."""
    code = "\n".join(text for kind, text, _ in blocks((ROOT / "README.md").read_text()) if kind == "python")
    assert code.count("import dlc") >= 1
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]


def test_references_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun `python docs/generate.py`"


def test_the_continuous_check_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^\.venv/bin/python -m pytest.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{name_of(path)} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_named_in_a_page_exist(path):
    for name in re.findall(r"`((?:dlc|frontends|tests|docs|bench)/[\w./-]+\.(?:py|md))`", path.read_text()):
        assert (ROOT / name).exists(), f"{name_of(path)} names {name}"
