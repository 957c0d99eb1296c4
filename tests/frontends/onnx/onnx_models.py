"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, outputs, name, **attributes)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto | str],
    initializers: dict[str, np.ndarray] | None = None,
    opset: int = 21,
    functions: Sequence[Any] = (),
    domains: dict[str, int] | None = None,
) -> ModelProto:
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in (initializers or {}).items()]
    results = [info(o, None) if isinstance(o, str) else o for o in outputs]
    graph = helper.make_graph(list(nodes), "test", list(inputs), results, stored)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def single(
    op: str, shapes: Sequence[Any], opset: int = 21, dtype: int = FLOAT, outputs: int = 1, **attributes: Any
) -> ModelProto:
    """A model of one node called ``the_node`` whose inputs x0, x1, ... are graph inputs."""
    names = [f"x{k}" if s is not None else "" for k, s in enumerate(shapes)]
    inputs = [info(n, s, dtype) for n, s in zip(names, shapes) if n]
    results = [f"y{k}" for k in range(outputs)]
    return model([node(op, names, results, "the_node", **attributes)], inputs, results, opset=opset)
