"""Compilation end to end on small graphs: values, state, shapes, options, cache, threads."""

import threading

import numpy as np
import pytest

from dlc import config
from dlc.driver.build import predict_memory
from dlc.driver.compile import compile_graph
from dlc.errors import CompileError, InputError
from dlc.ir.builder import Builder
from dlc.ir.dims import symbol
from dlc.ir.graph import Role
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.ir.plan import KernelStep, LoopBegin, LoopEnd
from dlc.ir.types import tensor_type
from dlc.passes.bind import bind
from dlc.runtime.specialise import SpecialisingExecutable


def assert_agrees(executable, graph, feeds, tolerance=1e-5):
    expected, got = interpret(graph, feeds), executable.run(feeds)
    for name in graph.signature.results:
        scale = max(np.abs(expected[name]).max(initial=0), 1e-30)
        assert np.abs(got[name] - expected[name]).max(initial=0) <= tolerance * scale, name


@pytest.mark.parametrize("features", ["", "avx2", "generic"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_agree_with_the_interpreter(perceptron, rng, features, threads):
    graph = perceptron(batch=9)
    with config.override(cpu_features=features):
        executable = compile_graph(graph, threads=threads)
    assert_agrees(executable, graph, {"x": rng.normal(size=(9, 12)).astype("f")})


def test_repeated_runs_give_the_same_bits(perceptron, rng):
    executable = compile_graph(perceptron(batch=33), threads=2)
    feeds = {"x": rng.normal(size=(33, 12)).astype("f")}
    first = executable.run(feeds)
    for _ in range(20):
        again = executable.run(feeds)
        assert all(first[k].tobytes() == again[k].tobytes() for k in first)


def test_symbolic_batch_is_bound_by_what_is_fed(perceptron, rng):
    graph = perceptron()
    executable = compile_graph(graph, threads=2)
    assert isinstance(executable, SpecialisingExecutable)
    for batch in (1, 3, 0, 17, 3):
        x = rng.normal(size=(batch, 12)).astype("f")
        y, sums = executable(x)
        expected = interpret(bind(graph, {"batch": batch}), {"x": x})
        np.testing.assert_allclose(y, expected["y"], rtol=1e-4, atol=1e-5)
        assert sums.shape == (batch,)


def test_shapes_bind_symbols_when_compiling(perceptron, rng):
    executable = compile_graph(perceptron(), shapes={"x": (4, 12)})
    assert executable.inputs[0].shape == (4, 12)
    with pytest.raises(InputError, match="x"):
        executable.run({"x": np.zeros((5, 12), np.float32)})


@pytest.mark.parametrize("shapes", [{"z": (4, 12)}, {"x": (4,)}, {"x": (4, 13)}, {"x": (-1, 12)}])
def test_shapes_that_do_not_fit_are_refused(perceptron, shapes):
    with pytest.raises(InputError):
        compile_graph(perceptron(), shapes=shapes)


@pytest.mark.parametrize("options", [{"device": "cuda:0"}, {"device": "tpu"}, {"precision": "int3"}, {"threads": 0}])
def test_unknown_options_are_refused(perceptron, options):
    with pytest.raises(CompileError):
        compile_graph(perceptron(batch=2), **options)


@pytest.mark.parametrize("mode", list(Mode))
def test_state_advances_in_the_executable_and_not_in_the_graph(counter, mode):
    x = np.arange(6, dtype=np.float32)
    executable = compile_graph(counter, mode=mode)
    assert [float(executable.run({"x": x})["before"]) for _ in range(3)] == [10, 25, 40]
    assert float(executable.state["total"]) == 55
    assert float(counter.spec("total").initial) == 10


def test_weights_are_packed_once_at_load_and_shared_by_shapes(rng):
    b = Builder("linear")
    x = b.input("x", tensor_type("float32", (symbol("batch"), 256)))
    w = b.input("w", tensor_type("float32", (128, 256)), Role.PARAMETER, rng.normal(size=(128, 256)).astype("f"), True)
    b.output("y", b.contract(x, w, spec="m k, n k -> m n"))
    graph = b.finish()
    executable = compile_graph(graph, threads=1)
    small, large = executable.executable({"batch": 32}), executable.executable({"batch": 64})
    packed = [name for name in small.constants if name.startswith("prepared:")]
    assert packed and "w" not in small.constants
    assert small.constants[packed[0]] is next(iter(large.constants.values()))
    assert len([step for step in small.plan.steps if isinstance(step, KernelStep)]) == 1
    x = rng.normal(size=(64, 256)).astype("f")
    np.testing.assert_allclose(executable(x), x @ graph.spec("w").initial.T, rtol=1e-4, atol=1e-4)


def test_what_a_loop_multiplies_by_is_packed_once_before_it(rng):
    inner = Builder("step")
    h, w = inner.input("h", tensor_type("float32", (16, 64))), inner.input("w", tensor_type("float32", (64, 64)))
    inner.output("h", inner.tanh(inner.contract(h, w, spec="m k, n k -> m n")))
    b = Builder("loop")
    x, weight = b.input("x", h.type), b.input("weight", w.type)
    b.output("y", b.scan(x, weight, body=inner.finish(), carries=1, sequences=0, length=5))
    graph = b.finish()
    executable = compile_graph(graph, threads=1)
    steps = executable.plan.steps
    begin, end = (next(k for k, s in enumerate(steps) if isinstance(s, kind)) for kind in (LoopBegin, LoopEnd))
    assert any(isinstance(s, KernelStep) and "pack" in s.symbol for s in steps[:begin])
    assert not any(isinstance(s, KernelStep) and "pack" in s.symbol for s in steps[begin:end])
    feeds = {"x": rng.normal(size=(16, 64)).astype("f"), "weight": rng.normal(size=(64, 64)).astype("f") / 8}
    assert_agrees(executable, graph, feeds)


def test_second_compilation_is_a_cache_hit_with_the_same_bits(perceptron, rng):
    graph = perceptron(batch=7)
    feeds = {"x": rng.normal(size=(7, 12)).astype("f")}
    cold, warm = compile_graph(graph), compile_graph(graph)
    assert (cold.report.cache, warm.report.cache) == ("miss", "hit")
    assert "code" not in warm.report.phases
    assert all(
        a.tobytes() == b.tobytes() for a, b in zip(cold.run(feeds).values(), warm.run(feeds).values(), strict=True)
    )


def test_a_small_constant_of_another_value_is_another_entry(own_cache):
    def scaled(factor):
        b = Builder("scaled")
        x = b.input("x", tensor_type("float32", (3,)))
        b.output("y", b.mul(x, b.constant(np.full(3, factor, np.float32))))
        return b.finish()

    x = np.ones(3, np.float32)
    assert compile_graph(scaled(2)).run({"x": x})["y"].tolist() == [2, 2, 2]
    other = compile_graph(scaled(3))
    assert other.report.cache == "miss" and other.run({"x": x})["y"].tolist() == [3, 3, 3]


def test_a_damaged_cache_entry_is_compiled_again(perceptron, own_cache, rng, caplog):
    graph = perceptron(batch=2)
    compile_graph(graph)
    for path in own_cache.rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
    with caplog.at_level("WARNING"):
        again = compile_graph(graph)
    assert again.report.cache == "miss" and "not used" in caplog.text
    assert_agrees(again, graph, {"x": rng.normal(size=(2, 12)).astype("f")})


def test_threads_share_one_executable(perceptron, rng):
    graph = perceptron(batch=50)
    executable = compile_graph(graph, threads=2)
    inputs = [rng.normal(size=(50, 12)).astype("f") for _ in range(4)]
    expected = [executable(x)[0] for x in inputs]
    faults = []

    def work(number):
        for _ in range(30):
            if executable(inputs[number])[0].tobytes() != expected[number].tobytes():
                faults.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert not faults


def test_outputs_may_repeat_inputs_constants_and_each_other(rng):
    b = Builder("echo")
    x = b.input("x", tensor_type("float32", (2, 3)))
    y = b.add(x, 1.0)
    b.output("same", x)
    b.output("y", y)
    b.output("again", y)
    b.output("flat", b.reshape_to(y, (6,)))
    b.output("constant", b.constant(np.arange(4, dtype=np.int32)))
    graph = b.finish()
    feeds = {"x": rng.normal(size=(2, 3)).astype("f")}
    got, expected = compile_graph(graph).run(feeds), interpret(graph, feeds)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])
    assert got["y"] is not got["again"] and not np.shares_memory(got["same"], feeds["x"])


