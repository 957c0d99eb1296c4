"""Samples of elementwise ops and activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.types import bool_, float32, float64, int8, int32, int64, uint8
from tests.ir.ops.samples import SHAPES, Draw, Sample, both, sampler

# Where functions are defined: first operand, second operand.
_DOMAINS: dict[str, tuple[tuple[float, float], ...]] = {
    "log": ((0.05, 20.0),),
    "log1p": ((-0.9, 20.0),),
    "sqrt": ((0.05, 20.0),),
    "rsqrt": ((0.05, 20.0),),
    "asin": ((-0.95, 0.95),),
    "acos": ((-0.95, 0.95),),
    "atanh": ((-0.95, 0.95),),
    "acosh": ((1.05, 20.0),),
    "tan": ((-1.4, 1.4),),
    "reciprocal": ((0.1, 5.0),),
    "pow": ((0.1, 3.0), (-2.0, 2.0)),
    "div": ((-5.0, 5.0), (0.2, 4.0)),
    "floor_div": ((-9.0, 9.0), (0.7, 3.0)),
    "floor_mod": ((-9.0, 9.0), (0.7, 3.0)),
    "trunc_mod": ((-9.0, 9.0), (0.7, 3.0)),
}
_SHIFTS = {"shift_left", "shift_right"}


@sampler(*SCALAR_OPS)
def scalar(name: str, draw: Draw) -> Iterator[Sample]:
    entry = SCALAR_OPS[name]
    ranges = _DOMAINS.get(name, ((-4.0, 4.0), (-4.0, 4.0)))
    if "float" in entry.domain:
        for shape in SHAPES:
            yield from both(name, *(draw.uniform(*ranges[k], *shape) for k in range(entry.arity)))
        if name in ("is_nan", "is_inf", "maximum", "minimum", "equal", "not_equal", "sign", "abs"):
            special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5], np.float32)
            yield Sample(name, (special, special[::-1].copy())[: entry.arity], differentiable=())
        if name == "flush_subnormal":
            small = np.array([1e-40, -1e-40, 2.0**-126, -(2.0**-126), np.nan, -np.inf, 3.0], np.float32)
            yield Sample(name, (small,), differentiable=())
    if "int" in entry.domain:
        for dtype in (np.int32, np.int64, np.uint8, np.int8):
            low = 0 if dtype is np.uint8 else -100
            arrays = [draw.integers(low, 100, 5, 7, dtype=dtype) for _ in range(entry.arity)]
            if name in _SHIFTS:
                arrays[1] = draw.integers(0, 9, 5, 7, dtype=dtype)
                arrays[1][0] = low, 31, 32, 63, 64, 99, 1  # all bits go out, the sign stays
            if name == "pow":
                arrays = [draw.integers(max(low, -3), 4, 5, 7, dtype=dtype), draw.integers(0, 4, 5, 7, dtype=dtype)]
            yield Sample(name, tuple(arrays))
    if "bool" in entry.domain:
        yield Sample(name, tuple(draw.bools(3, 5) for _ in range(entry.arity)))


@sampler("where")
def where(name: str, draw: Draw) -> Iterator[Sample]:
    for shape in SHAPES:
        yield from both(name, draw.bools(*shape), draw.normal(*shape), draw.normal(*shape))
    yield Sample(name, (draw.bools(9), draw.integers(-9, 9, 9), draw.integers(-9, 9, 9)))
    yield Sample(name, (draw.bools(9), draw.bools(9), draw.bools(9)))


@sampler("cast")
def cast(name: str, draw: Draw) -> Iterator[Sample]:
    x = draw.normal(3, 5, scale=100.0)
    for dtype in (float32, float64, int8, uint8, int32, int64, bool_):
        yield Sample(name, (x,), {"dtype": dtype})
        yield Sample(name, (draw.integers(-500, 500, 7),), {"dtype": dtype})
        yield Sample(name, (draw.bools(7),), {"dtype": dtype})
    odd = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 1e30, 0.9, -0.9, 255.5, 256.0], np.float32)
    for dtype in (int8, uint8, int32, int64):
        yield Sample(name, (odd,), {"dtype": dtype})
    yield Sample(name, (draw.normal(dtype=np.float64),), {"dtype": float32})
    yield Sample(name, (draw.normal(3, 4, dtype=np.float64),), {"dtype": float64})


_PLAIN = [
    "relu", "leaky_relu", "thresholded_relu", "elu", "celu", "selu", "gelu", "silu", "softsign", "softplus",
    "log_sigmoid", "mish", "hard_sigmoid", "hard_swish", "hard_tanh",
]  # fmt: skip
_ACTIVATION_ATTRIBUTES = {
    "leaky_relu": {"alpha": 0.2},
    "thresholded_relu": {"alpha": 0.4},
    "elu": {"alpha": 1.7},
    "celu": {"alpha": 0.6},
    "gelu": {"approximate": "tanh"},
    "softplus": {"beta": 2.5, "threshold": 4.0},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "hard_tanh": {"low": -0.5, "high": 2.0},
}


@sampler(*_PLAIN)
def activation(name: str, draw: Draw) -> Iterator[Sample]:
    for shape in ((), (0,), (3, 17)):
        yield from both(name, draw.normal(*shape, scale=3.0))
    yield from both(name, draw.normal(4, 5, scale=500.0))
    if name in _ACTIVATION_ATTRIBUTES:
        yield from both(name, draw.normal(4, 5, scale=3.0), **_ACTIVATION_ATTRIBUTES[name])
    if name == "relu":
        yield Sample(name, (draw.integers(-9, 9, 4, 5),))


@sampler("prelu")
def prelu(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(2, 3, 5), draw.normal(3, 1))
    yield from both(name, draw.normal(2, 3, 5), draw.normal(2, 3, 5))
    yield from both(name, draw.normal(7), draw.normal())


@sampler("clamp")
def clamp(name: str, draw: Draw) -> Iterator[Sample]:
    yield from both(name, draw.normal(3, 7), low=-0.5, high=0.75)
    yield from both(name, draw.normal(3, 7), low=-0.5)
    yield from both(name, draw.normal(), high=0.1)
    yield Sample(name, (draw.integers(-9, 9, 11, dtype=np.int32),), {"low": -2, "high": 3})
