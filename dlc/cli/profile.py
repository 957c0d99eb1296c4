"""``dlc profile``: where the time of a run goes."""

from __future__ import annotations

from pathlib import Path

import click

from dlc.cli.common import console, find_model, generated_inputs, model_options, parse_shapes, table
from dlc.facade import compile as compile_model
from dlc.runtime.profile import profile


@click.command("profile")
@model_options
@click.option("--top", type=click.IntRange(1), default=25, show_default=True, help="How many steps to show.")
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True, help="Runs to take the median of.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Write a trace for Perfetto or chrome://tracing.")
def command(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int, top: int, runs: int, trace: Path | None) -> None:
    """Show the time that each step of MODEL takes, with GFLOP/s and GB/s."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    executable = compile_model(found.graph, threads=threads)
    result = profile(executable, generated_inputs(found.graph, seed), runs=runs)
    rows = [
        [f"{s.milliseconds:.4f}", f"{s.percent:.1f}", f"{s.gflops:.1f}", f"{s.gigabytes:.1f}", s.calls, (s.label or s.symbol)[:70], s.symbol.removeprefix("dlc_")[:24]]
        for s in result.slowest(top)
    ]
    table(f"{found.name}: {result.milliseconds:.3f} ms in {len(result.steps)} steps, {result.threads} threads", ["ms#", "%#", "GFLOP/s#", "GB/s#", "calls#", "nodes", "kernel"], rows)
    if trace is not None:
        result.write_trace(trace)
        console.print(f"trace written to {trace}")
