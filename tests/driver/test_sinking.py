"""Which products over whole sequences are made step by step, and that results stay right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dlc
from dlc import losses, nn, optim
from dlc.codegen.llvm.target import host_target
from dlc.codegen.target import CpuTarget
from dlc.driver.sinking import sinking_pays
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.types import tensor_type
from dlc.passes.expand import ExpandOptions, expand
from dlc.passes.sink_products import SinkOptions, sink_products

WIDE = replace(
    host_target(),
    features=("avx2", "avx512f", "fma"),
    vector_bytes=64,
    vector_registers=32,
    has_fma=True,
    has_masks=True,
    double_pumped=True,
    l1_bytes=32 << 10,
    l3_bytes=8 << 20,
)
"""A processor with AVX-512 in two halves; nothing runs on it."""
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def layer(op: str, batch: int, hidden: int = 128, features: int = 64, length: int = 6) -> Graph:
    """Return a recurrent layer over x, all of whose operands are inputs."""
    b = Builder(op)
    rows = GATES[op] * hidden
    state = (batch, hidden)
    biases = [(rows,)] * (2 if op == "gru" else 1)
    states = [state] * (2 if op == "lstm" else 1)
    shapes = [(length, batch, features), (rows, features), (rows, hidden), *biases, *states]
    operands = [b.input(f"i{k}", tensor_type("float32", shape)) for k, shape in enumerate(shapes)]
    b.output("y", b.emit(op, operands, {})[0])
    return expand(b.finish(), ExpandOptions(Mode.INFERENCE))


def is_sunk(graph: Graph, target: CpuTarget = WIDE, threads: int = 2) -> bool:
    return sink_products(graph, SinkOptions(sinking_pays(target, threads))) is not graph


@pytest.mark.parametrize("op", ["lstm", "gru"])
@pytest.mark.parametrize("batch", [8, 16, 32])
def test_gates_multiply_both_operands_in_a_step(op: str, batch: int) -> None:
    graph = layer(op, batch)
    assert is_sunk(graph)
    found = sink_products(graph, SinkOptions(sinking_pays(WIDE, 2)))
    assert all(node.op.name != "contract" for node in found.nodes)
    feeds = {
        s.name: np.random.default_rng(k).standard_normal(v.type.shape).astype("f") / 8
        for k, (s, v) in enumerate(zip(graph.signature.inputs, graph.inputs, strict=True))
    }
    np.testing.assert_allclose(interpret(found, feeds)["y"], interpret(graph, feeds)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (layer("lstm", 4), "too few rows use what is read of the weights"),
        (layer("lstm", 33), "too many rows for the nearest cache"),
        (layer("lstm", 8, hidden=100), "slices of no whole panels"),
        (layer("rnn", 8), "no slices: the product would be a kernel of its own in every step"),
        (layer("lstm", 8, hidden=1024, features=1024), "more weights than the last cache holds"),
        (layer("lstm", 8, length=1), "one step"),
    ],
)
def test_other_products_are_made_at_once(graph: Graph, reason: str) -> None:
    assert not is_sunk(graph), reason


def test_what_the_processor_has_decides() -> None:
    graph = layer("lstm", 8)
    assert not is_sunk(graph, replace(WIDE, double_pumped=False)), "two multiply-adds a cycle want sixteen rows"
    assert is_sunk(layer("lstm", 16), replace(WIDE, double_pumped=False), threads=1)
    assert not is_sunk(graph, replace(WIDE, features=(*WIDE.features, "amx-int8"))), "tiles multiply all steps at once"


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "batch"), [(nn.LSTM, 8), (nn.GRU, 16), (nn.LSTM, 32), (nn.GRU, 3)])
def test_networks_compute_what_the_interpreter_does(kind: type, batch: int, bidirectional: bool, threads: int) -> None:
    with dlc.Graph("network", seed=0) as graph:
        x = dlc.input("x", (batch, 5, 48))
        dlc.output("y", kind(48, 128, num_layers=2, batch_first=True, bidirectional=bidirectional)(x)[0])
    data = np.random.default_rng(0).standard_normal((batch, 5, 48)).astype(np.float32)
    found = dlc.compile(graph, threads=threads)(data)
    np.testing.assert_allclose(found, dlc.interpret(graph, {"x": data})["y"], rtol=1e-4, atol=1e-5)


def test_training_steps_follow_the_same_losses_whether_products_are_sunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[float]:
        with dlc.Graph("network", seed=0) as graph:
            x = dlc.input("x", (16, 5, 48))
            y = nn.LSTM(48, 64, batch_first=True)(x)[0]
            dlc.output("logits", nn.Linear(64, 4)(y[:, -1]))
        step = dlc.compile_training(graph, loss=losses.cross_entropy("logits", "label"), optimizer=optim.SGD(0.1))
        rng = np.random.default_rng(0)
        batch = {"x": rng.standard_normal((16, 5, 48)).astype(np.float32), "label": rng.integers(0, 4, 16)}
        return [step.run(batch) for _ in range(3)]

    sunk = run()
    monkeypatch.setattr("dlc.driver.build.sinking_pays", lambda target, threads: None)
    monkeypatch.setenv("DLC_CACHE", "0")
    np.testing.assert_allclose(sunk, run(), rtol=1e-5)
