"""``dlc bench``: measure a model, alone or beside a peer."""

from __future__ import annotations

from typing import Any

import click

from dlc import config
from dlc.cli.common import json_option, model_options, parse_shapes
from dlc.cli.contenders import PEERS, find_contender
from dlc.cli.measure import run_benchmark
from dlc.cli.output import say, size_text, table, write_json

COLUMNS = (
    "contender",
    "p50 ms#",
    "p90 ms#",
    "p99 ms#",
    "runs/s#",
    "compile ms#",
    "first answer ms#",
    "peak memory#",
    "over idle#",
)


@click.command("bench")
@model_options
@click.option("--vs", "peer", metavar="PEER", help=f"Also measure a peer in alternating rounds: {', '.join(PEERS)}.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds per contender.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Length of a round.")
@json_option
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    peer: str | None,
    rounds: int,
    seconds: float,
    json_path: str | None,
) -> None:
    """Measure MODEL: latency, throughput, compile time, time to the first answer, memory, error against the peer.

    Every contender runs in a process of its own. "compile" is loading and compiling without dlc's cache; "first
    answer" counts from the start of the process, dlc's cache being warm; "over idle" is the resident memory above
    that of the process before it loaded the model. Rounds of the contenders alternate.
    """
    if peer is not None:
        find_contender(peer)
    threads = threads or config.num_threads()
    report = run_benchmark(model, parse_shapes(shape_texts), threads, seed, peer, rounds, seconds)
    if json_path != "-":
        show(report)
    write_json(json_path, report)


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    rows = [
        [
            name,
            *(f"{facts[key]:.3f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{facts['runs_per_second']:.1f}",
            f"{facts['compile_ms']:.0f}",
            f"{facts['first_answer_ms']:.0f}",
            size_text(facts["peak_bytes"]),
            size_text(facts["steady_bytes"] - facts["idle_bytes"]),
        ]
        for name, facts in report["contenders"].items()
    ]
    table(f"{report['model']}, {report['threads']} threads, {report['machine']['processor']}", COLUMNS, rows)
    if "speedup" in report:
        low, high = min(report["speedup_rounds"]), max(report["speedup_rounds"])
        say(f"dlc runs at {report['speedup']:.2f} times the speed of {report['peer']} (rounds {low:.2f} to {high:.2f})")
        say(f"largest relative error: {report['relative_error']:.1e}")
