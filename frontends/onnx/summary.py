"""Facts about an ONNX file that are no part of the imported graph: producer, versions, opsets, functions."""

from __future__ import annotations

from typing import Any

from dlc.frontends.onnx.proto import Source, open_model
from dlc.frontends.onnx.versions import canonical_domain


def model_summary(source: Source) -> dict[str, Any]:
    """Return producer, IR version, opset (of every domain) and counts of a model, as plain data.

    Raises InvalidModelError if ``source`` is no ONNX model.
    """
    model = open_model(source).model
    opsets = {canonical_domain(entry.domain) or "ai.onnx": entry.version for entry in model.opset_import}
    facts: dict[str, Any] = {
        "producer": f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        "ir_version": model.ir_version,
        "opset": ", ".join(f"{domain} {version}" for domain, version in opsets.items()),
        "onnx_nodes": len(model.graph.node),
        "initializers": len(model.graph.initializer),
    }
    if model.functions:
        facts["functions"] = len(model.functions)
    return facts
