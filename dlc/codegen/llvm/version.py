"""Which LLVM generates code. Apart from what uses it: cache keys want the version, not the library."""

from __future__ import annotations

import llvmlite


def llvm_version() -> str:
    """Return the version of llvmlite, which brings its own LLVM."""
    return llvmlite.__version__
