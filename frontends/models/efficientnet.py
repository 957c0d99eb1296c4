"""EfficientNet-B0 (Tan and Le, 2019), named as in torchvision, with running statistics that suit its random weights.

Random weights under the usual statistics (mean 0, variance 1) would let activations vanish over its 16 blocks: a
depthwise weight of PyTorch's initialisation is scaled by a fan-out of all channels, though each output sees one. The
statistics are therefore what they would be after training on normal inputs, in closed form: a convolution of ``n``
products of independent weights of variance ``s`` with inputs of second moment ``m`` has variance ``n * s * m``.
"""

from __future__ import annotations

import math
from typing import Any

from dlc.frontends.graph import Graph, functions, nn
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import image_graph

# Second moment of silu(z), z standard normal; of the same times a gate of about one half.
SILU = 0.3558
GATED = SILU / 4

# expansion, kernel, stride of the first, channels, repeats
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def _statistics(norm: nn.BatchNorm2d, variance: float) -> None:
    """Give ``norm`` random statistics around mean 0 and ``variance``, and a random scale and shift around 1 and 0."""
    norm.replace_initial("running_var", nn.init.uniform(0.8 * variance, 1.25 * variance))
    norm.replace_initial("running_mean", nn.init.normal(0.1 * math.sqrt(variance)))
    norm.replace_initial("weight", nn.init.uniform(0.8, 1.2))
    norm.replace_initial("bias", nn.init.normal(0.1))


class ConvNormActivation(nn.Sequential):
    """Convolution, batch norm and SiLU (unless ``linear``); ``moment`` is the second moment of the input."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
        moment: float = 1.0,
    ) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        convolution.replace_initial("weight", nn.init.kaiming_normal(mode="fan_out", nonlinearity="relu"))
        norm = nn.BatchNorm2d(out_channels)
        weight_variance = 2.0 / (out_channels * kernel**2)
        _statistics(norm, in_channels // groups * kernel**2 * weight_variance * moment)
        super().__init__(convolution, norm, *([] if linear else [nn.SiLU()]))


class SqueezeExcitation(nn.Module):
    """Scale each channel by a function of all channels' means (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = functions.mean(x, axis=(2, 3), keepdims=True)
        return x * functions.sigmoid(self.fc2(functions.silu(self.fc1(means))))


class MBConv(nn.Module):
    """Expand, filter each channel, squeeze and excite, project; plus the input where shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int, moment: float
    ) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.moment = 1.0 + (moment if self.residual else 0.0)
        expand = [ConvNormActivation(in_channels, wide, 1, moment=moment)] if expansion != 1 else []
        self.block = nn.Sequential(
            *expand,
            ConvNormActivation(wide, wide, kernel, stride, wide, moment=SILU if expand else moment),
            SqueezeExcitation(wide, max(1, in_channels // 4)),
            ConvNormActivation(wide, out_channels, 1, linear=True, moment=GATED),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """EfficientNet, by default of B0's stages."""

    def __init__(self, classes: int = 1000, stages: tuple[tuple[int, ...], ...] = STAGES) -> None:
        super().__init__()
        width, moment = 32, SILU
        layers: list[nn.Module] = [ConvNormActivation(3, width, 3, 2)]
        for expansion, kernel, stride, channels, repeats in stages:
            blocks = []
            for position in range(repeats):
                blocks.append(MBConv(width, channels, expansion, kernel, stride if position == 0 else 1, moment))
                width, moment = channels, blocks[-1].moment
            layers.append(nn.Sequential(*blocks))
        layers.append(ConvNormActivation(width, 1280, 1, moment=moment))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functions.flatten(self.avgpool(self.features(x)), 1))


def efficientnet_b0(
    batch: Any = "batch",
    seed: int = 0,
    dtype: str = "float32",
    size: int = 224,
    classes: int = 1000,
    stages: tuple[tuple[int, ...], ...] = STAGES,
) -> Graph:
    """Return EfficientNet-B0: input ``x`` (batch, 3, size, size), output ``logits`` (batch, classes)."""
    return image_graph("efficientnet_b0", EfficientNet(classes, stages), batch, seed, dtype, size)
