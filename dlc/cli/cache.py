"""``dlc cache``: the code cache on disk."""

from __future__ import annotations

import sys
import time

import click

from dlc import config
from dlc.cli.common import console, find_model, model_options, parse_shapes, size_text, table
from dlc.codegen.llvm_target import host_target
from dlc.driver.options import CompileOptions
from dlc.driver.store import artifact_key
from dlc.ir.opdef import Mode
from dlc.runtime.cache import CodeCache


@click.group("cache")
def command() -> None:
    """List, verify, explain or prune the code cache."""


@command.command("ls")
def list_entries() -> None:
    """List the entries, the one used last first."""
    cache = CodeCache()
    entries = cache.entries()
    rows = [[e.kind, e.digest[:12], size_text(e.nbytes), time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used))] for e in entries]
    table(f"{cache.folder}: {len(entries)} entries, {size_text(sum(e.nbytes for e in entries))} of {size_text(cache.limit)}", ["kind", "digest", "size#", "last used"], rows)


@command.command("verify")
@click.option("--remove", is_flag=True, help="Delete the entries that are damaged.")
def verify(remove: bool) -> None:
    """Read every entry and report damage. Exit status 1 if there is any."""
    faults = CodeCache().verify(remove=remove)
    for entry in faults:
        console.print(f"[red]{entry.path}[/red]: {entry.fault}" + (" (removed)" if remove else ""), highlight=False)
    console.print(f"{len(faults)} damaged entries" if faults else "[green]every entry is whole[/green]")
    sys.exit(1 if faults and not remove else 0)


@command.command("prune")
@click.option("--limit", metavar="BYTES", help="Size to shrink to (default: the configured limit); 0 empties it.")
def prune(limit: str | None) -> None:
    """Remove the entries used longest ago."""
    with config.override(cache_limit=limit):
        removed = CodeCache().prune(config.cache_limit())
    console.print(f"removed {size_text(removed)}")


@command.command("why")
@model_options
def why(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int) -> None:
    """Say whether MODEL is in the cache and, if not, in which parts the nearest entry differs."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    options = CompileOptions.make(Mode.INFERENCE, "cpu", "float32", threads)
    console.print(CodeCache().why(artifact_key(found.graph, options, host_target(options.features))), highlight=False)
