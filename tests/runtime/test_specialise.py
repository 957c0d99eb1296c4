"""Executables for symbolic shapes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from native import kernels, native_runtime, step

from dlc.errors import InputError
from dlc.ir.dims import symbol
from dlc.ir.plan import Argument, Plan, Slot, SlotKind
from dlc.ir.types import bind_type, tensor_type
from dlc.runtime.executable import Executable, Port
from dlc.runtime.specialise import SpecialisingExecutable, infer_binding

N, M = symbol("n"), symbol("m")


def ports(**shapes):
    return [Port(name, tensor_type("float32", shape)) for name, shape in shapes.items()]


def arrays(**shapes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("declared", "fed", "expected"),
    [
        ({"x": (N, 3)}, {"x": (5, 3)}, {"n": 5}),
        ({"x": (N, M)}, {"x": (0, 7)}, {"n": 0, "m": 7}),
        ({"x": (N * 2 + 1,)}, {"x": (9,)}, {"n": 4}),
        ({"x": (N + M,), "y": (M,)}, {"x": (9,), "y": (4,)}, {"n": 5, "m": 4}),
        ({"x": (N * M, M)}, {"x": (12, 4)}, {"n": 3, "m": 4}),
        ({"x": (N, (N + 1) // 2)}, {"x": (7, 4)}, {"n": 7}),
        ({"x": (4,)}, {"x": (4,)}, {}),
    ],
)
def test_bindings(declared, fed, expected):
    assert infer_binding(ports(**declared), arrays(**fed)) == expected


@pytest.mark.parametrize(
    ("declared", "fed", "message"),
    [
        ({"x": (N, N)}, {"x": (5, 4)}, "input 'x' has 4 on axis 1 where it expects n = 5 .n = 5 from input 'x' axis 0"),
        ({"x": (N,), "y": (N,)}, {"x": (5,), "y": (6,)}, "input 'y' has 6 on axis 0"),
        ({"x": (N * 2,)}, {"x": (5,)}, "no value of n"),
        ({"x": (N + 8,)}, {"x": (5,)}, "no value of n"),
        ({"x": (N + M,)}, {"x": (5,)}, "dimension m, n does not follow"),
        ({"x": (N, 3)}, {"x": (5, 4)}, "has 4 on axis 1 where it expects 3"),
        ({"x": (N, (N + 1) // 2)}, {"x": (7, 3)}, "has 3 on axis 1"),
    ],
)
def test_bad_bindings(declared, fed, message):
    with pytest.raises(InputError, match=message):
        infer_binding(ports(**declared), arrays(**fed))


def squaring(limit=8, threads=1):
    """Return y = x * x over (n, 4), with the bindings compiled so far and a state that counts calls."""
    kind = tensor_type("float32", (N, 4))
    compiled = []
    counts = {"calls": np.zeros(4, np.int64)}

    def compile_for(binding):
        compiled.append(dict(binding))
        bound = bind_type(kind, binding)
        nbytes = bound.nbytes
        slots = (
            Slot(SlotKind.INPUT, "x", nbytes, bound),
            Slot(SlotKind.OUTPUT, "y", nbytes, bound),
            Slot(SlotKind.STATE, "calls", 32, tensor_type("int64", (4,))),
        )
        steps = (
            step("square", Argument(0, 0), Argument(1, 0), tasks=bound.size),
            step("count", Argument(2, 0), tasks=4, commits=True),
        )
        exe = Executable(Plan(slots, steps, 0), kernels(), native_runtime(), state=counts, threads=threads)
        counts.update(exe.state)
        return exe

    return SpecialisingExecutable([Port("x", kind)], [Port("y", kind)], compile_for, limit), compiled, counts


def test_compiles_once_per_binding_and_forgets_the_oldest():
    exe, compiled, counts = squaring(limit=2)
    for rows in (3, 3, 5, 3, 0, 5):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        assert np.array_equal(exe(x), x * x)
    assert compiled == [{"n": 3}, {"n": 5}, {"n": 0}, {"n": 5}]
    assert exe.bindings == [{"n": 0}, {"n": 5}]
    assert counts["calls"].tolist() == [6] * 4
    assert exe.memory.state == 32


def test_errors_before_anything_is_compiled():
    exe, compiled, _ = squaring()
    for bad in (np.zeros((3, 5), np.float32), np.zeros(4, np.float32), np.zeros((3, 4)), None, "x"):
        with pytest.raises(InputError):
            exe(bad)
    with pytest.raises(InputError, match="did you mean 'x'"):
        exe.run({"x1": np.zeros((3, 4), np.float32)})
    with pytest.raises(InputError, match="0 arrays given"):
        exe()
    assert compiled == []


def test_several_threads_compile_each_binding_once_and_share_state():
    exe, compiled, counts = squaring()
    ready = threading.Barrier(4)

    def work(_):
        ready.wait()
        for rows in (1, 2, 3, 2, 1):
            x = np.full((rows, 4), rows, np.float32)
            assert np.array_equal(exe(x), x * x)

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(work, range(4)))
    assert sorted(b["n"] for b in compiled) == [1, 2, 3]
    assert counts["calls"].tolist() == [20] * 4
