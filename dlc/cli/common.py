"""What commands share: their options, finding a model, and its inputs."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from dlc.cli.arrays import read_arrays
from dlc.cli.output import note, working
from dlc.driver.options import PRECISIONS, binding_from_shapes, graph_symbols
from dlc.errors import DlcError, InputError
from dlc.facade import compile as compile_model
from dlc.facade import load
from dlc.frontends import models
from dlc.ir.graph import Graph, Role
from dlc.ir.types import TensorType
from dlc.passes.bind import bind
from dlc.runtime.executable import Executable

Shapes = Mapping[str, tuple[int, ...]]


class OutputPath(click.Path):
    """The path of a file that a command will write; refused at once if its folder cannot take it."""

    name = "file"

    def __init__(self, allow_dash: bool = False) -> None:
        super().__init__(dir_okay=False, writable=True, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = str(super().convert(value, param, ctx))
        folder = Path(path).parent
        if path != "-" and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            problem = "cannot be written" if folder.is_dir() else "does not exist"
            self.fail(f"folder {str(folder)!r} {problem}", param, ctx)
        return path


class FiniteRange(click.FloatRange):
    """A range of numbers; NaN, which is in every range, and infinity are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number


precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=PRECISIONS[0],
    show_default=True,
    help="Precision of matrix products and convolutions.",
)
_model = click.argument("model")
_shape = click.option(
    "--shape", "shape_texts", multiple=True, metavar="NAME=D0,D1,...", help="Give an input its shape; may be repeated."
)
_threads = click.option("--threads", type=click.IntRange(1, 1024), help="Threads of a run (default: all processors).")
_seed = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of generated weights and inputs."
)
json_option = click.option(
    "--json", "json_path", type=OutputPath(allow_dash=True), help="Write the facts as JSON ('-': standard output)."
)
inputs_option = click.option(
    "-i",
    "--inputs",
    "inputs_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
    help="Arrays by input name (.npz); default: seeded random ones.",
)
tolerance_option = click.option(
    "--tolerance",
    type=FiniteRange(0),
    default=1e-4,
    show_default=True,
    help="Largest difference allowed, relative to an output's largest value.",
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add MODEL, --shape, --threads and --seed to a command."""
    for option in (_seed, _threads, _shape, _model):
        command = option(command)
    return command


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Parse ``name=1,3,224,224`` options; click.BadParameter if one is malformed."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, separator, dims = text.rpartition("=")
        try:
            shape = tuple(int(d) for d in dims.split(",")) if dims.strip() else ()
        except ValueError:
            separator = ""
        if not separator or not name:
            raise click.BadParameter(f"{text!r} is not NAME=D0,D1,... with whole numbers", param_hint="--shape")
        shapes[name] = shape
    return shapes


@dataclass(frozen=True)
class Model:
    """A model as the commands see it: its graph as declared, the same with all dimensions bound, its path if a file."""

    name: str
    declared: Graph
    graph: Graph
    path: Path | None


def find_model(name: str, shapes: Shapes, seed: int = 0) -> Model:
    """Load the ONNX file ``name``, or build the model that has this name; unbound dimensions become 1.

    Raises click.BadParameter if there is neither, a DlcError for a bad model or shapes that do not fit.
    """
    path = Path(name)
    if path.is_file():
        with working(f"reading {path.name}"):
            declared, found = load(path, shapes=shapes or None), path
    elif name in models.names():
        with working(f"building {name}"):
            declared, found = models.build(name, seed=seed), None
    else:
        raise click.BadParameter(_not_found(name, path), param_hint="MODEL")
    binding = binding_from_shapes(declared, shapes)
    defaults = {symbol: 1 for symbol in graph_symbols(declared) if symbol not in binding}
    if defaults:
        note(f"dimensions set to 1: {', '.join(defaults)}; --shape chooses others")
    bound = bind(declared, {**defaults, **binding}) if graph_symbols(declared) else declared
    return Model(path.stem if found else name, declared, bound, found)


def _not_found(name: str, path: Path) -> str:
    known = ", ".join(models.names())
    if path.is_dir():
        return f"{name!r} is a folder; give the ONNX file in it"
    if path.suffix or os.sep in name:
        return f"there is no file {name!r}"
    near = difflib.get_close_matches(name, models.names(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is neither a file nor a built-in model ({known}).{hint}"


def find_model_and_inputs(
    name: str, shape_texts: tuple[str, ...], seed: int, inputs_path: Path | None
) -> tuple[Model, dict[str, np.ndarray]]:
    """Find a model and read its inputs from a file, which then also fixes the shapes, or generate them."""
    shapes = parse_shapes(shape_texts)
    if inputs_path is None:
        found = find_model(name, shapes, seed)
        return found, generated_inputs(found.graph, seed)
    arrays = read_arrays(inputs_path)
    try:
        found = find_model(name, {**{key: array.shape for key, array in arrays.items()}, **shapes}, seed)
        wanted = fed_inputs(found.graph)
        if set(arrays) != set(wanted):
            raise InputError(f"it holds {', '.join(sorted(arrays)) or 'nothing'}; the model takes {', '.join(wanted)}")
    except DlcError as error:
        error.add_note(f"inputs and their shapes come from {inputs_path}")
        raise
    return found, arrays


def compiled(found: Model, threads: int | None, dump: Path | None = None, precision: str = PRECISIONS[0]) -> Executable:
    """Compile a model whose dimensions are bound, showing on a terminal that this goes on."""
    with working(f"compiling {found.name}"):
        executable = compile_model(found.graph, threads=threads, precision=precision, dump=dump)
    assert isinstance(executable, Executable)
    return executable


def fed_inputs(graph: Graph) -> dict[str, TensorType]:
    """Return the inputs that a run is fed, with their types."""
    return {spec.name: value.type for value, spec in graph.inputs_with(Role.DATA, Role.TARGET)}


def generated_inputs(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Return seeded arrays for every input: normal floats, small non-negative integers, random bools."""
    return models.example_inputs(graph, seed)
