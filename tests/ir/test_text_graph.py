"""The text form of graphs: what it looks like, and that it reads back equal."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.errors import DlcError, GraphError, TypeRuleError
from dlc.ir.attributes import Literal
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Graph, Origin, Phase, Role, region_signature
from dlc.ir.parse_graph import parse_graph
from dlc.ir.structure import difference, graph_digest, same_graph
from dlc.ir.text_graph import print_graph
from dlc.ir.types import tensor_type
from dlc.ir.verify_graph import verify_graph


def small():
    b = Builder("small")
    x = b.input("x", tensor_type("float32", (symbol("n"), 4)))
    w = b.input("layer/w:0", tensor_type("float32", (4, 3)), Role.PARAMETER, np.ones((4, 3), np.float32), True)
    with b.origin(Origin("model.py:3")):
        y = b.matmul(x, w)
    with b.origin(Origin("model.py:4"), Origin('a "quoted" node', Phase.BACKWARD)):
        y = b.reduce_sum(y, axes=(1,), keepdims=True)
    b.output("y", y)
    b.replace("layer/w:0", b.neg(w))
    return b.finish()


SMALL = """\
graph "small" {
  input %x: float32[n, 4] data
  input %layer/w:0: float32[4, 3] parameter trainable replaced_by "layer/w:0:next" initial ...
  %0 = matmul(%x, %layer/w:0): float32[n, 3] @ "model.py:3"
  %1 = reduce_sum(%0) {axes=(1,), keepdims=true}: float32[n, 1] @ "model.py:4", "a \\"quoted\\" node" backward
  %2 = neg(%layer/w:0): float32[4, 3]
  output "y" = %1
  output "layer/w:0:next" = %2
}
"""


def round_trip(graph):
    text = print_graph(graph, initials=True)
    again = parse_graph(text)
    assert difference(graph, again, values=True) == ""
    assert print_graph(again, initials=True) == text
    return again


def test_the_form():
    assert print_graph(small()) == SMALL


def test_round_trip():
    again = round_trip(small())
    verify_graph(again)
    np.testing.assert_array_equal(again.spec("layer/w:0").initial, np.ones((4, 3)))
    assert again.inputs[0].hint == "x"


def test_values_left_out_can_be_supplied():
    array = np.full((4, 3), 2, np.float32)
    assert parse_graph(SMALL).spec("layer/w:0").initial is None
    assert parse_graph(SMALL, {"layer/w:0": array}).spec("layer/w:0").initial is array


def test_types_may_be_left_out():
    graph = parse_graph('graph "g" { input %x: float32[2, 3] data %0 = transpose(%x) %1 = neg(%0) output "y" = %1 }')
    verify_graph(graph)
    assert graph.outputs[0].type.shape == (3, 2)
    assert graph.nodes[0].attributes["permutation"] == (1, 0)


ARRAYS = {
    "floats": np.array([0.0, -0.0, 1e-45, 3.4e38, np.inf, -np.inf, np.nan, 0.1], np.float32),
    "doubles": np.array([0.1, 1e-310, 1 / 3, -np.inf], np.float64),
    "nan payload": np.array([0x7FC00001, 0xFFC00000], np.uint32).view(np.float32),
    "half": np.array([0.1, 65504, -0.0], np.float16),
    "bfloat16": np.array([0.1, -3e38], ml_dtypes.bfloat16),
    "float8": np.array([0.1, -448], ml_dtypes.float8_e4m3fn),
    "int4": np.array([-8, 7], ml_dtypes.int4),
    "bool": np.array([[True, False]]),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint64": np.array([2**64 - 1], np.uint64),
    "int8 rank 0": np.array(-128, np.int8),
    "empty": np.zeros((0, 3), np.float32),
    "large": np.random.default_rng(0).normal(size=(20, 30)),
    "complex": np.array([1 + 2j, -0.0j], np.complex64),
    "strings": np.array(["a", 'b "} \\ \n', "%x"], object),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_literals(name):
    b = Builder()
    b.output("y", b.emit("constant", (), {"value": Literal(ARRAYS[name])})[0])
    again = round_trip(b.finish())
    array = again.nodes[0].attributes["value"].array
    assert array.dtype == ARRAYS[name].dtype and array.shape == ARRAYS[name].shape
    assert Literal(array) == Literal(ARRAYS[name])


def scan_graph():
    body = Builder("body")
    h, x = body.input("i0", tensor_type("float32", (3,))), body.input("i1", tensor_type("float32", (3,)))
    with body.origin(Origin("inside")):
        y = body.add(h, x)
    outputs = (y, body.neg(y))
    region = Graph("body", tuple(body.inputs), tuple(body.nodes), outputs, region_signature(2, 2))
    b = Builder("outer")
    h, xs = b.input("h", tensor_type("float32", (3,))), b.input("xs", tensor_type("float32", (symbol("t"), 3)))
    last, ys = b.call("scan", h, xs, body=region, carries=1, sequences=1)
    b.output("last", last)
    b.output("ys", ys)
    return b.finish()


def test_regions():
    text = print_graph(scan_graph())
    assert '{body=graph "body" {\n      input %i0: float32[3] data\n' in text
    assert "length=<t>, sequences=1}: float32[3], float32[t, 3]" in text
    round_trip(scan_graph())


def test_strange_names():
    b = Builder('a "graph"')
    for name in ("with space", "1", "", "%percent", "trailing:", "日本", 'q"uote', "a\nb"):
        b.output(f"out {name}", b.neg(b.input(name, tensor_type("float32"))))
    round_trip(b.finish())


def test_attribute_kinds_are_told_apart():
    text = 'graph "g" { input %x: float32[2, 3] data %0 = leaky_relu(%x) {alpha=VALUE} output "y" = %0 }'
    found = {
        v: parse_graph(text.replace("VALUE", v)).nodes[0].attributes["alpha"] for v in ("0.25", "1", "inf", "-1e-3")
    }
    assert found == {"0.25": 0.25, "1": 1.0, "inf": np.inf, "-1e-3": -1e-3}
    assert all(type(v) is float for v in found.values())


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("", GraphError, "expected 'graph'"),
        ('graph "g" {', GraphError, "expected an input, a node, an output"),
        ('graph "g" {\n  %0 = neg(%x): float32[3]\n}', GraphError, "line 2: a value is used before it is defined"),
        ('graph "g" { input %x: float33[3] data }', GraphError, "'float33' is not a dtype"),
        ('graph "g" { input %x: float32[3] weights }', GraphError, "expected a role before this, not 'weights'"),
        ('graph "g" { input %x: float32[3] data input %x: float32[3] data }', GraphError, "%x is defined twice"),
        ('graph "g" { %0 = nonsense() }', DlcError, "no op is called 'nonsense'"),
        ('graph "g" { input %x: float32[3] data %0 = neg(%x) {axis=1} }', GraphError, "neg has no attribute axis"),
        ('graph "g" { input %x: float32[3] data %0 = reshape(%x) {shape=(2,)} }', TypeRuleError, "3"),
        ('graph "g" { input %x: float32[2] constant initial float32[2]{1.0} }', GraphError, "has 1 elements"),
        ('graph "g" { } graph', GraphError, "expected the end"),
        ('graph "\\q" { }', GraphError, "cannot read what is before this"),
        ('graph "g" { %0 = constant() {value=float32[1]{base64 "!"}} }', GraphError, "cannot read what is before this"),
        ('graph "g" { %0 = constant() {value=' + "(" * 100000 + "}", GraphError, "nest deeper than 64"),
        ('graph "g" { § }', GraphError, "cannot read '§ }'"),
    ],
)  # fmt: skip
def test_faults_name_the_line_and_the_token(text, error, reason):
    with pytest.raises(error) as caught:
        parse_graph(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("seed", range(200))
def test_damaged_text_gives_typed_errors(seed):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    text = list(print_graph(scan_graph() if seed % 2 else small(), initials=True))
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(text)))
        match rng.integers(3):
            case 0:
                del text[place : place + int(rng.integers(1, 9))]
            case 1:
                text[place] = str(rng.choice(list('"%(){}[],:=@<>01ax \n')))
            case _:
                text[place:place] = text[int(rng.integers(len(text))) :][:12]
    try:
        verify_graph(parse_graph("".join(text)))
    except DlcError:
        pass


def test_equality_is_structural():
    graph = small()
    assert same_graph(graph, small()) and graph_digest(graph) == graph_digest(small())
    others = {
        "another op": SMALL.replace("neg", "abs"),
        "another attribute": SMALL.replace("keepdims=true", "keepdims=false").replace("n, 1", "n"),
        "another role": SMALL.replace("x: float32[n, 4] data", "x: float32[n, 4] target"),
        "another dimension": SMALL.replace("n, ", "m, "),
        "not trainable": SMALL.replace(" trainable", ""),
        "replaces nothing": SMALL.replace(' replaced_by "layer/w:0:next"', ""),
        "another output name": SMALL.replace('"y"', '"z"'),
        "other operands": SMALL.replace("neg(%layer/w:0)", "neg(%layer/w:0)").replace('"y" = %1', '"y" = %0'),
    }
    for what, text in others.items():
        other = parse_graph(text)
        assert not same_graph(graph, other), what
        assert graph_digest(graph) != graph_digest(other), what
    moved = parse_graph(SMALL.replace("model.py:3", "model.py:9"))
    assert not same_graph(graph, moved) and same_graph(graph, moved, origins=False)
    assert graph_digest(graph) == graph_digest(moved) != graph_digest(moved, origins=True)


def test_values_count_on_request():
    graph, other = parse_graph(SMALL, {"layer/w:0": np.zeros((4, 3), np.float32)}), small()
    assert same_graph(graph, other) and not same_graph(graph, other, values=True)
    assert graph_digest(graph, values=True) != graph_digest(other, values=True)


def test_50000_nodes():
    b = Builder("long")
    value = b.input("x", tensor_type("float32", (3,)))
    for _ in range(50000):
        value = b.emit("neg", (value,))[0]
    b.output("y", value)
    graph = b.finish()
    assert same_graph(parse_graph(print_graph(graph)), graph)
