"""Runs a stretch of a graph for a part of the batch at a time, so that what its nodes hand on stays in cache.

The stretch becomes a scan over parts. It takes less memory too: one part's instead of the whole batch's. It must not
know targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Node, Value
from dlc.passes.batch.rows import Rows, first_rows
from dlc.passes.batch.stretch import Machine, Stretch, choose_stretch, nbytes
from dlc.passes.cleanup import remove_dead
from dlc.passes.rewrite import with_inputs


def split_batch(graph: Graph, machine: Machine) -> Graph:
    """Return ``graph`` with a scan over parts of the batch where that pays; shapes must be static."""
    values = [v for node in graph.nodes for v in node.outputs]
    if not all(v.type.is_static for v in values) or 3 * max(map(nbytes, values), default=0) <= machine.cache_bytes:
        return graph
    rows = {node: made for node in graph.nodes if (made := Rows(node)).extent > 1}
    stretch = choose_stretch(graph, rows, machine)
    return _Splitting(graph, rows, stretch).graph() if stretch is not None else graph


class _Splitting:
    """Puts the nodes of a stretch into a scan."""

    def __init__(self, whole: Graph, rows: dict[Node, Rows], stretch: Stretch) -> None:
        self.whole, self.rows, self.stretch = whole, rows, stretch
        self.chosen = set(stretch.nodes)
        # Kernels know more of a number (what images are padded with) than of a value that comes from outside.
        self.literals = {node.outputs[0]: node for node in whole.nodes if not node.inputs and len(node.outputs) == 1}
        read = {v for node in whole.nodes if node not in self.chosen for v in node.inputs} | set(whole.outputs)
        self.results = [v for node in stretch.nodes for v in node.outputs if v in read]

    def graph(self) -> Graph:
        """Return the graph with the scan in it, which comes after all that it reads and before its readers."""
        builder, mapping = Builder(self.whole.name), dict[Value, Value]()
        made = {v for node in self.stretch.nodes for v in node.outputs}
        later: list[Node] = []
        for node in self.whole.nodes:
            if node is self.stretch.nodes[-1]:
                mapping = self._scan(builder)
                for reader in later:
                    builder.append(with_inputs(reader, mapping))
            elif node in self.chosen:
                continue
            elif not mapping and any(v in made for v in node.inputs):
                made.update(node.outputs)
                later.append(node)
            else:
                builder.append(with_inputs(node, mapping))
        outputs = tuple(mapping.get(v, v) for v in self.whole.outputs)
        return remove_dead(replace(self.whole, nodes=tuple(builder.nodes), outputs=outputs))

    def _scan(self, builder: Builder) -> dict[Value, Value]:
        """Emit the scan; return what stands for the results."""
        nodes = self._with_equal_rows()
        made = {v for node in nodes for v in node.outputs}
        read = [(v, k in self.rows[n].sliced) for n in nodes for k, v in enumerate(n.inputs)]
        sequences = list(dict.fromkeys(v for v, sliced in read if sliced and v not in made))
        # Of what is made inside only rows are read: all rows of a value come from outside.
        constants = list(dict.fromkeys(v for v, sliced in read if not sliced and v not in self.literals))
        parts = self.stretch.extent // self.stretch.part
        with builder.origin(*dict.fromkeys(origin for node in self.stretch.nodes for origin in node.origins)):
            split = [builder.reshape_to(v, (parts, *first_rows(v.type, self.stretch.part).shape)) for v in sequences]
            body = self._body(nodes, sequences, constants)
            attributes = {"body": body, "carries": 0, "sequences": len(split), "length": parts}
            stacked = builder.emit("scan", [*split, *constants], attributes)
            return {v: builder.reshape_to(s, v.type.shape) for v, s in zip(self.results, stacked, strict=True)}

    def _with_equal_rows(self) -> list[Node]:
        """Return the nodes, and in their order those that make equal rows for them, such as broadcasts of weights."""
        wanted = {v for node in self.stretch.nodes for k, v in enumerate(node.inputs) if k in self.rows[node].sliced}
        equal = {n for n, rows in self.rows.items() if not rows.sliced and any(v in wanted for v in n.outputs)}
        fitting = {n for n in equal if self.rows[n].attributes_for(n, self.stretch.part) is not None}
        return [node for node in self.whole.nodes if node in self.chosen or node in fitting]

    def _body(self, nodes: Sequence[Node], sequences: Sequence[Value], constants: Sequence[Value]) -> Graph:
        """Return what is done to a part: (parts of sequences, what all parts read) -> parts of the results."""
        builder, part = Builder("part"), self.stretch.part
        # By whether it is read by row: a value may be needed in both ways.
        inner = {(v, True): builder.input(f"i{k}", first_rows(v.type, part)) for k, v in enumerate(sequences)}
        inner |= {(v, False): builder.input(f"i{k}", v.type) for k, v in enumerate(constants, len(sequences))}
        for node in nodes:
            rows = self.rows[node]
            for k, v in enumerate(node.inputs):
                if (v, k in rows.sliced) not in inner:
                    literal = self.literals[v]
                    (inner[v, False],) = builder.emit(literal.op, [], literal.attributes)
            operands = [inner[v, k in rows.sliced] for k, v in enumerate(node.inputs)]
            with builder.origin(*node.origins):
                (inner[node.outputs[0], True],) = builder.emit(node.op, operands, rows.attributes_for(node, part))
        for k, v in enumerate(self.results):
            builder.output(f"o{k}", inner[v, True])
        return builder.finish()
