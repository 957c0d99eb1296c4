"""What the target offers to steps that hand on their results, for splitting batches. It must not know kernels."""

from __future__ import annotations

from dlc.codegen.target import L3_BYTES_PER_CYCLE, MEMORY_BYTES_PER_CYCLE, CpuTarget
from dlc.passes.batch.stretch import Machine

STEP_CYCLES = 25_000
"""What a further step costs all threads: they begin and end it together, and its fewer tasks fill them less evenly."""


def machine_of(target: CpuTarget, threads: int) -> Machine:
    """Return what ``split_batch`` must know of runs on ``threads`` threads of ``target``."""
    return Machine(
        cache_bytes=threads * (target.l2_bytes + target.l3_bytes),
        near=threads * L3_BYTES_PER_CYCLE,
        far=threads * MEMORY_BYTES_PER_CYCLE,
        operations=threads * target.lanes(4) * (2 if target.double_pumped else 4),
        step=STEP_CYCLES,
    )
