"""Rooflines are measured on as many threads as asked, with the features that code may use, once per process."""

import math

import pytest

from dlc import config
from dlc.driver import machine_probe
from dlc.driver.host import processor_name
from dlc.driver.machine_probe import measure_roofline, roofline


@pytest.mark.parametrize(("threads", "features"), [(1, ""), (2, ""), (1, "avx2"), (1, "generic")])
def test_what_is_measured(threads, features):
    with config.override(cpu_features=features):
        found = measure_roofline(threads, sizes=(1 << 20, 100), seconds=0.0)
    assert (found.threads, found.processor) == (threads, processor_name())
    assert [size for size, _ in found.bandwidth] == [100, 1 << 20]
    assert all(math.isfinite(rate) and rate > 0 for rate in (found.peak_flops, *(rate for _, rate in found.bandwidth)))


def test_a_process_measures_once_per_threads_and_features(monkeypatch):
    calls = []
    monkeypatch.setattr(machine_probe, "measure_roofline", lambda threads: calls.append(threads) or len(calls))
    machine_probe._measured.cache_clear()
    assert [roofline(1), roofline(1), roofline(2)] == [1, 1, 2]
    with config.override(cpu_features="" if config.cpu_features() == "generic" else "generic"):
        assert roofline(1) == 3
    machine_probe._measured.cache_clear()
