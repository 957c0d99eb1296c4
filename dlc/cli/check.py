"""``dlc check``: every problem of a model at once."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dlc.cli.common import console, write_json
from dlc.errors import InvalidModelError
from dlc.facade import check


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "json_path", metavar="FILE", help="Write the problems as JSON ('-': standard output).")
def command(model: Path, json_path: str | None) -> None:
    """List every problem of the ONNX file MODEL. Exit status 0: none; 3: some."""
    if not model.exists():
        raise InvalidModelError(f"{model} does not exist; give the path of an ONNX file")
    problems = check(model)
    if json_path != "-":
        for problem in problems:
            console.print(f"[red]problem[/red] {problem}", highlight=False)
        console.print(f"{len(problems)} problems" if problems else "[green]no problems found[/green]")
    write_json(json_path, {"model": str(model), "problems": [str(p) for p in problems]})
    sys.exit(3 if problems else 0)
