"""Packing panels whose columns lie across memory: squares of every size, and their last ones."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.codegen.contract.analysis import analyze
from dlc.codegen.contract.pack import call_panel_kernel, packed_panels
from dlc.codegen.llvm.target import host_target
from dlc.codegen.lower.contraction import lower_contraction
from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.epilogue import no_epilogue
from dlc.ir.expr import Var
from dlc.ir.kernel import Call, Transpose, Window, statements
from dlc.ir.lowering import Lowered
from dlc.ir.types import float32, tensor_type
from tests.codegen.contract_native import Native, aligned, run_emulated, type_of

SPEC = parse_spec("m k, n k -> m n")
LEVELS = ("avx512", "avx2", "generic")


def lowered_of(arrays: list[np.ndarray], level: str) -> Lowered:
    extents = infer_extents(SPEC, arrays[0].shape, arrays[1].shape, {})
    types = [type_of(array) for array in arrays]
    return lower_contraction(SPEC, extents, *types, no_epilogue(types[0].dtype), host_target(level), 1)


def square_sides(columns: int, depth: int) -> set[int]:
    """Return the sizes of the squares that a panel of ``columns`` columns of this depth is turned by."""
    shapes = (5, depth), (columns, depth)
    types = [tensor_type(float32, shape) for shape in shapes]
    problem = analyze(SPEC, infer_extents(SPEC, *shapes, {}), *types, no_epilogue(float32))
    assert problem is not None
    panels = packed_panels(problem, 32, 16)
    levels = [(Var("n"), Var("s"))]
    call = call_panel_kernel(panels, (Window("source", Var("a")), Window("packed", Var("b"))), levels, 32)
    called = [s.kernel.body for s in statements(call.kernel.body) if isinstance(s, Call)]
    return {s.size for body in (call.kernel.body, *called) for s in statements(body) if isinstance(s, Transpose)}


@pytest.mark.parametrize("depth, side", [(2, 2), (3, 2), (7, 4), (8, 8), (15, 8), (16, 16), (17, 16), (500, 16)])
def test_short_depths_take_small_squares(depth: int, side: int) -> None:
    assert square_sides(64, depth) == {side}


@pytest.mark.parametrize("depth", [1023, 1024, 1025, 1039, 2049])
def test_columns_that_share_a_cache_set_are_few_per_square(depth: int) -> None:
    assert square_sides(64, depth) == {8} and square_sides(64, depth + 17) == {16}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_short_depths(dtype: str, level: str) -> None:
    rng = np.random.default_rng(4)
    for depth in range(1, 19):
        rows, columns = int(rng.integers(4, 30)), int(rng.integers(5, 150))
        arrays = [aligned((n, depth), dtype, rng.standard_normal((n, depth))) for n in (rows, columns)]
        lowered = lowered_of(arrays, level)
        expected = arrays[0].astype(np.float64) @ arrays[1].astype(np.float64).T
        for run in (Native(lowered, host_target(level)), lambda *args, found=lowered: run_emulated(found, *args)):
            out = run(arrays, aligned((rows, columns), dtype, np.nan))
            assert np.allclose(out, expected, rtol=1e-5, atol=1e-5), (depth, rows, columns)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("depth", [1023, 1025, 2048])
def test_products_of_columns_that_share_a_cache_set(depth: int, level: str) -> None:
    rng = np.random.default_rng(5)
    arrays = [aligned((n, depth), "float32", rng.standard_normal((n, depth))) for n in (7, 75)]
    out = Native(lowered_of(arrays, level), host_target(level))(arrays, aligned((7, 75), "float32", np.nan))
    assert np.allclose(out, arrays[0] @ arrays[1].T, rtol=1e-4, atol=1e-3)
