"""Executables: ports, constants, state, memory, errors."""

import numpy as np
import pytest
from native import ROW, WIDTH, kernels, long_steps, native_runtime, row, rows_type, state_executable, step

from dlc.errors import DlcError, InputError
from dlc.ir.plan import Argument, Plan, Slot, SlotKind
from dlc.ir.types import tensor_type
from dlc.runtime.executable import Executable, Port

LINE = tensor_type("int64", (WIDTH,))


def two_in_two_out(threads=1, **options):
    """u = 0 + 3 reversed(a) + w where w is zeroed by square; v likewise of b."""
    slots = (
        Slot(SlotKind.OUTPUT, "u", ROW, LINE),
        Slot(SlotKind.INPUT, "alpha", ROW, LINE),
        Slot(SlotKind.INPUT, "beta", ROW, LINE),
        Slot(SlotKind.OUTPUT, "v", ROW, LINE),
        Slot(SlotKind.CONSTANT, "zero", ROW, LINE),
        Slot(SlotKind.STATE, "runs", ROW, LINE),
    )
    steps = (
        step("square", Argument(4, 0), Argument(0, 0), tasks=2 * WIDTH),
        step("square", Argument(4, 0), Argument(3, 0), tasks=2 * WIDTH),
        step("mix", Argument(1, 0), Argument(0, 0)),
        step("mix", Argument(2, 0), Argument(3, 0)),
        step("count", Argument(5, 0), commits=True),
    )
    return Executable(
        Plan(slots, steps, 0),
        kernels(),
        native_runtime(),
        constants={"zero": np.zeros(WIDTH, np.int64), "unused": np.zeros(1)},
        state={"runs": np.zeros(WIDTH, np.int64)},
        threads=threads,
        **options,
    )


A, B = np.arange(WIDTH), np.arange(WIDTH) ** 2


@pytest.mark.parametrize("threads", [1, 2])
def test_run_call_and_state(threads):
    exe = two_in_two_out(threads)
    out = exe.run({"beta": B, "alpha": A})
    assert list(out) == ["u", "v"]
    assert np.array_equal(out["u"], 3 * A[::-1]) and np.array_equal(out["v"], 3 * B[::-1])
    u, v = exe(A, B)
    assert np.array_equal(u, out["u"]) and np.array_equal(v, out["v"])
    assert exe.state["runs"].tolist() == [2] * WIDTH
    assert [str(port) for port in exe.inputs] == ["alpha: int64[64]", "beta: int64[64]"]
    assert (exe.outputs[0].name, exe.outputs[0].dtype, exe.outputs[0].shape) == ("u", np.dtype(np.int64), (WIDTH,))


def test_outputs_are_fresh_and_writable():
    exe = two_in_two_out()
    first = exe.run({"alpha": A, "beta": B})
    kept = first["u"].copy()
    second = exe.run({"alpha": B, "beta": A})
    assert np.array_equal(first["u"], kept)
    assert not np.shares_memory(first["u"], second["u"])
    first["u"][...] = 0
    assert np.array_equal(second["u"], 3 * B[::-1])


def test_given_ports_set_order_and_may_add_unused_inputs():
    inputs = [Port("beta", LINE), Port("extra", tensor_type("float32", (2,))), Port("alpha", LINE)]
    exe = two_in_two_out(inputs=inputs, outputs=[Port("v", LINE), Port("u", LINE)])
    v, u = exe(B, np.zeros(2, np.float32), A)
    assert np.array_equal(u, 3 * A[::-1]) and np.array_equal(v, 3 * B[::-1])
    with pytest.raises(InputError, match="extra"):
        exe(B, np.zeros(3, np.float32), A)


