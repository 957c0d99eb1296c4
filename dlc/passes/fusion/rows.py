"""Fusion rules of rows: reductions with what is computed along the same rows, and sums that share a pass."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.ir.graph import Node, Value
from dlc.passes.fusion.groups import Group, GroupKind, ValueMap
from dlc.passes.fusion.state import Grouping
from dlc.passes.node_facts import NodeKind, Place, shape_size


def lifted(state: Grouping, value: Value, group: Group) -> ValueMap | None:
    """Return where the dimensions of ``value`` lie in the space of a ROWS group that it is read from.

    Dimensions that a broadcast adds are OTHER. None if ``value`` does not come from the group.
    """
    path: list[Node] = []
    rank = value.type.rank
    while value not in group.maps:
        node = state.made_by.get(value)
        if node is None or state.facts[node].kind is not NodeKind.FREE or len(node.inputs) != 1:
            return None
        path.append(node)
        value = node.inputs[0]
    current = group.maps[value]
    for node in reversed(path):
        facts = state.facts[node]
        reads = facts.maps[0]
        result: list[int | Place] = [Place.OTHER] * facts.axes
        extents = node.inputs[0].type.shape
        lost = reads is None
        for dimension, axis, extent in zip(current, reads, extents, strict=True) if reads is not None else ():
            if isinstance(axis, int):
                result[axis] = dimension
            elif isinstance(dimension, int) and extent != 1:
                lost = True
        if lost:
            return (Place.OTHER,) * rank if not _is_dependent(value, group) else None
        shape = node.outputs[0].type.shape
        current = tuple(Place.UNIT if d == 1 else p for p, d in zip(result, shape, strict=True))
    return current


def _is_dependent(value: Value, group: Group) -> bool:
    return value in group.dependent


def _role(state: Grouping, node: Node, group: Group) -> ValueMap | None:
    """Return where the result of a pointwise node lies in a ROWS group's space, None if it does not fit."""
    shape = state.shape(node)
    axes: list[int | Place] = [Place.OTHER] * len(shape)
    dependent = False
    for operand, value in enumerate(node.inputs):
        base, _ = state.base(value)
        if base not in group.maps:
            continue
        needs = base in group.dependent
        place, reads = lifted(state, value, group), state.facts[node].maps[operand]
        if place is None or reads is None:
            if needs:
                return None
            continue
        for dimension, axis in zip(place, reads, strict=True):
            if not isinstance(dimension, int):
                continue
            if isinstance(axis, int):
                if axes[axis] not in (Place.OTHER, dimension):
                    return None
                axes[axis] = dimension
            elif needs and dimension in group.kept:
                return None
        dependent = dependent or needs
    if not group.window and shape == group.shape:
        if any(isinstance(p, int) and p != k for k, p in enumerate(axes)):
            return None
        if dependent and not _rows_stay_in_cache(state, group):
            return None
        return tuple(range(len(shape)))
    placed = tuple(p for p, d in zip(axes, shape, strict=True) if d != 1)
    return (
        tuple(Place.UNIT if d == 1 else p for p, d in zip(axes, shape, strict=True)) if placed == group.kept else None
    )


def _rows_stay_in_cache(state: Grouping, group: Group) -> bool:
    """Tell whether results of a row are best used while the row is at hand."""
    row = shape_size(tuple(group.shape[d] for d in group.reduced))
    rows = shape_size(group.shape) // max(row, 1)
    last = max((k for k, d in enumerate(group.shape) if d != 1), default=0)
    if row * rows <= 1 << 14:
        return True
    if last in group.reduced:
        return rows >= 4 or row <= 1 << 16
    return row <= state.options.most_rows_in_cache and rows >= 64


def in_rows(state: Grouping, node: Node, position: int) -> bool:
    """Add a pointwise node to the row group that it reads from, with what else is computed along its rows."""
    sources = state.sources(node)
    rows = [g for g in sources if state.forest.group(g).kind is GroupKind.ROWS]
    beside = [g for g, operand in sources.items() if _joins_rows(state, node, g, operand)] if rows else []
    chosen: list[int] = []
    role: ValueMap | None = None
    for number in sorted(rows, key=lambda g: -state.forest.group(g).last):
        group = state.forest.group(number)
        mine = _role(state, node, group)
        if mine is None or (chosen and (mine != role or not _same_rows(state, chosen[0], number))):
            continue
        between = [g for g in beside if g not in chosen and _needs_rows(state, state.forest.group(g), [number])]
        if between and not _rows_stay_in_cache(state, group):
            between = []
        if state.fits([*chosen, number, *between], node) and state.acyclic([*chosen, number, *between], node):
            chosen += [number, *between]
            role = mine
            for other in between:
                _place_along(state, other, mine, needs=True)
    if not chosen or role is None:
        return False
    for number in beside:
        if number in chosen or _needs_rows(state, state.forest.group(number), chosen):
            continue
        if state.fits([*chosen, number], node) and state.acyclic([*chosen, number], node):
            _place_along(state, number, role, needs=False)
            chosen.append(number)
    dependent = any(state.base(v)[0] in state.forest.group(g).dependent for v in node.inputs for g in chosen)
    group = state.forest.group(state.join(node, position, chosen))
    group.maps[node.outputs[0]] = role
    if dependent:
        group.dependent.add(node.outputs[0])
    return True


