"""Exported graphs run in onnxruntime to the interpreter's results, and import again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from node_cases import RANDOM, ROUNDED, cases, difference, import_case
from onnx_models import info, model, node

from dlc.errors import ConfigError, GraphError, UnsupportedOpError
from dlc.frontends.onnx import load, save, to_proto
from dlc.frontends.onnx.export_rules import RULES
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Role
from dlc.ir.interpret import interpret
from dlc.ir.opdef import all_ops
from dlc.ir.types import float32, int64, tensor_type, uint8

onnxruntime = pytest.importorskip("onnxruntime")


def run(model: onnx.ModelProto | bytes | str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    session = onnxruntime.InferenceSession(source, options)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


NARROW = ("bfloat16", "int4", "uint4", "float8", "float4")
MISSING_KERNELS = 20
"""Cases for which onnxruntime lacks a kernel of the dtype."""


@pytest.mark.parametrize(("every", "least"), [(8, 180), pytest.param(1, 1500, marks=pytest.mark.slow)])
def test_cases_of_the_standard(every: int, least: int) -> None:
    passed, wrong, unsupported = 0, [], []
    for case in cases()[::every]:
        found = import_case(case)
        if found is None or any(word in case.name for word in RANDOM) or case.name in ROUNDED:
            continue
        graph, feeds = found
        if any(v.type.dtype.name.startswith(NARROW) for v in (*graph.inputs, *graph.outputs)):
            continue
        proto = to_proto(graph)
        try:
            results = run(proto, feeds)
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            unsupported.append(f"{case.name}: {error}")
            continue
        fault = difference(case, results)
        if fault:
            wrong.append(f"{case.name}: {fault}")
        passed += not fault
    assert not wrong
    assert len(unsupported) <= MISSING_KERNELS, unsupported
    assert passed >= least


def test_every_op_has_a_rule_or_an_expansion() -> None:
    regions = {"scan", "if_", "loop", "fused"}
    without = [n for n, op in all_ops().items() if n not in RULES and op.expand is None and n not in regions]
    assert set(without) <= {"random_uniform", "key_next"}


def dynamic_graph() -> Graph:
    b = Builder("dynamic")
    x = b.input("x", tensor_type(float32, (load_dim("batch"), load_dim("time"), 6)))
    w = b.input("w", tensor_type(float32, (6, 4)), Role.PARAMETER, np.arange(24, dtype=np.float32).reshape(6, 4), True)
    y = b.matmul(x, w)
    batch, time, _ = y.type.shape
    flat = b.reshape_to(y, (batch * time, 2, 2))
    spread = b.broadcast(b.reduce_sum(x, axes=(2,)), shape=(batch, time, 3), dims=(0, 1))
    count = b.cast_to(b.dimension(size=batch * 2 + time - 1), float32)
    b.output("flat", flat)
    b.output("spread", b.softmax(spread, axis=1))
    b.output("count", b.mul(b.full((time,), 1.5, float32), count))
    b.output("steps", b.iota(shape=(batch, time), axis=1))
    b.output("x again", x)
    return b.finish()


def load_dim(name: str) -> object:
    from dlc.ir.dims import symbol

    return symbol(name)


def test_symbolic_dimensions_stay() -> None:
    proto = to_proto(dynamic_graph())
    onnx.checker.check_model(proto)
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == ["batch", "time", 6]
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    results = run(proto, {"x": x})
    again = load(proto, shapes={"x": x.shape})
    for name, wanted in interpret(again, {"x": x}).items():
        np.testing.assert_allclose(results[name], wanted, rtol=1e-5, atol=1e-6)
    assert results["count"][0] == 1.5 * 8
    assert [s.name for s in load(proto).signature.inputs] == ["x", "w"]


def test_names_are_kept() -> None:
    made = model(
        [node("MatMul", ["x", "w"], ["h"], "first"), node("Relu", ["h"], ["y"], "second")],
        [info("x", ["n", 3])],
        [info("y", None)],
        {"w": np.ones((3, 2), np.float32)},
    )
    proto = to_proto(load(made))
    assert [n.name for n in proto.graph.node] == ["first", "second"]
    assert [t.name for t in proto.graph.initializer] == ["w"]
    assert proto.graph.output[0].name == "y"


def test_training_state_is_left_out() -> None:
    b = Builder("state")
    x = b.input("x", tensor_type(float32, (2, 3)))
    vectors = [
        b.input(n, tensor_type(float32, (3,)), Role.STATE, np.full(3, v, np.float32))
        for n, v in (("scale", 2), ("bias", 1), ("mean", 0.5), ("variance", 4))
    ]
    y, mean, _ = b.batch_norm(x, *vectors)
    b.output("y", y)
    b.replace("mean", mean)
    proto = to_proto(b.finish())
    assert [o.name for o in proto.graph.output] == ["y"]
    np.testing.assert_allclose(run(proto, {"x": np.zeros((2, 3), np.float32)})["y"], 0.5, rtol=1e-4)


def test_expanded_contractions_run() -> None:
    """The expanded form, with windows, groups and padding, gives what the composite gives."""
    b = Builder("contractions")
    x = b.input("x", tensor_type(float32, (1, 4, 7, 6)))
    w = b.input("w", tensor_type(float32, (6, 2, 3, 2)))
    b.output("conv", b.conv(x, w, strides=(2, 1), dilations=(1, 2), padding=((1, 0), (2, 1)), groups=2))
    graph = b.finish()
    inner = Builder("expanded")
    operands = [inner.input(n, v.type) for n, v in zip(("x", "w"), graph.inputs)]
    (composite,) = graph.nodes
    from dlc.ir.opdef import Mode

    inner.output("conv", composite.op.expand(inner, tuple(operands), composite.attributes, Mode.INFERENCE)[0])
    generator = np.random.default_rng(1)
    feeds = {n: generator.normal(size=v.type.shape).astype(np.float32) for n, v in zip(("x", "w"), graph.inputs)}
    wanted = interpret(graph, feeds)["conv"]
    for made in (graph, inner.finish()):
        np.testing.assert_allclose(run(to_proto(made), feeds)["conv"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_opsets(opset: int) -> None:
    b = Builder("opsets")
    x = b.input("x", tensor_type(float32, (2, 4, 3, 3)))
    vector = b.input("v", tensor_type(float32, (4,)), Role.CONSTANT, np.arange(4, dtype=np.float32))
    y = b.group_norm(b.gelu(b.hard_swish(x)), vector, vector, groups=2)
    b.output("y", b.avg_pool(b.mish(y), window=2, padding=1, count_include_pad=False))
    graph = b.finish()
    proto = to_proto(graph, opset)
    onnx.checker.check_model(proto, full_check=True)
    feeds = {"x": np.random.default_rng(2).normal(size=(2, 4, 3, 3)).astype(np.float32)}
    np.testing.assert_allclose(run(proto, feeds)["y"], interpret(graph, feeds)["y"], rtol=1e-4, atol=1e-5)


def test_external_data(tmp_path: Path) -> None:
    weights = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    made = model([node("MatMul", ["x", "w"], ["y"])], [info("x", [2, 64])], [info("y", None)], {"w": weights})
    graph = load(made)
    path = tmp_path / "m.onnx"
    save(graph, path, external_data=True)
    assert path.stat().st_size < 2000 and (tmp_path / "m.onnx.data").stat().st_size == weights.nbytes
    again = load(path)
    (spec,) = [s for s in again.signature.inputs if s.name == "w"]
    np.testing.assert_array_equal(spec.initial, weights)
    feeds = {"x": np.ones((2, 64), np.float32)}
    np.testing.assert_allclose(run(str(path), feeds)["y"], interpret(graph, feeds)["y"], rtol=1e-5)
    save(again, path, external_data=True)  # over the file that is memory-mapped
    np.testing.assert_array_equal(spec.initial, weights)
    np.testing.assert_array_equal(next(s for s in load(path).signature.inputs if s.name == "w").initial, weights)


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = dynamic_graph()
    path = tmp_path / "m.onnx"
    save(graph, path)
    before = path.read_bytes()

    def broken(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        save(graph, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="18 to 21"):
        to_proto(dynamic_graph(), opset=12)
    b = Builder("random")
    key = b.input("key", tensor_type("uint32", (2,)))
    b.output("y", b.random_uniform(key, shape=(2,)))
    with pytest.raises(UnsupportedOpError, match="random_uniform"):
        to_proto(b.finish())
    b = Builder("clash")
    x = b.input("x", tensor_type(float32, (2,)))
    b.output("x", b.relu(x))
    with pytest.raises(GraphError, match="'x'"):
        to_proto(b.finish())


def test_regions_run() -> None:
    source = next(c for c in cases() if c.name == "test_scan9_sum")
    graph, feeds = import_case(source)  # type: ignore[misc]
    assert "Scan" in [n.op_type for n in to_proto(graph).graph.node]
    assert not difference(source, run(to_proto(graph), feeds))
    b = Builder("bytes")
    x = b.input("x", tensor_type(uint8, (3,)))
    b.output("y", b.cast_to(b.reduce_max(x, axes=(0,)), int64))
    assert run(to_proto(b.finish()), {"x": np.array([1, 200, 7], np.uint8)})["y"] == 200


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("op", ["neg", "floor_div", "floor_mod", "trunc_mod", "pow", "cumsum"])
def test_integers_of_every_width(name: str, op: str) -> None:
    dtype, info = np.dtype(name), np.iinfo(name)
    x, y = np.meshgrid(np.array([info.min, info.max, 1, 7, 5], dtype), np.array([info.max, 3, 2], dtype), indexing="ij")
    feeds = {"x": x} if op in ("neg", "cumsum") else {"x": x, "y": y}
    if op == "pow":
        feeds = {"x": x % dtype.type(6), "y": y % dtype.type(4)}
    b = Builder("integers")
    operands = [b.input(key, tensor_type(name, array.shape)) for key, array in feeds.items()]
    b.output("z", b.call(op, *operands, **({"axis": 0} if op == "cumsum" else {})))
    graph = b.finish()
    expected = interpret(graph, feeds)["z"]
    proto = to_proto(graph)
    np.testing.assert_array_equal(interpret(load(proto), feeds)["z"], expected)
    if dtype.itemsize < 4 and op != "trunc_mod":  # onnxruntime lacks kernels of others, or computes them in double
        np.testing.assert_array_equal(run(proto, feeds)["z"], expected)


def test_flushed_subnormal_numbers_keep_their_sign() -> None:
    b = Builder("flush")
    b.output("y", b.flush_subnormal(b.input("x", tensor_type(float32, (5,)))))
    proto = to_proto(b.finish())
    x = np.array([1e-40, -1e-40, -0.0, 1.5, -np.inf], np.float32)
    for results in (run(proto, {"x": x}), interpret(load(proto), {"x": x})):
        np.testing.assert_array_equal(results["y"], np.array([0, 0, 0, 1.5, -np.inf], np.float32))
        np.testing.assert_array_equal(np.signbit(results["y"]), np.signbit(x))
