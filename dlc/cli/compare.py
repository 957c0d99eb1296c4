"""``dlc compare``: compiled results against a reference."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from dlc import config
from dlc.cli.common import (
    Model,
    compiled,
    find_model_and_inputs,
    inputs_option,
    json_option,
    model_options,
    precision_option,
    tolerance_option,
)
from dlc.cli.contenders import PEERS, Request, find_contender
from dlc.cli.failures import MISMATCH
from dlc.cli.output import say, table, working, write_json
from dlc.driver.diagnose import difference, first_diverging_node
from dlc.errors import DlcError
from dlc.tools import interpret, save_onnx

INTERPRETER = "interpreter"


def reference_results(
    found: Model, feeds: dict[str, np.ndarray], reference: str, threads: int
) -> dict[str, np.ndarray]:
    """Run the reference once; results by the names of the model's outputs."""
    if reference == INTERPRETER:
        return interpret(found.graph, feeds)
    with tempfile.TemporaryDirectory(prefix="dlc-compare-") as folder:
        path = found.path or Path(folder) / "model.onnx"
        if found.path is None:
            save_onnx(found.graph, path)
        results = find_contender(reference).open_model(Request(str(path), threads)).run(feeds)
    return dict(zip(found.graph.signature.results, results.values(), strict=True))


@click.command("compare")
@model_options
@precision_option
@click.option(
    "--ref",
    "reference",
    type=click.Choice([*PEERS, INTERPRETER]),
    default=INTERPRETER,
    show_default=True,
    help="What to compare with.",
)
@inputs_option
@tolerance_option
@json_option
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    precision: str,
    reference: str,
    inputs_path: Path | None,
    tolerance: float,
    json_path: str | None,
) -> None:
    """Compare MODEL's compiled results with a reference. Exit status 1 if an output differs."""
    found, feeds = find_model_and_inputs(model, shape_texts, seed, inputs_path)
    threads = threads or config.num_threads()
    mine = compiled(found, threads, precision=precision).run(feeds)
    with working(f"running {found.name} in {reference}"):
        theirs = reference_results(found, feeds, reference, threads)
    gaps = {name: difference(mine[name], theirs[name]) for name in mine}
    worst = max(gaps, key=lambda name: gaps[name].relative, default=None)
    bad = worst is not None and gaps[worst].exceeds(tolerance)
    facts: dict[str, Any] = {
        "model": found.name,
        "reference": reference,
        "tolerance": tolerance,
        "worst": worst,
        "agrees": not bad,
        "outputs": {name: {"absolute": g.absolute, "relative": g.relative} for name, g in gaps.items()},
    }
    if json_path != "-":
        rows = [
            [name, f"{g.absolute:.3g}", f"{g.relative:.3g}", "no" if g.exceeds(tolerance) else "yes"]
            for name, g in gaps.items()
        ]
        table(f"{found.name} against {reference}", ["output", "largest difference#", "relative#", "agrees"], rows)
        say(f"worst output: {worst}")
    if bad:
        facts["first_diverging_node"] = diverging_node(found, feeds, tolerance, threads)
        if json_path != "-":
            say(f"first diverging node: {facts['first_diverging_node']}", style="red")
    write_json(json_path, facts)
    sys.exit(MISMATCH if bad else 0)


def diverging_node(found: Model, feeds: dict[str, np.ndarray], tolerance: float, threads: int) -> str:
    """Say which node is the first whose compiled result differs from the interpreter's."""
    try:
        with working("comparing node by node with the interpreter"):
            diverging = first_diverging_node(found.graph, feeds, tolerance, threads)
    except DlcError as error:
        return f"not found: {error}"
    if diverging is None:
        return "none differs from the interpreter's when every node's result is kept; try `dlc bisect`"
    node, gap = diverging
    return f"{node!r}, relative difference {gap.relative:.3g}"
