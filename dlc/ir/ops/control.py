"""Control flow: ops that hold graphs as attributes (regions). ``fused`` is one too, made by the fuse pass.

A region sees only its own inputs: what it uses from outside is passed to it as
operands. Gradients of regions belong to the autodiff pass.
"""

from __future__ import annotations

import numpy as np

from dlc.errors import ResourceLimitError, TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.dims import Dim
from dlc.ir.graph import Graph
from dlc.ir.interpret import interpret_region
from dlc.ir.opdef import NOT_DIFFERENTIABLE, Attribute, OpDef, Trait, Types, register
from dlc.ir.ops.rules import BOUND
from dlc.ir.types import TensorType, bool_, int64

MAX_ITERATIONS = 10_000_000
"""Loops that the interpreter stops as runaway."""


def _types(values: tuple) -> Types:
    return tuple(v.type for v in values)


def _check_region(what: str, graph: Graph, wanted: Types) -> None:
    given = _types(graph.inputs)
    if given != tuple(wanted):
        raise TypeRuleError(f"{what} takes ({_listed(given)}) but is given ({_listed(wanted)})")


def _listed(types: Types) -> str:
    return ", ".join(map(str, types))


def _check_counts(attributes: Attributes, operands: int, *names: str) -> None:
    counts = [attributes[name] for name in names]
    if any(c < 0 for c in counts) or sum(counts) > operands:
        listed = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
        raise TypeRuleError(f"{listed} do not fit {operands} operands")


# -- scan ----------------------------------------------------------------------------------


def _scan_attributes(types: Types, a: Attributes) -> Attributes:
    """Take the length from the first sequence where it is not given."""
    first = a["carries"]
    if a["length"] is None and a["sequences"] > 0 and 0 <= first < len(types) and types[first].rank:
        return a.updated(length=types[first].shape[0])
    return a


def scan_type(inputs: Types, attributes: Attributes) -> Types:
    """(carries, sequences, constants) -> carries, one stacked result per further output of the body."""
    body, length = attributes["body"], attributes["length"]
    _check_counts(attributes, len(inputs), "carries", "sequences")
    first, last = attributes["carries"], attributes["carries"] + attributes["sequences"]
    if length is None:
        raise TypeRuleError("a scan without sequences needs a length")
    if isinstance(length, int) and not 0 <= length < BOUND:
        raise TypeRuleError(f"length is {length}; it must be in [0, 2**31)")
    for t in inputs[first:last]:
        if t.rank == 0 or t.shape[0] != length:
            raise TypeRuleError(f"sequence {t} does not have {length} elements along dimension 0")
    slices = tuple(TensorType(t.dtype, t.shape[1:]) for t in inputs[first:last])
    _check_region(f"body {body.name!r}", body, (*inputs[:first], *slices, *inputs[last:]))
    outputs = _types(body.outputs)
    if outputs[:first] != inputs[:first]:
        raise TypeRuleError(f"carries enter as ({_listed(inputs[:first])}) and leave as ({_listed(outputs[:first])})")
    return (*inputs[:first], *(TensorType(t.dtype, (length, *t.shape)) for t in outputs[first:]))


