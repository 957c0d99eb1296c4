"""The vision transformer (Dosovitskiy et al., 2021), named as in torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlc.frontends.graph import Graph, functions, nn
from dlc.frontends.graph.tensor import Tensor
from dlc.frontends.models.blocks import dense, image_graph


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a vision transformer; the defaults are ViT-B/16's."""

    size: int = 224
    patch: int = 16
    features: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    classes: int = 1000
    epsilon: float = 1e-6


class EncoderBlock(nn.Module):
    """Attention and a feed-forward network, each normalised first and added to its input."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.features, config.epsilon)
        self.self_attention = nn.MultiheadAttention(config.features, config.heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(config.features, config.epsilon)
        self.mlp = nn.Sequential(
            dense(config.features, config.intermediate),
            nn.GELU(),
            nn.Dropout(0.0),
            dense(config.intermediate, config.features),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class EncoderLayers(nn.Module):
    """The blocks, called ``encoder_layer_<position>``."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.names = [f"encoder_layer_{position}" for position in range(config.layers)]
        for name in self.names:
            setattr(self, name, EncoderBlock(config))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    """Position embedding, blocks and a last normalisation."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        tokens = (config.size // config.patch) ** 2 + 1
        self.pos_embedding = nn.Parameter(nn.init.normal(0.02), (1, tokens, config.features))
        self.layers = EncoderLayers(config)
        self.ln = nn.LayerNorm(config.features, config.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(x + self.pos_embedding))


class Head(nn.Module):
    """The linear classifier."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.head = dense(config.features, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class VisionTransformer(nn.Module):
    """Patches as tokens behind a class token, whose last features are classified."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, config.features, config.patch, config.patch)
        self.class_token = nn.Parameter(nn.init.normal(0.02), (1, 1, config.features))
        self.encoder = Encoder(config)
        self.heads = Head(config)

    def forward(self, x: Tensor) -> Tensor:
        patches = functions.flatten(self.conv_proj(x), 2).transpose(0, 2, 1)
        token = functions.broadcast_to(self.class_token, (patches.shape[0], 1, patches.shape[2]))
        return self.heads(self.encoder(functions.concatenate([token, patches], axis=1))[:, 0])


def vit(config: VitConfig, name: str = "vit", batch: Any = "batch", seed: int = 0, dtype: str = "float32") -> Graph:
    """Return a vision transformer of any size: input ``x`` (batch, 3, size, size), output ``logits``."""
    return image_graph(name, VisionTransformer(config), batch, seed, dtype, config.size)


def vit_b(batch: Any = "batch", seed: int = 0, dtype: str = "float32") -> Graph:
    """Return ViT-B/16: input ``x`` (batch, 3, 224, 224), output ``logits`` (batch, 1000)."""
    return vit(VitConfig(), "vit_b", batch, seed, dtype)
