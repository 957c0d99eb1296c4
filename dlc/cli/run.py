"""``dlc run``: run a model on arrays from a file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from dlc.cli.common import find_model, generated_inputs, model_options, parse_shapes, read_inputs, table
from dlc.facade import compile as compile_model
from dlc.facade import interpret


@click.command("run")
@model_options
@click.option("-i", "--inputs", "inputs_path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Arrays by input name (.npz); default: seeded random ones.")
@click.option("-o", "--outputs", "outputs_path", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the results (.npz).")
@click.option("--interpreter", is_flag=True, help="Run the NumPy interpreter instead of compiled code.")
def command(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int, inputs_path: Path | None, outputs_path: Path | None, interpreter: bool) -> None:
    """Run MODEL once and show, or write, its results."""
    shapes = parse_shapes(shape_texts)
    if inputs_path is not None and not shapes:
        with np.load(inputs_path, allow_pickle=False) as archive:
            shapes = {name: archive[name].shape for name in archive.files}
    found = find_model(model, shapes, seed)
    feeds = read_inputs(inputs_path, found.graph) if inputs_path else generated_inputs(found.graph, seed)
    results = interpret(found.graph, feeds) if interpreter else compile_model(found.graph, threads=threads).run(feeds)
    rows = []
    for name, array in results.items():
        numbers = array.astype(np.float64) if array.size and array.dtype.kind != "O" else None
        summary = ["-"] * 3 if numbers is None else [f"{f(numbers):.6g}" for f in (np.min, np.mean, np.max)]
        finite = "yes" if numbers is None or np.isfinite(numbers).all() else "no"
        rows.append([name, array.dtype, list(array.shape), *summary, finite])
    table("results", ["output", "dtype", "shape", "min#", "mean#", "max#", "finite"], rows)
    if outputs_path is not None:
        np.savez(outputs_path, **results)
        click.echo(f"written to {outputs_path}")
