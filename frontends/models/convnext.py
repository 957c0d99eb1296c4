"""ConvNeXt (Liu et al., 2022), named as in torchvision."""

from __future__ import annotations

from typing import Any

from dlc.frontends.graph import Graph, nn
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import dense, image_graph

EPSILON = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1) -> Any:
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups)
    layer.replace_initial("weight", nn.init.truncated_normal(0.02))
    layer.replace_initial("bias", nn.init.zeros())
    return layer


class ConvNextBlock(nn.Module):
    """Filter each channel by 7 x 7, normalise, widen four times with GELU, project, scale and add.

    ``layer_scale`` starts at random, not at PyTorch's 1e-6, with which the blocks would hardly count.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _conv(channels, channels, 7, padding=3, groups=channels),
            lambda x: x.transpose(0, 2, 3, 1),
            nn.LayerNorm(channels, EPSILON),
            dense(channels, 4 * channels),
            nn.GELU(),
            dense(4 * channels, channels),
            lambda x: x.transpose(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(nn.init.normal(0.5), (channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) * self.layer_scale


class ConvNext(nn.Module):
    """A patch stem, four stages of blocks with downsampling between them, pooling and a linear classifier."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(_conv(3, widths[0], 4, 4), LayerNorm2d(widths[0], EPSILON))]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                before = widths[stage - 1]
                layers.append(nn.Sequential(LayerNorm2d(before, EPSILON), _conv(before, width, 2, 2)))
            layers.append(nn.Sequential(*(ConvNextBlock(width) for _ in range(depth))))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        last = widths[-1]
        self.classifier = nn.Sequential(LayerNorm2d(last, EPSILON), nn.Flatten(1), dense(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))


def convnext_tiny(
    batch: Any = "batch",
    seed: int = 0,
    dtype: str = "float32",
    size: int = 224,
    classes: int = 1000,
    widths: tuple[int, ...] = (96, 192, 384, 768),
    depths: tuple[int, ...] = (3, 3, 9, 3),
) -> Graph:
    """Return ConvNeXt-T: input ``x`` (batch, 3, size, size), output ``logits`` (batch, classes)."""
    return image_graph("convnext_tiny", ConvNext(widths, depths, classes), batch, seed, dtype, size)
