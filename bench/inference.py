"""Measures inference against a peer: one command, every model, JSON and a Markdown table.

    python bench/inference.py --vs onnxruntime --threads 2

Each contender runs in a process of its own and rounds alternate. Models are dlc's own, with seeded random
weights; the peer runs the ONNX file that dlc writes of the same graph.
"""

import argparse
import json
import math
from pathlib import Path

from dlc.cli.bench import run_benchmark
from dlc.cli.common import find_model, generated_inputs
from dlc.facade import compile as compile_model
from dlc.runtime.profile import profile

MODELS = {
    "resnet50": {},
    "mobilenet_v2": {},
    "bert_base": {},
    "gpt2": {},
    "lstm": {},
    "mlp": {},
}
RESULTS = Path(__file__).parent / "results"


def row(report):
    mine, peer = report["contenders"].values()
    memory = [(facts["steady_bytes"] - facts["idle_bytes"]) / 2**20 for facts in (mine, peer)]
    return (
        f"| {report['model']} | {mine['p50_ms']:.3f} | {peer['p50_ms']:.3f} | {report['speedup']:.2f} "
        f"| {min(report['speedup_rounds']):.2f} - {max(report['speedup_rounds']):.2f} | {report['relative_error']:.1e} "
        f"| {mine['compile_ms']:.0f} | {mine['first_answer_ms']:.0f} / {peer['first_answer_ms']:.0f} "
        f"| {memory[0]:.0f} / {memory[1]:.0f} |"
    )


def markdown(reports, peer, profiles):
    machine = reports[0]["machine"]
    mean = math.exp(sum(math.log(r["speedup"]) for r in reports) / len(reports))
    settings = [facts["settings"] for facts in reports[0]["contenders"].values()]
    lines = [
        f"# Inference against {peer}",
        "",
        f"{machine['processor']}, {machine['processors']} processors, {machine['system']}; "
        f"{reports[0]['threads']} threads; {reports[0]['rounds']} alternating rounds, one process each.",
        f"dlc: {settings[0]}. Peer: {settings[1]}.",
        "Medians in milliseconds; speed is the peer's time over dlc's (above 1: dlc is faster). Memory is resident",
        "memory over that of the process before the model was loaded. First answer counts from the process's start,",
        "dlc with a warm code cache where the cache says hit.",
        "",
        f"| model | dlc ms | {peer} ms | speed | rounds | relative error | set-up ms "
        "| first answer ms (dlc / peer) | MiB (dlc / peer) |",
        "|---|---|---|---|---|---|---|---|---|",
        *[row(r) for r in reports],
        "",
        f"Geometric mean of the speeds: {mean:.2f}.",
        "",
        "## Where the time goes",
    ]
    for name, text in profiles.items():
        lines += ["", f"### {name}", "", "```", text, "```"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--vs", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--name", default="inference")
    options = parser.parse_args()
    reports, profiles = [], {}
    for name in options.models:
        report = run_benchmark(
            name, MODELS.get(name, {}), options.threads, 0, options.vs, options.rounds, options.seconds
        )
        reports.append(report)
        print(row(report), flush=True)
    for name in options.models:
        graph = find_model(name, MODELS.get(name, {})).graph
        profiles[name] = profile(compile_model(graph, threads=options.threads), generated_inputs(graph, 0)).table(12)
    RESULTS.mkdir(exist_ok=True)
    stem = f"{options.name}-{options.vs}"
    (RESULTS / f"{stem}.json").write_text(json.dumps(reports, indent=1) + "\n")
    (RESULTS / f"{stem}.md").write_text(markdown(reports, options.vs, profiles))


if __name__ == "__main__":
    main()
