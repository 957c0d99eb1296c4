"""What import makes of a model: structure, symbols, shape arithmetic, roles, origins."""

from __future__ import annotations

import glob
import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import BOOL, INT64, info, model, node, single

from dlc.errors import TypeRuleError
from dlc.frontends.onnx import load
from dlc.frontends.onnx.summary import model_summary
from dlc.frontends.onnx.wire import FileBytes, HeldBytes, split_weights
from dlc.ir.dims import symbol
from dlc.ir.graph import Node, Role
from dlc.ir.interpret import interpret

LIGHT = sorted(glob.glob(f"{os.path.dirname(onnx.__file__)}/backend/test/data/light/*.onnx"))


def ops(graph: object) -> Counter:
    return Counter(n.op.name for n in graph.nodes)


def ones(shape: object) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("path", LIGHT, ids=[os.path.basename(p)[6:-5] for p in LIGHT])
def test_light_models_import(path: str) -> None:
    graph = load(path)
    data = [(s.name, v.type.shape) for v, s in zip(graph.inputs, graph.signature.inputs) if s.role is Role.DATA]
    assert len(data) == 1 and data[0][1] == (1, 3, 224, 224)
    result = graph.output(graph.signature.results[0]).type
    assert result.size == 1000
    source = Counter(n.op_type for n in onnx.load(path).graph.node)
    found = ops(graph)
    assert found["conv"] == source["Conv"] and found["batch_norm"] == source["BatchNormalization"]
    assert all(n.origins for n in graph.nodes if n.op.name == "conv")


def test_squeezenet_meets_its_stored_output() -> None:
    """Weights are all equal, and so are logits but for rounding: they are too large for a softmax to bear that."""
    path = next(p for p in LIGHT if "squeezenet" in p)
    graph = load(path)
    stored = numpy_helper.to_array(onnx.load_tensor(path.replace(".onnx", "_output_0.pb")))
    logits: list[np.ndarray] = []

    def keep(node: Node, operands: tuple[np.ndarray, ...], results: tuple[np.ndarray, ...]) -> None:
        logits.extend(operands[:1] if node.op.name == "softmax" else ())

    found = interpret(graph, {"data_0": ones((1, 3, 224, 224))}, hook=keep)
    assert found[graph.signature.results[0]].shape == stored.shape
    (last,) = logits
    np.testing.assert_allclose(last, last.mean(), rtol=1e-5)
    np.testing.assert_allclose(np.full(stored.shape, 1 / last.size), stored, rtol=1e-4)


# -- symbols ------------------------------------------------------------------------------


def test_dynamic_dimensions_become_symbols() -> None:
    made = single("Relu", [["batch size", "n", None, 3]])
    shape = load(made).outputs[0].type.shape
    assert [str(d) for d in shape] == ["batch_size", "n", "x0_2_0", "3"]
    assert load(made, shapes={"x0": (1, 2, "t", 3)}).outputs[0].type.shape == (1, 2, symbol("t"), 3)


def test_symbols_that_broadcasting_makes_equal() -> None:
    made = model(
        [node("Add", ["a", "b"], ["s"]), node("MatMul", ["s", "w"], ["y"])],
        [info("a", ["n", None]), info("b", ["m", "k"]), info("w", ["depth", 4])],
        ["y"],
    )
    graph = load(made)
    assert graph.inputs[0].type.shape == graph.inputs[1].type.shape
    assert len({str(d) for v in graph.inputs for d in v.type.shape}) == 3
    assert graph.inputs[2].type.shape[0] == graph.inputs[0].type.shape[1]


def test_dimension_that_must_be_a_number() -> None:
    made = model([node("Reshape", ["x", "s"], ["y"])], [info("x", ["batch", 6])], ["y"], {"s": np.array([2, 3])})
    with pytest.warns(UserWarning, match="dimension batch is fixed to 1 by node Reshape_0"):
        assert load(made).inputs[0].type.shape == (1, 6)


