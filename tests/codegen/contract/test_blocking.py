"""How contractions are cut into tasks: decisions from shapes and a described processor, no kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlc.codegen.contract.analysis import analyze
from dlc.codegen.contract.blocking import LOCAL, Blocking, choose_blocking
from dlc.codegen.target import CpuTarget
from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.epilogue import no_epilogue
from dlc.ir.types import float32, tensor_type
from tests.codegen.plain_targets import AVX512

TARGET = replace(AVX512, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=16 << 20)


def _blocking(
    spec_text: str, lhs: tuple[int, ...], rhs: tuple[int, ...], threads: int, target: CpuTarget = TARGET
) -> Blocking:
    spec = parse_spec(spec_text)
    types = tensor_type(float32, lhs), tensor_type(float32, rhs)
    problem = analyze(spec, infer_extents(spec, lhs, rhs, {}), *types, no_epilogue(float32))
    assert problem is not None
    return choose_blocking(problem, target, threads, LOCAL)


@pytest.mark.parametrize("rows", [1024, 4096])
def test_chunks_of_few_columns_do_not_copy_row_tiles_again(rows: int) -> None:
    """A weight gradient: rows are contiguous at each depth step, tiles of them are copied in every column chunk."""
    blocking = _blocking("k m, k n -> m n", (1024, rows), (1024, 256), threads=2)
    assert blocking.staged
    assert (blocking.row_chunks, blocking.column_chunks) == (2, 1)


def test_many_columns_are_shared_rather_than_packed_again() -> None:
    blocking = _blocking("k m, k n -> m n", (1024, 256), (1024, 1024), threads=2)
    assert blocking.staged
    assert (blocking.row_chunks, blocking.column_chunks) == (1, 2)


def test_equal_work_comes_before_fewer_copies() -> None:
    """19 row tiles do not halve, 8 panels do."""
    blocking = _blocking("k m, k n -> m n", (1024, 256), (1024, 256), threads=2)
    assert blocking.staged and blocking.tile_count == 19
    assert (blocking.row_chunks, blocking.column_chunks) == (1, 2)


def test_rows_read_in_place_are_shared_by_columns() -> None:
    """Where nothing is copied, packing each panel once decides."""
    blocking = _blocking("m k, k n -> m n", (1024, 1024), (1024, 256), threads=2)
    assert not blocking.staged
    assert (blocking.row_chunks, blocking.column_chunks) == (1, 2)


@pytest.mark.parametrize("depth, columns, tile", [(1, 513, (6, 4)), (48, 300, (6, 4)), (49, 300, (14, 2))])
def test_short_depths_write_long_runs(depth: int, columns: int, tile: tuple[int, int]) -> None:
    chosen = _blocking("m k, k n -> m n", (100, depth), (depth, columns), threads=1).tile
    assert (chosen.rows, chosen.vectors) == tile


@pytest.mark.parametrize("columns, tile", [(64, (6, 4)), (70, (9, 3)), (50, (14, 2)), (40, (14, 2)), (16, (14, 1))])
def test_long_runs_leave_no_panel_almost_empty(columns: int, tile: tuple[int, int]) -> None:
    chosen = _blocking("m k, n k -> m n", (100, 20), (columns, 20), threads=1).tile
    assert (chosen.rows, chosen.vectors) == tile


@pytest.mark.parametrize(
    "columns, tile",
    [(8, (14, 1, 8)), (9, (14, 1, 16)), (24, (9, 3, 8)), (33, (5, 5, 8)), (32, (14, 2, 16)), (56, (14, 2, 16))],
)
def test_half_vectors_fill_where_they_take_half_the_time(columns: int, tile: tuple[int, int, int]) -> None:
    chosen = _blocking("m k, n k -> m n", (100, 128), (columns, 128), 1, replace(TARGET, double_pumped=True)).tile
    assert (chosen.rows, chosen.vectors, chosen.lanes) == tile


@pytest.mark.parametrize(
    "depth, columns, tile",
    [(16, 96, (6, 3)), (96, 300, (5, 4)), (97, 300, (14, 2)), (64, 32, (14, 2)), (20, 16, (14, 1)), (20, 24, (6, 3))],
)
def test_results_of_low_tiles_wait_while_the_next_is_multiplied(
    depth: int, columns: int, tile: tuple[int, int]
) -> None:
    """Where vectors are stored in two halves; 24 columns are three vectors of half the lanes."""
    target = replace(TARGET, double_pumped=True)
    chosen = _blocking("m k, n k -> m n", (100, depth), (columns, depth), 1, target).tile
    assert (chosen.rows, chosen.vectors) == tile


def test_rows_of_one_tile_are_not_divided() -> None:
    """Six rows fill a tile of 6 x 4 vectors: two tiles would read every panel twice."""
    target = replace(TARGET, double_pumped=True)
    chosen = _blocking("m k, n k -> m n", (6, 40), (300, 40), 1, target).tile
    assert (chosen.rows, chosen.vectors) == (6, 4)


def test_long_runs_need_registers() -> None:
    """Four rows of three vectors fill the 16 registers of AVX2."""
    target = replace(TARGET, vector_bytes=32, vector_registers=16, has_masks=False)
    chosen = _blocking("m k, k n -> m n", (100, 8), (8, 300), 1, target).tile
    assert (chosen.rows, chosen.vectors) == (4, 3)
    plain = _blocking("m k, k n -> m n", (100, 8), (8, 300), 1, replace(target, vector_bytes=16, has_fma=False)).tile
    assert (plain.rows, plain.vectors) == (3, 3)
