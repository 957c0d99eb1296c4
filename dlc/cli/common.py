"""What commands share: finding a model, making inputs, and printing tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from dlc.driver.options import binding_from_shapes, graph_symbols
from dlc.errors import InputError, InvalidModelError
from dlc.facade import load
from dlc.frontends import models
from dlc.ir.graph import Graph, Role
from dlc.ir.types import TensorType
from dlc.passes.bind import bind

console = Console()

_model = click.argument("model")
_shape = click.option(
    "--shape",
    "shape_texts",
    multiple=True,
    metavar="NAME=D0,D1,...",
    help="Bind an input's symbolic dimensions; may be repeated.",
)
_threads = click.option("--threads", type=click.IntRange(1, 1024), help="Threads of a run (default: all processors).")
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Seed of generated weights and inputs.")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add MODEL, --shape, --threads and --seed to a command."""
    for option in (_seed, _threads, _shape, _model):
        command = option(command)
    return command


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Parse ``name=1,3,224,224`` options; click.BadParameter if one is malformed."""
    shapes = {}
    for text in texts:
        name, separator, dims = text.partition("=")
        try:
            shapes[name] = tuple(int(d) for d in dims.split(",") if d.strip())
        except ValueError:
            separator = ""
        if not separator or not name:
            raise click.BadParameter(f"{text!r} is not NAME=D0,D1,... with whole numbers", param_hint="--shape")
    return shapes


@dataclass(frozen=True)
class Model:
    """A model as the commands see it: its graph, where it came from, and its path if it is a file."""

    name: str
    graph: Graph
    path: Path | None


def find_model(name: str, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Model:
    """Load the ONNX file ``name``, or build the model that has this name; unbound symbols become 1."""
    path = Path(name)
    if path.exists():
        graph, found = load(path, shapes=shapes or None), path
    elif name in models.names():
        graph, found = models.build(name, seed=seed), None
    else:
        known = ", ".join(models.names())
        raise InvalidModelError(f"{name!r} is neither a file nor a built-in model; built-in are {known}")
    binding = binding_from_shapes(graph, shapes)
    defaults = {symbol: 1 for symbol in graph_symbols(graph) if symbol not in binding}
    if defaults:
        console.print(f"[dim]unbound dimensions set to 1: {', '.join(defaults)}; use --shape to choose[/dim]")
    return Model(path.stem if found else name, bind(graph, {**defaults, **binding}), found)


def fed_inputs(graph: Graph) -> dict[str, TensorType]:
    """Return the inputs that a run is fed, with their types."""
    return {spec.name: value.type for value, spec in graph.inputs_with(Role.DATA, Role.TARGET)}


def generated_inputs(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Return seeded arrays for every input: normal floats, small non-negative integers, random bools."""
    return models.example_inputs(graph, seed)


def read_inputs(path: Path, graph: Graph) -> dict[str, np.ndarray]:
    """Read arrays by input name from an .npz file; InputError if it is none or names differ."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable .npz archive of plain arrays: {error}") from error
    wanted = fed_inputs(graph)
    if set(arrays) != set(wanted):
        raise InputError(f"{path} holds {', '.join(sorted(arrays))}; the model takes {', '.join(wanted)}")
    return arrays


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table; columns whose name ends in ``#`` are numbers, aligned right."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left")
    for row in rows:
        made.add_row(*[str(cell) for cell in row])
    console.print(made)


def size_text(count: float) -> str:
    """Return bytes as text with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def count_text(count: float) -> str:
    """Return a count with a decimal unit: 25.6 M."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.0f}{unit}" if not unit else f"{count:.2f}{unit}"
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
