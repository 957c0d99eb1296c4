"""What the driver knows of this processor and process, with and without LLVM."""

import logging
import threading

import numpy as np
import pytest

from dlc import config
from dlc.codegen.llvm.jit import NativeCode
from dlc.codegen.llvm.target import host_target
from dlc.driver import host
from dlc.driver.compile import compile_graph
from dlc.driver.host import find_target
from dlc.errors import ConfigError
from dlc.runtime.object_code import UnsupportedObjectError


@pytest.mark.parametrize("restriction", ["", "generic", "avx2", "avx512", "-fma", "avx2,-fma"])
def test_the_target_from_the_cache_is_that_of_llvm(restriction, monkeypatch):
    expected = host_target(restriction)
    assert find_target(restriction) == expected
    monkeypatch.setattr(host, "_inspect", lambda restriction: pytest.fail("asked LLVM again"))
    assert find_target(restriction) == expected


def test_without_a_cache_llvm_is_asked():
    with config.override(cache=False):
        assert find_target("generic") == host_target("generic")


def test_a_wrong_restriction_is_an_error_every_time():
    for _ in range(2):
        with pytest.raises(ConfigError, match="fast"):
            find_target("fast")


def test_objects_that_we_cannot_load_go_to_llvm(perceptron, rng, monkeypatch, caplog):
    graph, x = perceptron(batch=3), rng.normal(size=(3, 12)).astype("f")
    expected = compile_graph(graph, threads=1)(x)

    def refuse(images):
        raise UnsupportedObjectError("a relocation of kind 9")

    monkeypatch.setattr(host.object_code, "load_objects", refuse)
    with caplog.at_level(logging.INFO):
        executable = compile_graph(graph, threads=1)
    assert isinstance(executable.code, NativeCode) and "kind 9" in caplog.text
    for mine, other in zip(executable(x), expected, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_runtime_is_made_beside_other_work(monkeypatch):
    made = []
    monkeypatch.setattr(host, "native_runtime", lambda: made.append(threading.current_thread().name))
    with host.runtime_beside():
        pass
    assert made == ["dlc-runtime"]


def test_all_that_compiles_keeps_to_the_callers_options(perceptron, own_cache, monkeypatch, tmp_path):
    monkeypatch.setattr(host, "_runtime", [])
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "elsewhere"))
    with config.override(cache_dir=own_cache):
        compile_graph(perceptron(batch=3), threads=2)
    assert {path.name for path in own_cache.iterdir()} >= {"executable", "runtime", "target", "object"}
    assert not (tmp_path / "elsewhere").exists()
    with config.override(cache_dir=tmp_path / "unused", cache=False):
        monkeypatch.setattr(host, "_runtime", [])
        compile_graph(perceptron(batch=4), threads=2)
    assert not (tmp_path / "unused").exists() and not (tmp_path / "elsewhere").exists()


def test_who_needs_the_runtime_meets_its_error_not_who_begins_it(monkeypatch):
    def fail():
        raise ValueError("no runtime")

    monkeypatch.setattr(host, "native_runtime", fail)
    with host.runtime_beside(), pytest.raises(ValueError, match="no runtime"):
        host.native_runtime()
