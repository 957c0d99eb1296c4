"""Hoisting: what depends on weights alone is split off, to be computed once at load.

Large ``constant`` nodes become inputs of role constant here too, so that no
array of any size is part of the code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlc.ir.graph import Graph, InputSpec, Node, Role, Signature, Value
from dlc.ir.opdef import Mode
from dlc.passes.cleanup import remove_dead
from dlc.passes.fixed import fixed_inputs


@dataclass(frozen=True)
class Split:
    """``main`` reads the outputs of ``init`` as inputs of role constant, by name, without initial arrays.

    ``init`` is None where nothing can be hoisted; then ``main`` is the graph that was given.
    """

    init: Graph | None
    main: Graph


def split(graph: Graph, mode: Mode = Mode.INFERENCE) -> Split:
    """Split ``graph`` into an initialisation graph over its fixed inputs and the graph of every run.

    Inputs that only the initialisation reads leave the main graph. Nodes that make more elements than they read
    (broadcasts, iotas, constants) are never handed over; the main graph computes them itself.
    """
    fixed: set[Value] = set(fixed_inputs(graph, mode))
    makers: dict[Value, Node] = {}
    for node in graph.nodes:
        if all(v in fixed for v in node.inputs):
            fixed.update(node.outputs)
            makers.update((v, node) for v in node.outputs)
    needed: set[Value] = set(graph.outputs)
    main: list[Node] = []
    for node in reversed(graph.nodes):
        if node.outputs[0] in makers and not (_is_cheap(node) and any(v in needed for v in node.outputs)):
            continue
        main.append(node)
        needed.update(node.inputs)
    main.reverse()
    made = {v for node in main for v in node.outputs}
    handed = [v for v in makers if v in needed and v not in made]
    if not handed:
        return Split(None, graph)
    names = _fresh_names(graph, len(handed), "hoisted")
    return Split(_init_graph(graph, handed, names), _main_graph(graph, main, handed, names, needed))


def lift_constants(graph: Graph, max_elements: int = 16) -> Graph:
    """Turn ``constant`` nodes of more than ``max_elements`` elements into constant inputs; else the same object.

    Arrays of strings stay nodes. Regions keep their constants.
    """
    large = {
        node.outputs[0]: node.attributes["value"].array
        for node in graph.nodes
        if node.op.name == "constant" and node.attributes["value"].array.size > max_elements
    }
    large = {value: array for value, array in large.items() if array.dtype != object}
    if not large:
        return graph
    names = _fresh_names(graph, len(large), "constant")
    specs = [InputSpec(name, Role.CONSTANT, array) for name, array in zip(names, large.values(), strict=True)]
    signature = Signature((*graph.signature.inputs, *specs), graph.signature.outputs)
    nodes = tuple(n for n in graph.nodes if n.outputs[0] not in large)
    return replace(graph, inputs=(*graph.inputs, *large), nodes=nodes, signature=signature)


def _is_cheap(node: Node) -> bool:
    reads = sum(int(v.type.size) for v in node.inputs if v.type.is_static)
    return not node.op.region and all(v.type.is_static and v.type.size > reads for v in node.outputs)


def _fresh_names(graph: Graph, count: int, prefix: str) -> list[str]:
    taken = {s.name for s in graph.signature.inputs} | set(graph.signature.outputs)
    names: list[str] = []
    number = 0
    while len(names) < count:
        if (name := f"{prefix}:{number}") not in taken:
            names.append(name)
        number += 1
    return names


def _init_graph(graph: Graph, handed: list[Value], names: list[str]) -> Graph:
    init = remove_dead(replace(graph, name=f"{graph.name}:init", outputs=tuple(handed)))
    used = {v for node in init.nodes for v in node.inputs}
    inputs = [(v, s) for v, s in zip(graph.inputs, graph.signature.inputs, strict=True) if v in used]
    signature = Signature(tuple(s for _, s in inputs), tuple(names))
    return replace(init, inputs=tuple(v for v, _ in inputs), signature=signature)


def _main_graph(graph: Graph, nodes: list[Node], handed: list[Value], names: list[str], needed: set[Value]) -> Graph:
    inputs = [
        (v, s)
        for v, s in zip(graph.inputs, graph.signature.inputs, strict=True)
        if v in needed or s.role in (Role.DATA, Role.TARGET) or s.replaced_by is not None
    ]
    inputs += [(v, InputSpec(name, Role.CONSTANT)) for v, name in zip(handed, names, strict=True)]
    signature = Signature(tuple(s for _, s in inputs), graph.signature.outputs)
    return replace(graph, inputs=tuple(v for v, _ in inputs), nodes=tuple(nodes), signature=signature)
