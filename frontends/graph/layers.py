"""Layers with PyTorch's arguments, defaults, weight layouts and initial values: linear, convolution, embedding,
normalisation, dropout, pooling, and containers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from dlc.errors import GraphError
from dlc.frontends.graph import functions as F
from dlc.frontends.graph import initializers as init
from dlc.frontends.graph import neural
from dlc.frontends.graph.module import Buffer, Module, Parameter
from dlc.frontends.graph.tensor import Tensor, emit


def _positive(layer: str, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise GraphError(f"{layer}: {name} must be a positive int, not {value!r}")


def _tuple(value: Any, count: int, name: str) -> tuple[int, ...]:
    return neural.per_dimension(value, count, name)


# -- containers ---------------------------------------------------------------------------


class Sequential(Module):
    """Layers (or plain functions of a tensor) applied one after another; parameters are named by position."""

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        self.length = 0
        self.functions: dict[int, Any] = {}
        for layer in layers:
            self.append(layer)

    def append(self, layer: Any) -> Sequential:
        """Add a layer or function at the end."""
        if isinstance(layer, Module):
            setattr(self, str(self.length), layer)
        elif callable(layer):
            self.functions[self.length] = layer
        else:
            raise GraphError(f"Sequential takes layers and functions, not {layer!r}")
        self.length += 1
        return self

    def __getitem__(self, position: int) -> Any:
        position = range(self.length)[position]
        return self.functions[position] if position in self.functions else self._children[str(position)]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(self.length)])

    def forward(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x


class ModuleList(Module):
    """A list of modules, named by position; call its elements yourself."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.length = 0
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end."""
        setattr(self, str(self.length), module)
        self.length += 1
        return self

    def __getitem__(self, position: int) -> Module:
        return self._children[str(range(self.length)[position])]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Module]:
        return iter([self[i] for i in range(self.length)])


class Identity(Module):
    """Return the input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Flatten(Module):
    """Join the dimensions ``start_dim`` to ``end_dim``."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, self.start_dim, self.end_dim)


# -- linear, embedding ------------------------------------------------------------------------


class Linear(Module):
    """``x @ weight.T + bias`` over the last dimension; weight (out, in), bias (out,)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: Any = None) -> None:
        super().__init__()
        _positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.kaiming_uniform(math.sqrt(5)), (out_features, in_features), dtype)
        bound = 1.0 / math.sqrt(in_features)
        self.bias = Parameter(init.uniform(-bound, bound), (out_features,), dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={'bias' in self.slots()}"


class Embedding(Module):
    """Rows of a table (num_embeddings, embedding_dim), drawn from the normal distribution, at integer indices.

    The row ``padding_idx`` starts as zeros and is not trained.
    """

    weight: Any

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype: Any = None
    ) -> None:
        super().__init__()
        _positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None:
            padding_idx = range(num_embeddings)[padding_idx]
        self.padding_idx = padding_idx

        def make(generator: Any, shape: tuple[int, ...]) -> Any:
            table = init.normal()(generator, shape)
            if padding_idx is not None:
                table[padding_idx] = 0
            return table

        self.weight = Parameter(make, (num_embeddings, embedding_dim), dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.weight, self.padding_idx)


# -- convolution --------------------------------------------------------------------------------


