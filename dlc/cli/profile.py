"""``dlc profile``: where the time of a run goes, and how near to the machine's limits every step is."""

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
from dlc.cli.output import note, say, table, working
from dlc.driver.machine_probe import roofline
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
@click.option("--html", type=OutputPath(), help="Write all steps as a page for browsers, in one file.")
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    precision: str,
    top: int,
    runs: int,
    trace: str | None,
    html: str | None,
) -> None:
    """Show the time that each step of MODEL takes, with GFLOP/s, GB/s and percent of its floor.

    The floor is the least time that a step can take on this machine: the larger of its operations over the peak of
    float32 multiply-adds and its bytes over the bandwidth, both measured on the threads that run the model. 100 % is
    as fast as the machine allows that way of computing; where another way is faster, a note says so.
    """
    found = find_model(model, parse_shapes(shape_texts), seed)
    executable = compiled(found, threads, precision=precision)
    with working("measuring the machine"):
        roof = roofline(executable.threads)
    with working(f"running {found.name}"):
        result = profile(executable, generated_inputs(found.graph, seed), runs=runs, roofline=roof)
    rows = [
        [
            f"{s.milliseconds:.4f}",
            f"{s.percent:.1f}",
            s.floor_text,
            s.bound or "-",
            f"{s.gflops:.1f}",
            f"{s.gigabytes:.1f}",
            s.calls,
            shortened(s.label or s.symbol),
        ]
        for s in result.slowest(top)
    ]
    title = (
        f"{found.name}: {result.milliseconds:.3f} ms in {len(result.steps)} steps, {result.threads} threads; "
        f"{result.percent_of_floor:.0f} % of floor: {result.floor:.3f} ms at {roof.peak_flops / 1e9:.0f} GFLOP/s"
    )
    table(title, ["ms#", "%#", "% of floor#", "bound by", "GFLOP/s#", "GB/s#", "calls#", "step"], rows)
    for line in result.notes:
        note(line)
    if trace is not None:
        result.write_trace(Path(trace))
        say(f"trace written to {trace}")
    if html is not None:
        result.write_html(html, found.name)
        say(f"page written to {html}")
