"""What runs on the tile unit (AMX), end to end; its instructions are emulated where the processor has none."""

import numpy as np
import pytest

import dlc
from dlc import config, losses, nn, optim
from dlc.codegen.llvm.target import host_target
from dlc.driver.compile import compile_graph

pytestmark = pytest.mark.skipif(not host_target().has_masks, reason="tiles are emulated with AVX-512")
FMA, TILES = "avx512", "native" if host_target().has("amx-int8") else "amx-emulated"


def network(side: int) -> dlc.Graph:
    """Convolutions of 7x7, 1x1 and 3x3 with a residual, and linear layers, of at least a few tiles each."""
    with dlc.Graph("network", seed=1) as graph:
        x = dlc.input("x", (2, 3, side, side))
        h = dlc.relu(nn.Conv2d(3, 64, 7, stride=2, padding=3)(x))
        r = nn.Conv2d(64, 64, 3, padding=1)(dlc.relu(nn.Conv2d(64, 64, 1)(h)))
        h = dlc.relu(nn.Conv2d(64, 128, 3, stride=2, padding=1)(dlc.relu(r + h)))
        rows = dlc.reshape(dlc.transpose(h, (0, 2, 3, 1)), (-1, 128))
        y = nn.Linear(512, 128)(dlc.gelu(nn.Linear(128, 512)(rows)))
        dlc.output("y", nn.LayerNorm(128)(y + rows))
    return graph


def compiled(graph, features, **options):
    with config.override(cpu_features=features):
        return compile_graph(graph.ir, **options)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 3e-6), ("bf16x3", 3e-6), ("bfloat16", 0.03)])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_inference_agrees_with_that_without_tiles(rng, threads, precision, tolerance):
    graph = network(48)
    x = rng.normal(size=(2, 3, 48, 48)).astype("f")
    plain = compiled(graph, FMA, threads=threads)(x)
    executable = compiled(graph, TILES, threads=threads, precision=precision)
    tiles = executable(x)
    assert plain.tobytes() != tiles.tobytes(), "no contraction ran on tiles"
    assert np.abs(plain - tiles).max() <= tolerance * np.abs(plain).max()
    assert executable(x).tobytes() == tiles.tobytes()


def test_numbers_out_of_range_go_the_way_of_multiply_adds(rng):
    graph = network(48)
    executable = compiled(graph, TILES, threads=2)
    x = rng.normal(size=(2, 3, 48, 48)).astype("f")
    usual = executable(x)
    x[1, 0, 3, 3] = np.inf
    spoilt = executable(x)
    assert np.isnan(spoilt).any()
    half = len(usual) // 2
    np.testing.assert_allclose(spoilt[:half], usual[:half], atol=3e-6 * np.abs(usual).max())


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bf16x3", 1e-4), ("bfloat16", 0.02)])
def test_a_training_step_follows_that_without_tiles(rng, precision, tolerance):
    feeds = {"x": rng.normal(size=(512, 256)).astype("f"), "label": rng.integers(0, 512, 512)}
    history = []
    for features, chosen in ((FMA, "float32"), (TILES, precision)):
        with dlc.Graph("perceptron", seed=2) as graph:
            hidden = dlc.relu(nn.Linear(256, 512)(dlc.input("x", (512, 256))))
            dlc.output("y", nn.Linear(512, 512)(hidden))
        loss, optimizer = losses.cross_entropy("y", "label"), optim.Adam(0.003)
        with config.override(cpu_features=features):
            step = dlc.compile_training(graph, loss=loss, optimizer=optimizer, precision=chosen, threads=2)
            history.append([step.run(feeds) for _ in range(5)])
    assert history[0] != history[1], "no contraction ran on tiles"
    assert history[1][-1] < history[1][0] - 1
    np.testing.assert_allclose(history[1], history[0], rtol=tolerance)
