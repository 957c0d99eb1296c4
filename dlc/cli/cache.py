"""``dlc cache``: the code cache on disk."""

from __future__ import annotations

import sys
import time

import click

from dlc import config
from dlc.cli.common import find_model, model_options, parse_shapes
from dlc.cli.failures import MISMATCH
from dlc.cli.output import say, size_text, table
from dlc.driver.host import find_target
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
    rows = [
        [e.kind, e.digest[:12], size_text(e.nbytes), time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used))]
        for e in entries
    ]
    total = size_text(sum(e.nbytes for e in entries))
    title = f"{cache.folder}: {len(entries)} entries, {total} of {size_text(cache.limit)}"
    table(title, ["kind", "digest", "size#", "last used"], rows)


@command.command("verify")
@click.option("--remove", is_flag=True, help="Delete the entries that are damaged.")
def verify(remove: bool) -> None:
    """Read every entry and report damage. Exit status 1 if there is any and it is not removed."""
    faults = CodeCache().verify(remove=remove)
    for entry in faults:
        say(f"{entry.path}: {entry.fault}" + (" (removed)" if remove else ""), style="red")
    say(f"{len(faults)} damaged" if faults else "every entry is whole", style="" if faults else "green")
    sys.exit(MISMATCH if faults and not remove else 0)


@command.command("prune")
@click.option("--limit", metavar="BYTES", help="Size to shrink to, such as 512M (default: DLC_CACHE_LIMIT).")
@click.option("--all", "everything", is_flag=True, help="Remove every entry.")
def prune(limit: str | None, everything: bool) -> None:
    """Remove the entries used longest ago."""
    if everything and limit is not None:
        raise click.UsageError("--all and --limit exclude one another")
    cache = CodeCache()
    if everything:
        removed = cache.clear()
    else:
        with config.override(**({"cache_limit": limit} if limit is not None else {})):
            removed = cache.prune(config.cache_limit())
    say(f"removed {size_text(removed)}")


@command.command("why")
@model_options
def why(model: str, shape_texts: tuple[str, ...], threads: int | None, seed: int) -> None:
    """Say whether MODEL is in the cache and, if not, in which parts the nearest entry differs."""
    found = find_model(model, parse_shapes(shape_texts), seed)
    options = CompileOptions.make(Mode.INFERENCE, "cpu", "float32", threads)
    say(CodeCache().why(artifact_key(found.graph, options, find_target(options.features))))