def scan_evaluate(attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Run the body once per step."""
    body, length = attributes["body"], int(attributes["length"])
    first, last = attributes["carries"], attributes["carries"] + attributes["sequences"]
    carries, sequences, constants = list(arrays[:first]), arrays[first:last], arrays[last:]
    rows: list[tuple[np.ndarray, ...]] = []
    for step in range(length):
        position = length - 1 - step if attributes["reverse"] else step
        results = interpret_region(body, (*carries, *(s[position] for s in sequences), *constants))
        carries = list(results[:first])
        rows.append(results[first:])
    if attributes["reverse"]:
        rows.reverse()
    stacked = []
    for number, value in enumerate(body.outputs[first:]):
        shape = tuple(d if isinstance(d, int) else 0 for d in value.type.shape)
        parts = [row[number] for row in rows]
        stacked.append(np.stack(parts) if parts else np.zeros((0, *shape), value.type.dtype.numpy))
    return (*carries, *stacked)


register(
    OpDef(
        name="scan",
        arity=None,
        infer=scan_type,
        evaluate=scan_evaluate,
        attributes={
            "body": Attribute((Graph,), doc="(carries, slices, constants) -> (new carries, results of the step)"),
            "carries": Attribute((int,), doc="number of leading operands that steps hand on"),
            "sequences": Attribute((int,), doc="number of operands after them that are sliced along dimension 0"),
            "length": Attribute((int, type(None)), symbolic=True, default=None, required=False, doc="number of steps"),
            "reverse": Attribute((bool,), default=False, required=False, doc="run from the last element to the first"),
        },
        region=True,
        normalize=_scan_attributes,
        doc="A loop over elements of sequences: (carries, sequences, constants) -> (final carries, stacked results).",
    )
)


# -- if_ -----------------------------------------------------------------------------------


def if_type(inputs: Types, attributes: Attributes) -> Types:
    """(bool of rank 0, captures) -> the outputs of the chosen branch."""
    if not inputs or inputs[0] != TensorType(bool_, ()):
        raise TypeRuleError("the first operand must be a rank-0 bool")
    branches = attributes["then_graph"], attributes["else_graph"]
    for graph in branches:
        _check_region(f"branch {graph.name!r}", graph, inputs[1:])
    chosen, other = (_types(graph.outputs) for graph in branches)
    if chosen != other:
        raise TypeRuleError(f"the branches give ({_listed(chosen)}) and ({_listed(other)}); they must agree")
    return chosen


register(
    OpDef(
        name="if_",
        arity=None,
        infer=if_type,
        evaluate=lambda a, condition, *captures: interpret_region(
            a["then_graph"] if bool(condition) else a["else_graph"], captures
        ),
        attributes={
            "then_graph": Attribute((Graph,), doc="run on the captures if the condition holds"),
            "else_graph": Attribute((Graph,), doc="run on the captures otherwise"),
        },
        region=True,
        traits=frozenset({Trait.HOST}),
        doc="One of two graphs, chosen by a rank-0 bool (operand 0), on the remaining operands.",
    )
)


# -- loop ----------------------------------------------------------------------------------


def loop_type(inputs: Types, attributes: Attributes) -> Types:
    """(trip count int64, condition bool, carries, constants) -> carries, stacked results."""
    body, count, length = attributes["body"], attributes["carries"], attributes["length"]
    if inputs[:2] != (TensorType(int64, ()), TensorType(bool_, ())):
        raise TypeRuleError("the first operands must be a rank-0 int64 trip count and a rank-0 bool condition")
    _check_counts(attributes, len(inputs) - 2, "carries")
    carries = inputs[2 : 2 + count]
    _check_region(f"body {body.name!r}", body, inputs)
    outputs = _types(body.outputs)
    if outputs[: 1 + count] != (TensorType(bool_, ()), *carries):
        raise TypeRuleError(f"the body must give a rank-0 bool and ({_listed(carries)}), not ({_listed(outputs)})")
    results = outputs[1 + count :]
    if results and length is None:
        raise TypeRuleError("results are stacked along the number of iterations; name it with length")
    leading: Dim = 0 if length is None else length
    return (*carries, *(TensorType(t.dtype, (leading, *t.shape)) for t in results))


def loop_evaluate(
    attributes: Attributes, trip: np.ndarray, condition: np.ndarray, *arrays: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Run the body while the condition holds and the trip count is not reached."""
    body, count = attributes["body"], attributes["carries"]
    carries, constants = list(arrays[:count]), arrays[count:]
    rows: list[tuple[np.ndarray, ...]] = []
    step = 0
    while bool(condition) and step < int(trip):
        if step == MAX_ITERATIONS:
            raise ResourceLimitError(f"loop {body.name!r} did not end within {MAX_ITERATIONS} iterations")
        condition, *rest = interpret_region(body, (np.asarray(step, np.int64), condition, *carries, *constants))
        carries = rest[:count]
        rows.append(tuple(rest[count:]))
        step += 1
    stacked = []
    for number, value in enumerate(body.outputs[1 + count :]):
        shape = tuple(d if isinstance(d, int) else 0 for d in value.type.shape)
        parts = [row[number] for row in rows]
        stacked.append(np.stack(parts) if parts else np.zeros((0, *shape), value.type.dtype.numpy))
    return (*carries, *stacked)


register(
    OpDef(
        name="loop",
        arity=None,
        infer=loop_type,
        evaluate=loop_evaluate,
        attributes={
            "body": Attribute(
                (Graph,), doc="(iteration, condition, carries, constants) -> (condition, carries, results)"
            ),
            "carries": Attribute((int,), doc="number of operands after the condition that iterations hand on"),
            "length": Attribute(
                (int, type(None)), symbolic=True, default=None, required=False, doc="iterations, usually a symbol"
            ),
        },
        region=True,
        vjp=NOT_DIFFERENTIABLE,
        traits=frozenset({Trait.HOST}),
        doc="A loop with a trip count and a condition, as ONNX's Loop; it runs in the interpreter.",
    )
)


# -- fused ---------------------------------------------------------------------------------


def fused_type(inputs: Types, attributes: Attributes) -> Types:
    """The body's inputs -> its outputs."""
    _check_region(f"body {attributes['body'].name!r}", attributes["body"], inputs)
    return _types(attributes["body"].outputs)


register(
    OpDef(
        name="fused",
        arity=None,
        infer=fused_type,
        evaluate=lambda attributes, *arrays: interpret_region(attributes["body"], arrays),
        attributes={"body": Attribute((Graph,), doc="primitive ops that become one kernel, or a few")},
        region=True,
        doc="A group of ops that code generation lowers together.",
    )
)
