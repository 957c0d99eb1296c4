"""``dlc bench``: measure a model, alone or beside a peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from dlc import config
from dlc.cli.common import FiniteRange, json_option, model_options, parse_shapes, precision_option
from dlc.cli.contenders import PEERS, find_contender
from dlc.cli.measure import run_benchmark
from dlc.cli.output import say, size_text, table, write_json

ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("p50 ms", lambda facts: f"{facts['p50_ms']:.3f}"),
    ("p90 ms", lambda facts: f"{facts['p90_ms']:.3f}"),
    ("p99 ms", lambda facts: f"{facts['p99_ms']:.3f}"),
    ("runs per second", lambda facts: f"{facts['runs_per_second']:.1f}"),
    ("compile ms", lambda facts: f"{facts['compile_ms']:.0f}"),
    ("process start to first answer ms", lambda facts: f"{facts['first_answer_ms']:.0f}"),
    ("peak memory", lambda facts: size_text(facts["peak_bytes"])),
    ("steady memory over idle", lambda facts: size_text(facts["steady_bytes"] - facts["idle_bytes"])),
)


@click.command("bench")
@model_options
@precision_option
@click.option("--vs", "peer", metavar="PEER", help=f"Also measure a peer in alternating rounds: {', '.join(PEERS)}.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds per contender.")
@click.option("--seconds", type=FiniteRange(0.01), default=1.0, show_default=True, help="Length of a round.")
@json_option
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    precision: str,
    peer: str | None,
    rounds: int,
    seconds: float,
    json_path: str | None,
) -> None:
    """Measure MODEL: latency, throughput, compile time, time to the first answer, memory, error against the peer.

    Every contender runs in a process of its own, and their rounds alternate. "compile" is loading and compiling,
    without dlc's cache; the first answer comes with that cache warm; steady memory is what is resident after the
    runs, over what was before the model was loaded. --precision is dlc's; a peer computes in float32.
    """
    if peer is not None:
        find_contender(peer)
    threads = threads or config.num_threads()
    report = run_benchmark(model, parse_shapes(shape_texts), threads, seed, peer, rounds, seconds, precision)
    if json_path != "-":
        show(report)
    write_json(json_path, report)


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    contenders = report["contenders"]
    rows = [[title, *(shown(facts) for facts in contenders.values())] for title, shown in ROWS]
    title = f"{report['model']}, {report['precision']}, {report['threads']} threads, {report['machine']['processor']}"
    table(title, ["", *(f"{name}#" for name in contenders)], rows)
    if "speedup" in report:
        low, high = min(report["speedup_rounds"]), max(report["speedup_rounds"])
        say(f"dlc runs at {report['speedup']:.2f} times the speed of {report['peer']} (rounds {low:.2f} to {high:.2f})")
        say(f"largest relative error: {report['relative_error']:.1e}")
