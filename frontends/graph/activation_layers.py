"""Activation functions as layers, with PyTorch's names, arguments and defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.frontends.graph import functions as F
from dlc.frontends.graph import initializers as init
from dlc.frontends.graph.module import Module, Parameter
from dlc.frontends.graph.tensor import Tensor


class _Activation(Module):
    """Applies ``function``."""

    function: Callable[..., Any]

    def forward(self, x: Tensor) -> Tensor:
        return type(self).function(x)


class ReLU(_Activation):
    """``max(x, 0)``."""

    function = staticmethod(F.relu)


class ReLU6(_Activation):
    """``clip(x, 0, 6)``."""

    function = staticmethod(F.relu6)


class SELU(_Activation):
    """Scaled exponential linear unit."""

    function = staticmethod(F.selu)


class SiLU(_Activation):
    """``x * sigmoid(x)``."""

    function = staticmethod(F.silu)


class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``."""

    function = staticmethod(F.sigmoid)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    function = staticmethod(F.tanh)


class Softsign(_Activation):
    """``x / (1 + |x|)``."""

    function = staticmethod(F.softsign)


class Hardsigmoid(_Activation):
    """``clip(x / 6 + 1 / 2, 0, 1)``."""

    function = staticmethod(F.hardsigmoid)


class Hardswish(_Activation):
    """``x * clip(x / 6 + 1 / 2, 0, 1)``."""

    function = staticmethod(F.hardswish)


class Mish(_Activation):
    """``x * tanh(softplus(x))``."""

    function = staticmethod(F.mish)


class LogSigmoid(_Activation):
    """Logarithm of the sigmoid."""

    function = staticmethod(F.logsigmoid)


class LeakyReLU(Module):
    """``x`` where positive, else ``negative_slope * x``."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """``x`` where positive, else ``alpha * (exp(x) - 1)``."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, self.alpha)


class CELU(Module):
    """``x`` where positive, else ``alpha * (exp(x / alpha) - 1)``."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return F.celu(x, self.alpha)


class GELU(Module):
    """``x`` times the normal distribution function of ``x``; ``approximate`` is "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)


class Softplus(Module):
    """``log(1 + exp(beta * x)) / beta``, linear above ``threshold``."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x, self.beta, self.threshold)


class Hardtanh(Module):
    """``clip(x, min_val, max_val)``."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__()
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, self.min_val, self.max_val)


class GLU(Module):
    """Halve along ``dim`` and gate one half with the sigmoid of the other."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(x, self.dim)


class PReLU(Module):
    """``x`` where positive, else a trained slope times ``x``; one slope, or one per channel."""

    def __init__(self, num_parameters: int = 1, init_value: float = 0.25, dtype: Any = None) -> None:
        super().__init__()
        self.weight = Parameter(init.constant(init_value), (num_parameters,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)


class Softmax(Module):
    """``exp(x)`` normalised to sum 1 along ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.dim)


class LogSoftmax(Module):
    """Logarithm of the softmax along ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, self.dim)