def test_other_layouts_give_the_same_answers():
    exe = two_in_two_out()
    expected = exe(A, B)[0]
    for other in (A.astype(">i8"), np.repeat(A, 3)[::3], A[::-1].copy()[::-1], A.tolist()):
        assert np.array_equal(exe(other, B)[0], expected)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"alpha": A}, r"missing input beta: int64\[64\]"),
        ({}, "missing input alpha.*beta"),
        ({"alpha": A, "betta": B}, "missing input beta.*no input 'betta', did you mean 'beta'"),
        ({"alpha": A, "beta": B, "gamma9": B}, "there is no input 'gamma9'; the inputs are alpha"),
        ({"alpha": A, "beta": B.astype(np.int32)}, "input 'beta' expects int64"),
        ({"alpha": A, "beta": B[:5]}, "input 'beta'.*axis 0 is 5 instead of 64"),
        ({"alpha": A, "beta": None}, "input 'beta'.*None"),
        (None, "dict of name -> array, not a NoneType"),
        (A, "dict of name -> array, not a ndarray"),
    ],
)
def test_bad_feeds(feeds, message):
    exe = two_in_two_out()
    with pytest.raises(InputError, match=message):
        exe.run(feeds)
    assert not exe.state["runs"].any()


def test_wrong_number_of_positional_arrays():
    with pytest.raises(InputError, match="1 arrays given for 2 inputs"):
        two_in_two_out()(A)


def test_constants_and_state_must_fit_the_plan():
    slots = (Slot(SlotKind.CONSTANT, "w", ROW, LINE),)
    plan = Plan(slots, (), 0)
    with pytest.raises(DlcError, match="no array was given for constant 'w'"):
        Executable(plan, kernels(), native_runtime())
    with pytest.raises(DlcError, match=r"constant 'w' expects int64\[64\], got float64\[64\]"):
        Executable(plan, kernels(), native_runtime(), constants={"w": np.zeros(WIDTH)})


def test_misaligned_and_read_only_state_is_copied_once():
    given = np.zeros(WIDTH + 1, np.int64)[1:]
    given.flags.writeable = False
    slots = (Slot(SlotKind.STATE, "s", ROW, LINE),)
    exe = Executable(
        Plan(slots, (step("count", row(0, 0), commits=True),), 0), kernels(), native_runtime(), state={"s": given}
    )
    exe.run({})
    exe.run({})
    assert exe.state["s"].tolist() == [2] * WIDTH
    assert not given.any()


def test_state_can_be_shared():
    first = state_executable((step("count", row(0, 0), commits=True),), 1, 1)
    second = Executable(first.plan, kernels(), native_runtime(), state=first.state, threads=2)
    first.run({})
    second.run({})
    assert first.state["s"].tolist() == [[2] * WIDTH]
    assert first.state["s"] is second.state["s"]


def test_memory_release_and_close():
    slots = (Slot(SlotKind.ARENA, "", 1 << 22), Slot(SlotKind.STATE, "s", ROW, rows_type(1)))
    state = {"s": np.zeros((1, WIDTH), np.int64)}
    plan = Plan(slots, (step("count", Argument(0, 4096)),), 1 << 22)
    exe = Executable(plan, kernels(), native_runtime(), state=state)
    assert (exe.memory.arenas, exe.memory.state, exe.memory.constants) == (0, ROW, 0)
    exe.run({})
    exe.run({})
    assert exe.memory.total == ROW + (1 << 22)
    exe.release()
    assert exe.memory.total == ROW
    with exe:
        exe.run({})
    with pytest.raises(DlcError, match="closed"):
        exe.run({})


def test_symbolic_slots_are_refused():
    from dlc.ir.dims import symbol

    kind = tensor_type("float32", (symbol("batch"),))
    with pytest.raises(DlcError, match="bound"):
        Executable(Plan((Slot(SlotKind.INPUT, "x", 0, kind),), (), 0), kernels(), native_runtime())


def test_zero_size_inputs_and_outputs():
    kind = tensor_type("float32", (0, 3))
    slots = (Slot(SlotKind.INPUT, "x", 0, kind), Slot(SlotKind.OUTPUT, "y", 0, kind))
    exe = Executable(
        Plan(slots, (step("square", Argument(0, 0), Argument(1, 0), tasks=0),), 0), kernels(), native_runtime()
    )
    assert exe(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_an_empty_plan_runs():
    exe = Executable(Plan((), (), 0), kernels(), native_runtime(), threads=2)
    assert exe.run({}) == {}


def test_long_runs_release_the_lock_of_the_interpreter():
    import threading

    exe = state_executable(long_steps(300), 1, 1)
    ticks = 0
    worker = threading.Thread(target=exe.run, args=({},))
    worker.start()
    while worker.is_alive():
        ticks += 1
        worker.join(0.005)
    assert ticks > 3
