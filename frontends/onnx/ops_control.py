"""Importers of If, Loop and Scan: subgraphs become regions, or are inlined where what they do is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.problems import AlreadyReported
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.values import Frame, Poison, Region, Tensor, TensorList, known_tensor
from dlc.ir.graph import Graph, Value
from dlc.ir.types import TensorType, bool_, int64

_MOST_UNROLLED = 128


def _tensors(call: Call, outputs: Sequence[Any]) -> list[Tensor]:
    """Return a subgraph's outputs if all are tensors."""
    if any(isinstance(o, Poison) for o in outputs):
        raise AlreadyReported("a node of the subgraph cannot be imported")
    if any(not isinstance(o, Tensor) for o in outputs):
        call.fail("its subgraph gives a sequence or optional; only tensors are supported here")
    return list(outputs)


def _freeze(region: Region, outputs: Sequence[Tensor]) -> Graph:
    values = [region.value(t) for t in outputs]
    for number, value in enumerate(values):
        region.builder.output(f"o{number}", value)
    return region.builder.finish()


def _bind_input(frame: Frame, name: str, type_: TensorType) -> None:
    region = frame.region
    value = region.builder.input(region.fresh_name(f"i{len(region.builder.inputs)}"), type_)
    frame.tensors[name] = region.add(value, name)


# -- If ---------------------------------------------------------------------------------


