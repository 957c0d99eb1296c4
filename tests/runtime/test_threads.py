"""Pools: several Python threads, signals, forks, exits."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from native import WIDTH, kernels, long_steps, native_runtime, row, rows_type, state_executable, step

from dlc import config
from dlc.errors import DlcError
from dlc.ir.plan import Argument, LoopBegin, LoopEnd, Plan, Slot, SlotKind
from dlc.ir.types import tensor_type
from dlc.runtime.executable import Executable
from dlc.runtime.threads import NativeRuntime

HERE = str(Path(__file__).parent)


class Alarm(Exception):
    """Raised by the tests' signal handler."""


@pytest.fixture
def alarm():
    """Return a function that makes SIGUSR1 raise Alarm in the main thread after some seconds."""

    def handler(number, frame):
        raise Alarm("rang")

    old = signal.signal(signal.SIGUSR1, handler)
    timers = []

    def ring(seconds):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
        timers.append(timer)
        timer.start()

    yield ring
    for timer in timers:
        timer.cancel()
        timer.join()
    signal.signal(signal.SIGUSR1, old)


def pure_executable(threads: int) -> Executable:
    """Return an executable without state: y = 3 * reversed(x) + y0, where y0 is 0 from a counted-up arena row."""
    kind = rows_type(1)
    slots = (
        Slot(SlotKind.INPUT, "x", WIDTH * 8, kind),
        Slot(SlotKind.ARENA, "", 3 * WIDTH * 8),
        Slot(SlotKind.OUTPUT, "y", WIDTH * 8, kind),
        Slot(SlotKind.CONSTANT, "zero", WIDTH * 8, kind),
    )
    # Arena and output start undefined, so they are first set by the only kernel that does not add: square of zeros.
    steps = (
        step("square", Argument(3, 0), Argument(2, 0), tasks=2 * WIDTH),
        step("square", Argument(3, 0), Argument(1, 0), tasks=2 * WIDTH),
        step("mix", Argument(0, 0), Argument(1, 0)),
        step("mix", Argument(1, 0), Argument(2, 0)),
    )
    constants = {"zero": np.zeros((1, WIDTH), np.int64)}
    plan = Plan(slots, steps, 3 * WIDTH * 8)
    return Executable(plan, kernels(), native_runtime(), constants=constants, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_runs_from_many_python_threads(threads):
    exe = pure_executable(threads)

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = rng.integers(-9, 9, (1, WIDTH))
            assert np.array_equal(exe(x), 9 * x)

    with ThreadPoolExecutor(6) as workers:
        list(workers.map(work, range(12)))
    assert exe.memory.arenas <= 6


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_that_update_state_take_turns(threads):
    exe = state_executable((LoopBegin(5), step("count", row(0, 0), commits=True), LoopEnd()), 1, threads)
    with ThreadPoolExecutor(6) as workers:
        list(workers.map(lambda _: [exe.run({}) for _ in range(40)], range(6)))
    assert exe.state["s"][0].tolist() == [5 * 40 * 6] * WIDTH


@pytest.mark.parametrize("chains", [False, True], ids=["steps", "chains"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_signal_handlers_exception_ends_a_long_run(alarm, threads, chains):
    exe = state_executable((step("count", row(0, 0)), *long_steps(1_000_000, chains)), 1, threads)
    alarm(0.2)
    with pytest.raises(Alarm, match="rang"):
        exe.run({})
    short = state_executable((step("count", row(0, 0)),), 1, threads)
    for _ in range(100):
        short.run({})  # the same pool
    assert short.state["s"][0].tolist() == [100] * WIDTH


@pytest.mark.parametrize("threads", [1, 2])
def test_one_long_step_is_interrupted_between_its_chunks(alarm, threads):
    exe = state_executable((step("nap", tasks=10**7, flops=10**15),), 1, threads)
    alarm(0.2)
    with pytest.raises(Alarm):
        exe.run({})


def test_an_interruption_before_state_is_committed_leaves_it_alone(alarm):
    exe = state_executable((*long_steps(1_000_000), step("count", row(0, 0), commits=True)), 1, 2)
    alarm(0.2)
    with pytest.raises(Alarm):
        exe.run({})
    assert not exe.state["s"].any()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interruption_while_state_is_committed_waits_for_all_of_it(alarm, threads):
    first, last = step("count", row(0, 0), commits=True), step("count", row(0, 1), commits=True)
    exe = state_executable((first, *long_steps(500), last), 2, threads)
    alarm(0.1)
    with pytest.raises(Alarm):
        exe.run({})
        time.sleep(5)  # were the run to end before the signal
    assert (exe.state["s"] == 1).all()


def test_a_handler_that_returns_does_not_end_the_run():
    calls = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        exe = state_executable((*long_steps(600), step("count", row(0, 0))), 1, 2)
        exe.run({})
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert calls == [signal.SIGUSR1]
    assert exe.state["s"].all()


def test_waiting_for_a_turn_can_be_interrupted(alarm):
    slow = state_executable(long_steps(1000), 1, 2)
    quick = state_executable((step("count", row(0, 0)),), 1, 2)
    other = threading.Thread(target=slow.run, args=({},))
    other.start()
    time.sleep(0.1)
    alarm(0.1)
    with pytest.raises(Alarm):
        quick.run({})
        time.sleep(5)
    other.join()
    quick.run({})


@pytest.mark.parametrize("threads", [1, 2])
def test_running_within_the_signal_handler_of_a_run_is_an_error_not_a_deadlock(threads):
    exe = state_executable((*long_steps(600), step("count", row(0, 0), commits=True)), 1, threads)
    seen = []

    def handler(number, frame):
        try:
            exe.run({})
        except DlcError as error:
            seen.append(str(error))

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        exe.run({})
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert len(seen) == 1
    assert "signal handler" in seen[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_forked_child_gets_new_threads(threads):
    exe = pure_executable(threads)
    x = np.arange(WIDTH).reshape(1, WIDTH)
    exe(x)
    child = os.fork()
    if child == 0:
        good = all(np.array_equal(exe(x), 9 * x) for _ in range(20))
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(exe(x), 9 * x)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_others_run_is_not_blocked_by_them():
    exe = state_executable((*long_steps(500), step("count", row(0, 0), commits=True)), 1, 2)
    other = threading.Thread(target=exe.run, args=({},))
    other.start()
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        exe.run({})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    other.join()


def run_script(body: str, **options) -> subprocess.CompletedProcess:
    head = "import os, signal, sys, threading, time\nfrom native import *\n"
    return subprocess.run(
        [sys.executable, "-c", head + body],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([HERE, str(Path(HERE).parents[1])])},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_control_c_during_a_native_run():
    done = run_script("""
exe = state_executable(long_steps(10**6), 1, 2)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    exe.run({})
except KeyboardInterrupt as error:
    print("interrupted", type(error.__traceback__).__name__)
short = state_executable((step("count", row(0, 0)),), 1, 2)
short.run({})
print("alive", int(short.state["s"].sum()))
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "interrupted traceback\nalive 64\n"


def test_uncaught_control_c_ends_the_process_at_once():
    done = run_script("""
exe = state_executable(long_steps(10**6), 1, 2)  # Python may lose a signal that meets a callback of the compiler
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
exe.run({})
""")
    assert done.returncode in (130, -signal.SIGINT)
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_exit_while_a_daemon_thread_runs(threads):
    done = run_script(f"""
exe = state_executable(long_steps(10**7), 1, {threads})
threading.Thread(target=exe.run, args=({{}},), daemon=True).start()
time.sleep(0.2)
print("leaving")
""")
    assert (done.returncode, done.stdout) == (0, "leaving\n")


def test_exit_with_sleeping_and_spinning_pools():
    done = run_script("""
for threads in (1, 2, 3, 4):
    state_executable((step("count", row(0, 0)),), 1, threads).run({})
print("leaving")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


def test_worker_threads_leave_signals_to_python_and_are_joined():
    before = set(os.listdir("/proc/self/task"))
    native = native_runtime()
    fresh = NativeRuntime(*[getattr(native, name) for name in NativeRuntime.__dataclass_fields__])
    pool = fresh.pools.shared(4)
    workers = set(os.listdir("/proc/self/task")) - before
    assert len(workers) == 3
    for task in workers:
        for _ in range(200):  # a thread being born blocks everything for a moment
            status = Path(f"/proc/self/task/{task}/status").read_text()
            blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
            if not blocked >> (signal.SIGSEGV - 1) & 1:
                break
            time.sleep(0.01)
        assert blocked >> (signal.SIGINT - 1) & 1
        assert not blocked >> (signal.SIGSEGV - 1) & 1
    fresh.pools.drain(patience=1.0)
    assert not workers & set(os.listdir("/proc/self/task"))
    del pool, fresh
    gc.collect()


@pytest.mark.parametrize("spin", [0, 5, 1000])
def test_any_spin(spin):
    native = native_runtime()
    fresh = NativeRuntime(*[getattr(native, name) for name in NativeRuntime.__dataclass_fields__])
    with config.override(spin=spin):
        fresh.pools.shared(2)
    exe = state_executable((LoopBegin(300), step("count", row(0, 0)), step("mix_all", row(0, 0), row(0, 1), tasks=1),
                            LoopEnd()), 2, 2)  # fmt: skip
    exe._native = fresh
    for _ in range(3):
        exe.run({})
        time.sleep(0.01)
    assert exe.state["s"][0].tolist() == [900] * WIDTH
    assert exe.state["s"][1].tolist() == [3 * 900 * 901 // 2] * WIDTH
    fresh.pools.drain(patience=1.0)


def test_a_waiting_thread_lets_the_one_that_it_waits_for_run():
    """Two threads on one processor: whoever spins in vain would burn a time slice at every one of 2000 barriers."""
    done = run_script("""
from dlc import config
steps = (LoopBegin(1000), step("count", row(0, 0)), step("mix_all", row(0, 0), row(0, 1), tasks=1), LoopEnd())
with config.override(spin=10_000_000):
    exe = state_executable(steps, 2, 2)
    exe.run({})
for thread in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
begun = time.process_time()
exe.run({})
print(time.process_time() - begun, flush=True)
os._exit(0)  # a worker that spins would keep the processor
""")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="sets the x86 control register through a kernel")
@pytest.mark.parametrize("threads", [1, 2])
def test_subnormals_do_not_depend_on_the_callers_mode(threads):
    import ctypes

    from native import load

    code = load(
        ("set_mode", "get_mode"),
        """
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse.stmxcsr(ptr)
define void @set_mode(ptr %cell) {
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  ret void
}
define void @get_mode(ptr %cell) {
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  ret void
}
""",
        name=f"mode{threads}",
    )
    set_mode = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(code.address("set_mode"))
    get_mode = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(code.address("get_mode"))
    kind = tensor_type("float32", (WIDTH,))
    plan = Plan(
        (Slot(SlotKind.INPUT, "x", WIDTH * 4, kind), Slot(SlotKind.OUTPUT, "y", WIDTH * 4, kind)),
        (step("square", Argument(0, 0), Argument(1, 0)),),
        0,
    )
    exe = Executable(plan, kernels(), native_runtime(), threads=threads)
    x = np.full(WIDTH, 2.0**-70, np.float32)
    flush, cell = ctypes.c_uint32(0x9FC0), ctypes.c_uint32(0)  # flush to zero, denormals are zero
    old = ctypes.c_uint32(0)
    get_mode(ctypes.addressof(old))
    try:
        set_mode(ctypes.addressof(flush))
        y = exe(x)
        get_mode(ctypes.addressof(cell))
    finally:
        set_mode(ctypes.addressof(old))
    assert y.tolist() == [2.0**-140] * WIDTH
    assert cell.value & 0x8040 == 0x8040  # and the caller's mode is back
