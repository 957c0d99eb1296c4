"""``dlc env``: what a bug report needs."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import click

from dlc import __version__, config
from dlc.cli.common import json_option
from dlc.cli.output import table, write_json
from dlc.codegen.llvm.target import host_target
from dlc.errors import ConfigError

PACKAGES = ("numpy", "llvmlite", "onnx", "ml_dtypes", "safetensors", "onnxruntime", "torch")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _option(name: str) -> str:
    try:
        return str(config.get(name))
    except ConfigError as error:
        return f"wrong: {error}"


def _target() -> dict[str, str]:
    try:
        target = host_target(config.cpu_features())
    except ConfigError as error:
        return {"target": f"wrong: {error}"}
    tiles = "AMX emulated" if "amx-bf16" in target.emulated else "AMX"
    units = [name for name, there in (("FMA", target.has_fma), (tiles, target.has("amx-bf16"))) if there]
    return {
        "target": ", ".join([target.name, f"{target.vector_bytes * 8}-bit vectors", *units]),
        "caches": f"L1 {target.l1_bytes >> 10} KiB, L2 {target.l2_bytes >> 10} KiB, L3 {target.l3_bytes >> 10} KiB",
    }


@click.command("env")
@json_option
def command(json_path: str | None) -> None:
    """Print versions, processor features and options."""
    facts = {
        "dlc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{package: _version(package) for package in PACKAGES},
        **_target(),
        "processors": f"{os.cpu_count()} present, {config.available_cpus()} usable",
    }
    options = {name: _option(name) for name in config.OPTIONS}
    if json_path != "-":
        table("environment", ["", ""], [[k, v] for k, v in facts.items()])
        rows = [[", ".join(o.variables), options[name], o.help] for name, o in config.OPTIONS.items()]
        table("options", ["variable", "value", "meaning"], rows)
    write_json(json_path, {"environment": facts, "options": options})
