"""All op families; importing this package registers every op."""

from dlc.ir.ops import (
    activations,
    contract,
    convolution,
    elementwise,
    index,
    linear,
    losses,
    norms,
    optim,
    pool,
    random,
    reduce,
    scatter,
    shape,
    window,
)

__all__ = [
    "activations",
    "contract",
    "convolution",
    "elementwise",
    "index",
    "linear",
    "losses",
    "norms",
    "optim",
    "pool",
    "random",
    "reduce",
    "scatter",
    "shape",
    "window",
]
