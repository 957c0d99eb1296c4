"""Writes what ``bench.run`` measured: a Markdown table, and a plot of every contender's time over dlc's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.optional import optional
from bench.suite import INFERENCE, NARROW, NARROW_RIVAL, PEERS, RIVALS, TRAINING

TITLES = {INFERENCE: "Inference", TRAINING: "Training step (Adam)"}
Report = Mapping[str, Any]


def contender_names(reports: Sequence[Report]) -> list[str]:
    """Return the names of all contenders that appear, in the suite's order."""
    present = {name for report in reports for name in report["contenders"]}
    return [name for name in dict.fromkeys(peer.name for peer in PEERS) if name in present]


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def markdown(results: Mapping[str, Any]) -> str:
    """Return the report of a whole run."""
    machine, settings = results["machine"], results["settings"]
    peak, bandwidth = results["floor"]["peak_flops"], results["floor"]["bandwidth"]
    read = ", ".join(f"{int(size) >> 20} MiB: {value / 1e9:.1f}" for size, value in bandwidth.items())
    lines = [
        "# Benchmark",
        "",
        f"{machine['processor']}, {machine['processors']} processors, {machine['system']}, "
        f"Python {machine['python']}; {results['date']}, revision {results['revision']}.",
        f"{settings['threads']} threads; {settings['rounds']} rounds of {settings['seconds']} s in turn, one process "
        "per contender; medians in milliseconds, arrays copied in and out.",
        f"Measured on {settings['threads']} cores together: {peak / 1e9:.0f} GFLOP/s of float32 multiply-adds; "
        f"GB/s read by working set: {read}.",
        "",
        "Beside each time stands its error: of inference the largest difference from a float64 run over the largest "
        "value (light topologies: from onnxruntime), of training the largest relative difference of the first four "
        "losses from float64.",
        "The floor is the larger of FLOPs over the measured peak and least bytes over the measured bandwidth. Speed is "
        "the time of the fastest float32 peer over dlc's, the median of the rounds' ratios: above 1 dlc is faster. "
        "The speed of bf16 is that of dlc's bfloat16 against OpenVINO's.",
    ]
    for kind in (INFERENCE, TRAINING):
        reports = [r for r in results["cases"].values() if r["case"]["kind"] == kind]
        if reports:
            lines += ["", f"## {TITLES[kind]}", "", *times_table(reports), "", *means(kind, reports)]
            lines += ["", f"### Set-up, first answer and memory: {TITLES[kind].lower()}", "", *setup_table(reports)]
    lines += ["", "## Settings", "", *settings_lines(results)]
    failures = [
        f"- {name}, {contender}: {facts['failed']}"
        for name, report in results["cases"].items()
        for contender, facts in report["contenders"].items()
        if "failed" in facts
    ]
    failures += [f"- {name}: {reason}" for name, reason in results["skipped"].items()]
    if failures:
        lines += ["", "## Failures", "", *failures]
    return "\n".join(lines) + "\n"


def times_table(reports: Sequence[Report]) -> list[str]:
    """Return the lines of the table of times."""
    names = contender_names(reports)
    lines = [
        f"| model | GFLOP | floor | {' | '.join(names)} | speed | rounds | of floor | bf16 speed |",
        "|---|" + "---|" * (len(names) + 6),
    ]
    for report in reports:
        cells = [_cell(report["contenders"].get(name)) for name in names]
        best = report["speeds"].get("best rival")
        speed = [f"**{best['median']:.2f}**", f"{best['low']:.2f} - {best['high']:.2f}"] if best else ["", ""]
        mine = report["contenders"].get("dlc", {}).get("p50_ms")
        share = f"{100 * report['floor_ms'] / mine:.0f} %" if mine else ""
        first = [report["case"]["name"], f"{report['gflop']:.2f}", number(report["floor_ms"])]
        narrow = report["speeds"].get("bfloat16")
        speed += [share, f"{narrow['median']:.2f}" if narrow else ""]
        lines.append("| " + " | ".join([*first, *cells, *speed]) + " |")
    return lines