def test_contradiction_is_reported() -> None:
    made = model([node("Add", ["a", "b"], ["y"], "sum")], [info("a", ["n", "n"]), info("b", [2, 3])], ["y"])
    with pytest.raises(TypeRuleError, match="sum"):
        load(made)


def test_expression_dimensions() -> None:
    made = model([node("Concat", ["a", "b"], ["y"], axis=0)], [info("a", ["n"]), info("b", ["n + 1"])], ["y"])
    assert load(made).outputs[0].type.shape == (symbol("n") * 2 + 1,)


# -- shape arithmetic -----------------------------------------------------------------------


def flatten_by_arithmetic() -> onnx.ModelProto:
    return model(
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["batch"], axis=0),
            node("Slice", ["shape", "one", "end"], ["rest"]),
            node("ReduceProd", ["rest"], ["size"], keepdims=1),
            node("Unsqueeze", ["batch", "zeros"], ["batch_1"]),
            node("Div", ["size", "two"], ["half"]),
            node("Cast", ["batch_1"], ["cast"], to=INT64),
            node("Concat", ["cast", "half", "two"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["y"]),
        ],
        [info("x", ["batch", 4, "t"])],
        ["y"],
        {
            "zero": np.array(0),
            "zeros": np.array([0]),
            "one": np.array([1]),
            "end": np.array([2**63 - 1]),
            "two": np.array([2]),
        },
    )


def test_shape_arithmetic_leaves_no_nodes() -> None:
    graph = load(flatten_by_arithmetic())
    assert ops(graph) == Counter(reshape=1)
    assert graph.outputs[0].type.shape == (symbol("batch"), symbol("t") * 2, 2)


def test_shape_values_used_as_data() -> None:
    made = model(
        [
            node("Shape", ["x"], ["shape"]),
            node("Cast", ["shape"], ["real"], to=1),
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Div", ["total", "real"], ["y"]),
        ],
        [info("x", ["n", 3])],
        ["y"],
    )
    assert "dimension" in ops(load(made))
    bound = load(made, shapes={"x": (4, 3)})
    np.testing.assert_allclose(interpret(bound, {"x": ones((4, 3))})["y"], [3, 4])


def test_minus_one_in_expand_of_torch() -> None:
    made = model(
        [
            node("Shape", ["x"], ["shape"]),
            node("ConstantOfShape", ["two"], ["ones"], value=numpy_helper.from_array(np.array([1]))),
            node("Mul", ["ones", "minus"], ["marks"]),
            node("Equal", ["shape", "marks"], ["same"]),
            node("Where", ["same", "ones", "shape"], ["target"]),
            node("Expand", ["v", "target"], ["y"]),
        ],
        [info("x", ["b", "s"]), info("v", [1, "s"])],
        ["y"],
        {"two": np.array([2]), "minus": np.array(-1)},
    )
    graph = load(made)
    assert ops(graph) == Counter(reshape=1, broadcast=1)
    assert graph.outputs[0].type.shape == (symbol("b"), symbol("s"))


def test_negative_steps_and_symbolic_slices() -> None:
    made = model(
        [node("Slice", ["x", "start", "end", "axes", "steps"], ["y"])],
        [info("x", ["n", 5])],
        ["y"],
        {
            "start": np.array([-1, 3]),
            "end": np.array([-(2**62), 0]),
            "axes": np.array([0, 1]),
            "steps": np.array([-1, -2]),
        },
    )
    graph = load(made, shapes={"x": (3, 5)})
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    np.testing.assert_array_equal(interpret(graph, {"x": x})["y"], x[::-1, 3:0:-2])
    assert load(made).outputs[0].type.shape == (symbol("n"), 2)


