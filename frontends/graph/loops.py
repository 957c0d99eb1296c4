"""scan: a body applied along the leading dimension of tensors, compiled as one loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.errors import GraphError, TypeRuleError
from dlc.frontends.graph.scope import Graph, Region
from dlc.frontends.graph.tensor import Tensor, graph_of, unwrap
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.types import TensorType

Body = Callable[[Any, Any], tuple[Any, Any]]


def scan(body: Body, init: Any, xs: Any = None, length: Dim | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """Run ``carry, y = body(carry, x)`` for every ``x`` along dimension 0 of ``xs``.

    ``init`` and ``xs`` are tensors, or tuples, lists or dicts of tensors (or None); ``body`` gets and returns the
    same structure. Returns the last carry and the ``y`` of all iterations stacked along a new dimension 0.
    ``reverse`` runs from the last element to the first. Without ``xs``, ``length`` is the number of iterations.
    Tensors of the surrounding graph may be used in ``body``. Raises TypeRuleError where a carry changes its type.
    """
    graph = graph_of((init, xs), "scan")
    carries = [unwrap(graph, t, "a carry of scan") for t in leaves(init)]
    sequences = [unwrap(graph, t, "a sequence of scan") for t in leaves(xs)]
    length = _length(sequences, length)
    with graph.nested("scan_body") as region:
        carry_in = [region.builder.input(f"carry{k}", v.type) for k, v in enumerate(carries)]
        slices = [
            region.builder.input(f"x{k}", TensorType(v.type.dtype, v.type.shape[1:])) for k, v in enumerate(sequences)
        ]
        returned = body(rebuild(init, _tensors(graph, region, carry_in)), rebuild(xs, _tensors(graph, region, slices)))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise GraphError("the body of scan must return a pair: the new carry and the output (or None)")
        new_carry, outputs = returned
        carry_out = [unwrap(graph, t, "a carry returned by the body of scan") for t in leaves(new_carry)]
        emitted = [unwrap(graph, t, "an output of the body of scan") for t in leaves(outputs)]
        _check_carries(carries, carry_out)
        for position, value in enumerate([*carry_out, *emitted]):
            region.builder.output(f"o{position}", value)
        inner = region.builder.finish()
    # What the body captured lives in the region around it, which may itself be a body.
    operands = [*carries, *sequences, *region.sources]
    builder = graph.builder
    with builder.origin(graph.origin()):
        results = builder.emit(
            "scan",
            operands,
            {"body": inner, "carries": len(carries), "sequences": len(sequences), "length": length, "reverse": reverse},
        )
    tensors = _tensors(graph, graph.region, results)
    return rebuild(init, tensors[: len(carries)]), rebuild(outputs, tensors[len(carries) :])


def _tensors(graph: Graph, region: Region, values: Any) -> list[Tensor]:
    return [Tensor(v, graph, region) for v in values]


def _length(sequences: list[Value], length: Dim | None) -> Dim:
    for value in sequences:
        if value.type.rank == 0:
            raise TypeRuleError(f"scan runs along dimension 0; a sequence of type {value.type} has none")
        if length is not None and value.type.shape[0] != length:
            raise TypeRuleError(f"the sequences of scan differ in length: {length} and {value.type.shape[0]}")
        length = value.type.shape[0]
    if length is None:
        raise TypeRuleError("scan without sequences needs length=")
    return length


def _check_carries(before: list[Value], after: list[Value]) -> None:
    if len(before) != len(after):
        raise TypeRuleError(f"the body of scan takes {len(before)} carries and returns {len(after)}")
    for position, (old, new) in enumerate(zip(before, after)):
        if old.type != new.type:
            raise TypeRuleError(
                f"carry {position} of scan enters as {old.type} and leaves as {new.type}; they must be equal"
            )


def leaves(structure: Any) -> list[Any]:
    """Return the tensors in nested tuples, lists and dicts, in order; None has none."""
    if structure is None:
        return []
    if isinstance(structure, tuple | list):
        return [leaf for item in structure for leaf in leaves(item)]
    if isinstance(structure, dict):
        return [leaf for item in structure.values() for leaf in leaves(item)]
    return [structure]


def rebuild(structure: Any, tensors: list[Any]) -> Any:
    """Return ``structure`` with its tensors replaced, in order, by ``tensors``."""
    remaining = iter(tensors)

    def walk(item: Any) -> Any:
        if item is None:
            return None
        if isinstance(item, tuple | list):
            return type(item)([walk(i) for i in item])
        if isinstance(item, dict):
            return {k: walk(v) for k, v in item.items()}
        return next(remaining)

    return walk(structure)
