"""Sizes of the host's data caches, as the system tells them. It must not know targets."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def cache_sizes() -> dict[str, int]:
    """Bytes of L1 data and L2 of one core, and one core's share of L3, from sysfs; modest values where it is silent."""
    sizes = {"l1_bytes": 32 << 10, "l2_bytes": 512 << 10, "l3_bytes": 2 << 20}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level = int((index / "level").read_text())
            kind = (index / "type").read_text().strip()
            size = _parse_size((index / "size").read_text().strip())
            sharers = _count_cpus((index / "shared_cpu_list").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind == "Instruction" or level not in (1, 2, 3):
            continue
        threads = max(1, sharers)
        sizes[f"l{level}_bytes"] = size // threads if level == 3 else size
    # A virtual machine may report a whole package's L3 for a few cores: never count on more than this.
    sizes["l3_bytes"] = min(sizes["l3_bytes"], 8 << 20)
    return sizes


def _parse_size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _count_cpus(text: str) -> int:
    total = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return min(total, os.cpu_count() or 1)
