"""Image models: a multi-layer perceptron, a small CNN for digits, ResNet and MobileNetV2, named as in torchvision."""

from __future__ import annotations

from typing import Any

from dlc.frontends.graph import Graph, functions, input, nn, output
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import image_graph


def mlp(
    batch: Any = "batch",
    seed: int = 0,
    dtype: str = "float32",
    features: int = 784,
    classes: int = 10,
    hidden: tuple[int, int] = (512, 256),
) -> Graph:
    """Return a perceptron of layers 784, 512, 256, 10: input ``x`` (batch, 784), output ``logits`` (batch, 10)."""
    with Graph("mlp", seed=seed, dtype=dtype) as graph:
        x = input("x", (batch, features), dtype)
        model = nn.Sequential(
            nn.Linear(features, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], classes),
        )
        output("logits", model(x))
    return graph


def digits_cnn(batch: Any = "batch", seed: int = 0, dtype: str = "float32") -> Graph:
    """Return a CNN with batch norm for the digits: input ``image`` (batch, 1, 8, 8), output ``logits`` (batch, 10)."""
    with Graph("digits_cnn", seed=seed, dtype=dtype) as graph:
        image = input("image", (batch, 1, 8, 8), dtype)
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 2 * 2, 10),
        )
        output("logits", model(image))
    return graph


def cnn(batch: Any = "batch", seed: int = 0, dtype: str = "float32", size: int = 32, classes: int = 10) -> Graph:
    """Return a CNN to train: three times 3 x 3 convolution (32, 64, 128 channels), batch norm, ReLU and pooling.

    Input ``x`` (batch, 3, size, size), output ``logits`` (batch, classes).
    """
    model = nn.Sequential()
    channels = 3
    for wide in (32, 64, 128):
        model.append(nn.Conv2d(channels, wide, 3, padding=1, bias=False)).append(nn.BatchNorm2d(wide))
        model.append(nn.ReLU()).append(nn.MaxPool2d(2))
        channels = wide
    model.append(nn.Flatten()).append(nn.Linear(channels * (size // 8) ** 2, classes))
    return image_graph("cnn", model, batch, seed, dtype, size)


def _conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    layer.replace_initial("weight", nn.init.kaiming_normal(mode="fan_out", nonlinearity="relu"))
    return layer


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functions.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functions.relu(y + (self.downsample(x) if self.downsample is not None else x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = channels * self.expansion
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, wide, 1)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample = _shortcut(in_channels, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functions.relu(self.bn1(self.conv1(x)))
        y = functions.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functions.relu(y + (self.downsample(x) if self.downsample is not None else x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """Residual network: a stem, four stages of blocks, pooling and a linear classifier."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...], classes: int = 1000
    ) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        width = 64
        for stage, depth in enumerate(depths):
            channels = 64 * 2**stage
            blocks = []
            for position in range(depth):
                blocks.append(block(width, channels, 2 if stage and position == 0 else 1))
                width = channels * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functions.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(functions.flatten(self.avgpool(x), 1))


def resnet18(
    batch: Any = "batch", seed: int = 0, dtype: str = "float32", size: int = 224, classes: int = 1000
) -> Graph:
    """Return ResNet-18: input ``x`` (batch, 3, size, size), output ``logits`` (batch, classes)."""
    return image_graph("resnet18", ResNet(BasicBlock, (2, 2, 2, 2), classes), batch, seed, dtype, size)


def resnet50(
    batch: Any = "batch", seed: int = 0, dtype: str = "float32", size: int = 224, classes: int = 1000
) -> Graph:
    """Return ResNet-50: input ``x`` (batch, 3, size, size), output ``logits`` (batch, classes)."""
    return image_graph("resnet50", ResNet(Bottleneck, (3, 4, 6, 3), classes), batch, seed, dtype, size)


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = _conv(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand by 1 x 1, filter each channel by 3 x 3, project by 1 x 1 (Sandler et al., 2018)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        expand = [_conv_norm(in_channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_norm(hidden, hidden, 3, stride, hidden),
            _conv(hidden, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 at width 1."""

    # expansion, channels, repeats, stride of the first
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm(3, 32, 3, 2)]
        width = 32
        for expansion, channels, repeats, stride in self.stages:
            for position in range(repeats):
                layers.append(InvertedResidual(width, channels, stride if position == 0 else 1, expansion))
                width = channels
        layers.append(_conv_norm(width, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        self.classifier[1].replace_initial("weight", nn.init.normal(0.01))
        self.classifier[1].replace_initial("bias", nn.init.zeros())

    def forward(self, x: Tensor) -> Tensor:
        x = functions.mean(self.features(x), axis=(2, 3))
        return self.classifier(x)


def mobilenet_v2(
    batch: Any = "batch", seed: int = 0, dtype: str = "float32", size: int = 224, classes: int = 1000
) -> Graph:
    """Return MobileNetV2: input ``x`` (batch, 3, size, size), output ``logits`` (batch, classes)."""
    return image_graph("mobilenet_v2", MobileNetV2(classes), batch, seed, dtype, size)
