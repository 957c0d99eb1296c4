"""What fusion knows of single nodes."""

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.ir.builder import Builder
from dlc.ir.cost import distinct
from dlc.passes import node_facts
from dlc.passes.node_facts import NodeKind, facts_of


def constant(array: np.ndarray):
    b = Builder()
    b.output("y", b.constant(array))
    (node,) = b.finish().nodes
    return node


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.full((1000, 1000), 3, "f"), NodeKind.FREE),
        (np.repeat(np.array([0, 1]), 500_000), NodeKind.FREE),
        (np.arange(100), NodeKind.OPAQUE),
    ],
)
def test_a_constant_of_few_runs_is_a_formula_of_the_index(array: np.ndarray, kind: NodeKind) -> None:
    assert facts_of(constant(array)).kind is kind


def test_a_large_constant_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are constants of the graph have a million runs: a formula of them takes minutes."""

    def refuse(node: object) -> None:
        raise AssertionError("the index form was asked for")

    monkeypatch.setattr(node_facts, "_compute", refuse)
    assert facts_of(constant(np.arange(1_000_000, dtype="f"))).kind is NodeKind.OPAQUE


def test_the_formula_of_a_constant_has_a_test_for_each_run() -> None:
    node = constant(np.repeat(np.array([3, 1, 2], "f"), [5, 1, 1000]))
    assert node.op.compute is not None
    body = node.op.compute(node.input_types, node.output_types, node.attributes).body
    assert sum(getattr(e, "op", "") == "select" for e in distinct([body])) == 2
