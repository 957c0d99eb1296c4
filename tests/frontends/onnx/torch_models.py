"""Models written with plain torch.nn, and their export by PyTorch's two ONNX exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
        )
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self, block: type, depths: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
        inputs = 64
        for stage, depth in enumerate(depths):
            for number in range(depth):
                width = 64 << stage
                layers.append(block(inputs, width, 2 if stage and not number else 1))
                inputs = width * block.expansion
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(image), 1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        settings = [
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ]  # fmt: skip
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
        inputs = 32
        for expand, outputs, count, stride in settings:
            for number in range(count):
                layers.append(InvertedResidual(inputs, outputs, stride if number == 0 else 1, expand))
                inputs = outputs
        layers += [nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, inputs: int = 32, hidden: int = 48, layers: int = 2, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (2 if bidirectional else 1), 10)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(sequence)[0][:, -1])


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class LastState(nn.Module):
    """Gives a transformers model plain tensors in and out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, return_dict=True)
        return out.logits if hasattr(out, "logits") else out.last_hidden_state


@dataclass
class Example:
    """A module in eval mode with inputs; ``dynamic`` names the dimensions that the export leaves open."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give weights, biases, scales and running statistics random values of both signs, scaled by fan-in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / fan) ** 0.5)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for name, low, high in (("weight", 0.7, 1.3), ("bias", -0.3, 0.3)):
                    getattr(layer, name).uniform_(low, high, generator=generator)
                layer.running_mean.uniform_(-0.3, 0.3, generator=generator)
                layer.running_var.uniform_(0.7, 1.3, generator=generator)
    return module.eval()


def example(name: str, small: bool = False) -> Example:
    """Build one of the named models."""
    torch.manual_seed(0)
    side = 64 if small else 224
    image = {"image": torch.randn(1, 3, side, side)}
    batch = {"image": {0: "batch"}}
    match name:
        case "resnet18":
            return Example(randomize(ResNet(BasicBlock, (2, 2, 2, 2))), image, batch)
        case "resnet50":
            return Example(randomize(ResNet(Bottleneck, (3, 4, 6, 3))), image, batch)
        case "mobilenet_v2":
            return Example(randomize(MobileNetV2()), image, batch)
        case "mlp":
            return Example(randomize(Perceptron()), {"x": torch.randn(3, 784)}, {"x": {0: "batch"}})
        case "lstm" | "lstm_bidirectional":
            module = Recurrent(bidirectional=name.endswith("bidirectional")).eval()
            return Example(module, {"sequence": torch.randn(2, 11, 32)}, {"sequence": {0: "batch"}})
    return Example(*_transformer(name, small))


def _transformer(name: str, small: bool) -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    import transformers

    if name == "bert":
        sizes: dict[str, Any] = {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        }
        config = transformers.BertConfig(**(sizes if small else {}))
        module = LastState(transformers.BertModel(config, add_pooling_layer=False))
        length = 16 if small else 128
    else:
        config = transformers.GPT2Config(
            **({"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 300} if small else {})
        )
        module = LastState(transformers.GPT2LMHeadModel(config))
        length = 12 if small else 64
    ids = torch.randint(0, config.vocab_size, (2 if small else 1, length))
    mask = torch.ones_like(ids)
    axes = {0: "batch", 1: "sequence"}
    return module.eval(), {"input_ids": ids, "attention_mask": mask}, {"input_ids": axes, "attention_mask": axes}


def export(made: Example, path: Path, dynamo: bool, dynamic: bool = True, opset: int | None = None) -> Path:
    """Write ``made`` as ONNX with one of PyTorch's exporters."""
    arguments = tuple(made.inputs.values())
    options: dict[str, Any] = {"input_names": list(made.inputs), "output_names": ["output"], "dynamo": dynamo}
    if opset is not None:
        options["opset_version"] = opset
    if dynamic and dynamo:
        options["dynamic_shapes"] = {
            name: {axis: torch.export.Dim.DYNAMIC for axis in axes} for name, axes in made.dynamic.items()
        }
    elif dynamic:
        options["dynamic_axes"] = made.dynamic
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(made.module, arguments, str(path), **options)
    return path
