"""Every option of dlc in one described table.

An option has a value from, in this order: ``override`` in scope, its environment
variable, its default. Values are parsed and checked here; the rest of dlc reads
typed accessors. Cheap to import: no NumPy, no llvmlite, no file is touched.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dlc.errors import ConfigError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"outside {low} .. {high}")
        return value

    return parse


def _byte_count(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ValueError("not a number of bytes such as 1048576, 512M or 2GiB")
    return int(match[1]) * _UNITS[match[2]]


def byte_count(value: int | str, name: str) -> int:
    """Return a number of bytes given as such or as text such as ``"512MB"``; ConfigError with ``name`` for others."""
    try:
        if isinstance(value, bool):
            raise ValueError("not a number of bytes")
        return _byte_count(str(value))
    except ValueError as error:
        raise ConfigError(f"{name}={value!r} is not bytes: {error}") from None


def _switch(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "on", "true", "yes"):
        return True
    if lowered in ("0", "off", "false", "no"):
        return False
    raise ValueError("neither 0 nor 1")


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _user_cache() -> Path:
    """The user's cache folder; on Linux by the XDG rule, since platformdirs takes long to import."""
    if sys.platform == "linux":
        return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache").expanduser() / "dlc"
    found: Path = import_module("platformdirs").user_cache_path("dlc")
    return found


def _thread_count(text: str) -> int:
    return _integer(1, 1024)(text.split(",")[0])  # OMP_NUM_THREADS may hold one number per nesting level


@dataclass(frozen=True)
class Option:
    """One option: key, environment variables (first one set wins), text form of its type, parser, default, help."""

    name: str
    variables: tuple[str, ...]
    type: str
    parse: Callable[[str], Any]
    default: Any  # a value, or a function without arguments that finds it
    default_text: str
    help: str


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option("num_threads", ("DLC_NUM_THREADS", "OMP_NUM_THREADS"), "int", _thread_count, lambda: available_cpus(),
               "processors this process may use", "Threads of an executable, the caller included."),
        Option("cpu_features", ("DLC_CPU_FEATURES",), "text", str.strip, "",
               "what the processor has",
               "A level to keep to (generic, avx2, avx512), -features to leave out, amx-emulated to test tiles."),
        Option("cache", ("DLC_CACHE",), "0 or 1", _switch, True, "1", "Keep compiled code on disk."),
        Option("cache_dir", ("DLC_CACHE_DIR",), "path", _path, lambda: _user_cache(),
               "the user's cache folder", "Where compiled code is kept."),
        Option("cache_limit", ("DLC_CACHE_LIMIT",), "bytes", _byte_count, 4 << 30, "4G",
               "Size of the cache beyond which the entries used longest ago are removed."),
        Option("verify", ("DLC_VERIFY",), "0, 1 or 2", _integer(0, 2), 1, "1",
               "Checks while compiling: 0 none, 1 the graph before and after the passes, 2 after every pass."),
        Option("dump", ("DLC_DUMP",), "path", _path, None, "none",
               "Folder that receives numbered graphs, kernels, LLVM and assembly of every compilation."),
        Option("fold_limit", ("DLC_FOLD_LIMIT",), "bytes", _byte_count, 1 << 20, "1M",
               "Largest constant that folding may create while compiling; larger ones are computed at load."),
        Option("memory_limit", ("DLC_MEMORY_LIMIT",), "bytes", _byte_count, 8 << 30, "8G",
               "Memory that an imported model may ask for when it is folded or initialised."),
        Option("spin", ("DLC_SPIN",), "microseconds", _integer(0, 10_000_000), 200, "200",
               "How long a waiting thread spins before it sleeps."),
        Option("short_run", ("DLC_SHORT_RUN",), "microseconds", _integer(0, 10_000_000), 50, "50",
               "Runs expected to take one thread less are not shared among threads, which would wait for one another."),
    )
}  # fmt: skip

_overrides: ContextVar[Mapping[str, Any]] = ContextVar("dlc_overrides", default=MappingProxyType({}))


def get(name: str) -> Any:
    """Return the value of the option ``name``; ConfigError if it is unknown or its variable makes no sense."""
    option = _option(name)
    overrides = _overrides.get()
    if name in overrides:
        return overrides[name]
    for variable in option.variables:
        text = os.environ.get(variable, "")
        if text.strip():
            return _parsed(option, text, f"{variable}={text!r}")
    return option.default() if callable(option.default) else option.default


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """Give options other values within a ``with`` block; text is parsed as a variable's would be, None is the default.

    The block binds the thread (or asyncio task) that enters it, not others.
    """
    merged = dict(_overrides.get())
    for name, value in values.items():
        option = _option(name)
        if value is None:
            merged[name] = option.default() if callable(option.default) else option.default
        else:
            merged[name] = _parsed(option, _as_text(value), f"{name}={value!r}")
    token = _overrides.set(merged)
    try:
        yield
    finally:
        _overrides.reset(token)


def _option(name: str) -> Option:
    if name not in OPTIONS:
        raise ConfigError(f"there is no option {name!r}; dlc has {', '.join(OPTIONS)}")
    return OPTIONS[name]


def _as_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parsed(option: Option, text: str, shown: str) -> Any:
    try:
        return option.parse(text.strip())
    except ValueError as error:
        raise ConfigError(
            f"{shown} is not {option.type}: {error}. {option.help} Default: {option.default_text}"
        ) from None


def num_threads() -> int:
    """Threads of an executable, the caller included."""
    return get("num_threads")


def cpu_features() -> str:
    """Restriction of the processor features, or an empty string."""
    return get("cpu_features")


def cache_enabled() -> bool:
    """Whether compiled code is kept on disk."""
    return get("cache")


def cache_dir() -> Path:
    """Folder of the code cache."""
    return get("cache_dir")


def cache_limit() -> int:
    """Bytes the code cache may take."""
    return get("cache_limit")


def verify_level() -> int:
    """How much is verified while compiling, 0 to 2."""
    return get("verify")


def dump_dir() -> Path | None:
    """Folder for dumps, or None."""
    return get("dump")


def fold_limit() -> int:
    """Bytes of the largest constant that folding may create."""
    return get("fold_limit")


def memory_limit() -> int:
    """Bytes that an imported model may ask for when it is folded or initialised."""
    return get("memory_limit")


def spin_microseconds() -> int:
    """Microseconds that a waiting thread spins before it sleeps."""
    return get("spin")


def short_run_microseconds() -> int:
    """Return the time up to which a run is left to one thread."""
    return int(get("short_run"))


def available_cpus() -> int:
    """Processors this process may use: the affinity mask, capped by the CPU quota of its control groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    # Rounded down: threads that meet at barriers lose more from being throttled than from being one fewer.
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def _cgroup_quota(membership: Path, mount: Path) -> float | None:
    """Return the smallest quota, in processors, of this process's control groups (v1 or v2), None if unlimited."""
    quotas = []
    for line in _read(membership).splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if hierarchy == "0" and not controllers:
            quotas += [_quota_v2(folder) for folder in _ancestors(mount, group)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                quotas += [_quota_v1(folder) for folder in _ancestors(mount / name, group)]
    known = [quota for quota in quotas if quota is not None]
    return min(known) if known else None


def _ancestors(root: Path, group: str) -> list[Path]:
    """Return the folders from ``group`` up to ``root``; within a container the path may be seen from its root only."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota_v2(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return int(quota) / int(period)
    return None  # "max", "-1" or no such file: unlimited


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
