"""The scope of a graph: names, roles, origins, state, freezing, and clear errors."""

import inspect

import numpy as np
import pytest

import dlc.frontends.graph as dlc
from dlc.errors import DlcError, GraphError
from dlc.frontends.graph import nn
from dlc.ir.graph import Role
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.verify_graph import verify_graph


def test_roles_types_and_outputs():
    with dlc.Graph("g") as graph:
        x = dlc.input("x", ("batch", 3))
        t = dlc.input("t", (2,), "int64", role="target")
        w = dlc.parameter("w", np.ones((3, 2), np.float32))
        frozen = dlc.parameter("frozen", [1.0, 2.0], trainable=False)
        table = dlc.constant(np.zeros((100,), np.int32))
        y = dlc.output("y", x @ w + frozen + table[0] + t)
    assert [(s.name, s.role, s.trainable) for s in graph.ir.signature.inputs] == [
        ("x", Role.DATA, False),
        ("t", Role.TARGET, False),
        ("w", Role.PARAMETER, True),
        ("frozen", Role.PARAMETER, False),
        ("constant", Role.CONSTANT, False),
    ]
    assert y.shape == (x.shape[0], 2) and frozen.dtype is dlc.float32
    assert graph.ir.signature.outputs == ("y",)
    verify_graph(graph.ir)


def test_origin_is_the_users_line_and_the_module_path():
    with dlc.Graph("g") as graph:
        x = dlc.input("x", (1, 4))
        y = dlc.exp(x)
        line = inspect.currentframe().f_lineno
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        dlc.output("y", model(y))
    origins = {node.op.name: str(node.origins[0]) for node in graph.ir.nodes}
    assert origins["exp"].endswith(f"test_scope.py:{line - 1}"), origins
    assert origins["matmul"].startswith("0 (") and f"test_scope.py:{line + 2}" in origins["matmul"]
    assert origins["relu"].startswith("1 (")


def test_dimensions_without_names_are_distinct_symbols():
    with dlc.Graph("g"):
        x = dlc.input("x.1", (None, None))
        assert x.shape[0] != x.shape[1]
        with pytest.raises(DlcError, match="negative"):
            dlc.input("bad", (-1,))
        with pytest.raises(DlcError, match="a dimension is"):
            dlc.input("bad", (1.5,))


def test_errors_name_the_offender():
    with pytest.raises(GraphError, match=r"dlc.input needs an open graph"):
        dlc.input("x", (1,))
    with dlc.Graph("first") as first:
        x = dlc.input("x", (2,))
        with pytest.raises(GraphError, match="'x'"):
            dlc.input("x", (2,))
        with pytest.raises(GraphError, match="role"):
            dlc.input("z", (2,), role="parameter")
        with pytest.raises(GraphError, match=r"dlc\.where"):
            bool(x > 0)
        with pytest.raises(GraphError, match="no value"):
            np.asarray(x)
        with pytest.raises(GraphError, match="still being defined"):
            first.ir  # noqa: B018
        with pytest.raises(GraphError, match="needs a shape"):
            dlc.parameter("w", nn.init.normal())
        dlc.output("y", x)
        with pytest.raises(GraphError, match="'y'"):
            dlc.output("y", x)
        with pytest.raises(GraphError, match="must be a tensor"):
            dlc.output("z", 3.0)
    with dlc.Graph("second"):
        other = dlc.input("x", (2,))
        with pytest.raises(GraphError, match=r"'first'.*'second'|'second'.*'first'"):
            dlc.add(x, other)
    with pytest.raises(GraphError, match="frozen"):
        x + 1
    with pytest.raises(GraphError, match="frozen"), first:
        pass


def test_an_error_inside_the_scope_leaves_the_graph_open_and_closes_the_scope():
    with pytest.raises(ValueError), dlc.Graph("g") as graph:
        raise ValueError
    with pytest.raises(GraphError):
        graph.ir  # noqa: B018
    with pytest.raises(GraphError):
        dlc.input("x", ())


def test_state_is_replaced_by_its_update():
    with dlc.Graph("counter") as graph:
        x = dlc.input("x", ())
        total = dlc.state("total", np.float32(1.0))
        dlc.update(total, total + x)
        dlc.output("y", total * 2)
        with pytest.raises(GraphError, match="update"):
            dlc.update(total, dlc.zeros((2,)))
    assert graph.ir.spec("total").replaced_by == "total:next"
    outputs = interpret(graph.ir, {"x": np.float32(3.0)})
    assert outputs["y"] == 2.0 and outputs["total:next"] == 4.0
    assert graph.ir.signature.results == ("y",)


