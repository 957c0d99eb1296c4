"""The ONNX backend interface (onnx.backend.base) over any compile function.

The frontend cannot know the driver: whoever joins the two calls ``make_backend``.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep

from dlc.errors import InputError
from dlc.frontends.onnx.loading import load
from dlc.frontends.onnx.proto import Source
from dlc.frontends.onnx.tensors import CODES
from dlc.ir.graph import Role
from dlc.ir.types import as_dtype

Shapes = Mapping[str, Sequence[int]]


class Runnable(Protocol):
    """What a compile function returns: something that runs on arrays by name."""

    def run(self, inputs: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the outputs by name."""


Compile = Callable[..., Runnable]
"""Called as ``compile(graph, device="cpu")``; devices are ``cpu`` and ``cuda:n``."""


class PreparedModel(BackendRep):
    """A model ready to run. Dynamic models are compiled for each new set of input shapes."""

    def __init__(self, source: Source, device: str, compile_function: Compile, shapes: Shapes | None = None) -> None:
        self._source = source
        self._device = device
        self._compile = compile_function
        self._graph = load(source, shapes=shapes)
        self._ready: dict[Any, Runnable] = {}
        self.input_names = tuple(s.name for s in self._graph.signature.inputs if s.role in (Role.DATA, Role.TARGET))
        self.output_names = self._graph.signature.results

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Run on a list of arrays in the order of the model's inputs, a mapping by name, or one array.

        Returns a named tuple of the outputs. Raises InputError for a wrong number of inputs.
        """
        feeds = self._feeds(inputs)
        results = self._executable(feeds).run(feeds)
        found = [results[name] for name in self.output_names]
        return namedtuple("Outputs", [f"output_{k}" for k in range(len(found))])(*found) if found else ()

    def _feeds(self, inputs: Any) -> dict[str, np.ndarray]:
        if isinstance(inputs, Mapping):
            return {name: _array(value) for name, value in inputs.items()}
        given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) != len(self.input_names):
            wanted = ", ".join(self.input_names) or "none"
            raise InputError(f"{len(given)} inputs are given; the model takes {len(self.input_names)}: {wanted}")
        return {name: _array(value) for name, value in zip(self.input_names, given, strict=True)}

    def _executable(self, feeds: Mapping[str, np.ndarray]) -> Runnable:
        static = all(v.type.is_static for v in self._graph.inputs)
        key = None if static else tuple(sorted((name, a.shape) for name, a in feeds.items()))
        if key not in self._ready:
            known = {name: a.shape for name, a in feeds.items()}
            graph = self._graph if static else load(self._source, shapes=known)
            self._ready[key] = self._compile(graph, device=self._device)
        return self._ready[key]


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def parse_device(device: str) -> str:
    """Return ``cpu`` or ``cuda:n`` for ONNX's ``CPU``, ``CUDA``, ``CUDA:1``."""
    kind, _, number = device.partition(":")
    return kind.lower() if not number or kind.upper() == "CPU" else f"{kind.lower()}:{number}"


def make_backend(compile_function: Compile, devices: Sequence[str] = ("CPU",)) -> type[Backend]:
    """Return an onnx.backend.base.Backend class that compiles with ``compile_function``.

    ``devices`` are the kinds of device that it supports. Beside ModelProtos, ``prepare`` and ``run_model`` take
    paths and bytes, so that models above 2 GiB work.
    """
    kinds = {d.upper() for d in devices}

    class DlcBackend(Backend):
        """dlc as an ONNX backend."""

        @classmethod
        def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
            """Tell whether the device is supported; ``prepare`` says precisely what a model lacks."""
            return cls.supports_device(device)

        @classmethod
        def supports_device(cls, device: str) -> bool:
            """Tell whether ``device`` (``CPU``, ``CUDA:1``) can be used."""
            return device.partition(":")[0].upper() in kinds

        @classmethod
        def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> PreparedModel:
            """Load a model (ModelProto, path or bytes) for ``device``. ``shapes=`` as for ``load``."""
            _check_device(cls, device)
            return PreparedModel(model, parse_device(device), compile_function, kwargs.get("shapes"))

        @classmethod
        def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
            """Prepare and run once; dynamic dimensions take the inputs' shapes."""
            return cls.prepare(model, device, **kwargs).run(inputs)

        @classmethod
        def run_node(
            cls, node: NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
        ) -> Any:
            """Run one node on arrays; ``opset_version`` chooses the opset (default: the newest)."""
            _check_device(cls, device)
            version = kwargs.get("opset_version", min(28, onnx.defs.onnx_opset_version()))
            feeds = inputs if isinstance(inputs, Mapping) else dict(zip([n for n in node.input if n], inputs))
            arrays = {name: _array(value) for name, value in feeds.items()}
            return cls.prepare(node_model(node, arrays, version), device).run(arrays)

    return DlcBackend


def _check_device(backend: type[Backend], device: str) -> None:
    if not backend.supports_device(device):
        raise InputError(f"device {device!r} is not supported here; use CPU")


def node_model(node: NodeProto, arrays: Mapping[str, np.ndarray], opset: int) -> ModelProto:
    """Return a model of one node whose inputs have the types of ``arrays``."""
    inputs = [
        helper.make_tensor_value_info(name, CODES[as_dtype(array.dtype).name], array.shape)
        for name, array in arrays.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs)
    domains = [helper.make_opsetid("", opset)]
    if node.domain not in ("", "ai.onnx"):
        domains.append(helper.make_opsetid(node.domain, 1))
    return helper.make_model(graph, opset_imports=domains, ir_version=10)
