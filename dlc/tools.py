"""The public functions beside compiling: interpreting, checking and saving. They load what ``dlc.facade`` avoids."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from dlc.driver.options import binding_from_shapes
from dlc.facade import ir_graph
from dlc.frontends.onnx.export import save as save_model
from dlc.frontends.onnx.loading import check as check_onnx
from dlc.frontends.onnx.versions import supported_opsets
from dlc.ir.interpret import fed_array
from dlc.ir.interpret import interpret as interpret_graph
from dlc.ir.mode import Mode
from dlc.passes.bind import bind

__all__ = ["check", "interpret", "save_onnx", "supported_opsets"]


def interpret(graph: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a graph in the NumPy interpreter, the definition that compiled code is compared with.

    Symbolic dimensions are bound by the shapes of ``feeds``. Returns outputs by name.
    """
    found = ir_graph(graph)
    arrays = {name: fed_array(name, value) for name, value in feeds.items()}
    binding = binding_from_shapes(found, {name: array.shape for name, array in arrays.items()})
    return interpret_graph(bind(found, binding), arrays, Mode.INFERENCE)


def save_onnx(graph: Any, path: str | PathLike) -> None:
    """Write an inference graph as an ONNX model; large weights go to a file beside it."""
    save_model(ir_graph(graph), path)


def check(source: Any) -> list[Any]:
    """Return every problem of an ONNX model at once; an empty list means that it imports."""
    return check_onnx(source)