@pytest.mark.parametrize("bits", [32, 64])
def test_largest_integers_end_a_slice_of_a_symbolic_dimension(bits: int) -> None:
    """TensorFlow's converter writes the largest of 32 bits, PyTorch's exporters that of 64."""
    largest = 2 ** (bits - 1) - 1
    made = model(
        [node("Slice", ["x", "one", "end"], ["a"]), node("Slice", ["a", "end", "start", "axes", "minus"], ["y"])],
        [info("x", ["n"])],
        ["y"],
        {"one": np.array([1]), "end": np.array([largest]), "start": np.array([-largest]), "axes": np.array([0]),
         "minus": np.array([-1])},
    )  # fmt: skip
    assert load(made).outputs[0].type.shape == (symbol("n") - 1,)


def test_negative_step_over_no_elements() -> None:
    made = model(
        [node("Slice", ["x", "start", "end", "axes", "steps"], ["y"])],
        [info("x", [0, 5])],
        ["y"],
        {"start": np.array([-1]), "end": np.array([-(2**62)]), "axes": np.array([0]), "steps": np.array([-2])},
    )
    assert load(made).outputs[0].type.shape == (0, 5)


# -- control flow and functions -------------------------------------------------------------


def branch(op: str) -> onnx.GraphProto:
    return helper.make_graph([node(op, ["x"], ["r"], op)], op, [], [info("r", None)])


def test_known_branches_are_inlined() -> None:
    made = model(
        [
            node("Size", ["x"], ["size"]),
            node("Greater", ["size", "limit"], ["large"]),
            node("If", ["large"], ["y"], "choice", then_branch=branch("Relu"), else_branch=branch("Neg")),
        ],
        [info("x", [2, 3])],
        ["y"],
        {"limit": np.array(100)},
    )
    graph = load(made)
    assert ops(graph) == Counter(neg=1)
    assert str(graph.nodes[0].origins[0]) == "choice/Neg"


def test_unknown_branches_become_regions() -> None:
    made = model(
        [node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))],
        [info("x", [2]), info("c", [], BOOL)],
        ["y"],
    )
    graph = load(made)
    x = np.array([-1, 2], np.float32)
    for condition, wanted in ((True, [0, 2]), (False, [1, -2])):
        np.testing.assert_array_equal(interpret(graph, {"x": x, "c": np.array(condition)})["y"], wanted)


def test_counted_loops_become_scans() -> None:
    body = helper.make_graph(
        [node("Identity", ["c"], ["c_out"]), node("Mul", ["v", "w"], ["v_out"]), node("Neg", ["v"], ["row"])],
        "body",
        [info("i", [], INT64), info("c", [], BOOL), info("v", [3])],
        [info("c_out", [], BOOL), info("v_out", [3]), info("row", [3])],
    )
    made = model(
        [node("Loop", ["trip", "", "x"], ["last", "rows"], body=body)],
        [info("x", [3])],
        ["last", "rows"],
        {"trip": np.array(5), "w": np.full(3, 2, np.float32)},
    )
    graph = load(made)
    assert ops(graph)["scan"] == 1 and "loop" not in ops(graph)
    found = interpret(graph, {"x": np.array([1, 2, 3], np.float32)})
    np.testing.assert_array_equal(found["last"], [32, 64, 96])
    assert found["rows"].shape == (5, 3) and found["rows"][1, 2] == -6


def test_functions_are_inlined() -> None:
    function = helper.make_function(
        "my",
        "Scaled",
        ["a", "b"],
        ["y"],
        [node("LeakyRelu", ["a"], ["t"], "leak"), node("Add", ["t", "b"], ["y"])],
        [helper.make_opsetid("", 21)],
        attributes=["alpha"],
    )
    attribute = function.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    attribute.ref_attr_name = "alpha"
    made = model(
        [node("Scaled", ["x", "x"], ["y"], "outer", domain="my", alpha=0.5)],
        [info("x", [2])],
        ["y"],
        functions=[function],
        domains={"my": 1},
    )
    graph = load(made)
    assert {str(o) for n in graph.nodes for o in n.origins} == {"outer/leak", "outer/Add_1"}
    np.testing.assert_array_equal(interpret(graph, {"x": np.array([-2, 4], np.float32)})["y"], [-3, 8])


# -- versions of ops ----------------------------------------------------------------------------


