"""Values during import: what is known of each ONNX value, and the regions into which nodes are emitted.

A value is emitted into the graph only when an emitted node reads it, so that shape
arithmetic leaves no nodes behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlc.errors import UnsupportedOpError
from dlc.frontends.onnx.problems import Sink
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim, Shape, SymbolicDim
from dlc.ir.graph import Node, Role, Value
from dlc.ir.types import DType, TensorType, as_dtype, int64, string

LARGEST_LITERAL = 1024
"""Bytes up to which a constant is a node; larger ones are graph inputs."""

LARGEST_KNOWN = 4096
"""Elements up to which a value's constant is followed through the graph during import."""


class Tensor:
    """An ONNX value: its type, and a known constant, a stored array, or the region that computes it.

    ``known`` is an array of the dtype, or an object array of ints and symbolic dimensions.
    """

    __slots__ = ("array", "dtype", "initializer", "known", "name", "shape", "transpose_of")

    def __init__(
        self,
        dtype: DType,
        shape: Shape,
        known: np.ndarray | None = None,
        array: np.ndarray | None = None,
        name: str = "",
        initializer: bool = False,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.known = known
        self.array = array
        self.name = name
        self.initializer = initializer
        self.transpose_of: Tensor | None = None  # the weight that an exporter stored a second time, transposed

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    @property
    def is_symbolic(self) -> bool:
        """Whether the known constant holds symbolic dimensions."""
        return self.known is not None and self.known.dtype == object and self.dtype is not string

    def __repr__(self) -> str:
        return f"{self.type}"


def known_tensor(array: Any, dtype: DType | None = None, name: str = "") -> Tensor:
    """Return a Tensor for a constant; object arrays without symbols become arrays of ``dtype`` (int64)."""
    array = np.asarray(array)
    if array.dtype == object and dtype is not string:
        dtype = dtype or int64
        if not any(isinstance(v, SymbolicDim) for v in array.flat):
            array = array.astype(dtype.numpy)
    elif dtype is not None:
        array = array.astype(dtype.numpy, copy=False)
    dtype = dtype or as_dtype(array.dtype)
    small = array.size <= LARGEST_KNOWN
    return Tensor(dtype, array.shape, known=array if small else None, array=array, name=name)


def dims_tensor(dims: Sequence[Dim], dtype: DType = int64) -> Tensor:
    """Return a Tensor of rank 1 for a list of dimensions."""
    array = np.empty(len(dims), object)
    array[:] = list(dims)
    return known_tensor(array, dtype)


class TensorList(tuple[Tensor, ...]):
    """An ONNX sequence whose length is known at import."""

    __slots__ = ()


class Poison:
    """Stands for a value whose node could not be imported, while all problems are collected."""


class Region:
    """A builder for the graph or a subgraph, with the Values of the Tensors emitted there.

    A Tensor of the region around is captured: it becomes an input, and ``captures`` lists it.
    """

    def __init__(self, name: str, around: Region | None = None) -> None:
        self.builder = Builder(name)
        self.around = around
        self.captures: list[Tensor] = []
        self.values: dict[Tensor, Value] = {}
        self.constants: dict[Value, np.ndarray] = {}  # inputs that hold arrays
        self.initializers: set[Value] = set()  # those of them that are the model's initializers
        self._producers: dict[Value, Node] = {}
        self._indexed = 0
        self._names: set[str] = set()

    def add(self, value: Value, name: str = "") -> Tensor:
        """Return a Tensor for a Value of this region."""
        tensor = Tensor(value.type.dtype, value.type.shape, name=name)
        self.values[tensor] = value
        return tensor

    def value(self, tensor: Tensor) -> Value:
        """Return the Value of ``tensor`` here, emitting or capturing it if need be."""
        found = self.values.get(tensor)
        if found is None:
            found = self._emit(tensor)
            self.values[tensor] = found
        return found

    def _emit(self, tensor: Tensor) -> Value:
        if tensor.dtype is string:
            raise UnsupportedOpError(f"strings ({tensor.name or 'a constant'}) cannot be computed with; remove them")
        if tensor.is_symbolic:
            return self._shape_value(tensor)
        if tensor.transpose_of is not None and self.around is None:
            return self.builder.transpose_to(self.value(tensor.transpose_of), (1, 0))
        if tensor.array is not None:
            array = tensor.array
            if tensor.known is not None and array.nbytes <= LARGEST_LITERAL and not _may_be_weight(tensor):
                return self.builder.constant(np.asarray(array))
            if self.around is None:
                name = self.fresh_name(tensor.name or "constant")
                value = self.builder.input(name, tensor.type, Role.CONSTANT, array)
                self.constants[value] = array
                if tensor.initializer:
                    self.initializers.add(value)
                return value
        assert self.around is not None, "a tensor without data belongs to some region"
        self.around.value(tensor)
        self.captures.append(tensor)
        return self.builder.input(self.fresh_name(f"capture_{len(self.captures)}"), tensor.type)

    def fresh_name(self, stem: str) -> str:
        """Return an input name not taken yet, ``stem`` if it is free."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def reserve(self, name: str) -> None:
        """Keep ``name`` for a graph input."""
        self._names.add(name)

    def _shape_value(self, tensor: Tensor) -> Value:
        b = self.builder
        assert tensor.known is not None
        elements = [b.reshape_to(self._dimension(d, tensor.dtype), (1,)) for d in tensor.known.flat]
        row = elements[0] if len(elements) == 1 else b.concat(*elements, axis=0)
        return b.reshape_to(row, tensor.shape)

    def _dimension(self, dim: Dim, dtype: DType) -> Value:
        b = self.builder
        if isinstance(dim, SymbolicDim):
            return b.cast_to(b.dimension(size=dim), dtype)
        return b.constant(dim, dtype)

    def producer(self, value: Value) -> Node | None:
        """Return the node of this region that makes ``value``."""
        nodes = self.builder.nodes
        while self._indexed < len(nodes):
            node = nodes[self._indexed]
            self._producers.update((out, node) for out in node.outputs)
            self._indexed += 1
        return self._producers.get(value)


def _may_be_weight(tensor: Tensor) -> bool:
    """Float initializers of rank 1 and more stay inputs until their use is known."""
    return tensor.initializer and tensor.dtype.is_float and len(tensor.shape) > 0


@dataclass
class Frame:
    """The names visible to the nodes of one graph, subgraph or function body."""

    region: Region
    versions: dict[str, int]
    sink: Sink
    tensors: dict[str, Any] = field(default_factory=dict)  # name -> Tensor, TensorList, Poison, or None (absent)
    around: Frame | None = None
    prefix: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)  # a function call's attribute values
    depth: int = 0

    def lookup(self, name: str) -> Any:
        """Return what ``name`` stands for here or around; KeyError if nothing does."""
        frame: Frame | None = self
        while frame is not None:
            if name in frame.tensors:
                return frame.tensors[name]
            frame = frame.around
        raise KeyError(name)
