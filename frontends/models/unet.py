"""U-Net for segmentation (Ronneberger et al., 2015), with padded convolutions and batch norm, as is usual today."""

from __future__ import annotations

from typing import Any

from dlc.frontends.graph import Graph, functions, nn
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import image_graph

LEVELS = 4


class DoubleConv(nn.Module):
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layer = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            layer.replace_initial("weight", nn.init.kaiming_normal(nonlinearity="relu"))
            layers += [layer, nn.BatchNorm2d(out_channels), nn.ReLU()]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """Halve the image by pooling, then convolve."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Upsample(nn.Module):
    """Repeat every pixel twice along height and width."""

    def forward(self, x: Tensor) -> Tensor:
        return functions.repeat(functions.repeat(x, 2, axis=2), 2, axis=3)


class Up(nn.Module):
    """Double the image, by transposed convolution or by repetition and convolution, join the skip, then convolve."""

    def __init__(self, in_channels: int, out_channels: int, transposed: bool) -> None:
        super().__init__()
        if transposed:
            self.up: nn.Module = nn.ConvTranspose2d(in_channels, out_channels, 2, 2)
        else:
            self.up = nn.Sequential(Upsample(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.conv = DoubleConv(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(functions.concatenate([skip, self.up(x)], axis=1))


class UNet(nn.Module):
    """Four halvings and four doublings; ``transposed`` says which doublings, deepest first, are convolutions."""

    def __init__(self, channels: int, classes: int, transposed: tuple[bool, ...]) -> None:
        super().__init__()
        widths = [channels << level for level in range(LEVELS + 1)]
        self.inc = DoubleConv(3, widths[0])
        for level in range(LEVELS):
            setattr(self, f"down{level + 1}", Down(widths[level], widths[level + 1]))
            deep = widths[LEVELS - level]
            setattr(self, f"up{level + 1}", Up(deep, deep // 2, transposed[level]))
        self.outc = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.inc(x)]
        for level in range(LEVELS):
            skips.append(getattr(self, f"down{level + 1}")(skips[-1]))
        x = skips.pop()
        for level in range(LEVELS):
            x = getattr(self, f"up{level + 1}")(x, skips.pop())
        return self.outc(x)


def unet(
    batch: Any = "batch",
    seed: int = 0,
    dtype: str = "float32",
    size: int = 256,
    classes: int = 2,
    channels: int = 32,
    transposed: tuple[bool, ...] = (True, True, False, False),
) -> Graph:
    """Return a U-Net: input ``x`` (batch, 3, size, size), output ``logits`` (batch, classes, size, size).

    ``size`` is a multiple of 16. By default the two deepest doublings are transposed convolutions, the others
    nearest-neighbour resizes; all transposed and 64 ``channels`` is the original network.
    """
    return image_graph("unet", UNet(channels, classes, transposed), batch, seed, dtype, size)
