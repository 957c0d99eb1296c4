"""Bad models: each gives a typed error that names the offender, and ``check`` lists them without raising."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import BOOL, FLOAT, INT64, info, model, node, single

from dlc.errors import (
    DlcError,
    ExternalDataError,
    InputError,
    InvalidModelError,
    ResourceLimitError,
    TypeRuleError,
    UnsupportedOpError,
    UnsupportedVersionError,
)
from dlc.frontends.onnx import check, load, supported_opsets


def relu_model() -> onnx.ModelProto:
    return single("Relu", [[2, 3]])


def fails(source: object, error: type[DlcError], *words: str, **options: object) -> str:
    """``load`` raises ``error`` whose message has all ``words``; ``check`` reports a problem without raising."""
    with pytest.raises(error) as caught:
        load(source, **options)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    found = check(source, **options)
    assert any(isinstance(p.error, error) for p in found), found
    return message


# -- files ------------------------------------------------------------------------------


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    fails(tmp_path / "m.onnx", InvalidModelError, "0 bytes", "m.onnx")
    fails(b"", InvalidModelError, "0 bytes")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    fails(tmp_path / "none.onnx", InvalidModelError, "none.onnx")
    fails(tmp_path, InvalidModelError, "not a file")
    fails("a\0b", InvalidModelError)


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes(seed: int) -> None:
    data = random.Random(seed).randbytes(seed * 37 + 1)
    with pytest.raises(DlcError):
        load(data)


def test_every_truncation() -> None:
    data = relu_model().SerializeToString()
    for size in range(1, len(data)):
        with pytest.raises(DlcError) as caught:
            load(data[:size])
        assert str(caught.value)


def test_flipped_bytes_never_crash() -> None:
    data = bytearray(
        single("Conv", [[1, 2, 5, 5], [3, 2, 3, 3]], strides=[1, 1], pads=[1, 1, 1, 1]).SerializeToString()
    )
    generator = random.Random(7)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            load(bytes(damaged))
        except DlcError:
            pass
        check(bytes(damaged))


def test_deeply_nested_protobuf() -> None:
    inner = b""
    for _ in range(5000):  # GraphProto.node.attribute.g ... nested far beyond any parser's limit
        for tag in (0x32, 0x2A, 0x0A):
            inner = bytes([tag]) + _varint(len(inner)) + inner
    fails(b"\x08\x0a" + b"\x3a" + _varint(len(inner)) + inner, InvalidModelError, "bytes")


def _varint(number: int) -> bytes:
    out = b""
    while True:
        out += bytes([(number & 0x7F) | (0x80 if number > 0x7F else 0)])
        number >>= 7
        if not number:
            return out


def test_wrong_kind_of_source() -> None:
    fails(12, InvalidModelError, "int")


# -- versions and ops -------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 6, supported_opsets[""].stop, 10**9, 0, -3])
def test_opset_out_of_range(version: int) -> None:
    made = relu_model()
    made.opset_import[0].version = version
    fails(made, UnsupportedVersionError, str(version), "7 to")


def test_no_opset() -> None:
    made = relu_model()
    del made.opset_import[:]
    fails(made, UnsupportedVersionError, "no opset", "7 to")


@pytest.mark.parametrize("version", [0, 1, 2, 99])
def test_ir_version(version: int) -> None:
    made = relu_model()
    made.ir_version = version
    fails(made, UnsupportedVersionError, "IR version", "3 to")


def test_unknown_ops_are_listed_together() -> None:
    made = model(
        [
            node("Rellu", ["x"], ["a"], "first"),
            node("Rellu", ["a"], ["b"], "second"),
            node("Fancy", ["b"], ["y"], "third", domain="my.domain"),
        ],
        [info("x", [2])],
        [info("y", [2])],
        domains={"my.domain": 1},
    )
    message = fails(made, UnsupportedOpError, "Rellu", "2 nodes", "first", "second", "Fancy", "my.domain", "third")
    assert "Relu" in message  # the nearest known name


def test_removed_op() -> None:
    fails(single("Upsample", [[1, 1, 2, 2], [4]], opset=13), DlcError, "the_node")


# -- names and structure ----------------------------------------------------------------


def test_cycle_shows_its_path() -> None:
    made = model(
        [node("Add", ["x", "c"], ["a"], "one"), node("Relu", ["a"], ["b"], "two"), node("Neg", ["b"], ["c"], "three")],
        [info("x", [2])],
        [info("c", [2])],
    )
    fails(made, InvalidModelError, "cycle of 3 nodes", "one", "two", "three", " -> ")


def test_unsorted_nodes_are_sorted() -> None:
    made = model([node("Relu", ["a"], ["y"]), node("Neg", ["x"], ["a"])], [info("x", [2])], [info("y", [2])])
    with pytest.warns(UserWarning, match="not in execution order"):
        graph = load(made)
    assert [n.op.name for n in graph.nodes] == ["neg", "relu"]
    assert [p.severity for p in check(made)] == ["warning"]


def test_undefined_name_has_a_hint() -> None:
    made = model([node("Relu", ["inptu"], ["y"], "here")], [info("input", [2])], [info("y", [2])])
    fails(made, InvalidModelError, "'inptu'", "here", "did you mean 'input'")


def test_undefined_output() -> None:
    made = model([node("Relu", ["x"], ["y"])], [info("x", [2])], [info("z", [2])])
    fails(made, InvalidModelError, "'z'")


def test_duplicate_names() -> None:
    made = model(
        [node("Relu", ["x"], ["y"], "one"), node("Neg", ["x"], ["y"], "two")], [info("x", [2])], [info("y", [2])]
    )
    fails(made, InvalidModelError, "'y' twice", "one", "two")
    shadowing = model([node("Relu", ["x"], ["x"], "one")], [info("x", [2])], [info("x", [2])])
    fails(shadowing, InvalidModelError, "'x' twice")


def test_hostile_names_stay_names() -> None:
    names = ["../../x", "a\0b", "n" * 100_000, "x y", "'; import os", "%s", "__class__"]
    nodes = [node("Relu", [a], [b], a) for a, b in zip(names, [*names[1:], "out"])]
    inputs = [info(names[0], ["../../../etc\0", "b" * 5000, "2*3**99999", "class", "7up", "?"])]
    graph = load(model(nodes, inputs, [info("out", None)]))
    assert graph.signature.inputs[0].name == names[0]
    for dim in graph.inputs[0].type.shape:
        assert str(dim).isidentifier() and len(str(dim)) < 64


def test_recursive_functions() -> None:
    def function(name: str, calls: str) -> onnx.FunctionProto:
        return helper.make_function(
            "f", name, ["x"], ["y"], [node(calls, ["x"], ["y"], domain="f")], [helper.make_opsetid("f", 1)]
        )

    made = model(
        [node("A", ["x"], ["y"], domain="f")],
        [info("x", [2])],
        [info("y", [2])],
        functions=[function("A", "B"), function("B", "A")],
        domains={"f": 1},
    )
    fails(made, InvalidModelError, "A -> B -> A")


def test_functions_that_explode() -> None:
    functions = []
    for level in range(40):
        calls = f"F{level + 1}" if level < 39 else "Relu"
        domain = "f" if level < 39 else ""
        nodes = [node(calls, ["x"], ["a"], domain=domain), node(calls, ["a"], ["y"], domain=domain)]
        opsets = [helper.make_opsetid("f", 1), helper.make_opsetid("", 21)]
        functions.append(helper.make_function("f", f"F{level}", ["x"], ["y"], nodes, opsets))
    made = model(
        [node("F0", ["x"], ["y"], domain="f")],
        [info("x", [2])],
        [info("y", [2])],
        functions=functions,
        domains={"f": 1},
    )
    fails(made, ResourceLimitError, "expand to")


def test_long_chain_imports() -> None:
    count = 50_000
    nodes = [node("Relu", [f"v{k}"], [f"v{k + 1}"]) for k in range(count)]
    graph = load(model(nodes, [info("v0", [2])], [info(f"v{count}", [2])]))
    assert len(graph.nodes) == count


# -- attributes, types, shapes ------------------------------------------------------------


def test_wrong_attribute_type() -> None:
    fails(single("Softmax", [[2, 3]], axis=1.5), InvalidModelError, "the_node", "Softmax", "'axis' is FLOAT", "INT")


def test_unknown_and_missing_attributes() -> None:
    fails(single("Softmax", [[2, 3]], axes=1), InvalidModelError, "the_node", "'axes'", "did you mean 'axis'")
    fails(single("Concat", [[2], [2]]), InvalidModelError, "the_node", "lacks the attribute 'axis'")


def test_arity() -> None:
    fails(single("Add", [[2]]), InvalidModelError, "the_node", "has 1 inputs", "2")
    fails(single("Relu", [[2], [2]]), InvalidModelError, "the_node", "has 2 inputs")
    fails(single("Relu", [[2]], outputs=2), InvalidModelError, "the_node", "2 outputs")


BAD_SHAPES: dict[str, Callable[[], onnx.ModelProto]] = {
    "add": lambda: single("Add", [[2, 3], [4]]),
    "where": lambda: model(
        [node("Where", ["c", "a", "b"], ["y"], "the_node")],
        [info("c", [2], BOOL), info("a", [2]), info("b", [3])],
        ["y"],
    ),
    "matmul": lambda: single("MatMul", [[2, 3], [4, 5]]),
    "matmul rank 0": lambda: single("MatMul", [[], [4, 5]]),
    "gemm": lambda: single("Gemm", [[2, 3], [3, 4], [5]]),
    "gemm rank": lambda: single("Gemm", [[2, 3, 1], [3, 4]]),
    "gemm bias larger": lambda: single("Gemm", [[1, 3], [3, 4], [2, 4]]),
    "conv channels": lambda: single("Conv", [[1, 3, 8, 8], [4, 2, 3, 3]]),
    "conv rank": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3]]),
    "conv kernel too large": lambda: single("Conv", [[1, 3, 2, 2], [4, 3, 5, 5]]),
    "conv bias": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3], [3]]),
    "conv group": lambda: single("Conv", [[1, 4, 8, 8], [4, 2, 3, 3]], group=0),
    "conv stride 0": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], strides=[0, 1]),
    "conv strides": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], strides=[1]),
    "conv dilation": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], dilations=[1, -1]),
    "conv pads": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], pads=[1, 1, 1]),
    "conv kernel_shape": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], kernel_shape=[2, 2]),
    "conv auto_pad": lambda: single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], auto_pad="SOME"),
    "conv transpose": lambda: single("ConvTranspose", [[1, 3, 8, 8], [4, 3, 3, 3]]),
    "max pool window": lambda: single("MaxPool", [[1, 3, 2, 2]], kernel_shape=[5, 5]),
    "max pool rank": lambda: single("MaxPool", [[3, 2]], kernel_shape=[1]),
    "lp pool pads": lambda: single("LpPool", [[1, 3, 8, 8]], kernel_shape=[2, 2], pads=[2, 0, 0, 0]),
    "average pool stride": lambda: single("AveragePool", [[1, 3, 8, 8]], kernel_shape=[2, 2], strides=[0, 0]),
    "batch norm": lambda: single("BatchNormalization", [[1, 3, 4], [3], [3], [2], [3]]),
    "layer norm": lambda: single("LayerNormalization", [[2, 5], [4]]),
    "softmax axis": lambda: single("Softmax", [[2, 3]], axis=2),
    "concat": lambda: single("Concat", [[2, 3], [3, 3]], axis=1),
    "concat rank": lambda: single("Concat", [[2, 3], [3]], axis=0),
    "transpose": lambda: single("Transpose", [[2, 3]], perm=[0, 0]),
    "split": lambda: single("Split", [[7]], outputs=2, num_outputs=3),
    "einsum": lambda: single("Einsum", [[2, 3], [4, 5]], equation="ij,jk->ik"),
    "einsum text": lambda: single("Einsum", [[2, 3], [4, 5]], equation="ij;jk"),
    "depth to space": lambda: single("DepthToSpace", [[1, 3, 2, 2]], blocksize=2),
    "lstm": lambda: single("LSTM", [[5, 2, 3], [1, 16, 4], [1, 16, 4]], hidden_size=4),
    "instance norm": lambda: single("InstanceNormalization", [[1, 3, 4], [2], [2]]),
    "flatten": lambda: single("Flatten", [[2, 3]], axis=5),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_shape_errors_name_node_op_and_shapes(name: str) -> None:
    made = BAD_SHAPES[name]()
    op = made.graph.node[0].op_type
    fails(made, TypeRuleError, "the_node", op, "opset 21", "float32[")


DTYPE_CASES = ["Add", "MatMul", "Gemm", "Concat", "Max", "Conv", "PRelu", "Less", "Pow", "Div"]


@pytest.mark.parametrize("op", DTYPE_CASES)
def test_mixed_dtypes(op: str) -> None:
    shape = [1, 2, 4] if op == "Conv" else [2, 2]
    attributes = {"axis": 0} if op == "Concat" else {}
    made = model(
        [node(op, ["a", "b"], ["y"], "the_node", **attributes)],
        [info("a", shape), info("b", shape, TensorProto.DOUBLE)],
        ["y"],
    )
    if op == "Pow":
        load(made)
    else:
        fails(made, TypeRuleError, "the_node", op, "float64", "float32")


@pytest.mark.parametrize("op", ["Relu", "Softmax", "Exp", "Sqrt", "LayerNormalization", "Sigmoid"])
def test_dtype_that_an_op_does_not_take(op: str) -> None:
    shapes = [[2, 3], [3]] if op == "LayerNormalization" else [[2, 3]]
    fails(single(op, shapes, dtype=BOOL), TypeRuleError, "the_node", op, "bool")


def reshape(shape: list[int], **attributes: int) -> onnx.ModelProto:
    return model(
        [node("Reshape", ["x", "s"], ["y"], "the_node", **attributes)],
        [info("x", [2, 3])],
        ["y"],
        {"s": np.array(shape, np.int64)},
    )


@pytest.mark.parametrize("shape", [[4, 2], [-1, 4], [-1, -1], [2, -3], [0, 0, 0], [7], [2**62, 2**62]])
def test_reshape_to_wrong_size(shape: list[int]) -> None:
    fails(reshape(shape), DlcError, "the_node", "Reshape")


def test_pads_that_overflow() -> None:
    huge = 2**62
    made = single("Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], pads=[huge, huge, huge, huge])
    fails(made, ResourceLimitError, "the_node", "pads")
    padded = model(
        [node("Pad", ["x", "p"], ["y"], "the_node")], [info("x", [2])], ["y"], {"p": np.array([huge, huge], np.int64)}
    )
    fails(padded, ResourceLimitError, "the_node", "pads")


# -- initializers ---------------------------------------------------------------------------


def stored(tensor: TensorProto) -> onnx.ModelProto:
    made = model([node("Identity", ["w"], ["y"])], [], ["y"])
    made.graph.initializer.append(tensor)
    return made


@pytest.mark.parametrize("size", [0, 4, 23, 25, 1000])
def test_initializer_with_wrong_size(size: int) -> None:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2, 3], raw_data=b"\0" * size)
    fails(stored(tensor), InvalidModelError, "'w'", "too much" if size > 24 else "too little", "24")


@pytest.mark.parametrize("dims", [[2**62, 2**62], [-1, 3], [2**63 - 1], [0, 2**62, 2**62], [1] * 100])
def test_initializer_with_absurd_dims(dims: list[int]) -> None:
    fails(stored(TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=b"")), InvalidModelError, "'w'", "dims")


def test_initializer_fields() -> None:
    fails(
        stored(TensorProto(name="w", data_type=FLOAT, dims=[3], float_data=[1, 2])),
        InvalidModelError,
        "'w'",
        "too little",
    )
    fails(stored(TensorProto(name="w", data_type=FLOAT, dims=[1], int64_data=[1])), InvalidModelError, "int64_data")
    fails(stored(TensorProto(name="w", data_type=77, dims=[1])), InvalidModelError, "77")
    fails(stored(TensorProto(name="w", data_type=0, dims=[1])), InvalidModelError, "'w'")


def test_sparse_initializer_bounds() -> None:
    made = model([node("Identity", ["w"], ["y"])], [], ["y"])
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(TensorProto(name="w", data_type=FLOAT, dims=[1], float_data=[1]))
    sparse.indices.CopyFrom(TensorProto(data_type=INT64, dims=[1], int64_data=[9]))
    sparse.dims.extend([2, 3])
    fails(made, InvalidModelError, "'w'", "indices")
    del sparse.dims[:]
    sparse.dims.extend([2**40, 3])
    fails(made, ResourceLimitError, "'w'")


# -- resource limits --------------------------------------------------------------------------


def constant_node(name: str, value: object) -> onnx.NodeProto:
    return node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))


HUGE = {
    "ConstantOfShape": lambda: [
        constant_node("s", np.array([2**40, 2**40])),
        node("ConstantOfShape", ["s"], ["y"], "the_node"),
    ],
    "Expand": lambda: [
        constant_node("x", np.float32(1)),
        constant_node("s", np.array([2**35, 2**10])),
        node("Expand", ["x", "s"], ["y"], "the_node"),
    ],
    "Tile": lambda: [
        constant_node("x", np.ones(4, np.float32)),
        constant_node("s", np.array([2**45])),
        node("Tile", ["x", "s"], ["y"], "the_node"),
    ],
    "Range": lambda: [
        *(constant_node(n, np.int64(v)) for n, v in (("a", 0), ("b", 2**60), ("c", 1))),
        node("Range", ["a", "b", "c"], ["y"], "the_node"),
    ],
}


@pytest.mark.parametrize("op", HUGE)
def test_huge_tensors_are_refused(op: str) -> None:
    fails(model(HUGE[op](), [], ["y"]), ResourceLimitError, "the_node", op)


def test_negative_constant_of_shape() -> None:
    made = model([constant_node("s", np.array([-1])), node("ConstantOfShape", ["s"], ["y"], "the_node")], [], ["y"])
    fails(made, DlcError, "the_node")


def test_shape_that_depends_on_data() -> None:
    made = model([node("Reshape", ["x", "s"], ["y"], "the_node")], [info("x", [2, 3]), info("s", [2], INT64)], ["y"])
    fails(made, TypeRuleError, "the_node", "shapes=")


@pytest.mark.parametrize("tuples", [[[1, 3]], [[0, 1], [-3, 0]], [[2]]])
@pytest.mark.parametrize("op", ["GatherND", "ScatterND"])
def test_index_tuples_out_of_range(op: str, tuples: list[list[int]]) -> None:
    inputs = ["x", "i", "u"] if op == "ScatterND" else ["x", "i"]
    feeds = [info("x", [2, 3]), info("u", [len(tuples), *[3] * (2 - len(tuples[0]))])][: len(inputs) - 1]
    made = model([node(op, inputs, ["y"], "the_node")], feeds, ["y"], {"i": np.array(tuples)})
    fails(made, DlcError, "the_node", op, "out of range")


def test_negative_dimension_of_an_input() -> None:
    fails(model([node("Relu", ["x"], ["y"])], [info("x", [2, -3])], ["y"]), InvalidModelError, "'x'", "-3")


# -- external data ----------------------------------------------------------------------------


def external(folder: Path, **entries: object) -> Path:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(stored(tensor).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    return inside


def test_external_data_is_mapped(folder: Path) -> None:
    graph = load(external(folder, location="w.bin", offset=8, length=16))
    (spec,) = graph.signature.inputs or (None,)
    array = graph.nodes[0].attributes["value"].array if spec is None else spec.initial
    np.testing.assert_array_equal(array, [2, 3, 4, 5])


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "none.bin", "..", ".", "", "a\0b", "x" * 5000, "..\\w"],
)
def test_external_data_outside(folder: Path, location: str) -> None:
    fails(external(folder, location=location), ExternalDataError, "'w'")


def test_external_data_through_links(folder: Path) -> None:
    (folder / "link.bin").symlink_to(folder / "w.bin")
    (folder / "dir").symlink_to(folder.parent)
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    for location in ("link.bin", "dir/secret.bin", "hard.bin"):
        fails(external(folder, location=location), ExternalDataError, "'w'", "link")
    load(external(folder, location="hard.bin"), external_data_root=folder.parent)
    load(external(folder, location="link.bin", length=16), external_data_root=folder)
    fails(external(folder, location="dir/secret.bin"), ExternalDataError, "outside", external_data_root=folder)


def test_external_data_bounds(folder: Path) -> None:
    for entries in (
        {"offset": 20},
        {"offset": -4},
        {"length": 15},
        {"length": "x"},
        {"offset": 2**70},
        {"colour": "red"},
    ):
        fails(external(folder, location="w.bin", **entries), ExternalDataError, "'w'")


def test_external_data_special_files(folder: Path) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    for location in ("sub", "pipe"):
        fails(external(folder, location=location), ExternalDataError, "'w'", "plain file")


def test_external_data_needs_a_path(folder: Path) -> None:
    data = external(folder, location="w.bin").read_bytes()
    fails(data, ExternalDataError, "without a path")
    load(data, external_data_root=folder)


# -- shapes= -------------------------------------------------------------------------------------


def test_bad_shapes_argument() -> None:
    made = single("Relu", [["n", 3]])
    fails(made, InputError, "did you mean 'x0'", shapes={"xO": (1, 3)})
    fails(made, InputError, "rank", shapes={"x0": (1, 3, 2)})
    fails(made, InputError, "fixes it to 3", shapes={"x0": (1, 4)})
    fails(made, InputError, "-1", shapes={"x0": (-1, 3)})


def test_input_without_shape() -> None:
    made = model([node("Relu", ["x"], ["y"])], [info("x", None)], ["y"])
    fails(made, InvalidModelError, "shapes=")
    assert load(made, shapes={"x": (2, "n")}).outputs[0].type.shape[0] == 2


def test_check_lists_every_problem() -> None:
    made = model(
        [
            node("Add", ["x", "w"], ["a"], "first"),
            node("Softmax", ["x"], ["b"], "second", axis=9),
            node("Relu", ["a"], ["c"], "behind_first"),
            node("Concat", ["c", "b"], ["y"], "third", axis=0),
            node("MatMul", ["x", "x"], ["z"], "fourth"),
        ],
        [info("x", [2, 3]), info("w", [7])],
        ["y", "z"],
    )
    problems = check(made)
    assert [p.node for p in problems] == ["first", "second", "fourth"]
    assert check(relu_model()) == []
