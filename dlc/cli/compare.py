"""``dlc compare``: compiled results against a reference."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from dlc import config
from dlc.cli.common import Model, console, find_model, generated_inputs, model_options, parse_shapes, read_inputs, table, write_json
from dlc.cli.contenders import OnnxRuntime, check_peer
from dlc.driver.diagnose import difference, first_diverging_node
from dlc.facade import compile as compile_model
from dlc.facade import interpret, save_onnx


def reference_results(found: Model, feeds: dict[str, np.ndarray], reference: str, threads: int) -> dict[str, np.ndarray]:
    """Run the reference once."""
    if reference == "interpreter":
        return interpret(found.graph, feeds)
    check_peer(reference)
    with tempfile.TemporaryDirectory() as folder:
        path = found.path or Path(folder) / "model.onnx"
        if found.path is None:
            save_onnx(found.graph, path)
        return OnnxRuntime(path, threads).run(feeds)


@click.command("compare")
@model_options
@click.option("--ref", "reference", type=click.Choice(["onnxruntime", "interpreter"]), default="interpreter", show_default=True, help="What to compare with.")
@click.option("-i", "--inputs", "inputs_path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Arrays by input name (.npz); default: seeded random ones.")
@click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Largest difference allowed, relative to an output's largest value.")
@click.option("--json", "json_path", metavar="FILE", help="Write the differences as JSON ('-': standard output).")
def command(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int, reference: str, inputs_path: Path | None, tolerance: float, json_path: str | None) -> None:
    """Compare MODEL's compiled results with a reference. Exit status 1 if an output differs."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    feeds = read_inputs(inputs_path, found.graph) if inputs_path else generated_inputs(found.graph, seed)
    threads = threads or config.num_threads()
    mine = compile_model(found.graph, threads=threads).run(feeds)
    theirs = reference_results(found, feeds, reference, threads)
    gaps = {name: difference(mine[name], theirs[name]) for name in mine}
    worst = max(gaps, key=lambda name: gaps[name].relative)
    bad = gaps[worst].exceeds(tolerance)
    facts = {"model": found.name, "reference": reference, "tolerance": tolerance, "worst": worst, "agrees": not bad,
             "outputs": {name: {"absolute": g.absolute, "relative": g.relative} for name, g in gaps.items()}}  # fmt: skip
    if json_path != "-":
        rows = [[name, f"{g.absolute:.3g}", f"{g.relative:.3g}", "no" if g.exceeds(tolerance) else "yes"] for name, g in gaps.items()]
        table(f"{found.name} against {reference}", ["output", "largest difference#", "relative#", "agrees"], rows)
        console.print(f"worst output: {worst}")
    if bad:
        diverging = first_diverging_node(found.graph, feeds, tolerance, threads)
        facts["first_diverging_node"] = repr(diverging[0]) if diverging else None
        if json_path != "-":
            said = f"{diverging[0]!r}, relative difference {diverging[1].relative:.3g}" if diverging else "none when nodes are compiled one by one; try `dlc bisect`"
            console.print(f"[red]first diverging node:[/red] {said}", highlight=False)
    write_json(json_path, facts)
    sys.exit(1 if bad else 0)
