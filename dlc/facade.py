"""The public functions: thin entries that unwrap graphs and call the frontends and the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from dlc.driver.compile import compile_graph
from dlc.driver.options import binding_from_shapes
from dlc.errors import DlcError
from dlc.frontends.onnx import check as check_onnx
from dlc.frontends.onnx import load as load_onnx
from dlc.frontends.onnx import save as save_model
from dlc.frontends.onnx import supported_opsets
from dlc.ir.graph import Graph
from dlc.ir.interpret import fed_array
from dlc.ir.interpret import interpret as interpret_graph
from dlc.ir.opdef import Mode
from dlc.passes.bind import bind
from dlc.runtime.executable import Executable
from dlc.runtime.specialise import SpecialisingExecutable

__all__ = [
    "check",
    "compile",
    "interpret",
    "load",
    "save_onnx",
    "supported_opsets",
]


def ir_graph(graph: Any) -> Graph:
    """Return the ir Graph behind ``graph``: itself, or what a graph of the graph API froze to."""
    found = graph if isinstance(graph, Graph) else getattr(graph, "ir", None)
    if not isinstance(found, Graph):
        raise DlcError(f"{type(graph).__name__} is not a graph; pass what dlc.load or `with dlc.Graph()` gave")
    return found


def load(
    source: str | PathLike | bytes | Any,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    external_data_root: str | PathLike | None = None,
) -> Graph:
    """Import an ONNX model from a path, bytes or an ``onnx.ModelProto``.

    ``shapes`` fixes input shapes whose extents the model leaves open. Weights stored outside the file must lie
    in its folder, or under ``external_data_root``. Raises a DlcError that names the offender for anything wrong.
    """
    return load_onnx(source, shapes=shapes, external_data_root=external_data_root)


def compile(
    graph: Any,
    *,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dump: str | Path | None = None,
) -> Executable | SpecialisingExecutable:
    """Compile a graph for inference.

    Args:
        graph: what ``dlc.load``, ``dlc.grad`` or ``with dlc.Graph()`` gave.
        device: ``"cpu"``.
        precision: ``"float32"``: results as accurate as plain float32 arithmetic.
        threads: threads of one run; the default is DLC_NUM_THREADS, OMP_NUM_THREADS, or the processors available.
        shapes: input name -> extents, to bind symbolic dimensions now. Those left open are bound, and code is
            made, when a run first brings them.
        dump: folder for the numbered graphs, kernels, LLVM and assembly.

    Returns:
        An executable: ``run({"x": array})`` gives a dict of arrays, ``exe(array)`` takes and gives positional ones.
    """
    return compile_graph(ir_graph(graph), device=device, precision=precision, threads=threads, shapes=shapes, dump=dump)


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
