"""Fusion: groups primitives into ``fused`` nodes, each of which becomes one kernel or a few.

Decides by the kind of a node and by how it reads its operands, never by its name:
pointwise groups, row groups (reductions with what is computed along their rows),
contractions with their epilogues. Nodes that only say where to read are copied to
their readers. It must not know how groups are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlc.ir.graph import Graph, Node, Value, producers
from dlc.passes.fuse_build import build
from dlc.passes.fuse_groups import Group, GroupForest, GroupKind, ValueMap
from dlc.passes.fuse_kinds import NodeFacts, NodeKind, Place, facts_of, shape_size
from dlc.passes.regions import in_regions

OUTSIDE = -1


@dataclass(frozen=True)
class FuseOptions:
    """Limits of one group: nodes, work per element, nodes and foreign operands of an epilogue."""

    most_nodes: int = 64
    most_weight: int = 1200
    most_epilogue_nodes: int = 24
    most_epilogue_weight: int = 160
    most_sealed_weight: int = 64
    most_window_weight: int = 12
    most_rows_in_cache: int = 4096


def fuse(graph: Graph, options: FuseOptions | None = None) -> Graph:
    """Return ``graph`` with groups of primitives as ``fused`` nodes; shapes must be static.

    Input: primitives only (after ``expand`` and ``layout``). Regions of control flow are fused inside.
    """
    chosen = options or FuseOptions()
    graph = in_regions(graph, lambda region: fuse(region, chosen))
    grouping = Grouping(graph, chosen)
    grouping.run()
    return build(graph, grouping.facts, [g for g in grouping.forest.groups if g.nodes])


class Grouping:
    """Walks the graph once, in order, and puts every node into a group."""

    def __init__(self, graph: Graph, options: FuseOptions) -> None:
        self.graph = graph
        self.options = options
        self.forest = GroupForest()
        self.facts: dict[Node, NodeFacts] = {}
        cache: dict[tuple, NodeFacts] = {}
        for node in graph.nodes:
            key = (node.op, node.attributes, node.input_types, node.output_types) if not node.op.region else (node,)
            known = cache.get(key)
            if known is None:
                known = cache[key] = facts_of(node)
            self.facts[node] = known
        self.made_by = producers(graph)
        self.position = {node: k for k, node in enumerate(graph.nodes)}
        self.group_of: dict[Node, int] = {}
        self.uses: dict[Value, list[int]] = {}
        self.readers: dict[tuple, int] = {}
        self.planned: dict[Node, int] = {}
        """Pointwise nodes that are to be epilogues, and of which contraction."""
        self._count_uses()

    def _count_uses(self) -> None:
        """List the real readers of every value, through nodes that readers take a copy of."""
        for value in self.graph.outputs:
            self._use(value, OUTSIDE)
        for number, node in enumerate(self.graph.nodes):
            kind = self.facts[node].kind
            if kind is NodeKind.FREE:
                continue
            opaque = kind is NodeKind.OPAQUE or kind is NodeKind.CONTRACTION
            for value in dict.fromkeys(node.inputs):
                self._use(value, OUTSIDE if opaque else number)

    def _use(self, value: Value, reader: int) -> None:
        pending = [value]
        while pending:
            current = pending.pop()
            self.uses.setdefault(current, []).append(reader)
            node = self.made_by.get(current)
            if node is not None and self.facts[node].kind is NodeKind.FREE:
                pending += node.inputs

    # -- reading through free nodes -----------------------------------------------------------------

    def base(self, value: Value) -> tuple[Value, bool]:
        """Return the value that ``value`` is read from, and whether only aliases lie between."""
        alias = True
        while True:
            node = self.made_by.get(value)
            if node is None or self.facts[node].kind is not NodeKind.FREE or len(node.inputs) != 1:
                return value, alias
            alias = alias and self.facts[node].alias
            value = node.inputs[0]

    def is_identity(self, node: Node, operand: int) -> bool:
        """Tell whether ``node`` reads the operand's element of its own row-major position."""
        found = self.facts[node].maps[operand]
        return (
            found == tuple(range(node.outputs[0].type.rank))
            and node.inputs[operand].type.shape == node.outputs[0].type.shape
        )

    def lifted(self, value: Value, group: Group) -> ValueMap | None:
        """Return where the dimensions of ``value`` lie in the space of a ROWS group that it is read from.

        Dimensions that a broadcast adds are OTHER. None if ``value`` does not come from the group.
        """
        path: list[Node] = []
        while value not in group.maps:
            node = self.made_by.get(value)
            if node is None or self.facts[node].kind is not NodeKind.FREE or len(node.inputs) != 1:
                return None
            path.append(node)
            value = node.inputs[0]
        current = group.maps[value]
        for node in reversed(path):
            facts = self.facts[node]
            reads = facts.maps[0]
            result: list[int | Place] = [Place.OTHER] * facts.axes
            lost = reads is None
            for dimension, axis in zip(current, reads or (), strict=reads is not None):
                if isinstance(axis, int):
                    result[axis] = dimension
                elif isinstance(dimension, int):
                    lost = True
            if lost:
                return (Place.OTHER,) * facts.axes if not self._is_dependent(value, group) else None
            shape = node.outputs[0].type.shape
            current = tuple(Place.UNIT if d == 1 else p for p, d in zip(result, shape, strict=True))
        return current

    @staticmethod
    def _is_dependent(value: Value, group: Group) -> bool:
        return value in group.dependent

    # -- the walk ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Group every node."""
        for position, node in enumerate(self.graph.nodes):
            facts = self.facts[node]
            match facts.kind:
                case NodeKind.FREE:
                    continue
                case NodeKind.OPAQUE:
                    self._alone(node, position, GroupKind.OPAQUE)
                case NodeKind.CONTRACTION:
                    self._alone(node, position, GroupKind.CONTRACTION)
                case NodeKind.POINTWISE:
                    if not (self._as_epilogue(node, position) or self._in_rows(node, position)):
                        self._pointwise(node, position)
                case NodeKind.REDUCTION:
                    self._reduction(node, position)

    def sources(self, node: Node) -> dict[int, int]:
        """Return the groups that ``node`` reads from, as group number -> an operand that comes from it."""
        found: dict[int, int] = {}
        for operand, value in enumerate(node.inputs):
            for maker in self.makers(value):
                found.setdefault(maker, operand)
        return found

    def makers(self, value: Value) -> list[int]:
        """Return the groups that make ``value``, through free nodes."""
        pending, found = [value], []
        while pending:
            node = self.made_by.get(pending.pop())
            if node is None:
                continue
            if self.facts[node].kind is NodeKind.FREE:
                pending += node.inputs
            else:
                found.append(self.forest.find(self.group_of[node]))
        return found

    def _shape(self, node: Node) -> tuple[int, ...]:
        return tuple(int(d) for d in node.outputs[0].type.shape)  # type: ignore[call-overload]

    def _alone(self, node: Node, position: int, kind: GroupKind) -> int:
        shape = self._shape(node) if len(node.outputs) == 1 and node.outputs[0].type.is_static else ()
        group = Group(kind, [node], position, position, shape, weight=self.facts[node].weight)
        group.crosses = self.facts[node].crosses
        group.inputs = set(self.sources(node))
        number = self.forest.add(group)
        self.group_of[node] = number
        return number

    def _join(self, node: Node, position: int, groups: Sequence[int]) -> int:
        """Put ``node`` into the union of ``groups``; the first says what kind it is."""
        number = self.forest.find(groups[0])
        for other in groups[1:]:
            number = self.forest.merge(number, other)
        group = self.forest.group(number)
        group.nodes.append(node)
        group.last = max(group.last, position)
        group.weight += self.facts[node].weight
        group.crosses = group.crosses or self.facts[node].crosses
        group.inputs |= set(self.sources(node))
        group.inputs = {i for i in map(self.forest.find, group.inputs) if i != number}
        self.group_of[node] = number
        return number

    def _fits(self, groups: Iterable[int], node: Node) -> bool:
        found = [self.forest.group(g) for g in groups]
        nodes = sum(len(g.nodes) for g in found) + 1
        weight = sum(g.weight for g in found) + self.facts[node].weight
        return nodes <= self.options.most_nodes and weight <= self.options.most_weight

    def _acyclic(self, groups: Sequence[int], node: Node) -> bool:
        """Tell whether ``groups`` and ``node`` can be one group: no path leaves it and comes back."""
        chosen = {self.forest.find(g) for g in groups}
        starts = set(self.sources(node)) - chosen
        if len(chosen) > 1:
            for number in chosen:
                starts |= {self.forest.find(i) for i in self.forest.group(number).inputs}
        return not self.forest.reaches(chosen, starts - chosen)

    def _used_inside(self, values: Iterable[Value], groups: Iterable[int], node: Node) -> bool:
        """Tell whether ``values`` are read only by ``node`` and by members of ``groups``."""
        chosen = {self.forest.find(g) for g in groups}
        here = self.position[node]
        for value in values:
            for reader in self.uses.get(value, ()):
                if reader == here:
                    continue
                if reader == OUTSIDE:
                    return False
                number = self.group_of.get(self.graph.nodes[reader])
                if number is None or self.forest.find(number) not in chosen:
                    return False
        return True

    def _internal(self, number: int, node: Node) -> bool:
        """Tell whether everything that group ``number`` makes is read by itself and ``node`` only."""
        members = self.forest.group(number).nodes
        return self._used_inside((v for n in members for v in n.outputs), (number,), node)

    # -- epilogues -----------------------------------------------------------------------------------------

    def _as_epilogue(self, node: Node, position: int) -> bool:
        """Add a pointwise node to the contraction whose result it reads, where nobody else will miss that."""
        size = shape_size(self._shape(node))
        best: int | None = None
        if node in self.planned:
            best = self.forest.find(self.planned[node])
        for number in self.sources(node) if best is None else ():
            group = self.forest.group(number)
            if group.kind is not GroupKind.CONTRACTION or not self._continues(node, number, size):
                continue
            if len(group.nodes) > self.options.most_epilogue_nodes or group.weight > self.options.most_epilogue_weight:
                continue
            if not self._internal(number, node) and not self._plan(number, node):
                continue
            if best is None or group.last > self.forest.group(best).last:
                best = number
        if best is None or not self._acyclic([best], node):
            return False
        groups = [best]
        for number in self.sources(node):
            group = self.forest.group(number)
            light = group.weight <= self.options.most_sealed_weight and len(group.nodes) <= 8
            if number == best or group.kind is not GroupKind.POINTWISE or not light or group.crosses:
                continue
            if shape_size(group.shape) == size and self._reads_in_order(node, number) and self._internal(number, node):
                if self._acyclic([*groups, number], node):
                    groups.append(number)
        self._join(node, position, groups)
        return True

    def _continues(self, node: Node, number: int, size: int) -> bool:
        """Tell whether ``node`` computes, per element of a contraction's result, one element in the same order."""
        return shape_size(self.forest.group(number).shape) == size and self._reads_in_order(node, number)

    def _plan(self, number: int, node: Node) -> bool:
        """Look ahead where a result has several readers: pointwise nodes that meet again can all be epilogue."""
        start = self.forest.group(number).nodes[-1].outputs[0]
        size = shape_size(self.forest.group(number).shape)
        inside: list[int] = []
        values = {start}
        waiting = list(self.uses.get(start, ()))
        for _ in range(self.options.most_epilogue_nodes):
            if not waiting or min(waiting) == OUTSIDE:
                return False
            position = min(waiting)
            waiting = [w for w in waiting if w != position]
            reader = self.graph.nodes[position]
            if self.facts[reader].kind is not NodeKind.POINTWISE or shape_size(self._shape(reader)) != size:
                return False
            for operand, value in enumerate(reader.inputs):
                base, alias = self.base(value)
                if base in values and not (alias and self.is_identity(reader, operand)):
                    return False
            inside.append(position)
            values.add(reader.outputs[0])
            waiting += [u for u in self.uses.get(reader.outputs[0], ()) if u not in inside]
            known = set(inside)
            open_values = [v for v in values if any(u not in known for u in self.uses.get(v, (OUTSIDE,)))]
            if open_values == [reader.outputs[0]]:
                if any(self.graph.nodes[p] in self.group_of for p in inside):
                    return False
                self.planned.update((self.graph.nodes[p], number) for p in inside)
                return node in self.planned
        return False

    # -- rows ----------------------------------------------------------------------------------------------

    def _role(self, node: Node, group: Group) -> ValueMap | None:
        """Return where the result of a pointwise node lies in a ROWS group's space, None if it does not fit."""
        shape = self._shape(node)
        axes: list[int | Place] = [Place.OTHER] * len(shape)
        dependent = False
        for operand, value in enumerate(node.inputs):
            base, _ = self.base(value)
            if base not in group.maps:
                continue
            needs = base in group.dependent
            lifted, reads = self.lifted(value, group), self.facts[node].maps[operand]
            if lifted is None or reads is None:
                if needs:
                    return None
                continue
            for dimension, axis in zip(lifted, reads, strict=True):
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
            if dependent and not self._rows_stay_in_cache(group):
                return None
            return tuple(range(len(shape)))
        placed = tuple(p for p, d in zip(axes, shape, strict=True) if d != 1)
        return (
            tuple(Place.UNIT if d == 1 else p for p, d in zip(axes, shape, strict=True))
            if placed == group.kept
            else None
        )

    def _rows_stay_in_cache(self, group: Group) -> bool:
        """Tell whether results of a row are best used while the row is at hand."""
        row = shape_size(tuple(group.shape[d] for d in group.reduced))
        rows = shape_size(group.shape) // max(row, 1)
        last = max((k for k, d in enumerate(group.shape) if d != 1), default=0)
        if row * rows <= 1 << 14:
            return True
        if last in group.reduced:
            return rows >= 4 or row <= 1 << 16
        return row <= self.options.most_rows_in_cache and rows >= 64

    def _in_rows(self, node: Node, position: int) -> bool:
        """Add a pointwise node to the row group that it reads from."""
        sources = self.sources(node)
        rows = [g for g in sources if self.forest.group(g).kind is GroupKind.ROWS]
        chosen: list[int] = []
        role: ValueMap | None = None
        for number in sorted(rows, key=lambda g: -self.forest.group(g).last):
            group = self.forest.group(number)
            mine = self._role(node, group)
            if mine is None or (chosen and (mine != role or not self._same_rows(chosen[0], number))):
                continue
            if self._fits([*chosen, number], node) and self._acyclic([*chosen, number], node):
                chosen.append(number)
                role = mine
        if not chosen or role is None:
            return False
        shape = self._shape(node)
        for number, operand in sources.items():
            group = self.forest.group(number)
            if group.kind is not GroupKind.POINTWISE or group.crosses or group.shape != shape:
                continue
            if not self.is_identity(node, operand):
                continue
            if self.base(node.inputs[operand])[0] is not node.inputs[operand]:
                continue
            if self._fits([*chosen, number], node) and self._acyclic([*chosen, number], node):
                for member in group.nodes:
                    value = member.outputs[0]
                    group.maps[value] = role if value not in group.sealed else (Place.OTHER,) * value.type.rank
                chosen.append(number)
        target = self.forest.group(chosen[0])
        dependent = any(self.base(v)[0] in self.forest.group(g).dependent for v in node.inputs for g in chosen)
        number = self._join(node, position, chosen)
        target = self.forest.group(number)
        target.maps[node.outputs[0]] = role
        if dependent:
            target.dependent.add(node.outputs[0])
        return True

    def _same_rows(self, one: int, other: int) -> bool:
        a, b = self.forest.group(one), self.forest.group(other)
        return not a.window and not b.window and a.shape == b.shape and a.reduced == b.reduced

    # -- pointwise ------------------------------------------------------------------------------------------

    def _pointwise(self, node: Node, position: int) -> None:
        """Add a pointwise node to the pointwise groups that it reads from, or begin one."""
        shape = self._shape(node)
        size = shape_size(shape)
        chosen: list[int] = []
        sealed: list[int] = []
        sources = self.sources(node)
        for number in sorted(sources, key=lambda g: -self.forest.group(g).last):
            group = self.forest.group(number)
            if group.kind is not GroupKind.POINTWISE or not self._fits([*chosen, *sealed, number], node):
                continue
            if group.crosses and not self._reads_only(node, number):
                continue
            same = shape_size(group.shape) == size and self._reads_in_order(node, number)
            if not same and not self._can_seal(number, node, size):
                continue
            if self._acyclic([*chosen, *sealed, number], node):
                (chosen if same else sealed).append(number)
        if chosen and sealed and any(self.forest.group(g).shape != shape for g in chosen):
            sealed = []
        for number in sealed:
            group = self.forest.group(number)
            group.sealed.update(v for n in group.nodes for v in n.outputs)
        if not chosen and not sealed:
            self._alone(node, position, GroupKind.POINTWISE)
            return
        joined = self.forest.group(self._join(node, position, [*chosen, *sealed]))
        if not chosen:
            joined.shape = shape

    def _reads_only(self, node: Node, number: int) -> bool:
        """Tell whether ``node`` reads nothing large but what group ``number`` makes."""
        size = shape_size(self._shape(node))
        for value in node.inputs:
            base, _ = self.base(value)
            if number not in self.makers(value) and int(base.type.size) * 8 > size:  # type: ignore[call-overload]
                return False
        return True

    def _reads_in_order(self, node: Node, number: int) -> bool:
        """Tell whether all that ``node`` reads from a group it reads at its own position."""
        for operand, value in enumerate(node.inputs):
            if number in self.makers(value):
                base, alias = self.base(value)
                if not alias or not self.is_identity(node, operand) or base in self.forest.group(number).sealed:
                    return False
        return True

    def _can_seal(self, number: int, node: Node, size: int) -> bool:
        """Tell whether a group may be computed at the indices that ``node`` reads: nobody else wants it."""
        group = self.forest.group(number)
        light = group.weight <= self.options.most_sealed_weight
        repeats = size > 2 * shape_size(group.shape)
        if repeats and group.weight > 4:
            return False
        return light and self._internal(number, node)

    # -- reductions --------------------------------------------------------------------------------------------

    def _reduction(self, node: Node, position: int) -> None:
        """Begin a row group, with what is computed along the same rows, or join one."""
        facts = self.facts[node]
        value = node.inputs[0]
        shape = tuple(int(d) for d in value.type.shape)  # type: ignore[call-overload]
        reads = facts.maps[0] if len(node.inputs) == 1 else None
        plain = reads is not None and all(isinstance(p, int) or d == 1 for p, d in zip(reads, shape, strict=True))
        if not plain or reads is None:
            self._window(node, position)
            return
        reduced = frozenset(k for k, p in enumerate(reads) if isinstance(p, int) and p >= facts.axes and shape[k] != 1)
        kept = tuple(k for k, d in enumerate(shape) if d != 1 and k not in reduced)
        place = {p: k for k, p in enumerate(reads) if isinstance(p, int) and p < facts.axes}
        result = tuple(
            place.get(axis, Place.UNIT) if d != 1 else Place.UNIT for axis, d in enumerate(node.outputs[0].type.shape)
        )
        in_order = [p for p in result if isinstance(p, int)] == list(kept)
        base, alias = self.base(value)
        groups = self._row_partners(node, value, base, alias, shape, reduced) if in_order else []
        if groups:
            number = self._join(node, position, groups)
        else:
            number = self._alone(node, position, GroupKind.ROWS)
        group = self.forest.group(number)
        if group.kind is GroupKind.POINTWISE:
            for member in group.nodes[:-1]:
                inside = group.shape == shape and member.outputs[0] not in group.sealed
                group.maps[member.outputs[0]] = (
                    tuple(range(len(shape))) if inside else (Place.OTHER,) * member.outputs[0].type.rank
                )
        group.kind, group.shape, group.reduced, group.kept = GroupKind.ROWS, shape, reduced, kept
        group.maps[node.outputs[0]] = result
        group.dependent.add(node.outputs[0])
        self._note_readers(number, shape, reduced, base)

    def _row_partners(
        self, node: Node, value: Value, base: Value, alias: bool, shape: tuple[int, ...], reduced: frozenset[int]
    ) -> list[int]:
        """Return the groups to join: rows of the same kind, or the pointwise producer."""
        maker = self.made_by.get(base)
        found: list[int] = []
        if maker is not None and self.facts[maker].kind not in (NodeKind.FREE, NodeKind.OPAQUE):
            number = self.forest.find(self.group_of[maker])
            group = self.forest.group(number)
            if group.kind is GroupKind.ROWS and not group.window and (group.shape, group.reduced) == (shape, reduced):
                lifted = self.lifted(value, group)
                fits = lifted is not None and all(not isinstance(p, int) or p == k for k, p in enumerate(lifted))
                dependent = base in group.dependent
                if fits and (not dependent or self._rows_stay_in_cache(group)):
                    found.append(number)
            elif group.kind is GroupKind.POINTWISE and not group.crosses:
                same = alias and shape_size(group.shape) == shape_size(shape) and base not in group.sealed
                if same or self._can_seal(number, node, shape_size(shape)):
                    if not same:
                        group.sealed.update(v for n in group.nodes for v in n.outputs)
                    found.append(number)
            if found and not (self._fits(found, node) and self._acyclic(found, node)):
                found = []
        for read in self._whole_reads(base, found, shape):
            sibling = self.readers.get((read, shape, reduced))
            if sibling is None or self.forest.find(sibling) in map(self.forest.find, found):
                continue
            number = self.forest.find(sibling)
            group = self.forest.group(number)
            current = (group.kind, group.shape, group.reduced) == (GroupKind.ROWS, shape, reduced)
            if current and self._mergeable(found, shape) and self._fits([number, *found], node):
                if self._acyclic([number, *found], node):
                    self._place_pointwise(found, shape)
                    return [number, *found]
        return found

    def _whole_reads(self, base: Value, groups: Sequence[int], shape: tuple[int, ...]) -> list[Value]:
        """Return the tensors of ``shape`` that a reduction and the groups that it joins read."""
        values = [base]
        for number in groups:
            values += [v for n in self.forest.group(number).nodes[-8:] for v in n.inputs if v.type.shape == shape]
        return list(dict.fromkeys(values))

    def _mergeable(self, groups: Sequence[int], shape: tuple[int, ...]) -> bool:
        return all(self.forest.group(g).shape == shape for g in groups)

    def _place_pointwise(self, groups: Sequence[int], shape: tuple[int, ...]) -> None:
        for number in groups:
            group = self.forest.group(number)
            if group.kind is GroupKind.POINTWISE:
                for member in group.nodes:
                    value = member.outputs[0]
                    sealed = value in group.sealed
                    group.maps[value] = (Place.OTHER,) * value.type.rank if sealed else tuple(range(len(shape)))

    def _note_readers(self, number: int, shape: tuple[int, ...], reduced: frozenset[int], base: Value) -> None:
        """Remember which row group reads a value, so that later reductions of it can join."""
        self.readers[base, shape, reduced] = number
        for member in self.forest.group(number).nodes[-8:]:
            for value in member.inputs:
                if value.type.shape == shape:
                    self.readers.setdefault((value, shape, reduced), number)

    def _window(self, node: Node, position: int) -> None:
        """A reduction that reads neighbours: producers join only if computing them again is cheap."""
        groups: list[int] = []
        for number in self.sources(node):
            group = self.forest.group(number)
            if (
                group.kind is GroupKind.POINTWISE
                and group.weight <= self.options.most_window_weight
                and self._internal(number, node)
            ):
                if self._fits([*groups, number], node) and self._acyclic([*groups, number], node):
                    groups.append(number)
        for number in groups:
            group = self.forest.group(number)
            group.sealed.update(v for n in group.nodes for v in n.outputs)
        number = self._join(node, position, groups) if groups else self._alone(node, position, GroupKind.ROWS)
        group = self.forest.group(number)
        shape = self._shape(node)
        group.kind, group.shape, group.window = GroupKind.ROWS, shape, True
        group.kept = tuple(k for k, d in enumerate(shape) if d != 1)
        group.maps = {v: (Place.OTHER,) * v.type.rank for v in group.sealed}
        group.maps[node.outputs[0]] = tuple(k if d != 1 else Place.UNIT for k, d in enumerate(shape))
        group.dependent.add(node.outputs[0])
