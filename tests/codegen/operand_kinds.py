"""Kinds of operands that tell careful summation from careless."""

from __future__ import annotations

import numpy as np


def fill(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return an array [images, height, width, channels] of a kind, whose amount may follow it."""
    x = rng.standard_normal(shape)
    kind, _, amount = kind.partition(" ")
    match kind:
        case "positive":
            return np.abs(x)
        case "relu":
            return np.maximum(x - float(amount or 0), 0)
        case "sparse":
            return x * (rng.random(shape) < float(amount))
        case "wide":
            return x * 2.0 ** rng.integers(-int(amount), int(amount) + 1, shape)
        case "heavy":
            return rng.standard_t(float(amount), shape)
        case "scaled":
            return x * float(amount)
        case "pixel":
            x[0, 2, 2] *= float(amount)
        case "plane":
            x[..., 3] *= float(amount)
        case "one":
            x = np.zeros(shape)
            x.reshape(-1, shape[-1])[::7, 2] = 1.0
        case "constant":
            return np.broadcast_to(x[:1, :1, :1], shape)
        case "smooth":
            return np.cumsum(np.cumsum(x, 1), 2)
        case "partly":
            x[:, : shape[1] // 2] = 0
            x[:, 1, 2, 1] = 3.0
        case "subnormal":
            x.flat[::7] *= 1e-40
    return x
