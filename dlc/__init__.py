"""dlc: a deep-learning compiler.

Load an ONNX model or build a graph, compile it to native code for inference or
training, run it. Names load lazily, so that ``import dlc`` and ``dlc --help`` stay cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it. Names that are not listed are functions of the graph API.
_LAZY = {
    "DlcError": "dlc.errors",
    "backend": "dlc.onnx_backend",
    "check": "dlc.tools",
    "compile": "dlc.facade",
    "compile_training": "dlc.training",
    "grad": "dlc.gradients",
    "interpret": "dlc.tools",
    "load": "dlc.facade",
    "save_onnx": "dlc.tools",
    "supported_opsets": "dlc.tools",
}
_MODULES = {
    "callbacks": "dlc.training.callbacks",
    "config": "dlc.config",
    "errors": "dlc.errors",
    "losses": "dlc.frontends.graph.losses",
    "models": "dlc.frontends.models",
    "nn": "dlc.frontends.graph.nn",
    "optim": "dlc.frontends.graph.optim",
}
_GRAPH_API = "dlc.frontends.graph"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _MODULES:
        found: Any = import_module(_MODULES[name])
    elif name in _LAZY:
        found = getattr(import_module(_LAZY[name]), name)
    else:
        api = import_module(_GRAPH_API)
        if name not in api.__all__:
            raise AttributeError(f"module 'dlc' has no attribute {name!r}")
        found = getattr(api, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_MODULES, *import_module(_GRAPH_API).__all__})
