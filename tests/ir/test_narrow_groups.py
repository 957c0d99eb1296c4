"""Which contractions of narrow groups are seen along one axis of outputs, and that this changes no value."""

from __future__ import annotations

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.ir.builder import Builder
from dlc.ir.compute import Compute, is_lanewise_product
from dlc.ir.contraction import infer_extents, parse_spec
from dlc.ir.expr import Read
from dlc.ir.narrow_groups import narrow_groups
from dlc.ir.types import float32, tensor_type

CONV = "n h+r w+s (g c), r s c (g o) -> n h w (g o)"


def compute_of(spec: str, lhs: tuple[int, ...], rhs: tuple[int, ...], **sizes: int) -> Compute:
    b = Builder("test")
    x, w = (b.input(name, tensor_type(float32, shape)) for name, shape in (("x", lhs), ("w", rhs)))
    b.contract(x, w, spec=spec, sizes=tuple(sizes.items()))
    (node,) = b.nodes
    return node.op.compute(node.input_types, node.output_types, node.attributes)


@pytest.mark.parametrize(
    ("spec", "lhs", "rhs", "groups", "narrow"),
    [
        (CONV, (1, 9, 9, 32), (3, 3, 4, 32), 8, True),
        (CONV, (1, 9, 9, 64), (3, 3, 8, 64), 8, True),
        (CONV, (1, 9, 9, 8), (3, 3, 1, 16), 8, True),  # two outputs for each input
        (CONV, (1, 9, 9, 64), (3, 3, 8, 32), 8, True),
        ("r s c (g o), n h+r w+s (g c) -> n h w (g o)", (3, 3, 4, 32), (1, 9, 9, 32), 8, True),
        ("m (g c), c (g o) -> m (g o)", (5, 32), (4, 32), 8, True),
        (CONV, (1, 9, 9, 64), (3, 3, 16, 64), 4, False),  # groups of 16 fill vectors
        (CONV, (1, 9, 9, 24), (3, 3, 3, 24), 8, False),  # groups of 3 fill none together
        (CONV, (1, 9, 9, 96), (3, 3, 12, 32), 8, False),  # what a vector reads lies far apart
        (CONV, (1, 9, 9, 32), (5, 5, 8, 32), 4, False),  # many terms
        (CONV, (1, 9, 9, 4), (3, 3, 4, 4), 1, False),
        ("n h+r w+s (g c), (g o) c r s -> n h w (g o)", (1, 9, 9, 32), (32, 4, 3, 3), 8, False),  # weights lie across
        ("n (g c) h+r w+s, (g o) c r s -> n (g o) h w", (1, 32, 9, 9), (32, 4, 3, 3), 8, False),
        ("g m k, g k o -> m (g o)", (8, 5, 4), (8, 4, 4), 8, False),  # groups are matrices of their own
    ],
)
def test_narrow_groups(spec: str, lhs: tuple[int, ...], rhs: tuple[int, ...], groups: int, narrow: bool) -> None:
    parsed = parse_spec(spec)
    sizes = {"g": groups} if "(" in spec else {}
    extents = {name: int(extent) for name, extent in infer_extents(parsed, lhs, rhs, sizes).items()}
    assert narrow_groups(parsed, extents) == (("g", "o") if narrow else None)
    compute = compute_of(spec, lhs, rhs, **sizes)
    assert is_lanewise_product(compute) is narrow
    assert (compute.axes[-1].extent == extents["g"] * extents["o"]) is (narrow or extents["g"] == 1)


def test_outputs_of_all_groups_are_one_axis() -> None:
    compute = compute_of(CONV, (1, 9, 9, 32), (3, 3, 4, 32), g=8)
    outputs = compute.axes[-1].var
    places = {read.input: read.indices[-1] for read in compute.reads()}
    assert compute.store[-1] == outputs and places[1] == outputs
    assert "floor_div" in repr(places[0]) and all(isinstance(read, Read) for read in compute.reads())


def test_extents_of_the_index_space_are_those_of_the_result() -> None:
    compute = compute_of(CONV, (2, 6, 7, 12), (3, 3, 2, 24), g=6)
    assert tuple(axis.extent for axis in compute.axes) == compute.shape == (2, 4, 5, 24)
    assert np.prod([axis.extent for axis in compute.reduce_axes]) == 18
