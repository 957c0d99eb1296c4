"""Layouts as data, and how a reshape carries one over.

A layout is a permutation: stored dimension i is logical dimension ``layout[i]``.
"""

from __future__ import annotations

from dlc.ir.dims import Shape
from dlc.ir.graph import Value
from dlc.ir.shapes import reshape_blocks

Layout = tuple[int, ...]


def identity(value: Value) -> Layout:
    """Return the layout in logical order."""
    return tuple(range(value.type.rank))


def reshape_layouts(old: Shape, new: Shape, stored: Layout) -> tuple[Layout, Layout] | None:
    """Return layouts (operand, result) between which reshape only renames stored dimensions, or None.

    Runs of dimensions that the reshape joins or splits must be stored together and in order; the operand's layout
    is ``stored`` where that holds, else the nearest that does, with every run at the place of its last dimension.
    """
    old_kept = [d for d, extent in enumerate(old) if extent != 1]
    new_kept = [d for d, extent in enumerate(new) if extent != 1]
    blocks = reshape_blocks(tuple(old[d] for d in old_kept), tuple(new[d] for d in new_kept))
    if blocks is None:
        return None
    place = {d: position for position, d in enumerate(stored)}
    runs = [([old_kept[k] for k in a], [new_kept[k] for k in b]) for a, b in blocks]
    runs.sort(key=lambda run: max(place[d] for d in run[0]))
    wanted = [d for run, _ in runs for d in run]
    units = [d for d in range(len(old)) if old[d] == 1]
    fits = wanted == [d for d in stored if old[d] != 1]
    before = stored if fits else tuple(units + wanted)
    new_units = [d for d in range(len(new)) if new[d] == 1]
    after = tuple(new_units + [d for _, run in runs for d in run])
    in_order = [d for _, run in runs for d in run] == new_kept
    return before, tuple(range(len(new))) if in_order else after
