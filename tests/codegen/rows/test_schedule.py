"""How rows are cut into blocks: as much of a line at a time as registers and code size allow."""

from __future__ import annotations

import pytest

from dlc.codegen.rows.schedule import row_body
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.kernel import For, statements
from tests.codegen.plain_targets import AVX512
from tests.codegen.rows.test_group import problem_of


def gradients(b: Builder, x: Value, g: Value, scale: Value) -> tuple[Value, ...]:
    """Sums of a batch norm's gradient, beside what is stored of it."""
    shape = tuple(int(d) for d in x.type.shape)  # type: ignore[call-overload]
    scaled = b.mul(g, b.broadcast(scale, shape=shape, dims=(3,)))
    axes = (0, 1, 2)
    sums = [b.reduce_sum(v, axes=axes) for v in (g, b.mul(g, x), b.mul(scaled, x), scaled)]
    return (*sums, scaled)


@pytest.mark.parametrize(("channels", "vectors"), [(32, 2), (64, 4), (96, 6), (128, 4), (256, 6)])
def test_sums_over_images_take_whole_lines_or_equal_parts(channels: int, vectors: int) -> None:
    images = (2, 12, 12, channels)
    problem = problem_of(gradients, images, images, (channels,))
    assert problem is not None and len(problem.stages) == 1 and len(problem.stages[0].reductions) == 4
    body = row_body(problem.normalized(), AVX512, 1)
    widths = {s.extent.value for s in statements(body) if isinstance(s, For) and s.var.name == "part"}
    assert max(widths) == vectors
