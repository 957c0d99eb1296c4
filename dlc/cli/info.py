"""``dlc info``: what a model is."""

from __future__ import annotations

from collections import Counter

import click

from dlc.cli.common import console, count_text, fed_inputs, find_model, model_options, parse_shapes, size_text, table, write_json
from dlc.driver.compile import predict_memory
from dlc.frontends.onnx.summary import model_summary
from dlc.ir.graph import Role


@click.command("info")
@model_options
@click.option("--ops", is_flag=True, help="List every op with its count.")
@click.option("--json", "json_path", metavar="FILE", help="Write the facts as JSON ('-': standard output).")
def command(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int, ops: bool, json_path: str | None) -> None:
    """Show inputs, outputs, ops, parameters, FLOPs and memory of MODEL."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    graph = found.graph
    weights = graph.inputs_with(Role.PARAMETER, Role.STATE, Role.CONSTANT)
    counted = [v for v, s in weights if s.role is Role.PARAMETER]
    parameters = sum(int(v.type.size) for v in counted)
    weight_bytes = sum(int(v.type.nbytes) for v, _ in weights)
    memory = predict_memory(graph, threads)
    histogram = Counter(node.op.name for node in graph.nodes)
    facts = {
        "model": found.name,
        **(model_summary(found.path) if found.path else {}),
        "inputs": {name: str(type_) for name, type_ in fed_inputs(graph).items()},
        "outputs": {name: str(graph.output(name).type) for name in graph.signature.results},
        "nodes": len(graph.nodes),
        "parameters": parameters,
        "weight_bytes": weight_bytes,
        "flops": memory.flops,
        "arena_bytes": memory.arena_bytes,
        "constant_bytes": memory.constant_bytes,
        "ops": dict(histogram.most_common()),
    }
    if json_path != "-":
        rows = [["model", found.name]]
        rows += [[key.replace("_", " "), facts[key]] for key in ("producer", "ir_version", "opset") if key in facts]
        rows += [[f"input {name}", text] for name, text in facts["inputs"].items()]
        rows += [[f"output {name}", text] for name, text in facts["outputs"].items()]
        rows += [["nodes", f"{len(graph.nodes)} ({len(histogram)} kinds of op)"]]
        rows += [["parameters", f"{count_text(parameters)} ({parameters:,})"], ["weights", size_text(weight_bytes)]]
        rows += [["FLOPs per run", count_text(memory.flops)]]
        rows += [["memory when compiled", f"{size_text(memory.constant_bytes)} constants + {size_text(memory.arena_bytes)} arena"]]
        table(f"{found.name}", ["", "value"], rows)
        shown = histogram.most_common() if ops else histogram.most_common(8)
        console.print("ops: " + ", ".join(f"{name} x{count}" for name, count in shown) + ("" if ops or len(histogram) <= 8 else ", ... (--ops lists all)"))
    write_json(json_path, facts)
