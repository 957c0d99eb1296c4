"""``precision="bfloat16"`` end to end: errors, storage, determinism, every feature level."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import dlc
from dlc import config, losses, nn, optim
from dlc.codegen.llvm.target import host_target
from dlc.driver import build
from dlc.driver.compile import compile_graph
from dlc.driver.options import CompileOptions
from dlc.ir.builder import Builder
from dlc.ir.graph import Role
from dlc.ir.mode import Mode
from dlc.ir.plan import KernelStep
from dlc.ir.types import tensor_type
from dlc.passes.precision.lower import LowerPrecisionOptions

LEVELS = ["", "avx2", "generic", *(["amx-emulated"] if host_target().has_masks else [])]


@pytest.fixture
def network(rng):
    """Two 3x3 convolutions with a residual, a depthwise one, pooling and a linear layer."""
    b = Builder("network")

    def weight(*shape):
        array = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype("f")
        return b.input(f"w{len(b.inputs)}", tensor_type("float32", shape), Role.PARAMETER, array, True)

    x = b.input("x", tensor_type("float32", (2, 3, 12, 12)))
    h = b.relu(b.conv(x, weight(16, 3, 3, 3), padding=1))
    y = b.add(b.conv(b.relu(b.conv(h, weight(16, 16, 3, 3), padding=1)), weight(16, 16, 3, 3), padding=1), h)
    y = b.conv(b.relu(y), weight(16, 1, 3, 3), groups=16, strides=2, padding=1)
    y = b.mul(b.reduce_sum(b.relu(y), axes=(2, 3)), 1 / 36)
    b.output("y", b.matmul(y, b.transpose(weight(10, 16), permutation=(1, 0))))
    return b.finish()


def half(array):
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("features", LEVELS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_network_keeps_about_eight_bits(network, rng, features, threads):
    x = rng.normal(size=(2, 3, 12, 12)).astype("f")
    exact = compile_graph(network, threads=threads).run({"x": x})["y"]
    with config.override(cpu_features=features):
        executable = compile_graph(network, threads=threads, precision="bfloat16")
    found = executable.run({"x": x})["y"]
    gap = np.abs(found - exact).max() / np.abs(exact).max()
    assert found.dtype == np.float32 and 2.0**-14 < gap < 2.0**-5
    assert executable.run({"x": x})["y"].tobytes() == found.tobytes()


@pytest.mark.parametrize("features", LEVELS)
def test_a_product_is_that_of_rounded_operands(rng, features):
    b = Builder("product")
    x = b.input("x", tensor_type("float32", (17, 66)))
    w = b.input("w", tensor_type("float32", (66, 40)), Role.PARAMETER, rng.normal(size=(66, 40)).astype("f"), True)
    b.output("y", b.matmul(x, w))
    graph = b.finish()
    x = rng.normal(size=(17, 66)).astype("f")
    with config.override(cpu_features=features):
        found = compile_graph(graph, precision="bfloat16").run({"x": x})["y"]
    wanted = half(x).astype("d") @ half(graph.spec("w").initial).astype("d")
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not host_target(config.cpu_features()).has("avx512bf16"), reason="no AVX512-BF16 here")
def test_activations_are_stored_as_bfloat16_where_the_processor_multiplies_it(network):
    wide, narrow = (compile_graph(network, threads=1, precision=p) for p in ("float32", "bfloat16"))
    assert narrow.report.arena_bytes < 0.8 * wide.report.arena_bytes
    casts = [s for s in narrow.plan.steps if isinstance(s, KernelStep) and s.label.startswith("cast")]
    assert len(casts) <= 1  # of what is fed


@pytest.mark.parametrize("precision", ["bfloat16", "bf16x3"])
def test_a_training_step_follows_that_of_float32(precision):
    rng = np.random.default_rng(3)
    feeds = {"x": rng.normal(size=(32, 24)).astype("f"), "label": rng.integers(0, 5, 32)}
    losses_of = {}
    for chosen in ("float32", precision):
        with dlc.Graph("mlp") as graph:
            x = dlc.input("x", (32, 24))
            dlc.output("logits", nn.Linear(64, 5)(dlc.relu(nn.Linear(24, 64)(x))))
        step = dlc.compile_training(
            graph, loss=losses.cross_entropy("logits", "label"), optimizer=optim.Adam(1e-2), precision=chosen
        )
        losses_of[chosen] = [step.run(feeds) for _ in range(15)]
    assert losses_of[precision][-1] < 0.5 * losses_of[precision][0]
    np.testing.assert_allclose(losses_of[precision], losses_of["float32"], rtol=0.05)


def test_float32_stays_float32(network, rng):
    x = rng.normal(size=(2, 3, 12, 12)).astype("f")
    first, second = (compile_graph(network, precision=p).run({"x": x})["y"] for p in ("float32", "bfloat16"))
    assert compile_graph(network).run({"x": x})["y"].tobytes() == first.tobytes() != second.tobytes()


@pytest.mark.parametrize("mode", list(Mode))
def test_three_products_are_made_only_where_they_are_faster_than_float32(monkeypatch, mode):
    known = host_target("avx512")
    features = tuple(sorted({*known.features, "avx512bf16", "amx-tile", "amx-bf16", "amx-int8"}))
    monkeypatch.setattr(build, "find_target", lambda _: replace(known, features=features))
    options = CompileOptions.make(mode, "cpu", "bf16x3", 1)
    found = next(p.options for p in build.pipeline(options) if p.name == "lower_precision")
    assert found == LowerPrecisionOptions(2, stored=mode is Mode.TRAINING)
