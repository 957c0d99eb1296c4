"""What a contraction by fused multiply-adds is expected to take, for paths that must be faster.

Pure estimates from shapes and target. It must not choose.
"""

from __future__ import annotations

from dlc.codegen.contract.analysis import Problem
from dlc.codegen.contract.blocking import LOCAL, choose_blocking, register_tile
from dlc.codegen.target import CpuTarget

FMA_FLOPS_PER_CYCLE = 57
"""What is reached of 64, with vectors of 16 lanes."""
PACK_CYCLES = 0.5
"""Cycles to pack an element of a panel."""


def fma_cycles(problem: Problem, target: CpuTarget, threads: int, panels_from: str) -> float:
    """Estimate the cycles of all threads together by fused multiply-adds."""
    itemsize, columns = problem.dtype.itemsize, problem.columns[-1].extent
    width = register_tile(target, itemsize, columns).width
    weights = -(-columns // width) * width * problem.depth_count
    cycles = 2.0 * (-(-problem.row_count // 14) * 14) * weights / (FMA_FLOPS_PER_CYCLE * target.lanes(itemsize) / 16)
    if panels_from == LOCAL:
        cycles += weights * choose_blocking(problem, target, threads, LOCAL).row_chunks * PACK_CYCLES
    return cycles
