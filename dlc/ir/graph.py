"""Graph: SSA values, nodes in explicit order, and a signature of roles.

Everything is frozen; passes build new graphs. A graph is pure: an update of
state is an output that the signature names as the replacement of an input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from dlc.errors import GraphError
from dlc.ir.attributes import Attributes
from dlc.ir.types import TensorType

if TYPE_CHECKING:
    from dlc.ir.opdef import OpDef


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor produced once; identity is its only name. ``hint`` suggests a name to printers."""

    type: TensorType
    hint: str = ""

    def __repr__(self) -> str:
        return f"%{self.hint or 'value'}: {self.type}"


class Phase(StrEnum):
    """Which part of a step a node belongs to."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node comes from: an ONNX node's name or a user's ``file:line``."""

    name: str
    phase: Phase = Phase.FORWARD

    def __str__(self) -> str:
        return self.name if self.phase is Phase.FORWARD else f"{self.name}/{self.phase}"


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One operation: its definition, operands, attributes, results and origins."""

    op: OpDef
    inputs: tuple[Value, ...]
    attributes: Attributes
    outputs: tuple[Value, ...]
    origins: tuple[Origin, ...] = ()

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.inputs)

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.outputs)

    @property
    def label(self) -> str:
        """The op and the origins' names, for messages and profiles."""
        origins = ", ".join(dict.fromkeys(str(o) for o in self.origins))
        return f"{self.op.name} ({origins})" if origins else self.op.name

    def __repr__(self) -> str:
        return f"{self.label}: {', '.join(map(str, self.input_types))} -> {', '.join(map(str, self.output_types))}"


class Role(StrEnum):
    """What an input is for."""

    DATA = "data"
    TARGET = "target"  # labels and the like: fed to training steps only
    PARAMETER = "parameter"  # trained unless ``trainable`` is off
    STATE = "state"  # running statistics, optimizer moments, random keys
    CONSTANT = "constant"  # tables and fixed weights


@dataclass(frozen=True)
class InputSpec:
    """Role of one graph input; all but data and targets carry their ``initial`` array.

    ``replaced_by`` names the output that becomes the input's value after a run.
    """

    name: str
    role: Role = Role.DATA
    initial: np.ndarray | None = field(default=None, compare=False, repr=False)
    replaced_by: str | None = None
    trainable: bool = False


@dataclass(frozen=True)
class Signature:
    """Roles of the inputs and names of the outputs, each in the graph's order."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]

    @property
    def replacements(self) -> Mapping[str, str]:
        """Output name -> name of the input that it replaces."""
        return {spec.replaced_by: spec.name for spec in self.inputs if spec.replaced_by is not None}

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the outputs that a run returns: those that replace nothing."""
        replaced = self.replacements
        return tuple(name for name in self.outputs if name not in replaced)


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs, nodes in execution order, outputs, and their signature."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    signature: Signature

    def input(self, name: str) -> Value:
        """Return the input called ``name``; GraphError if there is none."""
        for value, spec in zip(self.inputs, self.signature.inputs, strict=True):
            if spec.name == name:
                return value
        names = ", ".join(s.name for s in self.signature.inputs)
        raise GraphError(f"graph {self.name!r} has no input {name!r}; it has {names or 'none'}")

    def output(self, name: str) -> Value:
        """Return the output called ``name``; GraphError if there is none."""
        for value, known in zip(self.outputs, self.signature.outputs, strict=True):
            if known == name:
                return value
        raise GraphError(
            f"graph {self.name!r} has no output {name!r}; it has {', '.join(self.signature.outputs) or 'none'}"
        )

    def spec(self, name: str) -> InputSpec:
        """Return the InputSpec called ``name``."""
        for spec in self.signature.inputs:
            if spec.name == name:
                return spec
        raise GraphError(f"graph {self.name!r} has no input {name!r}")

    def inputs_with(self, *roles: Role) -> list[tuple[Value, InputSpec]]:
        """Return inputs and their specs whose role is one of ``roles``."""
        return [(v, s) for v, s in zip(self.inputs, self.signature.inputs, strict=True) if s.role in roles]

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """Return a copy with other nodes."""
        return replace(self, nodes=tuple(nodes))

    def __str__(self) -> str:
        return f"graph {self.name} ({len(self.inputs)} inputs, {len(self.nodes)} nodes, {len(self.outputs)} outputs)"

    __repr__ = __str__


def producers(graph: Graph) -> dict[Value, Node]:
    """Map every value made inside ``graph`` to its node."""
    return {value: node for node in graph.nodes for value in node.outputs}


def users(graph: Graph) -> dict[Value, list[Node]]:
    """Map every value to the nodes that read it, in order (graph outputs are not users)."""
    result: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            result.setdefault(value, []).append(node)
    return result


def region_signature(inputs: int, outputs: int) -> Signature:
    """Build the plain signature of a region: data inputs i0.., outputs o0.."""
    return Signature(tuple(InputSpec(f"i{k}") for k in range(inputs)), tuple(f"o{k}" for k in range(outputs)))
