"""The graph verifier: definitions before uses, types that the rules give, a consistent signature.

It raises VerificationError whose note shows the faulty node among its
neighbours. It repairs nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from dlc.errors import GraphError, TypeRuleError, VerificationError
from dlc.ir.graph import Graph, Node, Value
from dlc.ir.text_graph import node_text, value_names

NEIGHBOURS = 8


def verify_graph(graph: Graph, trusted: Container[Node] = ()) -> None:
    """Check ``graph`` and its regions; raise VerificationError at the first fault.

    Type rules are run again for every node that is not in ``trusted`` (nodes of a graph verified before: a node
    is frozen, so its types still hold).
    """
    _verify_signature(graph)
    defined: set[Value] = set()
    for value in graph.inputs:
        if value in defined:
            raise VerificationError(f"graph {graph.name!r} lists the input {value} twice")
        defined.add(value)
    for position, node in enumerate(graph.nodes):
        for operand, value in enumerate(node.inputs):
            if value not in defined:
                reason = f"operand {operand} ({value.type}) is not defined before it is used"
                raise _fault(graph, position, reason)
        for value in node.outputs:
            if value in defined:
                raise _fault(graph, position, f"result {value} is defined twice")
            defined.add(value)
        if node not in trusted:
            _verify_node(graph, position)
    for name, value in zip(graph.signature.outputs, graph.outputs, strict=True):
        if value not in defined:
            raise VerificationError(f"graph {graph.name!r}: output {name!r} ({value.type}) is not defined")


def _verify_node(graph: Graph, position: int) -> None:
    """Check arity, attribute names, regions and types of one node."""
    node = graph.nodes[position]
    if node.op.arity is not None and len(node.inputs) != node.op.arity:
        raise _fault(graph, position, f"takes {node.op.arity} operands, has {len(node.inputs)}")
    if set(node.attributes) != set(node.op.attributes):
        raise _fault(graph, position, f"has attributes {list(node.attributes)}, wants {list(node.op.attributes)}")
    for region in regions(node):
        try:
            verify_graph(region)
        except GraphError as error:
            error.add_note(f"in a region of node {position} of graph {graph.name!r}: {node!r}")
            raise
    try:
        types = node.op.infer(node.input_types, node.attributes)
    except TypeRuleError as error:
        raise _fault(graph, position, f"breaks its type rule: {error}") from error
    if tuple(types) != node.output_types:
        found, wanted = ", ".join(map(str, node.output_types)), ", ".join(map(str, types))
        raise _fault(graph, position, f"has results {found}; its type rule gives {wanted}")


def regions(node: Node) -> Iterator[Graph]:
    """Yield the graphs among the attributes of ``node``."""
    for value in node.attributes.values():
        for element in value if isinstance(value, tuple) else (value,):
            if isinstance(element, Graph):
                yield element


def _verify_signature(graph: Graph) -> None:
    """Check counts, names, replacements and initial arrays."""
    signature = graph.signature
    where = f"graph {graph.name!r}"
    if len(signature.inputs) != len(graph.inputs) or len(signature.outputs) != len(graph.outputs):
        raise VerificationError(f"{where}: its signature has other counts of inputs or outputs than the graph")
    for kind, names in (("input", [s.name for s in signature.inputs]), ("output", list(signature.outputs))):
        twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) != len(names) else []
        if twice:
            raise VerificationError(f"{where}: {kind} name {', '.join(map(repr, twice))} is taken twice")
    outputs = dict(zip(signature.outputs, graph.outputs, strict=True))
    replaced: set[str] = set()
    for spec, value in zip(signature.inputs, graph.inputs, strict=True):
        if spec.initial is not None:
            shape = [d for d in value.type.shape if isinstance(d, int)]
            fits = spec.initial.dtype == value.type.dtype.numpy and spec.initial.ndim == value.type.rank
            if not fits or (value.type.is_static and list(spec.initial.shape) != shape):
                got = f"{spec.initial.dtype}{list(spec.initial.shape)}"
                raise VerificationError(f"{where}: input {spec.name!r} is {value.type}; its initial array is {got}")
        if spec.replaced_by is None:
            continue
        if spec.replaced_by not in outputs:
            raise VerificationError(f"{where}: input {spec.name!r} is replaced by {spec.replaced_by!r}, no output")
        if spec.replaced_by in replaced:
            raise VerificationError(f"{where}: output {spec.replaced_by!r} replaces two inputs")
        replaced.add(spec.replaced_by)
        if outputs[spec.replaced_by].type != value.type:
            new = outputs[spec.replaced_by].type
            raise VerificationError(f"{where}: input {spec.name!r} is {value.type}; its replacement is {new}")


def _fault(graph: Graph, position: int, reason: str) -> VerificationError:
    """Build the error for the node at ``position``, with its neighbourhood as a note."""
    node = graph.nodes[position]
    error = VerificationError(f"graph {graph.name!r}, node {position}, {node!r}: {reason}")
    names = value_names(graph)
    first, last = max(0, position - NEIGHBOURS), min(len(graph.nodes), position + NEIGHBOURS + 1)
    lines = []
    for number in range(first, last):
        text = node_text(graph.nodes[number], names).split("\n")[0]
        lines.append(f"{'--> ' if number == position else '    '}{number:5d}  {text}")
    error.add_note("\n".join(lines))
    return error
