"""The facts about an ONNX file that its graph does not keep: producer and versions."""

from __future__ import annotations

from dlc.frontends.onnx.proto import Source, open_model
from dlc.frontends.onnx.versions import opset_versions


def model_summary(source: Source) -> dict[str, str]:
    """Return producer, IR version and opsets of a model; InvalidModelError if it is none."""
    model = open_model(source).model
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in opset_versions(model).items())
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return {"producer": producer or "not said", "ir_version": str(model.ir_version), "opset": opsets}
