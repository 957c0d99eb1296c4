"""Module: the base of layers. It names parameters as PyTorch's state_dict does and makes them on first use.

A module is a description; inside a graph its parameters become inputs of that graph, named by the
attributes that lead to them (``layer1.0.conv1.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from dlc.errors import GraphError
from dlc.frontends.graph.definitions import initial_array
from dlc.frontends.graph.scope import Graph, active_graph
from dlc.frontends.graph.tensor import Tensor, graph_of
from dlc.ir.graph import Role
from dlc.ir.types import as_dtype, tensor_type


class Slot:
    """An array of a module before it belongs to a graph: initial value or initializer, shape, dtype and role."""

    role = Role.PARAMETER

    def __init__(self, value: Any, shape: Any = None, dtype: Any = None) -> None:
        self.value = value
        self.shape = tuple(shape) if shape is not None else None
        self.dtype = as_dtype(dtype) if dtype is not None else None
        self.made: WeakKeyDictionary[Graph, Tensor] = WeakKeyDictionary()


class Parameter(Slot):
    """A trained array of a module: ``Parameter(array)`` or ``Parameter(initializer, shape)``."""

    def __init__(self, value: Any, shape: Any = None, dtype: Any = None, requires_grad: bool = True) -> None:
        super().__init__(value, shape, dtype)
        self.requires_grad = requires_grad


class Buffer(Slot):
    """State of a module that is not trained, such as running statistics; replaced through ``Module.update_buffer``."""

    role = Role.STATE


class Module:
    """Base of layers and models; assign sub-modules and parameters as attributes and define ``forward``.

    Calling a module runs ``forward`` in the open graph. Inside ``forward``, ``self.weight`` is the tensor of this
    graph. Calling it twice shares the parameters. Parameters of the first container called at the top of a graph
    keep their own names, as in its state_dict; those of single layers and further containers are prefixed by the class
    ("linear.weight", "linear_1.weight"). ``graph.scope("encoder")`` gives a prefix of choice.
    """

    def __init__(self) -> None:
        self.__dict__["_children"] = {}
        self.__dict__["_slots"] = {}
        self.__dict__["_owner"] = None
        self.__dict__["_paths"] = WeakKeyDictionary()

    # -- structure ------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module | Slot) and "_children" not in self.__dict__:
            raise GraphError(f"{type(self).__name__}.__init__ must call super().__init__() before it assigns {name!r}")
        children, slots = self.__dict__.get("_children", {}), self.__dict__.get("_slots", {})
        children.pop(name, None)
        slots.pop(name, None)
        if isinstance(value, Module):
            self.__dict__.pop(name, None)
            children[name] = value
            if value._owner is None:
                value.__dict__["_owner"] = (self, name)
        elif isinstance(value, Slot):
            self.__dict__.pop(name, None)
            slots[name] = value
        else:
            self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        children, slots = self.__dict__.get("_children", {}), self.__dict__.get("_slots", {})
        if name in children:
            return children[name]
        if name in slots:
            return self._tensor(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def slots(self) -> dict[str, Slot]:
        """Return this module's own parameters and buffers as declared."""
        return dict(self._slots)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the sub-modules with the attributes that hold them."""
        yield from self._children.items()

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Yield this module and every one below it, each once, with dotted names."""
        pending: list[tuple[str, Module]] = [("", self)]
        seen: set[int] = set()
        while pending:
            path, module = pending.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            children = [(f"{path}.{n}" if path else n, m) for n, m in module._children.items()]
            pending.extend(reversed(children))

    def replace_initial(self, name: str, value: Any) -> None:
        """Give the parameter or buffer ``name`` of this module another initial array or initializer."""
        slot = self._slots.get(name)
        if slot is None:
            raise GraphError(
                f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(self._slots) or 'none'}"
            )
        if not callable(value):
            value = np.asarray(value)
            if slot.shape is not None and value.shape != slot.shape:
                raise GraphError(f"{name!r} has shape {list(slot.shape)}, the new value {list(value.shape)}")
        slot.value = value

    # -- in a graph -------------------------------------------------------------------

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Define the module: tensors in, tensors out."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        graph = graph_of((inputs, options), type(self).__name__)
        with graph.at_path(self._path(graph)):
            return self.forward(*inputs, **options)

    def _path(self, graph: Graph) -> str:
        """The prefix of this module's names in ``graph``, decided once."""
        chain: list[str] = []
        module = self
        while graph not in module._paths and module._owner is not None:
            owner, name = module._owner
            chain.append(name)
            module = owner
        if graph not in module._paths:
            module._paths[graph] = root_prefix(module, graph)
        self._paths[graph] = ".".join(p for p in (module._paths[graph], *reversed(chain)) if p)
        return self._paths[graph]

    def _tensor(self, name: str) -> Tensor:
        """The tensor of a parameter or buffer in the open graph, made on first use."""
        slot = self._slots[name]
        graph = active_graph(f"{type(self).__name__}.{name}")
        if graph not in slot.made:
            path = self._path(graph)
            full_name = f"{path}.{name}" if path else name
            array = initial_array(graph, full_name, slot.value, slot.shape, slot.dtype)
            trainable = isinstance(slot, Parameter) and slot.requires_grad
            value = graph.add_input(full_name, tensor_type(array.dtype, array.shape), slot.role, array, trainable)
            slot.made[graph] = Tensor(value, graph, graph.root)
        tensor = slot.made[graph]
        if isinstance(slot, Buffer):
            return Tensor(graph.latest(tensor.value.hint, tensor.value), graph, graph.root)
        return tensor

    def update_buffer(self, name: str, value: Tensor) -> None:
        """Make ``value`` what the buffer ``name`` holds after a run; reads after this see it at once."""
        self._tensor(name)
        made = self._slots[name].made[value.graph]
        value.graph.add_update(made.value.hint, value.graph.import_value(value.value, value.region))

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}({self.extra_repr()})"]
        for path, module in self.named_modules():
            if path:
                lines.append(f"  {path}: {type(module).__name__}({module.extra_repr()})")
        return "\n".join(lines)

    def extra_repr(self) -> str:
        """Return the arguments shown by repr."""
        return ""


def root_prefix(module: Module, graph: Graph) -> str:
    """Choose the prefix of a module called at the top of ``graph``; see ``Module``."""
    base = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(module).__name__).lower()
    names = [f"{p}.{n}" if p else n for p, m in module.named_modules() for n in m._slots]
    outer = graph.path
    candidates = ([""] if module._children else []) + [base]
    count = 0
    while True:
        for candidate in candidates:
            prefix = ".".join(s for s in (outer, candidate) if s)
            clash = any(graph.has_name(f"{prefix}.{n}" if prefix else n) for n in names)
            if not clash and graph.claim_prefix(prefix):
                return prefix
        count += 1
        candidates = [f"{base}_{count}"]
