"""``dlc bisect``: the first pass that changes values."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dlc.cli.common import console, find_model, generated_inputs, model_options, parse_shapes, read_inputs, table
from dlc.driver.diagnose import after_each_pass, difference
from dlc.facade import compile as compile_model


@click.command("bisect")
@model_options
@click.option("-i", "--inputs", "inputs_path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Arrays by input name (.npz); default: seeded random ones.")
@click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Largest difference allowed, relative to an output's largest value.")
def command(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int, inputs_path: Path | None, tolerance: float) -> None:
    """Run MODEL in the interpreter after each pass, then compiled; name the first step that changes values."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    feeds = read_inputs(inputs_path, found.graph) if inputs_path else generated_inputs(found.graph, seed)
    rows, guilty, base = [], None, None
    for name, results in after_each_pass(found.graph, feeds):
        base = base or {key: results[key] for key in found.graph.signature.results}
        worst = max((difference(results[key], array).relative for key, array in base.items()), default=0.0)
        rows.append([name, f"{worst:.3g}"])
        if guilty is None and not worst <= tolerance:
            guilty = name
    assert base is not None
    compiled = compile_model(found.graph, threads=threads).run(feeds)
    worst = max((difference(compiled[key], array).relative for key, array in base.items()), default=0.0)
    rows.append(["code generation", f"{worst:.3g}"])
    if guilty is None and not worst <= tolerance:
        guilty = "code generation"
    table(f"{found.name}: difference from the input graph", ["after", "relative#"], rows)
    console.print(f"[red]first step that changes values: {guilty}[/red]" if guilty else "[green]no step changes values[/green]")
    sys.exit(1 if guilty else 0)
