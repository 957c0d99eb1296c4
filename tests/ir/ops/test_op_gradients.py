"""Gradients of every differentiable op along one random direction, in float64, against central differences.

The gradient of that directional derivative is checked in the same way: gradients differentiate again.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from dlc.errors import NotDifferentiableError
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Value
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode, NotDifferentiable, Trait, all_ops
from dlc.ir.types import DType, float64, tensor_type
from dlc.passes.autodiff.autodiff import gradients
from tests.ir.ops import samples_elementwise, samples_neural, samples_tensor
from tests.ir.ops.samples import Sample, samples_of

assert samples_elementwise and samples_neural and samples_tensor
DIFFERENTIABLE = sorted(
    name for name, op in all_ops().items() if not isinstance(op.vjp, NotDifferentiable) and name not in ("fused",)
)
STEP = 1e-6
# Outputs that carry gradients where not all do: running statistics are constants.
OUTPUTS = {"batch_norm": 1}


def wide(sample: Sample) -> tuple[list[np.ndarray], list[int]]:
    """Return the operands in float64 and the positions to differentiate."""
    arrays = [a.astype(np.float64) if a.dtype == np.float32 else a for a in sample.arrays]
    floats = [k for k, a in enumerate(arrays) if a.dtype == np.float64 and a.size]
    if sample.differentiable is not None:
        floats = [k for k in floats if k in sample.differentiable]
    return arrays, floats


def usable(name: str) -> list[tuple[Sample, list[np.ndarray], list[int]]]:
    """Return samples whose operands are float64 as they stand, so that regions and attributes fit."""
    found = []
    for sample in samples_of(name):
        arrays, floats = wide(sample)
        if any(isinstance(v, Graph) for v in sample.attributes.values()):
            if any(a.dtype == np.float32 for a in sample.arrays):
                continue
        elif any(a.dtype == np.float32 for a in sample.arrays) and name != "prelu":
            continue  # its float64 twin is a sample of its own
        if any(isinstance(v, DType) and v is not float64 for v in sample.attributes.values()):
            continue
        large = any(np.abs(arrays[k]).max() > 50 for k in floats)  # differences drown in rounding there
        if floats and not large:
            found.append((sample, arrays, floats))
    return found


class Objective:
    """sum(weights * outputs) as a graph, with its gradient along ``directions`` and the gradient of that."""

    def __init__(self, sample: Sample, arrays: list[np.ndarray], floats: list[int], mode: Mode) -> None:
        rng = np.random.default_rng(zlib.crc32(sample.label.encode()))
        self.arrays, self.floats, self.mode = arrays, floats, mode
        self.directions = {k: rng.standard_normal(arrays[k].shape) for k in floats}
        b = Builder(sample.op)
        inputs = [b.input(f"x{k}", tensor_type(a.dtype, a.shape)) for k, a in enumerate(arrays)]
        total: Value = b.constant(0.0, float64)
        outputs = b.emit(sample.op, inputs, sample.attributes)
        for output in outputs[: OUTPUTS.get(sample.op)]:
            if output.type.dtype is float64:
                weights = b.constant(rng.standard_normal(output.type.shape))
                total = b.add(total, b.reduce_sum(b.mul(output, weights)))
        b.output("value", total)
        slope = self.along(b, total, inputs)
        b.output("slope", slope)
        self.first = b.finish()
        self.second: Graph | None = None
        if slope.type.dtype is float64:
            b.output("curvature", self.along(b, slope, inputs))
            self.second = b.finish()

    def along(self, b: Builder, of: Value, inputs: list[Value]) -> Value:
        """Emit the derivative of ``of`` along the directions."""
        wrt = [inputs[k] for k in self.floats]
        slope: Value = b.constant(0.0, float64)
        for k, gradient in zip(self.floats, gradients(b, of, wrt, mode=self.mode), strict=True):
            if gradient is not None:
                assert gradient.type == inputs[k].type
                slope = b.add(slope, b.reduce_sum(b.mul(gradient, b.constant(self.directions[k]))))
        return slope

    def run(self, graph: Graph, moved: float = 0.0) -> dict[str, float]:
        feeds = {f"x{k}": a + moved * self.directions[k] if k in self.floats else a for k, a in enumerate(self.arrays)}
        return {name: float(v) for name, v in interpret(graph, feeds, self.mode).items()}

    def difference(self, name: str) -> float:
        return (self.run(self.first, STEP)[name] - self.run(self.first, -STEP)[name]) / (2 * STEP)


def agree(label: str, slope: float, expected: float) -> None:
    assert np.isfinite(slope), label
    assert slope == pytest.approx(expected, rel=2e-5, abs=2e-5), label


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient(name: str) -> None:
    modes = [Mode.INFERENCE, Mode.TRAINING] if all_ops()[name].has(Trait.MODAL) else [Mode.TRAINING]
    cases = usable(name)
    assert cases or name in ("stop_gradient", "one_hot"), f"{name} has no float64 sample to differentiate"
    for sample, arrays, floats in cases:
        for mode in modes:
            objective = Objective(sample, arrays, floats, mode)
            agree(sample.label, objective.run(objective.first)["slope"], objective.difference("value"))
            if objective.second is None:
                continue
            curvature = objective.run(objective.second)["curvature"]
            agree(f"second order {sample.label}", curvature, objective.difference("slope"))


@pytest.mark.parametrize("name", ["argmax", "iota", "one_hot", "equal"])
def test_no_gradient(name: str) -> None:
    sample = samples_of(name)[0]
    graph = sample.graph()
    assert isinstance(all_ops()[name].vjp, NotDifferentiable) or not graph.inputs[0].type.dtype.is_float


def test_loop_is_refused() -> None:
    sample = samples_of("loop")[1]
    b = Builder()
    inputs = [b.input(f"x{k}", tensor_type(a.dtype, a.shape)) for k, a in enumerate(sample.arrays)]
    (result,) = b.emit("loop", inputs, sample.attributes)
    with pytest.raises(NotDifferentiableError, match="loop"):
        gradients(b, b.reduce_sum(result), [inputs[2]])
