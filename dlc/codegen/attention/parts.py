"""Takes a body of two contractions apart: what moves operands, what lies between the contractions, what follows.

It must not know what the parts compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlc.ir.compute import is_lanewise_product
from dlc.ir.graph import Node, Value
from dlc.ir.opdef import Trait


@dataclass(frozen=True)
class Parts:
    """The nodes of a body: what moves operands, two contractions, what lies between them and what follows."""

    before: tuple[Node, ...]
    first: Node
    between: tuple[Node, ...]
    second: Node
    after: tuple[Node, ...]
    weights: Value
    row_values: tuple[Value, ...]
    """What ``after`` reads of ``between``."""


def parts_of(nodes: Sequence[Node]) -> Parts | None:
    """Return a body's parts; None unless it has two contractions, of which the second reads what the first makes."""
    contractions = [n for n in nodes if is_contraction(n)]
    if len(contractions) != 2:
        return None
    first, second = contractions
    after_first, after_second = _followers(nodes, first), _followers(nodes, second)
    made = {v for n in (first, *after_first) for v in n.outputs}
    found = [v for v in second.inputs if v in made]
    if len(found) != 1:
        return None
    inner = [n for n in nodes if n in after_first and n is not second and n not in after_second]
    rows = _makers(inner, found[0])
    between = tuple(n for n in inner if n in rows)
    # What only spreads a row's results over the product belongs to what follows.
    after = tuple(n for n in nodes if n in after_second or (n in after_first and n is not second and n not in rows))
    before = tuple(n for n in nodes if n not in after_first and n not in (first, second))
    known = {v for n in (first, *between) for v in n.outputs}
    row_values = tuple(dict.fromkeys(v for n in after for v in n.inputs if v in known))
    return Parts(before, first, between, second, after, found[0], row_values)


def _makers(nodes: Sequence[Node], weights: Value) -> set[Node]:
    """Return the nodes that ``weights`` and reductions depend on, reductions included."""
    wanted = {weights}
    found: set[Node] = set()
    for node in reversed(nodes):
        assert node.op.compute is not None
        reduces = node.op.compute(node.input_types, node.output_types, node.attributes).combiner is not None
        if reduces or any(v in wanted for v in node.outputs):
            found.add(node)
            wanted.update(node.inputs)
    return found


def is_contraction(node: Node) -> bool:
    """Tell whether ``node`` needs the schedules of contractions; lane by lane it is a reduction like others."""
    if not node.op.has(Trait.CONTRACTION) or node.op.compute is None:
        return False
    return not is_lanewise_product(node.op.compute(node.input_types, node.output_types, node.attributes))


def _followers(nodes: Sequence[Node], start: Node) -> set[Node]:
    values = set(start.outputs)
    found: set[Node] = set()
    for node in nodes:
        if node is not start and any(v in values for v in node.inputs):
            found.add(node)
            values.update(node.outputs)
    return found
