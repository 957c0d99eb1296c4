"""``dlc env``: what a bug report needs."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import click

from dlc import __version__, config
from dlc.cli.common import table, write_json
from dlc.codegen.llvm_target import host_target

PACKAGES = ("numpy", "llvmlite", "onnx", "ml_dtypes", "safetensors", "onnxruntime", "torch")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@click.command("env")
@click.option("--json", "json_path", metavar="FILE", help="Write the facts as JSON ('-': standard output).")
def command(json_path: str | None) -> None:
    """Print versions, processor features and options."""
    target = host_target(config.cpu_features())
    facts = {
        "dlc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{package: _version(package) for package in PACKAGES},
        "target": f"{target.name}, {target.vector_bytes * 8}-bit vectors, FMA {'yes' if target.has_fma else 'no'}",
        "caches": f"L1 {target.l1_bytes >> 10} KiB, L2 {target.l2_bytes >> 10} KiB, L3 {target.l3_bytes >> 10} KiB",
        "processors": f"{os.cpu_count()} present, {config.available_cpus()} usable",
    }
    options = {name: str(config.get(name)) for name in config.OPTIONS}
    if json_path != "-":
        table("environment", ["", "value"], [[k, v] for k, v in facts.items()])
        rows = [[", ".join(o.variables), options[name], o.help] for name, o in config.OPTIONS.items()]
        table("options", ["variable", "value", "meaning"], rows)
    write_json(json_path, {"environment": facts, "options": options})
