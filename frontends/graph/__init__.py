"""The define-then-run frontend: graphs are written with tensors, layers and NumPy-named functions.

Everything listed in ``__all__`` is also reached as ``dlc.<name>``.
"""

from types import FunctionType

from dlc.frontends.graph import functions
from dlc.frontends.graph.definitions import constant, input, output, parameter, state, update
from dlc.frontends.graph.functions import e, inf, nan, newaxis, pi
from dlc.frontends.graph.loops import scan
from dlc.frontends.graph.scope import Graph, load_state
from dlc.frontends.graph.tensor import Tensor
from dlc.ir.types import (
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)

# Every public function defined in (lifted into) the module `functions`.
_FUNCTIONS = {
    name: value
    for name, value in vars(functions).items()
    if isinstance(value, FunctionType) and value.__module__ == functions.__name__ and not name.startswith("_")
}
_FUNCTIONS.pop("lift")
globals().update(_FUNCTIONS)

__all__ = [
    *sorted(_FUNCTIONS),
    "Graph",
    "Tensor",
    "bfloat16",
    "bool_",
    "constant",
    "e",
    "float16",
    "float32",
    "float64",
    "inf",
    "input",
    "int16",
    "int32",
    "int64",
    "int8",
    "load_state",
    "nan",
    "newaxis",
    "output",
    "parameter",
    "pi",
    "scan",
    "state",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
    "update",
]
