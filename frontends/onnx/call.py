"""Call: one ONNX node while it is imported, with typed access to its inputs and attributes.

Importers see nothing of protobuf but through a Call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from dlc.errors import InvalidModelError, ResourceLimitError, TypeRuleError
from dlc.frontends.onnx.constants import evaluate_constant
from dlc.frontends.onnx.dimensions import SymbolsEqual, solve
from dlc.frontends.onnx.values import Frame, Tensor
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim, Shape, SymbolicDim
from dlc.ir.graph import Value
from dlc.ir.types import DType

_REQUIRED: Any = object()
LARGEST_TENSOR = 1 << 38
"""Bytes above which an imported tensor is refused."""


class Call:
    """One node: builder, inputs, attributes. ``session`` is the running import (for subgraphs and functions)."""

    def __init__(
        self, session: Any, frame: Frame, node: NodeProto, label: str, version: int, inputs: list[Any]
    ) -> None:
        self.session = session
        self.frame = frame
        self.node = node
        self.label = label
        self.version = version
        self.inputs = inputs
        self._attributes: dict[str, Any] | None = None

    @property
    def b(self) -> Builder:
        return self.frame.region.builder

    @property
    def op_type(self) -> str:
        return self.node.op_type

    @property
    def output_count(self) -> int:
        return len(self.node.output)

    def wants(self, output: int) -> bool:
        """Tell whether the node names its output number ``output``."""
        return output < len(self.node.output) and bool(self.node.output[output])

    # -- inputs ------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """Tell whether input ``index`` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def tensor(self, index: int) -> Tensor:
        """Return input ``index``; TypeRuleError if it is absent or no tensor."""
        if not self.has(index):
            self.fail(f"lacks input {index}")
        found = self.inputs[index]
        if not isinstance(found, Tensor):
            self.fail(f"input {index} is a sequence; a tensor is wanted")
        return found

    def value(self, index: int) -> Value:
        """Return the emitted Value of input ``index``."""
        return self.frame.region.value(self.tensor(index))

    def maybe(self, index: int) -> Value | None:
        """Return the Value of an optional input, or None."""
        return self.value(index) if self.has(index) else None

    def values(self) -> list[Value]:
        """Return the Values of all inputs."""
        return [self.value(i) for i in range(len(self.inputs))]

    def dtype(self, index: int = 0) -> DType:
        return self.tensor(index).dtype

    def shape(self, index: int = 0) -> Shape:
        return self.tensor(index).shape

    def rank(self, index: int = 0) -> int:
        return len(self.tensor(index).shape)

    def known(self, index: int) -> np.ndarray | None:
        """Return the constant of input ``index`` (numbers, or an object array with symbols), or None."""
        if not self.has(index):
            return None
        tensor = self.tensor(index)
        if tensor.known is not None:
            return tensor.known
        if tensor.array is None and (tensor not in self.frame.region.values):
            return None
        if tensor.array is None:
            array = evaluate_constant(self.frame.region, self.frame.region.values[tensor])
            if array is None:
                return None
            tensor.array = array
        return tensor.array

    def constant(self, index: int, what: str) -> np.ndarray:
        """Return the numbers of input ``index``; TypeRuleError if they depend on data or on symbols."""
        found = self.known(index)
        if found is None:
            self.fail(
                f"its {what} (input {index}) is computed from data; dlc needs it when the model is loaded: "
                "make it a constant, or give shapes= so that it can be worked out"
            )
        if found.dtype == object:
            self.fail(f"its {what} (input {index}) depends on symbolic dimensions {list(found.flat)[:8]}; give shapes=")
        return found

    def dims(self, index: int, what: str = "shape") -> tuple[Dim, ...]:
        """Return the dimensions held by input ``index``; TypeRuleError if they depend on data."""
        found = self.known(index)
        if found is None:
            self.fail(
                f"its {what} (input {index}) depends on data that is not known when the model is loaded; "
                "give shapes= for the model's inputs, or make it a constant"
            )
        return tuple(d if isinstance(d, SymbolicDim) else int(d) for d in found.reshape(-1))

    def ints(self, index: int, what: str) -> tuple[int, ...]:
        """Return the integers of input ``index``; TypeRuleError if not known."""
        return tuple(int(v) for v in self.constant(index, what).reshape(-1))

    def scalar(self, index: int, what: str) -> Any:
        """Return the single number of input ``index``."""
        array = self.constant(index, what)
        if array.size != 1:
            self.fail(f"its {what} (input {index}) must hold one number, not shape {list(array.shape)}")
        return array.reshape(-1)[0].item()

    # -- attributes ---------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute name -> AttributeProto, references to a function's attributes resolved."""
        if self._attributes is None:
            self._attributes = {}
            for attribute in self.node.attribute:
                if not attribute.ref_attr_name:
                    self._attributes[attribute.name] = attribute
                elif attribute.ref_attr_name in self.frame.attributes:
                    self._attributes[attribute.name] = self.frame.attributes[attribute.ref_attr_name]
        return self._attributes

    def _read(self, name: str, kind: int, field: str, default: Any) -> Any:
        attribute = self.attributes.get(name)
        if attribute is None:
            if default is _REQUIRED:
                raise InvalidModelError(f"lacks the attribute {name!r}")
            return default
        if attribute.type != kind:
            wanted = AttributeProto.AttributeType.Name(kind)
            raise InvalidModelError(f"attribute {name!r} has type code {attribute.type}; it must be {wanted}")
        return getattr(attribute, field)

    def integer(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return an integer attribute."""
        return self._read(name, AttributeProto.INT, "i", default)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return an integer attribute as a truth value."""
        return bool(self.integer(name, default))

    def real(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a float attribute, as the decimal number that float32 most likely stands for."""
        found = self._read(name, AttributeProto.FLOAT, "f", None)
        if found is None:
            return self._read(name, AttributeProto.FLOAT, "f", default)
        return float(str(np.float32(found)))

    def string(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a string attribute as text."""
        found = self._read(name, AttributeProto.STRING, "s", default)
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else found

    def int_list(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a list-of-integers attribute as a tuple."""
        found = self._read(name, AttributeProto.INTS, "ints", default)
        return tuple(int(v) for v in found) if found is not None else None

    def float_list(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a list-of-floats attribute as a tuple."""
        found = self._read(name, AttributeProto.FLOATS, "floats", default)
        return tuple(float(str(np.float32(v))) for v in found) if found is not None else None

    def string_list(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a list-of-strings attribute as a tuple of texts."""
        found = self._read(name, AttributeProto.STRINGS, "strings", default)
        return tuple(v.decode("utf-8", "replace") for v in found) if found is not None else None

    def tensor_attribute(self, name: str, default: Any = _REQUIRED) -> TensorProto:
        """Return a tensor attribute."""
        return self._read(name, AttributeProto.TENSOR, "t", default)

    def graph(self, name: str) -> GraphProto:
        """Return a subgraph attribute."""
        return self._read(name, AttributeProto.GRAPH, "g", _REQUIRED)

    # -- checks --------------------------------------------------------------------------

    def fail(self, reason: str) -> NoReturn:
        """Raise a TypeRuleError; the running import adds node, op and input types."""
        raise TypeRuleError(reason)

    def axis(self, axis: int, rank: int, what: str = "axis") -> int:
        """Return ``axis`` counted from the front; TypeRuleError if it is out of range."""
        if not -rank <= axis < max(rank, 1):
            self.fail(f"{what} {axis} is out of range for rank {rank}")
        return axis + rank if axis < 0 else axis

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Return distinct axes counted from the front."""
        found = tuple(self.axis(int(a), rank) for a in axes)
        if len(set(found)) != len(found):
            self.fail(f"axes {list(axes)} name one axis twice")
        return found

    def unify(self, a: Dim, b: Dim, what: str) -> Dim:
        """Return the dimension that both are; symbols that must be equal restart the import, else TypeRuleError."""
        if a == b:
            return a
        binding = solve(a, b, self.session.symbol_ranks)
        if not binding:
            self.fail(f"{what}: {a} does not equal {b}")
        raise SymbolsEqual(binding, f"node {self.label} ({self.op_type}): {what}: {a} = {b}")

    def unify_shapes(self, a: Shape, b: Shape, what: str) -> None:
        """Unify two shapes of one rank, dimension by dimension."""
        if len(a) != len(b):
            self.fail(f"{what}: ranks {len(a)} and {len(b)} differ")
        for left, right in zip(a, b, strict=True):
            self.unify(left, right, what)

    def unify_broadcast(self, *shapes: Shape) -> None:
        """Make equal the symbols that broadcasting ``shapes`` together needs equal."""
        for position in range(1, max((len(s) for s in shapes), default=0) + 1):
            dims = [s[-position] for s in shapes if len(s) >= position and s[-position] != 1]
            for other in dims[1:]:
                if other != dims[0]:
                    text = " and ".join(str(list(s)) for s in shapes)
                    self.unify(dims[0], other, f"shapes {text} do not broadcast")

    def check_size(self, shape: Shape, dtype: DType, what: str) -> None:
        """Raise ResourceLimitError for an unreasonably large tensor, InvalidModelError for negative dimensions."""
        size = dtype.itemsize
        for dim in shape:
            if isinstance(dim, int):
                if dim < 0:
                    raise InvalidModelError(f"{what} has a negative dimension: {list(shape)}")
                size *= dim
        if size > LARGEST_TENSOR and 0 not in shape:
            raise ResourceLimitError(f"{what} {dtype}{list(shape)} takes {size} bytes; the limit is {LARGEST_TENSOR}")
