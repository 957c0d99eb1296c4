"""The contractions that are measured: the layers of known models, their gradients, and plain products.

from contraction_cases import GROUPS
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One contraction: ``weights`` are the operands packed ahead, ``count`` its occurrences in the model.

    ``conv`` gives stride and groups of a convolution (with bias and ReLU), None for anything else.
    """

    name: str
    spec: str
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    weights: frozenset[int] = frozenset({1})
    sizes: dict = field(default_factory=dict)
    conv: tuple[int, int] | None = None
    count: int = 1
    bias: bool = False


NONE: frozenset[int] = frozenset()


def matmul(name: str, m: int, k: int, n: int, **options) -> Case:
    return Case(name, "m k, k n -> m n", (m, k), (k, n), **options)


def conv(name: str, size: int, c: int, k: int, kernel: int, stride: int = 1, count: int = 1, groups: int = 1) -> Case:
    """A padded, channels-last convolution with bias and ReLU; what no window reads is cropped."""
    out = (size + 2 * (kernel // 2) - kernel) // stride + 1
    need = (out - 1) * stride + kernel
    options = dict(count=count, bias=True, conv=(stride, groups))
    if kernel == 1 and stride == 1:
        return Case(name, "n h w c, c k -> n h w k", (1, size, size, c), (c, k), **options)
    h, w = (f"{a}*{stride}+{t}" if stride > 1 else f"{a}+{t}" for a, t in (("h", "r"), ("w", "s")))
    if groups == c:
        return Case(name, f"n {h} {w} g, r s g -> n h w g", (1, need, need, c), (kernel, kernel, c), **options)
    lhs, rhs = (1, need, need, c), (kernel, kernel, c, k)
    return Case(name, f"n {h} {w} c, r s c k -> n h w k", lhs, rhs, **options)


def resnet50() -> list[Case]:
    cases = [conv("conv1 7x7/2", 224, 3, 64, 7, 2)]
    size, channels = 56, 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        out, before = width * 4, size
        stride = 1 if stage == 1 else 2
        size //= stride
        cases += [
            conv(f"s{stage} 1x1 {channels}->{width} @{before}", before, channels, width, 1),
            conv(f"s{stage} 3x3/{stride} {width} @{before}", before, width, width, 3, stride),
            conv(f"s{stage} 1x1 {width}->{out} @{size}", size, width, out, 1, count=blocks),
            conv(f"s{stage} 1x1/{stride} {channels}->{out}", before, channels, out, 1, stride),
            conv(f"s{stage} 1x1 {out}->{width} @{size}", size, out, width, 1, count=blocks - 1),
            conv(f"s{stage} 3x3 {width} @{size}", size, width, width, 3, count=blocks - 1),
        ]
        channels = out
    return [*cases, matmul("fc 2048->1000", 1, 2048, 1000, bias=True)]


def bert() -> list[Case]:
    heads, sequence = "h s t, t h d -> s h d", (128, 12, 64)
    return [
        matmul("qkv 128x768x768", 128, 768, 768, count=48, bias=True),
        matmul("ffn 128x768x3072", 128, 768, 3072, count=12, bias=True),
        matmul("ffn 128x3072x768", 128, 3072, 768, count=12, bias=True),
        Case("scores 12x128x64x128", "s h d, t h d -> h s t", sequence, sequence, NONE, count=12),
        Case("context 12x128x128x64", heads, (12, 128, 128), sequence, NONE, count=12),
    ]


def squares() -> list[Case]:
    cases = [matmul(f"sgemm {n}", n, n, n, weights=NONE) for n in (64, 128, 256, 512, 1024, 2048)]
    cases += [matmul(f"sgemm {n} packed", n, n, n) for n in (256, 512, 1024, 2048)]
    return [*cases, matmul("sgemm 1000x999x1001", 1000, 999, 1001, weights=NONE)]


def vectors() -> list[Case]:
    return [
        matmul("gemv 768x3072", 1, 768, 3072),
        matmul("gemv 768x50257", 1, 768, 50257),
        matmul("gemv 4096x4096", 1, 4096, 4096),
        matmul("m=4 768x3072", 4, 768, 3072),
        matmul("m=7 768x3072", 7, 768, 3072),
        matmul("m=16 768x3072", 16, 768, 3072),
        Case("matrix-vector 4096x4096", "m k, k -> m", (4096, 4096), (4096,), NONE),
        Case("gemv direct 768x3072", "k, k n -> n", (768,), (768, 3072), NONE),
    ]


def depthwise() -> list[Case]:
    """The depthwise layers of MobileNetV2: (size, channels, stride, count)."""
    layers = [
        *((112, 32, 1, 1), (112, 96, 2, 1), (56, 144, 1, 1), (56, 144, 2, 1), (28, 192, 1, 2)),
        *((28, 192, 2, 1), (14, 384, 1, 4), (14, 576, 1, 2), (14, 576, 2, 1), (7, 960, 1, 3)),
    ]
    return [conv(f"dw 3x3/{s} {c} @{size}", size, c, c, 3, s, n, groups=c) for size, c, s, n in layers]


def gradients() -> list[Case]:
    def weight_gradient(name: str, n: int, size: int, c: int, k: int, kernel: int = 3) -> Case:
        padded = size + kernel - 1
        return Case(name, "n h+r w+s c, n h w k -> r s c k", (n, padded, padded, c), (n, size, size, k), NONE)

    return [
        weight_gradient("dW 3x3 64 @56 n8", 8, 56, 64, 64),
        weight_gradient("dW 3x3 128 @28 n8", 8, 28, 128, 128),
        weight_gradient("dW 3x3 512 @7 n8", 8, 7, 512, 512),
        weight_gradient("dW 1x1 256->64 @56 n8", 8, 56, 256, 64, 1),
        weight_gradient("dW 3x3 3->32 @32 n32", 32, 32, 3, 32),
        Case("dW fc 64x784x512", "b k, b n -> k n", (64, 784), (64, 512), NONE),
        Case("dX fc 64x512x784", "b n, k n -> b k", (64, 512), (784, 512), NONE),
        Case("dW fc 1024x768x3072", "b k, b n -> k n", (1024, 768), (1024, 3072), NONE),
        Case("dX fc 1024x3072x768", "b n, k n -> b k", (1024, 3072), (768, 3072), NONE),
        Case("fwd fc 1024x768x3072", "b k, k n -> b n", (1024, 768), (768, 3072), NONE),
    ]


GROUPS: dict[str, Callable[[], list[Case]]] = {
    "square": squares,
    "resnet50": resnet50,
    "bert": bert,
    "vector": vectors,
    "depthwise": depthwise,
    "gradient": gradients,
}