def test_dump_writes_every_stage(perceptron, tmp_path):
    compile_graph(perceptron(batch=2), dump=tmp_path / "dump")
    names = {p.name for p in (tmp_path / "dump").iterdir()}
    assert {"plan.txt", "kernels.py", "assembly.s", "00-input.txt"} <= names
    assert any(n.endswith(".ll") for n in names)


def test_predicted_memory_is_that_of_the_executable(perceptron):
    graph = perceptron(batch=16)
    predicted, made = predict_memory(graph), compile_graph(graph).report
    assert (predicted.arena_bytes, predicted.constant_bytes) == (made.arena_bytes, made.constant_bytes)
    assert predicted.flops == made.flops > 0


def test_a_chain_of_many_nodes_compiles(rng):
    b = Builder("chain")
    value = b.input("x", tensor_type("float32", (5,)))
    for number in range(3000):
        value = b.mul(b.add(value, 1.0), 0.5) if number % 2 else b.sin(value)
    b.output("y", value)
    graph = b.finish()
    assert_agrees(compile_graph(graph), graph, {"x": rng.normal(size=5).astype("f")}, 1e-4)


def test_control_flow_without_a_compiled_form_is_refused_by_name():
    b = Builder("branch")
    x = b.input("x", tensor_type("float32", (2,)))
    inner = Builder("body")
    v = inner.input("v", tensor_type("float32", (2,)))
    inner.output("o", inner.neg(v))
    region = inner.finish()
    condition = b.greater(b.reduce_sum(x, axes=(0,)), 0.0)
    b.output("y", b.if_(condition, x, then_graph=region, else_graph=region))
    with pytest.raises(CompileError, match="if_"):
        compile_graph(b.finish())


def test_equal_bytes_of_two_shapes_are_two_constants():
    b = Builder("zeros")
    x = b.input("x", tensor_type("float32", (4, 6)))
    y = b.input("y", tensor_type("float32", (6, 4)))
    b.output("a", b.contract(x, b.full((6, 4), 2, x.type.dtype), spec="m k, k n -> m n"))
    b.output("b", b.contract(y, b.full((4, 6), 2, x.type.dtype), spec="m k, k n -> m n"))
    graph = b.finish()
    feeds = {"x": np.ones((4, 6), np.float32), "y": np.ones((6, 4), np.float32)}
    assert_agrees(compile_graph(graph), graph, feeds)