class _Conv(Module):
    spatial = 2
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: Any = None,
        output_padding: Any = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _positive(name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise GraphError(
                f"{name}: {in_channels} in and {out_channels} out channels do not divide into {groups} groups"
            )
        if padding_mode != "zeros":
            raise GraphError(
                f'{name}: padding_mode {padding_mode!r} is not supported; use dlc.pad(mode="reflect") before it'
            )
        kernel = _tuple(kernel_size, self.spatial, "kernel_size")
        for what, value in (("kernel_size", kernel), ("stride", _tuple(stride, self.spatial, "stride"))):
            if min(value) <= 0:
                raise GraphError(f"{name}: {what} must be positive, not {value}")
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.output_padding = output_padding
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *kernel)
        self.weight = Parameter(init.kaiming_uniform(math.sqrt(5)), shape, dtype)
        bound = 1.0 / math.sqrt(init.fans(shape)[0])
        self.bias = Parameter(init.uniform(-bound, bound), (out_channels,), dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.conv(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """Convolution of (N, C, L); weight (out, in / groups, kernel)."""

    spatial = 1


class Conv2d(_Conv):
    """Convolution of (N, C, H, W); weight (out, in / groups, kernel height, kernel width)."""

    spatial = 2


class _ConvTranspose(_Conv):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            dtype,
            output_padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of (N, C, L); weight (in, out / groups, kernel)."""

    spatial = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of (N, C, H, W); weight (in, out / groups, kernel height, kernel width)."""

    spatial = 2


# -- normalisation --------------------------------------------------------------------------------


class _BatchNorm(Module):
    ranks: tuple[int, ...] = (4,)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _positive(name, num_features=num_features)
        if not track_running_stats:
            raise GraphError(f"{name}: track_running_stats=False is not supported; use LayerNorm or GroupNorm")
        if momentum is None:
            raise GraphError(f"{name}: momentum=None (a cumulative average) is not supported; give a number")
        self.num_features, self.eps, self.momentum, self.affine = num_features, eps, momentum, affine
        if affine:
            self.weight = Parameter(init.ones(), (num_features,), dtype)
            self.bias = Parameter(init.zeros(), (num_features,), dtype)
        self.running_mean = Buffer(init.zeros(), (num_features,), dtype)
        self.running_var = Buffer(init.ones(), (num_features,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self.ranks:
            raise GraphError(
                f"{type(self).__name__} takes tensors of rank {' or '.join(map(str, self.ranks))}, got {x!r}"
            )
        scale = self.weight if self.affine else F.ones((self.num_features,), x.dtype)
        shift = self.bias if self.affine else F.zeros((self.num_features,), x.dtype)
        y, mean, var = emit(
            neural.batch_norm, x, self.running_mean, self.running_var, scale, shift, self.momentum, self.eps
        )
        self.update_buffer("running_mean", mean)
        self.update_buffer("running_var", var)
        return y


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L); running statistics are state of the graph."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W); running statistics are state of the graph."""

    ranks = (4,)


class LayerNorm(Module):
    """Normalise over the trailing dimensions ``normalized_shape``, then scale and shift."""

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (
            tuple(normalized_shape) if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
        )
        self.eps = eps
        self.weight = Parameter(init.ones(), self.normalized_shape, dtype) if elementwise_affine else None
        self.bias = Parameter(init.zeros(), self.normalized_shape, dtype) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divide by the root mean square over the trailing dimensions, then scale; ``eps`` None is the dtype's epsilon."""

    def __init__(
        self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        self.normalized_shape = (
            tuple(normalized_shape) if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
        )
        self.eps = eps
        self.weight = Parameter(init.ones(), self.normalized_shape, dtype) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(Module):
    """Normalise each of ``num_groups`` groups of channels of (N, C, ...), then scale and shift per channel."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        _positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise GraphError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.eps = num_groups, eps
        self.weight = Parameter(init.ones(), (num_channels,), dtype) if affine else None
        self.bias = Parameter(init.zeros(), (num_channels,), dtype) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Dropout(Module):
    """Zero elements with probability ``p`` while training, scaling the rest; nothing in inference."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise GraphError(f"Dropout: p must be in [0, 1), not {p}")
        self.p = float(p)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p) if self.p else x


# -- pooling -----------------------------------------------------------------------------------------


class _MaxPool(Module):
    spatial = 2

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.options = (kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        _check_rank(self, x, self.spatial + 2)
        return F.max_pool(x, *self.options)


class MaxPool1d(_MaxPool):
    """Largest element of each window of (N, C, L)."""

    spatial = 1


class MaxPool2d(_MaxPool):
    """Largest element of each window of (N, C, H, W)."""

    spatial = 2


class _AvgPool(Module):
    spatial = 2

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.options = (kernel_size, stride, padding, ceil_mode, count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        _check_rank(self, x, self.spatial + 2)
        return F.avg_pool(x, *self.options)


class AvgPool1d(_AvgPool):
    """Mean of each window of (N, C, L)."""

    spatial = 1


class AvgPool2d(_AvgPool):
    """Mean of each window of (N, C, H, W)."""

    spatial = 2


class _Adaptive(Module):
    spatial = 2

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size


class AdaptiveAvgPool1d(_Adaptive):
    """Means of (N, C, L) over windows that give ``output_size`` elements."""

    def forward(self, x: Tensor) -> Tensor:
        _check_rank(self, x, 3)
        return F.adaptive_avg_pool(x, self.output_size, 1)


class AdaptiveAvgPool2d(_Adaptive):
    """Means of (N, C, H, W) over windows that give ``output_size`` (an int or a pair; None keeps a size)."""

    def forward(self, x: Tensor) -> Tensor:
        _check_rank(self, x, 4)
        return F.adaptive_avg_pool(x, self.output_size, 2)


class AdaptiveMaxPool2d(_Adaptive):
    """Maxima of (N, C, H, W) over windows that give ``output_size``, which must divide the input's size."""

    def forward(self, x: Tensor) -> Tensor:
        _check_rank(self, x, 4)
        return F.adaptive_max_pool(x, self.output_size, 2)


def _check_rank(layer: Module, x: Tensor, rank: int) -> None:
    if x.ndim != rank:
        raise GraphError(f"{type(layer).__name__} takes tensors of rank {rank}, got {x!r}")
