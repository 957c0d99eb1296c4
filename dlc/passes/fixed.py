"""Which inputs of a graph are the same in every run, so that work on them alone can be done once."""

from __future__ import annotations

from dlc.ir.graph import Graph, Role, Value
from dlc.ir.opdef import Mode


def fixed_inputs(graph: Graph, mode: Mode) -> frozenset[Value]:
    """Return the fixed inputs.

    In inference: parameters, constants, and state that no output replaces (running statistics). In training only
    constants, because a caller may set parameters and state between steps.
    """
    roles = (Role.CONSTANT,) if mode is Mode.TRAINING else (Role.CONSTANT, Role.PARAMETER, Role.STATE)
    return frozenset(value for value, spec in graph.inputs_with(*roles) if spec.replaced_by is None)