def test_parameters_are_repeatable_and_independent_of_other_layers():
    def build(seed, extra):
        with dlc.Graph("g", seed=seed) as graph:
            x = dlc.input("x", (1, 4))
            if extra:
                dlc.parameter("extra", nn.init.normal(), (7,))
            dlc.output("y", nn.Linear(4, 3)(x))
        return graph.state()

    one, two, other = build(5, False), build(5, True), build(6, False)
    assert np.array_equal(one["linear.weight"], two["linear.weight"])
    assert not np.array_equal(one["linear.weight"], other["linear.weight"])


def test_names_of_modules():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x):
            x = self.first(x)
            for layer in self.layers:
                x = layer(x)
            return x

    with dlc.Graph("g") as graph:
        x = dlc.input("x", (1, 4))
        x = nn.Linear(4, 4)(x)
        x = nn.Linear(4, 4)(x)
        x = nn.Sequential(Block(), nn.ReLU(), Block())(x)
        x = nn.Sequential(nn.Linear(4, 4, bias=False))(x)
        x = nn.Sequential(nn.Linear(4, 4, bias=False))(x)
        with graph.scope("head"):
            x = nn.Linear(4, 4, bias=False)(x)
        shared = nn.LayerNorm(4, bias=False)
        dlc.output("y", shared(shared(x)))
    names = [s.name for s in graph.ir.signature.inputs][1:]
    assert names == [
        "linear.weight",
        "linear.bias",
        "linear_1.weight",
        "linear_1.bias",
        "0.first.weight",
        "0.first.bias",
        "0.layers.0.weight",
        "0.layers.0.bias",
        "0.layers.1.weight",
        "0.layers.1.bias",
        "2.first.weight",
        "2.first.bias",
        "2.layers.0.weight",
        "2.layers.0.bias",
        "2.layers.1.weight",
        "2.layers.1.bias",
        "sequential.0.weight",
        "sequential_1.0.weight",
        "head.linear.weight",
        "layer_norm.weight",
    ]


def test_load_state():
    with dlc.Graph("g") as graph:
        x = dlc.input("x", (2, 3, 4, 4))
        dlc.output("y", nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout())(x))
    new = {name: np.full(a.shape, 2, a.dtype) for name, a in graph.state().items() if name != "random_key"}
    graph.load_state({**new, "1.num_batches_tracked": np.int64(0)})
    assert all((a == 2).all() for n, a in graph.state().items() if n != "random_key")
    with pytest.raises(GraphError, match=r"missing.*0\.bias.*unknown.*nonsense"):
        graph.load_state({"0.weight": new["0.weight"], "nonsense": np.zeros(1)})
    graph.load_state({"0.weight": new["0.weight"] + 1, "nonsense": np.zeros(1)}, strict=False)
    assert (graph.state()["0.weight"] == 3).all()
    with pytest.raises(GraphError, match=r"0\.weight.*shape"):
        graph.load_state({"0.weight": np.zeros((1, 1, 1, 1))}, strict=False)


def test_random_numbers_are_state_and_differ_by_call():
    with dlc.Graph("g", seed=3) as graph:
        a = dlc.random_normal((1000,))
        dlc.output("a", a)
        dlc.output("b", dlc.random_normal((1000,), mean=5.0, std=2.0))
        dlc.output("u", dlc.random_uniform((1000,), low=-1.0, high=3.0))
    first = interpret(graph.ir, {})
    second = interpret(graph.ir, {"random_key": first["random_key:next"]})
    assert not np.allclose(first["a"], second["a"])
    assert np.array_equal(first["a"], interpret(graph.ir, {})["a"])
    assert abs(first["a"].mean()) < 0.15 and abs(first["b"].mean() - 5) < 0.3 and abs(first["b"].std() - 2) < 0.2
    assert first["u"].min() >= -1 and first["u"].max() < 3 and abs(first["u"].mean() - 1) < 0.15


def test_dropout_in_both_modes():
    with dlc.Graph("g", seed=3) as graph:
        x = dlc.input("x", (1000,))
        dlc.output("y", dlc.dropout(x, 0.25))
    feeds = {"x": np.ones(1000, np.float32)}
    assert (interpret(graph.ir, feeds)["y"] == 1).all()
    trained = interpret(graph.ir, feeds, Mode.TRAINING)["y"]
    np.testing.assert_allclose(np.unique(trained), [0, 4 / 3], rtol=1e-6)
    assert 0.7 < (trained > 0).mean() < 0.8