def test_softmax_flattens_before_opset_13() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    old = interpret(load(single("Softmax", [[2, 3, 4]], opset=12)), {"x0": x})["y0"]
    new = interpret(load(single("Softmax", [[2, 3, 4]], opset=13)), {"x0": x})["y0"]
    np.testing.assert_allclose(old.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(new.sum(2), 1, rtol=1e-5)


def test_axes_as_attribute_and_as_input() -> None:
    old = single("ReduceSum", [[2, 3]], opset=12, axes=[1], keepdims=0)
    new = model(
        [node("ReduceSum", ["x0", "a"], ["y0"], keepdims=0)], [info("x0", [2, 3])], ["y0"], {"a": np.array([1])}
    )
    for made in (old, new):
        np.testing.assert_array_equal(interpret(load(made), {"x0": ones((2, 3))})["y0"], [3, 3])


@pytest.mark.parametrize("each", [1, 3])
def test_group_normalization_before_opset_21(each: int) -> None:
    """The standard withdrew that version, whose scale and bias have one element per group; files still hold it."""
    x = np.random.default_rng(0).normal(size=(2, 2 * each, 5)).astype(np.float32)
    scale, bias = np.array([2, -3], np.float32), np.array([1, 0.5], np.float32)
    made = single("GroupNormalization", [x.shape, [2], [2]], opset=18, num_groups=2)
    found = interpret(load(made), {"x0": x, "x1": scale, "x2": bias})["y0"].reshape(2, 2, -1)
    parts = x.astype(np.float64).reshape(2, 2, -1)
    want = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, want * scale[:, None] + bias[:, None], rtol=1e-4, atol=1e-5)


# -- accuracy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1e4])
def test_mean_variance_normalization_far_from_zero(shift: float) -> None:
    x = (np.random.default_rng(0).normal(size=(2, 3, 4, 5)) + shift).astype(np.float32)
    x[:, 1] = shift + 0.1
    wide = x.astype(np.float64)
    mean, deviation = wide.mean((0, 2, 3), keepdims=True), wide.std((0, 2, 3), keepdims=True)
    found = interpret(load(single("MeanVarianceNormalization", [x.shape])), {"x0": x})["y0"]
    want = (wide - mean) / (deviation + 1e-9)
    np.testing.assert_allclose(found[:, ::2], want[:, ::2], atol=1e-3)
    assert np.isfinite(found).all()


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "want"), [("UPPER", [1, 12]), ("LOWER", [12, 20])])
def test_odd_padding_of_a_transposed_convolution(side: str, want: list[int]) -> None:
    """Of the three sums 1, 12 and 20, one is padding: the last for SAME_UPPER, the first for SAME_LOWER."""
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], auto_pad=f"SAME_{side}")]
    made = model(nodes, [info("x", [1, 1, 2])], ["y"], {"w": np.array([[[1, 2]]], np.float32)})
    found = interpret(load(made), {"x": np.array([[[1, 10]]], np.float32)})["y"]
    np.testing.assert_array_equal(found, [[want]])


# -- roles ----------------------------------------------------------------------------------------


