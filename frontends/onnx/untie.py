"""Undoes what exporters do to weights, so that training an imported model is training the original.

They merge weights that happen to be equal when exported, and store tied weights twice, once transposed.

Fresh biases (all 0), scales (all 1) and running statistics then are one initializer, though each of
them is trained on its own. Weights that a model ties on purpose are not all one number, and stay tied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from dlc.frontends.onnx.values import Tensor
from dlc.ir.graph import Graph, InputSpec, Node, Role, Value

STATISTICS = (3, 4)
"""Operands of batch_norm that hold running statistics."""


def untie(graph: Graph, initializers: Collection[Value]) -> tuple[Graph, set[Value]]:
    """Return ``graph`` with an input of its own for every use of a merged initializer, and all initializers.

    Merged are float initializers of rank >= 1 whose elements are all equal, and those that serve both as a running
    statistic and as something else. The first use keeps the name.
    """
    specs = dict(zip(graph.inputs, graph.signature.inputs, strict=True))
    uses: dict[Value, list[tuple[int, int]]] = defaultdict(list)
    candidates = {
        v for v in initializers if v.type.dtype.is_float and v.type.rank > 0 and specs[v].role is Role.CONSTANT
    }
    for number, node in enumerate(graph.nodes):
        for operand, value in enumerate(node.inputs):
            if value in candidates:
                uses[value].append((number, operand))
    nodes = list(graph.nodes)
    names = {s.name for s in graph.signature.inputs}
    added: list[tuple[Value, InputSpec]] = []
    for value, places in uses.items():
        if len(places) < 2 or not _merged(specs[value], nodes, places):
            continue
        for number, operand in places[1:]:
            node = nodes[number]
            name = _fresh(f"{specs[value].name}/{node.origins[0] if node.origins else number}", names)
            copy = Value(value.type, name)
            added.append((copy, replace(specs[value], name=name)))
            nodes[number] = replace(node, inputs=tuple(copy if k == operand else v for k, v in enumerate(node.inputs)))
    if not added:
        return graph, set(initializers)
    inputs = (*graph.inputs, *(v for v, _ in added))
    signature = replace(graph.signature, inputs=(*graph.signature.inputs, *(s for _, s in added)))
    result = Graph(graph.name, inputs, tuple(nodes), graph.outputs, signature)
    return result, {*initializers, *(v for v, _ in added)}


def _merged(spec: InputSpec, nodes: list[Node], places: list[tuple[int, int]]) -> bool:
    statistic = [nodes[n].op.name == "batch_norm" and k in STATISTICS for n, k in places]
    if any(statistic) and not all(statistic):
        return True
    return is_uniform(spec.initial)


def is_uniform(array: np.ndarray | None) -> bool:
    """Tell whether all elements of ``array`` are one number: weights not trained yet, which exporters merge."""
    if array is None or array.size == 0:
        return False
    flat = array.reshape(-1)
    return bool(flat[0] == flat[-1] and (flat == flat[0]).all())


_GENERATED = ("onnx::", "val_")
_SMALLEST_TIED = 256
_SQUARE = 256


def tie_transposed(tensors: Iterable[Tensor]) -> None:
    """Mark matrices with generated names that are the transpose of a named one: tied weights, folded by an exporter."""
    matrices = [t for t in tensors if t.dtype.is_float and len(t.shape) == 2 and _is_large(t.array)]
    named: dict[tuple, list[Tensor]] = defaultdict(list)
    for tensor in matrices:
        if not tensor.name.startswith(_GENERATED):
            named[tensor.shape].append(tensor)
    for tensor in matrices:
        if tensor.name.startswith(_GENERATED):
            for other in named.get(tensor.shape[::-1], ()):
                if _is_transpose(tensor.array, other.array):
                    tensor.transpose_of = other
                    break


def _is_large(array: np.ndarray | None) -> bool:
    return array is not None and array.size >= _SMALLEST_TIED


def _is_transpose(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return False
    probes = ((0, 0), (-1, 0), (0, -1), (-1, -1))
    if a.dtype != b.dtype or any(a[i, j] != b[j, i] for i, j in probes) or is_uniform(a):
        return False
    # In squares: of one matrix, whole columns would be read, and every element from another page.
    for row in range(0, a.shape[0], _SQUARE):
        for column in range(0, a.shape[1], _SQUARE):
            rows, columns = slice(row, row + _SQUARE), slice(column, column + _SQUARE)
            if not np.array_equal(a[rows, columns], b[columns, rows].T):
                return False
    return True


def _fresh(stem: str, names: set[str]) -> str:
    name, number = stem, 1
    while name in names:
        number += 1
        name = f"{stem}_{number}"
    names.add(name)
    return name