@onnx_op("If")
def import_if(call: Call) -> Any:
    """One of two subgraphs: the known one inlined, else both as regions."""
    condition = call.known(0)
    if condition is not None and condition.dtype != object:
        if condition.size != 1:
            call.fail(f"the condition has {condition.size} elements; it must have one")
        outputs = call.session.inline_subgraph(call, "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
        if any(isinstance(o, Poison) for o in outputs):
            raise AlreadyReported("a node of the branch cannot be imported")
        return outputs
    branches = []
    for name in ("then_branch", "else_branch"):
        graph, frame = call.session.open_subgraph(call, name)
        branches.append((frame.region, _tensors(call, call.session.run_subgraph(graph, frame))))
    (then, then_outputs), (other, other_outputs) = branches
    captures = list(dict.fromkeys([*then.captures, *other.captures]))
    for region, outputs in branches:  # materialise what is returned before the inputs are put in order
        for tensor in outputs:
            region.value(tensor)
        captures = list(dict.fromkeys([*captures, *region.captures]))
    graphs = [_with_captures(region, outputs, captures) for region, outputs in branches]
    for number, (a, c) in enumerate(zip(then_outputs, other_outputs)):
        if a.type != c.type:
            call.fail(f"output {number} is {a.type} from then_branch and {c.type} from else_branch; they must agree")
    here = call.frame.region
    operands = [call.b.reshape_to(call.value(0), ()), *(here.value(t) for t in captures)]
    return list(call.b.emit("if_", operands, {"then_graph": graphs[0], "else_graph": graphs[1]}))


def _with_captures(region: Region, outputs: Sequence[Tensor], captures: Sequence[Tensor]) -> Graph:
    """Freeze a branch whose inputs are exactly ``captures``, in that order."""
    graph = _freeze(region, outputs)
    known = dict(zip(region.captures, zip(graph.inputs, graph.signature.inputs)))
    full = Region(region.builder.name)
    for number, tensor in enumerate(captures):
        value = full.builder.input(f"i{number}", tensor.type)
        if tensor in known:
            full.values[tensor] = value
    results = full.builder.inline(graph, [full.values[t] for t in region.captures])
    for number, value in enumerate(results):
        full.builder.output(f"o{number}", value)
    return full.builder.finish()


# -- Scan -------------------------------------------------------------------------------


@onnx_op("Scan", since=9)
def import_scan(call: Call) -> list[Value]:
    """A loop over slices of sequences, with states."""
    b = call.b
    sequences = call.integer("num_scan_inputs")
    states = len(call.inputs) - sequences
    graph, frame = call.session.open_subgraph(call, "body")
    results = len(graph.output) - states
    if sequences < 1 or states < 0 or results < 0 or len(graph.input) != len(call.inputs):
        call.fail(
            f"{len(call.inputs)} inputs with num_scan_inputs {sequences} do not fit a body "
            f"with {len(graph.input)} inputs and {len(graph.output)} outputs"
        )
    axes = call.int_list("scan_input_axes", (0,) * sequences)
    backwards = call.int_list("scan_input_directions", (0,) * sequences)
    operands = [call.value(k) for k in range(states)]
    for k in range(sequences):
        x = call.value(states + k)
        axis = call.axis(axes[k], x.type.rank)
        x = b.reverse(x, axes=(axis,)) if backwards[k] else x
        operands.append(b.transpose_to(x, (axis, *(d for d in range(x.type.rank) if d != axis))))
    for x in operands[states + 1 :]:
        call.unify(operands[states].type.shape[0], x.type.shape[0], "the scanned inputs must have one length")
    for position, info in enumerate(graph.input):
        type_ = operands[position].type
        _bind_input(frame, info.name, type_ if position < states else TensorType(type_.dtype, type_.shape[1:]))
    outputs = _tensors(call, call.session.run_subgraph(graph, frame))
    found = emit_scan(call, frame.region, operands, outputs, states, sequences)
    out_axes = call.int_list("scan_output_axes", (0,) * results)
    out_backwards = call.int_list("scan_output_directions", (0,) * results)
    for k in range(results):
        y = b.reverse(found[states + k], axes=(0,)) if out_backwards[k] else found[states + k]
        axis = call.axis(out_axes[k], y.type.rank)
        order = list(range(1, y.type.rank))
        order.insert(axis, 0)
        found[states + k] = b.transpose_to(y, order)
    return found


def emit_scan(
    call: Call,
    region: Region,
    operands: Sequence[Value],
    outputs: Sequence[Tensor],
    states: int,
    sequences: int,
    length: int | None = None,
) -> list[Value]:
    """Emit the scan whose body is ``region`` with ``outputs``."""
    for number, tensor in enumerate(outputs[:states]):
        if tensor.type != operands[number].type:
            call.fail(f"state {number} enters the body as {operands[number].type} and leaves it as {tensor.type}")
    body = _freeze(region, outputs)
    captured = [call.frame.region.value(t) for t in region.captures]
    attributes: dict[str, Any] = {"body": body, "carries": states, "sequences": sequences}
    if length is not None:
        attributes["length"] = length
    return list(call.b.emit("scan", [*operands, *captured], attributes))


# -- Loop -------------------------------------------------------------------------------


@onnx_op("Loop")
def import_loop(call: Call) -> Any:
    """A counted loop becomes a scan or is unrolled; one that ends by a condition stays a loop."""
    trip = call.known(0)
    condition = call.known(1)
    graph = call.graph("body")
    count = len(call.inputs) - 2
    if len(graph.input) != count + 2 or len(graph.output) < count + 1:
        call.fail(
            f"{count} loop-carried inputs do not fit a body with {len(graph.input)} inputs, {len(graph.output)} outputs"
        )
    runs = not call.has(1) or (condition is not None and condition.dtype != object and bool(condition.reshape(-1)[0]))
    if condition is not None and not runs:
        trip = np.zeros((), np.int64)
    if trip is not None and (runs or condition is not None):
        tensors = all(isinstance(t, Tensor) for t in call.inputs[2:])
        steps = trip.reshape(-1)[0]
        if tensors:
            found = _as_scan(call, steps if trip.dtype == object else max(int(steps), 0), count)
            if found is not None:
                return found
        if trip.dtype != object and int(steps) <= _MOST_UNROLLED:
            return _unroll(call, graph, max(int(steps), 0), count)
    return _as_loop(call, count)


def _as_scan(call: Call, length: Any, count: int) -> list[Value] | None:
    """Emit a loop of known length whose condition always holds as a scan; None if it is no such loop."""
    graph, frame = call.session.open_subgraph(call, "body")
    for position in range(count):
        _bind_input(frame, graph.input[2 + position].name, call.tensor(2 + position).type)
    _bind_input(frame, graph.input[0].name, TensorType(int64, ()))
    frame.tensors[graph.input[1].name] = known_tensor(np.asarray(True), bool_)
    outputs = call.session.run_subgraph(graph, frame)
    if any(not isinstance(o, Tensor) for o in outputs):
        return None
    holds = outputs[0].known
    same = all(outputs[1 + k].type == call.tensor(2 + k).type for k in range(count))
    if holds is None or not bool(holds.reshape(-1)[0]) or not same:
        return None
    operands = [call.value(2 + k) for k in range(count)]
    steps = call.b.iota(shape=(length,), axis=0, dtype=int64)
    return emit_scan(call, frame.region, [*operands, steps], outputs[1:], count, 1, length)


def _unroll(call: Call, graph: GraphProto, steps: int, count: int) -> Any:
    """Inline the body once per iteration; it may end early at a known condition."""
    b, carried = call.b, list(call.inputs[2:])
    rows: list[list[Tensor]] = []
    for step in range(steps):
        given = [known_tensor(np.int64(step)), known_tensor(np.asarray(True), bool_), *carried]
        outputs = call.session.apply_subgraph(call, graph, given, f"{call.label}/{step}/")
        carried = outputs[1 : 1 + count]
        rows.append(outputs[1 + count :])
        holds = outputs[0].known if isinstance(outputs[0], Tensor) else None
        if holds is None:
            call.fail("its condition depends on data while the types of what it carries change; this is not supported")
        if not bool(holds.reshape(-1)[0]):
            break
    results: list[Any] = list(carried)
    for number in range(len(graph.output) - 1 - count):
        parts = [call.frame.region.value(row[number]) for row in rows]
        if not parts:
            call.fail("runs zero times and stacks results whose shape is then unknown")
        stacked = [b.reshape_to(p, (1, *p.type.shape)) for p in parts]
        results.append(stacked[0] if len(stacked) == 1 else b.concat(*stacked, axis=0))
    return results


def _as_loop(call: Call, count: int) -> list[Value]:
    """Emit a loop that ends by its condition; only the interpreter runs it."""
    b = call.b
    if any(isinstance(t, TensorList) for t in call.inputs):
        call.fail("carries a sequence through a loop whose length is not known")
    graph, frame = call.session.open_subgraph(call, "body")
    types = [TensorType(int64, ()), TensorType(bool_, ()), *(call.tensor(2 + k).type for k in range(count))]
    for info, type_ in zip(graph.input, types, strict=True):
        _bind_input(frame, info.name, type_)
    outputs = _tensors(call, call.session.run_subgraph(graph, frame))
    for k in range(count):
        if outputs[1 + k].type != types[2 + k]:
            call.fail(f"value {k} enters the body as {types[2 + k]} and leaves it as {outputs[1 + k].type}")
    holds = frame.region.builder.reshape_to(frame.region.value(outputs[0]), ())
    body = _freeze(frame.region, [frame.region.add(holds), *outputs[1:]])
    trip = b.reshape_to(call.value(0), ()) if call.has(0) else b.constant(np.int64(2**62))
    condition = b.reshape_to(call.value(1), ()) if call.has(1) else b.constant(np.asarray(True))
    carried = [call.value(2 + k) for k in range(count)]
    captured = [call.frame.region.value(t) for t in frame.region.captures]
    attributes: dict[str, Any] = {"body": body, "carries": count}
    if len(outputs) > 1 + count:
        attributes["length"] = call.session.names.fresh("iterations")
    return list(b.emit("loop", [trip, condition, *carried, *captured], attributes))
