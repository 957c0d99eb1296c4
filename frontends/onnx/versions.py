"""The IR and operator-set versions that the ONNX frontend reads and writes.

It must not know graphs or ops beyond their domain's version number.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from dlc.errors import InvalidModelError, UnsupportedVersionError

IR_VERSIONS = range(3, 15)
"""Accepted ``ir_version`` of a model: opset imports appeared in 3."""

DEFAULT_DOMAIN = ""
TRAINING_DOMAIN = "ai.onnx.preview.training"
_NEWEST_OPSET = min(28, onnx.defs.onnx_opset_version())

supported_opsets: Mapping[str, range] = {
    DEFAULT_DOMAIN: range(7, _NEWEST_OPSET + 1),
    TRAINING_DOMAIN: range(1, 2),
}
"""Domain -> accepted operator-set versions ("" is the default domain, also written ai.onnx)."""

EXPORT_OPSETS = range(18, 22)
"""Operator-set versions that ``save`` writes."""


def canonical_domain(domain: str) -> str:
    """Return ``""`` for both spellings of the default domain."""
    return "" if domain == "ai.onnx" else domain


def describe_range(versions: range) -> str:
    """Return a range as ``7 to 28`` or ``1``."""
    first, last = versions.start, versions.stop - 1
    return str(first) if first == last else f"{first} to {last}"


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Return domain -> version of a model's opset imports.

    Raises UnsupportedVersionError for a missing or unsupported IR or opset version of a domain that
    dlc knows. Versions of other domains are kept: they matter only if an op of theirs is used.
    """
    if model.ir_version not in IR_VERSIONS:
        stated = f"IR version {model.ir_version}" if model.ir_version else "no IR version"
        raise UnsupportedVersionError(
            f"the model has {stated}; dlc reads {describe_range(IR_VERSIONS)}; "
            "convert it with onnx.version_converter or export it again"
        )
    versions = import_versions(model.opset_import)
    if DEFAULT_DOMAIN not in versions and (not versions or any(not n.domain for n in model.graph.node)):
        raise UnsupportedVersionError(
            "the model imports no opset of the default domain (ai.onnx); "
            f"dlc reads {describe_range(supported_opsets[DEFAULT_DOMAIN])}"
        )
    return versions


def import_versions(imports: object) -> dict[str, int]:
    """Return domain -> version for opset imports, checked against ``supported_opsets``."""
    versions: dict[str, int] = {}
    for entry in imports:  # type: ignore[attr-defined]
        domain = canonical_domain(entry.domain)
        if versions.get(domain, entry.version) != entry.version:
            raise InvalidModelError(
                f"opset {domain or 'ai.onnx'!r} is imported as version {versions[domain]} and as {entry.version}"
            )
        supported = supported_opsets.get(domain)
        if supported is not None and entry.version not in supported:
            raise UnsupportedVersionError(
                f"the model imports opset {entry.version} of {domain or 'ai.onnx'}; "
                f"dlc reads {describe_range(supported)}; convert it with onnx.version_converter or export it again"
            )
        versions[domain] = entry.version
    return versions
