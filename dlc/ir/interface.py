"""What the surroundings of a graph see of it: inputs with their roles, outputs, initial arrays, a digest.

A warm start needs no more. A deferred graph is one of which no more is known yet: its values and nodes
are made when they are first read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from dlc.errors import GraphError
from dlc.ir.graph import Graph, InputSpec, Role
from dlc.ir.structure import graph_digest
from dlc.ir.types import TensorType


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a graph in order. ``initial`` holds the initial arrays by input name, not the specs."""

    name: str
    inputs: tuple[tuple[InputSpec, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    initial: Mapping[str, np.ndarray]

    def inputs_with(self, *roles: Role) -> list[tuple[InputSpec, TensorType]]:
        """Return the inputs whose role is one of ``roles``."""
        return [(spec, type_) for spec, type_ in self.inputs if spec.role in roles]

    @property
    def results(self) -> tuple[tuple[str, TensorType], ...]:
        """The outputs that a run returns: those that replace no input."""
        replacements = {spec.replaced_by for spec, _ in self.inputs}
        return tuple((name, type_) for name, type_ in self.outputs if name not in replacements)


class DeferredGraph(Graph):
    """A graph known by its interface and digest; ``make`` gives the whole of it when a field is first read."""

    interface: Interface
    digest: str
    _make: Callable[[], Graph]
    _lock: threading.Lock

    @classmethod
    def of(cls, interface: Interface, digest: str, make: Callable[[], Graph]) -> DeferredGraph:
        """Return a graph that ``make`` will give; ``digest`` is that of ``digest_of``."""
        graph = cls.__new__(cls)
        graph.__dict__.update(name=interface.name, interface=interface, digest=digest)
        graph.__dict__.update(_make=make, _lock=threading.Lock())
        return graph

    def __getattr__(self, name: str) -> Any:
        if "_make" not in self.__dict__ or name not in _FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._lock:
            if name not in self.__dict__:
                whole = self._make()
                self.__dict__.update({field: getattr(whole, field) for field in _FIELDS})
        return self.__dict__[name]


_FIELDS = tuple(field.name for field in fields(Graph))


def interface_of(graph: Graph) -> Interface:
    """Return the interface of ``graph``; a deferred graph stays deferred."""
    if isinstance(graph, DeferredGraph) and "interface" in graph.__dict__:
        return graph.interface
    specs = graph.signature.inputs
    return Interface(
        graph.name,
        tuple((replace(spec, initial=None), value.type) for spec, value in zip(specs, graph.inputs, strict=True)),
        tuple((name, v.type) for name, v in zip(graph.signature.outputs, graph.outputs, strict=True)),
        {spec.name: spec.initial for spec in specs if spec.initial is not None},
    )


def digest_of(graph: Graph) -> str:
    """Return the digest of the structure of ``graph``, origins included; a deferred graph stays deferred."""
    if isinstance(graph, DeferredGraph) and "digest" in graph.__dict__:
        return graph.digest
    return graph_digest(graph, origins=True)


def type_of_input(interface: Interface, name: str) -> TensorType:
    """Return the type of the input ``name``; GraphError if there is none."""
    for spec, type_ in interface.inputs:
        if spec.name == name:
            return type_
    raise GraphError(f"graph {interface.name!r} has no input {name!r}")
