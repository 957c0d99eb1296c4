"""The public functions that a program which loads and runs a model needs; ``dlc.tools`` has the others.

Thin entries that unwrap graphs and call the frontends and the driver. What a warm start
does without is loaded when it is first needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from dlc import config
from dlc.driver.collector import collector_at_rest
from dlc.driver.compile import compile_graph
from dlc.driver.models import load_known
from dlc.errors import DlcError
from dlc.frontends.onnx.identity import frontend_digest
from dlc.ir.graph import Graph
from dlc.runtime.executable import Executable
from dlc.runtime.specialise import SpecialisingExecutable

__all__ = ["compile", "load"]


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
    A file that was imported before is known by the code cache; its graph is then made when it is first looked at.
    """
    with collector_at_rest():
        graph, messages = _load(source, shapes, external_data_root)
    for message in messages:
        warnings.warn(message, stacklevel=2)
    return graph


def _load(source: Any, shapes: Any, external_data_root: Any) -> tuple[Graph, tuple[str, ...]]:
    """Return the graph, from the code cache where it knows the file, and the warnings of its import."""
    imported = partial(_import, source, shapes, external_data_root)
    if isinstance(source, str | PathLike) and config.cache_enabled():
        root = str(Path(external_data_root).resolve()) if external_data_root is not None else ""
        question = {"shapes": _text_of(shapes), "root": root}
        return load_known(Path(fspath(source)), question, frontend_digest(), imported)
    found = imported()
    return found.graph, found.warnings


def _import(source: Any, shapes: Any, external_data_root: Any) -> Any:
    frontend = import_module("dlc.frontends.onnx.loading")
    return frontend.import_model(source, shapes=shapes, external_data_root=external_data_root)


def _text_of(shapes: Any) -> str:
    if not isinstance(shapes, Mapping):
        return repr(shapes)
    return repr([(name, str(shape)) for name, shape in shapes.items()])


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
        precision: ``"float32"``: results as accurate as plain float32 arithmetic. ``"bfloat16"``: operands of matrix
            products and convolutions rounded to bfloat16, products added in float32. ``"bf16x3"``: operands of two
            bfloat16 parts each, where the processor multiplies those faster than float32 (AMX).
        threads: threads of one run; the default is DLC_NUM_THREADS, OMP_NUM_THREADS, or the processors available.
        shapes: input name -> extents, to bind symbolic dimensions now. Those left open are bound, and code is
            made, when a run first brings them.
        dump: folder for the numbered graphs, kernels, LLVM and assembly.

    Returns:
        An executable: ``run({"x": array})`` gives a dict of arrays, ``exe(array)`` takes and gives positional ones.
    """
    return compile_graph(ir_graph(graph), device=device, precision=precision, threads=threads, shapes=shapes, dump=dump)
