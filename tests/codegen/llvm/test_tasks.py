"""Entries and the task loops that they share: every task once, with its own indices, wherever a run begins and ends."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.llvm.emit import emit_module
from dlc.codegen.llvm.jit import compile_module, load_objects
from dlc.ir.expr import cast, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.types import int32
from tests.codegen.kernel_native import Function, index, targets, variables


def numbered(extents: tuple[int, ...], name: str = "numbered") -> Kernel:
    """o[position of the task] = its indices as decimal digits, plus one."""
    loops = variables("a b c d")[: len(extents)]
    place, digits = index(0), index(1)
    for loop, extent in zip(loops, extents, strict=True):
        place, digits = index((place, extent), loop), index((digits, 10), loop)
    body = (Store("o", place, cast(digits, int32)),)
    for loop, extent in zip(reversed(loops), reversed(extents), strict=True):
        body = (For(loop, const(extent), LoopKind.PARALLEL, body),)
    size = int(np.prod(extents, dtype=int))
    return Kernel(name, (Buffer("o", int32, size, writable=True),), (), body)


@pytest.mark.parametrize("extents", [(), (1,), (7,), (1, 1), (3, 1, 4), (2, 3), (1, 2, 3, 4)])
def test_every_task_runs_with_its_indices(extents):
    function = Function(numbered(extents), targets()[0])
    digits = [int("1" + "".join(map(str, place))) for place in np.ndindex(*extents)]
    tasks = len(digits)
    whole = np.zeros(tasks, np.int32)
    function(whole)
    assert whole.tolist() == digits
    begin, end = tasks // 3, tasks - tasks // 3
    part = np.zeros(tasks, np.int32)
    function(part, begin=begin, end=end)
    function(part, begin=end, end=end)
    assert part.tolist() == [*[0] * begin, *digits[begin:end], *[0] * (tasks - end)]


def test_kernels_of_as_many_buffers_and_loops_share_a_loop():
    shapes = [(2, 3), (4, 5), (3, 1, 2), (6,)]
    kernels = [numbered(extents, f"k{number}") for number, extents in enumerate(shapes)]
    module = emit_module(kernels, targets()[0])
    loops = [line for line in module.text.splitlines() if line.startswith("define") and "@dlc_tasks_" in line]
    assert [line.split("@")[1].split("(")[0] for line in loops] == ["dlc_tasks_1_2", "dlc_tasks_1_1"]
    code = load_objects([compile_module(module.text, targets()[0])])
    assert all(code.address(symbol) for symbol in module.symbols.values())
