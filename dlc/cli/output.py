"""How commands print: tables, progress, sizes and JSON. Text of a model is never read as markup."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlc.cli.failures import printable

PLAIN_WIDTH = 160  # of tables that are not printed on a terminal


class _Console(Console):
    """A console that leaves broken pipes to the command group."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _width(stream: TextIO) -> int | None:
    """A terminal's own width, or room enough."""
    return None if stream.isatty() else PLAIN_WIDTH


console = _Console(width=_width(sys.stdout))
notes = _Console(stderr=True, width=_width(sys.stderr))


def say(text: object, style: str = "") -> None:
    """Print one line of results."""
    console.print(Text(printable(text), style=style), soft_wrap=True)


def note(text: object) -> None:
    """Print one line that is not a result, to standard error."""
    notes.print(Text(printable(text), style="dim"), soft_wrap=True)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show on a terminal that work is going on during the block."""
    if notes.is_terminal:
        with notes.status(Text(printable(text))):
            yield
    else:
        yield


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; columns whose name ends in ``#`` are numbers, aligned right. No columns: no heading."""
    say(title, style="bold")
    made = Table(box=box.SIMPLE_HEAD, header_style="bold", show_header=any(columns), pad_edge=False)
    for number, column in enumerate(columns):
        heading = Text(column.removesuffix("#"))
        if column.endswith("#"):
            widest = max((len(str(row[number])) for row in rows), default=0)
            made.add_column(heading, justify="right", min_width=max(widest, len(heading)))
        else:
            made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*[Text(printable(cell)) for cell in row])
    console.print(made)


def size_text(count: float) -> str:
    """Return bytes as text with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def count_text(count: float) -> str:
    """Return a count with a decimal unit: 25.60 M."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.0f}" if not unit else f"{count:.2f}{unit}"
        count /= 1000
    return f"{count:.2f} T"


def write_json(path: str | None, payload: Mapping[str, Any]) -> None:
    """Write ``payload`` to ``path``, or to standard output for ``-``; nothing for None."""
    if path is None:
        return
    text = json.dumps({"schema": 1, **payload}, indent=2, default=str)
    if path == "-":
        click.echo(text)
    else:
        Path(path).write_text(text + "\n", encoding="utf-8")
