"""Training: the protocols that losses and optimizers follow, as data and calls over a builder.

Frontends implement them; the pass that composes training steps calls them. They
emit ordinary nodes and know nothing of autodiff or compilation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dlc.errors import ConfigError
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.types import TensorType


class Lookup(Protocol):
    """Finds a named tensor of the graph that is being trained."""

    def __call__(self, name: str, type_: TensorType | None = None) -> Value:
        """Return the output or input called ``name`` (outputs first).

        A name that the graph lacks becomes a new input of role target and type ``type_``; without a
        type it is a GraphError listing the names there are. With a type, an input that exists is returned as it is.
        """
        ...


class Loss(Protocol):
    """A loss: emits nodes and returns the rank-0 float value to minimise and further rank-0 metrics.

    Example: ``logits = lookup("logits"); label = lookup("label", tensor_type("int64", logits.type.shape[:1]))``
    then ``return builder.cross_entropy(logits, label), {"accuracy": ...}``.
    """

    def __call__(self, builder: Builder, lookup: Lookup) -> tuple[Value, Mapping[str, Value]]:
        """Emit the loss; see the class."""
        ...


class Optimizer(Protocol):
    """An update rule. All state is explicit: rank-0 scalars shared by all parameters, and arrays per parameter."""

    def init_scalars(self) -> Mapping[str, np.ndarray]:
        """Return the shared rank-0 state, for example ``learning_rate`` (float64) and ``step`` (int64, 0).

        Each becomes a STATE input ``optimizer:<name>`` that a caller may set between steps. Use float64
        for real numbers and cast to the parameter's dtype in ``update``, so that float64 training is exact.
        """
        ...

    def init_state(self, name: str, type_: TensorType) -> Mapping[str, np.ndarray]:
        """Return the initial arrays kept for the parameter ``name``: STATE inputs ``<parameter>:<key>``."""
        ...

    def advance(self, builder: Builder, scalars: Mapping[str, Value]) -> Mapping[str, Value]:
        """Emit, once per step and before the updates, the new values of the scalars that change (``step`` + 1).

        ``update`` sees the new values: the first step has number 1.
        """
        ...

    def update(
        self,
        builder: Builder,
        parameter: Value,
        gradient: Value,
        state: Mapping[str, Value],
        scalars: Mapping[str, Value],
    ) -> tuple[Value, Mapping[str, Value]]:
        """Emit one parameter's update: its new value and the new value of every entry of ``state``.

        ``gradient`` has the parameter's type; ``parameter.hint`` is the parameter's name.
        """
        ...


@dataclass(frozen=True)
class Clipping:
    """Gradient clipping: first each element to [-value, value], then all together to a largest global L2 norm."""

    global_norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        for name, bound in (("global_norm", self.global_norm), ("value", self.value)):
            if bound is not None and not bound > 0:
                raise ConfigError(f"gradient clipping: {name} is {bound}; it must be positive")
