"""The ladder: every op sample on every rung, each held to the op's NumPy definition.

evaluate -> graph interpreter of the expansion -> kernel emulator -> LLVM. The completeness tests fail on an op
that has no samples or no gradient declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from dlc.codegen.emulate import emulate
from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower.node import lower
from dlc.codegen.target import CpuTarget
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.interpret import interpret
from dlc.ir.kernel import Kernel
from dlc.ir.kernel_digest import fingerprint
from dlc.ir.lowering import Lowered, OperandKind
from dlc.ir.opdef import NotDifferentiable, Trait, all_ops
from dlc.ir.parse_graph import parse_graph
from dlc.ir.text_graph import print_graph
from dlc.ir.verify_graph import verify_graph
from dlc.passes.expand import expand
from tests.codegen.kernel_native import Function
from tests.ir.ops import samples_elementwise, samples_neural, samples_tensor
from tests.ir.ops.samples import Sample, sampled_ops, samples_of

assert samples_elementwise and samples_tensor and samples_neural  # importing them registers the samples
OPS = sorted(all_ops())
COMPILED = [name for name in OPS if not all_ops()[name].has(Trait.HOST)]
HOST = host_target()
Runner = Callable[[Kernel, list[np.ndarray]], None]


@dataclass(frozen=True)
class Rung:
    """What kernels are scheduled for."""

    target: CpuTarget
    threads: int


# Every sample runs on the host; other feature sets and thread counts take some.
RUNGS = {
    "host": (Rung(HOST, 2), 1),
    "avx2": (Rung(host_target("avx2"), 4), 5),
    "generic": (Rung(host_target("generic"), 1), 5),
}


def assert_close(sample: Sample, actual: np.ndarray, wanted: np.ndarray) -> None:
    """Equal integers; floats within the tolerance of the largest result, or 1e-11 in float64."""
    assert actual.dtype == wanted.dtype and actual.shape == wanted.shape, sample.label
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(actual, wanted, err_msg=sample.label)
        return
    single = any(a.dtype == np.float32 for a in sample.arrays) or wanted.dtype == np.float32
    tolerance = sample.tolerance if single else 1e-11
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = float(finite.max()) if finite.size else 1.0
    np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance * scale, err_msg=sample.label)


def wanted_results(sample: Sample) -> list[np.ndarray]:
    node = sample.node()
    results = node.op.evaluate(node.attributes, *sample.arrays)
    return [np.asarray(r) for r in (results if isinstance(results, tuple | list) else (results,))]


# -- completeness --------------------------------------------------------------------------


def test_every_op_has_samples() -> None:
    assert sampled_ops() == OPS


@pytest.mark.parametrize("name", OPS)
def test_declarations(name: str) -> None:
    op = all_ops()[name]
    assert op.doc and op.evaluate is not None
    assert op.vjp is not None or op.is_composite or op.region
    assert all(attribute.doc for attribute in op.attributes.values())
    if isinstance(op.vjp, NotDifferentiable):
        return
    samples = samples_of(name)
    assert samples


# -- rung 1: the type rule and the expansion --------------------------------------------------


@pytest.mark.parametrize("name", OPS)
def test_types_and_expansion(name: str) -> None:
    for sample in samples_of(name):
        graph = sample.graph()
        verify_graph(graph)
        wanted = wanted_results(sample)
        for value, array in zip(graph.outputs, wanted, strict=True):
            assert value.type.dtype.numpy == array.dtype and value.type.shape == array.shape, sample.label
        expanded = expand(graph)
        verify_graph(expanded)
        assert not any(node.op.is_composite for node in expanded.nodes)
        for actual, array in zip(interpret(expanded, sample.feeds()).values(), wanted, strict=True):
            assert_close(sample, actual, array)


@pytest.mark.parametrize("name", OPS)
def test_text_form(name: str) -> None:
    for sample in samples_of(name)[:3]:
        graph = sample.graph()
        text = print_graph(graph)
        again = parse_graph(text)
        assert print_graph(again) == text
        before, after = interpret(graph, sample.feeds()), interpret(again, sample.feeds())
        for key in before:
            np.testing.assert_array_equal(after[key], before[key])


# -- rungs 2 and 3: kernels --------------------------------------------------------------------


def run_kernels(lowered: Lowered, node: Node, inputs: Sequence[np.ndarray], runner: Runner) -> list[np.ndarray]:
    """Run a node's kernel calls; outputs and temporaries begin as garbage."""

    def garbage(types: Sequence) -> list[np.ndarray]:
        return [
            np.full(t.shape, 113, np.uint8 if t.dtype.kind == "bool" else t.dtype.numpy).astype(t.dtype.numpy)
            for t in types
        ]

    results, temporaries = garbage(node.output_types), garbage(lowered.temporaries)
    found = {
        OperandKind.INPUT: [np.array(a, order="C") for a in inputs],
        OperandKind.OUTPUT: results,
        OperandKind.TEMPORARY: temporaries,
    }
    for call in lowered.calls:
        runner(call.kernel, [found[o.kind][o.index] for o in call.operands])
    return results


