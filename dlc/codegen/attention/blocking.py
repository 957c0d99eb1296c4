"""Chooses register tiles and tasks of attention.

Pure decisions from shapes, target and thread count. It must not build kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from dlc.codegen.attention.analysis import AttentionProblem
from dlc.codegen.contract.blocking import RegisterTile, Split, register_tile
from dlc.codegen.target import CpuTarget
from dlc.ir.cost import distinct
from dlc.ir.expr import Apply, Const, Expr

_PACKING_ROWS = 6
"""Packing keys and values costs about as much as what so many rows compute with them."""
_ALIASING = 1024
"""Rows of scratch that are a multiple of so many bytes apart would share cache sets."""


@dataclass(frozen=True)
class AttentionBlocking:
    """How attention is cut.

    Tasks: ``shared`` neighbouring groups that read the same keys and values, times ``chunks`` of row tiles.
    ``score_tile`` and ``product_tile`` have the same rows; scores of a row are ``pitch`` elements apart.
    """

    score_tile: RegisterTile
    product_tile: RegisterTile
    tiles: Split
    chunks: int
    shared: int
    pitch: int

    @property
    def chunk_tiles(self) -> int:
        """The most row tiles of a task's group."""
        return -(-self.tiles.parts // self.chunks)


def choose_attention_blocking(problem: AttentionProblem, target: CpuTarget, threads: int) -> AttentionBlocking:
    """Choose tiles and tasks."""
    itemsize = problem.dtype.itemsize
    score_tile = register_tile(target, itemsize, problem.key_count)
    product_tile = register_tile(target, itemsize, problem.column_count)
    rows = min(score_tile.rows, product_tile.rows)
    score_tile = RegisterTile(rows, score_tile.vectors, score_tile.lanes)
    product_tile = RegisterTile(rows, product_tile.vectors, product_tile.lanes)
    tiles = Split(problem.row_count, -(-problem.row_count // rows))
    pitch = -(-problem.key_count // score_tile.width) * score_tile.width
    if pitch * itemsize % _ALIASING == 0:
        pitch += score_tile.lanes
    shared, chunks = _tasks(problem, tiles.parts, threads)
    return AttentionBlocking(score_tile, product_tile, tiles, chunks, shared, pitch)


def _tasks(problem: AttentionProblem, tiles: int, threads: int) -> tuple[int, int]:
    """Return neighbours per task and chunks per group that give the threads equal work and pack little twice."""
    best: tuple[float, int, int] | None = None
    for shared in sorted({1, sharing(problem)}, reverse=True):
        for chunks in range(1, min(tiles, 4 * threads) + 1):
            largest = -(-tiles // chunks)
            tasks = problem.groups // shared * -(-tiles // largest)
            work = shared * largest * problem.row_count / tiles + _PACKING_ROWS
            cost = -(-tasks // threads) * work
            if best is None or cost < best[0] * 0.999:
                best = (cost, shared, -(-tiles // largest))
    assert best is not None
    return best[1:]


def sharing(problem: AttentionProblem) -> int:
    """Return how many neighbours along the innermost outer axis read the same keys and values."""
    if not problem.outer:
        return 1
    inner = problem.outer[-1]
    run = inner.extent
    for base in (problem.keys.base, problem.values.base):
        run = gcd(run, _run_of(base, inner.var, inner.extent))
    return run


def _run_of(base: Expr, variable: Expr, extent: int) -> int:
    """Return a number of steps of ``variable`` during which ``base`` stays: from divisions of the variable alone."""
    run = extent
    covered: list[Expr] = []
    for expr in distinct([base]):
        if isinstance(expr, Apply) and expr.op == "floor_div" and expr.args[0] == variable:
            divisor = expr.args[1]
            if isinstance(divisor, Const):
                run = gcd(run, int(divisor.value))
                covered.append(expr)
    return run if not _uses(base, variable, covered) else 1


def _uses(expr: Expr, variable: Expr, covered: list[Expr]) -> bool:
    """Tell whether ``variable`` occurs in ``expr`` outside of ``covered`` parts."""
    pending = [expr]
    while pending:
        current = pending.pop()
        if current in covered:
            continue
        if current == variable:
            return True
        pending += getattr(current, "args", ())
    return False
