"""What a CPU offers to generated code, as plain data.

Schedules choose vector widths, register blocks and cache blocks from it. It must
not know how a host is inspected nor how code is emitted.
"""

from __future__ import annotations

from dataclasses import dataclass

L3_BYTES_PER_CYCLE, MEMORY_BYTES_PER_CYCLE = 10.0, 4.0
"""What one core reads while it computes."""


@dataclass(frozen=True)
class CpuTarget:
    """A processor as seen by schedules and emitters.

    ``features`` are LLVM feature names, sorted, all of them present; ``emulated`` are those that code
    generation replaces by others, for tests; ``vector_bytes`` is the widest vector register used;
    ``has_masks`` says that lanes can be predicated (AVX-512, SVE); cache sizes are bytes, L1 and L2 of
    one core, L3 the share that one core may count on. ``double_pumped`` says that the widest vectors pass
    the arithmetic units in two halves: half a vector takes half the time.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bytes: int
    vector_registers: int
    has_fma: bool
    has_masks: bool
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    double_pumped: bool = False
    emulated: tuple[str, ...] = ()

    def lanes(self, itemsize: int) -> int:
        """Return how many elements of ``itemsize`` bytes fill one vector register."""
        return self.vector_bytes // itemsize

    def has(self, feature: str) -> bool:
        """Return whether the LLVM feature is enabled or emulated."""
        return feature in self.features or feature in self.emulated

    @property
    def feature_string(self) -> str:
        """The features as LLVM wants them: ``+avx2,+fma``."""
        return ",".join(f"+{feature}" for feature in self.features)
