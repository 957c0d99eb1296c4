"""``dlc info``: what a model is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from dlc.cli.common import Model, fed_inputs, find_model, json_option, model_options, parse_shapes
from dlc.cli.output import count_text, say, size_text, table, working, write_json
from dlc.driver.build import predict_memory
from dlc.errors import CompileError
from dlc.frontends.onnx.summary import model_summary
from dlc.ir.graph import Role

SHOWN_OPS = 8


def facts_of(found: Model, threads: int | None) -> dict[str, Any]:
    """Return what there is to know about a model, as plain data."""
    graph = found.graph
    weights = graph.inputs_with(Role.PARAMETER, Role.STATE, Role.CONSTANT)
    facts: dict[str, Any] = {
        "model": found.name,
        **(model_summary(found.path) if found.path else {}),
        "inputs": {name: str(type_) for name, type_ in fed_inputs(found.declared).items()},
        "outputs": {name: str(found.declared.output(name).type) for name in found.declared.signature.results},
        "nodes": len(graph.nodes),
        "parameters": sum(int(value.type.size) for value, spec in weights if spec.role is Role.PARAMETER),
        "weight_bytes": sum(int(value.type.nbytes) for value, _ in weights),
        "ops": dict(Counter(node.op.name for node in graph.nodes).most_common()),
    }
    try:
        with working(f"planning the memory of {found.name}"):
            plan = predict_memory(graph, threads)
    except CompileError as error:
        return {**facts, "not_compiled": str(error)}
    return {**facts, "flops": plan.flops, "arena_bytes": plan.arena_bytes, "constant_bytes": plan.constant_bytes}


@click.command("info")
@model_options
@click.option("--ops", is_flag=True, help="List every op with its count.")
@json_option
def command(
    model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int, ops: bool, json_path: str | None
) -> None:
    """Show inputs, outputs, ops, parameters, FLOPs and memory of MODEL."""
    facts = facts_of(find_model(model, parse_shapes(shape_texts), seed), threads)
    if json_path != "-":
        _show(facts, ops)
    write_json(json_path, facts)


def _show(facts: dict[str, Any], all_ops: bool) -> None:
    rows = [[key.replace("_", " "), facts[key]] for key in ("producer", "ir_version", "opset") if key in facts]
    rows += [[f"input {name}", text] for name, text in facts["inputs"].items()]
    rows += [[f"output {name}", text] for name, text in facts["outputs"].items()]
    rows += [
        ["nodes", f"{facts['nodes']} ({len(facts['ops'])} kinds of op)"],
        ["parameters", f"{count_text(facts['parameters'])} ({facts['parameters']:,})"],
        ["weights", size_text(facts["weight_bytes"])],
    ]
    if "flops" in facts:
        constants, arena = size_text(facts["constant_bytes"]), size_text(facts["arena_bytes"])
        rows += [["FLOPs per run", count_text(facts["flops"])]]
        rows += [["memory when compiled", f"{constants} constants + {arena} arena"]]
    else:
        rows += [["not compiled", facts["not_compiled"]]]
    table(facts["model"], ["", ""], rows)
    histogram = list(facts["ops"].items())
    shown = histogram if all_ops else histogram[:SHOWN_OPS]
    rest = "" if len(shown) == len(histogram) else ", ... (--ops lists all)"
    say("ops: " + ", ".join(f"{name} x{count}" for name, count in shown) + rest)
