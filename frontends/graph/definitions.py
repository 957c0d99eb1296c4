"""The statements of a graph definition: inputs, parameters, state, constants and outputs of the open scope."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlc.errors import GraphError
from dlc.frontends.graph.scope import Graph, Initializer, active_graph, as_shape, static_shape
from dlc.frontends.graph.tensor import Tensor, unwrap
from dlc.ir.graph import Role
from dlc.ir.types import DType, as_dtype, tensor_type


def input(name: str, shape: Any = (), dtype: Any = "float32", role: str | Role = Role.DATA) -> Tensor:
    """Declare an input that every run is fed.

    ``shape``: ints, names of unknown dimensions ("batch"; one name is one extent) or None (a name is made up).
    ``role`` is "data" or "target" (labels and the like: fed to training steps only). Raises GraphError for a name
    that is taken.
    """
    graph = active_graph("dlc.input")
    try:
        role = Role(role)
    except ValueError:
        raise GraphError(f'input {name!r}: role {role!r} is unknown; use "data" or "target"') from None
    if role not in (Role.DATA, Role.TARGET):
        raise GraphError(f"input {name!r}: role {role} is not fed; use dlc.parameter, dlc.state or dlc.constant")
    value = graph.add_input(name, tensor_type(as_dtype(dtype), as_shape(shape, name)), role, None, False)
    return Tensor(value, graph, graph.root)


def parameter(name: str, value: Any, shape: Any = None, dtype: Any = None, trainable: bool = True) -> Tensor:
    """Declare a trained array.

    ``value`` is the initial array (or nested list), or an initializer called with the graph's random generator for
    this name and ``shape``, for example ``nn.init.normal(0.02)``. ``dtype`` defaults to the array's (Python floats
    and initializers: the graph's). The name gets the prefix of the open ``graph.scope``.
    """
    graph = active_graph("dlc.parameter")
    full_name = graph.full_name(name)
    array = initial_array(graph, full_name, value, shape, dtype)
    made = graph.add_input(full_name, tensor_type(array.dtype, array.shape), Role.PARAMETER, array, trainable)
    return Tensor(made, graph, graph.root)


def state(name: str, value: Any, shape: Any = None, dtype: Any = None) -> Tensor:
    """Declare an array that runs carry over and replace through ``dlc.update``; arguments as ``dlc.parameter``."""
    graph = active_graph("dlc.state")
    full_name = graph.full_name(name)
    array = initial_array(graph, full_name, value, shape, dtype)
    made = graph.add_input(full_name, tensor_type(array.dtype, array.shape), Role.STATE, array, False)
    return Tensor(made, graph, graph.root)


def update(target: Tensor, value: Tensor) -> None:
    """Make ``value`` what the state ``target`` holds after a run; both have one type."""
    graph = target.graph
    name = target.value.hint
    made = unwrap(graph, value, f"the update of {name!r}")
    if target.value not in graph.root.builder.inputs:
        raise GraphError(f"{target!r} is not a state made by dlc.state")
    if made.type != target.value.type:
        raise GraphError(f"state {name!r} is {target.value.type}; its update is {made.type}")
    graph.add_update(name, made)


def constant(value: Any, dtype: Any = None, name: str | None = None) -> Tensor:
    """Hold an array, nested list or number; Python floats become the graph's dtype unless ``dtype`` is given."""
    graph = active_graph("dlc.constant")
    array = as_array(value, as_dtype(dtype) if dtype is not None else None, graph.dtype)
    made, region = graph.add_constant(array, name)
    return Tensor(made, graph, region)


def output(name: str, tensor: Tensor) -> Tensor:
    """Name ``tensor`` as an output of the graph and return it. Raises GraphError for a name that is taken."""
    graph = active_graph("dlc.output")
    graph.add_output(name, unwrap(graph, tensor, f"output {name!r}"))
    return tensor


def as_array(value: Any, dtype: DType | None, default: DType) -> np.ndarray:
    """Return ``value`` as an array of ``dtype``; Python floats without one take ``default``."""
    if isinstance(value, Tensor):
        raise GraphError(f"{value!r} is a tensor of the graph; an array or number is needed here")
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
    else:
        array = np.asarray(value)
        if dtype is None and array.dtype == np.float64 and not hasattr(value, "dtype"):
            dtype = default
    chosen = dtype if dtype is not None else as_dtype(array.dtype)
    return np.array(array, dtype=chosen.numpy, order="C")


def initial_array(graph: Graph, name: str, value: Any, shape: Any, dtype: Any) -> np.ndarray:
    """Return the initial array of ``name``: ``value`` itself, or what the initializer ``value`` makes of ``shape``."""
    chosen = as_dtype(dtype) if dtype is not None else None
    if not callable(value):
        array = as_array(value, chosen, graph.dtype)
        if shape is not None and array.shape != static_shape(as_shape(shape, name), repr(name)):
            raise GraphError(f"{name!r} is declared with shape {shape} but its array has shape {list(array.shape)}")
        return array
    if shape is None:
        raise GraphError(f"{name!r} has an initializer and needs a shape")
    extents = static_shape(as_shape(shape, name), repr(name))
    return _drawn(graph, name, value, extents, chosen or graph.dtype)


def _drawn(graph: Graph, name: str, initializer: Initializer, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    array = np.asarray(initializer(graph.generator(name), shape))
    if array.shape != shape:
        raise GraphError(f"the initializer of {name!r} made shape {list(array.shape)} instead of {list(shape)}")
    return np.ascontiguousarray(array, dtype=dtype.numpy).reshape(shape)
