"""``dlc compile``: compile a model and say what was done."""

from __future__ import annotations

from pathlib import Path

import click

from dlc.cli.common import compiled, find_model, json_option, model_options, parse_shapes, precision_option
from dlc.cli.output import count_text, say, size_text, table, write_json

SHOWN_BUFFERS = 4


@click.command("compile")
@model_options
@precision_option
@click.option(
    "--dump",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for numbered graphs, kernels, LLVM and assembly.",
)
@json_option
def command(
    model: str,
    shape_texts: tuple[str, ...],
    threads: int | None,
    seed: int,
    precision: str,
    dump: Path | None,
    json_path: str | None,
) -> None:
    """Compile MODEL; show phase times, code size and predicted peak memory. The result stays in the code cache."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    report = compiled(found, threads, dump, precision).report
    facts = {
        "model": found.name,
        "cache": report.cache,
        "phases_ms": {name: round(ms, 2) for name, ms in report.phases.items()},
        "total_ms": round(report.total_milliseconds, 2),
        "kernels": report.kernels,
        "steps": report.steps,
        "flops": report.flops,
        "code_bytes": report.code_bytes,
        "constant_bytes": report.constant_bytes,
        "arena_bytes": report.arena_bytes,
        "peak_bytes": report.peak_bytes,
        "live_at_peak": report.peak,
    }
    if json_path != "-":
        constants, arena = size_text(report.constant_bytes), size_text(report.arena_bytes)
        rows = [
            *[[name, f"{ms:.1f} ms"] for name, ms in report.phases.items()],
            ["total", f"{report.total_milliseconds:.1f} ms (cache {report.cache})"],
            ["kernels", f"{report.kernels} distinct, {report.steps} steps"],
            ["code", size_text(report.code_bytes)],
            ["FLOPs per run", count_text(report.flops)],
            ["peak memory", f"{size_text(report.peak_bytes)} = {constants} constants + {arena} arena"],
        ]
        table(f"compiled {found.name}", ["", ""], rows)
        if report.peak:
            say("live at the arena's peak: " + "; ".join(report.peak[:SHOWN_BUFFERS]))
        if dump is not None:
            say(f"graphs, kernels, LLVM and assembly are in {dump}")
    write_json(json_path, facts)
