"""The ONNX frontend: import, checking, export and the ONNX backend interface.

Names load lazily: a model that was imported before needs only ``identity``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "Problem": "problems",
    "check": "loading",
    "import_model": "loading",
    "load": "loading",
    "make_backend": "backend",
    "save": "export",
    "supported_opsets": "versions",
    "to_proto": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    return found
