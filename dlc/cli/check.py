"""``dlc check``: every problem of a model at once."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.text import Text

from dlc.cli.common import json_option
from dlc.cli.failures import INVALID_MODEL, exit_code, printable
from dlc.cli.output import console, say, working, write_json
from dlc.errors import CompileError
from dlc.facade import load
from dlc.frontends.onnx.problems import Problem
from dlc.ir.opdef import Trait
from dlc.tools import check


def interpreted_only(model: Path) -> list[Problem]:
    """Return a warning for every node of a valid model that has no compiled form."""
    return [
        Problem(CompileError(f"{node!r}: {node.op.name} runs in the interpreter only"), node.label, "warning")
        for node in load(model).nodes
        if node.op.has(Trait.HOST)
    ]


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True))
@json_option
def command(model: Path, json_path: str | None) -> None:
    """List every problem of the ONNX file MODEL.

    Exit status 0: none, or warnings only; 3: the model is invalid; 4: it is valid but uses what dlc does not support.
    """
    with working(f"checking {model.name}"):
        problems = check(model)
        errors = [p for p in problems if p.severity == "error"]
        if not errors:
            problems = [*problems, *interpreted_only(model)]
    if json_path != "-":
        for problem in problems:
            kind = Text(f"{problem.severity}: ", style="red" if problem.severity == "error" else "yellow")
            console.print(kind + Text(printable(f"{type(problem.error).__name__}: {problem.message}")), soft_wrap=True)
        many = f"{len(errors)} error{'s' * (len(errors) != 1)}, {len(problems) - len(errors)} warnings"
        say(many if problems else "no problems found", style="red" if errors else "green")
    listed = [
        {"severity": p.severity, "error": type(p.error).__name__, "node": p.node, "message": p.message}
        for p in problems
    ]
    write_json(json_path, {"model": str(model), "problems": listed})
    codes = {exit_code(p.error) for p in errors}
    sys.exit(INVALID_MODEL if INVALID_MODEL in codes else max(codes, default=0))