def classifier() -> onnx.ModelProto:
    generator = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    return model(
        [
            node("Sub", ["x", "pixel_mean"], ["centred"]),
            node("Conv", ["centred", "conv_w", "conv_b"], ["c"]),
            node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n"]),
            node("GlobalAveragePool", ["n"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Transpose", ["head_w"], ["head_t"], perm=[1, 0]),
            node("MatMul", ["f", "head_t"], ["h"]),
            node("Add", ["h", "head_b"], ["logits"]),
            node("Mul", ["logits", "temperature"], ["y"]),
        ],
        [info("x", ["batch", 3, 8, 8])],
        ["y"],
        {
            "pixel_mean": random(1, 3, 1, 1),
            "conv_w": random(4, 3, 3, 3),
            "conv_b": random(4),
            "scale": random(4),
            "bias": random(4),
            "mean": random(4),
            "variance": np.abs(random(4)),
            "head_w": random(1, 4),
            "head_b": random(1),
            "temperature": np.float32(2),
        },
    )


def test_roles_of_initializers() -> None:
    graph = load(classifier())
    roles = {s.name: (s.role, s.trainable) for s in graph.signature.inputs}
    assert roles == {
        "x": (Role.DATA, False),
        **{n: (Role.PARAMETER, True) for n in ("conv_w", "conv_b", "scale", "bias", "head_w", "head_b")},
        **{n: (Role.STATE, False) for n in ("mean", "variance")},
    }
    assert graph.signature.results == ("y",)
    assert graph.signature.replacements == {"mean:next": "mean", "variance:next": "variance"}


def test_statistics_that_only_unused_results_depend_on_are_not_trained() -> None:
    vectors = ("scale", "bias", "mean", "variance")
    made = model(
        [node("BatchNormalization", ["x", *vectors], ["y", "next_mean", "next_variance"], training_mode=1)],
        [info("x", ["batch", 4, 3])],
        ["y"],
        {name: np.ones(4, np.float32) for name in vectors},
    )
    assert [s.name for s in load(made).signature.inputs if s.trainable] == ["scale", "bias"]


def test_weights_are_not_copied() -> None:
    made = classifier()
    made.graph.initializer.append(numpy_helper.from_array(np.zeros((64, 64), np.float32), "large"))
    made.graph.node.append(node("MatMul", ["probe", "large"], ["z"]))
    made.graph.input.append(info("probe", [1, 64]))
    made.graph.output.append(info("z", None))
    spec = load(made).spec("large")
    assert spec.initial is not None and not spec.initial.flags.owndata and not spec.initial.flags.writeable


def test_large_tables_are_constants_and_small_ones_nodes() -> None:
    made = model(
        [node("Gather", ["small", "i"], ["a"]), node("Gather", ["large", "i"], ["b"])],
        [info("i", [2], INT64)],
        ["a", "b"],
        {"small": np.arange(8), "large": np.arange(5000)},
    )
    graph = load(made)
    assert {s.name: s.role for s in graph.signature.inputs} == {"i": Role.DATA, "large": Role.CONSTANT}


def test_dropout_draws_from_a_random_key() -> None:
    graph = load(single("Dropout", [[2, 3]], opset=10, ratio=0.25))
    assert graph.spec("random_key").role is Role.STATE
    assert graph.signature.results == ("y0",)
    np.testing.assert_array_equal(interpret(graph, {"x0": ones((2, 3))})["y0"], 1)


def test_summary() -> None:
    facts = model_summary(classifier())
    assert facts["opset"] == "ai.onnx 21" and facts["onnx_nodes"] == 9 and facts["initializers"] == 10


def test_weights_of_files_are_read_into_aligned_memory(tmp_path: Path) -> None:
    made = classifier()
    large = np.random.default_rng(5).normal(size=(33, 65)).astype(np.float32)
    made.graph.initializer.insert(1, numpy_helper.from_array(large, "large"))
    made.graph.node.append(node("MatMul", ["probe", "large"], ["z"]))
    made.graph.input.append(info("probe", [1, 33]))
    made.graph.output.append(info("z", None))
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    for source in (path, path.read_bytes(), made):
        graph = load(source)
        for spec in graph.signature.inputs:
            if spec.initial is not None:
                stored = next(t for t in made.graph.initializer if t.name == spec.name)
                np.testing.assert_array_equal(spec.initial, numpy_helper.to_array(stored))
    found = load(path).spec("large").initial
    assert found is not None and found.ctypes.data % 64 == 0 and not found.flags.writeable


@pytest.mark.parametrize("held", [True, False], ids=["bytes", "file"])
def test_splitting_weights_off_keeps_everything(held: bool, tmp_path: Path) -> None:
    made = classifier()
    made.graph.initializer.append(numpy_helper.from_array(np.ones((40, 40), np.float32), "a"))
    made.graph.initializer.insert(0, numpy_helper.from_array(np.zeros((70, 50), np.float64), "b"))
    made.metadata_props.add(key="k", value="v")
    data = made.SerializeToString()
    (tmp_path / "m").write_bytes(data)
    with open(tmp_path / "m", "rb") as file:
        split = split_weights(HeldBytes(data) if held else FileBytes(file.fileno(), str(tmp_path / "m")))
    assert sorted(split.weights) == [0, len(made.graph.initializer) - 1]
    again = onnx.ModelProto.FromString(split.model)
    for number, weight in split.weights.items():
        assert not again.graph.initializer[number].HasField("raw_data")
        again.graph.initializer[number].raw_data = bytes(weight)
    assert again == made


def test_initializers_that_an_exporter_merged_are_separate_again() -> None:
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    tied = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    made = model(
        [
            node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["a"], "bn1"),
            node("BatchNormalization", ["a", "one", "zero", "zero", "one"], ["b"], "bn2"),
            node("MatMul", ["b", "tied"], ["c"], "first"),
            node("Add", ["c", "zero"], ["d"], "bias"),
            node("MatMul", ["d", "tied"], ["y"], "second"),
        ],
        [info("x", [2, 4])],
        ["y"],
        {"one": one, "zero": zero, "tied": tied},
    )
    graph = load(made)
    roles = {s.name: s.role for s in graph.signature.inputs if s.role is not Role.DATA}
    assert sorted(roles.values()) == [Role.PARAMETER] * 6 + [Role.STATE] * 4
    assert roles["one"] is Role.PARAMETER and roles["tied"] is Role.PARAMETER
    assert len(graph.signature.replacements) == 4
    norms = [n for n in graph.nodes if n.op.name == "batch_norm"]
    assert len({v for n in norms for v in n.inputs[1:]}) == 8


def test_merged_initializers_get_back_their_names() -> None:
    tied = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    made = model(
        [
            node("Identity", ["a.bias"], ["b.bias"]),
            node("Identity", ["a.weight"], ["b.weight"]),
            node("Gemm", ["x", "a.weight", "a.bias"], ["h"]),
            node("Gemm", ["h", "b.weight", "b.bias"], ["y"]),
        ],
        [info("x", [2, 4])],
        ["y"],
        {"a.bias": np.zeros(4, np.float32), "a.weight": tied},
    )
    assert {s.name for s in load(made).signature.inputs} == {"x", "a.weight", "a.bias", "b.bias"}


def test_tied_weights_that_an_exporter_transposed_are_tied_again() -> None:
    table = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    made = model(
        [node("Gather", ["wte", "i"], ["h"]), node("MatMul", ["h", "onnx::MatMul_7"], ["y"])],
        [info("i", [3], INT64)],
        ["y"],
        {"wte": table, "onnx::MatMul_7": np.ascontiguousarray(table.T)},
    )
    graph = load(made)
    assert [s.name for s in graph.signature.inputs] == ["i", "wte"]
    found = interpret(graph, {"i": np.array([1, 2, 3])})["y"]
    np.testing.assert_allclose(found, table[1:4] @ table.T, rtol=1e-4, atol=1e-5)


def test_weights_above_two_gibibytes_by_path(tmp_path: Path) -> None:
    rows, columns = 3 << 18, 1 << 10  # 3 GiB of float32, a file of holes
    tensor = onnx.TensorProto(name="table", data_type=1, dims=[rows, columns], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="table.bin")
    made = model([node("Gather", ["table", "i"], ["y"])], [info("i", [1], INT64)], ["y"])
    made.graph.initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    with open(tmp_path / "table.bin", "wb") as file:
        file.truncate(rows * columns * 4)
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(7).tobytes())
    graph = load(tmp_path / "m.onnx")
    spec = graph.spec("table")
    assert spec.role is Role.PARAMETER and spec.initial is not None and not spec.initial.flags.owndata
    assert interpret(graph, {"i": np.array([rows - 1])})["y"][0, -1] == 7
