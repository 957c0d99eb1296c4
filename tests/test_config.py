"""Options: table, variables, overrides, processor count."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dlc import config
from dlc.errors import ConfigError


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for option in config.OPTIONS.values():
        for variable in option.variables:
            monkeypatch.delenv(variable, raising=False)


def test_defaults():
    assert config.num_threads() == config.available_cpus() >= 1
    assert config.cache_enabled() is True
    assert config.cache_dir().name == "dlc"
    assert config.fold_limit() == 1 << 20
    assert config.dump_dir() is None
    assert config.cpu_features() == ""
    assert 0 <= config.verify_level() <= 2
    assert config.spin_microseconds() >= 0
    assert config.memory_limit() > 1 << 30
    assert config.cache_limit() > 1 << 30


@pytest.mark.parametrize(
    ("variable", "text", "read", "value"),
    [
        ("DLC_NUM_THREADS", "3", config.num_threads, 3),
        ("OMP_NUM_THREADS", "5,2", config.num_threads, 5),
        ("DLC_CPU_FEATURES", " avx2 ", config.cpu_features, "avx2"),
        ("DLC_CACHE", "0", config.cache_enabled, False),
        ("DLC_CACHE", "on", config.cache_enabled, True),
        ("DLC_CACHE_DIR", "/tmp/x", config.cache_dir, Path("/tmp/x")),
        ("DLC_CACHE_DIR", "~/x", config.cache_dir, Path.home() / "x"),
        ("DLC_CACHE_LIMIT", "512M", config.cache_limit, 512 << 20),
        ("DLC_CACHE_LIMIT", "2GiB", config.cache_limit, 2 << 30),
        ("DLC_FOLD_LIMIT", "0", config.fold_limit, 0),
        ("DLC_MEMORY_LIMIT", "1t", config.memory_limit, 1 << 40),
        ("DLC_VERIFY", "2", config.verify_level, 2),
        ("DLC_DUMP", "out", config.dump_dir, Path("out")),
        ("DLC_SPIN", "0", config.spin_microseconds, 0),
        ("DLC_SPIN", "", config.spin_microseconds, 200),
    ],
)
def test_variables(monkeypatch, variable, text, read, value):
    monkeypatch.setenv(variable, text)
    assert read() == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DLC_NUM_THREADS", "0"),
        ("DLC_NUM_THREADS", "-2"),
        ("DLC_NUM_THREADS", "two"),
        ("DLC_NUM_THREADS", "1e9"),
        ("DLC_CACHE", "maybe"),
        ("DLC_CACHE_LIMIT", "lots"),
        ("DLC_CACHE_LIMIT", "-1"),
        ("DLC_VERIFY", "3"),
        ("DLC_SPIN", "1.5"),
        ("OMP_NUM_THREADS", "x"),
    ],
)
def test_nonsense_names_the_variable(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    option = next(o for o in config.OPTIONS.values() if variable in o.variables)
    with pytest.raises(ConfigError, match=f"{variable}='{text}' is not {option.type}"):
        config.get(option.name)


def test_the_first_variable_wins(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("DLC_NUM_THREADS", "2")
    assert config.num_threads() == 2


def test_override_is_scoped_and_nests(monkeypatch):
    monkeypatch.setenv("DLC_SPIN", "7")
    with config.override(spin=1, cache=False):
        assert config.spin_microseconds() == 1 and not config.cache_enabled()
        with config.override(spin="2", cache_limit="1k"):
            assert config.spin_microseconds() == 2 and config.cache_limit() == 1024 and not config.cache_enabled()
        with config.override(spin=None):
            assert config.spin_microseconds() == 200
        assert config.spin_microseconds() == 1
        seen = []
        thread = threading.Thread(target=lambda: seen.append(config.spin_microseconds()))
        thread.start()
        thread.join()
        assert seen == [7]
    assert config.spin_microseconds() == 7
    with pytest.raises(ZeroDivisionError), config.override(spin=3):
        raise ZeroDivisionError
    assert config.spin_microseconds() == 7


def test_unknown_and_bad_overrides():
    with pytest.raises(ConfigError, match="no option 'threads'; dlc has num_threads"), config.override(threads=1):
        pass
    with pytest.raises(ConfigError, match="num_threads=0 is not int"), config.override(num_threads=0):
        pass
    with pytest.raises(ConfigError, match="no option"):
        config.get("nothing")


def test_every_option_is_described():
    for name, option in config.OPTIONS.items():
        assert option.name == name and option.help.endswith(".") and option.default_text and option.type
        assert callable(getattr(config, _accessor(name)))


def _accessor(name):
    renamed = {"cache": "cache_enabled", "verify": "verify_level", "dump": "dump_dir", "spin": "spin_microseconds"}
    renamed |= {"short_run": "short_run_microseconds"}
    return renamed.get(name, name)


def quota(tmp_path, membership, groups):
    (tmp_path / "self").write_text(membership)
    for name, text in groups.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return config._cgroup_quota(tmp_path / "self", tmp_path / "fs")


@pytest.mark.parametrize(
    ("membership", "groups", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000", "cpu.max": "800000 100000"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000"}, None),
        ("0::/hidden/by/container\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../up\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            "4:cpu,cpuacct:/c\n3:cpuset:/\n",
            {"cpu,cpuacct/c/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/c/cpu.cfs_period_us": "100000\n"},
            1.5,
        ),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("1:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("", {}, None),
        ("0::/\n", {"cpu.max": "garbage"}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
    ],
)
def test_quota_of_control_groups(tmp_path, membership, groups, expected):
    assert quota(tmp_path, membership, groups) == expected


def test_affinity_and_quota_together(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for limit, expected in ((None, 8), (2.9, 2), (0.5, 1), (100.0, 8)):
        monkeypatch.setattr(config, "_cgroup_quota", lambda membership, mount, limit=limit: limit)
        assert config.available_cpus() == expected


def test_import_is_light():
    code = "import sys, dlc.config; print([m for m in ('numpy', 'llvmlite', 'onnx') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
