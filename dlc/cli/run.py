"""``dlc run``: run a model on arrays from a file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from dlc.cli.arrays import write_arrays
from dlc.cli.common import OutputPath, compiled, find_model_and_inputs, inputs_option, model_options, precision_option
from dlc.cli.output import say, table
from dlc.tools import interpret


def describe(name: str, array: np.ndarray) -> list[object]:
    """Return name, dtype, shape, smallest, mean and largest element, and whether all are finite."""
    head = [name, array.dtype, list(array.shape)]
    if array.size == 0 or array.dtype.kind not in "biufV":
        return [*head, "-", "-", "-", "-"]
    numbers = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        figures = [f"{f(numbers):.6g}" for f in (np.min, np.mean, np.max)]
    return [*head, *figures, "yes" if np.isfinite(numbers).all() else "no"]


@click.command("run")
@model_options
@precision_option
@inputs_option
@click.option("-o", "--outputs", "outputs_path", type=OutputPath(), help="Where to write the results (.npz).")
@click.option("--interpreter", is_flag=True, help="Run the NumPy interpreter instead of compiled code.")
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    precision: str,
    inputs_path: Path | None,
    outputs_path: str | None,
    interpreter: bool,
) -> None:
    """Run MODEL once and show, or write, its results."""
    found, feeds = find_model_and_inputs(model, shape_texts, seed, inputs_path)
    if interpreter:
        results = interpret(found.graph, feeds)
    else:
        results = compiled(found, threads, precision=precision).run(feeds)
    rows = [describe(name, array) for name, array in results.items()]
    table("results", ["output", "dtype", "shape", "min#", "mean#", "max#", "finite"], rows)
    if outputs_path is not None:
        write_arrays(Path(outputs_path), results)
        say(f"results written to {outputs_path}")
