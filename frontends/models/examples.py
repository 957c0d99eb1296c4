"""Example inputs for any graph: seeded arrays of plausible values for everything that a run is fed."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlc.ir.dims import Dim, bind_dim, symbols_of
from dlc.ir.graph import Graph, Role, Value

_SMALL = 10


def example_inputs(graph: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Return an array for every data and target input: normal floats, random bools, small non-negative integers.

    Integers that look up rows of a table cover the whole table; symbolic dimensions become 1.
    """
    frozen: Graph = graph if isinstance(graph, Graph) else graph.ir
    generator = np.random.Generator(np.random.PCG64(seed))
    bounds = _table_sizes(frozen)
    arrays: dict[str, np.ndarray] = {}
    for value, spec in frozen.inputs_with(Role.DATA, Role.TARGET):
        shape = tuple(_extent(d) for d in value.type.shape)
        dtype = value.type.dtype
        if dtype.is_float or dtype.kind == "complex":
            array: np.ndarray = generator.standard_normal(shape)
        elif dtype.kind == "bool":
            array = generator.random(shape) < 0.5
        else:
            array = generator.integers(0, bounds.get(value, _SMALL), shape)
        arrays[spec.name] = np.asarray(array).astype(dtype.numpy)
    return arrays


def _extent(dim: Dim) -> int:
    bound = bind_dim(dim, {name: 1 for name in symbols_of(dim)})
    return int(bound)  # type: ignore[arg-type]


def _table_sizes(graph: Graph) -> dict[Value, int]:
    """Map the inputs that index a table (directly or through casts) to the smallest extent indexed."""
    origin: dict[Value, Value] = {v: v for v in graph.inputs}
    sizes: dict[Value, int] = {}
    for node in graph.nodes:
        if node.op.name in ("cast", "reshape") and node.inputs[0] in origin:
            origin[node.outputs[0]] = origin[node.inputs[0]]
        elif node.op.name == "gather" and node.inputs[1] in origin:
            extent = node.inputs[0].type.shape[node.attributes["axis"]]
            if isinstance(extent, int) and extent > 0:
                source = origin[node.inputs[1]]
                sizes[source] = min(extent, sizes.get(source, extent))
    return sizes