def _joins_rows(state: Grouping, node: Node, number: int, operand: int) -> bool:
    """Tell whether what a pointwise group computes for ``node`` can be computed along the rows with it."""
    group = state.forest.group(number)
    if group.kind is not GroupKind.POINTWISE or group.crosses or group.shape != state.shape(node):
        return False
    value = node.inputs[operand]
    wide = [d for d in group.shape if d != 1]
    alike = all([d for d in member.outputs[0].type.shape if d != 1] == wide for member in group.nodes)
    return alike and state.is_identity(node, operand) and state.base(value)[0] is value


def _carried(value: Value, group: Group, shape: tuple[int, ...], role: ValueMap) -> ValueMap:
    """Return the place of a value of a pointwise group of ``shape``, whose results are placed as ``role`` says.

    Members may differ from the group's shape by reshapes on the way: by dimensions of extent 1 here, else OTHER.
    """
    found = value.type.shape
    wide = [p for p, d in zip(role, shape, strict=True) if d != 1]
    if value in group.sealed or group.shape != shape or [d for d in found if d != 1] != [d for d in shape if d != 1]:
        return (Place.OTHER,) * value.type.rank
    places = iter(wide)
    return role if found == shape else tuple(next(places) if d != 1 else Place.UNIT for d in found)


def _place_along(state: Grouping, number: int, role: ValueMap, needs: bool) -> None:
    """Give the values of a pointwise group their place among rows; ``needs`` says that they read row results."""
    group = state.forest.group(number)
    for member in group.nodes:
        value = member.outputs[0]
        group.maps[value] = _carried(value, group, group.shape, role)
        if needs:
            group.dependent.add(value)


def _needs_rows(state: Grouping, group: Group, rows: Sequence[int]) -> bool:
    """Tell whether ``group`` reads results of the row groups ``rows``."""
    return not {state.forest.find(i) for i in group.inputs}.isdisjoint(map(state.forest.find, rows))


def _same_rows(state: Grouping, one: int, other: int) -> bool:
    a, b = state.forest.group(one), state.forest.group(other)
    return not a.window and not b.window and a.shape == b.shape and a.reduced == b.reduced


def reduction(state: Grouping, node: Node, position: int) -> None:
    """Begin a row group, with what is computed along the same rows, or join one."""
    facts = state.facts[node]
    value = node.inputs[0]
    shape = tuple(int(d) for d in value.type.shape)  # type: ignore[call-overload]
    reads = facts.maps[0] if len(node.inputs) == 1 else None
    plain = reads is not None and all(isinstance(p, int) or d == 1 for p, d in zip(reads, shape, strict=True))
    if not plain or reads is None:
        _window(state, node, position)
        return
    reduced = frozenset(k for k, p in enumerate(reads) if isinstance(p, int) and p >= facts.axes and shape[k] != 1)
    kept = tuple(k for k, d in enumerate(shape) if d != 1 and k not in reduced)
    place = {p: k for k, p in enumerate(reads) if isinstance(p, int) and p < facts.axes}
    result = tuple(
        place.get(axis, Place.UNIT) if d != 1 else Place.UNIT for axis, d in enumerate(node.outputs[0].type.shape)
    )
    in_order = [p for p in result if isinstance(p, int)] == list(kept)
    base, alias = state.base(value)
    groups = _row_partners(state, node, value, base, alias, shape, reduced) if in_order else []
    if groups:
        number = state.join(node, position, groups)
    else:
        number = state.alone(node, position, GroupKind.ROWS)
    group = state.forest.group(number)
    if group.kind is GroupKind.POINTWISE:
        for member in group.nodes[:-1]:
            group.maps[member.outputs[0]] = _carried(member.outputs[0], group, shape, tuple(range(len(shape))))
    group.kind, group.shape, group.reduced, group.kept = GroupKind.ROWS, shape, reduced, kept
    group.maps[node.outputs[0]] = result
    group.dependent.add(node.outputs[0])
    _note_readers(state, number, shape, reduced, base)