def _cell(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return ""
    return f"{number(facts['p50_ms'])} ({facts['error']:.0e})" if "p50_ms" in facts else "failed"


def number(milliseconds: float) -> str:
    """Return three significant digits."""
    digits = max(0, 2 - math.floor(math.log10(milliseconds))) if milliseconds > 0 else 0
    return f"{milliseconds:.{min(digits, 4)}f}"


def means(kind: str, reports: Sequence[Report]) -> list[str]:
    """Return geometric means of the speeds over peers of the same precision, and the models on which dlc is slower."""
    lines = []
    labels = {
        "best rival": f"Against the fastest of {', '.join(RIVALS[kind])}",
        "bfloat16": f"{NARROW} against {NARROW_RIVAL}",
    }
    compared = [name for name in contender_names(reports) if name not in (NARROW, NARROW_RIVAL)]
    for name in [*compared, *labels]:
        found = {r["case"]["name"]: r["speeds"][name]["median"] for r in reports if name in r["speeds"]}
        if not found:
            continue
        label = labels.get(name, f"Against {name}")
        slower = [f"{case} ({speed:.2f})" for case, speed in found.items() if speed < 1]
        text = f"- {label}: geometric mean {geometric_mean(list(found.values())):.2f} over {len(found)} models"
        lines.append(f"{text}; slower on {', '.join(slower)}." if slower else f"{text}; slower on none.")
    return lines


def setup_table(reports: Sequence[Report]) -> list[str]:
    """Return the lines of the table of milliseconds to set up and to the first answer, and MiB over idle."""
    names = contender_names(reports)
    lines = [f"| model | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for report in reports:
        cells = []
        for name in names:
            facts = report["contenders"].get(name, {})
            if "p50_ms" not in facts:
                cells.append("")
                continue
            memory = (facts["steady_bytes"] - facts["idle_bytes"]) / 2**20
            cached = ", cached" if facts["cache"] == "hit" else ""
            cells.append(f"{facts['setup_ms']:.0f} / {facts['first_answer_ms']:.0f} ms, {memory:.0f} MiB{cached}")
        lines.append("| " + " | ".join([report["case"]["name"], *cells]) + " |")
    return lines


def settings_lines(results: Mapping[str, Any]) -> list[str]:
    """Return each contender's own words about its settings, once."""
    seen: dict[str, None] = {}
    for report in results["cases"].values():
        for name, facts in report["contenders"].items():
            if "settings" in facts:
                seen[f"- {report['case']['kind']}, {name}: {facts['settings']}"] = None
    return list(seen)


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw every contender's time over dlc's, by model, as a PNG; nothing if no case has both."""
    optional("matplotlib").use("Agg")
    pyplot = optional("matplotlib.pyplot")
    kinds = [(k, [r for r in results["cases"].values() if r["case"]["kind"] == k and r["speeds"]]) for k in TITLES]
    kinds = [(kind, reports) for kind, reports in kinds if reports]
    if not kinds:
        return
    rows = [len(reports) * (len(contender_names(reports)) - 1) for _, reports in kinds]
    figure, axes = pyplot.subplots(
        len(kinds), 1, figsize=(9, 1.5 + 0.17 * sum(rows)), squeeze=False, height_ratios=rows, layout="constrained"
    )
    for axis, (kind, reports) in zip(axes[:, 0], kinds, strict=True):
        names = [name for name in contender_names(reports) if name != "dlc"]
        height = 0.8 / len(names)
        for position, name in enumerate(names):
            shown = [(row, r["speeds"][name]) for row, r in enumerate(reports) if name in r["speeds"]]
            where = [row + (position - (len(names) - 1) / 2) * height for row, _ in shown]
            spread = [[s["median"] - s["low"] for _, s in shown], [s["high"] - s["median"] for _, s in shown]]
            values = [s["median"] for _, s in shown]
            axis.barh(where, values, height, label=name, xerr=spread, error_kw={"elinewidth": 0.6})
        axis.axvline(1.0, color="black", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_yticks(range(len(reports)), [r["case"]["name"] for r in reports])
        axis.invert_yaxis()
        axis.set_title(f"{TITLES[kind]}: time over dlc's (right of 1: dlc is faster)")
        axis.legend(loc="lower right", fontsize="small")
    machine = results["machine"]
    figure.suptitle(f"{machine['processor']}, {results['settings']['threads']} threads", fontsize="medium")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