def run_graph(graph: Graph, arrays: Sequence[np.ndarray], runner: Runner, rung: Rung) -> list[np.ndarray]:
    """Run a graph of primitives by their kernels; a scan runs its body step by step."""
    values: dict[Value, np.ndarray] = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        inputs = [values[v] for v in node.inputs]
        results = (run_scan if node.op.name == "scan" else run_node)(node, inputs, runner, rung)
        values.update(zip(node.outputs, results, strict=True))
    return [values[v] for v in graph.outputs]


def run_node(node: Node, inputs: Sequence[np.ndarray], runner: Runner, rung: Rung) -> list[np.ndarray]:
    return run_kernels(lower(node, rung.target, rung.threads), node, inputs, runner)


def run_scan(node: Node, inputs: Sequence[np.ndarray], runner: Runner, rung: Rung) -> list[np.ndarray]:
    a = node.attributes
    first, last, length = a["carries"], a["carries"] + a["sequences"], a["length"]
    carries, results = list(inputs[:first]), [np.zeros(t.shape, t.dtype.numpy) for t in node.output_types]
    for step in range(length)[:: -1 if a["reverse"] else 1]:
        step_inputs = [*carries, *(s[step] for s in inputs[first:last]), *inputs[last:]]
        outputs = run_graph(a["body"], [np.asarray(x) for x in step_inputs], runner, rung)
        carries = outputs[:first]
        for stacked, row in zip(results[first:], outputs[first:], strict=True):
            stacked[step] = row
    return [*carries, *results[first:]]


def check_rung(runner: Runner, rung: Rung, samples: Sequence[Sample]) -> None:
    for sample in samples:
        graph = expand(sample.graph())
        for actual, array in zip(run_graph(graph, sample.arrays, runner, rung), wanted_results(sample), strict=True):
            assert_close(sample, np.asarray(actual), array)


@pytest.mark.parametrize("name", COMPILED)
def test_emulator(name: str) -> None:
    check_rung(emulate, Rung(HOST, 2), samples_of(name))


class Native:
    """Compiles kernels once for each target and runs their tasks, last first."""

    def __init__(self) -> None:
        self.functions: dict[tuple[str, CpuTarget], Function] = {}

    def runner(self, target: CpuTarget) -> Runner:
        def run(kernel: Kernel, arrays: list[np.ndarray]) -> None:
            key = fingerprint(kernel), target
            function = self.functions.get(key)
            if function is None:
                function = self.functions[key] = Function(kernel, target)
            for task in reversed(range(kernel.tasks)):
                function(*arrays, begin=task, end=task + 1)

        return run


@pytest.fixture(scope="module")
def native() -> Native:
    return Native()


@pytest.mark.parametrize("level", RUNGS)
@pytest.mark.parametrize("name", COMPILED)
def test_llvm(name: str, level: str, native: Native) -> None:
    rung, stride = RUNGS[level]
    check_rung(native.runner(rung.target), rung, samples_of(name)[::stride])