def _row_partners(
    state: Grouping, node: Node, value: Value, base: Value, alias: bool, shape: tuple[int, ...], reduced: frozenset[int]
) -> list[int]:
    """Return the groups to join: rows of the same kind, or the pointwise producer."""
    maker = state.made_by.get(base)
    found: list[int] = []
    if maker is not None and state.facts[maker].kind not in (NodeKind.FREE, NodeKind.OPAQUE):
        number = state.forest.find(state.group_of[maker])
        group = state.forest.group(number)
        if group.kind is GroupKind.ROWS and not group.window and (group.shape, group.reduced) == (shape, reduced):
            place = lifted(state, value, group)
            fits = place is not None and all(not isinstance(p, int) or p == k for k, p in enumerate(place))
            dependent = base in group.dependent
            if fits and (not dependent or _rows_stay_in_cache(state, group)):
                found.append(number)
        elif group.kind is GroupKind.POINTWISE and not group.crosses:
            same = alias and shape_size(group.shape) == shape_size(shape) and base not in group.sealed
            if same or state.can_seal(number, node, shape_size(shape)):
                if not same:
                    group.sealed.update(v for n in group.nodes for v in n.outputs)
                found.append(number)
        if found and not (state.fits(found, node) and state.acyclic(found, node)):
            found = []
    for read in _whole_reads(state, base, found, shape):
        sibling = state.readers.get((read, shape, reduced))
        if sibling is None or state.forest.find(sibling) in map(state.forest.find, found):
            continue
        number = state.forest.find(sibling)
        group = state.forest.group(number)
        current = (group.kind, group.shape, group.reduced) == (GroupKind.ROWS, shape, reduced)
        if current and _mergeable(state, found, shape) and state.fits([number, *found], node):
            if state.acyclic([number, *found], node):
                _place_pointwise(state, found, shape)
                return [number, *found]
    return found


def _whole_reads(state: Grouping, base: Value, groups: Sequence[int], shape: tuple[int, ...]) -> list[Value]:
    """Return the tensors of ``shape`` that a reduction and the groups that it joins read."""
    values = [base]
    for number in groups:
        values += [v for n in state.forest.group(number).nodes[-8:] for v in n.inputs if v.type.shape == shape]
    return list(dict.fromkeys(values))


def _mergeable(state: Grouping, groups: Sequence[int], shape: tuple[int, ...]) -> bool:
    return all(state.forest.group(g).shape == shape for g in groups)


def _place_pointwise(state: Grouping, groups: Sequence[int], shape: tuple[int, ...]) -> None:
    for number in groups:
        group = state.forest.group(number)
        if group.kind is GroupKind.POINTWISE:
            for member in group.nodes:
                value = member.outputs[0]
                group.maps[value] = _carried(value, group, shape, tuple(range(len(shape))))


def _note_readers(state: Grouping, number: int, shape: tuple[int, ...], reduced: frozenset[int], base: Value) -> None:
    """Remember which row group reads a value, so that later reductions of it can join."""
    state.readers[base, shape, reduced] = number
    for member in state.forest.group(number).nodes[-8:]:
        for value in member.inputs:
            if value.type.shape == shape:
                state.readers.setdefault((value, shape, reduced), number)


def _window(state: Grouping, node: Node, position: int) -> None:
    """A reduction that reads neighbours: producers join only if computing them again is cheap.

    Reading along another dimension than its lanes run is not, once per window: what ``crosses`` stays apart.
    """
    groups: list[int] = []
    for number in state.sources(node):
        group = state.forest.group(number)
        if (
            group.kind is GroupKind.POINTWISE
            and group.weight <= state.options.most_window_weight
            and not group.crosses
            and state.internal(number, node)
        ):
            if state.fits([*groups, number], node) and state.acyclic([*groups, number], node):
                groups.append(number)
    for number in groups:
        group = state.forest.group(number)
        group.sealed.update(v for n in group.nodes for v in n.outputs)
    number = state.join(node, position, groups) if groups else state.alone(node, position, GroupKind.ROWS)
    group = state.forest.group(number)
    shape = state.shape(node)
    group.kind, group.shape, group.window = GroupKind.ROWS, shape, True
    group.kept = tuple(k for k, d in enumerate(shape) if d != 1)
    group.maps = {v: (Place.OTHER,) * v.type.rank for v in group.sealed}
    group.maps[node.outputs[0]] = tuple(k if d != 1 else Place.UNIT for k, d in enumerate(shape))
    group.dependent.add(node.outputs[0])
