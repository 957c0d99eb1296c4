"""``dlc bisect``: the first pass that changes values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np

from dlc.cli.common import compiled, find_model_and_inputs, inputs_option, model_options, tolerance_option
from dlc.cli.failures import MISMATCH
from dlc.cli.output import say, table, working
from dlc.driver.diagnose import after_each_pass, difference

CODE = "code generation"


def worst(mine: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray]) -> float:
    """Return the largest relative difference of any output."""
    return max((difference(mine[name], array).relative for name, array in base.items()), default=0.0)


@click.command("bisect")
@model_options
@inputs_option
@tolerance_option
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    inputs_path: Path | None,
    tolerance: float,
) -> None:
    """Run MODEL in the interpreter after each pass, then compiled; name the first step that changes values.

    Exit status 1 if one does.
    """
    found, feeds = find_model_and_inputs(model, shape_texts, seed, inputs_path)
    base: dict[str, np.ndarray] = {}
    gaps: dict[str, float] = {}
    with working(f"interpreting {found.name} after each pass"):
        for name, results in after_each_pass(found.graph, feeds):
            base = base or {key: results[key] for key in found.graph.signature.results}
            gaps[name] = worst(results, base)
    gaps[CODE] = worst(compiled(found, threads).run(feeds), base)
    guilty = next((name for name, gap in gaps.items() if not gap <= tolerance), None)
    table(
        f"{found.name}: difference from the input graph",
        ["after", "relative#"],
        [[n, f"{g:.3g}"] for n, g in gaps.items()],
    )
    if guilty is not None:
        say(f"first step that changes values: {guilty}", style="red")
        sys.exit(MISMATCH)
    say("no step changes values", style="green")
