"""The graph interpreter: runs a graph with each op's NumPy ``evaluate``, in node order.

It is the executable definition that compiled code is compared with. It knows
nothing of kernels, schedules or memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache

import numpy as np

from dlc.errors import DlcError, GraphError, InputError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.opdef import Mode, OpDef, Trait
from dlc.ir.types import TensorType

Arrays = tuple[np.ndarray, ...]
Hook = Callable[[Node, Arrays, Arrays], None]
"""Called after every node with the node, its operands and its results."""

# The mode of the interpretation under way: ``evaluate`` of a region op has no parameter for it.
_MODE: ContextVar[Mode] = ContextVar("interpreter mode", default=Mode.INFERENCE)


def interpret(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    mode: Mode = Mode.INFERENCE,
    hook: Hook | None = None,
) -> dict[str, np.ndarray]:
    """Run ``graph``; return its outputs by name, replacements of state included.

    ``feeds`` maps input names to arrays; inputs that have an initial array need none. ``mode`` chooses the form of
    mode-dependent composites. ``hook`` sees every node of the outermost graph. Raises InputError for arrays that
    are missing, extra, or of the wrong dtype or shape, and DlcError naming the node whose evaluation fails.
    """
    arrays = input_arrays(graph, feeds)
    token = _MODE.set(mode)
    try:
        results = _run(graph, arrays, hook)
    finally:
        _MODE.reset(token)
    return dict(zip(graph.signature.outputs, results, strict=True))


def interpret_all(
    graph: Graph, feeds: Mapping[str, np.ndarray], mode: Mode = Mode.INFERENCE
) -> dict[Value, np.ndarray]:
    """Run ``graph`` and return the array of every value in it, inputs included."""
    values = dict(zip(graph.inputs, input_arrays(graph, feeds), strict=True))

    def keep(node: Node, operands: Arrays, results: Arrays) -> None:
        values.update(zip(node.outputs, results, strict=True))

    interpret(graph, feeds, mode, keep)
    return values


def interpret_region(graph: Graph, arrays: Sequence[np.ndarray]) -> Arrays:
    """Run a region on positional inputs, in the mode of the interpretation under way; return its outputs."""
    return _run(graph, tuple(np.asarray(a) for a in arrays), None)


def input_arrays(graph: Graph, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """Return one array per graph input: what ``feeds`` gives, else the initial array. Raises InputError."""
    known = {spec.name for spec in graph.signature.inputs}
    extra = [name for name in feeds if name not in known]
    if extra:
        raise InputError(
            f"graph {graph.name!r} has no input {', '.join(extra)}; it has {', '.join(sorted(known)) or 'none'}"
        )
    arrays = []
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        array = feeds.get(spec.name, spec.initial)
        if array is None:
            raise InputError(f"input {spec.name!r} ({value.type}) is not fed and has no initial value")
        array = fed_array(spec.name, array)
        fault = _mismatch(array, value.type)
        if fault:
            raise InputError(f"input {spec.name!r} is {value.type}, got {array.dtype}{list(array.shape)}: {fault}")
        arrays.append(array)
    return tuple(arrays)


def fed_array(name: str, value: object) -> np.ndarray:
    """Return what is fed for the input ``name`` as an array; InputError if it is none."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"what is fed for input {name!r} is no array: {error}") from error


def _run(graph: Graph, arrays: Arrays, hook: Hook | None) -> Arrays:
    """Evaluate the nodes in order, dropping every array after its last use."""
    values: dict[Value, np.ndarray] = dict(zip(graph.inputs, arrays, strict=True))
    last_use = _last_uses(graph)
    for node in graph.nodes:
        operands = tuple(values[v] for v in node.inputs)
        results = evaluate_node(node, operands)
        values.update(zip(node.outputs, results, strict=True))
        if hook is not None:
            hook(node, operands, results)
        for value in (*node.inputs, *node.outputs):
            if last_use.get(value) is node:
                values.pop(value, None)
    return tuple(values[v] for v in graph.outputs)


def _last_uses(graph: Graph) -> dict[Value, Node]:
    """Map each value to the node after which it is not needed; graph outputs are not in it."""
    last: dict[Value, Node] = {}
    for node in graph.nodes:
        for value in (*node.outputs, *node.inputs):
            last[value] = node
    for value in graph.outputs:
        last.pop(value, None)
    return last


def evaluate_node(node: Node, operands: Arrays) -> Arrays:
    """Evaluate one node on ``operands`` and check its results against its output types.

    Mode-dependent composites run their expansion for the mode of the interpretation under way.
    """
    try:
        if node.op.has(Trait.MODAL):
            return interpret_region(_expansion(node.op, node.input_types, node.attributes, _MODE.get()), operands)
        results = node.op.evaluate(node.attributes, *operands)
    except DlcError as error:
        error.add_note(f"while interpreting {node!r}")
        raise
    except (ValueError, TypeError, IndexError, ArithmeticError, MemoryError) as error:
        raise GraphError(f"{node!r}: evaluation failed: {error}") from error
    arrays = tuple(np.asarray(r) for r in (results if isinstance(results, tuple | list) else (results,)))
    if len(arrays) != len(node.outputs):
        raise GraphError(f"{node!r}: evaluate gave {len(arrays)} results for {len(node.outputs)} outputs")
    for position, (array, value) in enumerate(zip(arrays, node.outputs, strict=True)):
        fault = _mismatch(array, value.type)
        if fault:
            raise GraphError(f"{node!r}: result {position} is {array.dtype}{list(array.shape)}: {fault}")
    return arrays


@lru_cache(maxsize=256)
def _expansion(op: OpDef, types: tuple[TensorType, ...], attributes: Attributes, mode: Mode) -> Graph:
    """Build the graph of one composite's expansion, for reuse by every node that looks the same."""
    assert op.expand is not None
    builder = Builder(op.name)
    inputs = tuple(builder.input(f"i{k}", t) for k, t in enumerate(types))
    for position, value in enumerate(op.expand(builder, inputs, attributes, mode)):
        builder.output(f"o{position}", value)
    return builder.finish()


def _mismatch(array: np.ndarray, type_: TensorType) -> str:
    """Say how ``array`` differs from ``type_``, or return an empty text; symbolic dimensions fit any extent."""
    if array.dtype != type_.dtype.numpy:
        return f"dtype must be {type_.dtype}"
    if array.ndim != type_.rank:
        return f"rank must be {type_.rank}"
    if any(isinstance(d, int) and d != extent for d, extent in zip(type_.shape, array.shape, strict=True)):
        return f"shape must be {list(type_.shape)}"
    return ""
