"""What a compilation did: phase times, sizes, and the texts that a dump folder holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class CompileReport:
    """Times in milliseconds by phase, counts and sizes in bytes of one compilation."""

    phases: dict[str, float] = field(default_factory=dict)
    kernels: int = 0
    steps: int = 0
    code_bytes: int = 0
    arena_bytes: int = 0
    full_arena_bytes: int | None = None  # the arena without a memory limit, where one was given
    repeated: float = 0.0  # share of the step's work that is done twice to keep to the limit
    constant_bytes: int = 0
    state_bytes: int = 0
    flops: int = 0
    peak: tuple[str, ...] = ()
    cache: str = "off"  # off, miss, hit

    @property
    def total_milliseconds(self) -> float:
        """Wall time of all phases together."""
        return sum(self.phases.values())

    @property
    def peak_bytes(self) -> int:
        """Predicted steady memory: constants, state and arena."""
        return self.arena_bytes + self.constant_bytes + self.state_bytes

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to the phase ``name``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + (time.perf_counter() - begin) * 1e3
