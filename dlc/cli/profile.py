"""``dlc profile``: where the time of a run goes."""

from __future__ import annotations

from pathlib import Path

import click

from dlc.cli.common import (
    OutputPath,
    compiled,
    find_model,
    generated_inputs,
    model_options,
    parse_shapes,
    precision_option,
)
from dlc.cli.output import say, table, working
from dlc.runtime.profile import profile

LONGEST_LABEL = 90


def shortened(label: str) -> str:
    """Return ``label`` cut to a length that fits a table."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 3] + "..."


@click.command("profile")
@model_options
@precision_option
@click.option("--top", type=click.IntRange(1), default=25, show_default=True, help="How many steps to show.")
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True, help="Runs to take the median of.")
@click.option("--trace", type=OutputPath(), help="Write a trace for Perfetto or chrome://tracing.")
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    precision: str,
    top: int,
    runs: int,
    trace: str | None,
) -> None:
    """Show the time that each step of MODEL takes, with GFLOP/s and GB/s."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    executable = compiled(found, threads, precision=precision)
    with working(f"running {found.name}"):
        result = profile(executable, generated_inputs(found.graph, seed), runs=runs)
    rows = [
        [
            f"{s.milliseconds:.4f}",
            f"{s.percent:.1f}",
            f"{s.gflops:.1f}",
            f"{s.gigabytes:.1f}",
            s.calls,
            shortened(s.label or s.symbol),
        ]
        for s in result.slowest(top)
    ]
    title = f"{found.name}: {result.milliseconds:.3f} ms in {len(result.steps)} steps, {result.threads} threads"
    table(title, ["ms#", "%#", "GFLOP/s#", "GB/s#", "calls#", "step"], rows)
    if trace is not None:
        result.write_trace(Path(trace))
        say(f"trace written to {trace}")
