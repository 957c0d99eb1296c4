"""What this compiler is: a digest of its sources and of LLVM's version, part of every cache key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from dlc.codegen.llvm.version import llvm_version

PACKAGE = Path(__file__).parent.parent
COMPILER_FOLDERS = ("ir", "passes", "codegen", "driver", "runtime")


@lru_cache(maxsize=1)
def compiler_digest() -> str:
    """Return a digest of the compiler's own sources and of llvmlite's version: other compilers make other code."""
    hasher = hashlib.sha256(llvm_version().encode())
    for name in sorted(name for folder in COMPILER_FOLDERS for name in _sources(folder)):
        hasher.update(name.encode())
        with open(PACKAGE / name, "rb", buffering=0) as file:
            hasher.update(file.read())
    return hasher.hexdigest()


def _sources(folder: str) -> Iterator[str]:
    """Yield the Python files in a folder of the package, relative to the package."""
    for entry in os.scandir(PACKAGE / folder):
        name = f"{folder}/{entry.name}"
        if entry.is_dir():
            yield from _sources(name)
        elif name.endswith(".py"):
            yield name
