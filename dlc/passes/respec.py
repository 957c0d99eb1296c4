"""Changing the specification of a contraction to read or write other shapes of the same elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlc.ir.contraction import ContractSpec, DimIndex, Group, WindowTerm
from dlc.ir.dims import Dim, Shape
from dlc.ir.shapes import reshape_blocks

SIDES = ("lhs", "rhs", "output")


def sides(spec: ContractSpec) -> dict[str, tuple[DimIndex, ...]]:
    """Return the dimension indices by the name of the side."""
    return {name: getattr(spec, name) for name in SIDES}


def with_side(spec: ContractSpec, name: str, side: Sequence[DimIndex]) -> ContractSpec:
    """Return ``spec`` with one side exchanged."""
    return ContractSpec(**{**sides(spec), name: tuple(side)})


def has_windows(spec: ContractSpec) -> bool:
    """Tell whether an operand is read through windows."""
    return any(isinstance(d, WindowTerm) for d in (*spec.lhs, *spec.rhs))


def reshape_side(
    spec: ContractSpec, extents: Mapping[str, Dim], name: str, old: Shape, new: Shape
) -> tuple[ContractSpec, dict[str, Dim]] | None:
    """Return the specification whose side ``name`` has the shape ``new`` instead of ``old``, and its extents.

    Axes are split where a dimension is. None where that cannot be written (a split window, a dimension without axis).
    """
    blocks = reshape_blocks(old, new)
    if blocks is None or not all(isinstance(extents[a], int) for a in spec.axes):
        return None
    known: dict[str, Dim] = dict(extents)
    splits: dict[str, tuple[str, str]] = {}
    windowed = {a for d in (*spec.lhs, *spec.rhs) if isinstance(d, WindowTerm) for a in d.axes}
    result: list[DimIndex] = []
    for old_dims, new_dims in blocks:
        indices = [sides(spec)[name][k] for k in old_dims]
        if len(old_dims) == 1 == len(new_dims):
            result.append(indices[0])
            continue
        if any(isinstance(d, WindowTerm) for d in indices):
            return None
        axes = [a for d in indices for a in d.axes]
        groups = _distribute(axes, [int(new[k]) for k in new_dims], known, splits, windowed)
        if groups is None:
            return None
        result += groups
    changed = with_side(spec, name, result)
    for axis, parts in splits.items():
        changed = _split_axis(changed, axis, parts)
    return changed, {a: known[a] for a in changed.axes}


def _distribute(
    axes: list[str],
    dims: Sequence[int],
    extents: dict[str, Dim],
    splits: dict[str, tuple[str, str]],
    windowed: set[str],
) -> list[DimIndex] | None:
    """Deal ``axes``, outermost first, out to dimensions of extents ``dims``; split axes where needed."""
    waiting = list(axes)
    groups: list[list[str]] = []
    for dim in dims:
        group: list[str] = []
        product = 1
        while waiting and (product < dim or (extents[waiting[0]] == 1 and not group)):
            if dim % product:  # the dimension would end within an axis that it begins
                return None
            axis = waiting.pop(0)
            extent, room = int(extents[axis]), dim // product  # type: ignore[call-overload]
            if extent > room:
                if extent % room or axis in windowed or axis in splits:
                    return None
                parts = (_fresh(f"{axis}0", extents), _fresh(f"{axis}1", extents))
                extents[parts[0]], extents[parts[1]] = room, extent // room
                splits[axis] = parts
                waiting.insert(0, parts[1])
                axis, extent = parts[0], room
            group.append(axis)
            product *= extent
        if product != dim or not group:
            return None
        groups.append(group)
    if any(extents[a] != 1 for a in waiting) or not groups:
        return None
    groups[-1] += waiting
    return [Group(tuple(g)) for g in groups]


def _fresh(name: str, taken: Mapping[str, Dim]) -> str:
    while name in taken:
        name += "_"
    return name


def _split_axis(spec: ContractSpec, axis: str, parts: tuple[str, str]) -> ContractSpec:
    """Replace ``axis`` by its two parts in every group."""

    def split(index: DimIndex) -> DimIndex:
        if isinstance(index, WindowTerm) or axis not in index.axes:
            return index
        return Group(tuple(p for a in index.axes for p in (parts if a == axis else (a,))))

    return ContractSpec(*(tuple(split(d) for d in side) for side in sides(spec).values()))
