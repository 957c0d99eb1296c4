"""memory_limit= end to end: the arena keeps to it, the training stays the same, the report tells both sizes."""

import numpy as np
import pytest

from dlc import config
from dlc.errors import ConfigError, ResourceLimitError
from dlc.frontends import models
from dlc.frontends.graph import Graph, input, losses, nn, optim, output
from dlc.training import compile_training


@pytest.fixture(autouse=True)
def own_cache(tmp_path):
    with config.override(cache_dir=tmp_path / "cache", cache=True):
        yield


def compiled(graph, limit=None, **options):
    loss = losses.cross_entropy("logits", "label", axis=-1)
    return compile_training(graph, loss, optim.SGD(0.01), metrics=(), memory_limit=limit, **options)


def losses_of(step, count=3):
    rng = np.random.default_rng(0)
    feeds = {}
    for port in step.inputs:
        whole = port.dtype.kind != "f"
        drawn = rng.integers(0, 10, port.shape) if whole else rng.normal(size=port.shape)
        feeds[port.name] = drawn.astype(port.dtype)
    return [step.run(feeds) for _ in range(count)]


def dropout_network():
    with Graph("dropout", seed=1) as graph:
        x = input("x", (64, 32))
        layers = []
        for _ in range(4):
            layers += [nn.Linear(32, 32), nn.GELU(), nn.Dropout(0.2)]
        output("logits", nn.Sequential(*layers, nn.Linear(32, 10))(x))
    return graph


GRAPHS = {
    "cnn": (lambda: models.build("cnn", batch=4), 0.9),
    "resnet18": (lambda: models.build("resnet18", batch=1, size=32), 0.98),
    "gpt": (lambda: models.gpt(models.GptConfig(96, 32, 64, 2, 2), batch=4, sequence=32), 0.8),
    "dropout": (dropout_network, 0.8),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_arena_keeps_to_the_limit_and_losses_stay_equal(name):
    build, share = GRAPHS[name]
    free = compiled(build())
    limit = int(free.report.arena_bytes * share)
    limited = compiled(build(), limit)
    assert free.report.full_arena_bytes is None
    assert limited.report.full_arena_bytes == free.report.arena_bytes
    assert limited.executor.plan.arena_bytes == limited.report.arena_bytes <= limit
    np.testing.assert_allclose(losses_of(limited), losses_of(free), rtol=2e-5)


@pytest.mark.parametrize("features", ["avx2", "generic"])
def test_other_processors_keep_to_it_too(features):
    with config.override(cpu_features=features):
        free = compiled(dropout_network())
        limited = compiled(dropout_network(), int(free.report.arena_bytes * 0.8))
    assert limited.report.repeated > 0
    np.testing.assert_allclose(losses_of(limited), losses_of(free), rtol=2e-5)


def test_dropout_draws_the_same_numbers_again():
    """After one step the states are zero at the same places and close: as far as updates show it, masks are equal."""
    free = compiled(dropout_network(), threads=1)
    limited = compiled(dropout_network(), int(free.report.arena_bytes * 0.8), threads=1)
    assert limited.report.repeated > 0
    losses_of(free, 1), losses_of(limited, 1)
    for name, array in free.state.items():
        zeros = np.asarray(array) == 0
        assert np.array_equal(zeros, np.asarray(limited.state[name]) == 0), name
        np.testing.assert_allclose(limited.state[name], array, rtol=1e-4, atol=1e-7)


def test_a_warm_start_reports_the_same():
    free = compiled(dropout_network())
    limit = int(free.report.arena_bytes * 0.8)
    cold, warm = compiled(dropout_network(), limit), compiled(dropout_network(), limit)
    assert (cold.report.cache, warm.report.cache) == ("miss", "hit")
    for name in ("arena_bytes", "full_arena_bytes", "repeated"):
        assert getattr(cold.report, name) == getattr(warm.report, name)
    assert losses_of(cold) == losses_of(warm)


def test_what_cannot_be_reached_is_refused_with_the_smallest_size():
    with pytest.raises(ResourceLimitError, match=r"memory_limit=1024 bytes; the smallest arena .* has \d+ bytes"):
        compiled(dropout_network(), 1024)


@pytest.mark.parametrize("limit", ["much", -5, 1.5, True])
def test_limits_that_make_no_sense_are_refused(limit):
    with pytest.raises(ConfigError, match="memory_limit"):
        compiled(dropout_network(), limit)


def test_limits_may_be_text():
    assert compiled(dropout_network(), "16MB").report.full_arena_bytes < 16 << 20
    assert compiled(dropout_network(), "16 MiB", device="interpreter").report is None


def test_a_symbolic_batch_is_fitted_when_it_is_fed():
    with Graph("open", seed=1) as graph:
        x = input("x", ("batch", 32))
        layers = [layer for _ in range(4) for layer in (nn.Linear(32, 32), nn.GELU())]
        output("logits", nn.Sequential(*layers, nn.Linear(32, 10))(x))
    step = compiled(graph, "40KB")
    assert step.report is None
    feeds = {"x": np.zeros((16, 32), np.float32), "label": np.zeros(16, np.int64)}
    step.run(feeds)
    assert step.report.arena_bytes <= 40 << 10
    with pytest.raises(ResourceLimitError, match="smaller batches"):
        step.run({name: np.repeat(array, 256, axis=0) for name, array in feeds.items()})
