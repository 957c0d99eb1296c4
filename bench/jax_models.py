"""Models of the suite as JAX functions of dlc's weights by name: ``model(weights, statistics, inputs, training)``.

Written as JAX users write them: pure functions, ``jax.nn``, ``lax.conv_general_dilated``, ``lax.scan``. Each gives
the logits and the batch norms' running statistics. They must not know how they are run or measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Arrays = Mapping[str, jax.Array]


class Scope:
    """Weights and running statistics by name, and the statistics that a training step leaves behind."""

    def __init__(self, weights: Arrays, statistics: Arrays, training: bool) -> None:
        self.weights, self.statistics, self.training = weights, dict(statistics), training

    def linear(self, name: str, x: jax.Array) -> jax.Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def conv(self, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
        weight = self.weights[f"{name}.weight"]
        pads = [((extent - 1) // 2,) * 2 for extent in weight.shape[2:]]
        return lax.conv_general_dilated(x, weight, (stride, stride), pads, dimension_numbers=("NCHW", "OIHW", "NCHW"))

    def batch_norm(self, name: str, x: jax.Array, momentum: float = 0.1, epsilon: float = 1e-5) -> jax.Array:
        mean, variance = self.statistics[f"{name}.running_mean"], self.statistics[f"{name}.running_var"]
        if self.training:
            count = x.size // x.shape[1]
            old = mean, variance
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.statistics[f"{name}.running_mean"] = (1 - momentum) * old[0] + momentum * mean
            unbiased = variance * count / (count - 1)
            self.statistics[f"{name}.running_var"] = (1 - momentum) * old[1] + momentum * unbiased
        scale = self.weights[f"{name}.weight"] * lax.rsqrt(variance + epsilon)
        shift = self.weights[f"{name}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def layer_norm(self, name: str, x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        normal = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
        return normal * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def conv1d(self, name: str, x: jax.Array) -> jax.Array:
        """GPT-2's linear layer, its weight (in, out)."""
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def max_pool(x: jax.Array, size: int, stride: int, pad: int = 0) -> jax.Array:
    pads = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, size, size), (1, 1, stride, stride), pads)


def mlp(scope: Scope, x: jax.Array) -> jax.Array:
    return scope.linear("4", jax.nn.relu(scope.linear("2", jax.nn.relu(scope.linear("0", x)))))


def cnn(scope: Scope, x: jax.Array) -> jax.Array:
    for layer in (0, 4, 8):
        x = max_pool(jax.nn.relu(scope.batch_norm(str(layer + 1), scope.conv(str(layer), x))), 2, 2)
    return scope.linear("13", x.reshape(len(x), -1))


def _block(scope: Scope, name: str, x: jax.Array, convolutions: int, strided: int, stride: int) -> jax.Array:
    y = x
    for number in range(1, convolutions + 1):
        y = scope.conv(f"{name}.conv{number}", y, stride if number == strided else 1)
        y = scope.batch_norm(f"{name}.bn{number}", y)
        y = jax.nn.relu(y) if number < convolutions else y
    if f"{name}.downsample.0.weight" in scope.weights:
        x = scope.batch_norm(f"{name}.downsample.1", scope.conv(f"{name}.downsample.0", x, stride))
    return jax.nn.relu(x + y)


def _resnet(scope: Scope, x: jax.Array, depths: tuple[int, ...], convolutions: int, strided: int) -> jax.Array:
    x = max_pool(jax.nn.relu(scope.batch_norm("bn1", scope.conv("conv1", x, 2))), 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for position in range(depth):
            stride = 2 if stage > 1 and position == 0 else 1
            x = _block(scope, f"layer{stage}.{position}", x, convolutions, strided, stride)
    return scope.linear("fc", x.mean((2, 3)))


def resnet18(scope: Scope, x: jax.Array) -> jax.Array:
    return _resnet(scope, x, (2, 2, 2, 2), 2, 1)


def resnet50(scope: Scope, x: jax.Array) -> jax.Array:
    return _resnet(scope, x, (3, 4, 6, 3), 3, 2)


def _gpt(scope: Scope, ids: jax.Array, layers: int, heads: int) -> jax.Array:
    table = scope.weights["transformer.wte.weight"]
    batch, length = ids.shape
    x = table[ids] + scope.weights["transformer.wpe.weight"][:length]
    seen = jnp.tril(jnp.ones((length, length), bool))
    for layer in range(layers):
        name = f"transformer.h.{layer}"
        qkv = scope.conv1d(f"{name}.attn.c_attn", scope.layer_norm(f"{name}.ln_1", x))
        q, k, v = (part.reshape(batch, length, heads, -1) for part in jnp.split(qkv, 3, -1))
        scores = jnp.einsum("bshd,bthd->bhst", q, k) / math.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        attended = jnp.einsum("bhst,bthd->bshd", weights, v).reshape(batch, length, -1)
        x = x + scope.conv1d(f"{name}.attn.c_proj", attended)
        wide = jax.nn.gelu(scope.conv1d(f"{name}.mlp.c_fc", scope.layer_norm(f"{name}.ln_2", x)), approximate=True)
        x = x + scope.conv1d(f"{name}.mlp.c_proj", wide)
    return scope.layer_norm("transformer.ln_f", x) @ table.T


def gpt2(scope: Scope, ids: jax.Array) -> jax.Array:
    return _gpt(scope, ids, 12, 12)


def gpt_4x256(scope: Scope, ids: jax.Array) -> jax.Array:
    return _gpt(scope, ids, 4, 4)


def lstm(scope: Scope, x: jax.Array) -> jax.Array:
    layer = 0
    while f"lstm.weight_ih_l{layer}" in scope.weights:
        weights = scope.weights
        recurrent = weights[f"lstm.weight_hh_l{layer}"].T
        bias = weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"]
        projected = jnp.swapaxes(x @ weights[f"lstm.weight_ih_l{layer}"].T + bias, 0, 1)

        def advance(carry: tuple[jax.Array, jax.Array], gates: jax.Array, recurrent: jax.Array = recurrent) -> Any:
            hidden, cell = carry
            i, f, g, o = jnp.split(gates + hidden @ recurrent, 4, -1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (hidden, cell), hidden

        zero = jnp.zeros((x.shape[0], recurrent.shape[0]), x.dtype)
        x = jnp.swapaxes(lax.scan(advance, (zero, zero), projected)[1], 0, 1)
        layer += 1
    return scope.linear("fc", x[:, -1])


MODELS: dict[str, Callable[[Scope, jax.Array], jax.Array]] = {
    function.__name__: function for function in (mlp, cnn, resnet18, resnet50, gpt2, gpt_4x256, lstm)
}


def forward(name: str, weights: Arrays, statistics: Arrays, x: jax.Array, training: bool) -> tuple[jax.Array, Arrays]:
    """Return the logits of the model ``name`` and its running statistics after this batch."""
    scope = Scope(weights, statistics, training)
    return MODELS[name](scope, x), scope.statistics
