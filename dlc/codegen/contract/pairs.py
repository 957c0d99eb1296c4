"""Contractions of bfloat16 operands by pairs: two neighbours along the depth are one 32-bit word.

The instruction multiplies words of rows, broadcast, with words of panels and adds both products to float32. Rows
lie in memory as they must, their depth contiguous; panels are packed as words. It must not know kernels.
"""

from __future__ import annotations

from dataclasses import replace

from dlc.codegen.contract.analysis import OUT, LoopAxis, Problem
from dlc.codegen.target import CpuTarget
from dlc.ir.types import float32

FEWEST_ROWS = 4
"""Operands that are no weights are not packed for fewer rows."""


def pairs_pay(problem: Problem, target: CpuTarget, constants: frozenset[int]) -> bool:
    """Whether the target multiplies pairs at the rate of float32 or better, and packing is repaid."""
    return target.has("avx512bf16") and (problem.panel_operand in constants or problem.row_count >= FEWEST_ROWS)


def paired(problem: Problem) -> Problem | None:
    """Return a problem of bfloat16 operands with its innermost depth axis in pairs, or None where rows have none."""
    row, panel = problem.row_operand, problem.panel_operand
    if problem.spread or not problem.depth or not problem.columns or problem.columns[-1].strides[OUT] != 1:
        return None
    inner = problem.depth[-1]
    if inner.strides[row] != 1 or inner.extent < 2:
        return None
    odd = inner.extent % 2 == 1
    others = (*problem.batch, *problem.rows, *problem.columns, *problem.depth[:-1])
    words = inner.strides[panel] == 1 and not odd and all(axis.strides[panel] % 2 == 0 for axis in others)
    words = words and problem.sizes[panel] % 2 == 0
    steps = LoopAxis(-(-inner.extent // 2), tuple(2 * stride for stride in inner.strides))
    found = replace(problem, depth=(*problem.depth[:-1], steps), dtype=float32, pairs=True, odd=odd, panel_bits=16)
    return _in_words(found) if words else found


def _in_words(problem: Problem) -> Problem:
    """Count the panel operand in words: it is contiguous along the depth, so that pairs are words already."""
    panel = problem.panel_operand

    def halved(axes: tuple[LoopAxis, ...]) -> tuple[LoopAxis, ...]:
        found = []
        for axis in axes:
            strides = list(axis.strides)
            strides[panel] //= 2
            found.append(LoopAxis(axis.extent, tuple(strides)))
        return tuple(found)

    sizes = list(problem.sizes)
    sizes[panel] //= 2
    return replace(
        problem,
        batch=halved(problem.batch),
        rows=halved(problem.rows),
        columns=halved(problem.columns),
        depth=halved(problem.depth),
        sizes=tuple(sizes),
        panel_bits=32,
    )
