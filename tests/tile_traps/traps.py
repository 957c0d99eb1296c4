"""Lets this process execute tile (AMX) instructions on a processor that has none, through ``traps.c``."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

from dlc.codegen import amx_permission
from dlc.codegen.llvm import target
from dlc.driver import host

COMPILER = shutil.which("cc")
_FEATURES = ("amx-bf16", "amx-int8", "amx-tile")


def build(folder: Path) -> Path:
    """Compile the handler; return the library."""
    library = folder / "traps.so"
    source = Path(__file__).with_suffix(".c")
    flags = ["-std=gnu11", "-O2", "-mavx2", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC"]
    subprocess.run([str(COMPILER), *flags, "-o", str(library), str(source)], check=True)
    return library


def install(library: Path) -> ctypes.CDLL:
    """Handle tile instructions in this process, and have dlc believe that the processor has them."""
    handler = ctypes.CDLL(str(library))
    handler.executed_tile_instructions.restype = ctypes.c_uint64
    if handler.install_tile_traps() != 0:
        raise OSError("the handler of illegal instructions could not be installed")
    found = target._host_features()
    target._host_features = lambda: frozenset((*found, *_FEATURES))
    for module in (amx_permission, host, target):
        module.tiles_permitted = lambda: True
    return handler
