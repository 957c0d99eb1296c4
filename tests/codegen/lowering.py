"""Runs lowered nodes in the emulator and natively, and compares with the ops' NumPy definitions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from dlc.codegen.emulate import emulate
from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower.node import lower
from dlc.codegen.target import CpuTarget
from dlc.ir.graph import Graph, Node
from dlc.ir.interpret import interpret_region
from dlc.ir.lowering import Lowered, OperandKind
from tests.codegen.kernel_native import Function

HOST = host_target()


def run_lowered(
    lowered: Lowered,
    node: Node,
    inputs: list[np.ndarray],
    native: CpuTarget | None,
    in_place: Sequence[tuple[int, int]] = (),
) -> list[np.ndarray]:
    """Run every call; ``native`` is the target or None for the emulator. Tasks run last first.

    ``in_place`` lists outputs that take the memory of inputs.
    """
    sources = [np.array(x, order="C") for x in inputs]
    results = [poison(t.shape, t.dtype.numpy) for t in node.output_types]
    for out, inp in in_place:
        type_ = node.output_types[out]
        results[out] = sources[inp].reshape(-1).view(type_.dtype.numpy).reshape(type_.shape)
    temporaries = [poison(t.shape, t.dtype.numpy) for t in lowered.temporaries]
    found = {OperandKind.INPUT: sources, OperandKind.OUTPUT: results, OperandKind.TEMPORARY: temporaries}
    for call in lowered.calls:
        arrays = [found[o.kind][o.index] for o in call.operands]
        if native is None:
            emulate(call.kernel, arrays)
            continue
        function = Function(call.kernel, native)
        for task in reversed(range(call.kernel.tasks)):
            function(*arrays, begin=task, end=task + 1)
    return results


def poison(shape: tuple, dtype: np.dtype) -> np.ndarray:
    """An array whose elements are conspicuously wrong until they are written."""
    array = np.empty(shape, dtype)
    array[...] = np.nan if dtype.kind == "f" or dtype.name == "bfloat16" else 1 if dtype.kind == "b" else 77
    return array


def expected_of(node: Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What the op's definition gives."""
    body = node.attributes.get("body")
    if isinstance(body, Graph):
        return [np.asarray(a) for a in interpret_region(body, inputs)]
    result = node.op.evaluate(node.attributes, *inputs)
    return [np.asarray(a) for a in (result if isinstance(result, tuple | list) else (result,))]


def close(actual: np.ndarray, wanted: np.ndarray, tolerance: float = 2e-5, floor: float = 0.0) -> None:
    """Assert equality of integers and closeness of floats, relative to the largest element or to ``floor``."""
    assert actual.shape == wanted.shape and actual.dtype == wanted.dtype
    if wanted.dtype.kind in "biu":
        np.testing.assert_array_equal(actual, wanted)
        return
    a, w = actual.astype(np.float64), wanted.astype(np.float64)
    loose = 1e-2 if wanted.dtype.itemsize == 2 else tolerance
    finite = np.abs(w[np.isfinite(w)])
    scale = max(float(finite.max()) if finite.size else 1.0, floor)
    np.testing.assert_allclose(a, w, rtol=loose, atol=loose * scale + 1e-30)


def check_node(
    node: Node,
    inputs: list[np.ndarray],
    threads: int = 2,
    emulated: bool = True,
    target: CpuTarget = HOST,
    tolerance: float = 2e-5,
    constants: Collection[int] = (),
    alone: bool = False,
) -> Lowered:
    """Lower ``node`` and compare the emulator and machine code with the definition."""
    lowered = lower(node, target, threads, constants, alone)
    wanted = expected_of(node, inputs)
    floor = max([0.0, *(float(np.abs(x[np.isfinite(x)]).max(initial=0.0)) for x in inputs if x.dtype.kind == "f")])
    runs = [run_lowered(lowered, node, inputs, target)]
    for order in (lowered.in_place, lowered.in_place[::-1]):
        pairs: dict[int, int] = {}
        for out, inp in order:
            if out not in pairs and inp not in pairs.values():
                pairs[out] = inp
        if pairs:
            runs.append(run_lowered(lowered, node, inputs, target, tuple(pairs.items())))
    if emulated:
        runs.append(run_lowered(lowered, node, inputs, None))
    for results in runs:
        for actual, expected in zip(results, wanted, strict=True):
            close(actual, expected, tolerance, floor)
    return lowered
